"""File systems of their own in a file, behind a loop device whose counters say what reaches the disk; or the one that a
directory is on.

Nothing of one is left behind, however its user ends: the file has no name once it is mounted, the loop device goes with
the mount (LO_FLAGS_AUTOCLEAR), and the mount with the mount namespace that `benchmarks.run` makes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import pytest

from benchmarks.harness.metadata_trace import MetadataTrace

SECTOR = 512  # of /sys/block/*/stat, whatever the device has


class Kind(NamedTuple):
    """What `mount -t` calls it, and the command that makes one (none for tmpfs)."""

    type: str
    make: tuple[str, ...]


# Everything that a file system would initialise later, beside a benchmark, it does when it is made.
KINDS = {
    "ext4": Kind("ext4", ("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0")),
    "xfs": Kind("xfs", ("mkfs.xfs", "-q", "-m", "reflink=1")),
    "xfs-noreflink": Kind("xfs", ("mkfs.xfs", "-q", "-m", "reflink=0")),
    "btrfs": Kind("btrfs", ("mkfs.btrfs", "-q")),
    "tmpfs": Kind("tmpfs", ()),
}
HERE = "here"  # the file system of the directory itself, with whatever else it does meanwhile


def run(*command: str) -> str:
    """What the command prints; `RuntimeError` with what it complains about."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-300:]
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {said}")
    return done.stdout.strip()


def why_not(kind: str, place: Path, size: int) -> str | None:
    """Why no such file system can be made below `place`; None when it can."""
    if kind == HERE:
        return None
    if os.geteuid() != 0:
        return "needs root: loop devices and mounts"
    if kind not in KINDS:
        return f"no such file system: {kind}; there are {', '.join(KINDS)}"
    make = KINDS[kind].make
    if make and shutil.which(make[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
        return f"{make[0]} is not installed"
    if make:
        try:
            run("losetup", "--find")
        except (RuntimeError, OSError) as error:
            return f"no loop devices here: {error}"
    free = free_bytes(place)
    if make and free < size:
        return f"{place} has {free >> 20} MiB free, {size >> 20} MiB are needed"
    return None


def _device_below(place: Path) -> str:
    """The block device that a directory's file system is on; nothing where there is none, or not one alone."""
    device = os.path.realpath(run("findmnt", "-no", "SOURCE", "-T", str(place)).partition("[")[0])
    return device if os.path.exists(f"/sys/class/block/{Path(device).name}/stat") else ""


def free_bytes(place: Path) -> int:
    """What its file system has for everybody."""
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


class Written:
    """What reached the device between two looks, with everything written back: bytes in all, and of them the file
    system's own metadata. None for what nobody can tell."""

    all: int | None = None
    metadata: int | None = None

    @property
    def data(self) -> int | None:
        """Bytes of file content."""
        return None if self.all is None or self.metadata is None else self.all - self.metadata


class Disk:
    """A file system of one of `KINDS` with `size` bytes, mounted below `place` for as long as the `with` lasts."""

    def __init__(self, place: Path, kind: str, size: int) -> None:
        if (reason := why_not(kind, place, size)) is not None:
            pytest.skip(f"{kind}: {reason}")
        self.kind = kind
        self.type = KINDS[kind].type if kind != HERE else run("findmnt", "-no", "FSTYPE", "-T", str(place))
        self.path = place / kind
        self.size = size
        self.device = ""
        self.direct_io = False
        self.why_no_metadata = ""
        self._trace: MetadataTrace | None = None
        self._place = place

    def __enter__(self) -> Self:
        self.path.mkdir()
        try:
            if self.kind == HERE:
                self.device = _device_below(self.path)
            elif KINDS[self.kind].make:
                self._mount_image(self._place / f"{self.kind}.image")
            else:
                run("mount", "-t", "tmpfs", "-o", f"size={self.size}", "lazarus-bench", str(self.path))
        except BaseException:
            subprocess.run(["umount", str(self.path)], capture_output=True, check=False)  # it may be mounted already
            self.path.rmdir()
            raise
        self._trace = self._listen()
        return self

    def _listen(self) -> MetadataTrace | None:
        if not self.device or os.geteuid() != 0:
            self.why_no_metadata = "needs root" if self.device else "no block device of its own"
            return None
        try:
            name = f"{self._place.parent.name}-{self.kind}"
            return MetadataTrace(self.device, name, self._place / "tracing").__enter__()
        except (OSError, RuntimeError) as error:
            self.why_no_metadata = f"no trace of the block device: {error}"
            return None

    def _mount_image(self, image: Path) -> None:
        try:
            with open(image, "wb") as file:
                file.truncate(self.size)
            run(*KINDS[self.kind].make, str(image))
            run("mount", "-o", "loop", str(image), str(self.path))
        finally:
            image.unlink(missing_ok=True)
        self.device = run("findmnt", "-no", "SOURCE", str(self.path))
        try:
            run("losetup", "--direct-io=on", self.device)
            self.direct_io = True
        except RuntimeError:
            pass  # what is below cannot: the host's page cache is in between, and `facts()` says so

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._trace is not None:
            self._trace.close()
        if self.kind == HERE:
            shutil.rmtree(self.path)
            return
        run("umount", str(self.path))
        self.path.rmdir()

    @contextlib.contextmanager
    def counting(self) -> Iterator[Written]:
        """What reaches the device inside the `with`, and what is written back at its end."""
        found = Written()
        begun = self.written()
        if self._trace is not None:
            self._trace.start()
        try:
            yield found
            ended = self.written()
        finally:
            metadata = None if self._trace is None else self._trace.stop()
        if begun is not None and ended is not None:
            found.all, found.metadata = ended - begun, metadata

    def free(self) -> int:
        """Bytes that are free, with everything written back."""
        os.sync()
        return free_bytes(self.path)

    def written(self) -> int | None:
        """Bytes that were written to the device since it was made, with everything written back first; None without
        a device."""
        os.sync()
        if not self.device:
            return None
        counters = Path(f"/sys/class/block/{Path(self.device).name}/stat").read_text().split()
        return int(counters[6]) * SECTOR

    def facts(self) -> dict[str, object]:
        """Mount options, size, and whether the loop device goes past the host's page cache."""
        options = run("findmnt", "-no", "FSTYPE,OPTIONS", "-T", str(self.path))
        return {
            "kind": self.kind,
            "mounted": options,
            "size": self.size,
            "direct_io": self.direct_io,
            "metadata": self.why_no_metadata or "counted",
        }
