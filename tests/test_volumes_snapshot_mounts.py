"""Containers that mount what a volume was in a snapshot: read-only, and as long as they name it, it stays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_helpers import remove_all, run, sh, start, until

from lazarus.errors import ConflictError, ContainerRuntimeError, FormatError, NotFoundError
from lazarus.store import Store
from lazarus.volumes.mounts import VolumeMount
from lazarus.volumes.retention import Policy
from lazarus.volumes.spelling import check_mount

pytest_plugins = ("container_fixtures",)
pytestmark = pytest.mark.root


@pytest.fixture
def volumes(store: Store) -> Iterator[Store]:
    """With the volume `db`, which is "new", and was "old" in its snapshot `a`."""
    remove_all(store)
    volume = store.volumes.create("db")
    for text in ("old", "new"):
        Path(volume.path, "file").write_text(f"{text}\n")
        os.makedirs(f"{volume.path}/part", exist_ok=True)
        Path(volume.path, "part/file").write_text(f"{text} part\n")
        if text == "old":
            volume.snapshot("a")
    yield store
    remove_all(store)
    assert os.listdir(store.paths.snapshots) == os.listdir(store.paths.staging) == []


def test_what_is_seen(volumes: Store) -> None:
    script = "exec 2>&1; cat /old/file /new/file /part/file; echo x > /old/file; rm /part/file; echo > /old/more;"
    script += " cat /old/file"
    mounts = ["db@a:/old", "db:/new", VolumeMount("db", "/part", subpath="part", snapshot="a")]
    code, said = run(volumes, script, volumes=mounts)
    assert said.startswith("old\nnew\nold part\n") and said.endswith("\nold\n") and code == 0
    assert said.count("Read-only file system") == 3
    container = sh(volumes, ":", volumes=["db@a:/old"])
    (mount,) = container.inspect()["Mounts"]
    snapshot = volumes.volumes.get("db").get_snapshot("a")
    assert (mount["Name"], mount["Source"], mount["RW"]) == ("db@a", snapshot.path, False)
    with pytest.raises(ContainerRuntimeError, match="volume db@a: nowhere: No such file"):
        run(volumes, ":", volumes=["db@a:/old:subpath=nowhere"])


def test_it_stays_as_long_as_a_container_names_it(volumes: Store) -> None:
    volume = volumes.volumes.get("db")
    snapshot = volume.snapshot("b")
    container = sh(volumes, "cat /old/file", name="reader", volumes=["db@a:/old"])
    [fork] = container.fork(1, name="fork")
    old = volume.get_snapshot("a")
    assert old.users == ("fork", "reader") and snapshot.users == () and volume.users == ("fork", "reader")
    assert old.inspect()["UsedBy"] == ["fork", "reader"]
    with pytest.raises(ConflictError, match="snapshot db@a: in use by container fork, reader; remove that first"):
        old.remove()
    with pytest.raises(ConflictError, match="volume db: in use by container fork, reader"):
        volume.remove()
    for dry_run in (True, False):
        decided = {one.snapshot.name: one.reasons for one in volume.forget(Policy(last=1), dry_run=dry_run)}
        assert decided == {"a": ("in use",), "b": ("last",)}
    assert start(container) == start(fork) == (0, "old\n")
    container.remove()
    fork.remove()
    assert [one.snapshot.name for one in volume.forget(Policy(last=1)) if not one.reasons] == ["a"]


def test_a_volume_goes_back_beside_it(volumes: Store) -> None:
    """Who has the snapshot alone is not in the way of the volume, and is not frozen for it."""
    volume = volumes.volumes.get("db")
    container = sh(volumes, "cat /old/file; sleep 1000", volumes=["db@a:/old"])
    container.start()
    until(lambda: container.state.process.alive)
    volume.snapshot("c")
    volume.rollback("a")
    assert Path(volume.path, "file").read_text() == "old\n"
    container.stop(0)
    both = sh(volumes, "sleep 1000", volumes=["db@a:/old", "db:/new"])
    both.start()
    with pytest.raises(ConflictError, match="runs on it"):
        volume.rollback("c")
    both.stop(0)


def test_one_that_is_not_there(volumes: Store) -> None:
    for source, text in (("db@none", "snapshot db@none: not in this store"), ("none@a", "volume 'none': not in this")):
        with pytest.raises(NotFoundError, match=text):
            sh(volumes, ":", volumes=[f"{source}:/old"])
    assert volumes.containers.list(all=True) == [] and [one.name for one in volumes.volumes.list()] == ["db"]
    for mount in (VolumeMount(None, "/x", snapshot="a"), VolumeMount("db", "/x", snapshot="a/b")):
        with pytest.raises(FormatError, match="not the name of a snapshot"):
            check_mount(mount)


def test_of_a_volume_of_a_limited_size(volumes: Store) -> None:
    volume = volumes.volumes.create("small", size=300 << 20)
    with volume.opened() as place:
        Path(place, "file").write_text("old\n")
    volume.snapshot("a")
    with volume.opened() as place:
        Path(place, "file").write_text("new\n")
    mounts = ["small@a:/old", "small:/new", VolumeMount("small", "/again", snapshot="a")]
    code, said = run(volumes, "exec 2>&1; cat /old/file /new/file /again/file; echo x > /old/file", volumes=mounts)
    assert said.startswith("old\nnew\nold\n") and "Read-only file system" in said and code != 0
    assert run(volumes, "cat /old/file", volumes=["small@a:/old"]) == (0, "old\n")
    with pytest.raises(ConflictError, match="in use by container"):
        volume.get_snapshot("a").remove()
