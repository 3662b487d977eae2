"""What is mounted into a container besides its root file system: volumes, images (see parts.py), files of the host,
memory.

A part of a volume (`subpath`) is opened below the volume, so that no symlink in it can lead elsewhere, and the runtime
must get just that directory. It wants a path, and looks it up again later, when a container that uses the volume may
have put a symlink there; and a path through /proc/.../fd names a mount of our namespace, which the kernel does not bind
in the container's. So the descriptor is bound to a mount point of ours, `volumes/<name>/mounts/<container>-<n>`, which
is the source for the runtime and is unmounted as soon as the container has been set up. A process that is killed before
leaves it mounted: the container's next start, its end or removal, or the volume's removal unmounts it. It lies in the
volume's own directory, where removing the volume is the only thing that walks past it.

A volume whose size is limited is a file system of its own, which has no other place in the tree than such a mount
point. The container's mount of it keeps that file system alive.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, NamedTuple

from lazarus.containers.settings import Settings
from lazarus.errors import ConflictError, ContainerRuntimeError, FormatError, LazarusError, NotFoundError
from lazarus.runtime.bundle import Bind, Tmpfs
from lazarus.terms import ChainID, Digest

if TYPE_CHECKING:
    from lazarus.content.lease import Lease
    from lazarus.store import Store
    from lazarus.volumes.making import NewVolumes
    from lazarus.volumes.mounts import VolumeMount
    from lazarus.volumes.volume import Volume


# -- the container's row, and the volumes that are new --


class _Changed(Exception):
    """A volume that was there has been removed: try again."""


class Row(NamedTuple):
    """A container's row, or that of a part of one (see parts.py)."""

    id: str
    name: str
    manifest_digest: Digest
    chain_id: ChainID
    created: float
    settings: Settings
    part_of: str | None = None


def insert_with_volumes(
    store: Store, rows: Sequence[Row], place: Callable[[sqlite3.Connection], None] | None = None
) -> None:
    """Inserts rows of containers and their parts, in one transaction with those of the volumes that they name and that
    are not there; `place` is called in it when nothing else can go wrong.

    Nothing needs to be synced for a container; volumes are on disk before their rows are. Raises `NotFoundError`
    (image), `ConflictError` (name of a container).
    """
    wanted = [(row.settings, name) for row in rows for name in _names(row.settings)]
    names = {name: settings for settings, name in wanted}
    snapshots = {(at.name, at.snapshot) for row in rows for at in row.settings.volumes if at.snapshot}
    while True:
        with suppress(_Changed), ExitStack() as stack:
            new = None
            for of, snapshot in snapshots:
                store.volumes.get(of or "").get_snapshot(snapshot)
            found = {name: store.volumes.find(name) for name in names}
            kept = [volume for volume in found.values() if volume is not None and _survives(volume, names[volume.name])]
            for volume in kept:
                volume.sync()
            sizes = _sizes(rows)
            for name, size in sizes.items():
                if (there := found[name]) is not None:
                    there.check_limit(size)
            missing = [name for name, volume in found.items() if volume is None]
            lasting = [name for name in missing if not (name in names[name].anonymous and names[name].ephemeral)]
            if missing:
                new = stack.enter_context(store.volumes.making())
                for name in missing:
                    anonymous, limit = name in names[name].anonymous, sizes.get(name)
                    new.stage(name, {}, anonymous=anonymous, size=limit, durable=name in lasting or limit is not None)
            _insert(store, rows, (frozenset(names), snapshots), new, place, bool(kept or lasting))
            return


def insert_made(store: Store, lease: Lease, rows: Sequence[Row], places: Sequence[tuple[str, str]]) -> None:
    """insert_with_volumes() of containers whose directories were made in a lease's staging: those of `places` are
    renamed in the same transaction, from the first name to the second. All of it, or nothing."""
    moved: list[tuple[str, str]] = []

    def place(connection: sqlite3.Connection) -> None:
        lease.check_row(connection)
        for made, there in places:
            os.rename(made, there)
            moved.append((made, there))

    try:
        insert_with_volumes(store, rows, place)
    except BaseException:
        if not _are_there(store, rows):  # else a signal came while the rows were written, and they are
            for made, there in moved:
                os.rename(there, made)
        raise


def _are_there(store: Store, rows: Sequence[Row]) -> bool:
    with suppress(OSError, LazarusError):
        asked = store.catalogue.read().execute("SELECT 1 FROM containers WHERE id = ?", (rows[0].id,))
        return asked.fetchone() is not None
    return False


def _survives(volume: Volume, settings: Settings) -> bool:
    """Was it made for another container, perhaps without a sync, and is kept by this one?"""
    return volume.anonymous and volume.name not in settings.anonymous


def _names(settings: Settings) -> list[str]:
    return sorted({mount.name for mount in settings.volumes if mount.name is not None})


def _sizes(rows: Sequence[Row]) -> dict[str, int]:
    """The limits that are asked for. `FormatError` for two of one volume."""
    found: dict[str, int] = {}
    for mount in (mount for row in rows for mount in row.settings.volumes if mount.size is not None):
        name, size = mount.name or "", mount.size or 0
        if found.setdefault(name, size) != size:
            raise FormatError(f"volume {name}: a limit of {found[name]} and one of {size} bytes at once")
    return found


def _insert(
    store: Store,
    rows: Sequence[Row],
    wanted: tuple[frozenset[str], set[tuple[str | None, str]]],
    new: NewVolumes | None,
    place: Callable[[sqlite3.Connection], None] | None,
    durable: bool,
) -> None:
    names, snapshots = wanted
    with store.catalogue.write(durable=durable) as connection:
        for row in rows:
            image = connection.execute("SELECT 1 FROM images WHERE manifest_digest=?", (row.manifest_digest,))
            if image.fetchone() is None:
                raise NotFoundError(f"image {row.settings.image}: it has been removed")
            try:
                connection.execute(
                    "INSERT INTO containers(id, name, manifest_digest, chain_id, created, config, part_of)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (*row[:5], row.settings.to_json(), row.part_of),
                )
            except sqlite3.IntegrityError:
                raise ConflictError(f"container name {row.name}: already in use") from None
        there = _there(connection, names)
        if new is not None:
            new.place(connection, but=there)
            there = _there(connection, names)
        asked = "SELECT 1 FROM snapshots WHERE volume=? AND name=?"
        if there != names or any(connection.execute(asked, one).fetchone() is None for one in snapshots):
            raise _Changed
        connection.executemany(
            "INSERT INTO container_volumes VALUES (?, ?)",
            [(row.id, name) for row in rows for name in _names(row.settings)],
        )
        if place is not None:
            place(connection)


def _there(connection: sqlite3.Connection, names: frozenset[str]) -> frozenset[str]:
    asked = "SELECT 1 FROM volumes WHERE name=?"
    return frozenset(name for name in names if connection.execute(asked, (name,)).fetchone() is not None)


# -- a start --


def prepare(store: Store, container_id: str, settings: Settings) -> list[Bind | Tmpfs]:
    """The mounts of a container that starts, outer ones before those in them. The container's lock is held; release()
    follows once it has been set up.

    A volume that is new gets what the image has in its place (see lazarus/volumes/populate.py). Raises `NotFoundError`,
    `ContainerRuntimeError` for a part of a volume that is not there, `OSError`.
    """
    release(store, container_id, settings)
    found: list[Bind | Tmpfs] = [*settings.binds, *settings.tmpfs]
    if settings.images:
        from lazarus.containers import parts

        found += parts.prepare(store, settings)
    if not settings.volumes:
        return sorted(found, key=_depth)
    from lazarus.volumes.populate import settle  # not on the path of a container without volumes

    for number, mount in enumerate(settings.volumes):
        volume = store.volumes.get(mount.name or "")
        limited = volume.limit is not None
        source = volume.get_snapshot(mount.snapshot).path if mount.snapshot else volume.path
        place = _place(store, volume.name, container_id, number)
        with volume.lock(fcntl.LOCK_SH):  # waits for a snapshot or rollback that is under way
            if limited:
                _show_all(volume, place)
                source = f"{place}/snapshots/{mount.snapshot}" if mount.snapshot else f"{place}/data"
        if not os.path.isdir(source):
            raise NotFoundError(f"{'snapshot' if mount.snapshot else 'volume'} {mount.source}: its directory is gone")
        part = _open_part(source, mount) if mount.subpath else -1
        try:
            image = None if mount.nocopy or mount.subpath else (settings.diff_ids, mount.target)
            if not mount.snapshot:
                settle(volume, image, durable=not (mount.anonymous and settings.ephemeral))
            if part >= 0:
                _show(part, place)
                source = place
        finally:
            if part >= 0:
                os.close(part)
        found.append(Bind(source, mount.target, mount.read_only))
    return sorted(found, key=_depth)


def _depth(mount: Bind | Tmpfs) -> int:
    return mount.target.count("/")


def _place(store: Store, volume: str, container_id: str, number: int) -> str:
    return f"{store.paths.volume(volume)}/mounts/{container_id}-{number}"


def _open_part(path: str, mount: VolumeMount) -> int:
    from lazarus._native.openat2 import open_in_root

    root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_in_root(root, os.fsencode(mount.subpath), os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise ContainerRuntimeError(f"volume {mount.source}: {mount.subpath}: {error.strerror}") from error
    finally:
        os.close(root)


def _show_all(volume: Volume, place: str) -> None:
    from lazarus.content.limited import show
    from lazarus.volumes.trees import reached

    os.makedirs(place, 0o700, exist_ok=True)
    with reached(volume.store, volume.name):  # without what others left in it
        show(volume.directory, place)


def _show(part: int, place: str) -> None:
    from lazarus._native.mount import bind

    os.makedirs(place, 0o700, exist_ok=True)
    bind(f"/proc/self/fd/{part}", place)


def release(store: Store, container_id: str, settings: Settings) -> None:
    """Unmounts the images, parts of volumes and volumes with a limit that a start has shown; whoever has them mounted
    keeps them."""
    if settings.images:
        from lazarus.containers import parts

        parts.release(store, settings)
    for number, mount in enumerate(settings.volumes):
        place = _place(store, mount.name or "", container_id, number)
        if not os.path.isdir(place):
            continue
        from lazarus._native import mount as native

        with suppress(OSError):
            while native.is_mount(place):
                native.unmount(place, lazy=True)
            os.rmdir(place)
