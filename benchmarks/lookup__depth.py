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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lazarus
from benchmarks import lookup_layers
from lazarus._native.index import Index, merge
from lazarus.layers.stack import chain_id
from lazarus.mounts import detach
from lazarus.mounts.union import union

SCRIPT = str(Path(__file__).with_name("lookup_contenders.py"))
ROUNDS = 7


def ask(*question: str | Path) -> list[float]:
    answer = subprocess.run([sys.executable, SCRIPT, *map(str, question)], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise RuntimeError(answer.stderr[-800:])
    return [float(word) for word in answer.stdout.split()]


def in_turns(benchmark: Any, contenders: dict[str, Callable[[], list[float]]]) -> dict[str, list[tuple[float, float]]]:
    """(median, half the distance between the quartiles) of each number of each contender's answers."""
    answers: dict[str, list[list[float]]] = {name: [] for name in contenders}

    def turn() -> None:
        for name, contender in contenders.items():
            answers[name].append(contender())

    benchmark.pedantic(turn, rounds=ROUNDS, iterations=1)
    table = {name: [_summary(column) for column in zip(*rows, strict=True)] for name, rows in answers.items()}
    benchmark.extra_info.update({"seconds": table})
    return table


def _summary(values: tuple[float, ...]) -> tuple[float, float]:
    quartiles = statistics.quantiles(values, n=4)
    return statistics.median(values), (quartiles[2] - quartiles[0]) / 2


def show(benchmark: Any, title: str, lines: list[str]) -> None:
    benchmark.extra_info["lines"] = lines
    print(f"\n{title}\n" + "\n".join(f"  {line}" for line in lines))


def stored(layers: Any, path: Path) -> Path:
    path.write_bytes(pickle.dumps(layers))
    return path


@pytest.fixture
def merged(image: Path, scratch: Path) -> Path:
    """The real image's merged index."""
    with lazarus.Store(scratch / "store") as store:
        (loaded,) = store.images.load(image)
        return Path(store.stacks.open(loaded.diff_ids).index_path)


def spread(merged: Path, scratch: Path, count: int) -> Path:
    with Index(merged) as index:
        return stored(lookup_layers.as_layers(index, count, scratch / f"spread{count}"), scratch / f"{count}.layers")


def test_many_lookups_at_4_and_128_layers(benchmark: Any, merged: Path, scratch: Path) -> None:
    files = {count: spread(merged, scratch, count) for count in (4, 128)}
    table = in_turns(benchmark, {str(count): (lambda count=count: ask("batch", files[count])) for count in files})  # type: ignore[misc]
    lines = [
        f"{form:8} {count:>4} layers: {1e-6 / table[count][i][0]:6.1f} M paths/s"
        f" ({table[count][i][0] * 1e9:5.1f} ns ± {table[count][i][1] * 1e9:4.1f}),"
        f" 128 layers / 4 layers {table['128'][i][0] / table['4'][i][0]:.3f}"
        for i, form in enumerate(("list", "packed"))
        for count in table
    ]
    show(benchmark, "lookup_many, every entry of the real image", lines)


def test_one_lookup(benchmark: Any, merged: Path, scratch: Path) -> None:
    files = {count: spread(merged, scratch, count) for count in (4, 128)}
    table = in_turns(benchmark, {str(count): (lambda count=count: ask("single", files[count])) for count in files})  # type: ignore[misc]
    names = ("hit", "miss", "miss, no parent", "through a symlink")
    lines = [
        f"{name:18} {count:>4} layers: {table[count][i][0] * 1e9:6.0f} ns ± {table[count][i][1] * 1e9:3.0f}"
        for i, name in enumerate(names)
        for count in table
    ]
    show(benchmark, "one lookup from Python", lines)


@pytest.mark.parametrize("depth", [1, 8, 32, 128, 500])
def test_first_lookup(benchmark: Any, scratch: Path, depth: int) -> None:
    """After opening a stack (mounting an overlay) of `depth` layers that all have the directory: a name of the lowest,
    and one that is nowhere."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the kernel's overlay is the peer")
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
            for name, times in (("target", hits), ("missing", misses)):
                path = f"{target}/etc/app/{name}"
                started = time.perf_counter()
                found = os.path.lexists(path)
                times.append(time.perf_counter() - started)
                assert found == (name == "target")
            detach(str(target))
        return [statistics.median(times) for times in (mounting, hits, misses)]

    table = in_turns(benchmark, {"stack": lambda: ask("first", "20", file), "overlay": kernel})
    lines = [
        f"{name:6} {table['stack'][i][0] * 1e6:9.2f} us ± {table['stack'][i][1] * 1e6:5.2f}, kernel overlay"
        f" {table['overlay'][i][0] * 1e6:9.2f} us ± {table['overlay'][i][1] * 1e6:5.2f},"
        f" {table['overlay'][i][0] / table['stack'][i][0]:7.1f}x"
        for i, name in enumerate(("open", "hit", "miss"))
    ]
    show(benchmark, f"first lookup, {depth} layers", lines)


def test_against_a_loop_of_lstat(benchmark: Any, merged: Path, scratch: Path) -> None:
    with Index(merged) as index:
        directories = lookup_layers.as_directories(index, 64, scratch / "directories")
        paths = stored([b"/" + entry.path for entry in index if entry.path], scratch / "paths")
    file = spread(merged, scratch, 64)
    tops = [str(directory) for directory in reversed(directories)]
    table = in_turns(benchmark, {"stack": lambda: ask("batch", file), "lstat": lambda: ask("lstat", paths, *tops)})
    ours, theirs = table["stack"], table["lstat"][0]
    lines = [
        f"{form:8} {ours[i][0] * 1e9:6.1f} ns a path, os.lstat over 64 directories {theirs[0] * 1e9:8.0f} ns"
        f" ± {theirs[1] * 1e9:5.0f}, {theirs[0] / ours[i][0]:6.0f}x"
        for i, form in enumerate(("list", "packed"))
    ]
    show(benchmark, "lookup_many against the loop, 64 layers", lines)


def test_memory_of_100_000_entries(benchmark: Any, scratch: Path) -> None:
    layer = lookup_layers.layer_of(lookup_layers.made_up(100_000), scratch / "one")
    stack = scratch / "one/stacks" / chain_id([layer.diff_id]).hex
    stack.mkdir(parents=True)
    merge([layer.index_path], [layer.diff_id.raw], stack / "index")
    file = stored([layer], scratch / "layers")
    table = in_turns(benchmark, {"stack": lambda: ask("memory", file)})
    resident, private = (value[0] / 2**20 for value in table["stack"])
    size = (stack / "index").stat().st_size / 2**20
    lines = [f"resident {resident:.1f} MiB, of it {private:.1f} MiB not shared; the index is {size:.1f} MiB, mapped"]
    show(benchmark, "an open stack of 100,000 entries", lines)
