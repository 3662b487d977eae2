"""What does a change cost the disk? Bytes that reach it, content and metadata apart, and the space that stays taken.

The bars for a stack on ext4: 1,000 random writes of 4 KiB into 1 GiB write at most 4 bytes for each that was asked
(aim 1.5). A directory that an overlay cannot rename is moved as mv(1) does it.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.contenders import roots, workloads
from benchmarks.contenders.turns import ask, workload
from benchmarks.harness.disks import Disk

FILES = 5_000


def test_a_thousand_writes(benchmark: Any, disk: Disk, quick: bool) -> None:
    if quick and disk.kind != "ext4":
        pytest.skip("not in the quick set")
    mebibytes = 256 if quick else 1024
    lower = roots.lower_with_big(disk.path / "lower", mebibytes << 20)
    work, case = workload("random_writes", 1000), f"1000 x 4 KiB into {mebibytes} MiB"
    ask(benchmark, disk, roots.ways(quick), work, lower=lower, case=case, rounds=5, commit=not quick)


def test_append(benchmark: Any, disk: Disk, quick: bool) -> None:
    if quick:
        pytest.skip("not in the quick set")
    lower = roots.lower_with_big(disk.path / "lower", 64 << 20)
    work, case = workload("append", 256), "256 x 4 KiB appended to 64 MiB"
    ask(benchmark, disk, roots.ways(quick), work, lower=lower, case=case, rounds=5, commit=True)


@pytest.mark.parametrize("name", ["chmod", "rename"])
def test_a_large_directory(benchmark: Any, disk: Disk, name: str, quick: bool) -> None:
    if quick:
        pytest.skip("not in the quick set")
    lower = disk.path / "lower"
    workloads.fill(str(lower), FILES)
    case = f"{name} of a directory of {FILES:,} files"
    ask(benchmark, disk, roots.EVERYONE, workload(name, FILES), lower=lower, case=case, rounds=3, commit=True)
