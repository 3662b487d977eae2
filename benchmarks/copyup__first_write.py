"""What does the first write to a file of a lower layer cost? 4 KiB into 1 MiB, 64 MiB, 1 GiB: until the call returns,
and bytes that reach the disk for each byte that was written.

Lower and upper are on one file system, as they are in a store. Each turn is a process of its own; the clock runs in it,
from before the file is opened to after the write. A layer stack is opened, and an overlay mounted, before that. `cp` is
what somebody without any of this does: the copy, then the write. The bars: under 2 ms (aim 0.3 ms) on each file system;
write amplification on ext4 of 40 for one write (aim 16), of 4 for 1,000 random ones (aim 1.5).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.disks import Disk, run
from benchmarks.harness.results import record, record_missing

ROUNDS = 7
OURS = "lazarus"

# Both take a path, or the places of a stack, how many writes, and print the seconds until the first had returned.
WRITER = """
import os, random, sys, time
path, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random.seed(count)
blocks = [random.randrange(size // 4096) * 4096 for _ in range(count)]
data = os.urandom(4096)
started = time.perf_counter()
%s
fd = os.open(path, os.O_RDWR)
os.pwrite(fd, data, blocks[0])
first = time.perf_counter() - started
for block in blocks[1:]:
    os.pwrite(fd, data, block)
assert os.pread(fd, 4096, blocks[-1]) == data
print(first)
"""
COPY = "import subprocess; subprocess.run(['cp', '--reflink=auto', sys.argv[4], path], check=True)"
STACK_WRITER = """
import os, random, sys, time
import lazarus
place, count, size, rung = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
random.seed(count)
blocks = [random.randrange(size // 4096) * 4096 for _ in range(count)]
data = os.urandom(4096)
stack = lazarus.LayerStack([f"{place}/lower"], upper=f"{place}/upper", work=f"{place}/work", rung=rung)
started = time.perf_counter()
file = stack.open("big", "r+b", buffering=0)
file.seek(blocks[0])
file.write(data)
first = time.perf_counter() - started
for block in blocks[1:]:
    file.seek(block)
    file.write(data)
file.seek(blocks[-1])
assert file.read(4096) == data
file.close()
stack.close()
print(first)
"""


@dataclass
class Contender:
    """Who writes: what is set up before, the process, and what is undone after; seconds of each turn."""

    name: str
    command: Callable[[Path, int], list[str]]
    before: Callable[[Path], None] = lambda place: None
    after: Callable[[Path], None] = lambda place: None
    seconds: list[float] = field(default_factory=list)
    amplification: list[float] = field(default_factory=list)

    def turn(self, disk: Disk, count: int) -> None:
        """One turn on a clean upper."""
        place = disk.path
        for name in ("upper", "work", "merged"):
            (place / name).mkdir()
        try:
            self.before(place)
            try:
                begun = disk.written()
                done = subprocess.run(self.command(place, count), capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    raise RuntimeError(f"{self.name}: {done.stderr.strip()[-300:]}")
                ended = disk.written()
            finally:
                self.after(place)
        finally:
            for name in ("upper", "work", "merged"):
                shutil.rmtree(place / name)
            os.sync()
        self.seconds.append(float(done.stdout))
        if begun is not None and ended is not None:
            self.amplification.append((ended - begun) / (count * 4096))


def _plain(path: str) -> Callable[[Path, int], list[str]]:
    return lambda place, count: [*_PYTHON, WRITER % "", str(place / path), str(count), _size(place)]


def _copy(place: Path, count: int) -> list[str]:
    lower, copy = str(place / "lower/big"), str(place / "upper/big")
    return [*_PYTHON, WRITER % COPY, copy, str(count), _size(place), lower]


def _stack(rung: str) -> Callable[[Path, int], list[str]]:
    return lambda place, count: [sys.executable, "-c", STACK_WRITER, str(place), str(count), _size(place), rung]


_PYTHON = (sys.executable, "-I", "-S", "-c")


def _size(place: Path) -> str:
    return str((place / "lower/big").stat().st_size)


def _options(place: Path) -> str:
    return f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"


def _unmount(place: Path) -> None:
    run("umount", str(place / "merged"))


def contenders(rungs: tuple[str, ...]) -> list[Contender]:
    """Ours first, once for each rung of the ladder that is asked for ("auto" is what nobody has to ask for)."""
    ours = [Contender(OURS if rung == "auto" else f"{OURS} ({rung})", _stack(rung)) for rung in rungs]
    return [
        *ours,
        Contender(
            "kernel overlayfs",
            _plain("merged/big"),
            before=lambda place: void(run("mount", "-t", "overlay", "-o", _options(place), "o", f"{place}/merged")),
            after=_unmount,
        ),
        Contender(
            "fuse-overlayfs",
            _plain("merged/big"),
            before=lambda place: void(run("fuse-overlayfs", "-o", _options(place), f"{place}/merged")),
            after=_unmount,
        ),
        Contender("cp --reflink=auto", _copy),
    ]


def void(_: str) -> None:
    """For commands whose output says nothing."""


def race(benchmark: Any, disk: Disk, everyone: list[Contender], size: int, count: int, rounds: int) -> None:
    """Fills the lower, then lets everyone write in turns; who fails at first is reported as missing."""
    (disk.path / "lower").mkdir()
    with open(disk.path / "lower/big", "wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
    missing: dict[str, str] = {}
    for contender in everyone:
        try:
            contender.turn(disk, count)
        except (RuntimeError, OSError) as error:
            if contender.name == OURS:
                raise
            missing[contender.name] = str(error)
        contender.seconds.clear()
        contender.amplification.clear()
    alive = [contender for contender in everyone if contender.name not in missing]

    def turn() -> None:
        for contender in alive:
            contender.turn(disk, count)

    benchmark.pedantic(turn, rounds=rounds, iterations=1)
    benchmark.extra_info["disk"] = disk.facts()
    record_missing(benchmark, missing)
    case = f"{count} x 4 KiB into {size >> 20} MiB"
    print(f"\n{case} on {disk.kind}")
    for contender in alive:
        where = {"case": case, "file_system": disk.kind}
        first = record(benchmark, contender.name, "first write", "s", contender.seconds, **where)
        line = f"  {contender.name:20} first write {first.median * 1e3:9.2f} ms ± {first.spread * 1e3:6.2f}"
        if contender.amplification:
            wrote = record(benchmark, contender.name, "write amplification", "x", contender.amplification, **where)
            line += f"   written {wrote.median:11.2f} bytes a byte ± {wrote.spread:.2f}"
        print(line)
    for name, why in missing.items():
        print(f"  {name:20} missing: {why:.100}")


@pytest.mark.parametrize("mebibytes", [1, 64, 1024])
def test_first_write(benchmark: Any, disk: Disk, mebibytes: int, quick: bool) -> None:
    if quick and mebibytes != 64:
        pytest.skip("not in the quick set")
    rungs = ("auto", "blocks") if disk.kind in ("xfs", "btrfs") else ("auto",)
    race(benchmark, disk, contenders(rungs), mebibytes << 20, 1, 3 if quick else ROUNDS)


def test_a_thousand_writes(benchmark: Any, disk: Disk, quick: bool) -> None:
    if quick and disk.kind != "ext4":
        pytest.skip("not in the quick set")
    size, rounds = (1 << 28, 3) if quick else (1 << 30, 5)
    race(benchmark, disk, contenders(("auto",)), size, 1000, rounds)
