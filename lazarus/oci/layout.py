"""OCI image layouts (image-spec, image-layout.md), as a directory or as an archive of one."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from lazarus.errors import CorruptError, FormatError, LimitError, NotFoundError, UnsupportedError
from lazarus.oci.outer_tar import OuterTar
from lazarus.oci.strict_json import MAX_SIZE, load_object
from lazarus.terms import Descriptor, Digest

MARKER = "oci-layout"
INDEX = "index.json"
VERSION = "1.0.0"
_PIECE = 1 << 20
_Result = TypeVar("_Result")


class BlobSource:
    """Bytes in a file: `size` of them from `offset` of `fd`. A context manager; `close` is a no-op where the descriptor
    belongs to the archive."""

    __slots__ = ("_close", "fd", "offset", "size")

    def __init__(self, fd: int, offset: int, size: int, close: Callable[[int], None] | None = None) -> None:
        self.fd = fd
        self.offset = offset
        self.size = size
        self._close = close

    def close(self) -> None:
        """Idempotent."""
        close, self._close = self._close, None
        if close is not None:
            close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def read_by(self, read: Callable[[int, int | None], _Result]) -> _Result:
        """What `read(fd, offset)` returns, which reads `size` bytes from there."""
        return read(self.fd, self.offset)

    def pieces(self) -> Iterator[bytes]:
        """All of it, in pieces of up to 1 MiB; fewer bytes when the file is shorter."""
        at, end = self.offset, self.offset + self.size
        while at < end and (piece := os.pread(self.fd, min(_PIECE, end - at), at)):
            at += len(piece)
            yield piece

    def read(self, what: str, limit: int = MAX_SIZE) -> bytes:
        """All of it; `LimitError` over `limit` bytes, `CorruptError` when the file is shorter."""
        if self.size > limit:
            raise LimitError(f"{what}: {self.size} bytes, more than {limit}")
        data = os.pread(self.fd, self.size, self.offset)
        if len(data) != self.size:
            raise CorruptError(f"{what}: {len(data)} bytes, expected {self.size}")
        return data


def sha256(data: bytes) -> Digest:
    """The digest of bytes in memory."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


class DirectoryFiles:
    """A directory of the host. Symlinks in it are followed, but never out of it."""

    def __init__(self, path: str) -> None:
        self.what = path
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def open(self, name: str) -> BlobSource:
        from lazarus._native.openat2 import open_in_root

        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # not to wait for a FIFO's writer
        try:
            fd = open_in_root(self._root, os.fsencode(name), flags)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(f"{self.what}: no file {name}") from error
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise FormatError(f"{self.what}: {name} is not a regular file")
        return BlobSource(fd, 0, status.st_size, os.close)

    def close(self) -> None:
        """The directory; blobs that are open stay open."""
        os.close(self._root)


class ArchiveFiles:
    """An archive of a layout. The descriptor of `tar` stays its owner's."""

    def __init__(self, tar: OuterTar) -> None:
        self.what = tar.what
        self._tar = tar

    def open(self, name: str) -> BlobSource:
        member = self._tar.file(name)
        return BlobSource(self._tar.fd, member.offset, member.size)

    def close(self) -> None:
        """Nothing to do."""


class BlobFiles:
    """Blobs as files of a directory or an archive; they are looked at when they are asked for. A context manager."""

    def __init__(self, files: DirectoryFiles | ArchiveFiles) -> None:
        self.what = files.what
        self._files = files

    def _places(self, digest: Digest) -> tuple[str, ...]:
        """The names that a blob may have."""
        raise NotImplementedError

    def blob(self, descriptor: Descriptor, what: str) -> BlobSource:
        """Where the blob lies; its size is checked, its bytes are not. `what` names it in errors ("layer sha256:.")."""
        for name in self._places(descriptor.digest):
            try:
                source = self._files.open(name)
                break
            except NotFoundError as error:
                missing = error
        else:
            raise NotFoundError(f"{what}: not in {self.what}") from missing
        if source.size != descriptor.size:
            source.close()
            raise CorruptError(f"{what}: {source.size} bytes in {self.what}, its descriptor says {descriptor.size}")
        return source

    def part(self, descriptor: Descriptor, offset: int, size: int, what: str) -> bytes:
        """Some bytes of a blob, of which nothing is checked."""
        with self.blob(descriptor, what) as source:
            return os.pread(source.fd, size, source.offset + offset)

    def read(self, descriptor: Descriptor, what: str) -> bytes:
        """The bytes of a document (at most 4 MiB), checked against size and digest."""
        with self.blob(descriptor, what) as source:
            data = source.read(what)
        found = sha256(data)
        if found != descriptor.digest:
            raise CorruptError(f"{what}: its bytes have digest {found}")
        return data

    def _document(self, name: str) -> bytes:
        with self._files.open(name) as source:
            return source.read(f"{self.what}: {name}")

    def close(self) -> None:
        """Blobs that are open stay open."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Layout(BlobFiles):
    """An image layout."""

    def __init__(self, files: DirectoryFiles | ArchiveFiles) -> None:
        """Raises `FormatError` when `files` is no layout, `UnsupportedError` for another version."""
        super().__init__(files)
        version = load_object(self._document(MARKER), f"{self.what}: {MARKER}").get("imageLayoutVersion")
        if version != VERSION:
            raise UnsupportedError(f"{self.what}: image layout version {version!r:.40}, known is {VERSION}")

    def index(self) -> bytes:
        """The bytes of index.json."""
        return self._document(INDEX)

    def _places(self, digest: Digest) -> tuple[str, ...]:
        return (f"blobs/sha256/{digest.hex}",)


def open_layout(path: str) -> Layout:
    """The layout in a directory. Raises `FormatError` when it is none."""
    files = DirectoryFiles(path)
    try:
        return Layout(files)
    except NotFoundError as error:
        files.close()
        raise FormatError(f"{path}: not an OCI image layout: {error}") from error
    except BaseException:
        files.close()
        raise
