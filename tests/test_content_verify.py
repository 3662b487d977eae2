"""Verification: every kind of damage is found and named; with repair, loading again makes it good."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from images_made import layer as made_layer
from images_made import sha256
from store_helpers import KINDS, add_image, assert_tar, assert_whole, damage, first_of, layer_tar, object_names

from lazarus.content import readers, verify
from lazarus.content.content import ContentStore
from lazarus.errors import ConflictError, CorruptError, NotFoundError
from lazarus.store import Store
from lazarus.terms import DiffID, Digest

TARS = [layer_tar("a"), layer_tar("b")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        diff_ids = add_image(store, *TARS, blob="gzip")
        store.stacks.open(diff_ids)
        yield store


@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "one bit"])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_named_and_repaired(store: Store, kind: str, how: str) -> None:
    name, path = first_of(store, kind)
    damage(path, how)

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
        damage(f"{store.paths.objects}/{name[:2]}/{name[2:]}", "one bit")
    problems = list(store.check(repair=True))
    assert sum(problem.kind == "object" for problem in problems) == 9
    assert sum(problem.kind == "layer" for problem in problems) == 2
    assert object_names(store) == set()


def test_a_damaged_layer_is_not_there_until_it_is_loaded_again(store: Store) -> None:
    (name, path) = first_of(store, "layers/recipe")
    damage(path, "one bit")
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


def test_a_damaged_layer_whose_objects_are_back_is_whole_again(store: Store) -> None:
    """A layer that was made here comes from nowhere else, but its files do."""
    contents = {name: os.urandom(5000) for name in ("one", "two")}
    (made,) = add_image(store, made_layer(contents))
    lost = Digest(sha256(contents["one"]))
    os.unlink(store.paths.object(lost))
    assert [problem.repaired for problem in store.check(repair=True)] == [True] and not store.layers.has(made)
    assert [problem.text for problem in store.check(repair=True)] == [f"layer {made}: damaged; load its image again"]

    add_image(store, made_layer({"other": contents["one"]}))
    text = f"layer {made}: was damaged, and is whole again"
    assert [(problem.text, problem.repaired) for problem in store.check()] == [(text, False)]
    assert not store.layers.has(made), "looking changes nothing"
    assert [(problem.text, problem.repaired) for problem in store.check(repair=True)] == [(text, True)]
    assert_tar(store, made, made_layer(contents))
    store.content.collect()
    assert_whole(store)


def test_what_a_collection_takes_meanwhile_is_not_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept for a damaged layer until its row says that it is none."""
    content = os.urandom(5000)
    (made,) = add_image(store, made_layer({"one": content}))
    path = store.paths.object(Digest(sha256(content)))
    os.rename(path, f"{path}.away")
    list(store.check(repair=True))
    os.rename(f"{path}.away", path)
    mend = verify._mark_whole

    def late(content: ContentStore, diff_id: DiffID) -> bool:
        os.unlink(path)
        return mend(content, diff_id)

    monkeypatch.setattr(verify, "_mark_whole", late)
    assert [problem.repaired for problem in store.check(repair=True)] == [False]
    assert not store.layers.has(made)


def test_a_layer_that_somebody_else_has_repaired_meanwhile_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found without one of its files, which is back before it is our turn: nobody has to load it again."""
    content = os.urandom(5000)
    (made,) = add_image(store, made_layer({"one": content}))
    path = store.paths.object(Digest(sha256(content)))
    os.rename(path, f"{path}.away")
    mend = verify._mark_damaged

    def late(content: ContentStore, diff_id: DiffID) -> bool:
        os.rename(f"{path}.away", path)
        return mend(content, diff_id)

    monkeypatch.setattr(verify, "_mark_damaged", late)
    assert [(problem.name, problem.repaired) for problem in store.check(repair=True)] == [(made, True)]
    assert store.layers.has(made)
    assert_whole(store)


def _diff_ids(store: Store) -> list[Digest]:
    from lazarus.terms import DiffID

    return [DiffID(row[0]) for row in store.catalogue.read().execute("SELECT diff_id FROM layers")]


def test_an_orphan_is_no_problem(store: Store) -> None:
    Path(f"{store.paths.blobs}/{64 * 'c'}").write_bytes(b"x")
    assert list(store.check()) == []


@pytest.mark.parametrize("kind", ["object", "blob"])
def test_what_somebody_else_has_repaired_meanwhile_stays(
    store: Store, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found wrong, removed and loaded again by others before it is our turn: the good one is not removed."""
    _, path = first_of(store, kind)
    good = Path(path).read_bytes()
    damage(path, "one bit")

    read = verify.verify_files

    def then_repaired(*words: Any, **more: Any) -> bytes:
        wrong = read(*words, **more)
        if wrong:
            Path(path).unlink()
            Path(path).write_bytes(good)
        return wrong

    monkeypatch.setattr(verify, "verify_files", then_repaired)
    found = list(store.check(repair=True))
    assert [(problem.kind, problem.repaired) for problem in found] == [(kind, True)]
    assert Path(path).read_bytes() == good and list(store.check()) == []


def test_a_check_keeps_the_objects_where_they_are(store: Store) -> None:
    problems = iter(store.check())
    _, path = first_of(store, "object")
    damage(path, "one bit")
    next(problems)
    with pytest.raises(ConflictError, match="or all of it checked"), readers.none(store.paths.objects):
        pass
    problems.close()  # type: ignore[attr-defined]
    with readers.none(store.paths.objects):
        pass
