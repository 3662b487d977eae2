"""Snapshots of a volume: taking them, going back to them, and new volumes from them.

A snapshot is a tree of its own, snapshots/<volume>@<name>/data, in which each file is a clone (FICLONE) of the volume's
where the file system can: XFS, btrfs, a pool. So the volume stays a plain directory, a snapshot costs its names and not
its bytes, and neither can harm the other. On other file systems it is a copy. Those of a volume with a limit are always
clones, and lie in its own file system (see trees.py); a new volume from it gets one too, of that size, and a copy.

Trees are made in a lease's staging, are on disk (syncfs), and get their place together with the row: killed before that
a process leaves nothing, after it a whole snapshot. A rollback clones once more and exchanges two names.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple, Self

from lazarus.content import limited
from lazarus.content.pool_disk import fsync_directory
from lazarus.errors import ConflictError, NotFoundError
from lazarus.terms import Json
from lazarus.volumes.locks import held, nobody_in
from lazarus.volumes.mounts import VolumeMount
from lazarus.volumes.names import check_name, check_snapshot_name
from lazarus.volumes.trees import Trees, reached

if TYPE_CHECKING:
    from lazarus.content.lease import Lease
    from lazarus.store import Store
    from lazarus.volumes.hooks import Hooks
    from lazarus.volumes.volume import Volume


_PLACE = VolumeMount._fields.index("snapshot")  # of it, in the JSON of a container's settings


class Cost(NamedTuple):
    """What a copy of a tree came to: names in it, bytes whose blocks are shared now, and bytes that were written."""

    entries: int
    shared: int
    copied: int


class Cloned(NamedTuple):
    """A new volume, and what it cost."""

    volume: Volume
    cost: Cost


class Snapshot(NamedTuple):
    """A snapshot. `created` (seconds since 1970) is the moment that it shows; `fresh`: no container had mounted the
    volume by then; `path` is the directory with its files, unless the volume has a limit (see `reading`)."""

    store: Store
    volume: str
    name: str
    created: float
    fresh: bool
    cost: Cost

    @classmethod
    def of(cls, store: Store, row: sqlite3.Row) -> Self:
        """From its row."""
        cost = Cost(row["entries"], row["shared"], row["copied"])
        return cls(store, row["volume"], row["name"], row["created"], bool(row["fresh"]), cost)

    def __str__(self) -> str:
        return f"{self.volume}@{self.name}"

    @property
    def directory(self) -> str:
        """Its place in the store."""
        return self.store.paths.snapshot(self.volume, self.name)

    @property
    def path(self) -> str:
        """The directory with its files."""
        return f"{self.directory}/data"

    @property
    def users(self) -> tuple[str, ...]:
        """The names of the containers that mount it, running or not, sorted."""
        return _users(self.store.catalogue.read(), self)

    def inspect(self) -> Json:
        """Everything about it."""
        from lazarus.runtime.log import timestamp

        return {
            "Name": str(self),
            "Volume": self.volume,
            "Snapshot": self.name,
            "CreatedAt": timestamp(int(self.created * 1e9)),
            "Mountpoint": "" if limited.is_limited(self.store.paths.volume(self.volume)) else self.path,
            "UsedBy": list(self.users),
            "Entries": self.cost.entries,
            "SharedBytes": self.cost.shared,
            "CopiedBytes": self.cost.copied,
        }

    def remove(self) -> None:
        """Removes it. `ConflictError` while its files are being copied or compared, or a container mounts it, running
        or not; `NotFoundError`."""
        remove(self.store, self.volume, [self.name])

    @contextmanager
    def reading(self) -> Iterator[str]:
        """Inside the `with` it is not removed; the path of its files, as that of `Volume.opened`. `NotFoundError` when
        it is gone already."""
        with (
            held(self.store, self.directory, fcntl.LOCK_SH, f"snapshot {self}"),
            reached(self.store, self.volume) as trees,
        ):
            yield trees.snapshot(self.name)


def get(store: Store, volume: str, name: str) -> Snapshot:
    """See `Volume.get_snapshot`."""
    rows = store.catalogue.read()
    row = rows.execute("SELECT * FROM snapshots WHERE volume=? AND name=?", (volume, name)).fetchone()
    if row is None:
        raise NotFoundError(f"snapshot {volume}@{name:.80}: not in this store")
    return Snapshot.of(store, row)


def take(volume: Volume, name: str | None, hooks: Hooks, freeze: bool) -> Snapshot:
    """See `Volume.snapshot`."""
    store = volume.store
    chosen = _free_name(volume, name)
    store.content.reserve.check()
    facts = {"VOLUME": volume.name, "SNAPSHOT": chosen, "LAZARUS_ROOT": store.paths.root}
    with hooks.around(facts), store.content.lease("volume") as lease, reached(store, volume.name) as trees:
        with store.containers.at_rest(volume, "freeze" if freeze else "leave"):
            found, directory, tree = _stage(volume, chosen, lease, trees)
        while True:  # containers go on meanwhile
            try:
                return _publish(found, directory, tree, lease, trees, volume.created)
            except ConflictError:
                if name is not None:
                    raise
            found = found._replace(name=_free_name(volume, None))  # another one was taken in the same millisecond
            facts["SNAPSHOT"] = found.name


def _free_name(volume: Volume, name: str | None) -> str:
    taken = {found.name for found in volume.snapshots}
    if name is not None:
        if check_snapshot_name(name) in taken:
            raise ConflictError(f"snapshot {volume.name}@{name}: there is one already")
        return name
    now = time.time()
    while (chosen := _timed(now)) in taken:
        now += 0.001
    return chosen


def _timed(now: float) -> str:
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03}Z"


def _stage(volume: Volume, name: str, lease: Lease, trees: Trees) -> tuple[Snapshot, str, str]:
    """A copy of the volume, which is at rest: what it will be, its directory, and the tree."""
    created, fresh = time.time(), volume.fresh
    directory = lease.new_directory("snapshot")
    tree = trees.new(lease, directory)
    cost = _copy(trees.data, tree, trees)
    return Snapshot(volume.store, volume.name, name, created, fresh, cost), directory, tree


def _copy(source: str, target: str, trees: Trees) -> Cost:
    from lazarus._native.clone import clone_tree
    from lazarus._native.publish import remove_tree

    with trees.at_limit():
        remove_tree(target)  # the second time
        return Cost(*clone_tree(source, target))


def _publish(found: Snapshot, directory: str, tree: str, lease: Lease, trees: Trees, born: float) -> Snapshot:
    """On disk, and there for all. `ConflictError` when another process has taken the name meanwhile. `NotFoundError`
    when the volume has been removed, even if there is a new one of its name."""
    store = found.store
    trees.sync(lease)
    try:
        with store.catalogue.write() as connection:
            lease.check_row(connection)
            connection.execute(
                "INSERT INTO snapshots(volume, name, created, fresh, entries, shared, copied)"
                " SELECT name, ?, ?, ?, ?, ?, ? FROM volumes WHERE name=? AND created=?",
                (found.name, found.created, found.fresh, *found.cost, found.volume, born),
            )
            if connection.execute("SELECT changes()").fetchone()[0] == 0:
                raise NotFoundError(f"volume {found.volume}: it has been removed")
            if os.path.lexists(found.directory):  # left by somebody who died
                os.rename(found.directory, lease.new_path("rubbish"))
            trees.place(tree, found.name)
            os.rename(directory, found.directory)
            fsync_directory(store.paths.snapshots)
    except sqlite3.IntegrityError:
        raise ConflictError(f"snapshot {found}: there is one already") from None
    return found


def _users(connection: sqlite3.Connection, snapshot: Snapshot) -> tuple[str, ...]:
    rows = connection.execute(
        "SELECT DISTINCT containers.name FROM container_volumes JOIN containers ON containers.id = container_id,"
        " json_each(config, '$.volumes') WHERE container_volumes.volume = ?1 AND json_extract(value, '$[0]') = ?1"
        f" AND json_extract(value, '$[{_PLACE}]') = ?2 ORDER BY containers.name",
        (snapshot.volume, snapshot.name),
    )
    return tuple(row[0] for row in rows)


def remove(store: Store, volume: str, names: Iterable[str]) -> None:
    """Removes snapshots, all in one step: rows first, then their directories."""
    found = [get(store, volume, name) for name in names]
    if not found:
        return

    def delete(connection: sqlite3.Connection) -> list[str]:
        for snapshot in found:
            if users := _users(connection, snapshot):
                names = ", ".join(users[:5]) + (", ..." if len(users) > 5 else "")
                raise ConflictError(f"snapshot {snapshot}: in use by container {names}; remove that first")
            key = (volume, snapshot.name)
            if connection.execute("DELETE FROM snapshots WHERE volume=? AND name=?", key).rowcount == 0:
                raise NotFoundError(f"snapshot {snapshot}: not in this store")
        return [str(snapshot) for snapshot in found]

    with nobody_in(store, {snapshot.directory: f"snapshot {snapshot}" for snapshot in found}):
        store.volumes.discard(delete)
        if limited.is_limited(store.paths.volume(volume)):
            with reached(store, volume):  # which throws them away
                pass


def rollback(volume: Volume, name: str, keep: str | None) -> Cost:
    """See `Volume.rollback`."""
    store = volume.store
    found = volume.get_snapshot(name)
    kept = None if keep is None else _free_name(volume, keep)
    store.content.reserve.check()
    with (
        store.content.lease("volume") as lease,
        reached(store, volume.name) as trees,
        store.containers.at_rest(volume, "refuse"),
    ):
        if kept is not None:
            _publish(*_stage(volume, kept, lease, trees), lease, trees, volume.created)
        staged = trees.new(lease, lease.new_directory("volume"))
        with found.reading():
            cost = trees.with_room(lambda: _copy(trees.snapshot(name), staged, trees))
        trees.sync(lease)
        _exchange(volume, trees.data, staged, found.fresh, lease)
    return cost


def _exchange(volume: Volume, data: str, staged: str, fresh: bool, lease: Lease) -> None:
    """The volume gets the tree, and the lease, which throws it away, what it had: one step, the last of all. That it is
    in a transaction keeps others from taking the lease for a dead one's, and the row true when it cannot be written."""
    from lazarus._native.pool import exchange

    was, new = volume.fresh, os.stat(staged)
    try:
        with volume.store.catalogue.write() as connection:
            lease.check_row(connection)
            changed = connection.execute(
                "UPDATE volumes SET fresh=? WHERE name=? AND created=?", (fresh, volume.name, volume.created)
            )
            if changed.rowcount == 0:
                raise NotFoundError(f"volume {volume.name}: it has been removed")
            exchange(data, staged)
            fsync_directory(os.path.dirname(data))
    except BaseException:  # also an interrupt, at any moment
        if os.path.lexists(data) and os.path.samestat(os.stat(data), new):
            exchange(data, staged)
            fsync_directory(os.path.dirname(data))
            if volume.fresh != was:  # it came when the row had been written already
                with volume.store.catalogue.write() as connection:
                    connection.execute("UPDATE volumes SET fresh=? WHERE name=?", (was, volume.name))
        raise


def clone(volume: Volume, name: str, snapshot: str | None, labels: Mapping[str, str], freeze: bool) -> Cloned:
    """See `Volume.clone`."""
    from lazarus._native.clone import clone_tree

    store = volume.store
    taken = ConflictError(f"volume {check_name(name)}: there is one already")
    if store.volumes.find(name) is not None:
        raise taken
    found = None if snapshot is None else volume.get_snapshot(snapshot)
    with store.volumes.making() as new, reached(store, volume.name) as trees:
        with ExitStack() as still:
            source = found.reading() if found else store.containers.at_rest(volume, "freeze" if freeze else "leave")
            still.enter_context(source)
            fresh, tree = (found.fresh, trees.snapshot(found.name)) if found else (volume.fresh, trees.data)
            if trees.limit is not None and not found:  # its bytes are copied, and nobody is to stand still so long
                tree = trees.new(new.lease, new.lease.new_directory("clone"))
                _copy(trees.data, tree, trees)
                still.close()
            size = trees.limit
            target = new.stage(name, labels, anonymous=False, size=size, durable=False, fresh=fresh, made=False)
            with limited.at_limit(f"volume {name}", trees.limit):
                cost = Cost(*clone_tree(tree, target))
        new.sync()
        try:
            with store.catalogue.write() as connection:
                new.place(connection)
        except sqlite3.IntegrityError:
            raise taken from None
    return Cloned(store.volumes.get(name), cost)
