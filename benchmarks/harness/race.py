"""Runs contenders in turns, each in its own process, and keeps what each cost.

The machines are noisy, so contenders are interleaved (A B C, A B C, ...) and compared by medians; only ratios within
one run mean anything.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness.results import Row, record, record_missing


class Cost(NamedTuple):
    """One run of a process tree: seconds of wall clock, seconds of CPU (user and system), peak resident KiB."""

    wall: float
    cpu: float
    peak_kib: int


@dataclass
class Contender:
    """A command line (or what makes one from the number of the run), what to do once, and before and after each run
    (not timed), and the costs so far. Of a daemon's client only the clock says anything: the work is another's."""

    name: str
    command: Sequence[str] | Callable[[int], Sequence[str]]
    prepare: Callable[[], object] = lambda: None
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None
    environment: dict[str, str] | None = None
    is_client: bool = False
    costs: list[Cost] = field(default_factory=list)
    runs: int = 0

    def run(self) -> Cost:
        """One timed run; raises with the command's error output when it fails."""
        self.before()
        self.runs += 1
        command = self.command(self.runs) if callable(self.command) else self.command
        try:
            cost = measure(command, self.environment)
        finally:
            self.after()
        self.costs.append(cost)
        return cost

    def record(self, benchmark: Any, case: str) -> list[Row]:
        """Its rows in the benchmark's JSON: wall clock, CPU, peak memory."""
        found = [("wall", "s", [cost.wall for cost in self.costs])]
        if not self.is_client:
            found.append(("cpu", "s", [cost.cpu for cost in self.costs]))
            found.append(("peak memory", "MiB", [cost.peak_kib / 1024 for cost in self.costs]))
        return [record(benchmark, self.name, metric, unit, values, case=case) for metric, unit, values in found]


PATIENCE = 900  # seconds; the slowest that anybody took was two minutes
STOPWATCH = str(Path(__file__).with_name("stopwatch.py"))


def measure(command: Sequence[str], environment: dict[str, str] | None = None, patience: int = PATIENCE) -> Cost:
    """Runs a command to its end under a small process that looks at the clock; see stopwatch.py. One that has not come
    to it after `patience` seconds is killed. `RuntimeError` for that, and when it fails."""
    read_end, write_end = os.pipe()
    with open(read_end) as report:
        try:
            process = subprocess.run(
                [sys.executable, "-I", "-S", STOPWATCH, str(write_end), str(patience), *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment,
                pass_fds=[write_end],
                check=False,
            )
        finally:
            os.close(write_end)
        numbers = report.read().split()
    if process.returncode != 0:
        errors = process.stderr.decode(errors="replace")[-500:]
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}: {errors}")
    return Cost(float(numbers[0]), float(numbers[1]), int(numbers[2]))


def race(
    benchmark: Any, ours: Contender, others: Sequence[Contender], *, rounds: int, warm_up: int = 1, case: str = ""
) -> None:
    """Interleaves `rounds` runs of everyone; ours goes into pytest-benchmark, everything into `extra_info`.

    A peer that fails when it is prepared, or in any run, is reported as missing, with the reason, and the others go on.
    """
    broken: dict[str, str] = {}

    def guarded(contender: Contender, call: Callable[[], object]) -> None:
        try:
            call()
        except (RuntimeError, OSError) as error:
            broken[contender.name] = str(error) or type(error).__name__

    def turn() -> None:
        for contender in others:
            if contender.name not in broken:
                guarded(contender, contender.run)

    for contender in others:
        guarded(contender, contender.prepare)
    for _ in range(warm_up):
        ours.run()
        turn()
    for contender in (ours, *others):
        contender.costs.clear()
    benchmark.pedantic(ours.run, setup=turn, rounds=rounds, iterations=1)
    record_missing(benchmark, broken)
    print(f"\n{benchmark.name}")
    first: Row | None = None
    for contender in (ours, *(other for other in others if other.name not in broken)):
        wall, *rest = contender.record(benchmark, case)
        first = first or wall
        used = "".join(f"   {row.metric} {row.median:8.3f} {row.unit}" for row in rest)
        print(
            f"  {contender.name:28} {wall.median * 1e3:10.1f} ms ± {wall.spread * 1e3:6.1f}"
            f"   {wall.median / first.median:6.2f}x{used}"
        )
    for name, why in broken.items():
        print(f"  {name:28} missing: {why[-150:]}")
