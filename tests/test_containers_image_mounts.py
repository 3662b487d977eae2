"""Images mounted in containers: read-only or with an upper of their own, which is kept, listed and committed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from container_helpers import execute, run, sh, start

from lazarus.errors import ConflictError, ContainerRuntimeError, FormatError, NotFoundError
from lazarus.store import Store
from lazarus.volumes.mounts import ImageMount
from lazarus.volumes.spelling import parse_mount

pytest_plugins = ("container_fixtures",)
pytestmark = pytest.mark.root


@pytest.fixture
def data(store: Store) -> str:
    """An image with two files more than `small:latest`."""
    made = sh(store, "mkdir /set && echo one > /set/a && echo two > /set/b")
    start(made)
    made.commit("data:1")
    made.remove()
    return "data:1"


def test_it_is_read_only_unless_said_otherwise(store: Store, data: str) -> None:
    code, said = run(store, "cat /data/set/a; touch /data/x", volumes=[ImageMount(data, "/data")])
    assert code != 0 and said.startswith("one\n") and "Read-only" in said


def test_what_is_written_is_the_containers_own_and_stays(store: Store, data: str) -> None:
    mount = parse_mount(f"type=image,source={data},target=/data,rw")
    one = sh(store, "echo more >> /data/set/a; rm -f /data/set/b; cat /data/set/a", volumes=[mount])
    other = sh(store, "cat /data/set/*", volumes=[mount])
    assert start(one) == (0, "one\nmore\n")
    assert start(other) == (0, "one\ntwo\n")
    assert start(one) == (0, "one\nmore\nmore\n")
    assert [(change.change, change.path) for change in one.diff(mount="/data")] == [
        ("C", b"/set"),
        ("C", b"/set/a"),
        ("D", b"/set/b"),
    ]
    assert all(not change.path.startswith(b"/data/") for change in one.diff())


def test_it_is_committed_to_an_image_of_its_own(store: Store, data: str) -> None:
    mount = ImageMount(data, "/data", writable=True)
    made = sh(store, "echo more >> /data/set/a", volumes=[mount], name="changes")
    start(made)
    image = made.commit("data:2", mount="/data")
    assert image.diff_ids[:-1] == store.images.get(data).diff_ids
    made.remove()
    assert run(store, "cat /d/a", volumes=[ImageMount("data:2", "/d", subpath="set")]) == (0, "one\nmore\n")


def test_commit_while_it_is_written(store: Store, data: str) -> None:
    made = sh(store, "sleep 60", volumes=[ImageMount(data, "/data", writable=True)])
    made.start()
    assert execute(made, "sh", "-c", "echo live > /data/set/c") == (0, "")
    assert "set/c" in str(made.diff(mount="/data"))
    image = made.commit("data:live", mount="/data")
    made.kill()
    made.wait()
    assert run(store, "cat /d/set/c", volumes=[ImageMount(image.id, "/d")]) == (0, "live\n")


def test_the_image_stays_as_long_as_the_container(store: Store, data: str) -> None:
    made = sh(store, "cat /data/set/a", volumes=[ImageMount(data, "/data")], name="reader")
    with pytest.raises(ConflictError, match="container reader uses it"):
        store.images.remove(data)
    store.images.remove(data, force=True)
    store.prune(all_images=True)
    assert start(made) == (0, "one\n")
    assert len(os.listdir(store.paths.containers)) == 2
    other = sh(store, ":")  # keeps `small:latest`
    made.remove()
    assert os.listdir(store.paths.containers) == [other.id]
    store.prune(all_images=True)
    with pytest.raises(NotFoundError):
        store.images.get(data)


def test_a_part_is_no_container(store: Store, data: str) -> None:
    made = sh(store, ":", volumes=[ImageMount(data, "/data", writable=True)])
    assert [one.id for one in store.containers.list(all=True)] == [made.id]
    with pytest.raises(NotFoundError):
        store.containers.get(made.settings.images[0].part)
    assert made.inspect()["Mounts"][0]["Type"] == "image"


def test_what_cannot_be(store: Store, data: str) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        sh(store, ":", volumes=[ImageMount("nowhere:1", "/data")])
    for text in (
        "type=image,target=/data",
        f"type=image,source={data},target=/data,ro,rw",
        f"type=image,source={data},target=/data,nocopy",
        f"type=image,source={data},target=/data,subpath=../etc",
        "type=volume,source=v,target=/data,rw",
    ):
        with pytest.raises(FormatError):
            parse_mount(text)
    assert store.containers.list(all=True) == []
    made = sh(store, ":", volumes=[ImageMount(data, "/data", subpath="set/a"), ImageMount(data, "/e")], name="odd")
    with pytest.raises(ContainerRuntimeError, match="set/a"):
        start(made)
    with pytest.raises(NotFoundError, match="no image is mounted writable at /other"):
        made.diff(mount="/other")
    assert os.listdir(store.paths.trash) == []


def test_no_symlink_in_the_image_leads_out(store: Store) -> None:
    made = sh(store, "ln -s / /out && ln -s .. /up")
    start(made)
    made.commit("links:1")
    for name in ("out", "up"):
        code, said = run(store, "ls /d", volumes=[ImageMount("links:1", "/d", subpath=name)])
        assert code == 0 and {"bin", "out", "up"} <= set(said.split()), "the image's own root, not the host's"


def test_a_container_killed_at_its_start_leaves_no_mount(store: Store, data: str) -> None:
    made = sh(store, ":", volumes=[ImageMount(data, "/data", writable=True)])
    from lazarus.containers import parts

    list(parts.prepare(store, made.settings))  # as if killed here
    assert start(made)[0] == 0
    assert made.id not in Path("/proc/self/mountinfo").read_text()
    list(parts.prepare(store, made.settings))
    made.remove()
    assert os.listdir(store.paths.containers) == []
