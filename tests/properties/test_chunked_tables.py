"""A table of contents, changed in any way and named by the manifest: the layer is right, or it is not staged."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import pytest
from chunked_helpers import Blob, blob_of, unzstd, with_table, without_tar_split
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_helpers import add_image, make_tar, sha256

from lazarus.layers.chunked import ingest_chunked
from lazarus.layers.chunked.annotations import POSITION
from lazarus.store import Store
from lazarus.terms import DiffID


def noise(seed: str, size: int) -> bytes:
    """That does not compress: a blob of which little is needed must be worth it."""
    return hashlib.shake_256(seed.encode()).digest(size)


FILES = {f"{number}": noise(str(number), 6000 + number) for number in range(12)} | {"large": noise("l", 1_200_000)}
OLD, NEW = make_tar(FILES), make_tar(FILES | {"5": noise("new", 6005), "small": b"small"})


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> Blob:
    return blob_of(NEW, tmp_path_factory.mktemp("other") / "store")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("chunked") / "store")
    add_image(store, OLD)
    return store


numbers = st.one_of(
    st.integers(-2, 2), st.integers(0, 9000), st.sampled_from([2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63), 0.5])
)


@st.composite
def changes(draw: st.DrawFn) -> list[tuple[str, int, Any]]:
    member = st.sampled_from(["size", "offset", "endOffset", "chunkSize", "chunkOffset", "digest", "type", "name"])
    value = st.one_of(numbers, st.sampled_from(["", "reg", "chunk", "dir", "sha256:" + 64 * "0", None, [], {}]))
    one = st.tuples(st.one_of(member, st.just("?")), st.integers(0, 40), value)
    return draw(st.lists(one, min_size=1, max_size=3))


def apply(toc: dict[str, Any], change: list[tuple[str, int, Any]]) -> None:
    for member, place, value in change:
        entries = toc["entries"]
        if not entries:
            return
        at = place % len(entries)
        if member == "?":  # an entry goes away, comes twice, or goes to another place
            taken = entries.pop(at)
            if isinstance(value, int | float) and value:
                entries.insert(int(abs(value)) % (len(entries) + 1), taken)
                if value < 0:
                    entries.append(copy.deepcopy(taken))
        elif isinstance(value, int) and isinstance(entries[at].get(member), int) and abs(value) < 9000:
            entries[at][member] += value
        else:
            entries[at][member] = value


def holds(store: Store, blob: Blob) -> None:
    with store.content.lease() as lease:
        staged = ingest_chunked(store.layers, lease, blob, blob.descriptor, DiffID(sha256(NEW)))
        assert staged is None or staged.diff_id == sha256(NEW)
    for offset, size in blob.asked:
        assert offset >= 0 and size > 0 and offset + size <= len(blob.data)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(change=changes(), gaps=st.booleans())
def test_any_numbers(store: Store, blob: Blob, change: list[tuple[str, int, Any]], gaps: bool) -> None:
    lie = with_table(blob, lambda toc: apply(toc, change))
    holds(store, without_tar_split(lie) if gaps else lie)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_bytes(store: Store, blob: Blob, data: st.DataObject) -> None:
    """Flipped, cut, or put twice, after the table was written."""
    offset, size, *_ = map(int, blob.descriptor.annotations[POSITION].split(":"))
    plain = bytearray(unzstd(blob.data[offset : offset + size]))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(plain) - 1))
        how = data.draw(st.sampled_from(["flip", "cut", "twice"]))
        if how == "flip":
            plain[at] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "cut":
            del plain[at : at + data.draw(st.integers(1, 300))]
        else:
            plain[at:at] = plain[at : at + data.draw(st.integers(1, 300))]
        if not plain:
            break
    lie = with_table(blob, bytes(plain))
    holds(store, without_tar_split(lie) if data.draw(st.booleans()) else lie)


def test_the_table_itself_is_one(store: Store, blob: Blob) -> None:
    """Or the others would show nothing."""
    with store.content.lease() as lease:
        same = with_table(blob, len)
        assert ingest_chunked(store.layers, lease, same, same.descriptor, DiffID(sha256(NEW))) is not None
