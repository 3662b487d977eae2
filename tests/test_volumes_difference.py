"""What became of a volume since a snapshot: every kind of change, and nothing where nothing changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lazarus.errors import NotFoundError
from lazarus.store import Store
from lazarus.terms import ViewChange
from lazarus.volumes.volume import Volume

OLD = 1_000_000_000_000_000_000


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    with Store(tmp_path / "store") as store:
        volume = store.volumes.create("db")
        top = Path(volume.path)
        (top / "d/e").mkdir(parents=True)
        (top / "gone").mkdir()
        for name in ("d/file", "d/e/file", "gone/file", "same", "long", "touched", "mode", "xattr", "type"):
            (top / name).write_text("before")
            os.utime(top / name, ns=(OLD, OLD))
        (top / "link").symlink_to("same")
        os.utime(top / "link", ns=(OLD, OLD), follow_symlinks=False)
        for name in ("d", "d/e", "gone", "."):
            os.utime(top / name, ns=(OLD, OLD))
        volume.snapshot("s")
        yield volume


def changed(volume: Volume, *more: str, **options: bool) -> dict[str, tuple[object, ...]]:
    found = list(volume.diff("s", *more, **options))
    assert len({change.path for change in found}) == len(found)
    return {os.fsdecode(change.path): (change.change, *change.differs) for change in found}


def keep_times(top: Path, *names: str) -> None:
    for name in names:
        os.utime(top / name, ns=(OLD, OLD), follow_symlinks=False)


def test_nothing(volume: Volume) -> None:
    assert changed(volume) == {}
    assert changed(volume, checksum=True) == {}
    volume.snapshot("t")
    assert changed(volume, "t") == {}
    volume.rollback("s")
    assert changed(volume) == changed(volume, "t") == {}


def test_each_kind(volume: Volume) -> None:
    top = Path(volume.path)
    (top / "d/file").write_text("AFTER!")
    (top / "long").write_text("longer than before")
    os.utime(top / "touched", ns=(OLD + 1, OLD + 1))
    (top / "mode").chmod(0o4600)
    os.setxattr(top / "xattr", "user.a", b"1")
    (top / "type").unlink()
    (top / "type").mkdir()
    (top / "type/new").write_text("")
    (top / "gone/file").unlink()
    (top / "gone").rmdir()
    (top / "link").unlink()
    (top / "link").symlink_to("long")
    (top / "new").mkdir()
    (top / "new/file").write_text("12345")
    keep_times(top, "mode", "xattr", "link", "d", ".")
    expected = {
        "/d/file": ("C", "content", "mtime"),
        "/long": ("C", "content", "mtime"),
        "/touched": ("C", "mtime"),
        "/mode": ("C", "mode"),
        "/xattr": ("C", "xattrs"),
        "/type": ("C", "type"),
        "/type/new": ("A",),
        "/gone": ("D",),
        "/gone/file": ("D",),
        "/link": ("C", "target"),
        "/new": ("A",),
        "/new/file": ("A",),
    }
    assert changed(volume) == expected
    volume.snapshot("t")
    assert changed(volume, "t") == expected
    paths = [change.path for change in volume.diff("s")]
    assert paths == sorted(paths, key=lambda path: path.split(b"/")), "a directory, then what is in it, by name"
    back = {os.fsdecode(change.path): change for change in volume.diff("t", "s")}
    assert back["/new/file"] == ViewChange("D", b"/new/file", "file", (), 5, 0)
    assert back["/gone/file"] == ViewChange("A", b"/gone/file", "file", (), 0, 6)
    assert back["/long"] == ViewChange("C", b"/long", "file", ("content", "mtime"), 18, 6)
    assert back["/type"].kind == "file" and back["/type/new"].change == "D"


@pytest.mark.root
def test_owners_and_devices(volume: Volume) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: owners and devices are made")
    top = Path(volume.path)
    os.mknod(top / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    volume.snapshot("t")
    times = os.stat(top / "null").st_mtime_ns, os.stat(top).st_mtime_ns
    (top / "null").unlink()
    os.mknod(top / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    os.utime(top / "null", ns=(times[0],) * 2)
    os.utime(top, ns=(times[1],) * 2)
    os.chown(top / "same", 3, 4)
    found = {change.path: change.differs for change in volume.diff("t")}
    assert found == {b"/null": ("device",), b"/same": ("owner",)}
    os.chown(top, 3, 4)
    assert next(volume.diff("t")) == ViewChange("C", b"/", "directory", ("owner",))


def test_one_size_and_one_time(volume: Volume) -> None:
    """An old time is trusted, unless all is to be read; a time near the snapshot is not, for clocks have a grain."""
    top = Path(volume.path)
    (top / "same").write_text("AFTER!")
    os.utime(top / "same", ns=(OLD, OLD))
    assert changed(volume) == {}
    assert changed(volume, checksum=True) == {"/same": ("C", "content")}
    (top / "same").write_text("before")
    volume.snapshot("t")
    time = os.stat(top / "same").st_mtime_ns
    (top / "same").write_text("AFTER!")
    os.utime(top / "same", ns=(time, time))
    assert {change.path: change.differs for change in volume.diff("t")} == {b"/same": ("content",)}


def test_deep_and_odd_names(volume: Volume) -> None:
    path = os.fsencode(volume.path)
    for _ in range(300):
        path += b"/d\xff\n"
        os.mkdir(path)
    found = [change.path for change in volume.diff("s")]
    assert found[-1] == b"/d\xff\n" * 300 and len(found) == 301


def test_nothing_is_followed_outside(volume: Volume, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/file").write_text("")
    top = Path(volume.path)
    (top / "gone/file").unlink()
    (top / "gone").rmdir()
    (top / "gone").symlink_to(tmp_path / "secret")
    found = changed(volume)
    assert found["/gone"] == ("C", "type") and found["/gone/file"] == ("D",)


def test_what_is_not_there(volume: Volume) -> None:
    for names in (("none",), ("s", "none")):
        with pytest.raises(NotFoundError, match="snapshot db@none"):
            list(volume.diff(*names))
