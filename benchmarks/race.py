"""Runs contenders in turns, each in its own process, and keeps what each cost.

The machines are noisy, so contenders are interleaved (A B C, A B C, ...) and compared by medians; only ratios within
one run mean anything.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Cost(NamedTuple):
    """One run of a process tree: seconds of wall clock, seconds of CPU (user and system), peak resident KiB."""

    wall: float
    cpu: float
    peak_kib: int


@dataclass
class Contender:
    """A command line (or what makes one from the number of the run), what to do before and after each run (not timed),
    and the costs so far."""

    name: str
    command: Sequence[str] | Callable[[int], Sequence[str]]
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None
    environment: dict[str, str] | None = None
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

    def summary(self) -> dict[str, Any]:
        """Medians with the spread (half the distance between the quartiles)."""
        walls = [cost.wall for cost in self.costs]
        quartiles = statistics.quantiles(walls, n=4) if len(walls) > 1 else [walls[0]] * 3
        return {
            "wall_s": statistics.median(walls),
            "spread_s": (quartiles[2] - quartiles[0]) / 2,
            "cpu_s": statistics.median(cost.cpu for cost in self.costs),
            "peak_mib": max(cost.peak_kib for cost in self.costs) / 1024,
            "runs": len(walls),
        }


STOPWATCH = str(Path(__file__).with_name("stopwatch.py"))


def measure(command: Sequence[str], environment: dict[str, str] | None = None) -> Cost:
    """Runs a command to its end under a small process that looks at the clock; see stopwatch.py."""
    read_end, write_end = os.pipe()
    with open(read_end) as report:
        try:
            process = subprocess.run(
                [sys.executable, "-I", "-S", STOPWATCH, str(write_end), *command],
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


def race(benchmark: Any, ours: Contender, others: Sequence[Contender], *, rounds: int, warm_up: int = 1) -> None:
    """Interleaves `rounds` runs of everyone; ours goes into pytest-benchmark, everything into `extra_info`.

    A contender that fails in its first run is reported as such in the result, not left out silently.
    """
    everyone = [ours, *others]
    broken: dict[str, str] = {}
    for contender in everyone:
        for _ in range(warm_up):
            try:
                contender.run()
            except (RuntimeError, OSError) as error:
                if contender is ours:
                    raise
                broken[contender.name] = str(error)
                break
        contender.costs.clear()
    alive = [contender for contender in others if contender.name not in broken]

    def turn() -> None:
        for contender in alive:
            contender.run()

    benchmark.pedantic(ours.run, setup=turn, rounds=rounds, iterations=1)
    summaries = {contender.name: contender.summary() for contender in [ours, *alive]}
    for contender in alive:
        summaries[contender.name]["ratio"] = summaries[contender.name]["wall_s"] / summaries[ours.name]["wall_s"]
    benchmark.extra_info.update({"contenders": summaries, "missing": broken})
    show(benchmark.name, summaries, broken)


def show(title: str, summaries: dict[str, dict[str, Any]], broken: dict[str, str]) -> None:
    """Prints the table that goes with a race; pytest shows it with -s or in the captured output."""
    capture = "" if not broken else "".join(f"\n  {name:28} missing: {why:.90}" for name, why in broken.items())
    lines = [
        f"  {name:28} {row['wall_s'] * 1e3:10.1f} ms ± {row['spread_s'] * 1e3:6.1f}   cpu {row['cpu_s'] * 1e3:9.1f} ms"
        f"   peak {row['peak_mib']:6.1f} MiB   {row.get('ratio', 1.0):6.2f}x"
        for name, row in summaries.items()
    ]
    print(f"\n{title}\n" + "\n".join(lines) + capture)


def need(*tools: str) -> None:
    """Skips with the reason when none of the named peers is installed."""
    import shutil

    if not any(shutil.which(tool) for tool in tools):
        pytest.skip(f"no peer installed: {', '.join(tools)}")
