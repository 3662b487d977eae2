"""Removing images: names, last names, and images that a container still needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from store_helpers import assert_whole, content, make_tar, object_names

from lazarus.errors import ConflictError, NotFoundError
from lazarus.images import Image
from lazarus.store import Store


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Image]:
    """An image of one layer with one object, called `one:1`."""
    (tmp_path / "tar").write_bytes(make_tar({"etc/motd": b"hi\n", "object": content("object")}))
    with Store(tmp_path / "store") as store:
        yield store.images.import_(str(tmp_path / "tar"), "one:1", changes=['CMD ["sh"]'])


def test_the_last_name_takes_the_image_along(image: Image) -> None:
    store = image.store
    store.images.tag(image, "two:1")
    assert store.images.remove("one:1") == ["Untagged: one:1"]
    assert store.images.remove("two:1") == ["Untagged: two:1", f"Deleted: {image.id}"]
    assert store.images.list() == [] and object_names(store) == set()
    with pytest.raises(NotFoundError):
        store.images.remove("two:1", force=True)


def test_by_id_several_names_need_force(image: Image) -> None:
    store = image.store
    store.images.tag(image, "two:1")
    with pytest.raises(ConflictError, match="one:1, two:1"):
        store.images.remove(image.id)
    assert image.names == ("one:1", "two:1")
    lines = ["Untagged: one:1", "Untagged: two:1", f"Deleted: {image.id}"]
    assert store.images.remove(image.id, force=True) == lines
    assert store.images.list() == []


@pytest.mark.root
def test_an_image_outlives_its_names_while_a_container_needs_it(image: Image) -> None:
    store = image.store
    container = store.containers.create(image, name="c1")
    with pytest.raises(ConflictError, match="container c1 uses it"):
        store.images.remove("one:1")
    assert store.images.remove("one:1", force=True) == ["Untagged: one:1"]
    assert [found.names for found in store.images.list()] == [()]
    for force in (False, True):
        with pytest.raises(ConflictError, match="container c1 uses it"):
            store.images.remove(image.id, force=force)
    store.prune(all_images=True)
    store.content.collect()

    Path(container.directory, "upper", "new").write_bytes(b"new\n")
    committed = store.containers.get("c1").commit("mine:1")
    assert committed.diff_ids[:-1] == image.diff_ids and committed.names == ("mine:1",)
    assert container.image.manifest.layers and container.inspect()["Image"] == image.id
    assert_whole(store)

    container.remove()
    store.prune()
    assert [found.names for found in store.images.list()] == [("mine:1",)]
    assert store.images.remove("mine:1")[-1] == f"Deleted: {committed.id}"
    assert object_names(store) == set()


@pytest.mark.root
def test_a_name_that_others_share_goes_though_a_container_uses_the_image(image: Image) -> None:
    store = image.store
    store.images.tag(image, "two:1")
    store.containers.create(image, name="c1")
    assert store.images.remove("one:1") == ["Untagged: one:1"]
    assert store.images.remove("two:1", force=True) == ["Untagged: two:1"]
    assert store.containers.get("c1").image.names == ()
