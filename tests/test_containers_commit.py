"""Diff and commit: what has changed and only that, as a layer that any tool reads and that is the same every time."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from container_helpers import logged, run, sh, start, until

from lazarus.containers import Container
from lazarus.errors import FormatError, NotFoundError
from lazarus.images import Image
from lazarus.store import Store
from lazarus.terms import Digest

pytest_plugins = ("container_fixtures",)
pytestmark = pytest.mark.root

CHANGES = "echo new > /new; chmod 600 /etc/passwd; rm /data/link; mv /home /house; ln /new /tmp/hard; mkdir /empty"


@pytest.fixture
def changed(store: Store) -> Container:
    container = sh(store, CHANGES, name="changed")
    assert start(container) == (0, "")
    return container


def layer(store: Store, image: Image) -> dict[str, tarfile.TarInfo]:
    """The members of an image's last layer."""
    fd = os.memfd_create("tar")
    with open(fd, "r+b") as file:
        store.layers.get(image.diff_ids[-1]).write_tar(fd)
        file.seek(0)
        return {info.name: info for info in tarfile.open(fileobj=file)}


def config(store: Store, image: Image) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(store.content.read_blob(Digest(image.id)))
    return document


def test_diff(changed: Container) -> None:
    found = {change.path: change.change for change in changed.diff()}
    assert (
        found.items()
        >= {
            b"/new": "A",
            b"/tmp/hard": "A",
            b"/etc/passwd": "C",
            b"/data/link": "D",
            b"/home": "D",
            b"/house": "A",
            b"/house/bob": "A",
            b"/empty": "A",
        }.items()
    )
    passwd = next(change for change in changed.diff() if change.path == b"/etc/passwd")
    assert not passwd.content, "its attributes alone"


def test_a_commit_is_the_tree_that_was_seen(store: Store, changed: Container) -> None:
    image = changed.commit("mine:latest")
    assert list(image.names) == ["mine:latest"] and image.diff_ids[:-1] == changed.image.diff_ids
    members = layer(store, image)
    assert {"data/.wh.link", ".wh.home", "house/bob", "new", "tmp/hard"} <= set(members)
    assert members["new"].islnk() or members["tmp/hard"].islnk()
    assert "bin/sh" not in members and "data/file" not in members
    script = "cat /new; ls -d /house/bob /empty; test ! -e /home; test ! -e /data/link; cat /etc/passwd | wc -l"
    code, text = start(store.containers.create("mine", command=["sh", "-c", script]))
    assert (code, text) == (0, "new\n/empty\n/house/bob\n2\n")
    assert run(store, "test -e /new")[0] == 1, "the image itself is as it was"


def test_the_same_changes_are_the_same_layer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    images = []
    for number in range(2):
        container = sh(store, CHANGES)
        start(container)
        images.append(container.commit(f"same:{number}", compression="zstd" if number else "gzip"))
    assert images[0].diff_ids == images[1].diff_ids
    again = container.commit("same:2", compression="zstd")
    assert (again.digest, again.id) == (images[1].digest, images[1].id)
    assert config(store, again)["created"].startswith("2001-09-09T01:46:40")
    assert max(info.mtime for info in layer(store, again).values()) <= 1000000000
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(FormatError, match="SOURCE_DATE_EPOCH"):
        container.commit()


def test_what_is_said_about_it(store: Store, changed: Container) -> None:
    instructions = [
        'CMD ["cat", "/new"]',
        "ENV A=1 B=2",
        "LABEL x=y",
        "USER bob",
        "WORKDIR /data",
        "EXPOSE 80/tcp",
        "STOPSIGNAL SIGINT",
        "VOLUME /vol",
    ]
    image = changed.commit("said:1", changes=instructions, message="what I did", author="me <me@example.org>")
    document = config(store, image)
    assert document["author"] == "me <me@example.org>"
    assert document["history"][-1]["comment"] == "what I did"
    assert len([entry for entry in document["history"] if not entry.get("empty_layer")]) == len(image.diff_ids)
    settings = document["config"]
    assert settings["Cmd"] == ["cat", "/new"] and {"A=1", "B=2"} <= set(settings["Env"])
    assert (settings["User"], settings["WorkingDir"], settings["Labels"]) == ("bob", "/data", {"x": "y"})
    container = store.containers.create("said:1")
    assert start(container) == (0, "new\n") and container.settings.stop_signal == "SIGINT"


@pytest.mark.parametrize("change", ["", "RUN x", "CMD [", "ENV", "FROM x", "STOPSIGNAL"])
def test_changes_that_are_none(store: Store, changed: Container, change: str) -> None:
    before = {image.id for image in store.images.list()}
    with pytest.raises(FormatError):
        changed.commit("bad:1", changes=[change])
    assert {image.id for image in store.images.list()} == before and os.listdir(store.paths.staging) == []


def test_formats(store: Store, changed: Container) -> None:
    for compression, media_type in (("gzip", "tar+gzip"), ("zstd", "tar+zstd"), ("none", "tar")):
        image = changed.commit(f"format:{compression}", compression=compression)
        descriptor = json.loads(store.content.read_blob(image.digest))["layers"][-1]
        assert descriptor["mediaType"].endswith(media_type)
        out = io.BytesIO()
        if compression == "gzip":
            data = store.content.read_blob(Digest(descriptor["digest"]))
            out.write(gzip.decompress(data))
            out.seek(0)
            assert "new" in tarfile.open(fileobj=out).getnames()
    with pytest.raises(FormatError, match="lzma"):
        changed.commit(compression="lzma")


def test_names(store: Store, changed: Container) -> None:
    assert changed.commit().names == () or list(changed.commit().names) == []
    for bad in ("UPPER", "a b", "", "x@sha256:1"):
        with pytest.raises(FormatError):
            changed.commit(bad)
    first, second = changed.commit("moved:1"), changed.commit("moved:1", message="2")
    assert store.images.get("moved:1").id == second.id != first.id


def test_nothing_changed(store: Store) -> None:
    container = sh(store, ":")
    image = container.commit("nothing:1")
    assert start(store.containers.create(image, command=["cat", "/data/file"])) == (0, "from the image\n")


def test_in_steps(store: Store) -> None:
    """Each commit adds its own layer, and a file of the first can be taken away by the second."""
    first = sh(store, "echo 1 > /one; echo x > /shared")
    start(first)
    one = first.commit("step:1")
    second = store.containers.create(one, command=["sh", "-c", "rm /one; echo 2 > /two"])
    start(second)
    two = second.commit("step:2")
    assert two.diff_ids[:-1] == one.diff_ids
    assert set(layer(store, two)) >= {".wh.one", "two"} and "shared" not in layer(store, two)
    script = "test ! -e /one && cat /two /shared"
    assert start(store.containers.create(two, command=["sh", "-c", script])) == (0, "2\nx\n")


def test_while_it_runs(store: Store) -> None:
    """Files come and go under the commit's hands: it succeeds, and everything that kept still is whole."""
    script = """
        seq 1 20000 > /still; mkdir /churn; echo up
        i=0; while :; do i=$((i+1)); echo $i > /churn/$i; mv /churn/$i /churn/x$i; rm -f /churn/x$((i-20)); done
    """
    container = sh(store, script)
    container.start()
    until(lambda: logged(container))
    for number in range(5):
        image = container.commit(f"busy:{number}")
        lines = ["sh", "-c", "cat /still | wc -l"]
        assert start(store.containers.create(image, command=lines)) == (0, "20000\n")
        container.diff()
    assert container.status == "running"
    container.stop(timeout=0)


def test_a_commit_keeps_its_container(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A remove from elsewhere waits: a file that vanishes would be taken as one that the container removed."""
    from lazarus.containers import changes

    container = sh(store, "echo kept > /kept")
    start(container)
    reading = threading.Event()
    real = changes._read_upper

    def slowly(*arguments: Any) -> Any:
        reading.set()
        time.sleep(0.3)
        return real(*arguments)

    monkeypatch.setattr(changes, "_read_upper", slowly)

    def remove() -> None:
        reading.wait()
        with Store(store.paths.root) as other:
            other.containers.get(container.id).remove(force=True)

    remover = threading.Thread(target=remove)
    remover.start()
    image = container.commit("kept:1")
    remover.join()
    assert "kept" in layer(store, image)
    for act in (container.commit, container.diff, container.mount):
        with pytest.raises(NotFoundError, match=r"removed|no such|not in"):
            act()


def test_the_image_lost_its_name(store: Store, small_tar: Path) -> None:
    store.images.import_(str(small_tar), "lost:1", changes=['CMD ["sh"]', "LABEL l=1"])
    container = store.containers.create("lost:1")
    store.images.remove("lost:1", force=True)
    container = store.containers.get(container.id)
    assert container.diff() == []
    image = container.commit("x:1")
    assert image.diff_ids[:-1] == container.image.diff_ids and image.config.config["Labels"] == {"l": "1"}


def test_what_came_up_block_by_block_is_the_same_layer(store: Store) -> None:
    """A commit reads it as it is: blocks from the upper, the rest from the object. Settled, it is the same again."""
    container = sh(store, "true", name="blocks")
    with container.stack(rung="blocks") as stack:
        path = stack.realpath("/bin/sh")
        before = stack.open(path, "rb").read()
        with stack.open(path, "r+b") as file:
            file.seek(100_000)
            file.write(b"changed")
            file.seek(0, os.SEEK_END)
            file.write(b"tail")
        info = stack.lookup(path)
        assert info is not None and info.unsettled
        assert [change.path for change in container.diff() if change.kind == "file"] == [b"/" + path.strip(b"/")]
        unsettled = container.commit("blocks:unsettled")
        info = stack.lookup(path)
        assert info is not None and info.unsettled  # and stays so
    settled = container.commit("blocks:settled")
    assert settled.diff_ids == unsettled.diff_ids
    with settled.stack() as stack:
        found = stack.open(path, "rb").read()
    assert found == before[:100_000] + b"changed" + before[100_007:] + b"tail"


def test_blocks_that_hold_what_the_image_does_are_no_change(store: Store) -> None:
    container = sh(store, "true", name="same")
    with container.stack(rung="blocks") as stack:
        path = stack.realpath("/bin/sh")
        info = stack.stat(path)
        with stack.open(path, "r+b") as file:
            block = file.read(8192)
            file.seek(0)
            file.write(block)
        [change] = [change for change in container.diff() if change.kind == "file"]
        assert not change.content  # only its time
        stack.utime(path, ns=(info.st_mtime_ns, info.st_mtime_ns))
        assert not [change for change in container.diff() if change.kind == "file"]
        image = container.commit("same:again")
    assert not [name for name, member in layer(store, image).items() if member.isreg()]
