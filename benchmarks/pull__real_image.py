"""How long does a pull take until a container can be started, and how much memory?

The registry is Debian's, on loopback, so what is measured is not the line but what is done with the bytes: inflating,
hashing, writing. Contenders: `podman pull`, `ctr image pull` (whose containerd unpacks for overlayfs) and `skopeo copy`
to an OCI layout, which unpacks nothing. Each has an empty store in every run; ours and podman's then make a container,
so that what either does only then is in the number.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contenders import peers, registries
from benchmarks.harness.race import Contender, race

PULL_AND_CREATE = 'image=$1 options=$2; shift 2; "$@" pull -q $options "$image"; exec "$@" create "$image" true'


@pytest.fixture
def host(scratch: Path) -> Iterator[str]:
    """A registry that runs meanwhile."""
    if (why := registries.why_not()) is not None:
        pytest.skip(why)
    with registries.registry(scratch / "registry") as host:
        yield host


def _pull(command: list[str], reference: str, options: str = "") -> list[str]:
    return ["sh", "-ec", PULL_AND_CREATE, "sh", reference, options, *command]


def test_pull_of_a_real_image(benchmark: Any, image: Path, scratch: Path, host: str) -> None:
    reference = f"{host}/debian:app"
    registries.copied(f"oci-archive:{image}", reference)
    ctr: list[str] = []

    def forget() -> None:
        peers.forget_all_images(ctr)
        os.sync()

    contenders = [
        Contender(
            "podman pull",
            lambda run: _pull(peers.podman(scratch / f"podman-{run}"), reference, "--tls-verify=false"),
            before=os.sync,
        ),
        Contender(
            "skopeo copy to a layout",
            lambda run: [
                *("skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false"),
                *(f"docker://{reference}", f"oci:{scratch}/layout-{run}:app"),
            ],
            before=os.sync,
        ),
        Contender(
            "ctr image pull",
            lambda _: [*ctr, "image", "pull", "--plain-http", reference],
            prepare=lambda: ctr.extend(peers.containerd(scratch)),
            before=forget,
            is_client=True,
        ),
    ]
    ours = Contender(
        "lazarus pull",
        lambda run: _pull([peers.LAZARUS, "--root", f"{scratch}/store-{run}"], reference),
        before=os.sync,
    )
    race(benchmark, ours, contenders, rounds=4, case="4 layers")


def test_memory_of_a_large_layer(benchmark: Any, scratch: Path, host: str, quick: bool) -> None:
    """1 GB in one layer that does not compress, in files of 64 MB."""
    reference = f"{host}/large:1"
    _large(scratch, 128 if quick else 1024, reference)
    ours = Contender(
        "lazarus pull", lambda run: [peers.LAZARUS, "--root", f"{scratch}/s{run}", "pull", "-q", reference]
    )
    others = [
        Contender(
            "podman pull",
            lambda run: [*peers.podman(scratch / f"podman-{run}"), "pull", "-q", "--tls-verify=false", reference],
        )
    ]
    race(benchmark, ours, others, rounds=2, warm_up=0, case="a layer of 128 MB" if quick else "a layer of 1 GB")


def _large(scratch: Path, megabytes: int, reference: str) -> None:
    tar = scratch / "large.tar"
    with tarfile.open(tar, "w") as archive:
        for number in range(megabytes // 64):
            entry = tarfile.TarInfo(f"file{number}")
            entry.size = 64 << 20
            archive.addfile(entry, io.BytesIO(os.urandom(entry.size)))
    command = [peers.LAZARUS, "--root", f"{scratch}/made"]
    subprocess.run([*command, "import", "-q", str(tar), "large:1"], check=True, capture_output=True)
    words = ["push", "-q", "--compression-format", "gzip", "--compression-level", "1", "large:1", reference]
    subprocess.run([*command, *words], check=True, capture_output=True)
    tar.unlink()
