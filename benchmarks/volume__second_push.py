"""What does a volume cost to move, and to move again once 1 % of its pages have changed?

1 GiB in four files, half of each page noise. First everything is sent, then 1 % of the pages, chosen at random, are
written anew, and it is sent again. `sent` is what appeared in the destination: blobs with index and manifest, segments
of a repository, an archive. borg's chunks are 2 MiB on average unless told; it is asked with blocks of 4 KiB, too.
`tar | zstd` knows no second push, and sends everything again.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contenders import peers
from benchmarks.harness.results import OURS, record, record_missing

FILES = 4
PAGE = 4096
BORG = {
    "borg": ("fixed,4096", "borgbackup (blocks of 4 KiB)"),
    "borg_default": ("buzhash,19,23,21,4095", "borgbackup"),
}


def page(chance: random.Random) -> bytes:
    """Half of it compresses away."""
    return chance.randbytes(PAGE // 2) + chance.randbytes(16) * (PAGE // 32)


@pytest.mark.parametrize("changed", [4096, 8192], ids=["pages of 4 KiB", "pages of 8 KiB"])
def test_second_push(benchmark: Any, scratch: Path, quick: bool, changed: int) -> None:
    size = (128 if quick else 1024) << 20
    work = _Work(scratch, size, changed)
    samples: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)  # (contender, which, metric)
    missing: dict[str, str] = {}

    def turn() -> None:
        work.begin()
        for which in ("first", "second"):
            for name, send in work.contenders.items():
                if name in missing:
                    continue
                try:
                    seconds, sent = send()
                except (OSError, subprocess.CalledProcessError) as error:
                    detail = getattr(error, "stderr", b"") or b""
                    missing[name] = f"{error} {detail.decode(errors='replace')[-200:]}".strip()
                    continue
                samples[name, which, "wall"].append(seconds)
                samples[name, which, "sent"].append(sent)
            work.change()

    benchmark.pedantic(turn, rounds=2 if quick else 3, iterations=1)
    record_missing(benchmark, missing)
    if OURS in missing:
        raise RuntimeError(missing[OURS])
    print(f"\n{size >> 20} MiB, of which 1 % changed in pages of {changed >> 10} KiB")
    for which in ("first", "second"):
        case = f"{which} push of {size >> 20} MiB, pages of {changed >> 10} KiB"
        for name in work.contenders:
            if name in missing:
                continue
            seconds = record(benchmark, name, "wall", "s", samples[name, which, "wall"], case=case)
            sent = record(benchmark, name, "sent", "B", samples[name, which, "sent"], case=case)
            share = 100 * sent.median / size
            print(f"  {which:6} {name:30} {share:7.2f} % sent, {seconds.median:6.2f} s ± {seconds.spread:.2f}")
    for name, why in missing.items():
        print(f"  {name:30} missing: {why[-150:]}")


class _Work:
    """The volume, and everybody's destination."""

    def __init__(self, scratch: Path, size: int, changed: int) -> None:
        self._scratch = scratch
        self._size = size
        self._changed = changed
        self._chance = random.Random(5)
        self._command = [peers.LAZARUS, "--root", str(scratch / "store")]
        subprocess.run([*self._command, "volume", "create", "data"], check=True, capture_output=True)
        (found,) = json.loads(subprocess.check_output([*self._command, "volume", "inspect", "data"]))
        self._data = Path(found["Mountpoint"])
        self.contenders: dict[str, Callable[[], tuple[float, float]]] = {OURS: self._lazarus}
        for chunker, name in BORG.values():
            self.contenders[name] = lambda chunker=chunker, name=name: self._borg(chunker, name)  # type: ignore[misc]
        self.contenders["tar and zstd -1"] = self._tar

    def begin(self) -> None:
        """The volume as it is at first; nobody has sent it."""
        for path in self._scratch.iterdir():
            if path.name != "store":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for number in range(FILES):
            with open(self._data / f"file{number}", "wb") as file:
                for _ in range(self._size // FILES // PAGE):
                    file.write(page(self._chance))
        os.sync()

    def change(self) -> None:
        """1 % of the pages, at random."""
        count = self._size // self._changed
        for number in self._chance.sample(range(count), count // 100):
            at = number * self._changed
            with open(self._data / f"file{at // (self._size // FILES)}", "r+b") as file:
                file.seek(at % (self._size // FILES))
                file.write(b"".join(page(self._chance) for _ in range(self._changed // PAGE)))
        os.sync()

    def _timed(self, command: list[str], destination: Path, **environment: str) -> tuple[float, float]:
        before = _bytes(destination)
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})
        return time.perf_counter() - begun, _bytes(destination) - before

    def _lazarus(self) -> tuple[float, float]:
        layout = self._scratch / "layout"
        begun = time.perf_counter()
        command = [*self._command, "volume", "push", "-q", "--format", "json", "data", f"oci:{layout}:latest"]
        said = json.loads(subprocess.check_output(command))
        return time.perf_counter() - begun, said["Sent"]

    def _borg(self, chunker: str, name: str) -> tuple[float, float]:
        place = self._scratch / name.replace(" ", "-")
        environment = {"BORG_BASE_DIR": str(self._scratch / "borg"), "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"}
        environment["BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK"] = "yes"
        borg = peers.program("borg")
        if not place.exists():
            subprocess.run(
                [borg, "init", "-e", "none", str(place)], check=True, capture_output=True,
                env={**os.environ, **environment},
            )  # fmt: skip
        archive = f"{place}::{time.monotonic_ns()}"
        command = [borg, "create", "--compression", "zstd,1", "--chunker-params", chunker, archive, str(self._data)]
        return self._timed(command, place, **environment)

    def _tar(self) -> tuple[float, float]:
        archive = self._scratch / "archive.tar.zst"
        archive.unlink(missing_ok=True)
        pipe = f"tar -C {self._data} -c . | zstd -1 -q -o {archive} && sync {archive}"
        return self._timed(["sh", "-c", pipe], archive)


def _bytes(place: Path) -> int:
    """Of all files in it."""
    files = place.rglob("*") if place.is_dir() else [place]
    return sum(path.stat().st_size for path in files if path.is_file())
