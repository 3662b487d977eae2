"""kill -9 at any line of what is done with a volume that has a limit: before or after, and nothing stays mounted, or in
its file system, for long.

The moments are those of test_volumes_faults.py.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from container_helpers import remove_all, sh, start, until
from kill_at_lines import EVERY_KILL, run_until
from pool_helpers import devices
from registry_helpers import needs_registry, registry
from store_helpers import add_image, make_tar
from test_volumes_faults import leave, on_a_small_disk

from lazarus.content import limited
from lazarus.oci.layout import BlobSource
from lazarus.store import Store
from lazarus.terms import Descriptor
from lazarus.volumes import populate
from lazarus.volumes.artifact.registry import RegistryArtifacts
from lazarus.volumes.mounts import VolumeMount
from lazarus.volumes.volume import Volume

pytest_plugins = ("container_fixtures",)
pytestmark = pytest.mark.root
ROOMS = ("/lazarus/volumes/", "/lazarus/content/limited.py", "/lazarus/content/collect.py", "/lazarus/content/lease.py")
ROOMS += ("/lazarus/containers/shown.py",)
SIZE = 300 << 20
MOMENTS = 24 if EVERY_KILL else 12
OLD, NEW = {"file": "old", "gone": "old"}, {"file": "new", "more": "new"}
Act = Callable[[Store], object]


@pytest.fixture
def root(store: Store, small_root: Path) -> Iterator[Path]:
    yield small_root
    remove_all(store)
    assert str(small_root) not in Path("/proc/self/mountinfo").read_text()
    until(lambda: devices(small_root) == [])


def tree(path: str) -> dict[str, str]:
    return {name: Path(path, name).read_text() for name in sorted(os.listdir(path))}


def files(volume: Volume) -> dict[str, str]:
    with volume.opened() as path:
        assert os.listdir(f"{path}/../staging") == [], "who reaches it tidies up"
        assert sorted(os.listdir(f"{path}/../snapshots")) == sorted(found.name for found in volume.snapshots)
        return tree(path)


def killed_at_any_moment(root: Path, prepare: Act, act: Act, check: Act, rooms: tuple[str, ...] = ROOMS) -> set[object]:
    """From the same beginning, the act dies at every few moments; what a store that is opened then shows is checked.
    What the checks said."""
    with Store(root) as store:
        prepare(store)
    total = run_until(rooms, root, act, None)
    assert total is not None and total > MOMENTS
    with Store(root) as store:
        met = {check(store)}
    for number in range(MOMENTS):
        moment = (2 * number + 1) * total // (2 * MOMENTS)
        with Store(root) as store:
            prepare(store)
        assert run_until(rooms, root, act, moment) is None
        with Store(root) as store:
            try:
                assert os.listdir(store.paths.staging) == os.listdir(store.paths.trash) == []
                met.add(check(store))
                store.prune()
                assert {volume.name for volume in store.volumes.list()} == set(os.listdir(store.paths.volumes))
                until(lambda: devices(root) == [])
            except BaseException:
                print(f"killed at {moment} of {total}")
                raise
    return met


def fresh(store: Store) -> None:
    remove_all(store)


def a_volume(store: Store) -> None:
    """One with a past."""
    fresh(store)
    volume = store.volumes.create("db", size=SIZE)
    with volume.opened() as path:
        Path(path, "file").write_text("old")
        Path(path, "gone").write_text("old")
    volume.snapshot("a")
    with volume.opened() as path:
        Path(path, "file").write_text("new")
        os.unlink(f"{path}/gone")
        Path(path, "more").write_text("new")


def test_made(root: Path) -> None:
    def check(store: Store) -> bool:
        volume = store.volumes.find("db")
        assert volume is None or (volume.fresh and volume.limit == SIZE and files(volume) == {})
        assert files(store.volumes.create("db", size=SIZE, exist_ok=True)) == {}
        return volume is not None

    met = killed_at_any_moment(root, fresh, lambda store: store.volumes.create("db", size=SIZE), check)
    assert met == {True, False}


def test_removed(root: Path) -> None:
    def check(store: Store) -> bool:
        volume = store.volumes.find("db")
        assert volume is None or files(volume) == NEW
        return volume is not None

    assert killed_at_any_moment(root, a_volume, lambda store: store.volumes.remove("db"), check) == {True, False}


@pytest.mark.parametrize(
    ("act", "outcomes"),
    [
        (lambda store: store.volumes.get("db").snapshot("b"), [(NEW, "a", "db"), (NEW, "ab", "db")]),
        (
            lambda store: store.volumes.get("db").rollback("a", keep="b"),
            [(NEW, "a", "db"), (NEW, "ab", "db"), (OLD, "ab", "db")],
        ),
        (lambda store: store.volumes.get("db").clone("c"), [(NEW, "a", "db"), (NEW, "a", "cdb")]),
        (lambda store: store.volumes.get("db").get_snapshot("a").remove(), [(NEW, "a", "db"), (NEW, "", "db")]),
    ],
    ids=["snapshot", "rollback and keep", "clone", "remove"],
)
def test_its_snapshots(root: Path, act: Act, outcomes: list[tuple[dict[str, str], str, str]]) -> None:
    def check(store: Store) -> int:
        volume = store.volumes.get("db")
        names = "".join(one.name for one in volume.snapshots)
        found = (files(volume), names, "".join(one.name for one in store.volumes.list()))
        assert found in outcomes
        for name, expected in (("a", OLD), ("b", NEW)):
            if name in names:
                with volume.get_snapshot(name).reading() as path:
                    assert tree(path) == expected
            else:
                volume.snapshot(name)
        if found[2] != "db":
            clone = store.volumes.get("c")
            assert files(clone) == NEW and clone.limit == SIZE
        volume.rollback("b")
        assert sorted(os.listdir(store.paths.snapshots)) == ["db@a", "db@b"]
        return outcomes.index(found)

    assert killed_at_any_moment(root, a_volume, act, check) == set(range(len(outcomes))), "each of them was met"


def test_populated(root: Path) -> None:
    def prepare(store: Store) -> None:
        fresh(store)
        sh(store, "cat /data/file", name="one", volumes=[VolumeMount("db", "/data", size=SIZE)])

    def act(store: Store) -> None:
        volume, container = store.volumes.get("db"), store.containers.get("one")
        populate.settle(volume, (container.settings.diff_ids, "/data"))

    def check(store: Store) -> bool:
        volume = store.volumes.get("db")
        with volume.opened() as path:
            assert sorted(os.listdir(path)) in ([], ["file", "link"]), "all of it, or nothing"
            assert os.listdir(f"{path}/../staging") == []
        was = volume.fresh
        assert start(store.containers.get("one")) == (0, "from the image\n")
        assert not volume.fresh
        return was

    assert killed_at_any_moment(root, prepare, act, check) == {True, False}


def test_a_start(root: Path) -> None:
    """The starter is killed while it shows the volume; the next start is as any."""

    def prepare(store: Store) -> None:
        a_volume(store)
        sh(store, "cat /v/file; echo more >> /v/log", name="one", volumes=["db:/v"])

    def act(store: Store) -> None:
        assert start(store.containers.get("one"))[0] == 0

    def check(store: Store) -> None:
        with store.volumes.get("db").opened() as path:
            assert tree(path).items() >= NEW.items()
        assert start(store.containers.get("one")) == (0, "new")
        assert os.listdir(f"{store.volumes.get('db').directory}/mounts") == []

    killed_at_any_moment(root, prepare, act, check)


def test_a_removal_after_a_start(root: Path) -> None:
    """Nobody starts it again: it goes, and its volume with it."""

    def prepare(store: Store) -> None:
        fresh(store)
        sh(store, ":", name="one", volumes=[VolumeMount("db", "/v", size=SIZE)])

    def act(store: Store) -> None:
        start(store.containers.get("one"))

    def check(store: Store) -> None:
        store.containers.get("one").remove(force=True)
        store.volumes.remove("db")
        assert str(root) not in Path("/proc/self/mountinfo").read_text()

    killed_at_any_moment(root, prepare, act, check)


def test_a_container_is_made(root: Path) -> None:
    """One with a limit: it is there and has it, or it is not there."""

    def check(store: Store) -> bool:
        found = [container for container in store.containers.list(all=True) if container.name == "small"]
        for container in found:
            assert limited.limit(container.directory) == SIZE
            assert start(container) == (0, "made\n")
            assert [change.path for change in container.diff()] == [b"/new"]
            container.remove()
        store.containers.sweep()
        assert os.listdir(store.paths.containers) == []
        return bool(found)

    def make(store: Store) -> object:
        return sh(store, "echo made >/new; cat /new", size=SIZE, name="small")

    def prepare(store: Store) -> None:
        fresh(store)
        sh(store, ":").remove()  # the image's stack is made once, and then there

    rooms = (*ROOMS, "/lazarus/containers/containers.py")
    assert killed_at_any_moment(root, prepare, make, check, rooms) == {True, False}


# -- the host's disk is full, and not the volume --


def not_the_limit(disk: Path, store: Store, act: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:
        act()
    assert caught.value.errno == errno.ENOSPC and "its limit" not in str(caught.value), caught.value
    (disk / "ballast").unlink()
    assert os.listdir(store.paths.staging) == []


def full_while_the_image_is_mounted(disk: Path) -> None:
    with Store(disk / "store") as store:
        (diff_id,) = add_image(store, make_tar({f"data/{n}": b"x" for n in range(20_000)}))
        small = store.volumes.create("small", size=SIZE)
        mounted = populate._mounted

        def on_a_full_disk(*words: Any) -> int:
            leave(disk, 0)
            return mounted(*words)

        with mock.patch.object(populate, "_mounted", on_a_full_disk):
            not_the_limit(disk, store, lambda: populate.settle(small, ([diff_id], "/data")))
        assert small.fresh and files(small) == {}
        populate.settle(small, ([diff_id], "/data"))
        assert not small.fresh and len(files(small)) == 20_000


def test_full_while_the_image_is_mounted(tmp_path: Path) -> None:
    on_a_small_disk(tmp_path, full_while_the_image_is_mounted, 800 << 20)


@needs_registry
def test_full_while_a_registry_sends(tmp_path: Path) -> None:
    with registry(tmp_path) as where, Store(tmp_path / "from") as store:
        volume = store.volumes.create("db")
        Path(volume.path, "file").write_bytes(os.urandom(8 << 20))
        volume.push(f"docker://{where.host}/db:1")

        def pull(disk: Path) -> None:
            blob = RegistryArtifacts.blob

            def on_a_full_disk(self: RegistryArtifacts, descriptor: Descriptor, what: str) -> BlobSource:
                if descriptor.size > 8 << 20:
                    leave(disk, 1 << 20)
                return blob(self, descriptor, what)

            with Store(disk / "store") as store, mock.patch.object(RegistryArtifacts, "blob", on_a_full_disk):
                place = f"docker://{where.host}/db:1"
                not_the_limit(disk, store, lambda: store.volumes.pull(place, "small", size=SIZE))
                assert store.volumes.list() == []

        on_a_small_disk(tmp_path, pull, 800 << 20)
