"""With 1, 10, 100 and 1,000 containers alive: what does the next start take, and what does each of them cost?

Each runs a process that only sleeps, from an image of 16 layers. Everyone begins with none, starts that many, is looked
at, starts a few more one by one, then eight at once where that is not slow already, and removes all of them before the
next one's turn: nobody has the mounts of others in its table. A number that would take more than BUDGET seconds, going
by the one before, is not asked.

"memory": what became unavailable on the whole machine, kernel included, and so is what else runs there: it is told for
100 and more. "processes": the proportional set size of all processes of the run, before and after. "disk": what the
file system has allocated. "mounts": those in the mount table of the host; each container's own namespace has more.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks.contenders.alive import EVERYONE, Alive
from benchmarks.contenders.roots import FAILURES
from benchmarks.harness.disks import Disk
from benchmarks.harness.results import is_ours, record, record_missing
from benchmarks.images.synthetic import synthetic, why_not

DEPTH = 16
BUDGET = 90  # seconds for one number of containers, from the first start to the last removal
ROUNDS = {1: 3, 10: 3, 100: 1, 1000: 1}
NEXT = 5  # starts that are timed in a round
NEXT_BUDGET = 5  # seconds for them
AT_ONCE = 8
TOGETHER = f"next start, {AT_ONCE} at once"  # the time in which all run, divided by their number
METRICS = {
    "next start": "s",
    TOGETHER: "s",
    "memory a container": "MiB",
    "processes a container": "MiB",
    "disk a container": "KiB",
    "mounts a container": "mounts",
}


class Look(NamedTuple):
    """The machine at one moment."""

    available: int  # bytes
    processes: int  # bytes
    free: int  # bytes on the disk under test
    mounts: int


def look(disk: Disk) -> Look:
    """With everything written back."""
    free = disk.free()
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    mounts = len(Path("/proc/self/mountinfo").read_text().splitlines())
    return Look(int(meminfo["MemAvailable"].split()[0]) << 10, _proportional_set_size(), free, mounts)


def _proportional_set_size() -> int:
    """Bytes, of all processes that this namespace has."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/smaps_rollup"):
        with contextlib.suppress(OSError):  # it has ended, or is the kernel's
            found += sum(int(line.split()[1]) << 10 for line in path.read_text().splitlines() if line[:4] == "Pss:")
    return found


class Contender:
    """One way, with what its containers have cost by their number."""

    def __init__(self, way: Alive) -> None:
        self.way = way
        self.samples: defaultdict[int, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.each = 0.0  # seconds for each container, the last time
        self.visits = 0

    def visit(self, disk: Disk, count: int) -> None:
        """From none to `count`, a few more, and back to none."""
        samples = self.samples[count]
        self.visits += 1
        names = [f"v{self.visits}c{number}" for number in range(count)]
        extra = [f"v{self.visits}next{number}" for number in range(NEXT)]
        together = [f"v{self.visits}one{number}" for number in range(AT_ONCE)]
        begun = time.perf_counter()
        before = look(disk)
        touched: list[str] = []
        try:
            for name in names:
                touched.append(name)
                self.way.begin(name)
                if time.perf_counter() - begun > 2 * BUDGET:
                    raise RuntimeError(f"after {2 * BUDGET} s only {len(touched)} of {count} were alive")
            after = look(disk)
            nexts = time.perf_counter()
            for name in extra:
                touched.append(name)
                samples["next start"].append(self.way.begin(name))
                self.way.end([touched.pop()])
                if time.perf_counter() - nexts > NEXT_BUDGET:
                    break
            else:
                touched += together
                samples[TOGETHER].append(self.way.begin_together(together) / AT_ONCE)
        except FAILURES:
            with contextlib.suppress(*FAILURES):  # the first error is the one to tell
                self.way.end(touched)
            raise
        self.way.end(touched)
        self.each = (time.perf_counter() - begun) / count
        if count >= 100:
            samples["memory a container"].append((before.available - after.available) / 2**20 / count)
        samples["processes a container"].append((after.processes - before.processes) / 2**20 / count)
        samples["disk a container"].append((before.free - after.free) / 2**10 / count)
        samples["mounts a container"].append((after.mounts - before.mounts) / count)


def test_containers_alive(benchmark: Any, disk: Disk, quick: bool) -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    home = disk.path / "image"
    home.mkdir()
    try:
        image = synthetic(home, DEPTH)
    except RuntimeError as error:
        pytest.skip(str(error))
    missing: dict[str, str] = {}
    broken: dict[str, str] = {}  # who is not asked again
    counts = [count for count in ROUNDS if not quick or count <= 10]
    everyone: list[Contender] = []
    with contextlib.ExitStack() as closing:
        for number, kind in enumerate(EVERYONE):
            way = kind(disk.path / str(number), image)
            if (reason := way.why_not(disk.type)) is not None:
                broken[way.name] = reason
                continue
            way.place.mkdir()
            closing.callback(_without_error, way)
            contender = Contender(way)
            try:
                way.prepare()
                way.begin("first")  # warms up
                way.end(["first"])
                everyone.append(contender)
            except FAILURES as error:
                broken[way.name] = str(error) or type(error).__name__

        def all_of_it() -> None:
            for count in counts:
                for _ in range(ROUNDS[count]):
                    for contender in everyone:
                        if contender.way.name not in broken:
                            _ask(contender, disk, count, missing, broken)

        benchmark.pedantic(all_of_it, rounds=1)
    benchmark.extra_info["disk"] = disk.facts()
    record_missing(benchmark, {f"{disk.kind}: {name}": why for name, why in {**broken, **missing}.items()})
    for count in counts:
        _report(benchmark, everyone, count, disk.kind)
    for name, why in {**broken, **missing}.items():
        print(f"  {name:26} missing: {why:.100}")
    if ours := {name: why for name, why in broken.items() if is_ours(name)}:
        raise RuntimeError(f"of ours: {ours}")


def _ask(contender: Contender, disk: Disk, count: int, missing: dict[str, str], broken: dict[str, str]) -> None:
    name = f"{contender.way.name}, {count:,} alive"
    if count > contender.way.most:
        missing[name] = f"not asked beyond {contender.way.most}"
    elif (foreseen := contender.each * count) > BUDGET:
        missing[name] = f"would take {foreseen:.0f} s"
    else:
        try:
            contender.visit(disk, count)
        except FAILURES as error:
            missing[name] = broken[contender.way.name] = str(error) or type(error).__name__


def _without_error(way: Alive) -> None:
    """Closing one must not keep the others open: what it leaves goes with the disk."""
    with contextlib.suppress(*FAILURES, AttributeError):
        way.close()


def _report(benchmark: Any, everyone: list[Contender], count: int, file_system: str) -> None:
    case = f"{count:,} alive"
    print(f"\n{case}, {file_system}\n  {'':22} {''.join(f'{metric:>24}' for metric in METRICS)}")
    for contender in everyone:
        samples = contender.samples[count]
        if not samples["mounts a container"]:
            continue
        cells = []
        for metric, unit in METRICS.items():
            if not samples[metric]:
                cells.append("-")
                continue
            row = record(benchmark, contender.way.name, metric, unit, samples[metric], case=case,
                         file_system=file_system)  # fmt: skip
            cells.append(f"{row.median * 1e3:.2f} ms" if unit == "s" else f"{row.median:.2f} {unit}")
        print(f"  {contender.way.name:22} {''.join(f'{cell:>24}' for cell in cells)}")
