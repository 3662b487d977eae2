"""What does the first write to a large file of a lower layer cost? 4 KiB into 1 GiB: until the call returns, and bytes
that reach the disk for each byte that was written.

Lower and upper are on one file system, as they are in a store. Each turn is a process of its own; the clock runs in it,
from before the file is opened to after the write. A layer stack is opened, and an overlay mounted, before that. `cp` is
what somebody without any of this does: the copy, then the write. The bars: under 2 ms (aim 0.3 ms) on each file system;
write amplification on ext4 of 40 for one write (aim 16), of 4 for 1,000 random ones (aim 1.5).
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.disks import Disk, run

SIZE = 1 << 30
DISK = 5 << 30
ROUNDS = 7
OURS = "lazarus"

# Both take a path, or the places of a stack, how many writes, and print the seconds until the first had returned.
WRITER = """
import os, random, sys, time
path, count = sys.argv[1], int(sys.argv[2])
random.seed(count)
blocks = [random.randrange(%d) * 4096 for _ in range(count)]
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
COPY = "import subprocess; subprocess.run(['cp', '--reflink=auto', sys.argv[3], path], check=True)"
STACK_WRITER = """
import os, random, sys, time
import lazarus
place, count, rung = sys.argv[1], int(sys.argv[2]), sys.argv[3]
random.seed(count)
blocks = [random.randrange(%d) * 4096 for _ in range(count)]
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
                written = disk.written() - begun
            finally:
                self.after(place)
        finally:
            for name in ("upper", "work", "merged"):
                shutil.rmtree(place / name)
            os.sync()
        self.seconds.append(float(done.stdout))
        self.amplification.append(written / (count * 4096))


def _plain(path: str) -> Callable[[Path, int], list[str]]:
    writer = WRITER % (SIZE // 4096, "")
    return lambda place, count: [sys.executable, "-I", "-S", "-c", writer, str(place / path), str(count)]


def _copy(place: Path, count: int) -> list[str]:
    writer = WRITER % (SIZE // 4096, COPY)
    lower, copy = str(place / "lower/big"), str(place / "upper/big")
    return [sys.executable, "-I", "-S", "-c", writer, copy, str(count), lower]


def _stack(rung: str) -> Callable[[Path, int], list[str]]:
    writer = STACK_WRITER % (SIZE // 4096)
    return lambda place, count: [sys.executable, "-c", writer, str(place), str(count), rung]


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


def race(benchmark: Any, disk: Disk, everyone: list[Contender], count: int, rounds: int) -> None:
    """Fills the lower, then lets everyone write in turns; who fails at first is reported as missing."""
    (disk.path / "lower").mkdir()
    with open(disk.path / "lower/big", "wb") as file:
        for _ in range(SIZE >> 20):
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
    benchmark.extra_info.update({"missing": missing, "file_system": disk.kind, "writes": count})
    print(f"\n{count} write(s) of 4 KiB into a file of {SIZE >> 20} MiB on {disk.kind}")
    for contender in alive:
        seconds, spread = _median(contender.seconds)
        amplification, width = _median(contender.amplification)
        benchmark.extra_info[contender.name] = {
            "first_write_s": seconds,
            "spread_s": spread,
            "amplification": amplification,
            "amplification_spread": width,
        }
        print(
            f"  {contender.name:20} first write {seconds * 1e3:9.2f} ms ± {spread * 1e3:6.2f}"
            f"   written {amplification:11.2f} bytes a byte ± {width:.2f}"
        )
    for name, why in missing.items():
        print(f"  {name:20} missing: {why:.100}")


def _median(values: list[float]) -> tuple[float, float]:
    """With half the distance between the quartiles."""
    quartiles = statistics.quantiles(values, n=4)
    return statistics.median(values), (quartiles[2] - quartiles[0]) / 2


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_first_write(benchmark: Any, scratch: Path, kind: str) -> None:
    rungs = ("auto",) if kind == "ext4" else ("auto", "blocks")
    with Disk(scratch, kind, DISK) as disk:
        race(benchmark, disk, contenders(rungs), 1, ROUNDS)


def test_a_thousand_writes(benchmark: Any, scratch: Path) -> None:
    with Disk(scratch, "ext4", DISK) as disk:
        race(benchmark, disk, contenders(("auto",)), 1000, 5)
