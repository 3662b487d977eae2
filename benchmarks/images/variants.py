"""Images derived from an image, made with tarfile alone: for questions about what a second image costs."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any


def with_one_more_layer(archive: Path, target: Path, content: bytes) -> Path:
    """The same OCI archive with one small layer on top."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        info = tarfile.TarInfo("srv/more.bin")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    manifest, config = _documents(archive)
    blob = gzip.compress(layer.getvalue(), mtime=0)
    config["rootfs"]["diff_ids"].append(_digest(layer.getvalue()))
    manifest["layers"].append(_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", blob))
    return _write(archive, target, manifest, config, {_digest(blob): blob}, "bench:more")


def with_new_layer(archive: Path, target: Path, size: int, name: str) -> Path:
    """The same OCI archive with about `size` bytes of its own files once more, in an uncompressed layer on top, as a
    commit makes one; called `name`."""
    manifest, config = _documents(archive)
    layer = io.BytesIO()
    names: set[str] = set()  # podman takes none twice
    with tarfile.open(archive) as outer, tarfile.open(fileobj=layer, mode="w") as new:
        for old in manifest["layers"]:
            member = outer.extractfile(f"blobs/sha256/{old['digest'][7:]}")
            assert member is not None
            with tarfile.open(fileobj=member, mode="r|gz") as tar:
                for info in tar:
                    if info.isreg() and info.name not in names and layer.tell() < size:
                        names.add(info.name)
                        info.name, info.pax_headers = f"srv/new/{info.name}", {}
                        new.addfile(info, tar.extractfile(info))
    blob = layer.getvalue()
    config["rootfs"]["diff_ids"].append(_digest(blob))
    manifest["layers"].append(_descriptor("application/vnd.oci.image.layer.v1.tar", blob))
    return _write(archive, target, manifest, config, {_digest(blob): blob}, name)


def flattened(archive: Path, target: Path) -> Path:
    """The same files in one uncompressed layer: the layers' tars one after the other, whiteouts left out."""
    manifest, config = _documents(archive)
    path = target.with_suffix(".layer")
    with tarfile.open(archive) as outer, tarfile.open(path, "w") as flat:
        for layer in manifest["layers"]:
            member = outer.extractfile(f"blobs/sha256/{layer['digest'][7:]}")
            assert member is not None
            with tarfile.open(fileobj=member, mode="r|gz") as tar:
                for info in tar:
                    if not Path(info.name).name.startswith(".wh."):
                        flat.addfile(info, tar.extractfile(info) if info.isreg() else None)
    blob = path.read_bytes()
    config["rootfs"]["diff_ids"] = [_digest(blob)]
    config["history"] = []
    manifest["layers"] = [_descriptor("application/vnd.oci.image.layer.v1.tar", blob)]
    path.unlink()
    return _write(archive, target, manifest, config, {_digest(blob): blob}, "bench:flat")


def _documents(archive: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    with tarfile.open(archive) as tar:

        def read(name: str) -> dict[str, Any]:
            member = tar.extractfile(name)
            assert member is not None
            document: dict[str, Any] = json.load(member)
            return document

        index = read("index.json")
        manifest = read(f"blobs/sha256/{index['manifests'][0]['digest'][7:]}")
        return manifest, read(f"blobs/sha256/{manifest['config']['digest'][7:]}")


def _write(
    archive: Path, target: Path, manifest: dict[str, Any], config: dict[str, Any], blobs: dict[str, bytes], name: str
) -> Path:
    config_bytes = json.dumps(config).encode()
    manifest["config"] = _descriptor("application/vnd.oci.image.config.v1+json", config_bytes)
    manifest_bytes = json.dumps(manifest).encode()
    entry = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest_bytes)
    entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    documents = {**blobs, _digest(config_bytes): config_bytes, _digest(manifest_bytes): manifest_bytes}
    wanted = {layer["digest"] for layer in manifest["layers"]} - set(documents)
    with tarfile.open(archive) as old, tarfile.open(target, "w") as new:
        _add(new, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(new, "index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
        for digest, data in documents.items():
            _add(new, f"blobs/sha256/{digest[7:]}", data)
        for digest in wanted:
            info = old.getmember(f"blobs/sha256/{digest[7:]}")
            new.addfile(info, old.extractfile(info))
    return target


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}
