"""A pull that is killed anywhere, or meets a full disk: whole layers stay, no half of one shows, the next goes on."""

from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path

import images_made as made
import pytest
from kill_at_lines import run_until
from made_registry import MadeRegistry, serving
from store_helpers import assert_whole
from test_volumes_faults import leave, on_a_small_disk

from lazarus.errors import one_line
from lazarus.store import Store

TARS = [made.layer({f"{layer}/{number}": os.urandom(60_000) for number in range(6)}) for layer in range(3)]
BLOBS = [made.sha256(made.gzip.compress(tar, mtime=0)) for tar in TARS]
ROOMS = ("lazarus/images/", "lazarus/content/", "lazarus/layers/")


def image() -> made.Made:
    source = made.Made()
    source.image(TARS)
    return source


def layers(store: Store) -> int:
    return int(store.catalogue.read().execute("SELECT count(*) FROM layers").fetchone()[0])


def check(store: Store, server: MadeRegistry) -> None:
    """All or nothing shows; then the image comes, and layers that were here are not asked for again."""
    assert len(store.images.list()) in (0, 1) and list(store.check()) == []
    assert store.images.list() == [] or layers(store) == 3
    here, before = layers(store), sum(map(server.count, BLOBS))
    [pulled] = store.images.pull(f"{server.host}/a:1")
    assert sum(map(server.count, BLOBS)) - before == 3 - here
    assert [layer.tar_size for layer in pulled.layers] == [len(tar) for tar in TARS]
    assert os.listdir(store.paths.staging) == []


def test_killed_anywhere(tmp_path: Path) -> None:
    def pull(store: Store) -> None:
        threading.settrace(sys.gettrace())  # the threads that it starts
        store.images.pull(f"{server.host}/a:1")

    with serving(image()) as server:
        moments = run_until(ROOMS, tmp_path / "first", pull, None)
        assert moments is not None and moments > 100
        stayed = set()
        for number, moment in enumerate(range(0, moments, moments // 24)):
            root = tmp_path / str(number)
            if run_until(ROOMS, root, pull, moment) is not None:
                continue  # threads take turns: this time there were fewer
            with Store(root) as store:
                stayed.add(layers(store))
                check(store, server)
        assert {0, 3} <= stayed


def pull_until_it_fits(disk: Path) -> None:
    with serving(image()) as server:
        failures = 0
        for free in (0, 100_000, 300_000, 700_000, 1_000_000, 8_000_000):
            leave(disk, free)
            try:
                with Store(disk / "store") as store:
                    store.images.pull(f"{server.host}/a:1")
            except OSError as error:
                said = one_line(error)
                assert error.errno == errno.ENOSPC and "\n" not in said and str(disk / "store") in said
                assert f"{server.host}/a:1" in said or error.filename2 is None, "the store's own files are named alone"
                failures += 1
            (disk / "ballast").unlink()
            with Store(disk / "store") as store:
                assert_whole(store)
                check(store, server)
                store.images.remove(f"{server.host}/a:1")
                store.prune()
                assert layers(store) == 0
        assert 2 <= failures <= 5


@pytest.mark.root
def test_a_full_disk(tmp_path: Path) -> None:
    on_a_small_disk(tmp_path, pull_until_it_fits)
