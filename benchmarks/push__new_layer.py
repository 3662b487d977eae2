"""How long does it take to push an image of which the registry has all but the newest layer?

The layer is 256 MB of files of a Debian tree (libraries, programs, text), uncompressed, as a commit makes it. The
registry is Debian's, on loopback, a new one for each run that has the base; nobody knows what came of compressing the
layer before. podman compresses with gzip unless told (told, it compresses the base anew, too), and so did the base's
maker; ours is zstd:chunked.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contenders import peers, registries
from benchmarks.harness.disks import run as run_here
from benchmarks.harness.race import Contender, race
from benchmarks.images.variants import with_new_layer


def test_push_of_a_new_layer(benchmark: Any, image: Path, scratch: Path, quick: bool) -> None:
    if (why := registries.why_not()) is not None:
        pytest.skip(why)
    archive = with_new_layer(image, scratch / "new.tar", (64 if quick else 256) << 20, "new:1")
    lazarus = [peers.LAZARUS, "--root", str(scratch / "store")]
    podman = peers.podman(scratch)
    load = ["load", "-q", "-i", str(archive)]
    subprocess.run([*lazarus, *load], check=True, capture_output=True)
    with registries.registry(scratch / "base") as host:
        registries.copied(f"oci-archive:{image}", f"{host}/app:base")
    running = ExitStack()
    host = ""

    def before() -> None:
        nonlocal host
        directory = scratch / f"registry-{os.urandom(6).hex()}"
        host = running.enter_context(registries.registry(directory, scratch / "base"))
        with closing(sqlite3.connect(scratch / "store/lazarus.db")) as catalogue, catalogue:
            catalogue.execute("DELETE FROM layer_blobs WHERE kept = 0 AND compression <> 'none'")
        os.sync()

    podman_push = [*podman, "push", "-q", "--tls-verify=false", "new:1"]
    race(
        benchmark,
        Contender(
            "lazarus push",
            lambda _: [*lazarus, "push", "-q", "new:1", f"{host}/app:new"],
            before=before,
            after=running.close,
        ),
        [
            Contender(
                "podman push",
                lambda _: [*podman_push, f"{host}/app:new"],
                prepare=lambda: run_here(*podman, *load),
                before=before,
                after=running.close,
            )
        ],
        rounds=3,
        case="64 MB" if quick else "256 MB",
    )
