"""The doors to mounts and to the EROFS writer."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from conformance.overlay import in_mount_namespace
from mount_helpers import Built, build, member

from lazarus._native import erofs, mount
from lazarus._native.openat2 import open_in_root
from lazarus.errors import CorruptError, FormatError


@pytest.mark.root
def test_bind_and_is_mount(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for directory in (source, target):
        directory.mkdir()
    (source / "file").write_text("x")
    (tmp_path / "link").symlink_to("target")

    def run() -> None:
        assert not mount.is_mount(target)
        mount.bind(source, target, read_only=True)
        assert mount.is_mount(target) and mount.is_mount(os.fsencode(target)) and mount.is_mount("/")
        assert not mount.is_mount(tmp_path / "link")
        assert (target / "file").read_text() == "x"
        with pytest.raises(OSError, match="Read-only"):
            (target / "new").touch()
        mount.unmount(target)
        mount.bind(source, target)
        (target / "new").touch()
        mount.unmount(target)

    in_mount_namespace(run)
    assert (source / "new").exists()


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="EROFS source 'disk': known are auto, file, loop"):
        mount.mount_stack(None, ["/"], [], None, None, tmp_path, erofs_source="disk")
    with pytest.raises(ValueError, match="null byte"):
        mount.mount_stack(None, ["/a\0b"], [], None, None, tmp_path)
    with pytest.raises(OSError, match="no image and no lower"):
        mount.mount_stack(None, [], [], None, None, tmp_path)
    with pytest.raises(FileNotFoundError):
        mount.is_mount(tmp_path / "none")


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return build(tmp_path, [member("etc/passwd", b"root:x:0:0"), member("large", b"l" * 5000)], [member("more", b"m")])


def test_the_image_is_a_function_of_the_index(built: Built, tmp_path: Path) -> None:
    again = tmp_path / "again"
    size = erofs.write_erofs(built.merged, [Path(path) for path in built.indexes], again)
    assert again.read_bytes() == Path(built.image).read_bytes() and size == again.stat().st_size
    assert b"root:x:0:0" in again.read_bytes() and b"l" * 5000 not in again.read_bytes()


@pytest.mark.skipif(shutil.which("fsck.erofs") is None, reason="erofs-utils is not installed")
def test_fsck_finds_nothing(built: Built) -> None:
    subprocess.run(["fsck.erofs", "--extract", built.image], check=True, capture_output=True)


def test_a_changed_content_is_named_and_no_image_stays(built: Built, tmp_path: Path) -> None:
    with open(built.indexes[0], "r+b") as file:
        file.seek(Path(built.indexes[0]).read_bytes().index(b"root:x"))
        file.write(b"toor")
    with pytest.raises(CorruptError, match="etc/passwd: content has digest"):
        erofs.write_erofs(built.merged, built.indexes, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_what_is_no_merged_index(built: Built, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 layer indexes for a stack of 2 layers"):
        erofs.write_erofs(built.merged, built.indexes[:1], tmp_path / "bad")
    with pytest.raises(FormatError):
        erofs.write_erofs(built.image, built.indexes, tmp_path / "bad")
    with pytest.raises(FileNotFoundError):
        erofs.write_erofs(built.merged, [built.indexes[0], tmp_path / "none"], tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_renames_elsewhere_do_not_disturb_a_path_with_dots(tmp_path: Path) -> None:
    """The kernel gives up on `..` below a root (EAGAIN) whenever anything is renamed on the whole machine."""
    (tmp_path / "root/a").mkdir(parents=True)
    (tmp_path / "root/file").touch()
    ended = threading.Event()

    def rename() -> None:
        os.close(os.open(tmp_path / "one", os.O_CREAT | os.O_WRONLY))
        while not ended.is_set():
            for _ in range(100):
                os.rename(tmp_path / "one", tmp_path / "two")
                os.rename(tmp_path / "two", tmp_path / "one")

    threads = [threading.Thread(target=rename)]
    threads[0].start()
    root = os.open(tmp_path / "root", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(2000):
            os.close(open_in_root(root, b"a/../a/../a/../file", os.O_PATH))
    finally:
        ended.set()
        threads[0].join()
        os.close(root)
