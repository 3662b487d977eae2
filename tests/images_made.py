"""Small real images, made with tarfile, gzip and json alone: nothing of Lazarus makes what Lazarus is tested on."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
Files = Mapping[str, bytes | None]  # None: a directory


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer(files: Files) -> bytes:
    """A tar; names ending in a slash or with None are directories."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.mtime = 1_700_000_000
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def descriptor(media_type: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data), **more}


class Made:
    """An OCI layout in memory: `blobs` by digest, and the entries of index.json. Change anything before it is
    written."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.entries: list[dict[str, Any]] = []

    def put(self, data: bytes) -> bytes:
        self.blobs[sha256(data)] = data
        return data

    def image(
        self,
        tars: Sequence[bytes],
        name: str | None = "made:latest",
        *,
        architecture: str = "amd64",
        docker: bool = False,
        compress: bool = True,
        config: Mapping[str, Any] | None = None,
        index: bool = True,
    ) -> dict[str, Any]:
        """Adds an image and returns the descriptor of its manifest."""
        document = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/true"], "Env": ["A=1"]},
            "rootfs": {"type": "layers", "diff_ids": [sha256(tar) for tar in tars]},
            "history": [{"created_by": f"step {number}"} for number in range(len(tars))],
            **(config or {}),
        }
        stored = [self.put(gzip.compress(tar, mtime=0) if compress else tar) for tar in tars]
        suffix = ("+gzip" if not docker else ".gzip") if compress else ""
        kind = f"{DOCKER}image.rootfs.diff.tar" if docker else f"{OCI}layer.v1.tar"
        config_bytes = self.put(json.dumps(document).encode())
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{DOCKER}distribution.manifest.v2+json" if docker else f"{OCI}manifest.v1+json",
            "config": descriptor(
                f"{DOCKER}container.image.v1+json" if docker else f"{OCI}config.v1+json", config_bytes
            ),
            "layers": [descriptor(kind + suffix, blob) for blob in stored],
        }
        entry = descriptor(manifest["mediaType"], self.put(json.dumps(manifest).encode()))
        if name is not None:
            entry["annotations"] = {"org.opencontainers.image.ref.name": name}
        if index:
            self.entries.append(entry)
        return entry

    def files(self) -> dict[str, bytes]:
        index = {"schemaVersion": 2, "manifests": self.entries}
        return {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": json.dumps(index).encode(),
            **{f"blobs/sha256/{digest[7:]}": data for digest, data in self.blobs.items()},
        }

    def archive(self, path: Path) -> Path:
        path.write_bytes(layer(self.files()))
        return path

    def directory(self, path: Path) -> Path:
        for name, data in self.files().items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path


def docker_archive(path: Path, tars: Sequence[bytes], tags: Sequence[str]) -> Path:
    """What `docker save` writes: <config>.json, a tar a layer (the second name of one is a symlink), manifest.json."""
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": [sha256(tar) for tar in tars]},
        }
    ).encode()
    names = [f"{sha256(tar)[7:]}.tar" for tar in tars]
    manifest = [{"Config": f"{sha256(config)[7:]}.json", "RepoTags": list(tags), "Layers": names}]
    path.write_bytes(
        layer(
            {
                f"{sha256(config)[7:]}.json": config,
                **dict(zip(names, tars, strict=True)),
                "manifest.json": json.dumps(manifest).encode(),
            }
        )
    )
    return path


def base_tar() -> bytes:
    return layer({"etc": None, "etc/motd": b"hello\n", "usr/lib/large": os.urandom(9000) + bytes(9000)})
