"""Directories that take only so many bytes.

    <place>/limit.image         a sparse XFS of that size, as a pool has one
    <place>/limited/            where it is mounted while somebody works with it
    <place>/upper, work, ...    links to directories in it

Whoever holds the place's lock reaches it, and leaves it at the end. A mount that was made of it meanwhile (the overlay
of a container that runs) goes on without a place in the tree, and all mounts of one image share one loop device (see
lz_pool.h): however many look at it, in whatever namespace, they see one file system. Who looks without having reached
it finds links that lead nowhere, never an empty directory.

At the limit a write fails with ENOSPC, and nobody outside notices. XFS keeps some MiB for its metadata and log, and
takes 300 MiB at least. Files are not shared with the store's objects across the border: a copy-up copies.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from lazarus.errors import LimitError


def make(place: str, size: int, names: Sequence[str]) -> None:
    """Directories of these names that together take `size` bytes; reached. `LimitError` for a size that is too small,
    `UnsupportedError` without XFS or mkfs.xfs, `OSError`. About 30 ms."""
    from lazarus.content.pool import MINIMUM, make_image

    if size < MINIMUM:
        raise LimitError(f"size {size}: XFS takes {MINIMUM} bytes (300 MiB) at least")
    make_image(f"{place}/limit.image", size - size % 4096)
    os.mkdir(f"{place}/limited", 0o700)
    reach(place)
    for name in names:
        os.mkdir(f"{place}/limited/{name}", 0o755)
        os.symlink(f"limited/{name}", f"{place}/{name}")


def is_limited(place: str) -> bool:
    """Has it a limit?"""
    return os.path.lexists(f"{place}/limit.image")


def reach(place: str) -> None:
    """Mounts the image if it is not; its lock is held. `OSError`. About 5 ms when nobody has it mounted."""
    from lazarus._native import mount, pool

    if mount.is_mount(f"{place}/limited"):
        return
    image = os.open(f"{place}/limit.image", os.O_RDWR | os.O_CLOEXEC)
    try:
        mounted = pool.mount(image)
    finally:
        os.close(image)
    try:
        pool.attach(mounted, f"{place}/limited")
    finally:
        os.close(mounted)


def leave(place: str, *, lazy: bool = False) -> None:
    """Unmounts it; its lock is held. Not while files in it are open, unless `lazy`: who closes them leaves it then."""
    from lazarus._native import mount

    with suppress(OSError):
        mount.unmount(f"{place}/limited", lazy=lazy)
