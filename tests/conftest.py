"""What every test shares: the `root` marker, and a check that nothing is left mounted."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helpers next to the tests are imported by name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips `root` tests for other users, with the reason printed."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: mounts, device nodes and foreign owners"))


@pytest.fixture(autouse=True, scope="module")
def nothing_left_mounted() -> Iterator[None]:
    """Every test module must leave the mount table as it found it."""
    before = _mounts()
    yield
    left = _mounts() - before
    assert not left, f"left mounted: {sorted(left)}"


def _mounts() -> set[str]:
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
