"""What became of each path between two times of a volume.

Both trees are walked side by side, a directory and then what is in it by name, and attributes are compared. Contents
are read only where these do not decide. Files of one size and one modification time are taken for the same, as rsync
and git take them; but one that was modified less than a second before the first snapshot, or after it, may have been
written again within the clock's grain, and is read. So is every file with `checksum`.

Names are opened below the volume each time (openat2), for containers may be at work in it. What they change meanwhile
comes as it is met.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, NamedTuple

from lazarus._native.openat2 import open_in_root
from lazarus.terms import ViewChange

if TYPE_CHECKING:
    from lazarus.volumes.volume import Volume

_GRAIN = 1_000_000_000  # ns: no file system's clock is coarser, but FAT's
_CHUNK = 1 << 18  # stays in the processor's cache
_KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def diff(volume: Volume, before: str, after: str | None, checksum: bool) -> Iterator[ViewChange]:
    """See `Volume.diff`."""
    old = volume.get_snapshot(before)
    new = None if after is None else volume.get_snapshot(after)
    with ExitStack() as stack:
        roots = []
        for opened in (old.reading(), volume.opened() if new is None else new.reading()):
            path = stack.enter_context(opened)
            roots.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            stack.callback(os.close, roots[-1])
        first = min(old.created, new.created if new else old.created)
        yield from _Walk(roots[0], roots[1], -1 if checksum else int(first * 1e9) - _GRAIN).changes()


class _Found(NamedTuple):
    """A path: what became of it, and in which trees it is a directory."""

    path: bytes
    change: ViewChange | None
    old: bool
    new: bool


class _Walk:
    def __init__(self, old: int, new: int, sure_before: int) -> None:
        self._roots = (old, new)
        self._sure_before = sure_before

    def changes(self) -> Iterator[ViewChange]:
        """All of them. Nothing is open while one is given out, however deep the trees are."""
        places = [f"/proc/self/fd/{root}" for root in self._roots]
        differs = _attributes(*map(os.fstat, self._roots)) + _xattrs(*places)
        top = ViewChange("C", b"/", "directory", differs) if differs else None
        pending = [_Found(b"", top, True, True)]
        while pending:
            found = pending.pop()
            if found.change is not None:
                yield found.change
            if found.old or found.new:
                pending.extend(reversed(self._children(found)))

    def _children(self, directory: _Found) -> list[_Found]:
        with ExitStack() as opened:
            fds = [
                _open(root, directory.path, opened) if there else -1
                for root, there in zip(self._roots, (directory.old, directory.new), strict=True)
            ]
            old, new = (_names(fd) for fd in fds)
            found = []
            for name in sorted(old.keys() | new.keys()):
                before, after = old.get(name), new.get(name)
                change = self._change(fds, directory.path + b"/" + name, before, after)
                dirs = [info is not None and stat.S_ISDIR(info.st_mode) for info in (before, after)]
                if change is not None or any(dirs):
                    found.append(_Found(directory.path + b"/" + name, change, *dirs))
            return found

    def _change(
        self, fds: list[int], path: bytes, before: os.stat_result | None, after: os.stat_result | None
    ) -> ViewChange | None:
        if before is None or after is None:
            there = before or after
            assert there is not None
            sizes = (0, _size(there)) if before is None else (_size(there), 0)
            return ViewChange("A" if before is None else "D", path, _kind(there), (), *sizes)
        if _kind(before) != _kind(after):
            differs: tuple[str, ...] = ("type",)
        else:
            places = [b"/proc/self/fd/%d/%s" % (fd, path.rpartition(b"/")[2]) for fd in fds]
            differs = self._content(places, before, after) + _attributes(before, after) + _xattrs(*places)
        return ViewChange("C", path, _kind(after), differs, _size(before), _size(after)) if differs else None

    def _content(self, places: list[bytes], before: os.stat_result, after: os.stat_result) -> tuple[str, ...]:
        kind = _kind(after)
        if kind == "symlink":
            return ("target",) if len({_target(place) for place in places}) > 1 else ()
        if kind in ("char", "block"):
            return ("device",) if before.st_rdev != after.st_rdev else ()
        if kind != "file":
            return ()
        if before.st_size != after.st_size:
            return ("content",)
        if before.st_mtime_ns == after.st_mtime_ns < self._sure_before:
            return ()
        return ("content",) if not _same_bytes(*places) else ()


def _attributes(before: os.stat_result, after: os.stat_result) -> tuple[str, ...]:
    found = []
    if not stat.S_ISLNK(after.st_mode) and stat.S_IMODE(before.st_mode) != stat.S_IMODE(after.st_mode):
        found.append("mode")
    if (before.st_uid, before.st_gid) != (after.st_uid, after.st_gid):
        found.append("owner")
    if before.st_mtime_ns != after.st_mtime_ns:
        found.append("mtime")
    return tuple(found)


def _xattrs(*places: str | bytes) -> tuple[str, ...]:
    found = []
    for place in places:
        values = {}
        follow = isinstance(place, str)  # the roots: descriptors of ours
        with suppress(OSError):  # gone, or a file system without any
            for name in os.listxattr(place, follow_symlinks=follow):
                values[name] = os.getxattr(place, name, follow_symlinks=follow)
        found.append(values)
    return ("xattrs",) if found[0] != found[1] else ()


def _open(root: int, path: bytes, opened: ExitStack) -> int:
    """A directory below a root; -1 when it is none any more."""
    try:
        fd = open_in_root(root, path or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return -1
    except OSError as error:
        if error.errno == errno.ELOOP:
            return -1
        raise
    opened.callback(os.close, fd)
    return fd


def _names(fd: int) -> dict[bytes, os.stat_result]:
    found = {}
    for name in map(os.fsencode, os.listdir(fd)) if fd >= 0 else ():
        with suppress(FileNotFoundError):
            found[name] = os.stat(name, dir_fd=fd, follow_symlinks=False)
    return found


def _kind(info: os.stat_result) -> str:
    return _KINDS[stat.S_IFMT(info.st_mode)]


def _size(info: os.stat_result) -> int:
    return info.st_size if stat.S_ISREG(info.st_mode) else 0


def _target(place: bytes) -> bytes:
    try:
        return os.readlink(place)
    except OSError:
        return b""


def _same_bytes(one: bytes, other: bytes) -> bool:
    """Of two files of one size. One that is gone by now differs from any."""
    with ExitStack() as opened:
        fds = []
        for place in (one, other):
            try:
                fds.append(os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                    return False
                raise
            opened.callback(os.close, fds[-1])
        while True:
            pieces = [os.read(fd, _CHUNK) for fd in fds]
            if pieces[0] != pieces[1]:
                return False
            if not pieces[0]:
                return True
