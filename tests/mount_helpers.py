"""Stacks from hand-made tars, and what a mount of one must show."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lazarus._native import erofs, index, ingest
from lazarus._native.entry import Entry

OBJECT = 8  # LZ_FLAG_OBJECT


class Built(NamedTuple):
    """A stack outside any store."""

    image: str
    objects: str
    merged: str
    indexes: list[str]


def member(name: str, content: bytes = b"", **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    """A tar member; `xattrs` become SCHILY.xattr records."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    xattrs = attributes.pop("xattrs", {})
    assert isinstance(xattrs, dict)
    for key, value in attributes.items():
        setattr(info, key, value)
    info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in xattrs.items()}
    return info, content


def build(place: Path, *layers: Sequence[tuple[tarfile.TarInfo, bytes]]) -> Built:
    """Ingests the layers, merges them and writes the image."""
    objects, staged = place / "objects", place / "staged"
    for directory in (objects, staged):
        directory.mkdir()
    indexes = []
    for number, members in enumerate(layers):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
            for info, content in members:
                tar.addfile(info, io.BytesIO(content))
        layer = place / f"layer{number}"
        layer.mkdir()
        path = place / "tar"
        path.write_bytes(out.getvalue())
        with open(path, "rb") as file:
            ingest.ingest(file.fileno(), offset=0, staging=layer, staged_objects=staged, objects=objects)
        indexes.append(str(layer / "index"))
    for name in os.listdir(staged):
        (objects / name[:2]).mkdir(exist_ok=True)
        os.rename(staged / name, objects / name[:2] / name[2:])
    merged, image = place / "merged.index", place / "image"
    index.merge(indexes, [bytes([number + 1]) * 32 for number in range(len(indexes))], merged)
    erofs.write_erofs(merged, indexes, image)
    return Built(str(image), str(objects), str(merged), indexes)


def check_tree(root: str, merged: str, *, skip_root: bool = False) -> int:
    """Compares a mounted stack with its index, entry by entry; the number of entries."""
    with index.Index(merged) as table:
        entries = list(table)
    inodes = {}
    for entry in entries:
        if entry.path == b"" and skip_root:
            continue  # a writable overlay's root is the upper's
        path = os.path.join(os.fsencode(root), entry.path)
        inodes[entry.number] = _check(path, entry).st_ino
        if entry.link in inodes:
            assert inodes[entry.link] == inodes[entry.number], entry.path
    listed = {
        os.path.join(base, name) for base, *found in os.walk(os.fsencode(root)) for name in [*found[0], *found[1]]
    }
    assert listed == {os.path.join(os.fsencode(root), entry.path) for entry in entries if entry.path}
    return len(entries)


def _check(path: bytes, entry: Entry) -> os.stat_result:
    info = os.lstat(path)
    shown = (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, os.major(info.st_rdev), os.minor(info.st_rdev))
    assert shown == (entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.major, entry.minor), entry.path
    if not stat.S_ISDIR(entry.mode):
        assert (info.st_size, info.st_nlink) == (entry.size, entry.link_count), entry.path
    if entry.kind == "file":
        with open(path, "rb") as file:
            assert hashlib.file_digest(file, "sha256").digest() == entry.digest, entry.path
    if entry.kind == "symlink":
        assert os.readlink(path) == entry.target, entry.path
    names = os.listxattr(path, follow_symlinks=False)
    xattrs = {os.fsencode(name): os.getxattr(path, name, follow_symlinks=False) for name in names}
    xattrs.pop(b"security.selinux", None)
    assert xattrs == entry.xattrs, entry.path
    return info
