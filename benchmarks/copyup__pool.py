"""What does a pool buy? A container's first 4 KiB write to a 256 MiB file of its image, by the kernel's copy-up.

The same image in two stores on one disk: one as it is, one on a pool. Each turn makes a container, mounts it, and lets
a process of its own open the file and write; the clock runs in that process, from before the open to after the write.
The second figure has an fsync in it: what it takes until the change is on disk.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

import lazarus
from benchmarks.harness.results import record

SIZE = 256 << 20
ROUNDS = 9
WRITER = """
import os, sys, time
started = time.perf_counter()
fd = os.open(sys.argv[1], os.O_RDWR)
os.pwrite(fd, bytes(4096), 0)
wrote = time.perf_counter()
os.fsync(fd)
print(wrote - started, time.perf_counter() - started)
"""


def _tar(path: Path) -> Path:
    """A tar with one file of bytes that no file system can make less of."""
    content = path.with_suffix(".content")
    with open(content, "wb") as file:
        for _ in range(SIZE >> 20):
            file.write(os.urandom(1 << 20))
    with tarfile.open(path, "w") as tar:
        tar.add(content, "big")
    content.unlink()
    return path


def _write(store: lazarus.Store) -> tuple[float, float]:
    """One turn: seconds until the write returned, and until it was on disk."""
    container = store.containers.create("bench:big")
    try:
        path = f"{container.mount()}/big"
        with open(path, "rb") as file:  # the lower's first bytes are in memory in both stores
            file.read(4096)
        done = subprocess.run([sys.executable, "-I", "-S", "-c", WRITER, path], capture_output=True, check=True)
        container.unmount()
    finally:
        container.remove(force=True)
        os.sync()
    first, second = done.stdout.split()
    return float(first), float(second)


def test_first_write_to_a_large_file(benchmark: Any, scratch: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts")
    tar = _tar(scratch / "big.tar")
    stores = {name: lazarus.Store(scratch / name) for name in ("plain", "pool")}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in stores}
    try:
        stores["pool"].pool.create(2 << 30)
        for store in stores.values():
            store.images.import_(str(tar), "bench:big", changes=['CMD ["true"]'])
            _write(store)  # builds the stack and warms the caches

        def turn() -> None:
            for name, store in stores.items():
                seconds[name].append(_write(store))

        benchmark.pedantic(turn, rounds=ROUNDS, iterations=1)
    finally:
        for store in stores.values():
            if store.pool.exists:
                store.pool.destroy(force=True)
            store.close()
    find = ["findmnt", "-no", "FSTYPE", "-T", str(scratch)]
    host = subprocess.run(find, capture_output=True, text=True, check=False).stdout
    print(f"\nfirst 4 KiB write to a {SIZE >> 20} MiB file; the host's file system: {host.strip()}")
    rows = {
        name: [
            record(benchmark, f"lazarus ({name})", metric, "s", column)
            for metric, column in zip(("first write", "with fsync"), zip(*found, strict=True), strict=True)
        ]
        for name, found in seconds.items()
    }
    for name, (write, synced) in rows.items():
        print(f"  {name:5} write {write.median * 1e3:8.2f} ms, with fsync {synced.median * 1e3:8.2f} ms")
    ratios = [plain.median / pool.median for plain, pool in zip(rows["plain"], rows["pool"], strict=True)]
    print(f"  plain / pool: write {ratios[0]:.0f}x, with fsync {ratios[1]:.1f}x")
