"""What does a commit cost when one 4 KiB file of a 17,000-entry image has changed?

Once as a call of the API in a process that is running already, once as a command, most of which is the start of Python.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import lazarus
from benchmarks.contenders import peers
from benchmarks.harness.race import Contender, race
from benchmarks.harness.results import record

CHANGE = "dd if=/dev/urandom of=/srv/app.txt bs=4096 count=1 2>/dev/null"


def test_commit_of_4_kib(benchmark: Any, image: Path, scratch: Path) -> None:
    command = [peers.LAZARUS, "--root", str(scratch / "store")]
    podman = peers.podman(scratch)
    for load in ([*command, "load", "-q", "-i", str(image)], [*podman, "load", "-q", "-i", str(image)]):
        subprocess.run(load, check=load[0] == peers.LAZARUS, capture_output=True)
    run = ["run", "--name", "changed", "--network", "none"]
    subprocess.run([*command, *run, "debian:app", "sh", "-c", CHANGE], check=True, capture_output=True)
    subprocess.run([*podman, *run, *peers.LIMITS, "debian:app", "sh", "-c", CHANGE], check=False, capture_output=True)

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
            [Contender("podman commit", [*podman, "commit", "-q", "changed", "bench:commit"])],
            rounds=15,
        )
    api = record(benchmark, "lazarus API", "wall", "s", calls)
    print(f"  container.commit() {api.median * 1e3:.1f} ms ± {api.spread * 1e3:.1f}")
