"""A pool that is full to its last block: the store on it can still be looked at, and emptied."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cli_helpers import Command
from pool_helpers import SIZE, need_pool, release
from store_helpers import add_image, assert_whole, make_tar, object_names

from lazarus.content.reserve import PIECES
from lazarus.store import Store

pytestmark = pytest.mark.root


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A store on a pool, with an image that has a name, a container of it, and an image that nothing needs."""
    need_pool()
    root = tmp_path / "store"
    (tmp_path / "small.tar").write_bytes(make_tar({"etc/motd": b"hi", "usr/lib/object": os.urandom(9000)}))
    try:
        with Store(root) as store:
            store.pool.create(SIZE)
            image = store.images.import_(str(tmp_path / "small.tar"), "small:1", changes=['CMD ["sh"]'])
            container = store.containers.create(image, name="one")
            Path(container.directory, "upper", "written").write_bytes(b"x" * 100_000)
            add_image(store, make_tar({f"big/{number}": os.urandom(9000) for number in range(400)}))
        assert [len(os.listdir(place)) for place in _places(root)] == [PIECES, PIECES]
        yield root
    finally:
        release(tmp_path)


def _places(root: Path) -> list[Path]:
    return [root / "reserve", root / "pool/mount/reserve"]


def _fill(root: Path) -> None:
    """To the last block, also what was freed a moment ago."""
    mount = root / "pool/mount"
    fd = os.open(mount / "ballast", os.O_WRONLY | os.O_CREAT)
    for size in (16 << 20, 1 << 20, 4096):
        with suppress(OSError):
            while True:
                os.posix_fallocate(fd, os.fstat(fd).st_size, size)
        subprocess.run(["sync", "-f", mount], check=True)
    os.close(fd)
    with pytest.raises(OSError, match="No space"), open(mount / "probe", "wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, 4096)
    with suppress(FileNotFoundError):
        os.unlink(mount / "probe")


def test_looking_and_emptying(root: Path) -> None:
    lazarus = Command(root)
    _fill(root)
    for words in (["images"], ["ps", "-a"], ["inspect", "one"], ["system", "df"], ["pool", "status"]):
        assert lazarus.ok(*words)
        _fill(root)  # somebody else takes what is left over
    for _ in range(3):
        for words in (["create", "small:1"], ["import", "-q", str(root.parent / "small.tar"), "again:1"]):
            failed = lazarus(*words)
            assert failed.code == 1 and "No space left on device" in failed.err and failed.err.count("\n") == 1
            _fill(root)
    assert len(lazarus.ok("ps", "-aq").split()) == 1
    lazarus.ok("system", "prune")
    with Store(root) as store:
        assert len(object_names(store)) == 1
    _fill(root)
    assert lazarus.ok("rm", "one") == "one"
    _fill(root)
    assert lazarus.ok("rmi", "small:1").startswith("Untagged: small:1\nDeleted: ")
    with Store(root) as store:
        assert object_names(store) == set() and store.images.list() == []
        assert os.listdir(store.paths.staging) == os.listdir(store.paths.trash) == []
    with Store(root) as store:
        store.content.reserve.give()
        _fill(root)
        with pytest.raises(OSError, match=r"No space left on device; what is left is held back.*pool/mount'"):
            store.content.reserve.check()
    os.unlink(root / "pool/mount/ballast")
    lazarus.ok("import", "-q", str(root.parent / "small.tar"), "again:1")
    with Store(root) as store:
        assert_whole(store)
        assert store.system_df()["reserve"]["count"] == 2 * PIECES
    assert [len(os.listdir(place)) for place in _places(root)] == [PIECES, PIECES]


def test_a_pool_that_is_not_mounted_has_none(root: Path) -> None:
    """What is written at its mount point then would be hidden, and there for ever."""
    with Store(root) as store:
        subprocess.run(["umount", root / "pool/mount"], check=True)
        store.content.reserve.fill()
        assert os.listdir(root / "pool/mount") == []
        assert store.content.reserve.give(1) == 1
