"""A workload in every contender's root file system, in turns: seconds, bytes that reached the disk, space that is left
allocated, and what a commit of the changes takes.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.contenders import workloads
from benchmarks.contenders.roots import FAILURES, Root
from benchmarks.harness.disks import Disk
from benchmarks.harness.results import is_ours, record, record_missing

Samples = defaultdict[tuple[str, str], list[float]]  # (metric, unit) -> a number a turn
COMMITS = 3  # samples: a commit of a gigabyte takes longer than anything else that is asked of it
Work = Callable[[Root], "Done"]  # does it in a root that has been made


class Done(NamedTuple):
    """What a workload says of itself."""

    seconds: dict[str, float]
    asked: int = 0  # bytes that it wrote; 0: nobody counts them
    cpu: float = 0.0  # seconds of its processes, with the kernel's work for them
    peak_kib: int = 0
    rates: Mapping[str, float] = {}  # what was done, and how often in a second


def workload(name: str, count: int) -> Work:
    """One of workloads.py, in a process of its own."""

    def work(root: Root) -> Done:
        command = [sys.executable, workloads.__file__, name, str(count), *root.target]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{root.name}: {(done.stderr.strip() or '?').splitlines()[-1]}")
        return Done(**json.loads(done.stdout))

    return work


class Contender:
    """One way to a root, with what its turns have cost."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.samples: Samples = defaultdict(list)

    def turn(self, disk: Disk, work: Work, commit: bool) -> None:
        """Makes a root, works in it, drops it."""
        samples = self.samples
        try:
            free = self.root.free()
            with contextlib.ExitStack() as counting:
                written = counting.enter_context(disk.counting()) if self.root.is_copy else None
                begun = time.perf_counter()
                self.root.make()
                made = time.perf_counter() - begun
                if written is None:
                    free = self.root.free()
                    written = counting.enter_context(disk.counting())
                done = work(self.root)
            for number, (phase, seconds) in enumerate(done.seconds.items()):
                samples[phase, "s"].append(seconds + (made if self.root.is_copy and number == 0 else 0))
            for metric, rate in done.rates.items():
                samples[metric, f"{metric}/s"].append(rate)
            if done.cpu and not self.root.is_served:
                samples["cpu", "s"].append(done.cpu)
            if done.peak_kib and not self.root.is_served:
                samples["peak memory", "MiB"].append(done.peak_kib / 1024)
            if written.all is not None and done.asked:
                samples["write amplification", "x"].append(written.all / done.asked)
            if written.data is not None:
                samples["data written", "MiB"].append(written.data / 2**20)
            if written.metadata is not None:
                samples["metadata written", "MiB"].append(written.metadata / 2**20)
            samples["left allocated", "MiB"].append(max(0, free - self.root.free()) / 2**20)
            if commit and len(samples.get(("commit", "s"), ())) < COMMITS:
                with contextlib.suppress(NotImplementedError):
                    begun = time.perf_counter()
                    self.root.commit()
                    samples["commit", "s"].append(time.perf_counter() - begun)
        finally:
            self.root.drop()


def ask(
    benchmark: Any,
    disk: Disk,
    ways: Sequence[type[Root]],
    work: Work,
    *,
    lower: Path,
    case: str,
    rounds: int,
    commit: bool = False,
    warm_up: bool = True,
    needs_path: str = "",
) -> None:
    """Everyone works in turns. Who cannot, or fails when it is prepared, in any turn or when it is closed, is reported
    as missing with the reason, and the others go on. `needs_path` says why the work cannot be done in process alone."""
    missing = {way.name: needs_path for way in ways if needs_path and not way.has_path}
    ways = [way for way in ways if way.name not in missing]
    asked = {way.name for way in ways if way(disk.path, lower).why_not(disk.type) is None}
    with contextlib.ExitStack() as closing:
        everyone = list(_prepared(disk, ways, lower, closing, missing))

        def turn() -> None:
            for contender in everyone:
                if contender.root.name not in missing:
                    _guarded(contender, lambda contender=contender: contender.turn(disk, work, commit), missing)  # type: ignore[misc]

        if warm_up:
            turn()
            for contender in everyone:
                contender.samples.clear()
        benchmark.pedantic(turn, rounds=rounds, iterations=1)
    benchmark.extra_info["disk"] = disk.facts()
    record_missing(benchmark, {f"{case}, {disk.kind}: {name}": why for name, why in missing.items()})
    print(f"\n{case} on {disk.kind}")
    for contender in everyone:
        name = contender.root.name
        if name in missing:
            continue
        rows = [
            record(benchmark, name, metric, unit, samples, case=case, file_system=disk.kind)
            for (metric, unit), samples in contender.samples.items()
        ]
        print(f"  {name:22} {', '.join(map(_said, rows))}")
    for name, why in missing.items():
        print(f"  {name:22} missing: {why[-150:]}")
    broken = {name: why for name, why in missing.items() if is_ours(name) and name in asked}
    if broken:
        raise RuntimeError(f"of ours: {broken}")


def _prepared(
    disk: Disk, ways: Sequence[type[Root]], lower: Path, closing: contextlib.ExitStack, missing: dict[str, str]
) -> Iterator[Contender]:
    for number, way in enumerate(ways):
        place = disk.path / str(number)
        root = way(place, lower)
        if (why := root.why_not(disk.type)) is not None:
            missing[way.name] = why
            continue
        place.mkdir()
        contender = Contender(root)
        if _guarded(contender, root.prepare, missing):
            closing.callback(_guarded, contender, root.close, missing)
            yield contender


def _guarded(contender: Contender, call: Callable[[], None], missing: dict[str, str]) -> bool:
    try:
        call()
    except FAILURES as error:
        missing[contender.root.name] = str(error) or type(error).__name__
        return False
    return True


def _said(row: Any) -> str:
    value = f"{row.median * 1e3:.2f} ms" if row.unit == "s" else f"{row.median:.2f} {row.unit}"
    return f"{row.metric} {value}"
