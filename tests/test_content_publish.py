"""Publishing: all or nothing, what is there stays, a retry is safe."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from store_helpers import (
    add_image,
    assert_tar,
    assert_whole,
    image_rows,
    ingest,
    layer_tar,
    object_names,
    sha256,
    tree,
)

from lazarus.content import publish as publishing
from lazarus.errors import CorruptError, FormatError, LimitError, NotFoundError, StoreError
from lazarus.store import Store
from lazarus.terms import DiffID, Digest, Limits


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


def test_nothing_is_there_before_and_all_is_there_after(store: Store) -> None:
    tar = layer_tar("a")
    with store.content.lease() as lease:
        staged = ingest(store, lease, tar, blob="gzip")
        blob = store.content.stage_blob(lease, b"{}")
        assert (blob.digest, blob.size) == (sha256(b"{}"), 2)
        assert not store.layers.has(staged.diff_id) and not store.content.has_blob(blob.digest)
        assert object_names(store) == set()
        store.content.publish(lease, blobs=[blob], layers=[staged])
        assert store.layers.has(staged.diff_id)
    assert store.content.read_blob(blob.digest) == b"{}"
    assert staged.blob is not None and store.content.has_blob(staged.blob)
    assert store.layers.find_by_blob(staged.blob) == staged.diff_id
    assert store.layers.find_by_blob(Digest(staged.diff_id)) == staged.diff_id  # it was read from the plain tar
    assert len(object_names(store)) == 5
    assert sorted(os.listdir(store.paths.layer(staged.diff_id))) == ["index", "recipe"]
    assert_tar(store, staged.diff_id, tar)
    assert_whole(store)


def test_modes_let_nobody_else_in(store: Store) -> None:
    add_image(store, layer_tar("a"))
    assert os.stat(store.paths.root).st_mode & 0o777 == 0o700
    for name in object_names(store):
        assert os.stat(f"{store.paths.objects}/{name[:2]}/{name[2:]}").st_mode & 0o7777 == 0o444


def test_twice_the_same_is_once(store: Store) -> None:
    first = add_image(store, layer_tar("a"), layer_tar("b"))
    before = tree(store.paths.root)
    inodes = {name: os.stat(f"{store.paths.root}/{name}").st_ino for name in before}
    assert add_image(store, layer_tar("a"), layer_tar("b")) == first
    assert tree(store.paths.root) == before
    assert {name: os.stat(f"{store.paths.root}/{name}").st_ino for name in before} == inodes


def test_one_layer_twice_in_one_lease(store: Store) -> None:
    (first, second) = add_image(store, layer_tar("a"), layer_tar("a"), blob="zstd")
    assert first == second
    assert_whole(store)


def test_what_two_layers_share_is_stored_once(store: Store) -> None:
    add_image(store, layer_tar("a"))
    add_image(store, layer_tar("b"))
    assert len(object_names(store)) == 4 + 4 + 1


def test_the_callers_rows_are_in_the_same_transaction(store: Store) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        assert connection.execute("SELECT count(*) FROM layers").fetchone()[0] == 1
        raise FormatError("the caller's own")

    before = tree(store.paths.root)
    with pytest.raises(FormatError, match="the caller's own"), store.content.lease() as lease:
        staged = ingest(store, lease, layer_tar("a"), blob="keep")
        store.content.publish(lease, layers=[staged], blobs=[store.content.stage_blob(lease, b"x")], rows=fail)
    # The 256 directories of objects/ stay, once made.
    assert {name for name in tree(store.paths.root) - before if not re.fullmatch("objects/..", name)} == set()
    assert not store.layers.has(staged.diff_id)
    assert object_names(store) == set()
    add_image(store, layer_tar("a"))
    assert_whole(store)


def test_an_image_of_layers_that_are_not_there_is_refused(store: Store) -> None:
    missing = DiffID("sha256:" + 64 * "0")
    with store.content.lease() as lease:
        staged = ingest(store, lease, layer_tar("a"))
        with pytest.raises(StoreError, match="refuses the new rows: FOREIGN KEY"):
            store.content.publish(lease, layers=[staged], rows=image_rows(b"x", [missing]))
    assert not store.layers.has(staged.diff_id)
    store.content.collect()
    assert object_names(store) == set()


@pytest.mark.parametrize("at", range(12))
def test_every_failing_step_leaves_the_store_as_it_was(store: Store, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-th of the operating system's calls that publishing makes fails."""
    add_image(store, layer_tar("old"))
    before = tree(store.paths.root)
    left = [at]

    def failing(real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] == -1:
                raise OSError(28, "No space left on device")
            return real(*arguments)

        return call

    with store.content.lease() as lease:
        staged = [ingest(store, lease, layer_tar(seed), blob="gzip") for seed in "ab"]
        with monkeypatch.context() as patch:
            patch.setattr(publishing.os, "rename", failing(os.rename))
            patch.setattr(publishing, "syncfs", failing(publishing.syncfs))
            patch.setattr(publishing, "publish_objects", failing(publishing.publish_objects))
            patch.setattr(publishing, "insert_rows", failing(publishing.insert_rows))
            blobs = [store.content.stage_blob(lease, b"manifest")]
            failed = False
            try:
                store.content.publish(lease, blobs=blobs, layers=staged)
            except OSError as error:
                failed = True
                assert error.errno == 28
        assert failed == (at < 9)  # two syncs, three blobs, two layers, objects, rows: the loop reaches the end
        if failed:
            assert not any(store.layers.has(layer.diff_id) for layer in staged)
    new = {name for name in tree(store.paths.root) - before if not re.fullmatch("objects/..", name)}
    assert bool(new) == (not failed)
    add_image(store, layer_tar("a"), layer_tar("b"))
    assert_whole(store)


def test_write_back_is_asked_of_a_descriptor_that_is_older_than_the_data(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer one would not hear of an error that another process has been told of meanwhile."""
    with store.content.lease() as lease:
        opened = os.fstat(lease.fd)
        assert os.path.samestat(opened, os.stat(lease.directory)) and os.listdir(lease.directory) == ["objects"]
        asked: list[int] = []
        monkeypatch.setattr(publishing, "syncfs", asked.append)
        store.content.publish(lease, layers=[ingest(store, lease, layer_tar("a"))])
        assert asked == [lease.fd, lease.fd]
    assert lease.fd == -1


def test_reading_blobs(store: Store) -> None:
    with store.content.lease() as lease:
        blob = store.content.stage_blob(lease, b"0123456789")
        store.content.publish(lease, blobs=[blob])
    fd = store.content.open_blob(blob.digest)
    assert os.read(fd, 100) == b"0123456789"
    os.close(fd)
    with pytest.raises(LimitError, match="10 bytes, more than 9"):
        store.content.read_blob(blob.digest, limit=9)
    with pytest.raises(NotFoundError, match=f"blob {sha256(b'y')}: not in this store"):
        store.content.read_blob(sha256(b"y"))
    os.chmod(store.paths.blob(blob.digest), 0o644)
    Path(store.paths.blob(blob.digest)).write_bytes(b"0123456788")
    with pytest.raises(CorruptError, match=f"blob {blob.digest}: its bytes have digest {sha256(b'0123456788')}"):
        store.content.read_blob(blob.digest)


def test_a_file_without_a_row_is_not_there(store: Store) -> None:
    digest = sha256(b"orphan")
    Path(store.paths.blob(digest)).write_bytes(b"orphan")
    assert not store.content.has_blob(digest)
    with pytest.raises(NotFoundError):
        store.content.open_blob(digest)


def test_a_layer_that_no_row_names_is_not_believed(store: Store) -> None:
    """A publish that died between its renames and its commit left it; what it needs may have been collected since."""
    tar = layer_tar("a")
    (diff_id,) = add_image(store, tar, limits=Limits(inline_limit=1))  # its small file is an object
    with store.catalogue.write() as connection:
        connection.execute("DELETE FROM images")
        connection.execute("DELETE FROM layers")
    for name in object_names(store):
        os.unlink(f"{store.paths.objects}/{name[:2]}/{name[2:]}")
    assert os.path.exists(store.paths.layer(diff_id)) and not store.layers.has(diff_id)
    assert add_image(store, tar) == [diff_id]
    assert_tar(store, diff_id, tar)
    assert_whole(store)
