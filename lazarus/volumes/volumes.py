"""The volumes of a store: making, finding and removing them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from lazarus.errors import ConflictError, FormatError, NotFoundError
from lazarus.volumes.locks import nobody_in
from lazarus.volumes.making import NewVolumes
from lazarus.volumes.names import check_name, is_name, random_name
from lazarus.volumes.volume import Volume

if TYPE_CHECKING:
    from lazarus.registry.settings import Settings
    from lazarus.store import Store
    from lazarus.terms import Progress
    from lazarus.volumes.artifact.pull import Pulled

_BATCH = 100  # volumes that a prune removes at once: each is locked meanwhile, with two descriptors
_FILTERS = ("name", "label", "label!", "dangling")


class PrunedVolumes(NamedTuple):
    """The names of volumes that a prune removed, and the bytes on disk that this gave back."""

    names: tuple[str, ...]
    bytes: int


class Volumes:
    """`store.volumes`. No call here needs root; mounting them does."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def create(
        self,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        *,
        size: int | None = None,
        exist_ok: bool = False,
    ) -> Volume:
        """An empty volume; without a name it gets 64 hex digits, and counts as anonymous. With a `size` it takes at
        most so many bytes, its snapshots and XFS's own tens of MiB among them; that needs root, and XFS.

        It is on disk when this returns (a few milliseconds; 0.1 s with a size). Raises `FormatError` (name),
        `ConflictError` when the name is taken, unless `exist_ok`: then that volume, as it is (and when it has another
        size); `LimitError` (less than 300 MiB), `UnsupportedError`, `StoreError` (not root).
        """
        chosen = check_name(name) if name is not None else random_name()
        if exist_ok and (found := self.find(chosen)) is not None:
            found.check_limit(size)
            return found
        with self.making() as new:
            new.stage(chosen, labels or {}, anonymous=name is None, size=size)
            with self.store.catalogue.write() as connection:
                if connection.execute("SELECT 1 FROM volumes WHERE name=?", (chosen,)).fetchone() is None:
                    new.place(connection)
                elif not exist_ok:
                    raise ConflictError(f"volume {chosen}: there is one already")
        found = self.get(chosen)
        found.check_limit(size)  # another process may have made it meanwhile
        return found

    def pull(
        self,
        source: str,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        *,
        size: int | None = None,
        registry: Settings | None = None,
        progress: Progress | None = None,
    ) -> Pulled:
        """A new volume from what `Volume.push` wrote to `docker://REF` or HOST/REPOSITORY[:TAG] (a registry, spoken to
        as `registry` says), `oci:DIRECTORY[:TAG]` or `oci-archive:FILE[:TAG]`; in those two, without a tag, there must
        be one volume. Name and labels are those that it was pushed with, unless given; `size` as for `create`. Owners,
        and xattrs of the system, need root.

        Everything is checked, and on disk when this returns. Raises `ConflictError` (the name is taken),
        `NotFoundError`, `FormatError`, `UnsafeError`, `LimitError`, `CorruptError`, `UnsupportedError`, `OSError`, and
        leaves nothing then.
        """
        from lazarus.volumes.artifact.manifest import parse_volume_place
        from lazarus.volumes.artifact.pull import pull

        return pull(self.store, parse_volume_place(source), name, labels, size, progress, registry)

    @contextmanager
    def making(self) -> Iterator[NewVolumes]:
        """For who makes volumes together with something else. `OSError` when the disk is full."""
        self.store.content.reserve.check()
        with self.store.content.lease("volume") as lease:
            new = NewVolumes(self.store.paths, lease)
            try:
                yield new
            finally:
                new.close()

    def find(self, name: str) -> Volume | None:
        """The volume of that name, or None."""
        if not is_name(name):
            return None
        row = self.store.catalogue.read().execute("SELECT * FROM volumes WHERE name=?", (name,)).fetchone()
        return None if row is None else Volume.of(self.store, row)

    def get(self, name: str) -> Volume:
        """The volume of that name. `NotFoundError`."""
        found = self.find(name)
        if found is None:
            raise NotFoundError(f"volume {name!r:.140}: not in this store")
        return found

    def list(self, filters: Iterable[str] = ()) -> list[Volume]:
        """All of them, or those that match, by name.

        Filters are `name=PART`, `label=KEY[=VALUE]`, `label!=KEY[=VALUE]` and `dangling=true|false` (does no container
        name it?); names are alternatives, labels conditions, as in docker. Raises `FormatError` for others.
        """
        wanted = _read_filters(filters)
        rows = self.store.catalogue.read()
        used = {row[0] for row in rows.execute("SELECT volume FROM container_volumes")}
        found = [Volume.of(self.store, row) for row in rows.execute("SELECT * FROM volumes ORDER BY name")]
        return [volume for volume in found if _matches(volume, wanted, volume.name not in used)]

    def remove(self, name: str, *, missing_ok: bool = False) -> None:
        """Removes a volume and all that is in it. `ConflictError` names the containers that use it, or says that its
        files are being copied; `NotFoundError`, unless `missing_ok`."""
        volume = self.find(name) if missing_ok else self.get(name)
        if volume is None:
            return

        def delete(connection: sqlite3.Connection) -> list[str]:
            if users := volume.users:
                names = ", ".join(users[:5]) + (", ..." if len(users) > 5 else "")
                raise ConflictError(f"volume {name}: in use by container {names}; remove that first")
            gone = connection.execute("DELETE FROM volumes WHERE name=?", (name,)).rowcount
            if gone == 0 and not missing_ok:
                raise NotFoundError(f"volume {name!r:.140}: not in this store")
            return [name] * gone

        with self.nobody_in(name):
            self.discard(delete)

    @contextmanager
    def nobody_in(self, name: str) -> Iterator[None]:
        """Inside the `with` nobody copies from or to a volume, nor from its snapshots: they can be removed.
        `ConflictError`, for nobody is waited for."""
        volume = Volume(self.store, name, 0, {})
        with nobody_in(self.store, {volume.directory: f"volume {name}"}):
            snapshots = {snapshot.directory: f"snapshot {snapshot}" for snapshot in volume.snapshots}
            with nobody_in(self.store, snapshots):
                yield

    def prune(
        self, *, all: bool = False, filters: Iterable[str] = (), dry_run: bool = False, gone: Iterable[str] = ()
    ) -> PrunedVolumes:
        """Removes the anonymous volumes, or all, that no container names; filters as in `list`.

        A dry run changes nothing, and says what the same call would do without it, and without the containers whose IDs
        are in `gone`.
        """
        ids = set(gone)
        wanted = _read_filters(filters)
        if "name" in wanted or "dangling" in wanted:
            raise FormatError("filter: a prune takes label=... and label!=...")

        def unused(connection: sqlite3.Connection) -> list[str]:
            users = connection.execute("SELECT container_id, volume FROM container_volumes").fetchall()
            used = {volume for container, volume in users if container not in ids}
            volumes = [Volume.of(self.store, row) for row in connection.execute("SELECT * FROM volumes ORDER BY name")]
            return [
                volume.name
                for volume in volumes
                if volume.name not in used and (all or volume.anonymous) and _matches(volume, wanted, True)
            ]

        names = unused(self.store.catalogue.read())
        if dry_run:
            return PrunedVolumes(tuple(names), sum(self.size(name) for name in names))
        done = [self._prune(names[at : at + _BATCH], unused) for at in range(0, len(names), _BATCH)]
        return PrunedVolumes(tuple(name for part in done for name in part.names), sum(part.bytes for part in done))

    def _prune(self, names: Sequence[str], unused: Callable[[sqlite3.Connection], Sequence[str]]) -> PrunedVolumes:
        """Those of them that nobody copies from or to, and that are still unused."""
        free: set[str] = set()

        def delete(connection: sqlite3.Connection) -> list[str]:
            found = [name for name in unused(connection) if name in free]
            connection.executemany("DELETE FROM volumes WHERE name=?", [(name,) for name in found])
            return found

        with ExitStack() as locks:
            for name in names:
                with suppress(ConflictError):
                    locks.enter_context(self.nobody_in(name))
                    free.add(name)
            return self.discard(delete)

    def size(self, name: str) -> int:
        """What it takes of the disk, in bytes: a walk of everything in it."""
        from lazarus.content.usage import disk_usage

        with suppress(FileNotFoundError):
            return disk_usage(self.store.paths.volume(name)).allocated
        return 0

    def discard(self, delete: Callable[[sqlite3.Connection], Sequence[str]]) -> PrunedVolumes:
        """Has `delete` remove rows, durably, and returns the names of what is gone; then their directories go, to the
        trash first. Killed between the two, nothing is left but rubbish, which the next open takes.

        On a full disk the reserve makes room, and what the first directory gave back serves for the others.
        """
        from lazarus.content.collect import sweep

        gone: Sequence[str] | None = None

        def act() -> int:
            nonlocal gone
            with self.store.content.lease("volume") as lease:
                if gone is None:
                    with self.store.catalogue.write() as connection:
                        names = delete(connection)
                    gone = names
                return sweep(self.store.content, lease, objects=False).bytes if gone else 0

        freed = self.store.content.reserve.with_room(act)
        return PrunedVolumes(tuple(gone or ()), freed)

    def sweep(self) -> None:
        """Removes the directories of volumes whose rows somebody has deleted."""
        from lazarus.content.collect import sweep

        def act() -> None:
            with self.store.content.lease("volume") as lease:
                sweep(self.store.content, lease, objects=False)

        self.store.content.reserve.with_room(act)


def _read_filters(filters: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in filters:
        kind, separator, value = text.partition("=")
        if kind not in _FILTERS or not separator or (kind == "dangling" and value not in ("true", "false", "1", "0")):
            raise FormatError(f"filter {text!r:.100}: not one of name=, label=, label!=, dangling=true|false")
        found.setdefault(kind, []).append(value)
    return found


def _matches(volume: Volume, wanted: Mapping[str, list[str]], unused: bool) -> bool:
    def labelled(text: str) -> bool:
        key, separator, value = text.partition("=")
        return key in volume.labels and (not separator or volume.labels[key] == value)

    return (
        ("name" not in wanted or any(part in volume.name for part in wanted["name"]))
        and all(labelled(text) for text in wanted.get("label", ()))
        and not any(labelled(text) for text in wanted.get("label!", ()))
        and all((text in ("true", "1")) == unused for text in wanted.get("dangling", ()))
    )
