"""Where the rooms of a store are, and how all of them move at once: to a pool, or back.

    plain       objects/ layers/ ...                        most stores, and every new one
    linked      objects -> data/objects, ...; data -> host            host/ holds the rooms
                                              data -> pool/mount      the pool holds them

The catalogue stays where it is. Every room moves, because contents are renamed, linked and reflinked from one to
another. A room becomes a link by one exchange of names, and leads to the same directory before and after; so each step
between plain and linked is harmless by itself. The one step that matters is the renaming of `data`: before it a store
is without its pool, after it the pool is whole. Paths stay what they are, so processes that have the store open need
not know, but for those that read objects just now (`readers`), which are not there then; and while a pool is not
mounted no room can be seen, so nothing can go to the wrong place.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lazarus._native import mount as mounts
from lazarus._native import pool as native
from lazarus._native.publish import remove_tree
from lazarus.content import trash
from lazarus.content.publish import sync_file_system
from lazarus.errors import StoreError

if TYPE_CHECKING:
    from lazarus.content.paths import StorePaths

PASSING = ("staging", "trash")
ROOMS = ("blobs", "objects", "layers", "stacks", "containers", "checkpoints", "volumes", "snapshots", *PASSING)
HOST, POOL = "host", "pool/mount"  # what `data` leads to


class Exclusive:
    """One process at a time mounts, makes, grows or destroys the pool of a store: a lock on its root directory."""

    def __init__(self, paths: StorePaths, *, wait: bool = True) -> None:
        """`BlockingIOError` on entering, without `wait`."""
        self._root = paths.root
        self._how = fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
        self._fd = -1

    def __enter__(self) -> Self:
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, self._how)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)


def where(paths: StorePaths) -> str | None:
    """HOST or POOL, or None for a plain store."""
    try:
        return os.readlink(paths.data)
    except FileNotFoundError:
        return None


def fsync_directory(path: str) -> None:
    """Names that were given or taken in it are on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# -- plain and linked --


def link_rooms(paths: StorePaths) -> None:
    """From plain, or a mixture, to linked. Nothing moves off its file system; readers notice nothing."""
    for room in ROOMS:
        place = f"{paths.root}/{room}"
        if os.path.islink(place) and os.readlink(place) != f"data/{room}":
            raise StoreError(f"{place}: a link of somebody else's making; a pool wants plain directories")
    with suppress(FileExistsError):
        os.mkdir(paths.host, 0o700)
    if where(paths) is None:
        os.symlink(HOST, paths.data)
    for room in ROOMS:
        place, beside = f"{paths.root}/{room}", f"{paths.host}/{room}"
        if os.path.islink(place):
            continue
        if not os.path.islink(beside):
            os.symlink(f"data/{room}", beside)
        native.exchange(place, beside)
    fsync_directory(paths.host)
    fsync_directory(paths.root)


def unlink_rooms(paths: StorePaths) -> None:
    """From linked, with `data` leading to `host`, or a mixture, to plain."""
    for room in ROOMS:
        place, beside = f"{paths.root}/{room}", f"{paths.host}/{room}"
        if os.path.islink(place):
            native.exchange(place, beside)
        with suppress(FileNotFoundError):
            os.unlink(beside)
    with suppress(FileNotFoundError):
        os.rmdir(paths.host)
    os.unlink(paths.data)
    fsync_directory(paths.root)


def switch(paths: StorePaths, target: str) -> None:
    """The step that matters: `data` leads to HOST or POOL from here on, also after a power cut."""
    new = f"{paths.data}.new"
    with suppress(FileNotFoundError):
        os.unlink(new)
    os.symlink(target, new)
    fsync_directory(paths.root)
    os.rename(new, paths.data)
    fsync_directory(paths.root)


def make_rooms(directory: str) -> None:
    """Empty rooms in a new home."""
    for room in ROOMS:
        os.mkdir(f"{directory}/{room}", 0o700)
    os.mkdir(f"{directory}/blobs/sha256", 0o700)


def copy_rooms(paths: StorePaths, directory: str) -> None:
    """The rooms as they are now in a new home, on its disk. What is being staged, or thrown away, does not move."""
    for room in ROOMS:
        os.mkdir(f"{directory}/{room}", 0o700)
        if room not in PASSING:
            native.copy_tree(f"{paths.root}/{room}", f"{directory}/{room}")
    sync_file_system(f"{directory}/.")  # it may be a link to an open one


# -- the mount --


def open_image(paths: StorePaths) -> int:
    """The pool's image, for writing. `StoreError` when it is gone."""
    try:
        return os.open(paths.pool_image, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise StoreError(f"{paths.pool_image}: the store's pool is gone: everything but the catalogue was on it") from (
            error
        )


def mount(paths: StorePaths) -> None:
    """Mounts the pool in this mount namespace unless it is; the lock is held."""
    if mounts.is_mount(paths.pool_mount):
        return
    image = open_image(paths)
    try:
        if os.geteuid() != 0:
            raise StoreError(f"{paths.pool}: the store's pool is not mounted, and only root can mount it")
        detached = native.mount(image)
        try:
            native.attach(detached, paths.pool_mount)
        finally:
            os.close(detached)
    finally:
        os.close(image)


def reattach(paths: StorePaths) -> None:
    """Mounts the pool of a store that has one, as any process may that opens it."""
    with Exclusive(paths):
        if where(paths) == POOL:
            mount(paths)


def unmount(paths: StorePaths) -> None:
    """Here; other mount namespaces keep theirs. What still uses its files keeps them until it ends."""
    while os.path.isdir(paths.pool_mount) and mounts.is_mount(paths.pool_mount):
        try:
            mounts.unmount(paths.pool_mount)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            mounts.unmount(paths.pool_mount, lazy=True)


def tidy(paths: StorePaths) -> None:
    """Removes what is left of a pool that was never finished or has been destroyed, and of rooms that have moved; the
    lock is held."""
    with suppress(FileNotFoundError):
        os.unlink(f"{paths.data}.new")
    if where(paths) == POOL:
        trash.remove(paths.host)  # a part of a volume may be mounted there, of a start that was killed
        return
    unmount(paths)
    remove_tree(paths.pool)
    if where(paths) == HOST:
        unlink_rooms(paths)
    else:
        remove_tree(paths.host)


def tidy_if_free(paths: StorePaths) -> None:
    """tidy() unless somebody is at work on the pool just now."""
    with suppress(BlockingIOError), Exclusive(paths, wait=False):
        tidy(paths)
