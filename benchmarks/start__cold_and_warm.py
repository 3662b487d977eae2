"""How long does a container take from nothing to nothing, warm and cold, through 1 to 500 layers, alone and 8 at once?

The program is `true`, linked statically: phases end with its end, "whole" is their sum. Cold: everything is written
back and forgotten before each turn, the contender's own programs too; but a daemon, and this process for Lazarus' API,
keep what they have in memory. "whole, 8 at once" is the time in which eight threads have each had one, divided by
eight. What every contender does is in contenders/starts.py.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import pytest

from benchmarks.contenders import peers
from benchmarks.contenders.roots import FAILURES
from benchmarks.contenders.starts import EVERYONE, PHASES, Way
from benchmarks.harness.disks import HERE, Disk
from benchmarks.harness.results import Row, is_ours, record, record_missing, record_samples
from benchmarks.images.synthetic import Synthetic, synthetic, why_not

AT_ONCE = 8
WHOLE, WHOLE_AT_ONCE = "whole", f"whole, {AT_ONCE} at once"
MANY = 16  # the layers of the image whose starts are many enough to show how they are distributed
DISTRIBUTED = f"{MANY} layers, warm"
METRICS = (*PHASES, WHOLE, WHOLE_AT_ONCE)


def _nothing() -> None:
    pass


class Contender:
    """One way, with what its lives have cost: by warm or cold, and metric."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.samples: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.spent: defaultdict[str, float] = defaultdict(float)
        self._names = (f"c{number}" for number in itertools.count())

    def once(self, state: str) -> None:
        """One life, alone."""
        for phase, seconds in _with_whole(self.way.start(next(self._names))).items():
            self.samples[state][phase].append(seconds)

    def several(self, state: str) -> None:
        """As many as AT_ONCE, each in a thread."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            begun = time.perf_counter()
            lives = [pool.submit(self.way.start, next(self._names)) for _ in range(AT_ONCE)]
            for life in lives:
                life.result()
            self.samples[state][WHOLE_AT_ONCE].append((time.perf_counter() - begun) / AT_ONCE)


class Race:
    """Everyone in turns. Who fails is reported as missing and the others go on."""

    def __init__(self, ways: list[Way], closing: contextlib.ExitStack, missing: dict[str, str]) -> None:
        self.missing = missing
        self.everyone: list[Contender] = []
        for way in ways:
            closing.callback(_without_error, way.close)
            if self._guarded(way, way.prepare):
                self.everyone.append(Contender(way))

    def turn(
        self, kind: str, budget: float, call: Callable[[Contender], None], before: Callable[[], None] = _nothing
    ) -> None:
        """One of everybody; but who has spent `budget` seconds on turns of that kind is left out, and has fewer
        samples."""
        for contender in self.everyone:
            if contender.way.name in self.missing or contender.spent[kind] > budget:
                continue
            if kind == "several" and (foreseen := AT_ONCE * median(contender.samples["warm"][WHOLE])) > budget:
                self.missing[f"{contender.way.name}, {AT_ONCE} at once"] = f"may take {foreseen:.1f} s"
                continue
            before()
            begun = time.perf_counter()
            self._guarded(contender.way, lambda contender=contender: call(contender))  # type: ignore[misc]
            contender.spent[kind] += time.perf_counter() - begun

    def leave_out_who_spent(self, kind: str, budget: float) -> None:
        """Reports those as missing who took longer."""
        for contender in self.everyone:
            if (spent := contender.spent[kind]) > budget:
                self.missing.setdefault(contender.way.name, f"its first start took {spent:.1f} s")

    def _guarded(self, way: Way, call: Callable[[], None]) -> bool:
        try:
            call()
        except FAILURES as error:
            self.missing[way.name] = str(error) or type(error).__name__
            return False
        return True


@pytest.mark.parametrize("depth", [1, MANY, 128, 500])
def test_start(benchmark: Any, disk: Disk, depth: int, quick: bool) -> None:
    if quick and (depth not in (1, 128) or disk.kind not in ("ext4", HERE)):
        pytest.skip("not in the quick set")
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    home = disk.path / "image"
    home.mkdir()
    try:
        image = synthetic(home, depth)
    except RuntimeError as error:
        pytest.skip(str(error))
    missing: dict[str, str] = {}
    many = depth == MANY and not quick
    warm, several, cold = (3, 1, 1) if quick else (30 if many else 10, 3, 5)
    budget = 0.5 if quick else 5.0
    with contextlib.ExitStack() as closing:
        race = Race(list(_able(disk, image, quick, missing)), closing, missing)
        race.turn("first", budget, lambda one: one.once("first"))  # warms up
        race.leave_out_who_spent("first", 10)
        benchmark.pedantic(lambda: race.turn("warm", 40 if many else budget, lambda one: one.once("warm")), rounds=warm)
        for _ in range(several):
            race.turn("several", 4 * budget, lambda one: one.several("warm"))
        try:
            for _ in range(cold):
                race.turn("cold", budget, lambda one: one.once("cold"), peers.drop_caches)
        except OSError as error:
            missing["cold"] = f"caches cannot be dropped: {error}"
    benchmark.extra_info["disk"] = disk.facts()
    record_missing(benchmark, {f"{depth} layers, {disk.kind}: {name}": why for name, why in missing.items()})
    for state in ("warm", "cold"):
        _report(benchmark, race, f"{depth} layers, {state}", state, disk.kind)
    for name, why in missing.items():
        print(f"  {name:26} missing: {why:.100}")
    broken = {way.name for way in EVERYONE if is_ours(way.name)} & set(missing)
    if broken:
        raise RuntimeError(f"of ours: { {name: missing[name] for name in broken} }")


def _able(disk: Disk, image: Synthetic, quick: bool, missing: dict[str, str]) -> Iterator[Way]:
    for number, kind in enumerate(EVERYONE):
        way = kind(disk.path / str(number), image)
        reason = way.why_not(disk.type)
        if reason is None and quick and image.depth > kind.quick_depth:
            reason = "not in the quick set"
        if reason is not None:
            missing[kind.name] = reason
            continue
        way.place.mkdir()
        yield way


def _with_whole(seconds: dict[str, float]) -> dict[str, float]:
    return seconds if WHOLE in seconds else {**seconds, WHOLE: sum(seconds.values())}


def _without_error(call: Callable[[], None]) -> None:
    """Closing one must not keep the others open: what it leaves goes with the disk."""
    with contextlib.suppress(RuntimeError, OSError, AttributeError, subprocess.SubprocessError):
        call()


def _report(benchmark: Any, race: Race, case: str, state: str, file_system: str) -> None:
    """Rows, the samples of some, and a table: milliseconds, and whole against the first."""
    heads = "".join(f"{metric.removeprefix('whole, '):>12}" for metric in METRICS)
    print(f"\n{case}, {file_system}, ms\n  {'':22} {heads}")
    first = 0.0
    for contender in race.everyone:
        name = contender.way.name
        if name in race.missing or not contender.samples[state][WHOLE]:
            continue
        rows: dict[str, Row] = {}
        for metric in METRICS:
            values = contender.samples[state][metric]
            if not values:
                continue
            rows[metric] = record(benchmark, name, metric, "s", values, case=case, file_system=file_system)
        cells = "".join(f"{rows[m].median * 1e3:12.2f}" if m in rows else f"{'-':>12}" for m in METRICS)
        if case == DISTRIBUTED:
            record_samples(benchmark, rows[WHOLE], contender.samples[state][WHOLE])
        first = first or rows[WHOLE].median
        print(f"  {name:22} {cells} {rows[WHOLE].median / first:8.2f}x")
