"""Where a saved image goes: an archive (file or pipe) or a directory. The same members give the same bytes: no times.

A writer is given members one after the other; what is not `finish`ed is worth nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from lazarus.errors import CorruptError

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


def put(writer: Writer, name: str, data: bytes) -> None:
    """A small file."""
    writer.file(name, len(data), lambda fd: write_all(fd, data))


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
