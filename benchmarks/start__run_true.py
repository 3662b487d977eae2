"""How long does `run --rm --network none IMAGE true` take with the image in the store, seen from the shell?"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from benchmarks.contenders import peers
from benchmarks.harness.race import Contender, race


def test_run_true(benchmark: Any, image: Path, scratch: Path) -> None:
    lazarus = [peers.LAZARUS, "--root", str(scratch / "store")]
    podman = peers.podman(scratch)
    subprocess.run([*lazarus, "load", "-q", "-i", str(image)], check=True, capture_output=True)
    subprocess.run([*podman, "load", "-q", "-i", str(image)], check=False, capture_output=True)
    run = ["run", "--rm", "--network", "none"]
    race(
        benchmark,
        Contender("lazarus run", [*lazarus, *run, "debian:app", "true"]),
        [
            Contender("podman run", [*podman, *run, *peers.LIMITS, "debian:app", "true"]),
            Contender("python -c pass", [str(Path(peers.LAZARUS).with_name("python")), "-c", "pass"]),
        ],
        rounds=20,
        warm_up=2,
    )
