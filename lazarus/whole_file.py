"""Files for a user that appear under their name when they are whole, and not before."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lazarus.errors import NO_ROOM

# what file systems without O_TMPFILE answer: NFS, FUSE, overlayfs before Linux 6.1
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)


@contextmanager
def whole_file(path: str) -> Iterator[int]:
    """A descriptor for writing; at the end of the `with` the file is synced, and is or replaces `path` in one step.

    Until then it has no name (O_TMPFILE), so that nothing is left of it when it fails or the process is killed; on a
    file system that has no such files it is `NAME.*.partial` beside the target, which a kill leaves there. A file that
    is replaced keeps its mode; a symlink stays, and what it points to is replaced. What is no regular file (a pipe, a
    device) is written directly. Errors name `path` and no other.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        found = None
    if found is not None and not stat.S_ISREG(found.st_mode):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            with _naming(path):
                yield fd
        finally:
            os.close(fd)
        return
    if not path or path.endswith("/"):
        code = errno.EISDIR if path else errno.ENOENT
        raise OSError(code, os.strerror(code), path)
    target = os.path.realpath(path)
    name = os.path.basename(target)
    partial = f"{name[:50]}.{os.urandom(6).hex()}.partial"
    with _naming(path, always=True):
        directory = os.open(os.path.dirname(target), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    fd = -1
    try:
        with _naming(path, always=True):
            fd, named = _create(directory, partial)
            if found is not None:
                os.fchmod(fd, stat.S_IMODE(found.st_mode))
        try:
            with _naming(path):
                yield fd
                os.fsync(fd)
            with _naming(path, always=True):
                if not named:
                    named = _give_name(fd, directory, name, partial)
                if named:
                    os.rename(partial, name, src_dir_fd=directory, dst_dir_fd=directory)
            with named_after_all(path):
                _sync_names(directory)
        except BaseException:
            if named:
                with suppress(FileNotFoundError):
                    os.unlink(partial, dir_fd=directory)
            raise
    finally:
        if fd >= 0:
            os.close(fd)
        os.close(directory)


def _create(directory: int, partial: str) -> tuple[int, bool]:
    """An empty file: its descriptor, and whether it has a name."""
    try:
        return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666, dir_fd=directory), False
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
    return os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=directory), True


def _give_name(fd: int, directory: int, name: str, partial: str) -> bool:
    """Links it under its name; where that is taken, under the other one, from which it has to be renamed: True."""
    source = f"/proc/self/fd/{fd}"
    try:
        os.link(source, name, dst_dir_fd=directory)
        return False
    except FileExistsError:
        os.link(source, partial, dst_dir_fd=directory)
        return True


def _sync_names(directory: int) -> None:
    """The name, too, survives a power cut. A directory that may be written but not read cannot be asked for that."""
    with suppress(PermissionError):
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextmanager
def named_after_all(path: str) -> Iterator[None]:
    """Around what makes a name durable that is there already: an error must not read as if it were not."""
    try:
        yield
    except OSError as error:
        said = f"it is there and whole, but a power cut may take its name: {error.strerror}"
        raise OSError(error.errno, said, path) from error


@contextmanager
def _naming(path: str, *, always: bool = False) -> Iterator[None]:
    """Errors speak of the path that the user knows: all that the kernel raises, or only those of a full disk."""
    try:
        yield
    except OSError as error:
        if always or (error.filename is None and error.errno in NO_ROOM):
            error.filename, error.filename2 = path, None
        raise
