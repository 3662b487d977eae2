"""Chunks of a buffer or a file, cut where their content says (FastCDC) or at a fixed size, with their digests.

    import lazarus

    rows = lazarus.chunks.cut("disk.img", average=64 << 10)
    rows["offset"], rows["length"], rows["sha256"], rows["xxh3"]

Content-defined cuts follow the bytes: after an insert all chunks but the few around it are the ones they were. How a
cut is found, and what a key protects from, stands in csrc/bytes/lz_chunk.h.
"""

from __future__ import annotations

import errno
import io
import operator
import os
import stat
from typing import TYPE_CHECKING, Any, TypeAlias

from lazarus._native.chunk import ROW_FIELDS, SHA256, XXH3, Chunker
from lazarus.errors import ConflictError

if TYPE_CHECKING:
    import numpy

    Rows: TypeAlias = numpy.ndarray[Any, numpy.dtype[Any]]

__all__ = ["blocks", "cut"]

# The limits of csrc/bytes/lz_chunk.h.
_MINIMUM, _AVERAGE, _MAXIMUM, _THREADS, _KEY = 64, 256, 1 << 30, 256, 32

#: Bytes of a file that are read before they are cut: few enough to be in the last-level cache then (32 MiB took a fifth
#: longer), and segments for eight threads.
WINDOW = 8 << 20
_SMALL = 64 << 10  # a window's first size, where the file does not say more
_PIECE = 1 << 20


def cut(
    source: object,
    *,
    average: int = 64 << 10,
    minimum: int | None = None,
    maximum: int | None = None,
    key: object = None,
    threads: int = 1,
    sha256: bool = True,
    xxh3: bool = True,
) -> Rows:
    """The content-defined chunks of `source`: a structured array with a row for each, in order, none missing between.

    `source` is a path (str or `os.PathLike`), or contiguous bytes of any kind (bytes, mmap, array): nobody may change
    those meanwhile. Sizes are bytes: `average` a power of two from 256 on, `minimum` from 64 on (a quarter of the
    average unless given), `maximum` up to 1 GiB (four times the average); only the last chunk can be smaller than the
    minimum. On bytes without pattern, and with the usual sizes, the mean is 1.15 times `average`. `key`: 32 secret
    bytes, such as a store's `chunk_key`; cuts then differ from those of any other key. `threads` work at once, with the
    same result.

    Fields: offset and length (uint64), sha256 (32 bytes), xxh3 (16 bytes: XXH3-128, canonical). A digest that is turned
    off is zeros. `rows["sha256"].view("V32")` makes one value of each.

    A file is read through a window of 8 MiB (and `maximum`), whatever its size, with the cuts that the whole would
    give. `ConflictError` when its size or times change meanwhile (a link or chmod by others is a change, too).
    ValueError, TypeError or BufferError for arguments; OSError. One buffer is one call: an interrupt waits for its end.
    A core (AMD EPYC, Zen 3) does 2.7 GB/s without digests, 1.4 with SHA-256, 1.2 with both; 64 bytes of rows a chunk.
    """
    average = operator.index(average)
    if not _AVERAGE <= average <= _MAXIMUM or average & (average - 1):
        raise ValueError(f"average: {average} bytes, expected a power of two from {_AVERAGE} to {_MAXIMUM}")
    minimum = max(_MINIMUM, average // 4) if minimum is None else operator.index(minimum)
    maximum = min(_MAXIMUM, average * 4) if maximum is None else operator.index(maximum)
    if not _MINIMUM <= minimum <= average:
        raise ValueError(f"minimum: {minimum} bytes, expected {_MINIMUM} to {average}, the average")
    if not average <= maximum <= _MAXIMUM:
        raise ValueError(f"maximum: {maximum} bytes, expected {average}, the average, to {_MAXIMUM}")
    if minimum == maximum:
        raise ValueError(f"minimum and maximum: both {minimum} bytes; blocks() has all of one size")
    secret = None if key is None else memoryview(key).cast("B")  # type: ignore[arg-type]
    if secret is not None and len(secret) != _KEY:
        raise ValueError(f"key: {len(secret)} bytes, expected {_KEY}")
    return _rows(source, Chunker(minimum, average, maximum, secret), maximum, threads, sha256, xxh3)


def blocks(source: object, size: int, *, threads: int = 1, sha256: bool = True, xxh3: bool = True) -> Rows:
    """The blocks of `size` bytes (1 to 1 GiB; the last may be smaller) of `source`; the rest is as in `cut()`."""
    size = operator.index(size)
    if not 1 <= size <= _MAXIMUM:
        raise ValueError(f"size: {size} bytes, expected 1 to {_MAXIMUM}")
    return _rows(source, Chunker(size, size, size), size, threads, sha256, xxh3)


def _rows(source: object, chunker: Chunker, maximum: int, threads: int, sha256: bool, xxh3: bool) -> Rows:
    import numpy

    threads = operator.index(threads)
    if not 1 <= threads <= _THREADS:
        raise ValueError(f"threads: {threads}, expected 1 to {_THREADS}")
    digests = (SHA256 if sha256 else 0) | (XXH3 if xxh3 else 0)
    if isinstance(source, str | os.PathLike):
        rows = _cut_file(os.fspath(source), chunker, maximum, threads, digests)
    else:
        _, rows = chunker.cut(source, digests=digests, threads=threads)
    return numpy.frombuffer(rows, numpy.dtype(list(ROW_FIELDS)))


def _cut_file(path: str | bytes, chunker: Chunker, maximum: int, threads: int, digests: int) -> bytearray:
    """Window after window; what a window leaves at its end is the beginning of the next.

    Read, not mapped: a file that shrinks under a mapping kills the process (SIGBUS). The window begins with the file's
    size where it has one (pipes and /proc have none, sysfs a wrong one), and grows until it is full size.
    """
    rows = bytearray()
    largest = WINDOW + maximum
    with io.FileIO(path) as file:
        before = os.fstat(file.fileno())
        window = bytearray(min(max(before.st_size + 1, _SMALL), largest))  # one more than it has: it is seen to end
        done = held = 0  # bytes that rows cover, and bytes in the window that follow them
        ended = False
        while not ended:
            if held == len(window) < largest:
                window += bytes(min(len(window), largest - held))
            while held < len(window) and not ended:
                got = _read(file, memoryview(window)[held:], path)
                held, ended = held + got, got == 0
            if len(window) < largest and not ended:
                continue
            view = memoryview(window)
            covered, more = chunker.cut(view[:held], base=done, last=ended, digests=digests, threads=threads)
            rows += more
            done, held = done + covered, held - covered
            view[:held] = view[covered : covered + held]
            if done > before.st_size and _version(os.fstat(file.fileno())) != _version(before):
                break  # it may go on growing for ever
        after = os.fstat(file.fileno())
    if stat.S_ISREG(before.st_mode) and _version(after) != _version(before):
        raise ConflictError(f"{os.fsdecode(path)}: changed while it was read ({before.st_size} bytes at first)")
    return rows


def _version(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(file: io.FileIO, into: memoryview, path: str | bytes) -> int:
    """In pieces: /proc/sys refuses to be asked for 4 MiB."""
    try:
        got = file.readinto(into[:_PIECE])
    except OSError as error:
        error.filename = path
        raise
    if got is None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)
    return got
