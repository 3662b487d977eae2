"""How long does `run --rm --network none IMAGE true` take with the image in the store, seen from the shell?

In the quick set the image is a small one, which podman loads in a moment; in the full set the real one.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contenders import peers
from benchmarks.harness.disks import run as run_here
from benchmarks.harness.race import Contender, race
from benchmarks.harness.results import LIMIT
from benchmarks.images import synthetic

LAYERS = 4


def test_run_true(benchmark: Any, scratch: Path, quick: bool, request: pytest.FixtureRequest) -> None:
    if (why := synthetic.why_not()) is not None:
        pytest.skip(why)
    if quick:
        archive, name = synthetic.synthetic(scratch, LAYERS).archive, synthetic.REFERENCE
    else:
        archive, name = request.getfixturevalue("image"), "debian:app"
    lazarus = [peers.LAZARUS, "--root", str(scratch / "store")]
    podman = peers.podman(scratch)
    subprocess.run([*lazarus, "load", "-q", "-i", str(archive)], check=True, capture_output=True)
    run = ["run", "--rm", "--network", "none"]
    race(
        benchmark,
        Contender("lazarus run", [*lazarus, *run, name, "true"]),
        [
            Contender(
                "podman run",
                [*podman, *run, *peers.LIMITS, name, "true"],
                prepare=lambda: run_here(*podman, "load", "-q", "-i", str(archive)),
            ),
            Contender(f"{LIMIT}python -c pass", [str(Path(peers.LAZARUS).with_name("python")), "-c", "pass"]),
        ],
        rounds=20,
        warm_up=2,
        case="a small image" if quick else "",
    )
