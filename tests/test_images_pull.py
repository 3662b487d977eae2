"""pull from places that are no registry: dir:, layouts, archives; and of which processes one fetches a layer."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import images_made as made
import pytest
from cli_helpers import Command

from lazarus.content.claims import claim
from lazarus.errors import CorruptError, FormatError, LazarusError, LimitError, NotFoundError, UnsupportedError
from lazarus.images import plan as images_plan
from lazarus.oci.transports import Place, parse_place
from lazarus.store import Store
from lazarus.terms import Digest, ProgressEvent

BASE = made.base_tar()
APP = made.layer({"app": os.urandom(20_000)})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


def image_of(*tars: bytes, name: str | None = "made:1", **more: object) -> made.Made:
    source = made.Made()
    source.image(tars, name, **more)  # type: ignore[arg-type]
    return source


def as_dir(source: made.Made, path: Path, root: bytes, version: bytes = b"Directory Transport Version: 1.1\n") -> Path:
    """skopeo's `dir:`, written by hand."""
    path.mkdir()
    (path / "version").write_bytes(version)
    (path / "manifest.json").write_bytes(root)
    for digest, data in source.blobs.items():
        if data != root:
            suffix = ".manifest.json" if b'"schemaVersion"' in data[:40] else ""
            (path / (digest[7:] + suffix)).write_bytes(data)
    return path


def layers(store: Store) -> int:
    return int(store.catalogue.read().execute("SELECT count(*) FROM layers").fetchone()[0])


# -- the places --


def test_how_places_are_spelled() -> None:
    assert parse_place("docker://localhost:5000/a/b:1") == Place("docker", "localhost:5000/a/b:1")
    assert parse_place("debian:12", bare=True) == Place("docker", "debian:12")
    assert parse_place("dir:/a:b") == Place("dir", "/a:b"), "no tag there, so its colons are of the path"
    assert parse_place("oci-archive:x.tar:a/b:1") == Place("oci-archive", "x.tar", "a/b:1")
    assert parse_place("docker-archive:x.tar:a/b:1") == Place("docker-archive", "x.tar", "a/b:1")
    assert parse_place("docker-archive:x.tar:@1") == Place("docker-archive", "x.tar", "@1")
    for text in ("docker://a:1", "oci:d:t", "oci-archive:f", "docker-archive:f:r:1", "dir:d:x"):
        assert str(parse_place(text)) == text
    for text in ("docker:x", "docker://", "docker://A", "dir:", "oci:/x:", "docker-archive:f:A", "debian:12", "x", ""):
        with pytest.raises(FormatError):
            parse_place(text)
    with pytest.raises(FormatError):
        parse_place("Not/A/Name", bare=True)
    for text in ("containers-storage:x", "docker-daemon:x:1"):
        with pytest.raises(UnsupportedError, match="known are docker://REF, oci:"):
            parse_place(text, bare=True)


def test_dir(store: Store, tmp_path: Path) -> None:
    source = image_of(BASE, APP)
    path = as_dir(source, tmp_path / "dir", source.blobs[source.entries[0]["digest"]])
    [image] = store.images.pull(f"dir:{path}")
    assert (image.digest, image.names) == (source.entries[0]["digest"], ())
    assert image.diff_ids == (made.sha256(BASE), made.sha256(APP))
    store.images.save([image.id], tmp_path / "out.tar")


@pytest.mark.parametrize("version", [None, b"Directory Transport Version: 9\n"])
def test_dir_of_another_version(store: Store, tmp_path: Path, version: bytes | None) -> None:
    source = image_of(BASE)
    path = as_dir(source, tmp_path / "dir", source.blobs[source.entries[0]["digest"]], version or b"")
    if version is None:
        (path / "version").unlink()
        assert store.images.pull(f"dir:{path}")
    else:
        with pytest.raises(UnsupportedError, match="Version: 9"):
            store.images.pull(f"dir:{path}")


def test_what_is_no_dir(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match=r"not an image as skopeo's dir: has it"):
        store.images.pull(f"dir:{tmp_path / 'empty'}")
    with pytest.raises(OSError, match="No such file"):
        store.images.pull(f"dir:{tmp_path / 'nothing'}")


def test_dir_as_skopeo_writes_it(store: Store, tmp_path: Path) -> None:
    source = image_of(BASE, APP)
    layout = source.directory(tmp_path / "layout")
    command = ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{layout}:made:1", f"dir:{tmp_path / 'dir'}"]
    subprocess.run(command, check=True)
    [image] = store.images.pull(f"dir:{tmp_path / 'dir'}")
    assert image.digest == source.entries[0]["digest"]


def test_layouts_and_archives_give_all_of_their_images_or_the_one_with_the_tag(store: Store, tmp_path: Path) -> None:
    source = image_of(BASE, name="a:1")
    source.image([BASE, APP], "b:1")
    places = [f"oci:{source.directory(tmp_path / 'layout')}", f"oci-archive:{source.archive(tmp_path / 'archive')}"]
    for place in places:
        assert [image.loaded_names for image in store.images.pull(place)] == [("a:1",), ("b:1",)]
        assert [image.loaded_names for image in store.images.pull(f"{place}:b:1")] == [("b:1",)]
        with pytest.raises(NotFoundError, match="no tag c:1; there are: a:1, b:1"):
            store.images.pull(f"{place}:c:1")


def test_docker_archive(store: Store, tmp_path: Path) -> None:
    path = made.docker_archive(tmp_path / "a.tar", [BASE, APP], ["a:1", "a:2"])
    [image] = store.images.pull(f"docker-archive:{path}")
    assert image.loaded_names == ("a:1", "a:2") and image.diff_ids == (made.sha256(BASE), made.sha256(APP))
    assert [found.loaded_names for found in store.images.pull(f"docker-archive:{path}:a:2")] == [("a:2",)]
    assert [found.loaded_names for found in store.images.pull(f"docker-archive:{path}:@0")] == [("a:1", "a:2")]
    for tag, message in (("a:3", "no image a:3; there are: a:1, a:2"), ("@1", "no image @1; it has 1")):
        with pytest.raises(NotFoundError, match=message):
            store.images.pull(f"docker-archive:{path}:{tag}")


def test_an_archive_of_another_kind(store: Store, tmp_path: Path) -> None:
    docker = made.docker_archive(tmp_path / "docker.tar", [BASE], ["a:1"])
    oci = image_of(BASE).archive(tmp_path / "oci.tar")
    with pytest.raises(FormatError, match="a docker-archive, not what oci-archive: says"):
        store.images.pull(f"oci-archive:{docker}")
    with pytest.raises(FormatError, match="an image layout, not what docker-archive: says"):
        store.images.pull(f"docker-archive:{oci}")


# -- platforms --


def index_of(source: made.Made, *platforms: str) -> bytes:
    """An image index of the images in `source`, in this order, and a statement about them."""
    entries = [
        {**entry, "platform": dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))}
        for entry, platform in zip(source.entries, platforms, strict=True)
    ]
    statement = source.put(b'{"schemaVersion": 2}')
    entries.append(made.descriptor(f"{made.OCI}manifest.v1+json", statement))
    entries[-1]["platform"] = {"os": "unknown", "architecture": "unknown"}
    data = source.put(json.dumps({"schemaVersion": 2, "manifests": entries}).encode())
    source.entries = [made.descriptor(f"{made.OCI}index.v1+json", data, annotations={})]
    source.entries[0]["annotations"]["org.opencontainers.image.ref.name"] = "many:1"
    return data


def two_platforms() -> tuple[made.Made, bytes, list[str]]:
    source = image_of(BASE, name=None)
    source.image([BASE, APP], None, architecture="arm64")
    digests = [entry["digest"] for entry in source.entries]
    return source, index_of(source, "linux/amd64", "linux/arm64/v8"), digests


def test_one_platform_or_all(store: Store, tmp_path: Path) -> None:
    source, index, (amd, arm) = two_platforms()
    for place in (f"oci:{source.directory(tmp_path / 'layout')}", f"dir:{as_dir(source, tmp_path / 'dir', index)}"):
        assert [image.digest for image in store.images.pull(place, platform="linux/arm64")] == [arm]
        found = store.images.pull(place, platform="amd64", all_platforms=True)
        assert [image.digest for image in found] == [amd, arm]
        with pytest.raises(NotFoundError, match="no image for platform linux/s390x"):
            store.images.pull(place, platform="linux/s390x")
    store.images.pull(f"oci:{tmp_path / 'layout'}", platform="arm64", all_platforms=True)
    assert store.images.get("many:1").digest == arm
    assert store.images.get("many:1-linux-amd64").digest == amd


def test_an_image_for_another_platform_that_stands_alone(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = image_of(BASE, architecture="s390x").directory(tmp_path / "layout")
    store.images.pull(f"oci:{path}")
    assert "an image for platform linux/s390x, this host is linux/" in caplog.text
    with pytest.raises(NotFoundError):
        store.images.pull(f"oci:{path}", platform="linux/ppc64le")


def test_indexes_without_end(store: Store, tmp_path: Path) -> None:
    source, data, _ = two_platforms()
    for _ in range(5):
        entry = made.descriptor(f"{made.OCI}index.v1+json", data)
        data = source.put(json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
    path = as_dir(source, tmp_path / "dir", data)
    with pytest.raises(LazarusError, match="nested more than 4 deep"):
        store.images.pull(f"dir:{path}", all_platforms=True)
    with pytest.raises(LazarusError, match=r"nested more than 4 deep|no image for platform"):
        store.images.pull(f"dir:{path}")


def test_indexes_that_name_the_next_one_many_times(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four documents, 300 ** 3 ways through them."""
    parsed = []
    parse_index = images_plan.parse_index
    monkeypatch.setattr(images_plan, "parse_index", lambda *words: parsed.append(words[2]) or parse_index(*words))
    source = made.Made()
    data = source.put(json.dumps({"schemaVersion": 2, "manifests": []}).encode())
    for _ in range(3):
        entry = made.descriptor(f"{made.OCI}index.v1+json", data)
        data = source.put(json.dumps({"schemaVersion": 2, "manifests": [entry] * 300}).encode())
    path = as_dir(source, tmp_path / "dir", data)
    with pytest.raises(NotFoundError, match="no image in it"):
        store.images.pull(f"dir:{path}", all_platforms=True)
    assert len(parsed) == 4


def test_indexes_of_many_indexes(store: Store, tmp_path: Path) -> None:
    source = made.Made()
    kind = f"{made.OCI}index.v1+json"
    empty = [source.put(json.dumps({"schemaVersion": 2, "manifests": []}).encode() + b" " * n) for n in range(300)]
    entries = [made.descriptor(kind, data) for data in empty]
    data = source.put(json.dumps({"schemaVersion": 2, "manifests": entries}).encode())
    path = as_dir(source, tmp_path / "dir", data)
    with pytest.raises(LimitError, match="more than 256 images"):
        store.images.pull(f"dir:{path}", all_platforms=True)


# -- only what is missing, and what is wrong --


def test_layers_that_are_here_are_not_read(store: Store, tmp_path: Path) -> None:
    store.images.load(image_of(BASE).archive(tmp_path / "base.tar"), keep_blobs=False)
    source = image_of(BASE, APP, compress=True)
    (base,) = [digest for digest, data in source.blobs.items() if data == made.gzip.compress(BASE, mtime=0)]
    path = source.directory(tmp_path / "layout")
    blob = path / "blobs/sha256" / base[7:]
    blob.write_bytes(bytes(len(blob.read_bytes())))  # whoever reads it finds that it is damaged
    events: list[ProgressEvent] = []
    store.images.pull(f"oci:{path}", progress=events.append)
    assert {(event.action, event.name) for event in events} >= {("exists", base)}
    assert {"exists", "done", "publish"} <= {event.action for event in events} <= {"exists", "pull", "done", "publish"}


def test_a_wrong_layer_keeps_the_others_and_makes_no_image(store: Store, tmp_path: Path) -> None:
    source = image_of(BASE, APP)
    app = next(digest for digest, data in source.blobs.items() if data == made.gzip.compress(APP, mtime=0))
    whole = source.blobs[app]
    source.blobs[app] = whole[:-1] + bytes([whole[-1] ^ 1])
    path = source.directory(tmp_path / "layout")
    with pytest.raises(LazarusError):
        store.images.pull(f"oci:{path}")
    assert store.images.list() == [] and layers(store) <= 1 and os.listdir(store.paths.staging) == []
    (path / "blobs/sha256" / app[7:]).write_bytes(whole)
    assert store.images.pull(f"oci:{path}") and layers(store) == 2


def test_a_config_that_speaks_of_another_layer(store: Store, tmp_path: Path) -> None:
    config = {"rootfs": {"type": "layers", "diff_ids": [made.sha256(APP)]}}
    path = image_of(BASE, config=config).directory(tmp_path / "layout")
    with pytest.raises(CorruptError, match="config says"):
        store.images.pull(f"oci:{path}")
    assert layers(store) == 0
    store.images.pull(f"oci:{image_of(BASE).directory(tmp_path / 'right')}")
    with pytest.raises(CorruptError, match="config says"):  # known by its digest by now
        store.images.pull(f"oci:{path}")


def test_blobs_are_kept_where_that_is_asked_for(store: Store, tmp_path: Path) -> None:
    source = image_of(BASE, APP)
    path = source.directory(tmp_path / "layout")
    [image] = store.images.pull(f"oci:{path}")
    assert not any(store.content.has_blob(layer.digest) for layer in image.manifest.layers)
    [image] = store.images.pull(f"oci:{path}", keep_blobs=True)
    assert all(store.content.has_blob(layer.digest) for layer in image.manifest.layers)


# -- who fetches --


def test_of_many_threads_one_has_a_claim(store: Store) -> None:
    digest = Digest("sha256:" + hashlib.sha256(b"x").hexdigest())
    waiting: set[int] = set()
    inside: list[bool] = []
    most = 0
    waited: list[bool] = []

    def wait(seconds: float) -> None:
        waiting.add(threading.get_ident())
        time.sleep(seconds)

    def work() -> None:
        nonlocal most
        with claim(store.paths, digest, wait) as found:
            waited.append(found)
            inside.append(True)
            most = max(most, len(inside))
            while len(waiting) < 7:  # the first one holds it until all others want it
                time.sleep(0.001)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and sorted(waited) == [False, *[True] * 7]


def test_a_claim_dies_with_its_process_and_others_are_free(store: Store) -> None:
    one, other = (Digest("sha256:" + hashlib.sha256(seed).hexdigest()) for seed in (b"1", b"2"))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with claim(store.paths, one, lambda _: os._exit(1)):
            os.write(writing, b"x")
            threading.Event().wait(60)
        os._exit(1)
    os.read(reading, 1)

    def end(_: float) -> None:
        os.kill(child, 9)
        os.waitpid(child, 0)

    with claim(store.paths, other, lambda _: pytest.fail("another digest waits")) as waited:
        assert not waited
    with claim(store.paths, one, end) as waited:
        assert waited
    os.close(reading)
    os.close(writing)


# -- the command --


def test_the_command(tmp_path: Path) -> None:
    run = Command(tmp_path / "store")
    path = image_of(BASE, APP).directory(tmp_path / "layout")
    image = run.ok("pull", "-q", f"oci:{path}:made:1")
    assert run.ok("images", "-q", "--no-trunc") == image
    result = run("pull", "--progress", "json", f"oci:{path}")
    assert {json.loads(line)["action"] for line in result.err.splitlines()} == {"exists", "publish"}
    result = run("pull", f"oci:{path}:other")
    assert (result.code, result.err.count("\n")) == (125, 1) and "no tag other" in result.err
    assert run("pull", "containers-storage:x").code == 125
    assert run("pull").code == 125
