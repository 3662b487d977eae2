"""A real multi-layer Debian image, made with other people's tools: debootstrap and buildah."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

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
    shutil.rmtree(root, ignore_errors=True)
    _run("debootstrap", "--variant=minbase", "bookworm", str(root))
    copy_network_settings(root)
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    container = _run("buildah", "from", "scratch", env=environment)
    _run("buildah", "add", "-q", container, str(root), "/", env=environment)
    _run("buildah", "commit", "-q", container, "lazarus-bench:0", env=environment)
    for number, step in enumerate(STEPS):
        container = _run("buildah", "from", f"lazarus-bench:{number}", env=environment)
        _run("buildah", "run", container, "--", "sh", "-c", step, env=environment)
        _run("buildah", "commit", "-q", container, f"lazarus-bench:{number + 1}", env=environment)
    partial = home / "partial.tar"
    _run("buildah", "push", "-q", f"lazarus-bench:{len(STEPS)}", f"oci-archive:{partial}:debian:app", env=environment)
    partial.rename(archive)
    shutil.rmtree(root)
    return archive


def copy_network_settings(root: Path) -> None:
    """Gives a root file system this machine's resolver, apt proxy settings and certificates: apt works inside then."""
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    for settings in Path("/etc/apt/apt.conf.d").glob("99*"):
        shutil.copy(settings, root / "etc/apt/apt.conf.d" / settings.name)
    if Path("/etc/ssl/certs").is_dir():
        shutil.rmtree(root / "etc/ssl/certs", ignore_errors=True)  # which may be links to what is copied
        shutil.copytree("/etc/ssl/certs", root / "etc/ssl/certs", symlinks=False)


def _run(*command: str, env: dict[str, str] | None = None) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout.strip()
