"""usage: lookup_contenders.py QUESTION ARGUMENT...; answers one question of lookup__depth.py in a process of its own
and prints numbers.

    batch    LAYERS              seconds a path of lookup_many, given a list, given packed paths
    single   LAYERS              seconds of one lookup: a hit, misses, a path through a symlink
    first    ROUNDS LAYERS       seconds to open a stack, and of its first lookups, a hit and a miss
    lstat    PATHS DIRECTORY...  seconds a path of the loop of os.lstat over layer directories, the top one first
    memory   LAYERS              bytes that opening a stack adds to this process, and those that no other can share

LAYERS and PATHS are files of pickled values.
"""

from __future__ import annotations

import os
import pickle
import random
import sys
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lazarus


def layers_in(path: str) -> list[Any]:
    found: list[Any] = pickle.loads(Path(path).read_bytes())
    return found


def paths_of(stack: lazarus.LayerStack) -> list[bytes]:
    """Every path, as a program spells it, in no order."""
    assert stack._index is not None
    paths = [b"/" + entry.path for entry in stack._index]
    random.Random(1).shuffle(paths)
    return paths


def best(call: Callable[[], object], seconds: float = 0.4) -> float:
    """The median of some runs, each long enough for the clock."""
    number = max(int(seconds / 8 / timeit.timeit(call, number=1)), 1)
    return sorted(timeit.repeat(call, number=number, repeat=8))[3] / number


def batch(layers: str) -> list[float]:
    import numpy

    with lazarus.LayerStack(layers_in(layers)) as stack:
        paths = paths_of(stack)
        packed, offsets = b"".join(paths), numpy.cumsum([0, *(len(path) for path in paths)]).astype(numpy.uint64)
        out = stack.lookup_many(paths)
        assert not out["error"].any()

        calls: list[Callable[[], object]] = [
            lambda: stack.lookup_many(paths), lambda: stack.lookup_many(packed, offsets, out=out)
        ]  # fmt: skip
        return [best(call) / len(paths) for call in calls]


def single(layers: str) -> list[float]:
    with lazarus.LayerStack(layers_in(layers)) as stack:
        ask = stack.lookup
        paths = (b"/usr/bin/python3.11", b"/usr/bin/python3.missing", b"/no/such/directory/at/all", b"/bin/ls")
        return [best(lambda path=path: [ask(path) for _ in range(1000)]) / 1000 for path in paths]  # type: ignore[misc]


def first(rounds: str, layers: str) -> list[float]:
    members = layers_in(layers)
    opening: list[float] = []
    hits: list[float] = []
    misses: list[float] = []
    for _ in range(int(rounds)):
        started = time.perf_counter()
        stack = lazarus.LayerStack(members)
        opening.append(time.perf_counter() - started)
        for path, times in ((b"/etc/app/target", hits), (b"/etc/app/missing", misses)):
            started = time.perf_counter()
            found = stack.lookup(path)
            times.append(time.perf_counter() - started)
            assert (found is None) == (path == b"/etc/app/missing")
        stack.close()
    return [sorted(times)[len(times) // 2] for times in (opening, hits, misses)]


def lstat(paths_file: str, *layers: str) -> list[float]:
    tops = [os.fsencode(layer) for layer in layers]
    paths = pickle.loads(Path(paths_file).read_bytes())
    for _ in range(2):  # the second time everything is in the dentry cache
        found = 0
        started = time.perf_counter()
        for path in paths:
            for layer in tops:
                try:
                    os.lstat(layer + path)
                except OSError:
                    continue
                found += 1
                break
        took = time.perf_counter() - started
    assert found == len(paths)
    return [took / len(paths)]


def memory(layers: str) -> list[float]:
    members = layers_in(layers)
    with lazarus.LayerStack(members[:0]):
        before = _resident()
        with lazarus.LayerStack(members) as stack:
            for path in paths_of(stack)[::100]:
                assert stack.lookup(path) is not None
            after = _resident()
    return [float(b - a) for a, b in zip(before, after, strict=True)]


def _resident() -> list[int]:
    """Bytes: resident, and those of no file, which no other process can share."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return [values["Rss"], values["Anonymous"]]


if __name__ == "__main__":
    questions = {"batch": batch, "single": single, "first": first, "lstat": lstat, "memory": memory}
    print(*questions[sys.argv[1]](*sys.argv[2:]))  # type: ignore[operator]
