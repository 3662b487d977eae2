"""What every benchmark shares: options, the image, a scratch directory on the disk under test, machine facts."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contenders import peers
from benchmarks.harness.disks import Disk
from benchmarks.harness.limits import limits
from benchmarks.images.debian import debian_image
from benchmarks.images.rootfs import IMAGES

SCRATCH = Path(os.environ.get("LAZARUS_BENCH_SCRATCH", "/var/tmp"))
_reasons: dict[str, str] = {}  # by test: why it was not asked, or not to its end


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lazarus benchmarks")
    group.addoption("--quick", action="store_true", help="less of everything")
    group.addoption("--fs", default="ext4,xfs,btrfs", help="file systems that are made, by comma; here: none is")
    group.addoption("--size", type=int, default=8 << 30, help="bytes of each")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "disk" in metafunc.fixturenames:
        metafunc.parametrize("disk", metafunc.config.getoption("fs").split(","), indirect=True)


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> bool:
    """Is less of everything enough?"""
    return bool(request.config.getoption("quick"))


@pytest.fixture
def disk(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Disk]:
    """A file system of its own, of each kind that was asked for."""
    with Disk(scratch, request.param, request.config.getoption("size")) as made:
        yield made


@pytest.fixture(scope="session")
def image() -> Path:
    """The 4-layer Debian image as an OCI archive: $LAZARUS_BENCH_IMAGE, else built once by buildah."""
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts, and podman and ctr as peers")
    try:
        return debian_image(IMAGES, SCRATCH)
    except (OSError, RuntimeError) as error:
        pytest.skip(f"no image: {error}")


@pytest.fixture
def scratch() -> Iterator[Path]:
    """An empty directory on the disk under test, removed afterwards."""
    yield from _directory(f"bench-{os.getpid()}")


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    """The same for all tests of a file."""
    yield from _directory(f"shared-{os.getpid()}")


def _directory(name: str) -> Iterator[Path]:
    directory = SCRATCH / name
    while directory.exists():  # what an earlier question could not remove does not keep this one from its own
        directory = directory.with_name(f"{directory.name}+")
    directory.mkdir()
    try:
        yield directory
    finally:
        peers.clean_up(directory)
        shutil.rmtree(directory, ignore_errors=True)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keeps why a question was not asked, or not to its end."""
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        _reasons[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")
    elif report.failed:
        _reasons[report.nodeid] = str(report.longreprtext).strip().splitlines()[-1]


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Questions that were not asked are in the JSON, too, with the reason."""
    output_json["not_asked"] = _reasons
    output_json["command"] = os.environ.get("LAZARUS_BENCH_COMMAND", "")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, object]) -> None:
    """Adds kernel, CPU, file system and the version of every peer to the JSON."""
    machine_info["kernel"] = platform.release()
    machine_info["cores"] = os.cpu_count()
    machine_info["file_system"] = subprocess.run(
        ["findmnt", "-no", "FSTYPE,OPTIONS", "-T", str(SCRATCH)], capture_output=True, text=True, check=False
    ).stdout.strip()
    machine_info["limits"] = limits(SCRATCH)
    machine_info["peers"] = peers.versions()
