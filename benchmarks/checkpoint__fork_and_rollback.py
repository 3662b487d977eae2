"""What does it cost to freeze what a container has written, to go back to it, and to go on from it in a hundred others?

A container has changed 1,000 files of 4 KiB. Asked are its checkpoint until the next write has returned (through a
layer stack in this process, and in a mounted root file system, which is mounted anew for it); the way back to a
checkpoint from 1,000 changed files; and the fork of 100 containers, all mounted. Others copy what was written,
`cp -a --reflink=auto`. The bars: 10 ms (aim 1 ms) for a checkpoint and the next write, 100 ms (40 ms) for the forks,
10 ms (2 ms) for the way back.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import lazarus
from benchmarks.harness.disks import Disk
from benchmarks.harness.results import record

CHANGED = 1000
COPY = "cp -a --reflink=auto"
NAMES = [f"srv/{number // 100}/{number}" for number in range(CHANGED)]


class Timed:
    """Samples by contender and case."""

    def __init__(self) -> None:
        self.samples: dict[tuple[str, str, str], list[float]] = {}

    @contextmanager
    def __call__(self, contender: str, case: str, metric: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.samples.setdefault((contender, case, metric), []).append(time.perf_counter() - started)

    def record(self, benchmark: Any, disk: Disk) -> None:
        """All rows; a line for each."""
        benchmark.extra_info["disk"] = disk.facts()
        for (contender, case, metric), samples in self.samples.items():
            row = record(benchmark, contender, metric, "s", samples, case=case, file_system=disk.kind)
            text = f"{metric}: {row.median * 1e3:.2f} ms ± {row.spread * 1e3:.2f}"
            print(f"\n  {disk.kind} {contender}: {text}", end="")


def image_of(store: lazarus.Store, place: Path) -> lazarus.images.Image:
    """A few thousand small files, those that are changed among them."""
    tar = place / "image.tar"
    with tarfile.open(tar, "w") as archive:
        for name in [*NAMES, *(f"usr/{number // 50}/{number}" for number in range(4000))]:
            info = tarfile.TarInfo(name)
            info.size, info.mode = 6, 0o644
            archive.addfile(info, io.BytesIO(b"before"))
    return store.images.import_(str(tar), "bench:checkpoint")


def change(root: Path) -> None:
    """1,000 files through a mounted root file system."""
    for name in NAMES:
        with open(root / name, "wb") as file:
            file.write(os.urandom(4096))


def copied(source: Path, target: Path) -> None:
    """What others do."""
    subprocess.run([*COPY.split(), str(source), str(target)], check=True)


@pytest.fixture
def store(disk: Disk) -> Iterator[lazarus.Store]:
    if os.geteuid() != 0:
        pytest.skip("needs root: containers are mounted")
    with lazarus.Store(disk.path / "store") as opened:
        image_of(opened, disk.path)
        try:
            yield opened
        finally:
            for container in opened.containers.list(all=True):
                container.remove(force=True)


def played(benchmark: Any, turn: Callable[[], None], rounds: int) -> None:
    """The first turn warms what is cached."""
    turn()
    benchmark.pedantic(turn, rounds=rounds, iterations=1)


def test_checkpoint_and_the_next_write(benchmark: Any, disk: Disk, store: lazarus.Store, quick: bool) -> None:
    timed, case = Timed(), f"{CHANGED} changed files"

    def turn() -> None:
        container = store.containers.create("bench:checkpoint", command=["true"])
        root = Path(container.mount())
        change(root)
        copy = disk.path / "copy"
        with timed(COPY, case, "checkpoint and next write"):
            copied(Path(container.directory, "upper"), copy)
            (root / NAMES[0]).write_bytes(b"after")
        shutil.rmtree(copy)
        with timed("lazarus (mounted)", case, "checkpoint and next write"):
            container.checkpoint()
            (root / NAMES[0]).write_bytes(b"after")
        container.rollback("1")
        change(root)
        container.unmount()
        with timed("lazarus", case, "checkpoint and next write"):
            container.checkpoint()
            with container.stack() as stack, stack.open(NAMES[0], "wb") as file:
                file.write(b"after")
        container.remove()

    played(benchmark, turn, 5 if quick else 15)
    timed.record(benchmark, disk)


def test_rollback(benchmark: Any, disk: Disk, store: lazarus.Store, quick: bool) -> None:
    timed, case = Timed(), f"{CHANGED} changed files"

    def turn() -> None:
        container = store.containers.create("bench:checkpoint", command=["true"])
        container.checkpoint()
        root = Path(container.mount())
        change(root)
        with timed("lazarus (mounted)", case, "rollback"):
            container.rollback("1")
        change(root)
        container.unmount()
        upper, empty = Path(container.directory, "upper"), disk.path / "empty"
        copied(upper, disk.path / "changed")
        empty.mkdir()
        with timed("lazarus", case, "rollback"):
            container.rollback("1")
        with timed("rm -rf, " + COPY, case, "rollback"):
            subprocess.run(["rm", "-rf", str(disk.path / "changed")], check=True)
            copied(empty, disk.path / "changed")
        shutil.rmtree(disk.path / "changed")
        empty.rmdir()
        container.remove()

    played(benchmark, turn, 5 if quick else 15)
    timed.record(benchmark, disk)


def test_forks_that_are_all_mounted(benchmark: Any, disk: Disk, store: lazarus.Store, quick: bool) -> None:
    """The copies are of what was written alone: somebody who copies has still to mount them over the image."""
    count = 100
    timed, case = Timed(), f"{count} of {CHANGED} changed files"
    container = store.containers.create("bench:checkpoint", command=["true"])
    change(Path(container.mount()))
    container.unmount()
    container.checkpoint("base")

    def turn() -> None:
        with timed("lazarus", case, "fork, all mounted"):
            forks = container.fork(count, "base", mount=True)
        for fork in forks:
            fork.remove()

    played(benchmark, turn, 3 if quick else 10)
    for _ in range(1 if quick else 3):
        (disk.path / "copies").mkdir()
        with timed(COPY, case, "fork, all mounted"):
            for number in range(count):
                copied(Path(store.paths.checkpoint(f"{container.id}/base"), "upper"), disk.path / f"copies/{number}")
        shutil.rmtree(disk.path / "copies")
    timed.record(benchmark, disk)
