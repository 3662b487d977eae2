"""What does a commit cost when one 4 KiB file of a 17,000-entry image has changed?

Once as a call of the API in a process that is running already, once as a command, most of which is the start of Python.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lazarus
from benchmarks.contenders import peers
from benchmarks.harness.disks import run as run_here
from benchmarks.harness.race import Contender, race
from benchmarks.harness.results import record

CHANGE = "dd if=/dev/urandom of=/srv/app.txt bs=4096 count=1 2>/dev/null"


def test_commit_of_4_kib(benchmark: Any, image: Path, scratch: Path) -> None:
    command = [peers.LAZARUS, "--root", str(scratch / "store")]
    podman = peers.podman(scratch)

    def change(command: list[str], *options: str) -> None:
        run_here(*command, "load", "-q", "-i", str(image))
        run_here(*command, "run", "--name", "changed", "--network", "none", *options, "debian:app", "sh", "-c", CHANGE)

    change(command)
    calls: list[float] = []
    with lazarus.Store(scratch / "store") as store:
        container = store.containers.get("changed")

        def call() -> None:
            started = time.perf_counter()
            container.commit("bench:commit")
            calls.append(time.perf_counter() - started)

        call()
        calls.clear()
        race(
            benchmark,
            Contender("lazarus commit", [*command, "commit", "-q", "changed", "bench:commit"], after=call),
            [
                Contender(
                    "podman commit",
                    [*podman, "commit", "-q", "changed", "bench:commit"],
                    prepare=lambda: change(podman, *peers.LIMITS),
                )
            ],
            rounds=15,
        )
    api = record(benchmark, "lazarus API", "wall", "s", calls)
    print(f"  container.commit() {api.median * 1e3:.1f} ms ± {api.spread * 1e3:.1f}")
