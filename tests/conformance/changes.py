"""Changes to a tree as values: a suite, a property test, a benchmark and a fault loop play the same ones.

    for change in [write("/etc/hosts", b"..."), rename("/usr/share/doc", "/usr/share/doc2")]:
        change.apply(root)

Paths begin with a slash and are `str` (surrogateescape) or `bytes`; they are names below `root`, which is a plain host
directory: a parent that is an absolute symlink would be followed on the host, so do not make one. `apply` raises
`OSError` as the system call does; `errno_of` gives the errno, so that two trees can be asked whether they agree.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterable
from typing import Literal, NamedTuple, Protocol

Path = str | bytes
_AT_FDCWD = -100
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_FALLOC_FL_PUNCH_HOLE, _FALLOC_FL_KEEP_SIZE = 2, 1


class Change(Protocol):
    """Anything with `apply`."""

    def apply(self, root: Path) -> None:
        """Does it to the tree below `root`."""


def below(root: Path, path: Path) -> bytes:
    """`path` below `root`, in bytes."""
    return os.path.join(os.fsencode(root), os.fsencode(path).lstrip(b"/"))


class write(NamedTuple):
    """Replaces the content of a file, or makes it (0666 less the umask)."""

    path: Path
    data: bytes

    def apply(self, root: Path) -> None:
        with open(below(root, self.path), "wb") as file:
            file.write(self.data)


class patch(NamedTuple):
    """Writes into an existing file; past its end it leaves a hole."""

    path: Path
    offset: int
    data: bytes

    def apply(self, root: Path) -> None:
        with open(below(root, self.path), "r+b") as file:
            file.seek(self.offset)
            file.write(self.data)


class append(NamedTuple):
    """Writes behind the end of a file (O_APPEND); makes it when it is missing (0666 less the umask)."""

    path: Path
    data: bytes

    def apply(self, root: Path) -> None:
        with open(below(root, self.path), "ab") as file:
            file.write(self.data)


class punch(NamedTuple):
    """Makes a range of a file a hole; its size stays."""

    path: Path
    offset: int
    size: int

    def apply(self, root: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        fd = os.open(below(root, self.path), os.O_WRONLY)
        try:
            if libc.fallocate(fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, self.offset, self.size) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), self.path)
        finally:
            os.close(fd)


class truncate(NamedTuple):
    """Sets the size of a file."""

    path: Path
    size: int

    def apply(self, root: Path) -> None:
        os.truncate(below(root, self.path), self.size)


class mkdir(NamedTuple):
    """Makes a directory."""

    path: Path
    mode: int = 0o755

    def apply(self, root: Path) -> None:
        os.mkdir(below(root, self.path), self.mode)


class rename(NamedTuple):
    """rename(2): replaces a file or an empty directory in the way."""

    old: Path
    new: Path

    def apply(self, root: Path) -> None:
        os.rename(below(root, self.old), below(root, self.new))


def _renameat2(one: bytes, other: bytes, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, one, _AT_FDCWD, other, flags) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), one)


class rename_new(NamedTuple):
    """rename(2) that replaces nothing (RENAME_NOREPLACE)."""

    old: Path
    new: Path

    def apply(self, root: Path) -> None:
        _renameat2(below(root, self.old), below(root, self.new), _RENAME_NOREPLACE)


class exchange(NamedTuple):
    """Swaps two names (RENAME_EXCHANGE)."""

    one: Path
    other: Path

    def apply(self, root: Path) -> None:
        _renameat2(below(root, self.one), below(root, self.other), _RENAME_EXCHANGE)


class unlink(NamedTuple):
    """Removes a name that is no directory."""

    path: Path

    def apply(self, root: Path) -> None:
        os.unlink(below(root, self.path))


class rmdir(NamedTuple):
    """Removes an empty directory."""

    path: Path

    def apply(self, root: Path) -> None:
        os.rmdir(below(root, self.path))


class rmtree(NamedTuple):
    """Removes a directory and everything in it."""

    path: Path

    def apply(self, root: Path) -> None:
        shutil.rmtree(below(root, self.path))


class link(NamedTuple):
    """Makes another name for a file; a symlink is linked itself."""

    old: Path
    new: Path

    def apply(self, root: Path) -> None:
        os.link(below(root, self.old), below(root, self.new), follow_symlinks=False)


class symlink(NamedTuple):
    """Makes a symlink with any target."""

    target: Path
    path: Path

    def apply(self, root: Path) -> None:
        os.symlink(os.fsencode(self.target), below(root, self.path))


class chmod(NamedTuple):
    """Sets permission bits; never give it a symlink."""

    path: Path
    mode: int

    def apply(self, root: Path) -> None:
        os.chmod(below(root, self.path), self.mode)


class chown(NamedTuple):
    """Sets owner and group, of a symlink itself."""

    path: Path
    uid: int
    gid: int

    def apply(self, root: Path) -> None:
        os.chown(below(root, self.path), self.uid, self.gid, follow_symlinks=False)


class setxattr(NamedTuple):
    """Sets an extended attribute, of a symlink itself."""

    path: Path
    name: str
    value: bytes

    def apply(self, root: Path) -> None:
        os.setxattr(below(root, self.path), self.name, self.value, follow_symlinks=False)


class setxattr_if(NamedTuple):
    """Sets one that must not be there (os.XATTR_CREATE) or must be (os.XATTR_REPLACE), of a symlink itself."""

    path: Path
    name: str
    value: bytes
    flags: int

    def apply(self, root: Path) -> None:
        os.setxattr(below(root, self.path), self.name, self.value, self.flags, follow_symlinks=False)


class removexattr(NamedTuple):
    """Removes an extended attribute, of a symlink itself."""

    path: Path
    name: str

    def apply(self, root: Path) -> None:
        os.removexattr(below(root, self.path), self.name, follow_symlinks=False)


class utime(NamedTuple):
    """Sets access and modification time to `mtime_ns`, of a symlink itself."""

    path: Path
    mtime_ns: int

    def apply(self, root: Path) -> None:
        os.utime(below(root, self.path), ns=(self.mtime_ns, self.mtime_ns), follow_symlinks=False)


class mknod(NamedTuple):
    """Makes a device, fifo or socket: `mode` with the type bits of `stat`."""

    path: Path
    mode: int
    device: int = 0

    def apply(self, root: Path) -> None:
        os.mknod(below(root, self.path), self.mode, self.device)


class touch_open(NamedTuple):
    """Opens a file for writing and writes nothing, which copies up its data."""

    path: Path

    def apply(self, root: Path) -> None:
        os.close(os.open(below(root, self.path), os.O_WRONLY))


class open_with(NamedTuple):
    """open(2) with any flags, and close."""

    path: Path
    flags: int
    mode: int = 0o666

    def apply(self, root: Path) -> None:
        os.close(os.open(below(root, self.path), self.flags, self.mode))


class look(NamedTuple):
    """Changes nothing: stat(2), which follows symlinks; `listdir` and `readlink` read the thing too."""

    path: Path
    how: Literal["stat", "lstat", "listdir", "readlink"] = "stat"

    def apply(self, root: Path) -> None:
        getattr(os, self.how)(below(root, self.path))


def errno_of(change: Change, root: Path) -> int:
    """Applies and returns 0, or the errno that it failed with."""
    try:
        change.apply(root)
    except OSError as error:
        return error.errno or -1
    return 0


def apply_all(changes: Iterable[Change], root: Path) -> None:
    """Applies one after the other; the first failure is raised."""
    for change in changes:
        change.apply(root)
