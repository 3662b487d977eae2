"""Any spelling of any path: a stack over a directory, and over the same tree as a layer, finds what the kernel finds.

The oracle is openat2(RESOLVE_IN_ROOT) on the tree itself: symlinks, `..`, slashes, and the errno of each failure.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_helpers import add_image

import lazarus
from lazarus._native.openat2 import open_in_root

NAMES = ("a", "b", "c", "link", "up", "n" * 255)
TARGETS = ("a", "b/c", "../a", "/a/b", "..", "/", "./b", "link", "/up/../c", "a/", "../../../b", "no/such")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lazarus.Store]:
    with lazarus.Store(tmp_path_factory.mktemp("paths") / "store") as opened:
        yield opened


@st.composite
def trees(draw: st.DrawFn) -> list[tuple[str, str, str]]:
    """(kind, path, target) of things that can be made in this order."""
    directories, made = [""], []
    for _ in range(draw(st.integers(1, 14))):
        parent = draw(st.sampled_from(directories))
        path = f"{parent}/{draw(st.sampled_from(NAMES))}".lstrip("/")
        if any(path == other for _, other, _ in made):
            continue
        kind = draw(st.sampled_from(["directory", "directory", "file", "symlink", "symlink"]))
        made.append((kind, path, draw(st.sampled_from(TARGETS)) if kind == "symlink" else ""))
        if kind == "directory":
            directories.append(path)
    return made


COMPONENTS = st.sampled_from([*NAMES, "", ".", "..", "m" * 256])
PATHS = st.lists(
    st.one_of(st.lists(COMPONENTS, max_size=7).map("/".join), st.sampled_from(["/", "", "a\0b"])), max_size=25
)


def kernel(root: int, path: bytes, follow: bool) -> tuple[object, ...]:
    """Mode and size (a directory's is the file system's own affair), or the errno."""
    if b"\0" in path:
        return (errno.EINVAL,)
    try:
        fd = open_in_root(root, path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))
    except OSError as error:
        return (error.errno,)
    try:
        info = os.fstat(fd)
    finally:
        os.close(fd)
    return info.st_mode, 0 if stat.S_ISDIR(info.st_mode) else info.st_size


def ours(stack: lazarus.LayerStack, path: bytes, follow: bool) -> tuple[object, ...]:
    row = stack.lookup_many([path], follow=follow)[0]
    if row["error"]:
        assert row["layer"] == -1
        return (int(row["error"]),)
    mode = int(row["mode"])
    info = stack.stat(path, follow_symlinks=follow)
    assert (info.st_mode, info.st_size) == (mode, int(row["size"])) or stat.S_ISDIR(mode)
    return mode, 0 if stat.S_ISDIR(mode) else int(row["size"])


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(tree=trees(), paths=PATHS)
def test_paths_lead_where_the_kernel_goes(
    store: lazarus.Store, tree: list[tuple[str, str, str]], paths: list[str]
) -> None:
    place = tempfile.mkdtemp()
    try:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(_info("./", tarfile.DIRTYPE))
            for kind, path, target in tree:
                if kind == "directory":
                    os.mkdir(f"{place}/{path}", 0o755)
                    tar.addfile(_info(path, tarfile.DIRTYPE))
                elif kind == "file":
                    Path(place, path).write_bytes(path.encode())
                    os.chmod(f"{place}/{path}", 0o644)
                    info = _info(path, tarfile.REGTYPE)
                    info.size = len(path)
                    tar.addfile(info, io.BytesIO(path.encode()))
                else:
                    os.symlink(target, f"{place}/{path}")
                    info = _info(path, tarfile.SYMTYPE)
                    info.linkname = target
                    info.mode = 0o777
                    tar.addfile(info)
        os.chmod(place, 0o755)
        layers = [store.layers.get(diff_id) for diff_id in add_image(store, archive.getvalue())]
        root = os.open(place, os.O_PATH | os.O_DIRECTORY)
        with lazarus.LayerStack([place]) as directory, lazarus.LayerStack(layers) as image:
            try:
                for path in [*paths, *(path for _, path, _ in tree)]:
                    for follow in (False, True):
                        text = path.encode()
                        expected = kernel(root, text, follow)
                        assert ours(directory, text, follow) == expected, (path, follow, "directory")
                        assert ours(image, text, follow) == expected, (path, follow, "image")
            finally:
                os.close(root)
    finally:
        shutil.rmtree(place)


def _info(path: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type, info.mode = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
    return info
