"""The pool: an XFS image inside the store, on which everything but the catalogue lives.

XFS can share blocks between files (reflink), so a container's first write to a large file of its image copies nothing,
whatever file system the store itself is on. `pool_disk` says how a store moves to a pool and back.

Room. The image is sparse: it takes of the host's disk what was ever written in it, less what `prune` gave back. Making
and growing one is refused unless the host has room for all of it then; what others write on the host later can take
that room away. A pool that meets a full host fails writes (EIO, or ENOSPC at an fsync); `status` warns before. A pool
that is full itself can be grown, and looked at and emptied as any full disk: it has a reserve of its own (`reserve`).

Durability is the host's: an fsync inside is a flush of the loop device, which is an fsync of the image.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, NamedTuple

from lazarus._native import mount as mounts
from lazarus._native import pool as native
from lazarus._native.publish import remove_tree
from lazarus.content import limited, readers, trash
from lazarus.content import pool_disk as disk
from lazarus.errors import FULL, ConflictError, LimitError, NotFoundError, StoreError, UnsupportedError

if TYPE_CHECKING:
    from lazarus.content.content import ContentStore
    from lazarus.content.lease import Lease
    from lazarus.content.paths import StorePaths

MINIMUM = 300 << 20  # bytes; mkfs.xfs makes none that is smaller
_GRAIN = 1 << 20  # sizes are whole MiB


class PoolStatus(NamedTuple):
    """Sizes are bytes. `size` is the file system's and `image_size` its file's (larger after a growth that was
    interrupted); `allocated` is what the image takes of the host's disk, `host_free` what the host has left, `missing`
    how much of the pool the host has no room for. `direct_io`: past the host's page cache; `reflink`: files can share
    blocks."""

    path: str
    size: int
    image_size: int
    allocated: int
    used: int
    free: int
    host_free: int
    missing: int
    mounted: str
    device: str | None
    direct_io: bool
    reflink: bool


class Pool:
    """`store.pool`. Every change needs root; `StoreError` else."""

    def __init__(self, content: ContentStore, still: Callable[[], AbstractContextManager[None]]) -> None:
        """Inside `still()` no container runs, starts, comes or goes."""
        self._content = content
        self._paths = content.paths
        self._still = still

    @property
    def exists(self) -> bool:
        """Has the store a pool?"""
        return disk.where(self._paths) == disk.POOL

    def status(self) -> PoolStatus:
        """`NotFoundError` without a pool. About 0.1 ms, and some microseconds for each loop device of the machine."""
        paths = self._paths
        self._check_exists()
        if not mounts.is_mount(paths.pool_mount):
            disk.reattach(paths)
        image = disk.open_image(paths)
        try:
            info = os.fstat(image)
            device = native.device(image)
        finally:
            os.close(image)
        root = os.open(paths.pool_mount, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            size, reflink = native.geometry(root)
            inside = os.fstatvfs(root)
        finally:
            os.close(root)
        allocated, host_free = info.st_blocks * 512, free_bytes(paths.root)
        free = inside.f_bavail * inside.f_frsize
        return PoolStatus(
            path=paths.pool_image,
            size=size,
            image_size=info.st_size,
            allocated=allocated,
            used=(inside.f_blocks - inside.f_bfree) * inside.f_frsize,
            free=free,
            host_free=host_free,
            missing=max(0, info.st_size - allocated - host_free),
            mounted=paths.pool_mount,
            device=device[0] if device else None,
            direct_io=bool(device and device[1]),
            reflink=reflink,
        )

    def create(self, size: int) -> PoolStatus:
        """Makes a pool of `size` bytes (rounded down to whole MiB) and moves the store onto it, all or nothing.

        Raises `ConflictError` (there is one; containers run; others are at work in the store), `LimitError` (a size
        that is too small, or that the host has no room for), `UnsupportedError` (no XFS, no mkfs.xfs), `OSError`.
        """
        paths = self._paths
        self._check_root()
        with disk.Exclusive(paths), self._content.lease("pool") as lease:
            disk.tidy(paths)
            if self.exists:
                raise ConflictError(f"{paths.root}: it has a pool already; see pool status, pool grow")
            size = self._check_size(size, 0)
            directory = lease.new_directory("pool")
            make_image(f"{directory}/image", size)
            os.mkdir(f"{directory}/mount", 0o700)
            self._move_in(lease, directory)
            disk.tidy(paths)
        return self.status()

    def _move_in(self, lease: Lease, directory: str) -> None:
        """Until `data` is switched the new pool is known to this process alone: mounted nowhere, in staging."""
        paths = self._paths
        image = os.open(f"{directory}/image", os.O_RDWR | os.O_CLOEXEC)
        detached = -1
        try:
            detached = native.mount(image)
            with (
                self._still(),
                readers.none(paths.objects, paths.volumes),
                self._content.catalogue.write(durable=False) as connection,
            ):
                check_alone(connection, lease)
                copy_all(paths, f"/proc/self/fd/{detached}", "the pool")
                os.fsync(image)
                try:
                    disk.link_rooms(paths)
                    os.rename(directory, paths.pool)
                    native.attach(detached, paths.pool_mount)
                    disk.switch(paths, disk.POOL)
                except BaseException:
                    if not self.exists:
                        disk.tidy(paths)
                    raise
        finally:
            if detached >= 0:
                os.close(detached)
            os.close(image)

    def grow(self, size: int) -> PoolStatus:
        """Makes the pool `size` bytes (rounded down to whole MiB) large, while it is in use. Finishes a growth that was
        interrupted. `LimitError` when that is less than it has, or more than the host has room for."""
        paths = self._paths
        self._check_root()
        with disk.Exclusive(paths):
            self._check_exists()
            disk.mount(paths)
            image = disk.open_image(paths)
            root = os.open(paths.pool_mount, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                now = native.geometry(root)[0]
                if size < now:
                    raise LimitError(f"pool size {size}: it has {now} bytes already, and a pool does not shrink")
                size = self._check_size(size, os.fstat(image).st_blocks * 512)
                native.grow(image, root, size)
            finally:
                os.close(root)
                os.close(image)
        return self.status()

    def trim(self) -> None:
        """Gives what the pool does not use back to the host, where the host's file system can punch holes."""
        root = os.open(self._paths.pool_mount, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            native.trim(root)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM):
                raise
        finally:
            os.close(root)

    def destroy(self, force: bool = False) -> None:
        """Moves what the pool holds back to the host, all or nothing, and removes the pool. With `force` loses it
        instead: every image, container and volume, and the room that they need does not matter.

        `ConflictError` while a container runs, others are at work, or the host has no room (it lists what is held).
        """
        paths = self._paths
        self._check_root()
        with disk.Exclusive(paths), ExitStack() as ending:
            self._check_exists()
            disk.mount(paths)
            if force:
                self._lose_all()
            with self._content.lease("pool") as lease, self._still(), readers.none(paths.objects, paths.volumes):
                disk.tidy(paths)
                if not force:
                    self._check_room()
                with self._content.catalogue.write(durable=False) as connection:
                    check_alone(connection, lease)
                    if force and (table := first_used_table(connection)):
                        raise ConflictError(f"{paths.root}: {table} came back meanwhile; try again")
                    self._move_out(force)
                # This lease's staging keeps the pool busy. Another one, so that whoever finds us dead tidies up.
                ending.enter_context(self._content.lease("pool"))
            disk.tidy(paths)

    def _move_out(self, force: bool) -> None:
        paths = self._paths
        try:
            os.mkdir(paths.host, 0o700)
            if force:
                disk.make_rooms(paths.host)
            else:
                copy_all(paths, paths.host, "the host")
            disk.switch(paths, disk.HOST)
        except BaseException:
            if self.exists:
                remove_tree(paths.host)
            raise

    def _lose_all(self) -> None:
        """Rows first: content without a row is rubbish, a row without its content would be a lie."""
        from lazarus.content.recover import bury

        bury(self._content)
        with (
            self._still(),
            readers.none(self._paths.objects, self._paths.volumes),
            self._content.catalogue.write() as connection,
        ):
            check_alone(connection)
            connection.execute("PRAGMA defer_foreign_keys=ON")
            for table in tables(connection):
                connection.execute(f'DELETE FROM "{table}"')

    def _check_room(self) -> None:
        """What the host would need: blocks that files share here are counted as often as they are shared."""
        from lazarus._native.publish import sweep_objects
        from lazarus.content.usage import disk_usage

        paths = self._paths
        count, _, needed = sweep_objects(paths.objects, None, b"")
        held = {"objects": count}
        for room in disk.ROOMS:
            if room == "objects" or room in disk.PASSING:
                continue
            place = getattr(paths, room)
            names = os.listdir(place)
            held[room] = sum(len(os.listdir(f"{place}/{name}")) if room == "checkpoints" else 1 for name in names)
            needed += disk_usage(os.path.realpath(place)).allocated
        free = free_bytes(paths.root)
        if needed > free:
            holdings = ", ".join(f"{count} {room}" for room, count in held.items() if count)
            raise ConflictError(
                f"{paths.pool}: it holds {holdings or 'nothing'}: {needed} bytes, and the host has room for {free};"
                " make room there, remove what is not needed, or lose all of it by force"
            )

    def _check_exists(self) -> None:
        if not self.exists:
            raise NotFoundError(f"{self._paths.root}: this store has no pool")

    def _check_root(self) -> None:
        if os.geteuid() != 0:
            raise StoreError(f"{self._paths.root}: a pool needs root: it is a mounted file system")

    def _check_size(self, size: int, allocated: int) -> int:
        """Rounded, and possible: the host could hold all of it today."""
        size -= size % _GRAIN
        if size < MINIMUM:
            raise LimitError(f"pool size {size}: XFS takes {MINIMUM} bytes (300 MiB) at least")
        free = free_bytes(self._paths.root)
        if size - allocated > free:
            raise LimitError(
                f"pool size {size}: the file system of {self._paths.root} has room for {free + allocated} bytes of it"
            )
        return size


def free_bytes(path: str) -> int:
    """What root may still write on its file system."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def copy_all(paths: StorePaths, target: str, where: str) -> None:
    """`disk.copy_rooms`, with a line of its own for a target that is too small. `ConflictError` when something of the
    host's is mounted in a volume, which would stay behind, or a volume with a limit is, which would be torn."""
    for point in reversed(trash.mounted_below(paths.volumes)):
        if os.path.basename(os.path.dirname(point)) != "mounts":
            raise ConflictError(f"{point}: something is mounted there; unmount it first")
        mounts.unmount(point, lazy=True)  # what a killed start has shown
    for name in os.listdir(paths.volumes):
        if limited.is_limited(paths.volume(name)) and limited.is_mounted(paths.volume(name)):
            raise ConflictError(f"volume {name}: its file system is mounted; try again")
    try:
        disk.copy_rooms(paths, target)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise LimitError(f"{paths.root}: {where} has no room for what the store holds; nothing has changed") from error


def check_alone(connection: sqlite3.Connection, lease: Lease | None = None) -> None:
    """`ConflictError` while others (than the one with `lease`) stage content: it is not where it will be."""
    own = lease.id if lease is not None else ""
    row = connection.execute("SELECT purpose, pid FROM leases WHERE id <> ? LIMIT 1", (own,)).fetchone()
    if row is not None:
        raise ConflictError(f"the store is in use: process {row['pid']} is at work in it ({row['purpose']}); try again")


def tables(connection: sqlite3.Connection) -> list[str]:
    """All that say what the store holds: every one but the leases."""
    rows = connection.execute("SELECT name FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite%'")
    return [row[0] for row in rows if row[0] != "leases"]


def first_used_table(connection: sqlite3.Connection) -> str | None:
    """One with rows; None when the store holds nothing."""
    for table in tables(connection):
        if connection.execute(f'SELECT 1 FROM "{table}" LIMIT 1').fetchone() is not None:
            return table
    return None


def make_image(path: str, size: int) -> None:
    """A sparse file with an empty XFS. `UnsupportedError` without a kernel or a program for that."""
    import shutil
    import subprocess

    if not mounts.supports("xfs"):
        raise UnsupportedError("this kernel has no XFS, which a pool is made of")
    program = shutil.which("mkfs.xfs", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin")))
    if program is None:
        raise UnsupportedError("mkfs.xfs is not installed, which makes the pool's file system (Debian: xfsprogs)")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)
    # Blocks of 4 KiB also at the device, so that direct I/O is possible on any disk.
    command: Sequence[str] = (program, "-q", "-m", "reflink=1", "-s", "size=4096", path)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        said = " ".join(done.stderr.split()).removeprefix("mkfs.xfs: ") or f"exit code {done.returncode}"
        if os.strerror(errno.ENOSPC) in said:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        raise StoreError(f"mkfs.xfs: {said:.300}")
