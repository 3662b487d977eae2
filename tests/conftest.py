"""What every test shares: the `root` marker, a mount namespace, and a check that nothing is left mounted."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helpers next to the tests are imported by name


CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18


def pytest_configure() -> None:
    """As root, all tests run in a mount namespace of their own: they see no mount that others make meanwhile, and what
    they leave mounted goes with them, however they end."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0 or libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"a mount namespace for the tests: {os.strerror(error)}")


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
