"""What does a commit cost when one 4 KiB file of a 17,000-entry image has changed?"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.race import Contender, race

CHANGE = "dd if=/dev/urandom of=/srv/app.txt bs=4096 count=1 2>/dev/null"


def test_commit_of_4_kib(benchmark: Any, image: Path, scratch: Path) -> None:
    lazarus = [peers.LAZARUS, "--root", str(scratch / "store")]
    podman = peers.podman(scratch)
    for command in ([*lazarus, "load", "-q", "-i", str(image)], [*podman, "load", "-q", "-i", str(image)]):
        subprocess.run(command, check=command[0] == peers.LAZARUS, capture_output=True)
    run = ["run", "--name", "changed", "--network", "none"]
    subprocess.run([*lazarus, *run, "debian:app", "sh", "-c", CHANGE], check=True, capture_output=True)
    subprocess.run([*podman, *run, *peers.LIMITS, "debian:app", "sh", "-c", CHANGE], check=False, capture_output=True)
    race(
        benchmark,
        Contender("lazarus commit", [*lazarus, "commit", "-q", "changed", "bench:commit"]),
        [Contender("podman commit", [*podman, "commit", "-q", "changed", "bench:commit"])],
        rounds=9,
    )
