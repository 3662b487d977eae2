"""File systems of their own in a file, behind a loop device whose counters say what reaches the disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

SECTOR = 512  # of /sys/block/*/stat, whatever the device has


def run(*command: str) -> str:
    """What the command prints; `RuntimeError` with what it complains about."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()


class Disk:
    """A file system of `kind` with `size` bytes, made and mounted below `place` for as long as the `with` lasts."""

    def __init__(self, place: Path, kind: str, size: int) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root: loop devices and mounts")
        if shutil.which(f"mkfs.{kind}", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            pytest.skip(f"mkfs.{kind} is not installed")
        self.kind = kind
        self.image = place / f"{kind}.image"
        self.path = place / kind
        self.size = size
        self.device = ""

    def __enter__(self) -> Self:
        with open(self.image, "wb") as file:
            file.truncate(self.size)
        run(f"mkfs.{self.kind}", "-q", str(self.image))
        self.path.mkdir()
        self.device = run("losetup", "--find", "--show", str(self.image))
        try:
            run("mount", self.device, str(self.path))
        except RuntimeError:
            run("losetup", "--detach", self.device)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run("umount", str(self.path))
        run("losetup", "--detach", self.device)
        self.path.rmdir()
        self.image.unlink()

    def written(self) -> int:
        """Bytes that were written to the device since it was made, with everything written back first."""
        os.sync()
        counters = Path(f"/sys/block/{Path(self.device).name}/stat").read_text().split()
        return int(counters[6]) * SECTOR
