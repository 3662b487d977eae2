"""One volume: the face of this room. See `lazarus.volumes` for its life and its directory."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from lazarus.content import readers
from lazarus.errors import ConflictError, NotFoundError
from lazarus.terms import Json

if TYPE_CHECKING:
    from lazarus.store import Store


class Volume:
    """A volume of a store.

    Attributes: `name`, `created` (seconds since 1970), `labels`, `anonymous` (it was given no name), `path` (the
    directory that containers see), `directory` (what that lies in). The object holds no state of its own.
    """

    def __init__(
        self, store: Store, name: str, created: float, labels: Mapping[str, str], anonymous: bool = False
    ) -> None:
        self.store = store
        self.name = name
        self.created = created
        self.labels = labels
        self.anonymous = anonymous
        self.directory = store.paths.volume(name)
        self.path = f"{self.directory}/data"

    @classmethod
    def of(cls, store: Store, row: sqlite3.Row) -> Volume:
        """From its row."""
        return cls(store, row["name"], row["created"], json.loads(row["labels"]), bool(row["anonymous"]))

    def __repr__(self) -> str:
        return f"<Volume {self.name}>"

    @property
    def fresh(self) -> bool:
        """Has no container mounted it yet, and nobody copied into it? `NotFoundError` once it is removed."""
        row = self.store.catalogue.read().execute("SELECT fresh FROM volumes WHERE name=?", (self.name,)).fetchone()
        if row is None:
            raise NotFoundError(f"volume {self.name}: it has been removed")
        return bool(row["fresh"])

    @property
    def users(self) -> tuple[str, ...]:
        """The names of the containers that name it, running or not, sorted."""
        rows = self.store.catalogue.read().execute(
            "SELECT containers.name FROM container_volumes JOIN containers ON id = container_id"
            " WHERE volume=? ORDER BY containers.name",
            (self.name,),
        )
        return tuple(row[0] for row in rows)

    def inspect(self) -> Json:
        """Everything about it, in docker's words where docker has some."""
        from lazarus.runtime.log import timestamp

        return {
            "Name": self.name,
            "Driver": "local",
            "Mountpoint": self.path,
            "CreatedAt": timestamp(int(self.created * 1e9)),
            "Labels": dict(self.labels),
            "Scope": "local",
            "Options": {},
            "Anonymous": self.anonymous,
            "UsedBy": list(self.users),
        }

    def remove(self) -> None:
        """Removes it and all that is in it. `ConflictError` names the containers that use it."""
        self.store.volumes.remove(self.name)

    # -- its files --

    def copy_in(self, source: str | IO[bytes] | int, target: str = "/", *, archive: bool = False) -> None:
        """Copies a file or tree of the host (or a tar stream) to `target` in it: docker's rules, see
        `lazarus/union/copy.py`. Containers may use it meanwhile. What was copied before a failure stays."""
        from lazarus.volumes.files import copy_in

        copy_in(self, source, target, archive=archive)

    def copy_out(self, source: str, target: str | IO[bytes] | int, *, archive: bool = False) -> None:
        """Copies a file or tree of it to the host (or as a tar stream): docker's rules, see `lazarus/union/copy.py`."""
        from lazarus.volumes.files import copy_out

        copy_out(self, source, target, archive=archive)

    def export(self, out: int | IO[bytes]) -> int:
        """Writes all its files as one plain tar; the number of bytes. Files that change meanwhile may come torn."""
        from lazarus.volumes.files import export

        return export(self, out if isinstance(out, int) else out.fileno())

    def import_(self, source: int | IO[bytes]) -> int:
        """Adds what a tar holds (plain, gzip or zstd) to what is there, with owners where the caller is root; the
        number of its entries. Files in the way are replaced, directories stay.

        Raises `UnsafeError` for a path that leads out of the volume, `ConflictError` where a directory and a file meet,
        `FormatError`, `OSError`. What was made before a failure stays.
        """
        from lazarus.volumes.files import import_

        return import_(self, source if isinstance(source, int) else source.fileno())

    # -- for this room, and for containers --

    def sync(self) -> None:
        """Has its directory on disk, if it is still there; not what is in it."""
        from lazarus.content.pool_disk import fsync_directory

        with suppress(FileNotFoundError):
            for directory in (self.path, self.directory, self.store.paths.volumes):
                fsync_directory(directory)

    @contextmanager
    def lock(self, how: int) -> Iterator[None]:
        """Holds its directory (fcntl.LOCK_*), and the room where it is. Waits, unless LOCK_NB: `ConflictError`.
        `NotFoundError` when the volume has been removed. Any death releases it."""
        room = readers.hold(self.store.paths.volumes)
        try:
            fd = self._locked(how)
            try:
                yield
            finally:
                os.close(fd)
        finally:
            os.close(room)

    def _locked(self, how: int) -> int:
        while True:
            try:
                fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise NotFoundError(f"volume {self.name}: its directory is gone") from None
            try:
                fcntl.flock(fd, how)
                if os.path.samestat(os.stat(self.directory), os.fstat(fd)):
                    found, fd = fd, -1
                    return found
            except BlockingIOError:
                raise ConflictError(f"volume {self.name}: its files are being copied; try again") from None
            except FileNotFoundError:
                continue  # removed meanwhile: said in the next round
            finally:
                if fd >= 0:
                    os.close(fd)
