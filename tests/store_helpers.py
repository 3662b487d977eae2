"""Hand-made layers for the tests of the store: small tars, staged by the real ingest, published under an image row."""

from __future__ import annotations

import hashlib
import io
import os
import sqlite3
import stat
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lazarus.store import Store
from lazarus.terms import DiffID, Digest


def sha256(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def make_tar(files: Mapping[str, bytes]) -> bytes:
    """A tar with one regular file a name; contents of more than 4096 bytes become objects."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def content(seed: str, size: int = 6000) -> bytes:
    """`size` bytes that differ from those of any other seed."""
    block = hashlib.sha256(seed.encode()).digest()
    return (block * (size // len(block) + 1))[:size]


def layer_tar(seed: str, files: int = 4) -> bytes:
    """A layer with `files` objects of its own, one that all such layers share, and a small inline file."""
    return make_tar(
        {f"{seed}/{number}": content(f"{seed} {number}") for number in range(files)}
        | {"shared": content("shared"), f"{seed}/small": seed.encode()}
    )


def ingest(store: Store, lease: Any, tar: bytes, **options: Any) -> Any:
    """Stages a layer from memory."""
    fd = os.memfd_create("layer")
    try:
        os.write(fd, tar)
        return store.layers.ingest(lease, fd, offset=0, size=len(tar), **options)
    finally:
        os.close(fd)


def image_rows(manifest: bytes, diff_ids: list[DiffID]) -> Callable[[sqlite3.Connection], None]:
    """Rows of an image whose manifest and config are both `manifest`, so that a collection keeps its layers."""

    def insert(connection: sqlite3.Connection) -> None:
        digest = sha256(manifest)
        connection.execute(
            "INSERT OR IGNORE INTO images VALUES (?, ?, 'application/json', ?, ?)",
            (digest, digest, time.time(), len(manifest)),
        )
        for position, diff_id in enumerate(diff_ids):
            connection.execute("INSERT OR IGNORE INTO image_layers VALUES (?, ?, ?, NULL)", (digest, position, diff_id))

    return insert


def add_image(store: Store, *tars: bytes, manifest: bytes | None = None, **options: Any) -> list[DiffID]:
    """Ingests and publishes an image of these layers; its diff IDs. The manifest is made up of them."""
    with store.content.lease() as lease:
        staged = [ingest(store, lease, tar, **options) for tar in tars]
        diff_ids = [layer.diff_id for layer in staged]
        text = manifest or "\n".join(diff_ids).encode()
        blob = store.content.stage_blob(lease, text)
        store.content.publish(lease, blobs=[blob], layers=staged, rows=image_rows(text, diff_ids))
    return diff_ids


def remove_image(store: Store, diff_ids: list[DiffID]) -> None:
    """Deletes the row of the image that add_image() made of these layers."""
    with store.catalogue.write() as connection:
        connection.execute("DELETE FROM images WHERE manifest_digest=?", (sha256("\n".join(diff_ids).encode()),))


def object_names(store: Store) -> set[str]:
    """Hex digests of all objects, by walking the directory."""
    root = store.paths.objects
    return {first + rest for first in os.listdir(root) for rest in os.listdir(f"{root}/{first}")}


def tree(root: str) -> set[str]:
    """Every path below `root`, but for the database's own files."""
    return {
        os.path.relpath(os.path.join(directory, name), root)
        for directory, directories, files in os.walk(root)
        for name in directories + files
        if not name.startswith("lazarus.db")
    }


def assert_whole(store: Store) -> None:
    """Every object's bytes have the digest in its name, by `hashlib`; verification finds nothing either."""
    for name in object_names(store):
        with open(f"{store.paths.objects}/{name[:2]}/{name[2:]}", "rb") as file:
            assert hashlib.sha256(file.read()).hexdigest() == name
    assert list(store.check()) == []


def assert_tar(store: Store, diff_id: DiffID, tar: bytes) -> None:
    """The layer gives back its tar."""
    fd = os.memfd_create("tar")
    try:
        assert store.layers.get(diff_id).write_tar(fd) == len(tar)
        assert os.pread(fd, len(tar) + 1, 0) == tar
    finally:
        os.close(fd)


KINDS = ["object", "blob", "layers/index", "layers/recipe", "stacks/index", "stacks/metadata.erofs"]


def damage(path: str, how: str) -> None:
    """`how` is "missing", "truncated", "empty" or "one bit"."""
    if how == "missing":
        os.unlink(path)
        return
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if how == "truncated":
            file.truncate(size // 2)
        elif how == "empty":
            file.truncate(0)
        else:
            at = size * 3 // 4  # not in the padding behind an index's header, which nothing reads
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))


def first_of(store: Store, kind: str) -> tuple[str, str]:
    """The first file of one of KINDS: the name that a finding has, and the path."""
    paths = store.paths
    if kind == "object":
        name = min(object_names(store))
        return f"sha256:{name}", f"{paths.objects}/{name[:2]}/{name[2:]}"
    if kind == "blob":
        name = min(os.listdir(paths.blobs))
        return f"sha256:{name}", f"{paths.blobs}/{name}"
    room, file = kind.split("/")
    name = min(os.listdir(f"{paths.root}/{room}"))
    return f"sha256:{name}", f"{paths.root}/{room}/{name}/{file}"


def let_others_in(directory: Path) -> None:
    """Another user can look into a directory of ours. Those above it lose nothing of their modes: /tmp is one."""
    for place in (directory, *directory.parents):
        mode = os.stat(place).st_mode
        if mode & 0o055 != 0o055:
            os.chmod(place, stat.S_IMODE(mode) | 0o055)
