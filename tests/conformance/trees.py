"""Everything that can be told apart about a tree on disk, as a value that can be compared and shown."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import NamedTuple

# Not part of a tree: labels of the host. (An overlay mount hides its own xattrs by itself.)
_NOT_COMPARED = ("security.selinux",)


class Node(NamedTuple):
    """One name. `content` is a digest, a link target or a device; `links` are all names of the same file."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    content: str
    xattrs: tuple[tuple[str, bytes], ...]
    links: frozenset[bytes]


Tree = dict[bytes, Node]

_KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def read_tree(root: str | bytes, *, times: bool = True, sockets: bool = False) -> Tree:
    """Path ("a/b", the root is "") -> node. Sockets are left out, as they are of every layer, unless asked for."""
    base = os.fsencode(root)
    infos: dict[bytes, os.stat_result] = {}
    _gather(base, b"", infos)
    files: dict[tuple[int, int], set[bytes]] = {}
    for path, info in infos.items():
        if not stat.S_ISDIR(info.st_mode):
            files.setdefault((info.st_dev, info.st_ino), set()).add(path)
    return {
        path: _node(os.path.join(base, path), info, files.get((info.st_dev, info.st_ino), {path}), times)
        for path, info in infos.items()
        if sockets or not stat.S_ISSOCK(info.st_mode)
    }


def _gather(base: bytes, path: bytes, infos: dict[bytes, os.stat_result]) -> None:
    full = os.path.join(base, path) if path else base
    infos[path] = info = os.lstat(full)
    if stat.S_ISDIR(info.st_mode):
        for name in sorted(os.listdir(full)):
            _gather(base, os.path.join(path, name), infos)


def _node(full: bytes, info: os.stat_result, names: set[bytes], times: bool) -> Node:
    kind = _KINDS[stat.S_IFMT(info.st_mode)]
    content = ""
    if kind == "file":
        with open(full, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    elif kind == "symlink":
        content = os.fsdecode(os.readlink(full))
    elif kind in ("char", "block"):
        content = f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
    xattrs = tuple(
        (name, os.getxattr(full, name, follow_symlinks=False))
        for name in sorted(os.listxattr(full, follow_symlinks=False))
        if not name.startswith(_NOT_COMPARED)
    )
    links = frozenset() if kind == "directory" else frozenset(names)
    return Node(
        kind,
        stat.S_IMODE(info.st_mode),
        info.st_uid,
        info.st_gid,
        info.st_mtime_ns if times else 0,
        content,
        xattrs,
        links,
    )


def differences(left: Tree, right: Tree) -> list[str]:
    """One line for every path that is not the same in both; empty when the trees are equal."""
    lines = []
    for path in sorted(left.keys() | right.keys()):
        if left.get(path) != right.get(path):
            lines.append(f"{path!r}: {left.get(path)} | {right.get(path)}")
    return lines
