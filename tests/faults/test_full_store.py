"""A disk that is full to its last block: the store on it can still be looked at, and emptied."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cli_helpers import Command
from store_helpers import add_image, assert_whole, content, make_tar, object_names

from lazarus.content.reserve import PIECE, PIECES, Reserve
from lazarus.store import Store

pytestmark = pytest.mark.root
BIG = make_tar({f"big/{number}": os.urandom(9000) for number in range(400)})


@pytest.fixture(params=["ext4 4096", "ext4 1024", "tmpfs"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of 24 MB without blocks set aside for root."""
    kind, _, block = request.param.partition(" ")
    place = tmp_path / "disk"
    place.mkdir()
    if kind == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "small", place], check=True)
    else:
        image = tmp_path / "image"
        with open(image, "wb") as file:
            file.truncate(24 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-N", "2048", "-b", block, image], check=True)
        subprocess.run(["mount", "-o", "loop", image, place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def _fill(disk: Path) -> None:
    """To the last block, also what was freed a moment ago."""
    for _ in range(2):
        subprocess.run(["sync", "-f", disk], check=True)
        with open(disk / "ballast", "ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with suppress(OSError):
                    while True:
                        file.write(b"x" * size)
    with pytest.raises(OSError, match="No space"), open(disk / "probe", "wb", buffering=0) as file:
        file.write(b"x")
    with suppress(OSError):
        os.unlink(disk / "probe")


def _free(disk: Path) -> int:
    subprocess.run(["sync", "-f", disk], check=True)
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


def _store(root: Path) -> None:
    """Two images, one of them with a name; two containers of the other, as `create` leaves them."""
    tar = make_tar({"etc/motd": b"hi", "usr/lib/object": content("object")})
    (root.parent / "rootfs.tar").write_bytes(tar)
    with Store(root) as store:
        image = store.images.import_(str(root.parent / "rootfs.tar"), "small:1", changes=['CMD ["sh"]'])
        for name in ("c1", "c2"):
            container = store.containers.create(image, name=name)
            Path(container.directory, "upper", "written").write_bytes(b"x" * 100_000)
        add_image(store, BIG)
    assert len(os.listdir(root / "reserve")) >= 30


def test_looking_and_emptying(disk: Path) -> None:
    root = disk / "store"
    _store(root)
    lazarus = Command(root)
    _fill(disk)
    for words in (["images"], ["ps", "-a"], ["inspect", "c1"], ["inspect", "small:1"], ["system", "df"], ["history"]):
        words = [*words, "small:1"] if words == ["history"] else words
        assert lazarus.ok(*words)
        _fill(disk)  # somebody else takes what is left over
    failed = lazarus("create", "small:1")
    assert failed.code == 1 and failed.err.count("\n") == 1
    assert "store: No space left on device; what is left is held back" in failed.err
    assert len(json.loads(lazarus.ok("ps", "-a", "--format", "json"))) == 2

    both = [subprocess.Popen(lazarus.words("rm", name)) for name in ("c1", "c2")]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert lazarus.ok("ps", "-aq") == "" and os.listdir(root / "containers") == []
    freed = _free(disk)
    assert freed > 100_000
    _fill(disk)
    assert lazarus.ok("rmi", "small:1").startswith("Untagged: small:1\nDeleted: ")
    _fill(disk)
    lazarus.ok("system", "prune")
    assert _free(disk) > 3_000_000
    with Store(root) as store:
        assert object_names(store) == set() and store.images.list() == []
        assert os.listdir(store.paths.staging) == os.listdir(store.paths.trash) == []

    os.unlink(disk / "ballast")
    lazarus.ok("import", "-q", str(disk / "rootfs.tar"), "again:1")
    lazarus.ok("create", "again:1", "sh")
    with Store(root) as store:
        assert_whole(store)
    assert len(os.listdir(root / "reserve")) >= 30


@pytest.mark.parametrize("block", ["1024", "4096"])
def test_full_but_for_what_is_kept_for_root(tmp_path: Path, block: str) -> None:
    """As ext4 is made: 5 % is root's. Processes in containers, which may not have that, fill the rest."""
    image, place = tmp_path / "image", tmp_path / "disk"
    place.mkdir()
    with open(image, "wb") as file:
        file.truncate(40 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-N", "2048", "-b", block, image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        _store(place / "store")
        _fill_as_nobody(place)
        for name in os.listdir(place / "store/reserve"):  # as after some verbs on a full disk
            os.unlink(place / "store/reserve" / name)
        _fill_as_nobody(place)
        status = os.statvfs(place)
        assert status.f_bavail * status.f_frsize < 200_000 and status.f_bfree * status.f_frsize > 1_000_000
        lazarus = Command(place / "store")
        assert lazarus.ok("images", "-q") and lazarus.ok("ps", "-aq")
        assert lazarus.ok("rm", "c1", "c2").split() == ["c1", "c2"]
        lazarus.ok("system", "prune")
    finally:
        subprocess.run(["umount", place], check=True)


def _fill_as_nobody(disk: Path) -> None:
    for size in ("64k", "1k"):
        subprocess.run(["sync", "-f", disk], check=True)
        with open(disk / "ballast", "ab") as file:
            command = ["dd", "if=/dev/zero", f"bs={size}", "status=none"]
            subprocess.run(
                command, user=65534, group=65534, extra_groups=[], stdout=file, stderr=subprocess.DEVNULL, check=False
            )


def test_a_load_does_not_use_it_up(disk: Path) -> None:
    """Whatever fails for want of room leaves enough to remove something, be it tried ever so often."""
    root = disk / "store"
    _store(root)
    lazarus = Command(root)
    (disk / "big.tar").write_bytes(BIG)
    _fill(disk)
    for _ in range(6):
        failed = lazarus("import", "-q", str(disk / "big.tar"), "big:1")
        assert failed.code == 1 and "No space left" in failed.err
        _fill(disk)
    assert lazarus.ok("rm", "c1", "c2").split() == ["c1", "c2"]


def test_without_inodes(disk: Path) -> None:
    """A full table of inodes is a full disk, too."""
    root = disk / "store"
    _store(root)
    (disk / "many").mkdir()
    status = os.statvfs(disk)
    if status.f_ffree > 5000:  # tmpfs: a quarter of the machine's memory
        subprocess.run(["mount", "-o", f"remount,nr_inodes={status.f_files - status.f_ffree + 50}", disk], check=True)
    with pytest.raises(OSError, match="No space"):
        for number in range(5000):
            os.close(os.open(disk / "many" / str(number), os.O_CREAT))
    lazarus = Command(root)
    assert lazarus.ok("images") and lazarus.ok("rm", "c1", "c2") and lazarus.ok("rmi", "small:1")
    lazarus.ok("system", "prune")
    assert os.statvfs(disk).f_ffree > 300


def test_the_reserve_itself(tmp_path: Path) -> None:
    reserve = Reserve(str(tmp_path / "reserve"))
    assert reserve.give() == 0, "a store without one"
    reserve.fill()
    assert len(os.listdir(reserve.path)) == PIECES
    assert all(os.stat(f"{reserve.path}/{name}").st_blocks * 512 >= PIECE for name in os.listdir(reserve.path))
    calls: list[int] = []

    def needs(pieces: int) -> str:
        calls.append(len(os.listdir(reserve.path)))
        if calls[-1] > PIECES - pieces:
            raise OSError(errno.ENOSPC, "No space left on device")
        return "done"

    assert reserve.with_room(lambda: needs(0)) == "done" and calls == [PIECES]
    calls.clear()
    assert reserve.with_room(lambda: needs(5)) == "done"
    assert calls == [PIECES, PIECES - 1, PIECES - 3, PIECES - 7]
    with pytest.raises(OSError, match="No space"):
        reserve.with_room(lambda: needs(PIECES + 1))
    calls.clear()
    with pytest.raises(OSError, match="No space"):
        reserve.with_room(lambda: needs(PIECES + 1))
    assert calls == [0, 0], "once more: another process may just have given the last"
    with pytest.raises(OSError, match="Permission"):
        reserve.with_room(_deny)
    assert os.listdir(reserve.path) == []
    Path(reserve.path, "new").touch()  # of a process that died while it made one
    reserve.fill()
    assert sorted(os.listdir(reserve.path)) == [f"{number:02}" for number in range(PIECES)]
    Reserve(str(tmp_path / "gone" / "reserve")).fill()
    assert not (tmp_path / "gone").exists(), "a store that was removed stays away"


def test_a_used_up_quota_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = Reserve(str(tmp_path / "reserve"))
    reserve.fill()

    def needs(pieces: int) -> str:
        if len(os.listdir(reserve.path)) > PIECES - pieces:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return "done"

    assert reserve.with_room(lambda: needs(5)) == "done"

    def refuse(*_: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match="quota exceeded; what is left is held back") as caught:
        reserve.check()
    assert caught.value.errno == errno.EDQUOT


def test_two_that_give_the_same_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both list it, one removes it: the other goes on, too."""
    reserve = Reserve(str(tmp_path / "reserve"))
    reserve.fill()
    names = os.listdir(reserve.path)
    monkeypatch.setattr("lazarus.content.reserve._names", lambda place: names)
    assert reserve.give(2) == 2
    assert reserve.give(2) == 2
    assert len(os.listdir(reserve.path)) == PIECES - 2


def test_nobody_fills_it_while_somebody_needs_it_as_it_is(tmp_path: Path) -> None:
    reserve, other = Reserve(str(tmp_path / "reserve")), Reserve(str(tmp_path / "reserve"))
    with reserve.left_as_it_is():  # there is none yet
        reserve.fill()
    with reserve.left_as_it_is(), other.left_as_it_is():
        reserve.give(3)
        other.fill()
        assert len(os.listdir(reserve.path)) == PIECES - 3
    other.fill()
    assert len(os.listdir(reserve.path)) == PIECES


def test_many_that_remove_at_once(disk: Path) -> None:
    root = disk / "store"
    _store(root)
    with Store(root) as store:
        for number in range(8):
            store.containers.create("small:1", name=f"m{number}")
    lazarus = Command(root)
    _fill(disk)
    removers = [subprocess.Popen(lazarus.words("rm", f"m{number}")) for number in range(8)]
    assert [process.wait(timeout=60) for process in removers] == [0] * 8


def _deny() -> None:
    raise PermissionError(errno.EACCES, "Permission denied")
