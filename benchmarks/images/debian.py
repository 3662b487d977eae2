"""A real multi-layer Debian image, made with other people's tools: debootstrap and buildah."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.images.rootfs import debootstrap, run

# Layers 2 to 4: what is run in a container on the layer below.
STEPS = (
    "apt-get update && apt-get install -y --no-install-recommends python3 python3-numpy",
    "rm -rf /usr/share/doc && mkdir /usr/share/doc"
    " && apt-get install -y --no-install-recommends postgresql redis-server",
    "echo app >/srv/app.txt; ln /srv/app.txt /srv/app2.txt; mkdir -m 700 /srv/data; chown 33:33 /srv/data",
)


def debian_image(kept: Path, scratch: Path) -> Path:
    """The archive `debian:app` (4 layers, 17,000 entries, 910 MB unpacked); built once, in about 90 s, and kept below
    `kept`; all else that it takes, buildah's store too, is in a directory below `scratch` until then.
    `RuntimeError` or `OSError` when it cannot be built.

    `$LAZARUS_BENCH_IMAGE` names an existing OCI archive instead.
    """
    given = os.environ.get("LAZARUS_BENCH_IMAGE")
    if given:
        if not os.path.isfile(given):
            raise FileNotFoundError(f"{given}, which $LAZARUS_BENCH_IMAGE names, is no file")
        return Path(given)
    home = kept / "lazarus-bench-image"
    archive = home / "debian-app.oci.tar"
    if archive.exists():
        return archive
    home.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="image-", dir=scratch) as directory:
        root = Path(directory) / "rootfs"
        debootstrap(root)
        partial = home / "partial.tar"
        with _buildah(Path(directory)) as buildah:
            built = built_in_steps(buildah, root, STEPS)
            run(*buildah, "push", "-q", built, f"oci-archive:{partial}:debian:app")
    partial.rename(archive)
    return archive


def built_in_steps(buildah: Sequence[str], root: Path, steps: Sequence[str]) -> str:
    """An image of a root file system, with a layer on it for each step, and its name."""
    container = run(*buildah, "from", "scratch")
    run(*buildah, "add", "-q", container, str(root), "/")
    run(*buildah, "commit", "-q", container, "bench:0")
    for number, step in enumerate(steps):
        container = run(*buildah, "from", f"bench:{number}")
        run(*buildah, "run", "--isolation=chroot", container, "--", "sh", "-c", step)
        run(*buildah, "commit", "-q", container, f"bench:{number + 1}")
    return f"bench:{len(steps)}"


@contextlib.contextmanager
def _buildah(directory: Path) -> Iterator[list[str]]:
    """Its command line for a store of its own in `directory`."""
    store = directory / "store"
    try:
        yield ["buildah", "--root", str(store), "--runroot", f"{directory}/run"]
    finally:
        subprocess.run(["umount", "--lazy", f"{store}/overlay"], capture_output=True, check=False)
