"""Snapshots of volumes: what is in them, going back, cloning; with containers at work meanwhile."""

from __future__ import annotations

import os
import socket
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from container_helpers import remove_all, run, sh, start, until
from pool_helpers import SIZE, need_pool, release
from store_helpers import add_image, make_tar

from lazarus._native.clone import make_root
from lazarus.content.catalogue import Write
from lazarus.content.usage import disk_usage
from lazarus.errors import ConflictError, FormatError, NotFoundError, StoreError
from lazarus.store import Store
from lazarus.volumes.populate import settle
from lazarus.volumes.snapshot import Cost
from lazarus.volumes.volume import Volume

pytest_plugins = ("container_fixtures",)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Store]:
    """A store without images, which needs neither root nor a runtime."""
    with Store(tmp_path / "store") as store:
        yield store
        assert os.listdir(store.paths.staging) == os.listdir(store.paths.trash) == []


def write(volume: Volume, **files: str) -> None:
    for name, text in files.items():
        Path(volume.path, name).write_text(text)


def read(path: str) -> dict[str, str]:
    return {name: Path(path, name).read_text() for name in sorted(os.listdir(path))}


def test_a_life(plain: Store) -> None:
    volume = plain.volumes.create("db")
    write(volume, a="1", b="1")
    first = volume.snapshot("first")
    assert str(first) == "db@first" and read(first.path) == {"a": "1", "b": "1"}
    assert first.cost.entries == 2 and first.cost.shared + first.cost.copied == 2
    write(volume, a="2", c="2")
    os.unlink(f"{volume.path}/b")
    second = volume.snapshot()
    assert [found.name for found in volume.snapshots] == ["first", second.name]
    assert volume.inspect()["Snapshots"] == ["first", second.name]
    assert read(first.path) == {"a": "1", "b": "1"} and read(second.path) == {"a": "2", "c": "2"}
    assert volume.rollback("first").entries == 2
    assert read(volume.path) == {"a": "1", "b": "1"}
    volume.rollback(second.name, keep="between")
    assert read(volume.path) == {"a": "2", "c": "2"}
    write(volume, a="3")
    assert read(volume.get_snapshot("between").path) == {"a": "1", "b": "1"}
    assert read(second.path) == {"a": "2", "c": "2"}, "what is written in the volume is not written in a snapshot"
    first.remove()
    with pytest.raises(NotFoundError, match="snapshot db@first: not in this store"):
        volume.rollback("first")
    with pytest.raises(NotFoundError, match="snapshot db@first: not in this store"):
        first.remove()
    assert set(os.listdir(plain.paths.snapshots)) == {"db@between", f"db@{second.name}"}
    assert plain.system_df()["snapshots"]["count"] == 2
    plain.prune(volumes=True)
    assert len(volume.snapshots) == 2, "a prune takes no snapshots"
    volume.remove()
    assert os.listdir(plain.paths.snapshots) == os.listdir(plain.paths.volumes) == []
    assert plain.catalogue.read().execute("SELECT count(*) FROM snapshots").fetchone()[0] == 0


def test_a_clone_is_a_volume_like_any(plain: Store) -> None:
    volume = plain.volumes.create("db", {"tier": "1", "a": "b"})
    write(volume, a="1")
    volume.snapshot("one")
    write(volume, a="2")
    made = volume.clone("now", labels={"tier": "2"})
    old = volume.clone("then", snapshot="one")
    assert read(made.volume.path) == {"a": "2"} and read(old.volume.path) == {"a": "1"}
    assert (made.volume.labels, made.volume.anonymous) == ({"tier": "2", "a": "b"}, False)
    assert made.cost.entries == old.cost.entries == 1 and made.volume.snapshots == ()
    write(made.volume, a="3")
    assert read(volume.path) == {"a": "2"}
    volume.remove()
    assert read(old.volume.path) == {"a": "1"}
    for name in ("now", "then"):
        with pytest.raises(ConflictError, match=f"volume {name}: there is one already"):
            made.volume.clone(name)
    with pytest.raises(FormatError, match="not a volume name"):
        made.volume.clone("a/b")
    with pytest.raises(NotFoundError, match="snapshot now@none"):
        made.volume.clone("new", snapshot="none")


def test_names(plain: Store) -> None:
    volume = plain.volumes.create("db")
    volume.snapshot("a")
    for name in ("", ".a", "a/b", "a@b", "x" * 65, "a\nb", "../a"):
        with pytest.raises(FormatError, match="not a snapshot name"):
            volume.snapshot(name)
        with pytest.raises(FormatError, match="not a snapshot name"):
            volume.rollback("a", keep=name)
    with pytest.raises(ConflictError, match="snapshot db@a: there is one already"):
        volume.snapshot("a")
    with pytest.raises(ConflictError, match="snapshot db@a: there is one already"):
        volume.rollback("a", keep="a")
    longest = plain.volumes.create("v" * 128).snapshot("s" * 64)
    assert os.path.isdir(longest.path)
    longest.remove()
    assert len({volume.snapshot().name for _ in range(3)}) == 3


def test_fresh_stays_fresh(plain: Store) -> None:
    """Whether a container has yet to decide what it begins with is a part of what a volume was."""
    volume = plain.volumes.create("db")
    volume.snapshot("new")
    volume.import_(_empty_tar())
    volume.snapshot("used")
    assert not volume.fresh
    volume.rollback("new")
    assert volume.fresh and volume.clone("c").volume.fresh
    volume.rollback("used")
    assert not volume.fresh and volume.clone("d", snapshot="new").volume.fresh


def _empty_tar() -> int:
    fd = os.memfd_create("tar")
    os.write(fd, bytes(10240))
    os.lseek(fd, 0, 0)
    return fd


def everything(top: str) -> None:
    """One of each that a file system has, in a directory."""
    place = Path(top)
    (place / "sub/deep").mkdir(parents=True)
    (place / "file").write_bytes(os.urandom(100_001))
    os.link(place / "file", place / "sub/same")
    (place / "dangling").symlink_to("/nowhere")
    with open(place / "holes", "wb") as file:
        file.truncate(1 << 24)
        file.seek(1 << 20)
        file.write(b"x" * 4096)
    os.mkfifo(place / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(place)
        server.bind("socket")
        os.chdir(here)
    os.setxattr(place / "file", "user.note", b"kept")
    (place / "sub").chmod(0o1750)
    for name in ("sub", "file"):
        os.utime(place / name, ns=(1_000_000_000_123_456_789,) * 2)
    if os.geteuid() == 0:
        os.mknod(place / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.chown(place / "file", 26, 27)
        (place / "file").chmod(0o4640)
        subprocess.run(["setfacl", "-m", "u:7:r,d:u:8:rwx", place / "sub"], check=True)


def facts(top: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in [top, *map(str, Path(top).rglob("*"))]:
        info = os.lstat(path)
        xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in _xattrs(path)}
        content = Path(path).read_bytes() if stat.S_ISREG(info.st_mode) else b""
        target = os.readlink(path) if stat.S_ISLNK(info.st_mode) else ""
        links = 0 if stat.S_ISDIR(info.st_mode) else info.st_nlink
        found[os.path.relpath(path, top)] = (
            *(info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, info.st_rdev, links),
            *(content, target, xattrs),
        )
    return found


def _xattrs(path: str) -> list[str]:
    return sorted(os.listxattr(path, follow_symlinks=False))


def test_everything_of_a_directory(plain: Store) -> None:
    volume = plain.volumes.create("db")
    everything(volume.path)
    expected = facts(volume.path)
    snapshot = volume.snapshot("s")
    assert facts(snapshot.path) == expected and len(expected) > 8
    assert os.path.samefile(f"{snapshot.path}/file", f"{snapshot.path}/sub/same")
    assert os.stat(f"{snapshot.path}/holes").st_blocks * 512 < 1 << 20
    subprocess.run(f"rm -r {volume.path}/*", shell=True, check=True)
    volume.rollback("s")
    assert facts(volume.path) == expected == facts(volume.clone("c").volume.path)


@pytest.mark.parametrize("how", ["refused", "interrupted after it"])
def test_a_rollback_whose_commit_fails(plain: Store, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """It has happened or it has not: the files, and whether the volume is fresh, say the same."""
    volume = plain.volumes.create("db")
    volume.snapshot("empty")
    volume.import_(_empty_tar())
    write(volume, file="new")
    before = os.stat(volume.path).st_ino
    leave = Write.__exit__

    def fails(self: Write, kind: Any, error: Any, traceback: Any) -> None:
        if os.stat(volume.path).st_ino == before:
            return leave(self, kind, error, traceback)
        if how == "refused":
            plain.catalogue.read().set_authorizer(lambda code, *more: sqlite3.SQLITE_DENY if "COMMIT" in more else 0)
        monkeypatch.undo()
        try:
            leave(self, kind, error, traceback)
        finally:
            plain.catalogue.read().set_authorizer(None)
        raise KeyboardInterrupt

    monkeypatch.setattr(Write, "__exit__", fails)
    with pytest.raises(StoreError if how == "refused" else KeyboardInterrupt):
        volume.rollback("empty")
    assert (volume.fresh, read(volume.path)) == (False, {"file": "new"})
    volume.rollback("empty")
    assert (volume.fresh, read(volume.path)) == (True, {})


def test_two_at_once(plain: Store) -> None:
    """Names that differ: both; one name: one of them, and a conflict for the other."""
    volume = plain.volumes.create("db")
    for number in range(200):
        write(volume, **{f"f{number}": "x" * 5000})
    for names in (("a", "b", "c"), ("d", "d", "d")):
        barrier = threading.Barrier(3)
        errors: list[BaseException] = []

        def act(name: str, barrier: threading.Barrier = barrier, errors: list[BaseException] = errors) -> None:
            with Store(plain.paths.root) as store:
                barrier.wait()
                try:
                    store.volumes.get("db").snapshot(name)
                except ConflictError as conflict:
                    errors.append(conflict)

        threads = [threading.Thread(target=act, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(errors) == len(names) - len(set(names))
        assert all("snapshot db@d: there is one already" in str(error) for error in errors)
    assert {found.name for found in volume.snapshots} == {"a", "b", "c", "d"}
    assert all(len(os.listdir(found.path)) == 200 for found in volume.snapshots)


def test_what_is_read_is_not_taken_away(plain: Store) -> None:
    volume = plain.volumes.create("db")
    write(volume, a="1")
    snapshot = volume.snapshot("s")
    write(volume, a="2")
    changes = volume.diff("s")
    assert next(changes).path in (b"/", b"/a")
    for act in (snapshot.remove, lambda: volume.rollback("s"), volume.remove):
        with pytest.raises(ConflictError, match="files are being copied; try again"):
            act()
    changes.close()
    snapshot.remove()


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """A directory on each file system that clones, as far as this machine can make it."""
    if os.geteuid() != 0:
        pytest.skip("needs root: file systems are mounted")
    found = {}
    for kind, size in (("xfs", 320 << 20), ("btrfs", 128 << 20)):
        (place := tmp_path / kind).mkdir()
        with open(image := tmp_path / f"{kind}.image", "wb") as file:
            file.truncate(size)
        environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
        made = subprocess.run(f"mkfs.{kind} -q {image} && mount -o loop {image} {place}", shell=True, env=environment)
        if made.returncode == 0:
            found[kind] = place
    if not found:
        pytest.skip("neither xfs nor btrfs can be made here")
    yield found
    for place in found.values():
        subprocess.run(["umount", place], check=True)


def is_subvolume(path: str) -> bool:
    return os.stat(path).st_ino == 256 and os.stat(path).st_dev != os.stat(os.path.dirname(path)).st_dev


@pytest.mark.root
def test_subvolumes_of_btrfs(disks: dict[str, Path]) -> None:
    """A volume is one, and so is what is made of it, also of what had none, or has others in it."""
    if "btrfs" not in disks:
        pytest.skip("no btrfs can be made here")
    with Store(disks["btrfs"] / "store") as store:
        volume = store.volumes.create("db")
        assert is_subvolume(volume.path) and stat.S_IMODE(os.stat(volume.path).st_mode) == 0o755
        os.chmod(volume.path, 0o1771)
        Path(volume.path, "big").write_bytes(os.urandom(5 << 20))
        os.link(f"{volume.path}/big", f"{volume.path}/linked")
        assert volume.snapshot("one").cost == Cost(2, 5 << 20, 0)
        make_root(f"{volume.directory}/inner")  # as a container can
        os.rename(f"{volume.directory}/inner", f"{volume.path}/inner")
        os.makedirs(f"{volume.path}/inner/a/b")
        Path(volume.path, "inner/a/b/file").write_text("inner")
        assert volume.snapshot("two").cost.entries == 6
        assert store.volumes.size("db") >= 5 << 20 and disk_usage(volume.get_snapshot("one").directory).files == 1
        assert store.content.usage()["volumes"]["bytes"] >= 5 << 20
        volume.rollback("one")
        assert sorted(os.listdir(volume.path)) == ["big", "linked"]
        volume.rollback("two")
        assert Path(volume.path, "inner/a/b/file").read_text() == "inner"
        places = [volume.get_snapshot("one").path, volume.get_snapshot("two").path, volume.path]
        places.append(volume.clone("clone", snapshot="two").volume.path)
        for place in places:
            assert is_subvolume(place) and stat.S_IMODE(os.stat(place).st_mode) == 0o1771
        old = store.volumes.create("old")  # made before there were any
        os.rmdir(old.path)
        os.mkdir(old.path, 0o755)
        write(old, a="1")
        old.snapshot("s")
        old.rollback("s")
        assert is_subvolume(old.path) and read(old.path) == {"a": "1"}
        for name in ("db", "clone", "old"):
            store.volumes.remove(name)
        for room in (store.paths.volumes, store.paths.snapshots, store.paths.trash, store.paths.staging):
            assert os.listdir(room) == []


@pytest.mark.root
def test_populated_on_btrfs(disks: dict[str, Path]) -> None:
    if "btrfs" not in disks:
        pytest.skip("no btrfs can be made here")
    with Store(disks["btrfs"] / "store") as store:
        (diff_id,) = add_image(store, make_tar({"data/one": b"1" * 100_000, "data/two": b"2"}))
        volume, theirs = store.volumes.create("db"), store.volumes.create("theirs")
        settle(volume, ([diff_id], "/data"))
        assert sorted(os.listdir(volume.path)) == ["one", "two"] and is_subvolume(volume.path)
        snapshot = volume.snapshot("s")
        assert is_subvolume(snapshot.path) and Path(snapshot.path, "one").read_bytes() == b"1" * 100_000
        write(theirs, mine="x")  # by the host: not a byte of it goes
        settle(theirs, ([diff_id], "/data"))
        assert read(theirs.path) == {"mine": "x"}
        assert os.listdir(store.paths.staging) == []


@pytest.mark.root
def test_blocks_are_shared(disks: dict[str, Path]) -> None:
    for kind, place in disks.items():
        with Store(place / "store") as store:
            volume = store.volumes.create("db")
            Path(volume.path, "big").write_bytes(os.urandom(20 << 20))  # not written back yet
            os.sync()
            before = os.statvfs(place).f_bavail
            snapshot = volume.snapshot("s")
            assert snapshot.cost == Cost(1, 20 << 20, 0), kind
            assert volume.clone("c").cost == volume.rollback("s") == snapshot.cost
            os.sync()
            assert (before - os.statvfs(place).f_bavail) * os.statvfs(place).f_frsize < 8 << 20
            assert Path(store.volumes.get("c").path, "big").read_bytes() == Path(snapshot.path, "big").read_bytes()


@pytest.mark.root
def test_a_rollback_gives_all_times_back(disks: dict[str, Path]) -> None:
    """Of the root, too: XFS gives directories that are exchanged new ones."""
    for kind, place in disks.items():
        with Store(place / "store") as store:
            volume = store.volumes.create("db")
            everything(volume.path)
            os.utime(volume.path, (1, 1))
            expected = facts(volume.path)
            volume.snapshot("s")
            write(volume, new="1")
            volume.rollback("s")
            assert facts(volume.path) == expected and list(volume.diff("s")) == [], kind


@pytest.mark.root
def test_a_pool_shares_them_too(tmp_path: Path) -> None:
    need_pool()
    with Store(tmp_path / "store") as store:
        volume = store.volumes.create("db")
        write(volume, a="1")
        volume.snapshot("before")
        store.pool.create(SIZE)
        try:
            assert read(volume.get_snapshot("before").path) == {"a": "1"}
            Path(volume.path, "big").write_bytes(os.urandom(5 << 20))
            assert volume.snapshot("in").cost.copied == 0
            volume.rollback("before")
            store.pool.destroy()
            assert read(volume.path) == {"a": "1"}
            assert disk_usage(volume.get_snapshot("in").path).bytes == (5 << 20) + 1
        finally:
            release(store.paths.root)


# -- with containers --


@pytest.fixture
def volumes(store: Store) -> Iterator[Store]:
    remove_all(store)
    yield store
    remove_all(store)
    assert os.listdir(store.paths.snapshots) == os.listdir(store.paths.staging) == []


# Two files, always one after the other: of one moment, the second is never ahead.
WRITER = "n=0; while :; do n=$((n+1)); echo $n > /v/1; echo $n > /v/2; done"


@pytest.mark.root
def test_of_one_moment(volumes: Store) -> None:
    first = sh(volumes, WRITER, volumes=["db:/v"])
    other = sh(volumes, "sleep 1000", volumes=["db:/w"])
    for container in (first, other):
        container.start()
    volume = volumes.volumes.get("db")
    until(lambda: os.path.exists(f"{volume.path}/2"))
    with open(f"{volume.path}/0", "wb") as file:  # read between the two: without a freeze they drift apart
        file.write(os.urandom(30 << 20))
    for number in range(3):
        found = volume.snapshot(f"s{number}")
        one, two = (int(Path(found.path, name).read_text() or 0) for name in ("1", "2"))
        assert two in (one, one - 1) or 0 in (one, two), "written in this order, and cut off anywhere"
        clone = volume.clone(f"c{number}").volume
        assert set(os.listdir(clone.path)) == {"0", "1", "2"}
    before = Path(volume.path, "1").stat().st_mtime_ns
    until(lambda: Path(volume.path, "1").stat().st_mtime_ns != before)
    assert volume.snapshot("torn", freeze=False).cost.entries == 3
    with pytest.raises(ConflictError, match=f"volume db: container {other.name}, {first.name} runs on it; stop it"):
        volume.rollback("s0")
    for container in (first, other):
        container.stop(0)
    volume.rollback("s0")
    assert volume.users == tuple(sorted((first.name, other.name)))
    assert run(volumes, "cat /v/1", volumes=["db:/v"])[1] == Path(volume.get_snapshot("s0").path, "1").read_text()


@pytest.mark.root
def test_none_starts_meanwhile(volumes: Store) -> None:
    """A container that starts while the volume is at rest waits, and then sees what a rollback has made of it."""
    volume = volumes.volumes.create("db")
    write(volume, a="1\n")
    volume.snapshot("s")
    write(volume, a="2\n")
    said: list[object] = []
    container = sh(volumes, "cat /v/a", volumes=["db:/v"])
    ready, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with Store(volumes.paths.root) as store, store.containers.at_rest(store.volumes.get("db"), "refuse"):
            ready.set()
            assert go_on.wait(10)
            assert said == []

    holder = threading.Thread(target=hold)
    holder.start()
    assert ready.wait(10)
    newer = sh(volumes, "cat /v/a", volumes=["db:/v"])  # made meanwhile: nobody holds its lock

    def begin(one: object) -> None:
        said.append(start(one))  # type: ignore[arg-type]

    starters = [threading.Thread(target=begin, args=(one,)) for one in (container, newer)]
    for starter in starters:
        starter.start()
    starters[0].join(0.3)
    assert said == []
    go_on.set()
    holder.join()
    for starter in starters:
        starter.join()
    assert said == [(0, "2\n")] * 2
    volume.rollback("s")
    assert start(container) == (0, "1\n")
