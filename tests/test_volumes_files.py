"""Files of a volume from outside: cp, export, import. Nothing in it, and nothing in a tar, leads anywhere else."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lazarus.errors import ConflictError, FormatError, LazarusError, NotFoundError, TruncatedError, UnsafeError
from lazarus.store import Store
from lazarus.volumes.volume import Volume


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    with Store(tmp_path / "store") as store:
        volume = store.volumes.create("db")
        (Path(volume.path) / "dir/sub").mkdir(parents=True)
        (Path(volume.path) / "dir/a").write_text("a\n")
        (Path(volume.path) / "dir/link").symlink_to("a")
        yield volume


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def file(name: str, data: bytes = b"evil") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), data


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def import_(volume: Volume, data: bytes) -> int:
    fd = os.memfd_create("tar")
    with open(fd, "r+b") as source:
        source.write(data)
        source.seek(0)
        return volume.import_(source)


def test_copies(volume: Volume, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("from the host\n")
    volume.copy_in(str(tmp_path / "f"))
    volume.copy_in(str(tmp_path / "f"), "/dir/g")
    assert Path(volume.path, "f").read_text() == Path(volume.path, "dir/g").read_text() == "from the host\n"
    volume.copy_out("/dir", str(tmp_path / "out"))
    assert (tmp_path / "out/a").read_text() == "a\n" and os.readlink(tmp_path / "out/link") == "a"
    with pytest.raises(NotFoundError):
        volume.copy_out("/none", str(tmp_path / "x"))
    with pytest.raises(ConflictError):
        volume.copy_in(str(tmp_path / "out"), "/dir/a")
    assert not volume.fresh, "what was copied into it is what it begins with"


@pytest.mark.root
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFIFO])
def test_only_files_are_replaced(volume: Volume, tmp_path: Path, kind: int) -> None:
    """A device of the host's is nobody's copy, whether it is named or found in the directory that is."""
    os.mknod(tmp_path / "a", kind | 0o600, os.makedev(1, 3))
    (tmp_path / "way").symlink_to("a")
    (tmp_path / "b").write_text("new")
    os.mknod(Path(volume.path, "b"), kind | 0o600, os.makedev(1, 3))
    for source, target in (("/dir/a", "a"), ("/dir/a", "way"), ("/dir/link", "a"), ("/dir/a", ".")):
        with pytest.raises(ConflictError, match="a device, FIFO or socket is there"):
            volume.copy_out(source, str(tmp_path / target))
    for target in ("/b", "/"):
        with pytest.raises(ConflictError, match="a device, FIFO or socket is there"):
            volume.copy_in(str(tmp_path / "b"), target)
    for place in (tmp_path / "a", Path(volume.path, "b")):
        assert stat.S_IFMT(os.lstat(place).st_mode) == kind


def test_what_it_was(volume: Volume, tmp_path: Path) -> None:
    """Of a snapshot, whatever has become of the volume."""
    volume.snapshot("s")
    Path(volume.path, "dir/a").write_text("b\n")
    volume.copy_out("/dir/a", str(tmp_path / "was"), snapshot="s")
    volume.copy_out("/dir/a", str(tmp_path / "is"))
    assert (tmp_path / "was").read_text() == "a\n" and (tmp_path / "is").read_text() == "b\n"
    with open(tmp_path / "tar", "w+b") as out:
        volume.export(out, snapshot="s")
        out.seek(0)
        with tarfile.open(fileobj=out) as tar:
            found = tar.extractfile("dir/a")
            assert found is not None and found.read() == b"a\n"
    for call in (
        lambda: volume.copy_out("/dir", str(tmp_path / "x"), snapshot="t"),
        lambda: volume.export(1, snapshot="t"),
    ):
        with pytest.raises(NotFoundError, match="snapshot db@t: not in this store"):
            call()


def test_errors_name_it(volume: Volume, tmp_path: Path) -> None:
    volume.snapshot("s")
    (tmp_path / "f").write_text("f")
    cases: list[tuple[Callable[[], None], str]] = [
        (lambda: volume.copy_out("/none", str(tmp_path)), "cp: db:/none: No such file or directory"),
        (lambda: volume.copy_out("/none", str(tmp_path), snapshot="s"), "cp: db@s:/none: No such file or directory"),
        (lambda: volume.copy_out("/dir/a/", str(tmp_path)), "cp db:/dir/a/: not a directory"),
        (lambda: volume.copy_in(str(tmp_path / "f"), "/none/"), "cp: db:/none/: no such directory"),
        (lambda: volume.copy_in(str(tmp_path / "f"), "/none/f"), "cp: db:/none: No such file or directory"),
        (lambda: volume.copy_in(str(tmp_path / "none"), "/"), f"cp: {tmp_path}/none: No such file or directory"),
        (lambda: volume.copy_in(str(tmp_path), "/dir/a"), "cp: db:/dir/a: a directory cannot replace a file"),
    ]
    for call, text in cases:
        with pytest.raises(LazarusError) as caught:
            call()
        assert str(caught.value) == text


def test_paths_do_not_leave_it(volume: Volume, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("safe")
    (tmp_path / "victim").write_text("evil")
    for name, target in (("abs", str(outside)), ("up", f"{'../' * 20}{outside}"), ("file", f"{outside}/victim")):
        os.symlink(target, f"{volume.path}/{name}")
    for target in ("/abs", "/abs/victim", "/up", "/up/victim", "/../../../outside/victim", "/file"):
        try:
            volume.copy_in(str(tmp_path / "victim"), target)
        except LazarusError:
            continue
    assert (outside / "victim").read_text() == "safe" and os.listdir(outside) == ["victim"]
    for source in ("/abs/victim", "/up/victim", f"/..{outside}/victim"):
        with pytest.raises(NotFoundError):
            volume.copy_out(source, str(tmp_path / "stolen"))


def test_there_and_back(volume: Volume, tmp_path: Path) -> None:
    os.link(f"{volume.path}/dir/a", f"{volume.path}/dir/same")
    with open(f"{volume.path}/holes", "wb") as holes:
        holes.truncate(1 << 20)
    os.chmod(volume.path, 0o750)
    with open(tmp_path / "out.tar", "wb") as out:
        size = volume.export(out)
    data = (tmp_path / "out.tar").read_bytes()
    assert size == len(data) < 1 << 20
    for packed in (data, gzip.compress(data), data + bytes(10240)):
        other = volume.store.volumes.create()
        assert import_(other, packed) == 7
        assert sorted(os.listdir(f"{other.path}/dir")) == ["a", "link", "same", "sub"]
        assert os.path.samefile(f"{other.path}/dir/a", f"{other.path}/dir/same")
        assert os.stat(f"{other.path}/holes").st_blocks == 0 and os.stat(other.path).st_mode & 0o777 == 0o750
    with volume.store.volumes.create("empty") and open(tmp_path / "empty.tar", "wb") as out:
        volume.store.volumes.get("empty").export(out)
    with tarfile.open(tmp_path / "empty.tar") as tar:
        assert tar.getnames() == ["."]


@pytest.mark.parametrize(
    "members",
    [
        [file("../victim")],
        [file("dir/../../victim")],
        [file("/../victim")],
        [link("dir/way", ".."), file("dir/way/../victim")],
        [link("way", "{out}"), file("way/victim")],
        [link("way", "{out}/victim"), file("way/x")],
        [link("hard", "../../victim", tarfile.LNKTYPE)],
        [link("hard", "{out}/victim", tarfile.LNKTYPE), file("hard")],
        [link("way", "{out}"), link("hard", "way/victim", tarfile.LNKTYPE)],
    ],
    ids=lambda members: "-".join(f"{info.name}" for info, _ in members),
)
def test_a_tar_does_not_leave_it(volume: Volume, tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for place in (outside / "victim", Path(volume.directory) / "victim", tmp_path / "victim"):
        place.write_text("safe")
    for info, _ in members:
        info.linkname = info.linkname.replace("{out}", str(outside))
    with pytest.raises((UnsafeError, OSError)):
        import_(volume, tar_of(*members))
    for place in (outside / "victim", Path(volume.directory) / "victim", tmp_path / "victim"):
        assert place.read_text() == "safe" and place.stat().st_nlink == 1
    assert os.listdir(outside) == ["victim"] and sorted(os.listdir(volume.directory)) == ["data", "victim"]


def test_absolute_names_are_inside(volume: Volume) -> None:
    import_(volume, tar_of(file("/etc/passwd", b"inside")))
    assert Path(volume.path, "etc/passwd").read_text() == "inside"


def test_what_is_in_the_way(volume: Volume) -> None:
    import_(volume, tar_of(file("dir/a", b"new"), link("dir/link", "b")))
    assert Path(volume.path, "dir/a").read_text() == "new" and os.readlink(f"{volume.path}/dir/link") == "b"
    with pytest.raises(ConflictError, match=r"meet: .*dir") as caught:
        import_(volume, tar_of(file("dir", b"new")))
    assert "\n" not in str(caught.value) and Path(volume.path, "dir/a").exists()


@pytest.mark.parametrize(
    "data",
    [b"no tar at all" * 99, gzip.compress(b"x" * 999), tar_of(file("f", b"x" * 999))[:900]],
    ids=["words", "gzip of words", "cut"],
)
def test_no_tar(volume: Volume, data: bytes) -> None:
    with pytest.raises((FormatError, TruncatedError)):
        import_(volume, data)
    assert os.listdir(volume.store.paths.staging) == []


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_tar_that_is_cut_off(volume: Volume, pack: Callable[[bytes], bytes]) -> None:
    """Files that came whole are there, nothing of others is, and what those were to replace is."""
    noise = os.urandom(3 << 20)
    for name in ("new", "dir/a"):
        data = pack(tar_of(file("whole", b"whole"), file(name, noise)))
        with pytest.raises(TruncatedError):
            import_(volume, data[: len(data) // 2])
        assert sorted(os.listdir(volume.path)) == ["dir", "whole"]
        assert sorted(os.listdir(f"{volume.path}/dir")) == ["a", "link", "sub"]
        assert Path(volume.path, "dir/a").read_text() == "a\n" and Path(volume.path, "whole").read_bytes() == b"whole"


def test_a_removed_one(volume: Volume, tmp_path: Path) -> None:
    volume.remove()
    for act in (lambda: import_(volume, tar_of(file("f"))), lambda: volume.copy_out("/", str(tmp_path / "out"))):
        with pytest.raises(NotFoundError):
            act()
