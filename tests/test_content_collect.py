"""Collection: what nothing needs goes, what anyone may need stays, several processes at once."""

from __future__ import annotations

import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store_helpers import (
    add_image,
    assert_tar,
    assert_whole,
    content,
    image_rows,
    ingest,
    layer_tar,
    make_tar,
    object_names,
    remove_image,
    sha256,
    tree,
)

from lazarus.errors import CorruptError
from lazarus.layers.stack import chain_id
from lazarus.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


def test_what_images_need_stays(store: Store) -> None:
    add_image(store, layer_tar("a"), layer_tar("b"), blob="gzip")
    before = tree(store.paths.root)
    assert store.content.collect() == (0, 0, 0, 0, 0)
    assert tree(store.paths.root) == before


def test_what_nothing_needs_goes(store: Store) -> None:
    kept = add_image(store, layer_tar("a"), blob="gzip")
    before = tree(store.paths.root)
    gone = add_image(store, layer_tar("a"), layer_tar("b"), blob="gzip")
    store.stacks.open(gone)
    remove_image(store, gone)
    planned = store.content.collect(dry_run=True)
    assert store.layers.has(gone[1])
    done = store.content.collect()
    # The manifest, and b's blob; b's four own objects, not the one that a shares.
    assert done[:4] == planned[:4] == (2, 1, 4, 1)
    assert done.bytes >= 4 * 6000
    assert abs(done.bytes - planned.bytes) < 4096
    assert {name for name in tree(store.paths.root) - before if name.count("/") > 1} == set()
    assert not store.layers.has(gone[1]) and store.layers.has(kept[0])
    assert_tar(store, kept[0], layer_tar("a"))
    assert_whole(store)
    assert add_image(store, layer_tar("a"), layer_tar("b"), blob="gzip") == gone
    assert_tar(store, gone[1], layer_tar("b"))


def test_a_container_keeps_its_layers_and_its_stack(store: Store) -> None:
    """Also when its image is gone, and also when it was never started and has no stack."""
    for seed in ("started", "never started"):
        diff_ids = add_image(store, layer_tar(seed))
        if seed == "started":
            store.stacks.open(diff_ids)
        with store.catalogue.write() as connection:
            config = json.dumps({"diff_ids": diff_ids} if seed != "started" else {})
            connection.execute(
                "INSERT INTO containers(id, name, manifest_digest, chain_id, created, config)"
                " VALUES (?, ?, 'm', ?, 0, ?)",
                (seed, seed, chain_id(diff_ids), config),
            )
        remove_image(store, diff_ids)
    assert store.content.collect()[1:4] == (0, 0, 0)
    with store.catalogue.write() as connection:
        connection.execute("DELETE FROM containers")
    assert store.content.collect()[1:4] == (2, 9, 1)


def test_orphans_of_every_kind_go(store: Store) -> None:
    add_image(store, layer_tar("a"))
    before = tree(store.paths.root)
    os.mkdir(f"{store.paths.layers}/{64 * 'a'}")
    os.mkdir(f"{store.paths.stacks}/{64 * 'b'}")
    Path(f"{store.paths.blobs}/{64 * 'c'}").write_bytes(b"x")
    os.makedirs(f"{store.paths.objects}/dd", exist_ok=True)
    Path(f"{store.paths.objects}/dd/{62 * 'd'}").write_bytes(b"x" * 5000)
    assert store.content.collect()[:4] == (1, 1, 1, 1)
    assert tree(store.paths.root) - {"objects/dd"} == before - {"objects/dd"}


def test_what_a_lease_may_count_on_stays(store: Store) -> None:
    """A load that has seen a layer in the store does not read it again, and must not lose it."""
    diff_ids = add_image(store, layer_tar("a"), blob="gzip")
    with store.content.lease() as lease:
        assert store.layers.has(diff_ids[0])
        remove_image(store, diff_ids)
        assert store.content.collect()[:3] == (0, 0, 0)
        store.content.publish(lease, rows=image_rows(b"new", diff_ids))
    assert store.content.collect()[:3] == (1, 0, 0)  # the old manifest
    assert_whole(store)


def test_staged_objects_survive_a_collection(store: Store) -> None:
    """Ingest links what the store has; a collection in between takes the store's name, publishing brings it back."""
    diff_ids = add_image(store, layer_tar("a"))
    tar = make_tar({"other name": content("a 0"), "own": content("own")})
    with store.content.lease("recover") as lease:  # housekeeping: it keeps no layers from being collected
        staged = ingest(store, lease, tar)
        assert staged.result.new_object_count == 1
        remove_image(store, diff_ids)
        with store.content.lease("recover"):
            assert store.content.collect()[1:3] == (1, 5)
        assert object_names(store) == set()
        store.content.publish(lease, layers=[staged], rows=image_rows(b"new", [staged.diff_id]))
    assert len(object_names(store)) == 2
    assert_tar(store, staged.diff_id, tar)
    assert_whole(store)


def test_a_layer_that_cannot_be_read_stops_the_collection(store: Store) -> None:
    """Without its index nobody knows which objects it needs."""
    (diff_id,) = add_image(store, layer_tar("a"))
    index = store.paths.layer(diff_id) + "/index"
    os.chmod(index, 0o644)
    with open(index, "r+b") as file:
        file.write(b"\xff" * 64)
    before = object_names(store)
    with pytest.raises(Exception, match=diff_id.hex):
        store.content.collect()
    assert object_names(store) == before
    assert [problem.repaired for problem in store.check(repair=True)] == [True]
    store.content.collect()
    add_image(store, layer_tar("a"))
    assert_whole(store)


def test_prune_takes_unnamed_images(store: Store) -> None:
    diff_ids = add_image(store, layer_tar("named"))
    add_image(store, layer_tar("unnamed"))
    used = add_image(store, layer_tar("used"))
    with store.catalogue.write() as connection:
        for number, manifest in enumerate(["\n".join(diff_ids).encode(), "\n".join(used).encode()]):
            if number == 0:
                connection.execute("INSERT INTO names VALUES ('named:latest', ?, 0)", (sha256(manifest),))
            else:
                connection.execute(
                    "INSERT INTO containers(id, name, manifest_digest, chain_id, created, config)"
                    " VALUES ('c', 'c', ?, ?, 0, '{}')",
                    (sha256(manifest), chain_id(used)),
                )
    assert _pruned(store) == ([()], 1, 1, 4)
    assert _pruned(store, all_images=True) == ([("named:latest",)], 1, 1, 4)
    assert store.layers.has(used[0])
    with store.catalogue.write() as connection:
        connection.execute("DELETE FROM containers")
    assert _pruned(store) == ([()], 1, 1, 5)
    assert object_names(store) == set()


def _pruned(store: Store, **options: bool) -> tuple[object, ...]:
    """Prunes, once it has been said what would go: names of images, counts of blobs, layers and objects."""
    before = tree(store.paths.root)
    planned = store.prune(dry_run=True, **options)
    assert tree(store.paths.root) == before
    assert store.prune(**options) == planned
    nothing = store.prune(**options)
    assert sum(map(len, nothing[:3])) + sum(nothing[3:]) == 0
    return [image.names for image in planned.images], planned.blobs, planned.layers, planned.objects


def _in_child(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return child


def test_four_processes_load_while_another_collects(tmp_path: Path) -> None:
    """Same and different layers, removed and loaded again; at the end everything is whole."""
    root = str(tmp_path / "store")
    seed = 20240607
    print("seed", seed)
    until = time.monotonic() + 2.5

    def load(number: int) -> None:
        choose = random.Random(seed + number)
        with Store(root) as mine:
            while time.monotonic() < until:
                seeds = choose.sample(["a", "b", "c", "d", f"own {number}"], 2)
                tars = [layer_tar(name) for name in seeds]
                diff_ids = add_image(mine, *tars, blob=choose.choice(["none", "gzip"]))
                # Others remove images too, so ours may be gone again: but what is there is right.
                if mine.layers.has(diff_ids[0]) and number == 0:
                    mine.stacks.open(diff_ids)
                if choose.random() < 0.5:
                    remove_image(mine, diff_ids)
            add_image(mine, layer_tar(f"own {number}"), layer_tar("a"))

    def collect() -> None:
        with Store(root) as mine:
            while time.monotonic() < until:
                mine.content.collect()

    Store(root).close()
    children = [_in_child(lambda number=number: load(number)) for number in range(4)]  # type: ignore[misc]
    children.append(_in_child(collect))
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 5
    with Store(root) as store:
        assert_whole(store)
        for number in range(4):
            add = add_image(store, layer_tar(f"own {number}"), layer_tar("a"))
            assert_tar(store, add[0], layer_tar(f"own {number}"))
        with store.catalogue.write() as connection:
            connection.execute("DELETE FROM images")
        store.content.collect()
        assert object_names(store) == set()
        assert os.listdir(store.paths.layers) == os.listdir(store.paths.blobs) == os.listdir(store.paths.stacks) == []
        assert os.listdir(store.paths.staging) == os.listdir(store.paths.trash) == []


def test_usage_adds_up(store: Store) -> None:
    diff_ids = add_image(store, layer_tar("a"), blob="gzip")
    store.stacks.open(diff_ids)
    usage = store.content.usage()
    assert usage["objects"]["count"] == 5 and usage["objects"]["bytes"] == 5 * 6000
    assert usage["layers"]["count"] == usage["stacks"]["count"] == 1
    assert usage["blobs"]["count"] == 2
    assert usage["containers"]["count"] == 0 and usage["reclaimable"] == 0
    assert usage["total"]["allocated"] == sum(
        room["allocated"] for name, room in usage.items() if isinstance(room, dict) and name != "total"
    )
    remove_image(store, diff_ids)
    assert store.system_df()["reclaimable"] > 5 * 4096
    assert store.layers.has(diff_ids[0])


def test_a_corrupt_index_is_an_error_of_ours(store: Store) -> None:
    (diff_id,) = add_image(store, layer_tar("a"))
    index = store.paths.layer(diff_id) + "/index"
    os.chmod(index, 0o644)
    with open(index, "r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"\xff" * 8)
    with pytest.raises(CorruptError):
        store.content.collect()
