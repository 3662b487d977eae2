"""A real multi-layer Debian image, made with other people's tools: debootstrap and buildah."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from benchmarks.images.rootfs import debootstrap, run

# Layers 2 to 4: what is run in a container on the layer below.
STEPS = (
    "apt-get update && apt-get install -y --no-install-recommends python3 python3-numpy",
    "rm -rf /usr/share/doc && mkdir /usr/share/doc"
    " && apt-get install -y --no-install-recommends postgresql redis-server",
    "echo app >/srv/app.txt; ln /srv/app.txt /srv/app2.txt; mkdir -m 700 /srv/data; chown 33:33 /srv/data",
)


def debian_image(scratch: Path) -> Path:
    """The archive `debian:app` (4 layers, 17,000 entries, 910 MB unpacked); built once below `scratch`, in about 90 s.

    `$LAZARUS_BENCH_IMAGE` names an existing OCI archive instead.
    """
    given = os.environ.get("LAZARUS_BENCH_IMAGE")
    if given:
        return Path(given)
    home = scratch / "lazarus-bench-image"
    archive = home / "debian-app.oci.tar"
    if archive.exists():
        return archive
    home.mkdir(exist_ok=True)
    root = home / "rootfs"
    debootstrap(root)
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    container = run("buildah", "from", "scratch", env=environment)
    run("buildah", "add", "-q", container, str(root), "/", env=environment)
    run("buildah", "commit", "-q", container, "lazarus-bench:0", env=environment)
    for number, step in enumerate(STEPS):
        container = run("buildah", "from", f"lazarus-bench:{number}", env=environment)
        run("buildah", "run", container, "--", "sh", "-c", step, env=environment)
        run("buildah", "commit", "-q", container, f"lazarus-bench:{number + 1}", env=environment)
    partial = home / "partial.tar"
    run("buildah", "push", "-q", f"lazarus-bench:{len(STEPS)}", f"oci-archive:{partial}:debian:app", env=environment)
    partial.rename(archive)
    shutil.rmtree(root)
    return archive
