"""lookup, lookup_many, layer_of and entries: one answer however it is asked for, and what no name can be."""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from union_helpers import APP, BASE, BIG, TIME, layers_of

import lazarus
from lazarus._native.index import Index
from lazarus._native.lookup import ROW_FIELDS
from lazarus.errors import NotFoundError, UnsupportedError
from lazarus.layers.layer import Layer

numpy = pytest.importorskip("numpy")


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Layer]]:
    with lazarus.Store(tmp_path_factory.mktemp("lookup") / "store") as store:
        yield list(layers_of(store, [BASE, APP]))


@pytest.fixture(params=["image", "image below a directory", "image over a directory", "image under an upper"])
def stack(request: pytest.FixtureRequest, layers: list[Layer], tmp_path: Path) -> Iterator[lazarus.LayerStack]:
    """The same names by the fast way and by the walk."""
    (tmp_path / "empty").mkdir()
    sources: list[object] = list(layers)
    upper = None
    if request.param == "image below a directory":
        sources.append(tmp_path / "empty")
    elif request.param == "image over a directory":
        sources.insert(0, tmp_path / "empty")
    elif request.param == "image under an upper":
        upper = tmp_path / "empty"
    with lazarus.LayerStack(sources, upper=upper) as opened:
        yield opened


def test_what_a_name_is(stack: lazarus.LayerStack, layers: list[Layer]) -> None:
    first = stack.layers.index(layers[0])
    passwd = stack.lookup(b"/etc/passwd")
    assert passwd is not None
    assert (passwd.kind, passwd.size, passwd.layer, passwd.data_layer) == ("file", 9, first + 1, first + 1)
    assert passwd.digest == hashlib.sha256(b"root\nbob\n").digest()
    assert (passwd.mode, passwd.mtime_ns, passwd.link_count) == (0o100644, TIME * 10**9, 1)
    env, env2 = stack.lookup("usr/bin/env"), stack.lookup(Path("/usr/bin/env2"))
    assert env is not None and env2 is not None
    assert (env.mode, env.uid, env.size, env.link_count, env.layer) == (0o104755, 0, len(BIG), 2, first)
    assert (env.device, env.number) == (env2.device, env2.number) != (passwd.device, passwd.number)
    null, fifo, link, root = (stack.lookup(name) for name in ("null", "fifo", "bin", "/"))
    assert null is not None and fifo is not None and link is not None and root is not None
    assert (null.kind, null.major, null.minor, null.digest) == ("char", 1, 3, None)
    assert (fifo.kind, link.kind, link.size, root.kind) == ("fifo", "symlink", 7, "directory")
    followed = stack.lookup("bin", follow=True)
    assert followed is not None and (followed.kind, followed.number) == (
        "directory",
        stack.lookup("usr/bin").number,  # type: ignore[union-attr]
    )
    assert "file" in repr(passwd)


def test_what_is_not_there(stack: lazarus.LayerStack) -> None:
    for path in (
        b"", "etc/gone", "var/lib/old", "nothing", "/no/such/thing", "etc/passwd/x", "etc/passwd/", "fifo/x",
        "usr/bin/en", "usr/bin/env22", "etc/.wh.gone", "var/lib/.wh..wh..opq", "n" * 255,
    ):  # fmt: skip
        assert stack.lookup(path) is None, path
    assert stack.lookup("dangling", follow=True) is None


@pytest.mark.parametrize(
    ("path", "follow", "number"),
    [
        (b"etc/\0", False, errno.EINVAL),
        (b"\0", False, errno.EINVAL),
        (b"etc/passwd\0", False, errno.EINVAL),
        ("n" * 256, False, errno.ENAMETOOLONG),
        ("etc/" + "n" * 256, False, errno.ENAMETOOLONG),
        ("/" * 4096, False, errno.ENAMETOOLONG),
        ("etc/" * 1024, False, errno.ENAMETOOLONG),
        ("loop", True, errno.ELOOP),
        ("loop/x", False, errno.ELOOP),
    ],
)
def test_what_no_name_can_be(stack: lazarus.LayerStack, path: str | bytes, follow: bool, number: int) -> None:
    with pytest.raises(OSError, match=r".") as caught:
        stack.lookup(path, follow=follow)
    assert (caught.value.errno, caught.value.filename) == (number, path)
    row = stack.lookup_many([path], follow=follow)[0]
    assert (row["error"], row["layer"], row["entry"], row["kind"], row["mode"]) == (number, -1, -1, 0, 0)


SPELLINGS = (
    "/etc/passwd", "etc//passwd", "./etc/./passwd", "etc/../etc/passwd", "../../etc/passwd", "bin/../../etc/passwd",
    "//etc/passwd", "away",
)  # fmt: skip


def test_spellings(stack: lazarus.LayerStack) -> None:
    expected = stack.lookup("etc/passwd")
    assert expected is not None
    for path in SPELLINGS:
        found = stack.lookup(path, follow=True)
        assert found is not None and found.number == expected.number, path
    assert stack.layer_of(SPELLINGS, follow=True).tolist() == [expected.layer] * len(SPELLINGS)
    assert stack.lookup("//etc") is not None and stack.lookup("///srv//") is not None and stack.lookup("//") is not None
    for path in ("bin/env", "/bin//env", "usr/bin/../bin/env"):
        assert stack.lookup(path).size == len(BIG), path  # type: ignore[union-attr]


def every_name(stack: lazarus.LayerStack) -> list[bytes]:
    return [b"/", *(entry.path for _, first, second in stack.walk() for entry in [*first, *second])]


@pytest.mark.parametrize("follow", [False, True])
def test_a_batch_is_many_lookups(stack: lazarus.LayerStack, follow: bool) -> None:
    paths = [*every_name(stack), b"nothing", b"etc/gone", b"bin/env", b"no/such/parent", b"etc/passwd/x", b""] * 40
    rows = stack.lookup_many(paths, follow=follow)
    for path, row in zip(paths, rows, strict=True):
        try:
            info = stack.lookup(path, follow=follow)
        except OSError as error:
            assert row["error"] == error.errno
            continue
        if info is None:
            assert row["error"] in (errno.ENOENT, errno.ENOTDIR) and row["layer"] == -1
            continue
        assert row["error"] == 0
        for name in ("entry", "size", "uid", "gid", "layer", "mode"):
            assert row[name] == getattr(info, name), (path, name)
        assert row["link_count"] == info.link_count, path
        assert int(row["mtime"]) * 10**9 + int(row["mtime_nsec"]) == info.mtime_ns
        assert (bytes(row["digest"]) if row["has_digest"] else None) == info.digest
    packed = numpy.frombuffer(b"".join(paths), "u1")
    offsets = numpy.cumsum([0, *(len(path) for path in paths)])
    assert (stack.lookup_many(packed, offsets, follow=follow) == rows).all()
    assert (stack.lookup_many(b"".join(paths), offsets, follow=follow) == rows).all()
    assert stack.layer_of(b"".join(paths), offsets, follow=follow).tolist() == rows["layer"].tolist()


def test_batches_of_any_form(stack: lazarus.LayerStack) -> None:
    paths = ["/etc/passwd", b"usr", Path("srv/app")]
    rows = stack.lookup_many(paths)
    assert (rows["error"] == 0).all()
    assert (stack.lookup_many(tuple(paths)) == rows).all()
    out = numpy.empty(3, rows.dtype)
    assert stack.lookup_many(paths, out=out) is out and (out == rows).all()
    assert stack.lookup_many([]).shape == (0,)
    assert stack.lookup_many(b"", numpy.zeros(1, numpy.uint64)).shape == (0,)
    assert stack.lookup_many(b"", [0, 0])["error"].tolist() == [errno.ENOENT]


def test_batches_that_are_none(stack: lazarus.LayerStack) -> None:
    row = numpy.dtype(list(ROW_FIELDS))
    assert row.itemsize == 88
    with pytest.raises(ValueError, match="offsets"):
        stack.lookup_many(b"etc", [0, 4])
    with pytest.raises(ValueError, match="offsets"):
        stack.lookup_many(b"etc", [2, 1, 3])
    for offsets in ([], [0.0, 3.0], [[0, 3]]):
        with pytest.raises(ValueError, match="row of whole"):
            stack.lookup_many(b"etc", offsets)
    for path in ("etc", b"etc", Path("etc")):
        with pytest.raises(TypeError, match="not one path"):
            stack.lookup_many(path)
    with pytest.raises(ValueError, match="offsets"):
        stack.lookup_rows(b"etc", numpy.zeros(2, "u8"), numpy.empty(3, row))
    with pytest.raises(ValueError, match="expected"):
        stack.lookup_many(["etc"], out=numpy.empty(2, row))
    with pytest.raises(ValueError, match="expected"):
        stack.lookup_many(["etc"], out=numpy.empty(1, "u8"))
    with pytest.raises(ValueError, match="rows for 2"):
        stack.lookup_rows(["etc"], None, numpy.empty(2, row))
    with pytest.raises((BufferError, ValueError)):
        stack.lookup_rows(["etc"], None, bytes(88))
    with pytest.raises(TypeError):
        stack.lookup_many([3])
    with pytest.raises(TypeError):
        stack.lookup(3)  # type: ignore[arg-type]


def test_entries_are_the_mapped_index(layers: list[Layer]) -> None:
    with lazarus.LayerStack(layers) as stack:
        rows = stack.entries
        paths = every_name(stack)
        found = stack.lookup_many(paths)
        info = stack.lookup("usr/bin/env")
    assert rows.dtype.itemsize == 128 and not rows.flags.writeable and not rows.flags.owndata
    assert sorted(found["entry"]) == list(range(len(rows)))
    assert (rows["size"][found["entry"]] == found["size"]).all()
    assert (rows["layer"][found["entry"]] == found["layer"]).all()
    assert info is not None and bytes(rows[info.entry]["digest"]) == info.digest  # the view outlives the stack


def test_entries_need_one_index(layers: list[Layer], tmp_path: Path) -> None:
    with lazarus.LayerStack([*layers, tmp_path]) as stack, pytest.raises(UnsupportedError, match="layers"):
        _ = stack.entries


def test_two_stacks_share_one_index(layers: list[Layer]) -> None:
    with lazarus.LayerStack(layers) as one, lazarus.LayerStack(layers) as two:
        assert one._index is two._index
        with lazarus.LayerStack(layers[:1]) as three:
            assert three._index is not one._index
        alive = weakref.ref(one._index)
    assert one._index is None
    del three
    gc.collect()
    assert alive() is None, "closing gives the mapping back"


def test_an_index_that_is_bad(layers: list[Layer], tmp_path: Path) -> None:
    """The stack's index in the store is a cache: a torn one is merged anew, and says nothing."""
    with lazarus.Store(tmp_path / "store") as store:
        mine = layers_of(store, [BASE, APP])
        path = Path(store.stacks.open([layer.diff_id for layer in mine]).index_path)
        good = path.read_bytes()
        for bad in (b"", good[:100], good[:-1], good[:5000] + b"x" + good[5001:]):
            path.write_bytes(bad)
            with lazarus.LayerStack(mine) as stack:
                assert stack.lookup("srv/app") is not None and len(stack.entries) == len(Index(mine[0].index_path)) + 1
            gc.collect()
        os.unlink(mine[1].index_path)
        with pytest.raises(FileNotFoundError):
            lazarus.LayerStack(mine)


def test_an_index_closed_by_others(layers: list[Layer]) -> None:
    with lazarus.LayerStack(layers) as stack:
        names = stack.listdir("/etc")
        assert stack._index is not None
        stack._index.close()
        assert stack.listdir("/etc") == names and stack.lookup("/usr/bin/env") is not None
    gc.collect()


def test_lookups_of_many_threads(stack: lazarus.LayerStack) -> None:
    paths = [*every_name(stack), b"no/such", b"bin/env"]
    expected = stack.lookup_many(paths)
    failures: list[object] = []

    def ask() -> None:
        for _ in range(50):
            if not (stack.lookup_many(paths) == expected).all() or stack.lookup("bin/env") is None:
                failures.append(1)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_closed(layers: list[Layer]) -> None:
    stack = lazarus.LayerStack(layers)
    assert not stack.closed
    stack.close()
    stack.close()
    assert stack.closed
    with pytest.raises(ValueError, match="closed"), stack:
        pass
    for question in (
        lambda: stack.lookup("etc"), lambda: stack.lookup_many(["etc"]), lambda: stack.lookup_many(b"", [0, 0]),
        lambda: stack.stat("etc"), lambda: stack.listdir(), lambda: stack.open("etc/passwd"), lambda: stack.mkdir("x"),
        lambda: stack.stats, lambda: stack.settle(), lambda: next(stack.walk()), stack.diff, lambda: stack.entries,
    ):  # fmt: skip
        with pytest.raises(ValueError, match="closed"):
            question()
    with pytest.raises(TypeError, match="already"):
        stack.__init__(layers)  # type: ignore[misc]


def test_sources(layers: list[Layer], tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NotFoundError, match="missing"):
        lazarus.LayerStack([*layers, tmp_path / "missing"])
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotFoundError, match="not a directory"):
        lazarus.LayerStack([tmp_path / "file"])
    with pytest.raises(TypeError, match="int"):
        lazarus.LayerStack([3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="rung"):
        lazarus.LayerStack(layers, rung="ladder")
    with pytest.raises(OSError, match="blocks"):
        lazarus.LayerStack(layers, block_size=5000)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before, "descriptors leaked"
