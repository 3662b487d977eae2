"""A full disk: one clear error, the store as it was, and once there is room the same load succeeds."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from store_helpers import add_image, assert_tar, assert_whole, content, make_tar, object_names

from lazarus.errors import LazarusError
from lazarus.store import Store

OLD = make_tar({"old": content("old"), "small": b"x"})
NEW = [make_tar({f"{layer}/{n}": os.urandom(20_000) for n in range(6)}) for layer in range(2)]  # does not compress
CLONE_NEWNS = 0x20000


def _with_small_disk(kind: str, place: Path, work: Callable[[Path], None]) -> None:
    """Runs `work` in a child with a mount namespace of its own, so nothing can be left mounted."""
    child = os.fork()
    if child == 0:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.unshare(CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            target = place / "disk"
            target.mkdir()
            if kind == "tmpfs":
                subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "small", target], check=True)
            else:
                image = place / "image"
                with open(image, "wb") as file:
                    file.truncate(8 << 20)
                subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-N", "1024", "-b", kind[5:], image], check=True)
                subprocess.run(["mount", "-o", "loop", image, target], check=True)
            work(target)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _leave(disk: Path, free: int) -> None:
    """Fills the disk until only about `free` bytes are left."""
    (disk / "ballast").unlink(missing_ok=True)
    subprocess.run(["sync", "-f", disk], check=True)
    status = os.statvfs(disk)
    size = status.f_bavail * status.f_frsize - free
    with open(disk / "ballast", "wb") as file:
        while size > 0:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
                break
            except OSError:  # the file system needs blocks of its own to name so many
                size -= 4096


def _is_full(error: BaseException) -> None:
    """The only errors that may come, each one line."""
    assert isinstance(error, OSError | LazarusError), error
    assert not isinstance(error, OSError) or error.errno == errno.ENOSPC, error
    assert "\n" not in str(error)
    assert "No space" in str(error), error


def _load_until_it_fits(disk: Path) -> None:
    root = disk / "store"
    with Store(root) as store:
        (old,) = add_image(store, OLD)
        objects = object_names(store)
    failures = successes = 0
    for free in [*range(0, 400_000, 20_000), 800_000]:
        _leave(disk, free)
        try:
            with Store(root) as store:
                add_image(store, *NEW, blob="gzip")
            successes += 1
        except Exception as error:
            _is_full(error)
            failures += 1
            (disk / "ballast").unlink()
            with Store(root) as store:
                assert object_names(store) == objects
                assert os.listdir(store.paths.staging) == []
                assert store.catalogue.read().execute("SELECT count(*) FROM layers").fetchone()[0] == 1
                assert_tar(store, old, OLD)
                assert_whole(store)
        else:
            (disk / "ballast").unlink()
            with Store(root) as store:
                assert_whole(store)
                with store.catalogue.write() as connection:
                    connection.execute(
                        "DELETE FROM images WHERE manifest_digest IN (SELECT manifest_digest FROM"
                        " image_layers WHERE diff_id <> ?)",
                        (old,),
                    )
                store.content.collect()
                assert object_names(store) == objects
    assert failures > 3 and successes >= 1
    with Store(root) as store:
        new = add_image(store, *NEW, blob="gzip")
        for diff_id, tar in zip(new, NEW, strict=True):
            assert_tar(store, diff_id, tar)
        assert_whole(store)


@pytest.mark.root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4 4096", "ext4 1024"])
def test_a_load_that_does_not_fit(tmp_path: Path, kind: str) -> None:
    _with_small_disk(kind, tmp_path, _load_until_it_fits)


def _make_until_it_fits(disk: Path) -> None:
    failures = 0
    for free in range(0, 300_000, 20_000):
        root = disk / str(free)
        _leave(disk, free)
        try:
            Store(root).close()
        except Exception as error:
            _is_full(error)
            failures += 1
        (disk / "ballast").unlink()
        with Store(root) as store:
            add_image(store, OLD)
            assert_whole(store)
        subprocess.run(["rm", "-rf", root], check=True)
    assert failures > 0


@pytest.mark.root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4 4096", "ext4 1024"])
def test_a_new_store_that_does_not_fit(tmp_path: Path, kind: str) -> None:
    _with_small_disk(kind, tmp_path, _make_until_it_fits)
