"""How fast are names? 50,000 files created, looked at, listed and removed, new ones and those of a lower."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.contenders import roots, workloads
from benchmarks.contenders.turns import ask, workload
from benchmarks.harness.disks import Disk

FILES = 50_000


@pytest.mark.parametrize("name", ["storm", "remove"])
def test_many_files(benchmark: Any, disk: Disk, name: str, quick: bool) -> None:
    if quick:
        pytest.skip("not in the quick set")
    lower = disk.path / "lower"
    lower.mkdir()
    if name == "remove":
        workloads.fill(str(lower), FILES)
    case = f"{FILES:,} files{' of a lower' if name == 'remove' else ''}"
    ask(benchmark, disk, roots.EVERYONE, workload(name, FILES), lower=lower, case=case, rounds=3, commit=True)
