"""Layers: read from a stream, checked against what documents say, given back byte for byte."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from store_helpers import add_image, assert_tar, assert_whole, image_rows, ingest, layer_tar, make_tar, sha256

from lazarus.errors import CancelledError, CorruptError, FormatError, LazarusError, LimitError, NotFoundError
from lazarus.store import Store
from lazarus.terms import DiffID, Digest, Limits, ProgressEvent


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


def test_a_layer_by_its_diff_id(store: Store) -> None:
    tar = layer_tar("a")
    (diff_id,) = add_image(store, tar)
    assert diff_id == sha256(tar)
    layer = store.layers.get(diff_id)
    assert (layer.diff_id, layer.tar_size) == (diff_id, len(tar))
    with layer.index() as index:
        assert layer.entry_count == len(index)
        assert {entry.path for entry in index if entry.kind == "file"} >= {b"shared", b"a/small", b"a/0"}
    assert_tar(store, diff_id, tar)
    with pytest.raises(NotFoundError, match="not in this store"):
        store.layers.get(DiffID("sha256:" + 64 * "1"))


@pytest.mark.parametrize("blob", ["none", "keep", "gzip", "zstd"])
def test_forms_of_a_layer(store: Store, blob: str) -> None:
    tar = layer_tar("a")
    packed = gzip.compress(tar, mtime=0)
    with store.content.lease() as lease:
        staged = ingest(store, lease, packed, blob=blob, expected_blob=sha256(packed), expected_diff_id=sha256(tar))
        store.content.publish(lease, layers=[staged], rows=image_rows(b"x", [staged.diff_id]))
    assert (staged.source_digest, staged.source_size, staged.compression) == (sha256(packed), len(packed), "gzip")
    assert store.layers.find_by_blob(staged.source_digest) == staged.diff_id
    assert store.content.has_blob(sha256(packed)) == (blob == "keep")
    if blob == "none":
        assert staged.blob is None and staged.blob_size == 0
    else:
        data = store.content.read_blob(staged.blob)
        assert len(data) == staged.blob_size
        assert store.layers.find_by_blob(staged.blob) == staged.diff_id
        assert {"keep": b"\x1f\x8b", "gzip": b"\x1f\x8b", "zstd": b"\x28\xb5"}[blob] == data[:2]
    rows = dict(store.catalogue.read().execute("SELECT digest, compression FROM layer_blobs").fetchall())
    assert rows[sha256(packed)] == "gzip" and rows.get(staged.blob, blob).startswith(
        "zstd" if blob == "zstd" else rows[sha256(packed)] if blob != "none" else "none"
    )
    assert_tar(store, staged.diff_id, tar)


def test_digests_that_are_not_the_expected_ones(store: Store) -> None:
    tar, other = layer_tar("a"), sha256(b"other")
    with store.content.lease() as lease:
        with pytest.raises(
            CorruptError, match=f"^layer {other}: bytes have digest {sha256(tar)}, manifest says {other}$"
        ):
            ingest(store, lease, tar, expected_blob=other)
        with pytest.raises(CorruptError, match=f"tar has diff ID {sha256(tar)}, config says {other}"):
            ingest(store, lease, tar, expected_blob=sha256(tar), expected_diff_id=DiffID(other))
        with pytest.raises(CorruptError, match=r"^layer number two: "):
            ingest(store, lease, tar, expected_blob=other, name="number two")
    assert os.listdir(store.paths.staging) == []


def test_errors_name_the_layer(store: Store) -> None:
    packed = gzip.compress(layer_tar("a"), mtime=0)
    with store.content.lease() as lease:
        for broken in (packed[:-20], packed[:100] + bytes([packed[100] ^ 0x10]) + packed[101:], b"\x1f\x8bnothing"):
            with pytest.raises(LazarusError, match=r"^layer the name: ") as caught:
                ingest(store, lease, broken, name="the name")
            assert "\n" not in str(caught.value)
        with pytest.raises(FormatError):
            ingest(store, lease, b"no tar " * 1000)
        with pytest.raises(LimitError):
            ingest(store, lease, packed, limits=Limits(max_entries=2))
    assert store.catalogue.read().execute("SELECT count(*) FROM layers").fetchone()[0] == 0


def test_a_pipe_and_a_range_of_a_file(store: Store, tmp_path: Path) -> None:
    tar = layer_tar("a")
    read_end, write_end = os.pipe()
    writer = threading.Thread(target=lambda: (os.write(write_end, tar), os.close(write_end)))
    writer.start()
    (tmp_path / "archive").write_bytes(b"head" + tar + b"tail")
    with store.content.lease() as lease, open(tmp_path / "archive", "rb") as file:
        staged = [
            store.layers.ingest(lease, read_end),
            store.layers.ingest(lease, file.fileno(), offset=4, size=len(tar)),
        ]
        assert [layer.diff_id for layer in staged] == [sha256(tar)] * 2
        store.content.publish(lease, layers=staged)
    writer.join()
    os.close(read_end)
    assert_tar(store, staged[0].diff_id, tar)


def test_several_threads_share_one_lease(store: Store) -> None:
    tars = [layer_tar(str(number), files=8) for number in range(6)]
    with store.content.lease() as lease, ThreadPoolExecutor(3) as pool:
        staged = list(pool.map(lambda tar: ingest(store, lease, tar, blob="gzip"), tars))
        store.content.publish(lease, layers=staged, rows=image_rows(b"x", [layer.diff_id for layer in staged]))
    for layer, tar in zip(staged, tars, strict=True):
        assert_tar(store, layer.diff_id, tar)
    assert_whole(store)


def test_progress_is_told_and_can_stop_it(store: Store) -> None:
    big = make_tar({f"f{number}": os.urandom(1 << 20) for number in range(64)})
    events: list[ProgressEvent] = []
    with store.content.lease() as lease:
        ingest(store, lease, big, name="big", progress=events.append)
        assert all(event.action == "ingest" and event.name == "big" and event.total == len(big) for event in events)
        assert [event.done for event in events] == sorted(event.done for event in events)

        def stop(event: ProgressEvent) -> None:
            raise KeyboardInterrupt

        with pytest.raises((KeyboardInterrupt, CancelledError)):
            ingest(store, lease, big, progress=stop)
    assert os.listdir(store.paths.staging) == []


def test_a_second_image_stores_only_what_is_new(store: Store) -> None:
    add_image(store, layer_tar("a"))
    with store.content.lease() as lease:
        staged = ingest(store, lease, layer_tar("b"))
        assert (staged.result.object_count, staged.result.new_object_count) == (5, 4)
        store.content.publish(lease, layers=[staged])
    assert isinstance(staged.source_digest, Digest)
