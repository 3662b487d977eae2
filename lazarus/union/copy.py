"""Copying between a tree and the host, by the rules of `docker cp`.

SOURCE may be a file or a directory; a directory written `DIR/.` means what is in it.
    TARGET exists as a directory       SOURCE goes into it, under its own name
    TARGET does not exist              its parent must; SOURCE is copied under TARGET's name (a file, not to `TARGET/`)
    TARGET exists as a file            a file replaces it, a directory is refused
    TARGET exists as anything else     it is refused: a device, FIFO or socket is nobody's copy (what a directory holds
                                       replaces what has the same names in there, though, as tar does it)
A symlink as SOURCE is copied as a symlink; a symlink on the way to TARGET is followed, in an image or container always
inside it. What arrives belongs to root (inside) or to the caller (on the host), without set-ID bits and capabilities,
which were for the owner before, as cp leaves them out; unless `archive`.

A tree has one of two sides: directories reached by an opener (the host; a running container), or a `LayerStack`. What
is copied travels as a tar through a pipe between two native passes, both of which resolve names below what they hold:
somebody who swaps symlinks meanwhile can make them fail or miss something, never leave the tree.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, TYPE_CHECKING, NamedTuple, Protocol

from lazarus._native.pack import pack_tree
from lazarus._native.pack import unpack as unpack_tree
from lazarus._native.union_tar import pack, unpack
from lazarus.errors import ConflictError, NotFoundError, UnsupportedError
from lazarus.union.pipe import through_pipe

if TYPE_CHECKING:
    from lazarus.union.layer_stack import LayerStack

Opener = Callable[[bytes, int], int]  # (path, flags) -> descriptor


class Source(NamedTuple):
    """What is to be copied. `pack(out_fd, name)` writes it as a tar, called `name`; None: what is in it."""

    name: bytes
    is_directory: bool
    contents_only: bool
    pack: Callable[[int, bytes | None], object]


class Target(NamedTuple):
    """An existing directory, and the name that the source gets in it (None: what is in the source goes there).
    `unpack(in_fd, keep_owner)` makes a tar's entries there."""

    name: bytes | None
    unpack: Callable[[int, bool], object]


class Side(Protocol):
    """One of the two trees."""

    def source(self, text: str) -> AbstractContextManager[Source]:
        """Opens what is to be copied. `NotFoundError`, `ConflictError`, `UnsupportedError`."""

    def target(self, text: str, source: Source) -> AbstractContextManager[Target]:
        """Opens where it goes, by the rules above. `NotFoundError`, `ConflictError`."""

    def directory(self, text: str) -> AbstractContextManager[Target]:
        """Opens a directory that a tar's entries go into. `NotFoundError`."""


def copy(source_side: Side, source: str, target_side: Side, target: str, *, archive: bool) -> None:
    """Copies `source` to `target`."""
    with source_side.source(source) as what, target_side.target(target, what) as where:
        try:
            through_pipe(
                lambda out_fd: what.pack(out_fd, where.name),
                lambda in_fd: where.unpack(in_fd, archive),
            )
        except (IsADirectoryError, NotADirectoryError) as error:
            raise ConflictError(
                f"cp {source}: a directory and a file meet at {os.fsdecode(error.filename or target)}"
            ) from error


def copy_out(side: Side, source: str, target: str | IO[bytes] | int, *, archive: bool) -> None:
    """Copies `source` of a tree to a path of the host, or writes it as a tar to a file object or descriptor."""
    if isinstance(target, str):
        copy(side, source, HOST, target, archive=archive)
        return
    with side.source(source) as what:
        what.pack(target if isinstance(target, int) else target.fileno(), None if what.contents_only else what.name)


def copy_in(side: Side, source: str | IO[bytes] | int, target: str, *, archive: bool) -> None:
    """Copies a path of the host, or the entries of a tar, to `target` of a tree."""
    if isinstance(source, str):
        copy(HOST, source, side, target, archive=archive)
        return
    with side.directory(target) as where:
        where.unpack(source if isinstance(source, int) else source.fileno(), archive)


class Directories:
    """The side of files that an opener gives descriptors of. `name` stands before paths in errors (name:/path)."""

    def __init__(self, opener: Opener, *, on_host: bool = False, name: str = "") -> None:
        self._opener = opener
        self._on_host = on_host
        self._name = name

    @contextmanager
    def source(self, text: str) -> Iterator[Source]:
        """See `Side`."""
        contents_only = text.endswith("/.") or text == "."
        path = text.rstrip("/") or "/"
        # The descriptor is O_PATH unless it is a directory's: a device or FIFO must not be opened.
        fd = self._open(path, os.O_PATH | (0 if text.endswith("/") else os.O_NOFOLLOW))
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISDIR(mode):
                inside = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
                os.close(fd)
                fd = inside
            _check_source(_shown(self._name, text), stat.S_ISDIR(mode), stat.S_ISSOCK(mode))
            name = os.path.basename(os.path.abspath(path)) if self._on_host else _base(path)
            yield Source(
                os.fsencode(name),
                stat.S_ISDIR(mode),
                contents_only or not name,
                lambda out_fd, root_name: pack_tree(fd, out_fd, root_name=root_name),
            )
        finally:
            os.close(fd)

    @contextmanager
    def target(self, text: str, source: Source) -> Iterator[Target]:
        """See `Side`."""
        parent, name = _place(text, source, self._kind, _shown(self._name, text))
        with self.directory(parent or ("." if self._on_host else "/")) as directory:
            yield Target(name, directory.unpack)

    @contextmanager
    def directory(self, text: str) -> Iterator[Target]:
        """See `Side`."""
        fd = self._open(text, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield Target(
                None,
                lambda in_fd, keep_owner: unpack_tree(in_fd, fd, keep_owner=keep_owner, no_replace_directory=True),
            )
        finally:
            os.close(fd)

    def _kind(self, path: str, follow: bool) -> str | None:
        try:
            fd = self._opener(os.fsencode(path), os.O_PATH | (0 if follow else os.O_NOFOLLOW))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise NotFoundError(f"cp: {_shown(self._name, path)}: {error.strerror}") from error
        try:
            mode = os.fstat(fd).st_mode
            kinds = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "symlink"}
            return kinds.get(stat.S_IFMT(mode), "other")
        finally:
            os.close(fd)

    def _open(self, path: str, flags: int) -> int:
        try:
            return self._opener(os.fsencode(path), flags)
        except OSError as error:
            raise NotFoundError(f"cp: {_shown(self._name, path)}: {error.strerror}") from error


HOST = Directories(lambda path, flags: os.open(path, flags | os.O_CLOEXEC), on_host=True)


class Stack:
    """The side of a layer stack, which must have an upper to be copied to; `name` as for `Directories`."""

    def __init__(self, stack: LayerStack, *, name: str = "") -> None:
        self._stack = stack
        self._name = name

    @contextmanager
    def source(self, text: str) -> Iterator[Source]:
        """See `Side`."""
        contents_only = text.endswith("/.") or text == "."
        path = text.rstrip("/") or "/"
        follow = text.endswith("/")
        kind = self._kind(path, follow)
        if kind is None:
            raise NotFoundError(f"cp: {_shown(self._name, text)}: No such file or directory")
        _check_source(_shown(self._name, text), kind == "directory", kind == "socket")
        name = _base(path)
        yield Source(
            os.fsencode(name),
            kind == "directory",
            contents_only or not name,
            lambda out_fd, root_name: pack(self._stack, path, out_fd, follow=follow, root_name=root_name),
        )

    @contextmanager
    def target(self, text: str, source: Source) -> Iterator[Target]:
        """See `Side`."""
        parent, name = _place(text, source, self._kind, _shown(self._name, text))
        with self.directory(parent or "/") as directory:
            yield Target(name, directory.unpack)

    @contextmanager
    def directory(self, text: str) -> Iterator[Target]:
        """See `Side`."""
        kind = self._kind(text, True)
        if kind != "directory":
            what = "No such file or" if kind is None else "Not a"
            raise NotFoundError(f"cp: {_shown(self._name, text)}: {what} directory")
        yield Target(
            None,
            lambda in_fd, keep_owner: unpack(
                self._stack, in_fd, text, keep_owner=keep_owner, no_replace_directory=True
            ),
        )

    def _kind(self, path: str, follow: bool) -> str | None:
        try:
            found = self._stack.lookup(path, follow=follow)
        except OSError as error:
            raise NotFoundError(f"cp: {_shown(self._name, path)}: {error.strerror}") from error
        return None if found is None else found.kind


def _shown(name: str, path: str) -> str:
    """A path of a tree as its user wrote it, or nearly."""
    return f"{name}:{path}" if name else path


def _base(path: str) -> str:
    """The last name of a path inside a tree; "" for its root."""
    return posixpath.basename(posixpath.normpath(path))


def _check_source(text: str, is_directory: bool, is_socket: bool) -> None:
    if not is_directory and text.endswith(("/", "/.")):
        raise ConflictError(f"cp {text}: not a directory")
    if is_socket:
        raise UnsupportedError(f"cp {text}: a socket cannot be copied")


def _place(
    text: str, source: Source, kind_of: Callable[[str, bool], str | None], shown: str
) -> tuple[str, bytes | None]:
    """The directory that a source goes into, and its name there, by the rules at the top. `kind_of(path, follow)` says
    what is there; `shown`: `text` in errors."""
    kind = kind_of(text, True)
    if kind == "directory":
        if source.contents_only:
            return text, None
        _check_replaced(kind_of(posixpath.join(text, os.fsdecode(source.name)), False), shown)
        return text, source.name
    _check_replaced(kind, shown)
    if kind is not None and source.is_directory:
        raise ConflictError(f"cp: {shown}: a directory cannot replace a file")
    if kind is None and not source.is_directory and text.endswith("/"):
        raise NotFoundError(f"cp: {shown}: no such directory")
    parent, base = posixpath.split(text.rstrip("/"))
    if base in ("", ".", ".."):
        raise NotFoundError(f"cp: {shown}: no such file or directory")
    return parent, os.fsencode(base)


def _check_replaced(kind: str | None, shown: str) -> None:
    if kind not in (None, "directory", "file", "symlink"):
        raise ConflictError(f"cp: {shown}: a device, FIFO or socket is there, and a copy replaces files only")
