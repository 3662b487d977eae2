"""Images derived from an image, made with tarfile alone: for questions about what a second image costs."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import shutil
import tarfile
import zlib
from collections.abc import Callable
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
            member = outer.extractfile(_place(old["digest"]))
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
            member = outer.extractfile(_place(layer["digest"]))
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


def with_other_bytes(content: bytes, chance: random.Random) -> bytes:
    """No byte stays, and it compresses as well as before."""
    key = chance.randint(1, 255)
    return content.translate(bytes(byte ^ key for byte in range(256)))


def with_an_edit(content: bytes, chance: random.Random) -> bytes:
    """40 bytes in the middle are other ones."""
    size = min(40, len(content))
    at = (len(content) - size) // 2
    edit = bytes(byte ^ chance.randint(1, 255) for byte in content[at : at + size])
    return content[:at] + edit + content[at + size :]


def with_changed_files(
    archive: Path, target: Path, part: float, change: Callable[[bytes, random.Random], bytes], seed: int
) -> int:
    """Makes `target` a layout of the same image, of whose files with content some are changed: this part of them by
    number, at random, each in the layer where it is. The layers are plain tars, of which all else stays. What those
    files come to when each is compressed by itself (zlib), in bytes."""
    chance = random.Random(seed)
    manifest, config = _documents(archive)
    blobs = target / "blobs/sha256"
    blobs.mkdir(parents=True)
    paths = [target / f"layer{number}" for number, _ in enumerate(manifest["layers"])]
    files: list[tuple[Path, int, int]] = []  # layer, offset, size
    for layer, path in zip(manifest["layers"], paths, strict=True):
        with tarfile.open(archive) as outer, path.open("wb") as plain:
            member = outer.extractfile(_place(layer["digest"]))
            assert member is not None
            shutil.copyfileobj(gzip.GzipFile(fileobj=member), plain, 1 << 20)
        with tarfile.open(path, "r:") as tar:
            files += [(path, info.offset_data, info.size) for info in tar if info.isreg() and info.size]
    compressed = 0
    for path, offset, size in chance.sample(files, round(part * len(files))):
        with path.open("r+b") as layer:
            layer.seek(offset)
            content = change(layer.read(size), chance)
            layer.seek(offset)
            layer.write(content)
        compressed += len(zlib.compress(content))
    for number, path in enumerate(paths):
        with path.open("rb") as layer:
            hexadecimal = hashlib.file_digest(layer, "sha256").hexdigest()
        manifest["layers"][number] = {
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": f"sha256:{hexadecimal}",
            "size": path.stat().st_size,
        }
        config["rootfs"]["diff_ids"][number] = f"sha256:{hexadecimal}"
        path.rename(blobs / hexadecimal)
    for name, data in _documents_for(manifest, config, f"bench:{seed}").items():
        (target / name).write_bytes(data)
    return compressed


def _documents(archive: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    with tarfile.open(archive) as tar:

        def read(name: str) -> dict[str, Any]:
            member = tar.extractfile(name)
            assert member is not None
            document: dict[str, Any] = json.load(member)
            return document

        index = read("index.json")
        manifest = read(_place(index["manifests"][0]["digest"]))
        return manifest, read(_place(manifest["config"]["digest"]))


def _write(
    archive: Path, target: Path, manifest: dict[str, Any], config: dict[str, Any], blobs: dict[str, bytes], name: str
) -> Path:
    documents = _documents_for(manifest, config, name)
    documents |= {_place(digest): data for digest, data in blobs.items()}
    wanted = {_place(layer["digest"]) for layer in manifest["layers"]} - set(documents)
    with tarfile.open(archive) as old, tarfile.open(target, "w") as new:
        for place, data in documents.items():
            _add(new, place, data)
        for place in wanted:
            info = old.getmember(place)
            new.addfile(info, old.extractfile(info))
    return target


def _documents_for(manifest: dict[str, Any], config: dict[str, Any], name: str) -> dict[str, bytes]:
    """All but the layers of a layout with this image alone, by where they lie."""
    config_bytes = json.dumps(config).encode()
    manifest["config"] = _descriptor("application/vnd.oci.image.config.v1+json", config_bytes)
    manifest_bytes = json.dumps(manifest).encode()
    entry = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest_bytes)
    entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    return {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
        _place(manifest["config"]["digest"]): config_bytes,
        _place(entry["digest"]): manifest_bytes,
    }


def _place(digest: str) -> str:
    return f"blobs/sha256/{digest[7:]}"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}
