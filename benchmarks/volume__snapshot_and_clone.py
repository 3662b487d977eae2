"""What does it take to keep what a volume of 1 GiB is, to make a new one of it, and to go back?

Ours: `snapshot`, `clone` and `rollback` of the API, in process; on ext4 in a pool. They end when all is on disk.
Theirs: `cp -a --reflink=auto`, and on btrfs `btrfs subvolume snapshot`, each with a sync of the file system after it.
The limit is what no clone of each file can do without, and nothing else: one thread opens, creates, shares blocks and
closes, and syncs the file system. All take turns; what they have made is removed out of turn.

And a database: PostgreSQL with 1 GB of pgbench's tables, which was stopped. Its clone is asked as the volume's, and how
long it is from there until a server in a container on the clone has done its first transaction; a server alone in a
plain directory, which needs no clone, is the limit of that.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import lazarus
from benchmarks.contenders import databases
from benchmarks.contenders.roots import VolumeContainer, size_of
from benchmarks.harness.disks import Disk
from benchmarks.harness.results import LIMIT, OURS, record, record_missing
from lazarus._native.sync import syncfs
from lazarus.volumes.volume import Volume

FICLONE = 0x40049409  # linux/fs.h
MIB = 1 << 20
ANSWERED = "clone and first transaction"
CASES = {"one file of 1 GiB": (1, 1024), "1,000 files of 1 MiB": (1000, 1)}  # files, MiB of each


@pytest.mark.parametrize("case", CASES)
def test_snapshot_clone_rollback(benchmark: Any, disk: Disk, quick: bool, case: str) -> None:
    samples: defaultdict[tuple[str, str], list[float]] = defaultdict(list)  # (contender, metric) -> seconds
    missing: dict[str, str] = {}
    with lazarus.Store(disk.path / "store") as store:
        if disk.type == "ext4":
            store.pool.create(3 << 30)
        volume = store.volumes.create("db")
        _fill(Path(volume.path), case)
        peers = dict(_peers(disk, case, missing))
        os.sync()

        def turn() -> None:
            for metric, seconds in _ours(volume):
                samples[OURS, metric].append(seconds)
            seconds = _bare(volume)
            for metric in ("snapshot", "clone"):
                samples[f"{LIMIT}bare system calls", metric].append(seconds)
            for name, act in list(peers.items()):
                begun = time.perf_counter()
                try:
                    act()
                    subprocess.run(["sync", "-f", disk.path], check=True)
                except (OSError, subprocess.CalledProcessError) as error:
                    missing[name] = str(error)
                    del peers[name]
                else:
                    for metric in ("snapshot", "clone"):  # to them it is one
                        samples[name, metric].append(time.perf_counter() - begun)
                _remove(disk.path / "copy")
                os.sync()

        turn()
        samples.clear()
        benchmark.pedantic(turn, rounds=3 if quick else 11, iterations=1)
        shared = volume.snapshot("last").cost
        volume.remove()
        if disk.type == "ext4":
            store.pool.destroy()
    record_missing(benchmark, missing)
    print(f"\n{case} on {disk.type}: {shared.shared >> 20} MiB shared, {shared.copied >> 20} MiB copied")
    _report(benchmark, samples, case, disk)


def test_clone_of_a_database(benchmark: Any, disk: Disk, quick: bool) -> None:
    if (why := databases.why_no_postgres()) is not None:
        pytest.skip(why)
    samples: defaultdict[tuple[str, str], list[float]] = defaultdict(list)  # (contender, metric) -> seconds
    lower, place = disk.path / "lower", disk.path / "ours"
    lower.mkdir()
    place.mkdir()
    program = [sys.executable, databases.__file__]
    subprocess.run([*databases.ALONE, *program, "make-postgres", lower, "10" if quick else "65"], check=True)
    root = VolumeContainer(place, lower)
    root.prepare()
    try:
        if disk.type == "ext4":
            root.store.pool.create(5 << 30)
        root.make()
        volume = root.store.volumes.get("db")

        def turn() -> None:
            begun = time.perf_counter()
            volume.clone("c")
            samples[OURS, "clone"].append(time.perf_counter() - begun)
            said = json.loads(root.run([*program, "postgres-answer", VolumeContainer.TARGET], "c"))
            samples[OURS, ANSWERED].append(said["answered"] - begun)
            volume.store.volumes.remove("c")
            os.sync()
            samples[f"{LIMIT}bare system calls", "clone"].append(_bare(volume))
            begun = time.perf_counter()
            subprocess.run(["cp", "-a", "--reflink=auto", lower, disk.path / "copy"], check=True)
            subprocess.run(["sync", "-f", disk.path], check=True)
            samples["cp -a --reflink=auto", "clone"].append(time.perf_counter() - begun)
            begun = time.perf_counter()
            answer = [*databases.ALONE, *program, "postgres-answer", disk.path / "copy"]
            alone = subprocess.run(answer, stdout=subprocess.PIPE, check=True)
            samples[f"{LIMIT}a plain directory", ANSWERED].append(json.loads(alone.stdout)["answered"] - begun)
            _remove(disk.path / "copy")
            os.sync()

        turn()
        samples.clear()
        benchmark.pedantic(turn, rounds=3 if quick else 7, iterations=1)
        root.drop()
        if disk.type == "ext4":
            root.store.pool.destroy()
    finally:
        root.close()
    size = size_of(lower)
    case = f"a database of {size / 1e9:.2f} GB"
    print(f"\n{case} on {disk.type}")
    _report(benchmark, samples, case, disk)


def _report(benchmark: Any, samples: Mapping[tuple[str, str], Sequence[float]], case: str, disk: Disk) -> None:
    for (name, metric), seconds in samples.items():
        row = record(benchmark, name, metric, "s", seconds, case=case, file_system=disk.type)
        print(f"  {name:28} {metric:28} {row.median * 1e3:8.1f} ms ± {row.spread * 1e3:.1f}")


def _ours(volume: Volume) -> Iterator[tuple[str, float]]:
    acts: dict[str, Callable[[], object]] = {
        "snapshot": lambda: volume.snapshot("s"),
        "clone": lambda: volume.clone("c"),
        "rollback": lambda: volume.rollback("s"),
    }
    for metric, act in acts.items():
        begun = time.perf_counter()
        act()
        yield metric, time.perf_counter() - begun
    volume.get_snapshot("s").remove()
    volume.store.volumes.remove("c")
    os.sync()


def _bare(volume: Volume) -> float:
    """On the file system that the volume is on, which may be a pool's."""
    copy = Path(volume.directory, "limit")
    begun = time.perf_counter()
    for directory, _, names, source in os.fwalk(volume.path):
        place = copy / os.path.relpath(directory, volume.path)
        place.mkdir()
        target = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        for name in names:
            from_fd = os.open(name, os.O_RDONLY, dir_fd=source)
            to_fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=target)
            fcntl.ioctl(to_fd, FICLONE, from_fd)
            os.close(to_fd)
            os.close(from_fd)
        os.close(target)
    target = os.open(copy, os.O_RDONLY | os.O_DIRECTORY)
    syncfs(target)
    seconds = time.perf_counter() - begun
    os.close(target)
    shutil.rmtree(copy)
    os.sync()
    return seconds


def _fill(place: Path, case: str) -> None:
    count, size = CASES[case]
    block = os.urandom(MIB)
    for number in range(count):
        with open(place / f"{number:04}", "wb") as file:
            for _ in range(size):
                file.write(block)


def _peers(disk: Disk, case: str, missing: dict[str, str]) -> Iterator[tuple[str, Callable[[], object]]]:
    """What they copy is in a directory, which is a subvolume where there is such a thing."""
    source, copy = disk.path / "peer", disk.path / "copy"
    has_subvolumes = disk.type == "btrfs" and shutil.which("btrfs") is not None
    if has_subvolumes:
        subprocess.run(["btrfs", "-q", "subvolume", "create", source], check=True)
    else:
        source.mkdir()
    _fill(source, case)
    yield "cp -a --reflink=auto", lambda: subprocess.run(["cp", "-a", "--reflink=auto", source, copy], check=True)
    name = "btrfs snapshot"
    if has_subvolumes:
        command = ["btrfs", "-q", "subvolume", "snapshot", source, copy]
        yield name, lambda: subprocess.run(command, check=True)
    else:
        missing[name] = "the file system is not btrfs" if disk.type != "btrfs" else "btrfs is not installed"


def _remove(copy: Path) -> None:
    if os.path.isdir(copy) and os.stat(copy).st_ino == 256:  # the root of a subvolume
        subprocess.run(["btrfs", "-q", "subvolume", "delete", copy], check=False)
    shutil.rmtree(copy, ignore_errors=True)
