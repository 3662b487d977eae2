"""What does a lookup through layers cost, and what has their number to do with it?

Contenders are asked in turns, each in a process of its own (lookup_contenders.py); medians, with the spread.
"""

from __future__ import annotations

import os
import pickle
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import lazarus
from benchmarks.contenders import lookup_layers
from benchmarks.contenders.roots import FAILURES
from benchmarks.harness.results import OURS, Row, is_ours, record, record_missing
from lazarus._native.index import Index, merge
from lazarus.layers.stack import chain_id
from lazarus.mounts import detach
from lazarus.mounts.union import union

SCRIPT = str(Path(lookup_layers.__file__).with_name("lookup_contenders.py"))


@pytest.fixture
def rounds(quick: bool) -> int:
    """How often everybody is asked."""
    return 3 if quick else 7


def ask(*question: str | Path) -> list[float]:
    answer = subprocess.run([sys.executable, SCRIPT, *map(str, question)], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise RuntimeError(answer.stderr[-800:])
    return [float(word) for word in answer.stdout.split()]


Asked = tuple[str, str]  # a contender, and the case that it is asked about


def in_turns(
    benchmark: Any,
    contenders: dict[Asked, Callable[[], list[float]]],
    metrics: Sequence[str],
    rounds: int,
    unit: str = "s",
) -> dict[Asked, list[Row]]:
    """The rows of each contender's answers, of which each has a number for each metric; fewer where it has no more. A
    peer that fails has none: it is reported as missing."""
    answers: dict[Asked, list[list[float]]] = {asked: [] for asked in contenders}

    def turn() -> None:
        for asked, contender in contenders.items():
            if asked not in answers:
                continue
            try:
                answers[asked].append(contender())
            except FAILURES as error:
                if is_ours(asked[0]):
                    raise
                del answers[asked]
                record_missing(benchmark, {f"{asked[1]}: {asked[0]}": str(error) or type(error).__name__})

    benchmark.pedantic(turn, rounds=rounds, iterations=1)
    return {
        (name, case): [
            record(benchmark, name, metric, unit, column, case=case)
            for metric, column in zip(metrics, zip(*rows, strict=True), strict=False)
        ]
        for (name, case), rows in answers.items()
    }


def show(title: str, lines: list[str]) -> None:
    print(f"\n{title}\n" + "\n".join(f"  {line}" for line in lines))


def stored(layers: Any, path: Path) -> Path:
    path.write_bytes(pickle.dumps(layers))
    return path


@pytest.fixture(scope="module")
def merged(image: Path, shared: Path) -> Path:
    """The real image's merged index."""
    with lazarus.Store(shared / "store") as store:
        (loaded,) = store.images.load(image)
        return Path(store.stacks.open(loaded.diff_ids).index_path)


def spread(merged: Path, scratch: Path, count: int) -> Path:
    with Index(merged) as index:
        return stored(lookup_layers.as_layers(index, count, scratch / f"spread{count}"), scratch / f"{count}.layers")


def test_many_lookups_at_4_and_128_layers(benchmark: Any, merged: Path, scratch: Path, rounds: int) -> None:
    files = {count: spread(merged, scratch, count) for count in (4, 128)}
    asked = {(OURS, f"{count} layers"): (lambda count=count: ask("batch", files[count])) for count in files}
    table = in_turns(benchmark, asked, ("a path of a list", "a path of a buffer"), rounds)  # type: ignore[arg-type]
    few = table[OURS, "4 layers"]
    lines = [
        f"{row.metric:18} {row.case:>10}: {1e-6 / row.median:6.1f} M paths/s"
        f" ({row.median * 1e9:5.1f} ns ± {row.spread * 1e9:4.1f}), {row.median / few[i].median:.3f} of 4 layers"
        for rows in table.values()
        for i, row in enumerate(rows)
    ]
    show("lookup_many, every entry of the real image", lines)


def test_one_lookup(benchmark: Any, merged: Path, scratch: Path, rounds: int) -> None:
    files = {count: spread(merged, scratch, count) for count in (4, 128)}
    asked = {(OURS, f"{count} layers"): (lambda count=count: ask("single", files[count])) for count in files}
    table = in_turns(benchmark, asked, ("hit", "miss", "miss, no parent", "through a symlink"), rounds)  # type: ignore[arg-type]
    lines = [
        f"{row.metric:18} {row.case:>10}: {row.median * 1e9:6.0f} ns ± {row.spread * 1e9:3.0f}"
        for rows in table.values()
        for row in rows
    ]
    show("one lookup from Python", lines)


@pytest.mark.parametrize("depth", [1, 8, 32, 128, 500])
def test_first_lookup(benchmark: Any, scratch: Path, depth: int, rounds: int, quick: bool) -> None:
    """After opening a stack (mounting an overlay) of `depth` layers that all have the directory: a name of the lowest,
    and one that is nowhere."""
    if quick and depth in (8, 500):
        pytest.skip("not in the quick set")
    directories = lookup_layers.deep(
        depth, scratch / "deep", lambda layer, number: (layer / "etc/app/target").touch() if number == 0 else None
    )
    layers = []
    for number, directory in enumerate(directories):
        things = [(os.fsencode(path.relative_to(directory)), "directory" if path.is_dir() else "file")
                  for path in sorted(directory.rglob("*"))]  # fmt: skip
        layers.append(lookup_layers.layer_of(things, scratch / "index" / str(number)))
        layers[-1].objects_path = layers[0].objects_path
    for number, layer in enumerate(layers):
        layer.diff_id = type(layer.diff_id)(f"sha256:{number:064x}")
    file = stored(layers, scratch / "layers")
    target = scratch / "merged"
    target.mkdir()

    def kernel() -> list[float]:
        mounting, hits, misses = [], [], []
        for _ in range(20):
            started = time.perf_counter()
            union([str(directory) for directory in reversed(directories)], str(target))
            mounting.append(time.perf_counter() - started)
            try:
                for name, times in (("target", hits), ("missing", misses)):
                    path = f"{target}/etc/app/{name}"
                    started = time.perf_counter()
                    found = os.path.lexists(path)
                    times.append(time.perf_counter() - started)
                    assert found == (name == "target")
            finally:
                detach(str(target))
        return [statistics.median(times) for times in (mounting, hits, misses)]

    case = f"{depth} layers"
    asked = {(OURS, case): lambda: ask("first", "20", file), ("kernel overlayfs", case): kernel}
    ours, *theirs = in_turns(benchmark, asked, ("open", "first hit", "first miss"), rounds).values()
    lines = [f"{row.metric:10} {row.median * 1e6:9.2f} us ± {row.spread * 1e6:5.2f}" for row in ours]
    lines += [
        f"{peer.metric:10} {peer.median * 1e6:9.2f} us ± {peer.spread * 1e6:5.2f}, {peer.contender},"
        f" {peer.median / row.median:7.1f}x"
        for rows in theirs
        for row, peer in zip(ours, rows, strict=True)
    ]
    show(f"first lookup, {depth} layers", lines)


def test_against_a_loop_of_lstat(benchmark: Any, merged: Path, scratch: Path, rounds: int, quick: bool) -> None:
    if quick:
        pytest.skip("not in the quick set")
    with Index(merged) as index:
        directories = lookup_layers.as_directories(index, 64, scratch / "directories")
        paths = stored([b"/" + entry.path for entry in index if entry.path], scratch / "paths")
    file = spread(merged, scratch, 64)
    tops = [str(directory) for directory in reversed(directories)]
    asked = {
        (OURS, "64 layers"): lambda: ask("batch", file),
        ("loop of os.lstat", "64 layers"): lambda: ask("lstat", paths, *tops),
    }
    ours, *others = in_turns(benchmark, asked, ("a path of a list", "a path of a buffer"), rounds).values()
    lines = [f"{row.metric:18} {row.median * 1e9:6.1f} ns" for row in ours]
    lines += [
        f"os.lstat over 64 directories {theirs.median * 1e9:8.0f} ns ± {theirs.spread * 1e9:5.0f},"
        f" {theirs.median / ours[0].median:6.0f}x"
        for (theirs,) in others
    ]
    show("lookup_many against the loop, 64 layers", lines)


def test_memory_of_100_000_entries(benchmark: Any, scratch: Path, rounds: int) -> None:
    layer = lookup_layers.layer_of(lookup_layers.made_up(100_000), scratch / "one")
    stack = scratch / "one/stacks" / chain_id([layer.diff_id]).hex
    stack.mkdir(parents=True)
    merge([layer.index_path], [layer.diff_id.raw], stack / "index")
    file = stored([layer], scratch / "layers")
    asked = {(OURS, "100,000 entries"): lambda: [size / 2**20 for size in ask("memory", file)]}
    ((resident, private),) = in_turns(benchmark, asked, ("resident", "not shared"), rounds, "MiB").values()
    size = (stack / "index").stat().st_size / 2**20
    sizes = f"resident {resident.median:.1f} MiB, of it {private.median:.1f} MiB not shared"
    lines = [f"{sizes}; the index is {size:.1f} MiB, mapped"]
    show("an open stack of 100,000 entries", lines)
