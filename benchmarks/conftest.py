"""What every benchmark shares: the image, a scratch directory on a real disk, machine facts in the JSON."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.debian_image import debian_image

SCRATCH = Path(os.environ.get("LAZARUS_BENCH_DIR", "/var/tmp"))


@pytest.fixture(scope="session")
def image() -> Path:
    """The 4-layer Debian image as an OCI archive: $LAZARUS_BENCH_IMAGE, else built once by buildah."""
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts, and podman and ctr as peers")
    return debian_image(SCRATCH)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """An empty directory on the disk under test, removed afterwards."""
    directory = SCRATCH / f"lazarus-bench-{os.getpid()}"
    directory.mkdir()
    try:
        yield directory
    finally:
        peers.clean_up(directory)
        shutil.rmtree(directory, ignore_errors=True)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, object]) -> None:
    """Adds kernel, CPU, file system and the version of every peer to the JSON."""
    machine_info["kernel"] = platform.release()
    machine_info["cores"] = os.cpu_count()
    machine_info["file_system"] = subprocess.run(
        ["findmnt", "-no", "FSTYPE,OPTIONS", "-T", str(SCRATCH)], capture_output=True, text=True, check=False
    ).stdout.strip()
    machine_info["peers"] = peers.versions()
