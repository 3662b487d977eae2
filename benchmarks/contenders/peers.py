"""The peers from Debian's packages, each with a private root below the scratch directory."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from benchmarks.harness.disks import run

# The run's, which is its scratch directory's: janitor.py removes what is called so in /run and among the cgroups.
NAME = Path(os.environ.get("LAZARUS_BENCH_SCRATCH", f"bench-{os.getpid()}")).name
# Podman's defaults ask for more open files and processes than a container's host may allow.
LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")
LAZARUS = str(Path(sys.executable).with_name("lazarus"))
_PARTIAL = """[storage]
driver = "overlay"
runroot = "{0}/run"
graphroot = "{0}/root"
[storage.options]
pull_options = {{enable_partial_images = "true", use_hard_links = "false", ostree_repos = ""}}
"""
_started: dict[Path, subprocess.Popen[bytes]] = {}
_podmans: dict[Path, Path] = {}  # their homes, and where each keeps what lives as long as the machine
_numbers = itertools.count()


def program(name: str) -> str:
    """One that PyPI brought, else what is on the path under this name."""
    ours = Path(sys.executable).with_name(name)
    return str(ours) if ours.exists() else name


def versions() -> dict[str, str]:
    """`name -> version line`, or "missing"."""
    found = {name: _version([name, *words]) for name, words in _VERSIONS.items()}
    for package in ("pyfastcdc", "borgbackup", "udocker"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    if found["borgbackup"] == "missing":  # Debian's, as a program: enough for archives, not for its chunker
        found["borgbackup"] = _version(["borg", "--version"])
    return found


_VERSIONS = {
    **dict.fromkeys(("podman", "ctr", "umoci", "crun", "runc", "fuse-overlayfs", "btrfs"), ("--version",)),
    **dict.fromkeys(("casync", "mkcomposefs", "proot", "tar", "gzip", "zstd", "cp"), ("--version",)),
    "mkfs.ext4": ("-V",),
    "mkfs.xfs": ("-V",),
    "/usr/lib/postgresql/15/bin/postgres": ("--version",),
}


def _version(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return "missing"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line.strip(" |\\_/") for line in f"{done.stdout}\n{done.stderr}".splitlines() if re.search(r"\d", line)]
    named = [line for line in lines if Path(command[0]).name in line]
    return next(iter(named or lines), "?")


def compiled(source: str, directory: Path) -> Path:
    """A C program of this room, in `directory`. `RuntimeError` with what the compiler says, `OSError` without one."""
    program = directory / Path(source).stem
    command = ["cc", "-O2", "-D_GNU_SOURCE", "-o", str(program), str(Path(__file__).with_name(source))]
    run(*command)
    return program


def podman(root: Path) -> list[str]:
    """The podman command line with a private store; with runc where crun refuses the host's hybrid cgroups."""
    kind = subprocess.run(
        ["findmnt", "-no", "FSTYPE", "/sys/fs/cgroup"], capture_output=True, check=False
    ).stdout.strip()
    runtime = shutil.which("runc") if kind != b"cgroup2" else None
    options = ["--cgroup-manager=cgroupfs", "--runtime", runtime] if runtime else []
    home = root / "podman"
    if home not in _podmans:
        _podmans[home] = Path(f"/run/{NAME}-{next(_numbers)}")  # podman takes 50 bytes of path
    volatile = _podmans[home]
    return ["podman", "--root", str(home), "--runroot", f"{volatile}/run", "--tmpdir", f"{volatile}/tmp", *options]


def podman_in_parts(directory: Path) -> dict[str, str]:
    """The environment in which podman pulls zstd:chunked layers in parts; the file that it names is in `directory`."""
    settings = directory / "storage.conf"
    settings.write_text(_PARTIAL.format(directory))  # the places are those of the command line
    return {"CONTAINERS_STORAGE_CONF": str(settings)}


def containerd(root: Path) -> list[str]:
    """Starts a private containerd below `root` (stopped by clean_up()) and returns the `ctr` command line for it."""
    home = root / "containerd"
    home.mkdir()
    address = f"{home}/sock"
    config = home / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{home}/root"\nstate = "{home}/state"\n'
        # no Kubernetes; and nobody makes /opt/containerd
        'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n'
        f'[grpc]\n  address = "{address}"\n'
    )
    log = (home / "log").open("wb")
    _started[root] = subprocess.Popen(["containerd", "--config", str(config)], stdout=log, stderr=log)
    ctr = ["ctr", "--address", address, "--namespace", NAME]  # its cgroups are called so
    for _ in range(100):
        if subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode == 0:
            return ctr
        time.sleep(0.1)
    raise RuntimeError(f"containerd did not come up: {(home / 'log').read_text()[-300:]}")


def clean_up(root: Path) -> None:
    """Ends what containerd() started and unmounts everything below `root`."""
    process = _started.pop(root, None)
    if process is not None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    forget_podman(root)
    targets = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for target in sorted((t for t in targets if t.startswith(f"{root}/")), reverse=True):
        subprocess.run(["umount", "-l", target], check=False)


def forget_podman(root: Path) -> None:
    """Unmounts what the podmans below `root` keep mounted, and removes what they keep in /run."""
    for home in [home for home in _podmans if home.is_relative_to(root)]:
        subprocess.run(["umount", f"{home}/overlay"], capture_output=True, check=False)
        shutil.rmtree(_podmans.pop(home), ignore_errors=True)


def unpack_layout(archive: Path, target: Path) -> Path:
    """An OCI archive as a layout directory."""
    target.mkdir()
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    return target


def layer_blobs(layout: Path) -> list[Path]:
    """The layer blobs of the only image of a layout, base first."""
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(_blob(layout, index["manifests"][0]["digest"]).read_text())
    return [_blob(layout, layer["digest"]) for layer in manifest["layers"]]


def rename(layout: Path, tag: str) -> str:
    """Gives the only image of a layout another reference, and returns it."""
    path = layout / "index.json"
    index = json.loads(path.read_text())
    index["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": tag}
    path.write_text(json.dumps(index))
    return tag


def forget_all_images(ctr: list[str]) -> None:
    """Empties a containerd: images, and with them (at the collection that --sync waits for) content and snapshots."""
    listed = subprocess.run([*ctr, "images", "ls", "-q"], capture_output=True, text=True, check=False).stdout.split()
    for name in listed:
        subprocess.run([*ctr, "images", "rm", "--sync", name], capture_output=True, check=False)


def drop_caches() -> None:
    """Writes back and forgets the page cache."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def _blob(layout: Path, digest: str) -> Path:
    if re.fullmatch(r"sha256:[0-9a-f]{64}", digest) is None:
        raise ValueError(digest)
    return layout / "blobs" / "sha256" / digest[7:]
