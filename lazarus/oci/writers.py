"""Where a saved image goes: an archive (file or pipe) or a directory. The same members give the same bytes: no times.

A writer is given members one after the other; what is not `finish`ed is worth nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Protocol

from lazarus.errors import CorruptError
from lazarus.terms import Digest

BLOCK = 512
Producer = Callable[[int], int]  # writes to a descriptor, returns how many bytes


class Writer(Protocol):
    """`directory` before its files; `file` calls `produce(fd)`, which must write exactly `size` bytes."""

    def directory(self, name: str) -> None: ...
    def file(self, name: str, size: int, produce: Producer) -> None: ...
    def finish(self) -> None: ...


def write_all(fd: int, data: bytes | memoryview) -> int:
    """Everything, to a pipe too. Returns the number of bytes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return len(data)


def write_hashed(path: str, digest: Digest | None, pieces: Iterable[bytes | memoryview]) -> tuple[Digest, int]:
    """A new file of these pieces, on disk: the digest and size of its bytes. `CorruptError` when they have not the
    digest that is expected, and then no file is left."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        found, size = copy_hashed(fd, pieces)
        if digest is not None and found != digest:
            raise CorruptError(f"blob {digest}: its bytes have digest {found}")
        os.fsync(fd)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)
    return found, size


def copy_hashed(fd: int, pieces: Iterable[bytes | memoryview]) -> tuple[Digest, int]:
    """Writes pieces to a descriptor; the digest and number of their bytes."""
    import hashlib

    hasher = hashlib.sha256()
    size = 0
    for piece in pieces:
        hasher.update(piece)
        size += write_all(fd, piece)
    return Digest("sha256:" + hasher.hexdigest()), size


def put(writer: Writer, name: str, data: bytes) -> None:
    """A small file."""
    writer.file(name, len(data), lambda fd: write_all(fd, data))


def put_file(writer: Writer, name: str, fd: int) -> None:
    """All of an open file."""

    def produce(out_fd: int) -> int:
        at = 0
        while piece := os.pread(fd, 1 << 20, at):
            at += write_all(out_fd, piece)
        return at

    writer.file(name, os.fstat(fd).st_size, produce)


class ArchiveWriter:
    """A ustar archive on a descriptor (file, pipe, socket), which stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def directory(self, name: str) -> None:
        write_all(self._fd, header(name.rstrip("/") + "/", b"5", 0o755, 0))

    def file(self, name: str, size: int, produce: Producer) -> None:
        write_all(self._fd, header(name, b"0", 0o644, size))
        _check_size(name, produce(self._fd), size)
        write_all(self._fd, bytes(-size % BLOCK))

    def finish(self) -> None:
        """Two empty blocks."""
        write_all(self._fd, bytes(2 * BLOCK))


class DirectoryWriter:
    """Files below a directory that exists and is empty."""

    def __init__(self, root: str) -> None:
        self._root = root

    def directory(self, name: str) -> None:
        os.mkdir(f"{self._root}/{name}", 0o755)

    def file(self, name: str, size: int, produce: Producer) -> None:
        fd = os.open(f"{self._root}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            _check_size(name, produce(fd), size)
            os.fsync(fd)
        finally:
            os.close(fd)

    def finish(self) -> None:
        """Nothing to do."""


def _check_size(name: str, written: int, size: int) -> None:
    if written != size:
        raise CorruptError(f"{name}: {written} bytes came, {size} were announced")


def header(name: str, flag: bytes, mode: int, size: int) -> bytes:
    """A ustar header: root, time 0. Sizes of 8 GiB and more are base-256, as GNU tar and Go write them."""
    encoded = name.encode()
    if len(encoded) > 100:
        raise ValueError(f"{name!r}: longer than 100 bytes")
    octal = b"%011o\0" % size if size < 1 << 33 else b"\x80" + size.to_bytes(11, "big")
    fields = (
        encoded.ljust(100, b"\0"),
        b"%07o\0" % mode,
        b"%07o\0" % 0,
        b"%07o\0" % 0,
        octal,
        b"%011o\0" % 0,
        b" " * 8,
        flag,
        bytes(100),
        b"ustar\00000",
        bytes(64),
        b"%07o\0" % 0,
        b"%07o\0" % 0,
    )
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
