"""The changes of changes.py applied to a `lazarus.LayerStack`, and its tree read as trees.py reads one on disk.

    for change in [write("/etc/hosts", b"..."), rename("/usr/share/doc", "/usr/share/doc2")]:
        errno_of(change, stack)

A stack applies modes as given: what a host does with umask 0.
"""

from __future__ import annotations

import functools
import hashlib
import operator
import os
import stat as modes

from lazarus import LayerStack
from lazarus._native.info import Info
from lazarus._native.union_file import Handle
from lazarus.union.file import StackFile

from . import changes
from .changes import Change
from .trees import Node, Tree


@functools.singledispatch
def apply(change: object, stack: LayerStack) -> None:
    """Does it to the stack."""
    raise TypeError(f"no such change: {change!r}")


@apply.register
def _(change: changes.write, stack: LayerStack) -> None:
    with stack.open(change.path, "wb", permissions=0o666) as file:
        file.write(change.data)


@apply.register
def _(change: changes.append, stack: LayerStack) -> None:
    with stack.open(change.path, "ab", permissions=0o666) as file:
        file.write(change.data)


@apply.register
def _(change: changes.patch, stack: LayerStack) -> None:
    with stack.open(change.path, "r+b") as file:
        file.seek(change.offset)
        file.write(change.data)


@apply.register
def _(change: changes.truncate, stack: LayerStack) -> None:
    stack.truncate(change.path, change.size)


@apply.register
def _(change: changes.punch, stack: LayerStack) -> None:
    with StackFile(stack, change.path, os.O_WRONLY) as file:
        file.punch_hole(change.offset, change.size)


@apply.register
def _(change: changes.touch_open, stack: LayerStack) -> None:
    Handle(stack, change.path, os.O_WRONLY).close()


@apply.register
def _(change: changes.open_with, stack: LayerStack) -> None:
    Handle(stack, change.path, change.flags, change.mode).close()


@apply.register
def _(change: changes.mkdir, stack: LayerStack) -> None:
    stack.mkdir(change.path, change.mode)


@apply.register
def _(change: changes.rename, stack: LayerStack) -> None:
    stack.rename(change.old, change.new)


@apply.register
def _(change: changes.rename_new, stack: LayerStack) -> None:
    stack.rename(change.old, change.new, replace=False)


@apply.register
def _(change: changes.exchange, stack: LayerStack) -> None:
    stack.rename(change.one, change.other, exchange=True)


@apply.register
def _(change: changes.unlink, stack: LayerStack) -> None:
    stack.unlink(change.path)


@apply.register
def _(change: changes.rmdir, stack: LayerStack) -> None:
    stack.rmdir(change.path)


@apply.register
def _(change: changes.rmtree, stack: LayerStack) -> None:
    info = stack.stat(change.path, follow_symlinks=False)
    Handle(stack, change.path, os.O_RDONLY).close()  # as shutil does it: of where a symlink leads, too
    if modes.S_ISLNK(info.st_mode):
        raise OSError("Cannot call rmtree on a symbolic link")  # without an errno
    for entry in stack.scandir(change.path):
        if entry.kind == "directory":
            apply(changes.rmtree(entry.path), stack)
        else:
            stack.unlink(entry.path)
    stack.rmdir(change.path)


@apply.register
def _(change: changes.link, stack: LayerStack) -> None:
    stack.link(change.old, change.new)


@apply.register
def _(change: changes.symlink, stack: LayerStack) -> None:
    stack.symlink(change.target, change.path)


@apply.register
def _(change: changes.chmod, stack: LayerStack) -> None:
    stack.chmod(change.path, change.mode)


@apply.register
def _(change: changes.chown, stack: LayerStack) -> None:
    stack.chown(change.path, change.uid, change.gid, follow_symlinks=False)


@apply.register
def _(change: changes.setxattr, stack: LayerStack) -> None:
    stack.setxattr(change.path, change.name, change.value, follow_symlinks=False)


@apply.register
def _(change: changes.setxattr_if, stack: LayerStack) -> None:
    stack.setxattr(change.path, change.name, change.value, change.flags, follow_symlinks=False)


@apply.register
def _(change: changes.removexattr, stack: LayerStack) -> None:
    stack.removexattr(change.path, change.name, follow_symlinks=False)


@apply.register
def _(change: changes.utime, stack: LayerStack) -> None:
    stack.utime(change.path, ns=(change.mtime_ns, change.mtime_ns), follow_symlinks=False)


@apply.register
def _(change: changes.mknod, stack: LayerStack) -> None:
    stack.mknod(change.path, change.mode, change.device)


@apply.register
def _(change: changes.look, stack: LayerStack) -> None:
    if change.how == "listdir":
        stack.listdir(change.path)
    elif change.how == "readlink":
        stack.readlink(change.path)
    else:
        stack.stat(change.path, follow_symlinks=change.how == "stat")


def errno_of(change: Change, stack: LayerStack) -> int:
    """Applies and returns 0, or the errno that it failed with."""
    try:
        apply(change, stack)
    except OSError as error:
        return error.errno or -1
    return 0


#: All that an Info says, but for the names of a file that others count.
_VALUES = operator.attrgetter(*(name for name in dir(Info) if not name.startswith("_") and name != "link_count"))


def read_stack(stack: LayerStack, *, times: bool = True, sockets: bool = False) -> Tree:
    """As trees.read_tree() on a mount of it. Along the way every name is asked for by itself too: what a directory
    says of a name is what `lookup` says."""
    infos: dict[bytes, Info] = {b"": _look(stack, b"/")}
    for _, directories, others in stack.walk():
        for entry in (*directories, *others):
            assert _VALUES(entry.info) == _VALUES(_look(stack, entry.path)), entry
            infos[entry.path[1:]] = entry.info
    files: dict[tuple[int, int], set[bytes]] = {}
    for path, info in infos.items():
        if info.kind != "directory":
            files.setdefault((info.device, info.number), set()).add(path)
    return {
        path: _node(stack, b"/" + path, info, files.get((info.device, info.number), {path}), times)
        for path, info in infos.items()
        if sockets or info.kind != "socket"
    }


def _look(stack: LayerStack, path: bytes) -> Info:
    info = stack.lookup(path)
    assert info is not None, path
    return info


def _node(stack: LayerStack, path: bytes, info: Info, names: set[bytes], times: bool) -> Node:
    content = ""
    if info.kind == "file":
        with stack.open(path, "rb") as file:
            data = file.read()
        assert len(data) == info.size, path
        content = hashlib.sha256(data).hexdigest()
    elif info.kind == "symlink":
        content = os.fsdecode(stack.readlink(path))
        assert info.size == len(os.fsencode(content)), path
    elif info.kind in ("char", "block"):
        content = f"{info.major}:{info.minor}"
    xattrs = tuple(
        (os.fsdecode(name), stack.getxattr(path, name, follow_symlinks=False))
        for name in sorted(stack.listxattr(path, follow_symlinks=False))
        if not name.startswith(b"security.selinux")
    )
    links = frozenset() if info.kind == "directory" else frozenset(names)
    if info.kind != "directory":  # of a file that only layers have, a name that was removed still counts
        missing = info.link_count - len(names)
        assert missing == 0 or (missing > 0 and info.layer < len(stack.layers)), (path, info.link_count, names)
    return Node(
        info.kind, modes.S_IMODE(info.mode), info.uid, info.gid, info.mtime_ns if times else 0, content, xattrs, links
    )
