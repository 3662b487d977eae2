"""What does measuring cost? Of a sample: how much longer a process takes under the stopwatch than when it is started
bare. Around a sample: what a turn takes that is in nobody's number.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.contenders import peers
from benchmarks.harness.disks import Disk
from benchmarks.harness.race import measure
from benchmarks.harness.results import LIMIT, record

SAMPLES = 20


def test_a_process(benchmark: Any, scratch: Path, quick: bool) -> None:
    bare = peers.compiled("bare_spawn.c", scratch)
    samples, around, limit = [], [], []

    def turn() -> None:
        for _ in range(SAMPLES):
            begun = time.perf_counter()
            wall = measure(["true"]).wall
            samples.append(wall)
            around.append(time.perf_counter() - begun - wall)
            # one a process, as with the stopwatch: a second start would find caches warm that the first has filled
            done = subprocess.run([str(bare), "1", "true"], capture_output=True, text=True, check=True)
            limit.append(int(done.stdout) * 1e-9)

    benchmark.pedantic(turn, rounds=2 if quick else 5, iterations=1)
    under = record(benchmark, "stopwatch", "a process", "s", samples)
    alone = record(benchmark, f"{LIMIT}bare spawn and wait", "a process", "s", limit)
    outside = record(benchmark, "stopwatch", "around it", "s", around)
    print(
        f"\na process under the stopwatch {under.median * 1e3:.2f} ms, bare {alone.median * 1e3:.2f} ms: the sample has"
        f" {(under.median - alone.median) * 1e6:+.0f} us too many; around it {outside.median * 1e3:.1f} ms"
    )


def test_counting_what_is_written(benchmark: Any, disk: Disk, quick: bool) -> None:
    around = []

    def turn() -> None:
        begun = time.perf_counter()
        with disk.counting() as written:
            pass
        around.append(time.perf_counter() - begun)
        counted.append(float(written.all or 0))

    counted: list[float] = []
    benchmark.pedantic(turn, rounds=5 if quick else 20, iterations=1)
    took = record(benchmark, "counters", "around a turn", "s", around, file_system=disk.kind)
    seen = record(benchmark, "counters", "written by nobody", "B", counted, file_system=disk.kind)
    print(f"\n{disk.kind}: counting takes {took.median * 1e3:.1f} ms around a turn, and counts {seen.median:.0f} bytes")
