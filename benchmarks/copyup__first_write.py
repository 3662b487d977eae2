"""What does the first write to a file of a lower layer cost? 4 KiB into 1 MiB, 64 MiB, 1 GiB: until the call returns.

The clock runs from before the file is opened to after the write; a layer stack is opened, an overlay or a container
mounted before that. `cp` is what somebody without any of this does: the copy, then the write. The bars for a stack:
under 2 ms (aim 0.3 ms) on each file system.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.contenders import roots
from benchmarks.contenders.turns import ask, workload
from benchmarks.harness.disks import Disk


@pytest.mark.parametrize("mebibytes", [1, 64, 1024])
def test_first_write(benchmark: Any, disk: Disk, mebibytes: int, quick: bool) -> None:
    if quick and mebibytes != 64:
        pytest.skip("not in the quick set")
    if disk.device and disk.direct_io and disk.size < 4 * (mebibytes << 20):
        pytest.skip(f"{mebibytes} MiB need --size {4 * mebibytes}M: several copies lie on the disk at once")
    lower = roots.lower_with_big(disk.path / "lower", mebibytes << 20)
    work, case = workload("random_writes", 1), f"1 x 4 KiB into {mebibytes} MiB"
    ask(benchmark, disk, roots.ways(quick), work, lower=lower, case=case, rounds=7, commit=not quick)
