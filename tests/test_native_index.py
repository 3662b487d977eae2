"""The Python door of the index: every field, every error, the merge, and views that outlive the object."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from lazarus.errors import CorruptError, FormatError, LimitError, TruncatedError, UnsafeError

native = pytest.importorskip("lazarus._native.index")
tree = pytest.importorskip("lazarus._native.tree")

DIGEST = bytes(range(32))


def sample(builder: tree.TreeBuilder) -> None:
    """A little of everything."""
    builder.add(b"./", "directory", mode=0o711, uid=1)
    builder.add(b"usr/bin/env", "file", mode=0o4755, uid=2, gid=3, mtime_ns=-1, size=9, digest=DIGEST)
    builder.link(b"usr/bin/env2", b"/usr/bin/env")
    builder.add(b"bin", "symlink", mode=0o777, target=b"usr/b\xffn", xattrs={b"user.b": b"", b"user.a": b"\0\1"})
    builder.add(b"dev/null", "char", mode=0o666, major=1, minor=3, mtime_ns=2**40)
    builder.whiteout(b"gone")
    builder.opaque(b"var")
    builder.add(b"empty", "file")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Writes a layer that a function fills and gives its path."""

    def write(name: str = "layer", fill: Callable[[tree.TreeBuilder], None] = sample) -> Path:
        builder = tree.TreeBuilder()
        fill(builder)
        builder.write(tmp_path / name)
        return tmp_path / name

    return write


def test_every_field(make: Callable[..., Path]) -> None:
    with native.Index(make()) as index:
        found = {entry.path: entry for entry in index.walk()}
        assert list(found) == [
            b"", b"bin", b"dev", b"empty", b"gone", b"usr", b"var", b"dev/null", b"usr/bin", b"usr/bin/env",
            b"usr/bin/env2",
        ]  # fmt: skip
        assert len(index) == index.entry_count == 11
        root = found[b""]
        assert (root.kind, root.mode, root.uid, root.link_count, root.flags) == ("directory", 0o40711, 1, 2 + 3, 0)
        env, env2 = found[b"usr/bin/env"], found[b"usr/bin/env2"]
        assert env._replace(number=0, path=b"") == env2._replace(number=0, path=b"")
        assert (env.link, env.link_count, env.size, env.digest, env.mtime_ns) == (env.number, 2, 9, DIGEST, -1)
        assert (env.mode, env.uid, env.gid, env.flags, env.target) == (stat.S_IFREG | 0o4755, 2, 3, 8, None)
        link = found[b"bin"]
        assert (link.kind, link.target, link.size) == ("symlink", b"usr/b\xffn", 7)
        assert list(link.xattrs.items()) == [(b"user.a", b"\0\1"), (b"user.b", b"")]
        null = found[b"dev/null"]
        assert (null.kind, null.major, null.minor, null.mtime_ns) == ("char", 1, 3, 2**40)
        assert (found[b"gone"].kind, found[b"gone"].mode) == ("whiteout", 0)
        assert (found[b"var"].flags, found[b"usr"].flags, found[b"empty"].flags) == (1 | 2, 2, 0)
        assert index.layers == [bytes(32)]
        assert list(index.objects()) == [(DIGEST, 9)]
        assert index.objects_bytes() == DIGEST + struct.pack("<Q", 9)
        for entry in index:
            assert index.find(entry.path) == entry.number
            assert index.entry(entry.number) == entry
            assert entry.number in index.children(entry.parent) or entry.number == 0
        assert [index.entry(n).path for n in index.children(index.find(b"usr/bin"))] == [
            b"usr/bin/env",
            b"usr/bin/env2",
        ]
        assert list(index.children(link.number)) == []
        for missing in (b"usr/", b"/usr", b"nothing", b"usr\0", b"usr/bin/env3"):
            assert index.find(missing) == -1


def test_numpy_sees_the_same(make: Callable[..., Path]) -> None:
    numpy = pytest.importorskip("numpy")
    from lazarus._native.entry import ENTRY_FIELDS

    index = native.Index(make())
    rows = numpy.frombuffer(index.entries_buffer, numpy.dtype(list(ENTRY_FIELDS)))
    entries = list(index)
    index.close()
    assert not rows.flags.writeable
    for row, entry in zip(rows, entries, strict=True):  # the view outlives close()
        for name in ("size", "uid", "gid", "parent", "link", "link_count", "major", "minor", "layer", "mode", "flags"):
            assert row[name] == getattr(entry, name), name
        assert int(row["mtime"]) * 10**9 + int(row["mtime_nsec"]) == entry.mtime_ns
        assert (row["path_size"], bytes(row["digest"])) == (len(entry.path), entry.digest)
        assert int(row["path_hash"]) == native.hash_path(entry.path)


def test_hash_is_xxh3() -> None:
    xxhash = pytest.importorskip("xxhash")
    for path in (b"", b"usr/bin/env", b"x" * 4095):
        assert native.hash_path(path) == xxhash.xxh3_64_intdigest(path)


def test_time_of_64_bits(make: Callable[..., Path]) -> None:
    def fill(builder: tree.TreeBuilder) -> None:
        builder.add(b"old", "file", mtime_ns=-(2**63) * 10**9)
        builder.add(b"new", "file", mtime_ns=(2**63 - 1) * 10**9 + 999_999_999)

    with native.Index(make(fill=fill)) as index:
        assert index.entry(index.find(b"old")).mtime_ns == -(2**63) * 10**9
        assert index.entry(index.find(b"new")).mtime_ns == (2**63 - 1) * 10**9 + 999_999_999


def test_opens_descriptors_and_bytes(make: Callable[..., Path]) -> None:
    path = make()
    fd = os.open(path, os.O_RDONLY)
    try:
        with native.Index(fd) as by_fd, native.Index(os.fsencode(path)) as by_bytes:
            assert list(by_fd) == list(by_bytes)
        os.fstat(fd)  # still the caller's
    finally:
        os.close(fd)


def test_closed_means_closed(make: Callable[..., Path]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    index = native.Index(make())
    walk = index.walk()
    next(walk)
    index.close()
    index.close()
    assert len(os.listdir("/proc/self/fd")) == before
    questions: list[Callable[[], object]] = [
        lambda: index.find(b""), lambda: index.entry(0), lambda: index.children(0), lambda: len(index),
        lambda: index.entry_count, lambda: index.layers, index.objects_bytes, lambda: list(index.objects()),
        lambda: index.entries_buffer, lambda: next(walk), lambda: list(index),
    ]  # fmt: skip
    for question in questions:
        with pytest.raises(ValueError, match="closed"):
            question()


def test_numbers_outside(make: Callable[..., Path]) -> None:
    with native.Index(make()) as index:
        for number in (-1, 11, 2**32, 2**62):
            with pytest.raises(IndexError):
                index.entry(number)
            with pytest.raises(IndexError):
                index.children(number)


def test_bad_files_are_named(make: Callable[..., Path], tmp_path: Path) -> None:
    good = make().read_bytes()
    bad = tmp_path / "bad"
    before = len(os.listdir("/proc/self/fd"))
    for data, kind in (
        (b"", TruncatedError),
        (good[:100], TruncatedError),
        (good[:-1], TruncatedError),
        (good + b"\0", FormatError),
        (b"x" * 5000, FormatError),
        (good[:-1] + bytes([good[-1] ^ 1]), CorruptError),
        (good[:200] + b"\1" + good[201:], CorruptError),
    ):
        bad.write_bytes(data)
        with pytest.raises(kind, match="bad: index: "):
            native.Index(bad)
        with pytest.raises(kind, match="bad: index: "):
            native.merge([make(), bad], [DIGEST, DIGEST], tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError):
        native.Index(tmp_path / "missing")
    assert len(os.listdir("/proc/self/fd")) == before


def test_merge(make: Callable[..., Path], tmp_path: Path) -> None:
    def upper(builder: tree.TreeBuilder) -> None:
        builder.whiteout(b"bin")
        builder.add(b"usr/bin/env", "file", uid=7)
        builder.opaque(b"dev")

    ids = [bytes([n]) * 32 for n in (1, 2)]
    out = tmp_path / "merged"
    assert native.merge([str(make("one")), str(make("two", upper))], ids, str(out)) == 8
    assert stat.S_IMODE(out.stat().st_mode) == 0o644 & ~_umask()
    with native.Index(out) as index:
        assert index.layers == ids
        assert [(entry.path, entry.layer, entry.link_count) for entry in index if entry.kind == "file"] == [
            (b"empty", 0, 1),
            (b"usr/bin/env", 1, 1),
            (b"usr/bin/env2", 0, 1),
        ]
        assert index.find(b"bin") == index.find(b"gone") == index.find(b"dev/null") == -1
        assert {entry.flags for entry in index} <= {0, 8}  # no mark is left
        assert index.objects_bytes() == b""


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_merge_of_nothing(tmp_path: Path) -> None:
    assert native.merge([], [], tmp_path / "scratch") == 1
    with native.Index(tmp_path / "scratch") as index:
        assert index.layers == []
        assert (index.entry(0).mode, index.entry(0).uid, index.entry(0).flags) == (0o40755, 0, 0)


def test_merge_says_what_it_needs(make: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        native.merge([make()], [b"short"], tmp_path / "out")
    with pytest.raises(ValueError, match="shorter"):
        native.merge([make()], [], tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        native.merge([make()], [DIGEST], tmp_path / "no" / "out")
    if os.path.exists("/dev/full"):
        (tmp_path / "full").symlink_to("/dev/full")
        with pytest.raises(OSError, match=r"No space|Illegal seek"):
            native.merge([make()], [DIGEST], tmp_path / "full")
        assert not (tmp_path / "full").is_symlink()


def test_builder_refuses(tmp_path: Path) -> None:
    builder = tree.TreeBuilder(max_entries=3)
    builder.add(b"a", "symlink", target=b"/etc")
    with pytest.raises(UnsafeError, match="symlink"):
        builder.add(b"a/passwd", "file")
    with pytest.raises(UnsafeError, match="symlink"):
        builder.whiteout(b"a/passwd")
    with pytest.raises(UnsafeError):
        builder.add(b"../x", "file")
    with pytest.raises(FormatError):
        builder.link(b"x", b"nothing")
    with pytest.raises(FormatError):
        builder.add(b"b\0c", "file")
    with pytest.raises(LimitError):
        builder.add(b"n" * 256, "file")
    with pytest.raises(KeyError):
        builder.add(b"x", "door")
    with pytest.raises(TypeError):
        builder.add(b"x", "file", xattrs={"user.text": b""})
    builder.add(b"b", "directory")
    with pytest.raises(LimitError, match="3 entries"):
        builder.add(b"c", "file")
    assert builder.write(tmp_path / "out") == 3


def test_clean_path() -> None:
    assert tree.clean_path(b"./usr//./bin/") == b"usr/bin"
    assert tree.clean_path(b"/") == b""
    with pytest.raises(UnsafeError, match=r"\.\."):
        tree.clean_path(b"a/../b")
