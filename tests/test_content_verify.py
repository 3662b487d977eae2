"""Verification: every kind of damage is found and named; with repair, loading again makes it good."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_helpers import add_image, assert_tar, assert_whole, layer_tar, object_names

from lazarus.errors import CorruptError, NotFoundError
from lazarus.store import Store
from lazarus.terms import Digest

TARS = [layer_tar("a"), layer_tar("b")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        diff_ids = add_image(store, *TARS, blob="gzip")
        store.stacks.open(diff_ids)
        yield store


def _damage(path: str, how: str) -> None:
    if how == "missing":
        os.unlink(path)
        return
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if how == "truncated":
            file.truncate(size // 2)
        elif how == "empty":
            file.truncate(0)
        else:
            at = size * 3 // 4  # not in the padding behind an index's header, which nothing reads
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))


def _first(store: Store, kind: str) -> tuple[str, str]:
    """A file of that kind: the name that a finding has, and the path."""
    paths = store.paths
    if kind == "object":
        name = min(object_names(store))
        return f"sha256:{name}", f"{paths.objects}/{name[:2]}/{name[2:]}"
    if kind == "blob":
        name = min(os.listdir(paths.blobs))
        return f"sha256:{name}", f"{paths.blobs}/{name}"
    room, file = kind.split("/")
    name = min(os.listdir(f"{paths.root}/{room}"))
    return f"sha256:{name}", f"{paths.root}/{room}/{name}/{file}"


KINDS = ["object", "blob", "layers/index", "layers/recipe", "stacks/index", "stacks/metadata.erofs"]


@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "one bit"])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_named_and_repaired(store: Store, kind: str, how: str) -> None:
    name, path = _first(store, kind)
    _damage(path, how)

    found = list(store.check())
    assert found and not any(problem.repaired for problem in found)
    assert any(name in problem.text for problem in found), found
    assert all("\n" not in problem.text and len(problem.text) < 900 for problem in found)
    assert list(store.check()) == found  # looking changes nothing

    assert all(problem.repaired for problem in store.check(repair=True))
    diff_ids = add_image(store, *TARS, blob="gzip")
    store.stacks.open(diff_ids)
    assert_whole(store)
    for diff_id, tar in zip(diff_ids, TARS, strict=True):
        assert_tar(store, diff_id, tar)
    store.content.collect()
    assert_whole(store)


def test_a_broken_object_breaks_every_layer_that_has_it(store: Store) -> None:
    for name in object_names(store):
        _damage(f"{store.paths.objects}/{name[:2]}/{name[2:]}", "one bit")
    problems = list(store.check(repair=True))
    assert sum(problem.kind == "object" for problem in problems) == 9
    assert sum(problem.kind == "layer" for problem in problems) == 2
    assert object_names(store) == set()


def test_a_damaged_layer_is_not_there_until_it_is_loaded_again(store: Store) -> None:
    (name, path) = _first(store, "layers/recipe")
    _damage(path, "one bit")
    diff_id = next(layer for layer in _diff_ids(store) if layer == name)
    with pytest.raises(CorruptError, match=name), open(os.devnull, "wb") as null:
        store.layers.get(diff_id).write_tar(null.fileno())
    list(store.check(repair=True))
    assert not store.layers.has(diff_id)
    assert store.layers.find_by_blob(Digest(diff_id)) is None
    with pytest.raises(NotFoundError, match="damaged; load its image again"):
        store.layers.get(diff_id)
    (problem,) = store.check()
    assert problem.text == f"layer {diff_id}: damaged; load its image again"


def _diff_ids(store: Store) -> list[Digest]:
    from lazarus.terms import DiffID

    return [DiffID(row[0]) for row in store.catalogue.read().execute("SELECT diff_id FROM layers")]


def test_an_orphan_is_no_problem(store: Store) -> None:
    Path(f"{store.paths.blobs}/{64 * 'c'}").write_bytes(b"x")
    assert list(store.check()) == []
