"""A Debian root file system, made by debootstrap, and its tar: what images of benchmarks and workloads begin with."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

IMAGES = Path(os.environ.get("LAZARUS_BENCH_DIR", "/var/tmp"))  # where what is built once is kept


def debootstrap(root: Path, *include: str) -> None:
    """A minimal bookworm and these packages in an empty `root`, where apt works as it does on this machine."""
    shutil.rmtree(root, ignore_errors=True)
    packages = [f"--include={','.join(include)}"] if include else []
    run("debootstrap", "--variant=minbase", *packages, "bookworm", str(root))
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    for settings in Path("/etc/apt/apt.conf.d").glob("99*"):
        shutil.copy(settings, root / "etc/apt/apt.conf.d" / settings.name)
    if Path("/etc/ssl/certs").is_dir():
        shutil.rmtree(root / "etc/ssl/certs", ignore_errors=True)  # which may be links to what is copied
        shutil.copytree("/etc/ssl/certs", root / "etc/ssl/certs", symlinks=False)


def pack(root: Path, archive: Path) -> Path:
    """Turns a root file system into its tar, which has its name when it is whole. /dev, /proc and /sys are empty in it:
    who enters it mounts them."""
    partial = archive.with_name("partial.tar")
    leave_out = [f"--exclude=./{name}/*" for name in ("dev", "proc", "sys")]
    run("tar", "-cf", str(partial), "--numeric-owner", "--xattrs", *leave_out, "-C", str(root), ".")
    partial.rename(archive)
    shutil.rmtree(root)
    return archive


def debian_root(scratch: Path) -> Path:
    """Minimal Debian with Python as a tar (160 MB); built once below `scratch`, in about half a minute."""
    home = scratch / "lazarus-bench-debian"
    archive = home / "rootfs.tar"
    if archive.exists():
        return archive
    home.mkdir(exist_ok=True)
    debootstrap(home / "rootfs", "python3")
    run("chroot", str(home / "rootfs"), "apt-get", "clean")
    return pack(home / "rootfs", archive)


def run(*command: str, env: dict[str, str] | None = None) -> str:
    """What a command prints. Raises `RuntimeError` with the end of what it said when it fails, `OSError`."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout.strip()
