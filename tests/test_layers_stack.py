"""Stacks: chain IDs, and a cache that may be lost, torn or made twice."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_helpers import add_image, layer_tar, make_tar

from lazarus.errors import NotFoundError
from lazarus.layers.stack import chain_id
from lazarus.store import Store
from lazarus.terms import DiffID


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


def test_chain_ids_are_those_of_the_specification() -> None:
    """OCI image-spec, config.md: ChainID(L0|...|Ln) = Digest(ChainID(L0|...|Ln-1) + " " + DiffID(Ln))."""
    a, b, c = (DiffID("sha256:" + digit * 64) for digit in "abc")
    assert chain_id([a]) == a
    ab = "sha256:" + hashlib.sha256(f"{a} {b}".encode()).hexdigest()
    assert chain_id([a, b]) == ab
    assert chain_id([a, b, c]) == "sha256:" + hashlib.sha256(f"{ab} {c}".encode()).hexdigest()
    assert chain_id([]) == "sha256:" + hashlib.sha256(b"").hexdigest()


def test_a_stack_is_the_merge_of_its_layers(store: Store) -> None:
    diff_ids = add_image(store, layer_tar("a"), make_tar({"a/.wh.0": b"", "a/1": b"changed"}))
    stack = store.stacks.open(diff_ids)
    assert stack.diff_ids == tuple(diff_ids) and stack.chain_id == chain_id(diff_ids)
    assert stack.layer_index_paths == tuple(store.layers.get(diff_id).index_path for diff_id in diff_ids)
    with stack.index() as index:
        entries = {entry.path: entry for entry in index}
        assert index.layers == [diff_id.raw for diff_id in diff_ids]
    assert b"a/0" not in entries and entries[b"a/1"].size == 7 and b"a/2" in entries
    with open(stack.image_path, "rb") as image:
        image.seek(1024)
        assert image.read(4) == bytes.fromhex("e2e1f5e0")  # EROFS_SUPER_MAGIC_V1
    assert os.listdir(store.paths.staging) == []


@pytest.mark.root
def test_the_attributes_of_the_root(store: Store, tmp_path: Path) -> None:
    """They are known from the row, after a build and after none, and a directory can be given them."""
    headers = {
        "SCHILY.xattr.user.note": "text",
        "SCHILY.xattr.user.trusted.overlay.x": "z",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "mtime": "7.000000009",
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        entry = tarfile.TarInfo(".")
        entry.type, entry.mode, entry.uid, entry.gid, entry.pax_headers = tarfile.DIRTYPE, 0o1711, 3, 4, headers
        tar.addfile(entry)
    diff_ids = add_image(store, out.getvalue())
    xattrs = {
        "user.note": b"text".hex(),
        "user.trusted.overlay.x": b"z".hex(),
        "trusted.overlay.overlay.opaque": b"y".hex(),
    }
    for _ in range(2):
        assert store.stacks.open(diff_ids).root == (0o1711, 3, 4, 7_000_000_009, xattrs)
    upper = tmp_path / "upper"
    upper.mkdir()
    store.stacks.open(diff_ids).root.apply(str(upper))
    status = upper.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o1711, 3, 4)
    assert status.st_mtime_ns == 7_000_000_009
    assert {name: os.getxattr(upper, name).hex() for name in os.listxattr(upper)} == xattrs


def test_no_layers_are_an_empty_root(store: Store) -> None:
    with store.stacks.open([]).index() as index:
        assert [entry.path for entry in index] == [b""]


def test_opening_again_reads_nothing(store: Store) -> None:
    diff_ids = add_image(store, layer_tar("a"), layer_tar("b"))
    first = os.stat(store.stacks.open(diff_ids).image_path)
    again = os.stat(store.stacks.open(diff_ids).image_path)
    assert (first.st_ino, first.st_mtime_ns) == (again.st_ino, again.st_mtime_ns)
    best = min(_seconds(lambda: store.stacks.open(diff_ids)) for _ in range(50))
    assert best < 0.001, f"{best * 1e6:.0f} us"


def _seconds(work: object) -> float:
    assert callable(work)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@pytest.mark.parametrize("file", ["index", "metadata.erofs"])
@pytest.mark.parametrize("how", ["missing", "truncated", "zeros after a power cut", "directory gone", "row gone"])
def test_a_torn_stack_is_built_again(store: Store, file: str, how: str) -> None:
    diff_ids = add_image(store, layer_tar("a"), layer_tar("b"))
    stack = store.stacks.open(diff_ids)
    contents = {name: Path(stack.directory, name).read_bytes() for name in ("index", "metadata.erofs")}
    path = f"{stack.directory}/{file}"
    if how == "missing":
        os.unlink(path)
    elif how == "truncated":
        os.truncate(path, os.stat(path).st_size - 1)
    elif how == "directory gone":
        os.rename(stack.directory, f"{store.paths.trash}/x")
    elif how == "row gone":
        with store.catalogue.write() as connection:
            connection.execute("DELETE FROM stacks")
    else:  # sizes are right, blocks never reached the disk
        size = os.stat(path).st_size
        Path(path).write_bytes(bytes(size))
        with store.catalogue.write() as connection:
            connection.execute("UPDATE stacks SET boot_id='the boot before'")
    again = store.stacks.open(diff_ids)
    assert {name: Path(again.directory, name).read_bytes() for name in contents} == contents
    assert list(store.check()) == []


def test_after_another_boot_it_is_checked_once_and_kept(store: Store) -> None:
    diff_ids = add_image(store, layer_tar("a"))
    inode = os.stat(store.stacks.open(diff_ids).image_path).st_ino
    with store.catalogue.write() as connection:
        connection.execute("UPDATE stacks SET boot_id='the boot before'")
    assert os.stat(store.stacks.open(diff_ids).image_path).st_ino == inode
    row = store.catalogue.read().execute("SELECT boot_id FROM stacks").fetchone()
    assert row[0] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_made_by_several_at_once_it_is_one(store: Store) -> None:
    diff_ids = add_image(store, *(layer_tar(str(number)) for number in range(5)))
    failures: list[BaseException] = []

    def build() -> None:
        try:
            with Store(store.paths.root) as mine, mine.stacks.open(diff_ids).index() as index:
                assert len(index.layers) == 5
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert os.listdir(store.paths.stacks) == [chain_id(diff_ids).hex]
    assert os.listdir(store.paths.staging) == []
    assert list(store.check()) == []


def test_a_layer_that_is_not_there(store: Store) -> None:
    (diff_id,) = add_image(store, layer_tar("a"))
    missing = DiffID("sha256:" + 64 * "2")
    with pytest.raises(NotFoundError, match=f"layer {missing}: not in this store"):
        store.stacks.open([diff_id, missing])
    assert os.listdir(store.paths.stacks) == []
