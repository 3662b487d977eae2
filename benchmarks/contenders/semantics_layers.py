"""Through how many layers each way to a root file system shows a file of the lowest."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lazarus
from benchmarks.contenders import roots
from benchmarks.contenders.semantics import guarded
from benchmarks.contenders.semantics_view import Mounted, read
from benchmarks.harness.disks import run
from lazarus.mounts import attach, detach
from lazarus.terms import Mount

COUNTS = (1, 64, 128, 500, 501, 1000, 2000)
WHAT = "layers at most"
ASKED = f"A file of the lowest of {', '.join(map(str, COUNTS))} layers is read, the others empty; the most that go."
WITHOUT = {"composefs": "one image", "podman": "each is unpacked"}


def deepest(root: roots.Root, counts: Sequence[int] = COUNTS) -> str:
    """Of a root that is prepared: the most of `counts`, and what is said about the next more."""
    ways = {roots.BlockStack: _stack, roots.KernelOverlay: _kernel, roots.FuseOverlay: _fuse, roots.Container: _image}
    see = next((see for way, see in ways.items() if isinstance(root, way)), None)
    if see is None:
        return f"n/a ({WITHOUT.get(root.name, 'no layers')})"
    above = "or more"
    for count in sorted(counts, reverse=True):  # so that one image of many layers is enough
        said = guarded(lambda count=count: see(root, count))  # type: ignore[misc]
        if said == "yes":
            return f"{count} {above}"
        above = f"({count}: {said[4:-1]})"
    return f"none {above}"


def _stack(root: Any, count: int) -> str:
    with lazarus.LayerStack(_directories(root.place, count), rung=root.rung) as stack:
        return _lowest(stack)


def _kernel(root: roots.Root, count: int) -> str:
    lowers = tuple(reversed(_directories(root.place, count)))
    return _mounted(root, lambda target: attach(Mount(lowers=lowers, read_only=True), target))


def _fuse(root: roots.Root, count: int) -> str:
    lowers = ":".join(reversed(_directories(root.place, count)))
    return _mounted(root, lambda target: run("fuse-overlayfs", "-o", f"lowerdir={lowers}", target))


def _mounted(root: roots.Root, mount: Callable[[str], object]) -> str:
    target = root.place / "deep"
    target.mkdir(exist_ok=True)
    mount(str(target))
    try:
        return _lowest(Mounted(str(target)))
    finally:
        detach(str(target))


def _image(root: Any, count: int) -> str:
    (image,) = root.store.images.load(_layout(root.place / "layout", count))
    container = root.store.containers.create(image)
    try:
        container.mount()
        return _lowest(Mounted(container.rootfs))
    finally:
        container.remove(force=True)


def _lowest(tree: Any) -> str:
    return "yes" if read(tree, "/lowest", 7) == b"lowest" else "no (the lowest is not seen)"


def _directories(place: Path, count: int) -> list[str]:
    """So many, the lowest first."""
    directories = [f"{place}/layers/{number}" for number in range(count)]
    for path in directories:
        os.makedirs(path, exist_ok=True)
    Path(directories[0], "lowest").write_bytes(b"lowest")
    return directories


def _layout(place: Path, count: int) -> Path:
    """An OCI layout of an image of so many layers: the lowest with a file, the others with nothing but a root."""
    (place / "blobs/sha256").mkdir(parents=True, exist_ok=True)

    def blob(kind: str, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (place / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    layers = [blob("layer.v1.tar", _layer(number)) for number in range(count)]
    rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
    config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["true"]}, "rootfs": rootfs}
    manifest = {"schemaVersion": 2, "config": blob("config.v1+json", json.dumps(config).encode()), "layers": layers}
    index = {"schemaVersion": 2, "manifests": [blob("manifest.v1+json", json.dumps(manifest).encode())]}
    (place / "index.json").write_text(json.dumps(index))
    (place / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return place


def _layer(number: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        root = tarfile.TarInfo("./")
        root.type, root.mode, root.mtime = tarfile.DIRTYPE, 0o755, number  # no two layers are the same
        tar.addfile(root)
        if number == 0:
            file = tarfile.TarInfo("lowest")
            file.size = 6
            tar.addfile(file, io.BytesIO(b"lowest"))
    return out.getvalue()
