"""What the machine does at best, measured beside every run: a copy in memory, and writes to the disk under test."""

from __future__ import annotations

import ctypes
import mmap
import os
import statistics
import time
from pathlib import Path

_MIB = 1 << 20
_COPY = 256 * _MIB
_WRITE = 256 * _MIB


def limits(directory: Path) -> dict[str, str]:
    """In words, for the machine's facts; takes about two seconds, and `_WRITE` bytes below `directory` meanwhile."""
    found = {"copy in memory, one core": f"{_copy_rate() / 1e9:.1f} GB/s"}
    path = directory / f"limits-{os.getpid()}"
    try:
        rate, latency = _disk(path)
        found["write to the disk, 1 MiB at a time past the page cache"] = f"{rate / 1e6:,.0f} MB/s"
        found["4 KiB written and synced"] = f"{latency * 1e6:,.0f} us"
    except OSError as error:
        found["disk"] = f"not measured: {error}"
    finally:
        path.unlink(missing_ok=True)
    return found


def _copy_rate() -> float:
    source, target = (mmap.mmap(-1, _COPY) for _ in range(2))
    addresses = [ctypes.addressof(ctypes.c_char.from_buffer(memory)) for memory in (target, source)]
    seconds = []
    for _ in range(6):
        begun = time.perf_counter()
        ctypes.memmove(*addresses, _COPY)
        seconds.append(time.perf_counter() - begun)
    return _COPY / statistics.median(seconds[1:])  # the first one gets the pages


def _disk(path: Path) -> tuple[float, float]:
    """Bytes a second of direct writes with a sync at their end, and the seconds of a small write with a sync."""
    data = mmap.mmap(-1, _MIB)  # aligned as O_DIRECT wants it
    data.write(os.urandom(_MIB))
    direct = os.O_DIRECT if _takes_direct(path) else 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | direct, 0o600)
    try:
        begun = time.perf_counter()
        for _ in range(_WRITE // _MIB):
            os.write(fd, data)
        os.fsync(fd)
        rate = _WRITE / (time.perf_counter() - begun)
    finally:
        os.close(fd)
    fd = os.open(path, os.O_WRONLY)
    try:
        seconds = []
        for number in range(20):
            begun = time.perf_counter()
            os.pwrite(fd, data[:4096], number * 8 * _MIB)
            os.fdatasync(fd)
            seconds.append(time.perf_counter() - begun)
    finally:
        os.close(fd)
    return rate, statistics.median(seconds)


def _takes_direct(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600))
    except OSError:
        return False
    return True
