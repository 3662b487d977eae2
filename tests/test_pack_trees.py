"""pack_tree and unpack from Python: through pipes, against GNU tar, at mount points; what pack promises a caller."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance import changes, overlay, scenario
from conformance.trees import differences, read_tree
from test_pack_conformance import build_lower

import lazarus
from lazarus import errors
from lazarus._native import pack, union_tar

pytestmark = pytest.mark.root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    build_lower(root)
    scenario.age(root)
    return root


@pytest.fixture
def tree_fd(tree: Path) -> Iterator[int]:
    fd = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def unpack_into(directory: Path, archive: Path, **options: bool) -> int:
    directory.mkdir(exist_ok=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with open(archive, "rb") as file:
            return pack.unpack(file.fileno(), fd, **options)
    finally:
        os.close(fd)


def pack_into(archive: Path, fd: int, **options: object) -> int:
    with open(archive, "wb") as out:
        return pack.pack_tree(fd, out.fileno(), **options)  # type: ignore[arg-type]


def test_through_a_pipe(tree: Path, tree_fd: int, tmp_path: Path) -> None:
    """Both at once on two threads: neither holds the interpreter while it waits for the other."""
    reader, writer = os.pipe()
    copy = tmp_path / "copy"
    copy.mkdir()
    copy_fd = os.open(copy, os.O_RDONLY | os.O_DIRECTORY)

    def send() -> None:
        pack.pack_tree(tree_fd, writer)
        os.close(writer)

    thread = threading.Thread(target=send)
    thread.start()
    entries = pack.unpack(reader, copy_fd)
    thread.join()
    os.close(reader)
    os.close(copy_fd)
    assert differences(read_tree(tree), read_tree(copy)) == []
    assert entries == len(read_tree(tree))
    assert (copy / "tmp/sparse").stat().st_blocks * 512 < 1 << 20


def test_gnu_tar_reads_it(tree: Path, tree_fd: int, tmp_path: Path) -> None:
    archive, copy = tmp_path / "tree.tar", tmp_path / "copy"
    size = pack_into(archive, tree_fd)
    assert size == archive.stat().st_size
    copy.mkdir()
    command = ["tar", "-C", str(copy), "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", str(archive)]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    assert said.stderr == ""
    assert differences(read_tree(tree), read_tree(copy)) == []


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_what_gnu_tar_writes(form: str, tree: Path, tmp_path: Path) -> None:
    archive, copy = tmp_path / "tree.tar", tmp_path / "copy"
    options = ["--xattrs", "--xattrs-include=*"] if form == "pax" else []
    command = ["tar", "-C", str(tree), f"--format={form}", "--sparse", "--numeric-owner", *options]
    subprocess.run([*command, "-cf", str(archive), "."], check=True)
    unpack_into(copy, archive)
    expected, found = read_tree(tree), read_tree(copy)
    if form == "gnu":  # whole seconds, no xattrs
        expected = {p: n._replace(mtime_ns=n.mtime_ns // 10**9 * 10**9, xattrs=()) for p, n in expected.items()}
    assert differences(expected, found) == []


def test_tarfile_agrees_on_names(tree_fd: int, tmp_path: Path) -> None:
    archive = tmp_path / "tree.tar"
    pack_into(archive, tree_fd, root_name=b"top")
    with tarfile.open(archive, "r:") as tar:
        names = [os.fsencode(member.name) for member in tar]
    assert names[0] == b"top" and all(name.startswith(b"top/") for name in names[1:])
    assert b"top/tmp/\xff\xfe name" in names
    siblings: dict[bytes, list[bytes]] = {}
    for name in names[1:]:
        siblings.setdefault(os.path.dirname(name), []).append(os.path.basename(name))
    assert all(group == sorted(group) for group in siblings.values())


def test_same_tree_same_bytes(tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    scenario.copy_tree(tree, other)
    archives = []
    for root in (tree, other):
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        pack_into(tmp_path / "tar", fd)
        os.close(fd)
        archives.append((tmp_path / "tar").read_bytes())
    assert archives[0] == archives[1]


def test_times_are_clamped(tree: Path, tree_fd: int, tmp_path: Path) -> None:
    changes.utime("/etc/hosts", 5_000_000_000).apply(str(tree))
    pack_into(tmp_path / "tar", tree_fd, max_mtime=1_000_000_000)
    with tarfile.open(tmp_path / "tar", "r:") as tar:
        times = {member.name: member.pax_headers.get("mtime", str(member.mtime)) for member in tar}
    assert float(times.pop("etc/hosts")) == 5
    assert {float(time) for time in times.values()} == {1_000_000_000}


def test_packing_the_upper_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    played = [changes.rename("/usr", "/opt"), changes.write("/etc/new", b"x"), changes.link("/etc/new", "/srv/new")]
    scenario.run(tmp_path, build_lower, played)
    first = (tmp_path / "layer.tar").read_bytes()
    index, objects = tmp_path / "store/base/index", tmp_path / "store/objects"
    with open(tmp_path / "again.tar", "wb") as out:
        pack.pack_upper(tmp_path / "upper", index, [index], objects, out.fileno())
    assert (tmp_path / "again.tar").read_bytes() == first


def test_other_mounts_stay_out(tree: Path, tmp_path: Path) -> None:
    """Directories and files that something is mounted on; an overlay's files have other devices and are no mounts."""
    for name in ("upper", "work", "merged", "shm"):
        (tmp_path / name).mkdir()
    (tmp_path / "shm/resolv.conf").write_bytes(b"host's")

    def inside() -> tuple[list[str], list[str]]:
        merged = tmp_path / "merged"
        overlay.mount_overlay(str(tree), str(tmp_path / "upper"), str(tmp_path / "work"), str(merged))
        overlay.mount("tmpfs", "tmpfs", str(merged / "srv"))
        (merged / "srv/hidden").write_bytes(b"x")
        overlay.mount("none", str(tmp_path / "shm/resolv.conf"), str(merged / "etc/hosts"), flags=0x1000)
        found = []
        for cross in (False, True):
            fd = os.open(merged, os.O_RDONLY | os.O_DIRECTORY)
            pack_into(tmp_path / "tar", fd, cross_mounts=cross)
            os.close(fd)
            with tarfile.open(tmp_path / "tar", "r:") as tar:
                found.append(tar.getnames())
        return found[0], found[1]

    alone, crossing = overlay.in_mount_namespace(inside)
    assert "srv" in alone and "srv/hidden" not in alone and "srv/app.txt" not in alone
    assert "etc/hosts" not in alone and "etc/passwd" in alone and "usr/lib/large" in alone
    assert "srv/hidden" in crossing and "etc/hosts" in crossing


def test_options_of_unpack(tree_fd: int, tmp_path: Path) -> None:
    archive = tmp_path / "tree.tar"
    pack_into(archive, tree_fd)
    unpack_into(tmp_path / "plain", archive, keep_owner=False, keep_xattrs=False)
    assert (tmp_path / "plain/tmp/owned").stat().st_uid == 0
    assert os.listxattr(tmp_path / "plain/srv/app.txt") == []
    (tmp_path / "target/etc/passwd").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        unpack_into(tmp_path / "target", archive, no_replace_directory=True)


def test_nobody_gets_the_rights_of_another(tmp_path: Path) -> None:
    """Set-ID bits and capabilities are their owner's: where the owner does not come along, neither do they."""
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    tree, upper = tmp_path / "tree", tmp_path / "upper"
    tree.mkdir()
    upper.mkdir()
    (tree / "d").mkdir(mode=0o2755)
    for name in ("ids", "capable"):
        (tree / name).write_text(name)
        os.chown(tree / name, 1000, 1000)
    (tree / "ids").chmod(0o6755)
    (tree / "d").chmod(0o2755)
    os.setxattr(tree / "capable", "security.capability", capability)
    fd = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    pack_into(tmp_path / "tree.tar", fd)
    os.close(fd)
    for keep in (False, True):
        unpack_into(tmp_path / f"plain{keep}", tmp_path / "tree.tar", keep_owner=keep)
        with lazarus.LayerStack(upper=upper) as stack, open(tmp_path / "tree.tar", "rb") as file:
            union_tar.unpack(stack, file.fileno(), "/", keep_owner=keep)
            for found in (os.stat(tmp_path / f"plain{keep}/ids"), stack.stat("ids")):
                assert (found.st_uid, stat.S_IMODE(found.st_mode)) == ((1000, 0o6755) if keep else (0, 0o755))
            assert stat.S_IMODE(stack.stat("d").st_mode) == 0o2755
            names = os.listxattr(tmp_path / f"plain{keep}/capable"), map(os.fsdecode, stack.listxattr("capable"))
            assert ["security.capability" in some for some in names] == [keep, keep]


def test_errors_name_the_object(tree: Path, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    (upper / ".wh.x").write_bytes(b"")
    stored = scenario.store(tree, tmp_path / "store")
    with open(tmp_path / "out", "wb") as out:
        with pytest.raises(errors.UnsupportedError, match=r"/\.wh\.x: a layer cannot hold this name"):
            pack.pack_upper(upper, stored.index, [stored.index], stored.objects, out.fileno())
        with pytest.raises(ValueError, match="1 layers, 0 were given"):
            pack.pack_upper(upper, stored.index, [], stored.objects, out.fileno())
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(errors.TruncatedError, match="empty"):
        pack.diff(upper, tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        pack.diff(tmp_path / "nowhere", None)
    with open("/dev/full", "wb") as full, pytest.raises(OSError) as caught:
        fd = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
        try:
            pack.pack_tree(fd, full.fileno())
        finally:
            os.close(fd)
    assert caught.value.errno == 28


@pytest.mark.root
def test_block_level_files_need_their_maps(tree: Path, tmp_path: Path) -> None:
    """What becomes of whole ones is tests/c/test_lz_diff_blocks.c."""
    (tmp_path / "upper/etc").mkdir(parents=True)
    (tmp_path / "maps").mkdir()
    (tmp_path / "upper/etc/passwd").write_bytes(b"")
    os.setxattr(tmp_path / "upper/etc/passwd", "trusted.overlay.lazarus", b"0123456789abcdef" * 2)
    stored = scenario.store(tree, tmp_path / "store")
    for maps, found in ((None, "there is no directory of block maps"), (tmp_path / "maps", "block map 0123.* is gone")):
        with open(tmp_path / "out", "wb") as out, pytest.raises(errors.CorruptError, match=f"/etc/passwd.*{found}"):
            pack.pack_upper(tmp_path / "upper", stored.index, [stored.index], stored.objects, out.fileno(), maps=maps)
        with pytest.raises(errors.CorruptError, match=f"/etc/passwd.*{found}"):
            pack.diff(tmp_path / "upper", stored.index, [stored.index], stored.objects, maps=maps)
    changed = {change.path: change for change in pack.diff(tmp_path / "upper", stored.index)}
    assert changed[b"/etc/passwd"].content
