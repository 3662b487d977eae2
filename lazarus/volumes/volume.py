"""One volume: the face of this room. See `lazarus.volumes` for its life and its directory."""

from __future__ import annotations

import fcntl
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from lazarus.content import limited
from lazarus.errors import ConflictError, LazarusError, NotFoundError
from lazarus.terms import Json, Progress, ViewChange
from lazarus.volumes.locks import held

if TYPE_CHECKING:
    from lazarus.registry.settings import Settings
    from lazarus.store import Store
    from lazarus.volumes.artifact.push import Pushed
    from lazarus.volumes.hooks import Hook
    from lazarus.volumes.retention import Decision, Policy
    from lazarus.volumes.snapshot import Cloned, Cost, Snapshot


class Volume:
    """A volume of a store.

    Attributes: `name`, `created` (seconds since 1970), `labels`, `anonymous` (it was given no name), `path` (the
    directory that containers see, unless it has a limit: see `opened`), `directory` (what that lies in). The object
    holds no state of its own.
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

    @property
    def limit(self) -> int | None:
        """The bytes that it takes at most, its snapshots among them; None without a limit."""
        return limited.limit(self.directory)

    def check_limit(self, size: int | None) -> None:
        """`ConflictError` when somebody wants another limit than it has. None: any will do."""
        if size is not None and (limit := self.limit) != limited.whole(size):
            has = "no limit" if limit is None else f"a limit of {limit} bytes"
            raise ConflictError(f"volume {self.name}: there is one already, with {has}, not {size} bytes")

    @property
    def mountpoint(self) -> str:
        """Where it is seen on the host: its path, and "" when it has a limit."""
        return self.path if self.limit is None else ""

    def inspect(self) -> Json:
        """Everything about it, in docker's words where docker has some. What is used of a limit only root can say."""
        from lazarus.runtime.log import timestamp

        limit = self.limit
        return {
            "Name": self.name,
            "Driver": "local",
            "Mountpoint": self.path if limit is None else "",
            "CreatedAt": timestamp(int(self.created * 1e9)),
            "Labels": dict(self.labels),
            "Scope": "local",
            "Options": {} if limit is None else {"size": str(limit)},
            **({} if limit is None else {"UsageData": self._usage(limit)}),
            "Anonymous": self.anonymous,
            "UsedBy": list(self.users),
            "Snapshots": [snapshot.name for snapshot in self.snapshots],
        }

    def _usage(self, limit: int) -> Json:
        from lazarus.volumes.trees import reached

        with suppress(LazarusError, OSError), reached(self.store, self.name) as trees:
            used, free = trees.usage()
            return {"Limit": limit, "Size": used, "Free": free}
        return {"Limit": limit}

    def remove(self) -> None:
        """Removes it, all that is in it, and its snapshots. `ConflictError` names the containers that use it."""
        self.store.volumes.remove(self.name)

    # -- what it was --

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """Its snapshots, the oldest first."""
        from lazarus.volumes.snapshot import Snapshot

        rows = self.store.catalogue.read().execute(
            "SELECT * FROM snapshots WHERE volume=? ORDER BY created, name", (self.name,)
        )
        return tuple(Snapshot.of(self.store, row) for row in rows)

    def get_snapshot(self, name: str) -> Snapshot:
        """The snapshot of that name. `NotFoundError`."""
        from lazarus.volumes.snapshot import get

        return get(self.store, self.name, name)

    def snapshot(
        self,
        name: str | None = None,
        *,
        before: Hook | None = None,
        after: Hook | None = None,
        hook_timeout: float = 60,
        freeze: bool = True,
    ) -> Snapshot:
        """Keeps what it is now, under a name (default: the time): a clone of each file where the file system can, else
        a copy; `cost` says which. On disk when this returns.

        It is of one point in time: running containers that name the volume are frozen until its files are cloned,
        unless `freeze` is False. What a process has in memory only is not in it: a database recovers from a snapshot as
        from a power cut, or is told to write everything in `before`, and to go on in `after` (see hooks.py; both may
        use the containers). When `before` fails nothing is taken; `after` is called whatever happened.

        Raises `ConflictError` (the name is taken), `FormatError`, `HookError`, `ContainerRuntimeError` (a container
        does not stand still), `OSError`. Waits for copies from and to it that are under way.
        """
        from lazarus.volumes.hooks import Hooks
        from lazarus.volumes.snapshot import take

        return take(self, name, Hooks(before, after, hook_timeout), freeze)

    def rollback(self, snapshot: str, *, keep: str | None = None) -> Cost:
        """Makes it what it was when the snapshot was taken, which stays; what it is now is gone, or becomes the
        snapshot `keep`. One exchange of names: killed at any moment it is the one or the other.

        Raises `ConflictError` when a container runs on it or its files are being copied, `NotFoundError`, `OSError`.
        """
        from lazarus.volumes.snapshot import rollback

        return rollback(self, snapshot, keep)

    def clone(
        self, name: str, *, snapshot: str | None = None, labels: Mapping[str, str] | None = None, freeze: bool = True
    ) -> Cloned:
        """A new volume that begins with what this one is, or was in a snapshot; with its labels, and `labels`. As
        `snapshot()`, but for hooks. Raises `ConflictError` when the name is taken."""
        from lazarus.volumes.snapshot import clone

        return clone(self, name, snapshot, {**self.labels, **(labels or {})}, freeze)

    def diff(self, before: str, after: str | None = None, *, checksum: bool = False) -> Iterator[ViewChange]:
        """What became of each path between two snapshots, or between one and now (`after` None); see difference.py."""
        from lazarus.volumes.difference import diff

        return diff(self, before, after, checksum)

    def forget(self, policy: Policy, *, dry_run: bool = False) -> list[Decision]:
        """Removes the snapshots that a policy does not keep (see retention.py) and no container mounts, and says what
        it decided of each, the oldest first. A dry run changes nothing. Raises `FormatError` for a policy that keeps
        nothing at all."""
        from lazarus.volumes.retention import decide
        from lazarus.volumes.snapshot import remove

        decisions = [
            found if found.reasons or not found.snapshot.users else found._replace(reasons=("in use",))
            for found in decide(self.snapshots, policy)
        ]
        if not dry_run:
            remove(self.store, self.name, [found.snapshot.name for found in decisions if not found.reasons])
        return decisions

    # -- its files --

    def copy_in(self, source: str | IO[bytes] | int, target: str = "/", *, archive: bool = False) -> None:
        """Copies a file or tree of the host (or a tar stream) to `target` in it: docker's rules, see
        `lazarus/union/copy.py`. Containers may use it meanwhile. What was copied before a failure stays, half a file
        excepted."""
        from lazarus.volumes.files import copy_in

        copy_in(self, source, target, archive=archive)

    def copy_out(
        self, source: str, target: str | IO[bytes] | int, *, snapshot: str | None = None, archive: bool = False
    ) -> None:
        """Copies a file or tree of it, or of a snapshot, to the host (or as a tar stream): docker's rules, see
        `lazarus/union/copy.py`."""
        from lazarus.volumes.files import copy_out

        copy_out(self, source, target, snapshot=snapshot, archive=archive)

    def export(self, out: int | IO[bytes], *, snapshot: str | None = None) -> int:
        """Writes all its files, or a snapshot's, as one plain tar; the number of bytes. Files that change meanwhile may
        come torn, but for those of a snapshot."""
        from lazarus.volumes.files import export

        return export(self, out if isinstance(out, int) else out.fileno(), snapshot)

    def import_(self, source: int | IO[bytes]) -> int:
        """Adds what a tar holds (plain, gzip or zstd) to what is there, with owners where the caller is root; the
        number of its entries. Files in the way are replaced, directories stay.

        Raises `UnsafeError` for a path that leads out of the volume, `ConflictError` where a directory and a file meet,
        `FormatError`, `OSError`. What was made before a failure stays; of a file that did not come whole nothing does,
        and what it was to replace stays, but for an empty directory. A signal whose handler raises (Ctrl-C) is such a
        failure, also while `source` has nothing to read. A process that is killed (SIGKILL) may leave half of a new
        file, or of one that replaces another as `.lz-partial-*`.
        """
        from lazarus.volumes.files import import_

        return import_(self, source if isinstance(source, int) else source.fileno())

    def push(
        self,
        destination: str,
        *,
        snapshot: str | None = None,
        registry: Settings | None = None,
        progress: Progress | None = None,
    ) -> Pushed:
        """Writes it, or a snapshot of it, as an OCI artifact of chunks to `oci:DIRECTORY[:TAG]`, `docker://REF` or
        HOST/REPOSITORY[:TAG] (a registry, spoken to as `registry` says), or `oci-archive:FILE[:TAG]`; to all but the
        last only those chunks that no volume there has.
        See `lazarus/volumes/artifact` for the format.

        Containers may use it meanwhile; files that change then may come torn, but for those of a snapshot. Raises
        `FormatError`, `UnsupportedError`, `NotFoundError`, `ConflictError` (a directory that is no layout),
        `RegistryError`, `OSError`; what had the tag keeps it then.
        """
        from lazarus.volumes.artifact.manifest import parse_volume_place
        from lazarus.volumes.files import push

        return push(self, parse_volume_place(destination), snapshot, progress, registry)

    # -- for this room, and for containers --

    def sync(self) -> None:
        """Has its directory on disk, if it is still there; not what is in it. With a limit it was from the beginning,
        but for its name."""
        from lazarus.content.pool_disk import fsync_directory

        for directory in (self.path, self.directory, self.store.paths.volumes):
            with suppress(FileNotFoundError):
                fsync_directory(directory)

    @contextmanager
    def lock(self, how: int) -> Iterator[None]:
        """Holds its directory (fcntl.LOCK_*), and the room where it is. Waits, unless LOCK_NB: `ConflictError`.
        `NotFoundError` when the volume has been removed. Any death releases it."""
        with held(self.store, self.directory, how, f"volume {self.name}"):
            yield

    @contextmanager
    def opened(self, how: int = fcntl.LOCK_SH) -> Iterator[str]:
        """As `lock`; the path of its files, which leads there inside the `with` and in this process alone. Raises
        `StoreError` when it has a limit, without root, too."""
        from lazarus.volumes.trees import reached

        with self.lock(how), reached(self.store, self.name) as trees:
            yield trees.data
