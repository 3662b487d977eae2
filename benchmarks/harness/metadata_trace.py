"""How much of what reaches a block device is a file system's own metadata: the kernel marks those requests.

ext4 and its journal, XFS and its log, and btrfs set REQ_META on what is not file content; the tracepoint
`block:block_rq_issue` shows it as an M (include/linux/blk_types.h, Documentation/trace/events.rst). What ext4 writes to
its journal is counted when it is written, the same blocks again at their places only when the journal is checkpointed,
which a sync does not wait for.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

_SECTORS = re.compile(r"block_rq_issue: .* \+ (\d+) ")
_LOST = re.compile(r"^(?:overrun|commit overrun|dropped events): (\d+)$", re.MULTILINE)
_KIB = 8192  # of the ring of each CPU: some 80,000 requests


class MetadataTrace:
    """Listens to one device; a context manager. Needs root and a kernel with tracepoints.

    A trace has a name in tracefs that outlives its maker when that is killed: janitor.py removes those of a run.
    """

    def __init__(self, device: str, name: str, tracefs: Path) -> None:
        """`OSError` or `RuntimeError` where there is no tracefs to be mounted at `tracefs` or no such tracepoint."""
        self._filter = f'{_requests_of(device)} && rwbs ~ "*W*M*"'
        mount_tracefs(tracefs)
        self._instance = tracefs / "instances" / name
        self._tracefs = tracefs

    def __enter__(self) -> Self:
        try:
            self._instance.mkdir()
        except OSError:  # another's
            self._unmount()
            raise
        try:
            (self._event / "filter").write_text(self._filter)
            (self._instance / "buffer_size_kb").write_text(str(_KIB))
        except OSError:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _event(self) -> Path:
        return self._instance / "events/block/block_rq_issue"

    def start(self) -> None:
        """Counts from here on."""
        (self._instance / "trace").write_text("")
        (self._event / "enable").write_text("1")

    def stop(self) -> int | None:
        """Bytes of metadata since `start()`; None when there was more than the ring holds."""
        (self._event / "enable").write_text("0")
        lost = (
            number for path in self._instance.glob("per_cpu/cpu*/stats") for number in _LOST.findall(path.read_text())
        )
        if any(int(number) for number in lost):
            return None
        return 512 * sum(map(int, _SECTORS.findall((self._instance / "trace").read_text())))

    def close(self) -> None:
        """Removes it."""
        if self._instance.exists():
            self._instance.rmdir()
        self._unmount()

    def _unmount(self) -> None:
        subprocess.run(["umount", str(self._tracefs)], check=False, capture_output=True)
        self._tracefs.rmdir()


def _requests_of(device: str) -> str:
    """What tells a device's requests from others. `RuntimeError` for one that has none, as of LVM and RAID: what it is
    asked becomes requests of other devices."""
    found = Path(f"/sys/class/block/{Path(device).name}").resolve()
    place = ""
    if (found / "partition").exists():  # the whole disk's, at the partition's place
        first, count = (int((found / name).read_text()) for name in ("start", "size"))
        place = f" && sector >= {first} && sector < {first + count}"
        found = found.parent
    if not (found / "mq").is_dir():
        raise RuntimeError(f"{device} has no queue of requests")
    major, minor = (found / "dev").read_text().strip().split(":")
    return f"dev == {int(major) << 20 | int(minor)}{place}"


def mount_tracefs(place: Path) -> None:
    """tracefs at `place`, which is made. `RuntimeError` with what mount says."""
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tracefs", "tracefs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        place.rmdir()
        raise RuntimeError(done.stderr.strip())
