"""Directories for a user that appear under their name when they are whole, and not before."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lazarus.errors import ConflictError
from lazarus.whole_file import named_after_all


@contextmanager
def whole_directory(path: str) -> Iterator[str]:
    """A new directory beside `path`; at the end of the `with` all in it is synced, and it has that name, durably.

    Until then it is `NAME.*.partial`, locked (flock(2)) by whoever writes it. What fails leaves nothing; what is killed
    leaves that, and the next one for this path removes it: a partial of ours that nobody holds the lock of. An empty
    directory that is there is replaced, by one of its mode. Raises `ConflictError` when there is something else,
    `OSError`, which names `path`, and says so when it has its name, but perhaps not durably.
    """
    from lazarus._native.publish import remove_tree

    if not path:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if os.path.lexists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise ConflictError(f"{path}: exists and is not an empty directory")
    parent, name = os.path.split(os.path.realpath(path))
    _remove_stale(parent, name)
    with _named(path):
        temporary, fd = _new(parent, name)
    try:
        yield temporary
        with _named(path):
            _sync(temporary)
            with suppress(FileNotFoundError):
                os.fchmod(fd, stat.S_IMODE(os.stat(path).st_mode))
            os.rename(temporary, f"{parent}/{name}")  # fails where somebody has made something there meanwhile
    except BaseException:
        remove_tree(temporary)
        raise
    else:
        with named_after_all(path):
            _sync_one(parent)
    finally:
        os.close(fd)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Errors name the path that the user knows."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = path, None
        raise


def _begin(name: str) -> str:
    """As much of a name as leaves room for an ending, of 255 bytes."""
    return os.fsdecode(os.fsencode(name)[:200])


def _new(parent: str, name: str) -> tuple[str, int]:
    """An empty one, and a descriptor that holds its lock."""
    while True:
        temporary = f"{parent}/{_begin(name)}.{os.urandom(6).hex()}.partial"
        os.mkdir(temporary)
        with suppress(FileNotFoundError):  # between the two somebody may take it for stale
            fd = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if _lock(fd) is not False and os.path.exists(temporary):
                return temporary, fd
            os.close(fd)


def _lock(fd: int) -> bool | None:
    """False: another process has it. None: this file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None


def _remove_stale(parent: str, name: str) -> None:
    """What killed processes left. Only of this user, and only where locks say that nobody writes it."""
    from lazarus._native.publish import remove_tree

    pattern = re.compile(rf"{re.escape(_begin(name))}\.[0-9a-f]{{12}}\.partial")
    with suppress(OSError):
        for found in filter(pattern.fullmatch, os.listdir(parent)):
            with suppress(OSError):
                fd = os.open(f"{parent}/{found}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    if os.fstat(fd).st_uid == os.geteuid() and _lock(fd):
                        remove_tree(f"{parent}/{found}")
                finally:
                    os.close(fd)


def _sync(directory: str) -> None:
    """Every file, and then the names of the files."""
    for at, _, names in os.walk(directory, topdown=False):
        for name in names:
            if stat.S_ISREG(os.lstat(f"{at}/{name}").st_mode):
                _sync_one(f"{at}/{name}")
        _sync_one(at)


def _sync_one(path: str) -> None:
    """A directory that may be written but not read (a parent of ours) cannot be asked for that."""
    with suppress(PermissionError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
