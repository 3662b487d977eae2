"""What every test shares: the `root` marker, a mount namespace, room on the disk, and nothing is left mounted."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import shutil
import signal
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helpers next to the tests are imported by name


CLONE_NEWNS = 0x00020000
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_TOPDIR_FL = 0x80086601, 0x40086602, 0x20000  # linux/fs.h
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
GIB = 1 << 30
NEEDED = 3 * GIB  # at their height the Python tests have 1 GiB in use; images of workloads, and what is built, the rest


def pytest_configure(config: pytest.Config) -> None:
    """As root, all tests run in a mount namespace of their own: they see no mount that others make meanwhile, and what
    they leave mounted goes with them, however they end. A disk that is too full for them ends the run here."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of a job in the background, and inherited: tests send it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):  # once, and not in each of xdist's workers
        _need_room()
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0 or libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"a mount namespace for the tests: {os.strerror(error)}")


def pytest_report_header() -> str:
    """How much room there is: a disk that fills up during a run makes tests fail that have nothing to do with it."""
    place = tempfile.gettempdir()
    return f"disk: {shutil.disk_usage(place).free / GIB:.1f} GiB free in {place}, {NEEDED / GIB:.0f} GiB needed"


def _need_room() -> None:
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < NEEDED:
        raise pytest.UsageError(
            f"{tempfile.gettempdir()} has {free / GIB:.1f} GiB free; the tests need {NEEDED / GIB:.0f} GiB there"
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips `root` tests for other users, with the reason printed."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: mounts, device nodes and foreign owners"))


def pytest_collection_finish() -> None:
    """The tests themselves stay to the end: the collector, and each forked child's, need not look at them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def spread_over_the_disk(tmp_path_factory: pytest.TempPathFactory) -> None:
    """ext4 passes over inodes that were freed in the last minute, one by one (recently_deleted() in its ialloc.c), and
    new directories mostly lie where those of the test before lay: a quarter of a file of tests' time. Each directory in
    one with this flag gets a block group of its own."""
    fd = os.open(tmp_path_factory.getbasetemp(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        flags = struct.unpack("l", fcntl.ioctl(fd, FS_IOC_GETFLAGS, struct.pack("l", 0)))[0]
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("l", flags | FS_TOPDIR_FL))
    except OSError:  # another file system, which has no need of it
        pass
    finally:
        os.close(fd)


@pytest.fixture(autouse=True, scope="module")
def nothing_left_mounted() -> Iterator[None]:
    """Every test module must leave the mount table as it found it."""
    before = _mounts()
    yield
    left = _mounts() - before
    assert not left, f"left mounted: {sorted(left)}"


def _mounts() -> set[str]:
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
