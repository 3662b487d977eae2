"""Directories that take only so many bytes.

    <place>/limit.image         a sparse XFS of that size, as a pool has one
    <place>/limited/            where it is mounted while somebody works with it
    <place>/upper, work, ...    links to directories in it

That is how a container has it: whoever holds its lock reaches it, and leaves it at the end. A mount that was made of
it meanwhile (the overlay of a container that runs) goes on without a place in the tree. Who looks without having
reached it finds links that lead nowhere, never an empty directory. A volume has the image alone: it is looked at
through a descriptor (`opened`), which ends with its process, so that nobody has to be the last one who leaves.

All mounts of one image share one loop device (see lz_pool.h): however many look at it, in whatever namespace, they see
one file system, and when the last of them goes so does the device.

At the limit a write fails with ENOSPC, and nobody outside notices. A limit that is larger than what the disk has free
is refused, for what the disk has no room for is lost: the XFS takes a write, and finds out later, as an fsync says.
Several limits, or one and what others write, can still come to more than the disk.

XFS keeps some MiB for its metadata, and 64 MiB at least for its log, which are taken of the disk at once; it takes 300
MiB at least. What is freed in it is used again there, and not given back to the disk. Across the border files share no
blocks with the store's objects: a copy-up copies.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from lazarus.errors import FULL, LimitError, StoreError


@contextmanager
def making(place: str, size: int, names: Sequence[str]) -> Iterator[str]:
    """Directories of these names that together take `size` bytes. Yields the path that they are below meanwhile:
    nothing is mounted in the tree, so that a process which is killed leaves nothing but files. `LimitError` for a size
    that is too small, or larger than what is free, `UnsupportedError` without XFS or mkfs.xfs, `StoreError` without
    root, `OSError`. About 30 ms."""
    make_image(place, size)
    os.mkdir(f"{place}/limited", 0o700)
    root = opened(place)
    try:
        for name in names:
            os.mkdir(name, 0o755, dir_fd=root)
            os.symlink(f"limited/{name}", f"{place}/{name}")
        yield f"/proc/self/fd/{root}"
    finally:
        os.close(root)


def make_image(place: str, size: int) -> None:
    """The image alone. Raises as `making`."""
    from lazarus.content import pool

    if size < pool.MINIMUM:
        raise LimitError(f"size {size}: XFS takes {pool.MINIMUM} bytes (300 MiB) at least")
    if size > (free := pool.free_bytes(place)):
        raise LimitError(f"size {size}: the disk has room for {free} bytes of it")
    try:
        pool.make_image(f"{place}/limit.image", whole(size))
    except PermissionError as error:
        raise _needs_root(place) from error


def whole(size: int) -> int:
    """What a limit of so many bytes comes to: XFS has whole blocks."""
    return size - size % 4096


@contextmanager
def at_limit(what: str, limit: int | None) -> Iterator[None]:
    """Around what writes in one place alone: an `OSError` for a full disk says in what, and its limit if it has one."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        if limit is not None:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: its limit is {limit} bytes", what) from error
        error.filename = what if error.filename is None else f"{what}: {os.fsdecode(error.filename)}"
        raise


def is_limited(place: str) -> bool:
    """Has it a limit?"""
    return os.path.lexists(f"{place}/limit.image")


def limit(place: str) -> int | None:
    """In bytes; None without one."""
    try:
        return os.stat(f"{place}/limit.image").st_size
    except FileNotFoundError:
        return None


def opened(place: str) -> int:
    """A descriptor of the root of its file system, to be used as /proc/self/fd/N: mounted nowhere in the tree, and as
    long as that is open. `FileNotFoundError`, `StoreError` without root. About 10 ms when nobody else has it mounted,
    else 0.2 ms."""
    mounted = _mounted(place)
    try:
        return os.open(f"/proc/self/fd/{mounted}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(mounted)


def show(place: str, target: str) -> None:
    """Mounts it at a directory; raises as `opened`."""
    from lazarus._native import pool

    mounted = _mounted(place)
    try:
        pool.attach(mounted, target)
    finally:
        os.close(mounted)


def is_mounted(place: str) -> bool:
    """Has anybody it mounted, in whatever namespace?"""
    from lazarus._native import pool

    image = os.open(f"{place}/limit.image", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return pool.device(image) is not None
    finally:
        os.close(image)


def _needs_root(place: str) -> StoreError:
    return StoreError(f"{place}: a limited size needs root: it is a mounted file system")


def _mounted(place: str) -> int:
    """A detached mount. Whoever makes one locks the image meanwhile, so that it never gets two devices. That lock has a
    descriptor of its own, for the device keeps the other one's file open, and would keep the lock."""
    from lazarus._native import pool

    lock = os.open(f"{place}/limit.image", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        image = os.open(f"{place}/limit.image", os.O_RDWR | os.O_CLOEXEC)
        try:
            return pool.mount(image)
        except PermissionError as error:
            raise _needs_root(place) from error
        finally:
            os.close(image)
    finally:
        os.close(lock)


def reach(place: str) -> None:
    """Mounts the image if it is not; its lock is held. `OSError`. About 5 ms when nobody has it mounted."""
    from lazarus._native import mount

    if not mount.is_mount(f"{place}/limited"):
        show(place, f"{place}/limited")


def leave(place: str, *, lazy: bool = False) -> None:
    """Unmounts it; its lock is held. Not while files in it are open, unless `lazy`: who closes them leaves it then."""
    from lazarus._native import mount

    with suppress(OSError):
        mount.unmount(f"{place}/limited", lazy=lazy)
