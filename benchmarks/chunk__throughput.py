"""How fast are bytes cut where their content says, and hashed? 64 KiB a chunk on average, from a buffer, one core.

The bytes have no pattern, so nobody meets a run of zeros. casync cannot do without compressing the chunks (zstd) into
its store. The limits are a copy in memory and the hashes alone; that of two threads is two that each have a half for
themselves. Ratios are printed, too, each within its turn, so that what else the machine does counts less.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.contenders import chunking
from benchmarks.harness.race import measure
from benchmarks.harness.results import LIMIT, OURS, is_ours, record, record_missing, summary

BITS = 16
NAMES = {
    "lazarus": OURS,
    "two_threads": f"{OURS} (two threads)",
    "halves": f"{LIMIT}two threads, half each",
    "pyfastcdc": "pyfastcdc",
    "borg": "borgbackup",
}
METRICS = ("cut", "cut and SHA-256", "cut, SHA-256 and XXH3", "blocks and SHA-256", "blocks and XXH3")
# (contender, its metric, by whom, by that one's metric): the ratio of each turn is printed.
RATIOS = [
    *((name, metric, "lazarus", metric) for metric in METRICS for name in ("two_threads", "halves")),
    ("lazarus", "cut", "pyfastcdc", "cut"),
    ("lazarus", "cut and SHA-256", "limits", "SHA-256 alone"),
    ("lazarus", "blocks and XXH3", "limits", "XXH3 alone"),
    ("lazarus", "blocks and XXH3", "limits", "a copy in memory"),
]
# What no contender can beat, by metric.
LIMITS = {
    "cut": ("a copy in memory",),
    "cut and SHA-256": ("SHA-256 alone",),
    "blocks and XXH3": ("XXH3 alone", "a copy in memory"),
}


def test_chunks_of_a_buffer(benchmark: Any, scratch: Path, quick: bool) -> None:
    size = (64 if quick else 256) << 20
    file = scratch / "bytes"
    with open(file, "wb") as out:
        for _ in range(size >> 20):
            out.write(os.urandom(1 << 20))
    samples: defaultdict[tuple[str, str], list[float]] = defaultdict(list)  # (contender, metric) -> bytes a second
    missing: dict[str, str] = {}
    everyone: dict[str, Callable[[], dict[str, float]]] = {
        name: lambda name=name: _ask(name, file)  # type: ignore[misc]
        for name in ("lazarus", "two_threads", "halves", "pyfastcdc", "borg", "limits")
    }
    everyone["casync"] = lambda: _casync(file, scratch)
    if shutil.which("casync") is None:
        missing["casync"] = "casync is not installed"
    counts: dict[str, float] = {}

    def turn() -> None:
        for name, ask in everyone.items():
            if name in missing:
                continue
            try:
                answer = ask()
            except (RuntimeError, OSError) as error:
                missing[name] = str(error)
                continue
            counts[name] = answer.pop("chunks", 0)
            for metric, seconds in answer.items():
                samples[name, metric].append(size / seconds)

    benchmark.pedantic(turn, rounds=5 if quick else 9, iterations=1)
    record_missing(benchmark, missing)
    case = f"{1 << BITS >> 10} KiB on average, {size >> 20} MiB"
    print(f"\nchunks of {case}")
    for (name, metric), rates in samples.items():
        if name in missing or name == "limits":
            continue
        row = record(benchmark, NAMES.get(name, name), metric, "B/s", rates, case=case)
        count = f", {counts[name]:,.0f} chunks" if counts[name] and metric.startswith("cut") else ""
        print(f"  {row.contender:31} {metric:22} {row.median / 1e9:6.2f} GB/s ± {row.spread / 1e9:5.2f}{count}")
    if rates := samples.get(("limits", "SHA-256 alone"), []):  # ours hashes two blocks at a time: no limit there
        record(benchmark, "hashlib", "blocks and SHA-256", "B/s", rates, case=case)
    for metric, limits in LIMITS.items():
        for limit in limits:
            if rates := samples.get(("limits", limit), []):
                row = record(benchmark, f"{LIMIT}{limit}", metric, "B/s", rates, case=case)
                print(f"  {row.contender:31} {metric:22} {row.median / 1e9:6.2f} GB/s ± {row.spread / 1e9:5.2f}")
    for name, metric, by, by_metric in RATIOS:
        if name in missing or by in missing:
            continue
        ratios = [one / two for one, two in zip(samples[name, metric], samples[by, by_metric], strict=True)]
        found = summary(ratios)
        words = f"{name} by {by}" + (f", {by_metric}" if by_metric != metric else "")
        print(f"  {words:36} {metric:22} {found.median:6.2f}x ± {found.spread:5.2f}")
    for name, why in missing.items():
        print(f"  {name:31} missing: {why[-150:]}")
    if ours := {name: why for name, why in missing.items() if is_ours(NAMES.get(name, name))}:
        raise RuntimeError(f"of ours: {ours}")


def _ask(name: str, file: Path) -> dict[str, float]:
    command = [sys.executable, chunking.__file__, name, str(file), str(BITS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip() or "?").splitlines()[-1])
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def _casync(file: Path, scratch: Path) -> dict[str, float]:
    store = scratch / "casync.store"
    sizes = ":".join(str(1 << bits) for bits in (BITS - 2, BITS, BITS + 2))
    words = ["casync", "make", f"--store={store}", f"--chunk-size={sizes}"]
    try:
        return {"cut and SHA-256": measure([*words, str(scratch / "index.caibx"), str(file)]).wall}
    finally:
        shutil.rmtree(store, ignore_errors=True)
