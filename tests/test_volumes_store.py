"""Volumes of a store: made, found, listed, removed. No root, no container."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lazarus.errors import ConflictError, FormatError, NotFoundError
from lazarus.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store
        assert os.listdir(store.paths.staging) == os.listdir(store.paths.trash) == []
        assert store.catalogue.read().execute("SELECT count(*) FROM leases").fetchone()[0] == 0


def names(store: Store, *filters: str) -> list[str]:
    return [volume.name for volume in store.volumes.list(filters)]


def test_a_life(store: Store) -> None:
    before = os.umask(0o077)
    try:
        volume = store.volumes.create("db", {"a": "1"})
    finally:
        os.umask(before)
    assert volume.path == f"{store.paths.root}/volumes/db/data" and os.listdir(volume.path) == []
    assert os.stat(volume.path).st_mode & 0o7777 == 0o755, "whatever the umask"
    assert (volume.labels, volume.anonymous, volume.fresh, volume.users) == ({"a": "1"}, False, True, ())
    found = store.volumes.get("db").inspect()
    assert (found["Name"], found["Driver"], found["Mountpoint"]) == ("db", "local", volume.path)
    assert found["Labels"] == {"a": "1"} and found["UsedBy"] == [] and found["CreatedAt"].endswith("Z")
    Path(volume.path, "file").write_bytes(b"x" * 5000)
    assert store.system_df()["volumes"]["count"] == 1 and store.system_df()["volumes"]["bytes"] == 5000
    volume.remove()
    assert os.listdir(store.paths.volumes) == [] and names(store) == []
    for again in (volume.remove, lambda: store.volumes.get("db"), lambda: volume.fresh):
        with pytest.raises(NotFoundError):
            again()
    store.volumes.remove("db", missing_ok=True)


def test_a_name_is_taken_once(store: Store) -> None:
    first = store.volumes.create("db", {"a": "1"})
    with pytest.raises(ConflictError, match="db"):
        store.volumes.create("db")
    again = store.volumes.create("db", exist_ok=True)
    assert (again.labels, again.created) == (first.labels, first.created)
    assert len(os.listdir(store.paths.volumes)) == 1


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "-a", "_a", "a b", "a\0", "a\n", "ä", "a" * 129])
def test_names_that_cannot_be(store: Store, name: str) -> None:
    with pytest.raises(FormatError):
        store.volumes.create(name)
    for look in (store.volumes.get, store.volumes.remove):
        with pytest.raises(NotFoundError):
            look(name)
    assert os.listdir(store.paths.volumes) == []


def test_names_at_the_edge(store: Store) -> None:
    for name in ("a", "0", "A.b_c-d", "a" * 128, "sha256:"[:6]):
        store.volumes.create(name).remove()


def test_without_a_name(store: Store) -> None:
    volume = store.volumes.create()
    assert len(volume.name) == 64 and volume.anonymous
    store.volumes.create("kept")
    assert store.volumes.prune(dry_run=True).names == (volume.name,)
    assert store.volumes.prune().names == (volume.name,) and names(store) == ["kept"]
    removed = store.volumes.prune(all=True)
    assert removed.names == ("kept",) and removed.bytes > 0


def test_filters(store: Store) -> None:
    for name, labels in (("one", {"a": "1"}), ("two", {"a": "2", "b": ""}), ("three", {})):
        store.volumes.create(name, labels)
    assert names(store) == ["one", "three", "two"]
    assert names(store, "name=o") == ["one", "two"]
    assert names(store, "name=one", "name=thr") == ["one", "three"], "names are alternatives"
    assert names(store, "label=a") == ["one", "two"] and names(store, "label=a=2") == ["two"]
    assert names(store, "label=a", "label=b") == ["two"], "labels are conditions"
    assert names(store, "label!=a") == ["three"]
    assert names(store, "dangling=false") == [] and len(names(store, "dangling=true")) == 3
    for text in ("bogus=1", "name", "dangling=maybe", ""):
        with pytest.raises(FormatError):
            store.volumes.list([text])
    for text in ("name=one", "dangling=true"):
        with pytest.raises(FormatError):
            store.volumes.prune(filters=[text])
    assert store.volumes.prune(all=True, filters=["label=a", "label!=b"]).names == ("one",)


def test_a_directory_without_a_row_is_rubbish(store: Store) -> None:
    """As somebody leaves it who dies between the two steps of a removal."""
    os.makedirs(f"{store.paths.volumes}/db/data/old")
    assert names(store) == []
    with pytest.raises(NotFoundError):
        store.volumes.get("db")
    assert os.listdir(store.volumes.create("db").path) == [], "a new one begins empty"
    os.makedirs(f"{store.paths.volumes}/other/data")
    store.prune()
    assert os.listdir(store.paths.volumes) == ["db"]


def test_a_row_without_a_directory_can_be_removed(store: Store) -> None:
    volume = store.volumes.create("db")
    os.rename(volume.directory, f"{store.paths.trash}/x")
    os.rename(f"{store.paths.trash}/x", f"{store.paths.root}/../gone")
    assert store.volumes.size("db") == 0
    volume.remove()
    assert names(store) == []


def test_one_whose_files_are_being_copied_stays(store: Store) -> None:
    volume = store.volumes.create("db")
    store.volumes.create("other")
    with volume.lock(fcntl.LOCK_SH):
        with pytest.raises(ConflictError, match="copied"):
            volume.remove()
        assert store.volumes.prune(all=True).names == ("other",)
    volume.remove()
