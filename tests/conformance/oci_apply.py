"""A small oracle: an OCI layer applied to a directory by the rules of the image-spec (layer.md), with `tarfile` and
plain system calls, one entry after the other, and nothing of Lazarus.

Marks must come before the entries of their directory (they do in what Lazarus writes, and the oracle checks it).
"""

from __future__ import annotations

import os
import shutil
import tarfile
from decimal import Decimal
from typing import BinaryIO

OPAQUE = b".wh..wh..opq"
WHITEOUT = b".wh."


def apply_layer(root: str, layer: str | BinaryIO) -> list[bytes]:
    """Applies and returns the names of the layer in order. Directory times are set at the end; a root that the layer
    does not name keeps its own."""
    base = os.fsencode(root)
    root_time = os.stat(base).st_mtime_ns
    names: list[bytes] = []
    made: set[bytes] = set()
    directories: list[tuple[bytes, tarfile.TarInfo]] = []
    opened = tarfile.open(layer, "r:") if isinstance(layer, str) else tarfile.open(fileobj=layer, mode="r|")
    with opened as tar:
        for member in tar:
            name = os.fsencode(member.name)
            name = b"" if name == b"." else name
            assert not name.startswith(b"/") and b".." not in name.split(b"/"), name
            names.append(name)
            _apply(tar, member, base, name, made)
            made.add(name)
            if member.isdir():
                directories.append((os.path.join(base, name), member))
    for path, member in reversed(directories):
        _set_times(path, member)
    if b"" not in names:
        os.utime(base, ns=(root_time, root_time))
    return names


def _apply(tar: tarfile.TarFile, member: tarfile.TarInfo, base: bytes, name: bytes, made: set[bytes]) -> None:
    path = os.path.join(base, name)
    parent, last = os.path.split(name)
    if last.startswith(WHITEOUT):
        assert member.isreg() and member.size == 0, name
        beside = {other for other in made if os.path.dirname(other) == parent and other != parent}
        assert not any(not os.path.basename(other).startswith(WHITEOUT) for other in beside), f"{name!r} comes late"
        _hide(path, last)
    elif member.isdir():
        if os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path)):
            os.unlink(path)
        if not os.path.lexists(path):
            os.mkdir(path)
        _set_attributes(path, member)
    else:
        _remove(path)
        _make(tar, member, base, path)


def _hide(path: bytes, last: bytes) -> None:
    directory = os.path.dirname(path)
    if last == OPAQUE:
        assert os.listdir(directory), f"{directory!r}: an opaque mark that hides nothing"
        for name in os.listdir(directory):
            _remove(os.path.join(directory, name))
        return
    hidden = os.path.join(directory, last[len(WHITEOUT) :])
    assert os.path.lexists(hidden), f"{hidden!r}: a whiteout of nothing"
    _remove(hidden)


def _remove(path: bytes) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _make(tar: tarfile.TarFile, member: tarfile.TarInfo, base: bytes, path: bytes) -> None:
    if member.islnk():
        os.link(os.path.join(base, os.fsencode(member.linkname)), path, follow_symlinks=False)
        return
    if member.issym():
        os.symlink(os.fsencode(member.linkname), path)
    elif member.ischr() or member.isblk():
        kind = 0o020000 if member.ischr() else 0o060000
        os.mknod(path, kind | 0o600, os.makedev(member.devmajor, member.devminor))
    elif member.isfifo():
        os.mkfifo(path)
    else:
        content = tar.extractfile(member)
        assert content is not None, path
        with open(path, "wb") as file:
            shutil.copyfileobj(content, file)
    _set_attributes(path, member)
    _set_times(path, member)


def _set_attributes(path: bytes, member: tarfile.TarInfo) -> None:
    os.chown(path, member.uid, member.gid, follow_symlinks=False)
    for name in os.listxattr(path, follow_symlinks=False):
        os.removexattr(path, name, follow_symlinks=False)
    for key, value in member.pax_headers.items():
        if key.startswith("SCHILY.xattr."):
            name = key[len("SCHILY.xattr.") :]
            os.setxattr(path, name, value.encode("utf-8", "surrogateescape"), follow_symlinks=False)
    if not member.issym():
        os.chmod(path, member.mode)


def _set_times(path: bytes, member: tarfile.TarInfo) -> None:
    mtime_ns = int(Decimal(member.pax_headers.get("mtime", str(int(member.mtime)))) * 10**9)
    os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
