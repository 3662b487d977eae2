"""Images of any number of small layers, whose programs need no library: depth is all that differs between them.

The lowest layer has the programs and what every container gets a mount or a file over, so that nobody has to make it;
each layer above it has one small file, in a directory that all of them have.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

REFERENCE = "localhost/bench:deep"
TRUE, PAUSE = "/bin/true", "/bin/pause"

SOURCES = {
    "true": "int main(void) { return 0; }",
    # As process 1 it gets no signal that it has not asked for.
    "pause": """#include <signal.h>
        #include <unistd.h>
        static void quit(int number) { (void)number; _exit(0); }
        int main(void) { signal(SIGTERM, quit); for (;;) pause(); }""",
    "enter": """#include <unistd.h>
        int main(int argc, char **argv) {
            if (argc < 3 || chroot(argv[1]) || chdir("/")) return 125;
            execv(argv[2], argv + 2);
            return 127;
        }""",
}
DIRECTORIES = ("bin", "dev", "etc", "proc", "srv/layers", "sys", "tmp")
FILES = {
    "etc/hostname": b"bench\n",
    "etc/hosts": b"127.0.0.1 localhost\n",
    "etc/passwd": b"root:x:0:0:root:/:/bin/true\n",
    "etc/group": b"root:x:0:\n",
}


class Synthetic(NamedTuple):
    """The same image in all forms that somebody starts from."""

    depth: int
    archive: Path  # an OCI archive of REFERENCE, layers uncompressed
    layers: tuple[Path, ...]  # unpacked, base first
    whole: Path  # all of them in one directory
    enter: Path  # a program: `enter DIRECTORY PROGRAM` is chroot and exec, and nothing else


def why_not() -> str | None:
    """Why no container of it can be started here; None when it can."""
    if os.geteuid() != 0:
        return "needs root: mounts, and other people's engines"
    return None if shutil.which("cc") else "there is no C compiler (cc) for the programs of the image"


def synthetic(place: Path, depth: int) -> Synthetic:
    """Makes it in `place`, a new directory. `RuntimeError` when the compiler cannot link without shared libraries."""
    whole = place / "whole"
    for name in DIRECTORIES:
        (whole / name).mkdir(parents=True)
    for name, content in FILES.items():
        (whole / name).write_bytes(content)
    for name, target in (("true", whole / "bin"), ("pause", whole / "bin"), ("enter", place)):
        (target / name).write_bytes(_program(name))
        (target / name).chmod(0o755)
    layers = [place / "0"]
    shutil.copytree(whole, layers[0])
    for number in range(1, depth):
        layers.append(place / str(number))
        path = f"srv/layers/{number}"
        (layers[-1] / "srv/layers").mkdir(parents=True)
        for directory in (layers[-1], whole):
            (directory / path).write_text(f"layer {number}\n")
    archive = place / "image.oci.tar"
    _pack(layers, archive)
    return Synthetic(depth, archive, tuple(layers), whole, place / "enter")


@functools.cache
def _program(name: str) -> bytes:
    with tempfile.NamedTemporaryFile() as out:
        command = ["cc", "-static", "-Os", "-s", "-x", "c", "-o", out.name, "-"]
        done = subprocess.run(command, input=SOURCES[name], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"cc -static: {(done.stderr.strip() or '?').splitlines()[-1]}")
        return Path(out.name).read_bytes()


def _pack(layers: list[Path], archive: Path) -> None:
    with tarfile.open(archive, "w") as out:

        def blob(media_type: str, data: bytes) -> dict[str, Any]:
            digest = hashlib.sha256(data).hexdigest()
            _add(out, f"blobs/sha256/{digest}", data)
            return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": f"sha256:{digest}",
                    "size": len(data)}  # fmt: skip

        blobs = [blob("layer.v1.tar", _tar(layer)) for layer in layers]
        config = {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Cmd": [TRUE]},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in blobs]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob("config.v1+json", json.dumps(config).encode()),
            "layers": blobs,
        }
        entry = blob("manifest.v1+json", json.dumps(manifest).encode())
        # podman reads the first, containerd the second
        entry["annotations"] = {"org.opencontainers.image.ref.name": REFERENCE, "io.containerd.image.name": REFERENCE}
        _add(out, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(out, "index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())


def _tar(layer: Path) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(layer.rglob("*")):
            tar.add(path, str(path.relative_to(layer)), recursive=False)
    return data.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
