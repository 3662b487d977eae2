"""Copying between a container and the host, and the export of all its files.

Rules of `docker cp`. SOURCE may be a file or a directory; a directory written `DIR/.` means what is in it.
    TARGET exists as a directory       SOURCE goes into it, under its own name
    TARGET does not exist              its parent must; SOURCE is copied under TARGET's name (a file, not to `TARGET/`)
    TARGET exists as a file            a file replaces it, a directory is refused
A symlink as SOURCE is copied as a symlink; a symlink on the way to TARGET is followed, inside the container always as
the container would. What arrives belongs to root (in the container) or to the caller (on the host), unless `archive`.

The tree travels as a tar from `pack_tree` to `unpack` through a pipe, both of which hold on to descriptors.
A running container shows its volumes; one that is not mounted is mounted meanwhile.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, NamedTuple

from lazarus._native.openat2 import open_in_root
from lazarus._native.pack import pack_tree, unpack
from lazarus.containers import rootfs
from lazarus.containers.state import Lock
from lazarus.containers.streams import through_pipe
from lazarus.errors import ConflictError, NotFoundError, UnsupportedError

if TYPE_CHECKING:
    from lazarus.containers.container import Container

Opener = Callable[[bytes, int], int]  # (path, flags) -> descriptor, on the host or inside a container


class _Target(NamedTuple):
    """An open directory, and the name that the source gets in it (None: what is in the source goes there)."""

    directory: int
    name: bytes | None


@contextmanager
def open_root(container: Container) -> Iterator[int]:
    """A descriptor of the container's root directory: what its process sees when it runs, else the mounted layers."""
    with Lock(container.directory) as lock:
        mounted_here = False
        if container._execution.settled().process.alive:
            root = container._execution.open_live_root()
            lock.release()  # a long copy must not hold up its end
        else:
            if not rootfs.is_mounted(container.rootfs):
                rootfs.mount(container.store, container.directory, container.settings)
                mounted_here = True
            try:
                root = os.open(container.rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except BaseException:
                if mounted_here:
                    rootfs.unmount(container.directory)
                raise
        try:
            yield root
        finally:
            os.close(root)
            if mounted_here:
                rootfs.unmount(container.directory)


def export(container: Container, out_fd: int) -> int:
    """See `Container.export`."""
    with open_root(container) as root:
        inside = os.open(f"/proc/self/fd/{root}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return pack_tree(inside, out_fd)
        finally:
            os.close(inside)


def copy_in(container: Container, source: str | IO[bytes] | int, target: str, *, archive: bool) -> None:
    """See `Container.copy_in`."""
    with open_root(container) as root:

        def opener(path: bytes, flags: int) -> int:
            return open_in_root(root, path, flags)

        if not isinstance(source, str):
            stream = source if isinstance(source, int) else source.fileno()
            directory = _open(opener, target, os.O_RDONLY | os.O_DIRECTORY)
            try:
                unpack(stream, directory, keep_owner=archive, no_replace_directory=True)
            finally:
                os.close(directory)
            return
        _copy(_on_host, source, opener, target, archive)


def copy_out(container: Container, source: str, target: str | IO[bytes] | int, *, archive: bool) -> None:
    """See `Container.copy_out`."""
    with open_root(container) as root:

        def opener(path: bytes, flags: int) -> int:
            return open_in_root(root, path, flags)

        if not isinstance(target, str):
            stream = target if isinstance(target, int) else target.fileno()
            name, fd, contents_only = _open_source(opener, source)
            try:
                pack_tree(fd, stream, root_name=None if contents_only else name)
            finally:
                os.close(fd)
            return
        _copy(opener, source, _on_host, target, archive)


def _on_host(path: bytes, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC)


def _copy(source_opener: Opener, source: str, target_opener: Opener, target: str, archive: bool) -> None:
    name, source_fd, contents_only = _open_source(source_opener, source)
    try:
        is_directory = stat.S_ISDIR(os.fstat(source_fd).st_mode)
        place = _open_target(target_opener, target, name, is_directory, contents_only)
        try:
            through_pipe(
                lambda out_fd: pack_tree(source_fd, out_fd, root_name=place.name),
                lambda in_fd: unpack(in_fd, place.directory, keep_owner=archive, no_replace_directory=True),
            )
        except (IsADirectoryError, NotADirectoryError) as error:
            raise ConflictError(
                f"cp {source}: a directory and a file meet at {os.fsdecode(error.filename or target)}"
            ) from error
        finally:
            os.close(place.directory)
    finally:
        os.close(source_fd)


def _open_source(opener: Opener, text: str) -> tuple[bytes, int, bool]:
    """Its name, a descriptor (O_PATH unless it is a directory), and whether only what is in it was meant."""
    contents_only = text.endswith("/.") or text == "."
    path = text.rstrip("/") or "/"
    fd = _open(opener, path, os.O_PATH | (0 if text.endswith("/") else os.O_NOFOLLOW))
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        os.close(fd)
        fd = _open(opener, path, os.O_RDONLY | os.O_DIRECTORY)
    elif text.endswith(("/", "/.")):
        os.close(fd)
        raise ConflictError(f"cp {text}: not a directory")
    elif stat.S_ISSOCK(mode):
        os.close(fd)
        raise UnsupportedError(f"cp {text}: a socket cannot be copied")
    name = (
        os.path.basename(os.path.abspath(path)) if opener is _on_host else posixpath.basename(posixpath.normpath(path))
    )
    return os.fsencode(name), fd, contents_only or not name


def _open_target(opener: Opener, text: str, name: bytes, is_directory: bool, contents_only: bool) -> _Target:
    """Where it goes, by the rules at the top."""
    try:
        fd = opener(os.fsencode(text), os.O_PATH)
    except FileNotFoundError:
        fd = -1
    except OSError as error:
        raise NotFoundError(f"cp: {text}: {error.strerror}") from error
    if fd >= 0:
        mode = os.fstat(fd).st_mode
        os.close(fd)
        if stat.S_ISDIR(mode):
            return _Target(_open(opener, text, os.O_RDONLY | os.O_DIRECTORY), None if contents_only else name)
        if is_directory:
            raise ConflictError(f"cp: {text}: a directory cannot replace a file")
    elif not is_directory and text.endswith("/"):
        raise NotFoundError(f"cp: {text}: no such directory")
    parent, base = posixpath.split(text.rstrip("/"))
    if base in ("", ".", ".."):
        raise NotFoundError(f"cp: {text}: no such file or directory")
    return _Target(
        _open(opener, parent or ("." if opener is _on_host else "/"), os.O_RDONLY | os.O_DIRECTORY), os.fsencode(base)
    )


def _open(opener: Opener, path: str, flags: int) -> int:
    try:
        return opener(os.fsencode(path), flags)
    except OSError as error:
        raise NotFoundError(f"cp: {path}: {error.strerror}") from error
