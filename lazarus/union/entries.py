"""What a directory of a stack gives: entries like os.DirEntry, and a stat_result like os.stat()'s."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lazarus._native import union_read

if TYPE_CHECKING:
    from lazarus._native.info import Info
    from lazarus._native.union import Union
    from lazarus._native.union_read import Path

Walk = Iterator[tuple[bytes, list["DirEntry"], list["DirEntry"]]]


def stat_result(info: Info) -> os.stat_result:
    """As os.stat() gives it. Two names are the same file when st_dev and st_ino are equal; blocks are not known."""
    seconds = [nanoseconds // 10**9 for nanoseconds in (info.atime_ns, info.mtime_ns, info.ctime_ns)]
    return os.stat_result(
        (info.mode, info.number, info.device, info.link_count, info.uid, info.gid, info.size, *seconds),
        {
            "st_atime": info.atime_ns / 1e9,
            "st_mtime": info.mtime_ns / 1e9,
            "st_ctime": info.ctime_ns / 1e9,
            "st_atime_ns": info.atime_ns,
            "st_mtime_ns": info.mtime_ns,
            "st_ctime_ns": info.ctime_ns,
            "st_rdev": os.makedev(info.major, info.minor),
            "st_blksize": 4096,
            "st_blocks": (info.size + 511) // 512,
        },
    )


class DirEntry:
    """One name of a directory, with what it was when the directory was read. `name` and `path` are bytes; `info` is
    what `LayerStack.lookup` gives."""

    __slots__ = ("_union", "info", "name", "path")

    def __init__(self, union: Union, directory: bytes, name: bytes, info: Info) -> None:
        self._union = union
        self.name = name
        self.path = directory + name
        self.info = info

    def __repr__(self) -> str:
        return f"<DirEntry {self.path!r}>"

    def __fspath__(self) -> bytes:
        return self.path

    @property
    def kind(self) -> str:
        """ "directory", "file", "symlink", ...: of the name itself."""
        return self.info.kind

    def inode(self) -> int:
        """st_ino."""
        return self.info.number

    def is_symlink(self) -> bool:
        """Is the name itself a symlink?"""
        return self.info.kind == "symlink"

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Is it a directory, or (unless told not to follow) a symlink to one?"""
        return self._kind(follow_symlinks) == "directory"

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Is it a regular file, or a symlink to one?"""
        return self._kind(follow_symlinks) == "file"

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """As os.stat(); asks again only for a symlink."""
        if follow_symlinks and self.is_symlink():
            return stat_result(union_read.stat(self._union, self.path))
        return stat_result(self.info)

    def _kind(self, follow: bool) -> str:
        if not (follow and self.is_symlink()):
            return self.info.kind
        try:
            return union_read.stat(self._union, self.path).kind
        except OSError:  # it leads nowhere
            return ""


def scan(union: Union, path: Path) -> list[DirEntry]:
    """The entries of a directory, sorted by name."""
    text = os.fsencode(path)
    base = text if text.endswith(b"/") else text + b"/"
    return [DirEntry(union, base, name, info) for name, info in union_read.scan(union, path)]


def walk(union: Union, top: Path) -> Walk:
    """See `LayerStack.walk`."""
    pending = [os.fsencode(top)]
    while pending:
        path = pending.pop()
        entries = scan(union, path)
        directories = [entry for entry in entries if entry.info.kind == "directory"]
        yield path, directories, [entry for entry in entries if entry.info.kind != "directory"]
        pending += [entry.path for entry in reversed(directories)]
