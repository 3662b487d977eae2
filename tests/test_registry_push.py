"""push, copy, search-tags and rmi --remote, with Debian's docker-registry; podman and skopeo read what comes of it."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import images_made as made
import pytest
from cli_helpers import Command
from made_registry import serving
from registry_helpers import Registry, needs_registry, registry
from registry_server import Server, reply

from lazarus.errors import CorruptError, FormatError, LimitError, NotFoundError, UnsupportedError
from lazarus.images.copy import copy_image
from lazarus.layers.chunked.annotations import parse_annotations
from lazarus.oci.documents import parse_descriptor
from lazarus.oci.transports import parse_place
from lazarus.store import Store
from lazarus.terms import ProgressEvent

BASE = made.base_tar()
APP = made.layer({"app": os.urandom(20_000), "text": b"lorem ipsum " * 5000})
pytestmark = needs_registry


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One registry for all; each test has its own repositories."""
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


def load(store: Store, tmp_path: Path, *tars: bytes, name: str = "made:1", keep: bool = True, **more: Any) -> Any:
    source = made.Made()
    source.image(tars, name, **more)
    [image] = store.images.load(source.archive(tmp_path / "in.tar"), keep_blobs=keep)
    return image


def manifest_of(place: str) -> dict[str, Any]:
    """As skopeo reads it."""
    command = ["skopeo", "--insecure-policy", "inspect", "--raw", *(["--tls-verify=false"] if "//" in place else [])]
    return json.loads(subprocess.run([*command, place], check=True, capture_output=True).stdout)  # type: ignore[no-any-return]


def podman_pull(tmp_path: Path, place: str) -> dict[str, Any]:
    """podman pulls it into a store of its own: what it says of the image."""
    insecure = ["--tls-verify=false"] if "//" in place else []
    with tempfile.TemporaryDirectory(prefix="lz-", dir="/run") as short:  # podman takes 50 bytes of path
        options = ["--root", tmp_path / "podman", "--runroot", f"{short}/run", "--tmpdir", f"{short}/tmp"]
        command = ["podman", *options, "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]
        done = subprocess.run([*command, "pull", "-q", *insecure, place], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        shown = subprocess.run([*command, "inspect", done.stdout.strip()], check=True, capture_output=True)
        return json.loads(shown.stdout)[0]  # type: ignore[no-any-return]


# -- push --


def test_what_was_kept_goes_as_it_came(store: Store, tmp_path: Path, where: Registry) -> None:
    image = load(store, tmp_path, BASE, APP)
    events: list[ProgressEvent] = []
    pushed = store.images.push(image, f"{where.host}/kept:1", progress=events.append)
    assert pushed.digest == image.digest and (pushed.blobs, pushed.skipped) == (3, 0)
    assert {event.action for event in events} == {"push", "done"}
    again = store.images.push("made:1", f"docker://{where.host}/kept:2")
    assert (again.digest, again.blobs, again.sent, again.skipped) == (image.digest, 0, 0, 3)
    assert where.blobs >= {layer.digest for layer in image.manifest.layers}


def test_docker_schema_2_stays_what_it_is(store: Store, tmp_path: Path, where: Registry) -> None:
    image = load(store, tmp_path, BASE, docker=True)
    assert store.images.push(image, f"{where.host}/docker:1").digest == image.digest
    assert manifest_of(f"docker://{where.host}/docker:1")["mediaType"].startswith("application/vnd.docker.")


@pytest.mark.parametrize("form", [None, "zstd", "zstd:chunked", "gzip", "none"])
def test_new_layers_are_compressed_on_their_way_once(
    store: Store, tmp_path: Path, where: Registry, form: str | None
) -> None:
    """As a commit makes them. podman and skopeo read what comes of it, and the image stays the same."""
    image = load(store, tmp_path, BASE, APP, compress=False)
    name = f"{where.host}/new-{(form or 'default').replace(':', '-')}"
    pushed = store.images.push(image, f"{name}:1", compression=form)
    assert pushed.blobs == 3 and (pushed.digest == image.digest) == (form == "none")
    manifest = manifest_of(f"docker://{name}:1")
    suffix = {"gzip": "+gzip", "none": ""}.get(form or "", "+zstd")
    assert {layer["mediaType"] for layer in manifest["layers"]} == {f"{made.OCI}layer.v1.tar{suffix}"}
    chunked = form in (None, "zstd:chunked")
    assert all(bool(parse_annotations(parse_descriptor(layer, ""))) == chunked for layer in manifest["layers"])
    again = store.images.push(image, f"{name}:2", compression=form)
    assert (again.digest, again.blobs, again.skipped) == (pushed.digest, 0, 3)
    found = podman_pull(tmp_path, f"docker://{name}:1")
    assert found["Id"] == image.id.hex and found["RootFS"]["Layers"] == [made.sha256(BASE), made.sha256(APP)]
    with Store(tmp_path / "other") as other:
        [back] = other.images.pull(f"{name}:1", keep_blobs=True)
        assert (back.id, back.digest) == (image.id, pushed.digest)
        assert other.images.push(back, f"oci:{tmp_path / 'layout'}", compression=form).digest == pushed.digest


def test_a_level_and_a_form_that_are_asked_for(store: Store, tmp_path: Path, where: Registry) -> None:
    image = load(store, tmp_path, APP)
    sizes = {}
    for form, level in (("zstd", 1), ("zstd", 19), ("gzip", 1), ("gzip", 9)):
        name = f"{where.host}/level:{form}{level}"
        store.images.push(image, name, compression=form, level=level)
        [layer] = manifest_of(f"docker://{name}")["layers"]
        sizes[form, level] = layer["size"]
        assert layer["mediaType"].endswith(f"+{form}")
    assert sizes["zstd", 19] < sizes["zstd", 1]
    for form, level in (("zstd", 23), ("gzip", 10), ("none", 1), ("xz", 0)):
        with pytest.raises(FormatError, match=r"level \d+: \w+ has 1 to|not one of"):
            store.images.push(image, f"{where.host}/level:x", compression=form, level=level)


def test_what_was_not_kept_is_there_or_is_compressed_again(store: Store, tmp_path: Path, where: Registry) -> None:
    image = load(store, tmp_path, BASE, APP)
    store.images.push(image, f"{where.host}/first:1")
    with Store(tmp_path / "other") as other:
        [pulled] = other.images.pull(f"{where.host}/first:1")
        assert not any(other.content.has_blob(layer.digest) for layer in pulled.manifest.layers)
        same = other.images.push(pulled, f"{where.host}/first:2")
        assert (same.digest, same.blobs) == (image.digest, 0)
        # its name says where another repository of the registry has the layers: they are mounted
        mounted = other.images.push(pulled, f"{where.host}/second:1")
        assert (mounted.digest, mounted.blobs, mounted.skipped) == (image.digest, 1, 2)
        assert "POST /v2/second/blobs/uploads/?mount=sha256" in where.log.read_text().replace("%3A", ":")
        other.images.tag(pulled, "without:registry")
        other.images.remove(f"{where.host}/first:1")
        # and so does where it came from, and went to
        mounted = other.images.push("without:registry", f"{where.host}/fourth:1")
        assert (mounted.digest, mounted.blobs, mounted.skipped) == (image.digest, 1, 2)
        with other.catalogue.write() as connection:
            connection.execute("DELETE FROM blob_places")
        anew = other.images.push("without:registry", f"{where.host}/third:1")
        assert anew.digest != image.digest and anew.blobs == 3
        assert other.images.pull(f"{where.host}/third:1")[0].id == image.id


@pytest.mark.parametrize("answer", [reply(403), reply(401), reply(404), reply(400)])
def test_a_mount_that_is_refused_is_a_blob_to_send(store: Store, tmp_path: Path, answer: bytes) -> None:
    """Where we may push we need not be somebody who may read the repository that has it."""
    image = load(store, tmp_path, BASE)
    with Server() as server:
        store.images.tag(image, f"{server.host}/theirs:1")
        server.script = lambda asked: answer if "mount" in asked.query else None
        pushed = store.images.push(image, f"{server.host}/ours:1")
        assert server.seen("POST", "mount=") and pushed.digest in server.manifests
        assert pushed.blobs == 2


def test_of_a_chunked_layer_only_new_files_come(store: Store, tmp_path: Path, where: Registry) -> None:
    """Pushed as zstd:chunked, pulled where most of its files are: a fraction of the bytes, and the same layer."""
    files = {f"{number}": os.urandom(50_000) for number in range(40)}
    old = load(store, tmp_path, made.layer(files), name="old:1", compress=False)
    new = load(store, tmp_path, made.layer({**files, "0": os.urandom(50_000)}), name="new:1", compress=False)
    for image, tag in ((old, "old"), (new, "new")):
        store.images.push(image, f"{where.host}/chunked:{tag}")
    [layer] = manifest_of(f"docker://{where.host}/chunked:new")["layers"]
    with Store(tmp_path / "other") as other:
        other.images.pull(f"{where.host}/chunked:old")
        events: list[ProgressEvent] = []
        [image] = other.images.pull(f"{where.host}/chunked:new", progress=events.append)
        assert {event.action for event in events} <= {"parts", "done", "publish"}, "it never came whole"
        assert all(0 < event.done <= event.total for event in events if event.action == "parts")
        assert other.layers.find_by_blob(layer["digest"]) is None, "nobody saw all of its bytes"
        assert image.diff_ids == new.diff_ids and list(other.check()) == []
        assert other.images.push(image, f"{where.host}/chunked:again").digest == image.digest
        kept = other.images.pull(f"{where.host}/chunked:new", keep_blobs=True, progress=events.append)
        assert events[-2].action == "done" and other.content.has_blob(kept[0].manifest.layers[0].digest)


def test_all_platforms_become_an_image_index(store: Store, tmp_path: Path, where: Registry) -> None:
    amd = load(store, tmp_path, BASE, name="many:1")
    arm = load(store, tmp_path, BASE, APP, name="many:1-linux-arm64", architecture="arm64")
    load(store, tmp_path, APP, name="many:1-linux-else")
    name = f"{where.host}/many:1"
    pushed = store.images.push("many:1", name, all_platforms=True)
    index = manifest_of(f"docker://{name}")
    assert [entry["digest"] for entry in index["manifests"]] == [amd.digest, arm.digest]
    assert [entry["platform"]["architecture"] for entry in index["manifests"]] == ["amd64", "arm64"]
    assert store.images.push("many:1", name).digest == amd.digest != pushed.digest
    with Store(tmp_path / "other") as other:
        store.images.push("many:1", name, all_platforms=True)
        found = other.images.pull(name, all_platforms=True, platform="amd64")
        assert [image.digest for image in found] == [amd.digest, arm.digest]
        assert other.images.push(name, all_platforms=True).digest == pushed.digest


def test_a_neighbour_of_another_platform_than_its_name_says(
    store: Store, tmp_path: Path, where: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody named it so by hand."""
    amd = load(store, tmp_path, BASE, name="two:1")
    load(store, tmp_path, APP, name="two:1-linux-arm64")
    load(store, tmp_path, APP, name="two:1-slim")
    assert store.images.push("two:1", f"{where.host}/two:1", all_platforms=True).digest == amd.digest
    assert [record.getMessage() for record in caplog.records if "left out" in record.getMessage()] == [
        "two:1-linux-arm64: left out, because it is for platform linux/amd64"
    ]


def test_an_index_that_calls_platforms_otherwise_than_their_configs(
    store: Store, where: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """What the index said counts: configs often leave the variant out."""
    source = made.Made()
    source.image([BASE], None)
    source.image([BASE, APP], None, architecture="arm")
    offered = [{"os": "linux", "architecture": "amd64"}, {"os": "linux", "architecture": "arm", "variant": "v7"}]
    entries = [
        {**entry, "platform": platform, "annotations": {}}
        for entry, platform in zip(source.entries, offered, strict=True)
    ]
    kind = f"{made.OCI}index.v1+json"
    index = source.put(json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode())
    with serving(source, all=made.sha256(index)) as server:
        images = store.images.pull(f"{server.host}/a:all", platform="amd64", all_platforms=True, keep_blobs=True)
        assert [str(image.platform) for image in images] == ["linux/amd64", "linux/arm/v7"]
        assert images[1].names == (f"{server.host}/a:all-linux-arm-v7",)
        store.images.push(f"{server.host}/a:all", f"{where.host}/called:1", all_platforms=True)
    pushed = manifest_of(f"docker://{where.host}/called:1")
    assert [entry["platform"] for entry in pushed["manifests"]] == offered
    assert [entry["digest"] for entry in pushed["manifests"]] == [image.digest for image in images]
    assert not caplog.records


def test_other_places(store: Store, tmp_path: Path) -> None:
    image = load(store, tmp_path, BASE, APP)
    plain = load(store, tmp_path, APP, compress=False, name="plain:1")
    for number, place in enumerate(
        (f"oci:{tmp_path / 'a'}:v1", f"oci-archive:{tmp_path / 'b.tar'}:v1", f"dir:{tmp_path / 'c'}")
    ):
        pushed = store.images.push(image, place)
        assert pushed.digest == image.digest and manifest_of(place)["layers"]
        assert podman_pull(tmp_path / str(number), place)["Id"] == image.id.hex
        with Store(tmp_path / f"store{number}") as other:
            assert other.images.pull(place)[0].digest == image.digest
    assert store.images.push(image, f"oci:{tmp_path / 'a'}:v2").blobs == 0
    assert store.images.push(plain, f"oci-archive:{tmp_path / 'd.tar'}").blobs == 2
    assert podman_pull(tmp_path / "d", f"oci-archive:{tmp_path / 'd.tar'}")["Id"] == plain.id.hex
    store.images.push(image, f"docker-archive:{tmp_path / 'e.tar'}:other:2")
    found = podman_pull(tmp_path / "e", f"docker-archive:{tmp_path / 'e.tar'}")
    assert found["Id"] == image.id.hex and found["RepoTags"] == ["localhost/other:2"]


def test_what_cannot_be_pushed(store: Store, tmp_path: Path, where: Registry) -> None:
    image = load(store, tmp_path, BASE)
    with pytest.raises(NotFoundError):
        store.images.push("none:1", f"{where.host}/x:1")
    with pytest.raises(FormatError, match="no name that says where to"):
        store.images.push(str(image.id))
    with pytest.raises(CorruptError):
        store.images.push(image, f"{where.host}/x@{made.sha256(b'something else')}")
    with pytest.raises(UnsupportedError):
        store.images.push(image, "containers-storage:x")
    os.unlink(store.paths.blob(image.manifest.layers[0].digest))
    with pytest.raises(NotFoundError):
        store.images.push(image, f"{where.host}/lost:1")


def test_a_name_by_digest_is_checked_before_anything_is_sent(store: Store, tmp_path: Path, where: Registry) -> None:
    def rest(name: str) -> Any:
        return load(store, tmp_path, made.layer({name: os.urandom(5000)}), name=f"{name}:1", compress=name != "plain")

    kept, plain, other = rest("kept"), rest("plain"), made.sha256(b"something else")
    before = where.blobs
    with pytest.raises(CorruptError, match=f"by@{other}: the manifest has digest {kept.digest}"):
        store.images.push(kept, f"{where.host}/by@{other}")
    with pytest.raises(CorruptError, match="the manifest has digest sha256:"):
        store.images.push(plain, f"{where.host}/by@{other}", compression="none")
    with pytest.raises(UnsupportedError, match=r"by@sha256:.* is compressed on its way, .*; push it by a tag"):
        store.images.push(plain, f"{where.host}/by@{plain.digest}")
    store.images.push(kept, f"oci:{tmp_path / 'layout'}:1")
    with pytest.raises(CorruptError, match="the manifest has digest"):
        copy_image(parse_place(f"oci:{tmp_path / 'layout'}:1"), parse_place(f"docker://{where.host}/by@{other}"))
    assert where.blobs == before
    assert store.images.push(kept, f"{where.host}/by@{kept.digest}").digest == kept.digest
    pushed = store.images.push(plain, f"{where.host}/tagged:1").digest
    assert store.images.push(plain, f"{where.host}/tagged@{pushed}").digest == pushed


def test_damaged_content_is_not_pushed(store: Store, tmp_path: Path, where: Registry) -> None:
    """A blob that was kept, and an object of a layer that is compressed on its way."""
    kept = load(store, tmp_path, BASE)
    plain = load(store, tmp_path, APP, compress=False, name="plain:1")
    blob = store.paths.blob(kept.manifest.layers[0].digest)
    [item] = [
        f"{root}/{name}"
        for root, _, names in os.walk(store.paths.objects)
        for name in names
        if os.path.getsize(f"{root}/{name}") == 20_000
    ]
    for path in (blob, item):
        os.chmod(path, 0o644)
        data = Path(path).read_bytes()
        Path(path).write_bytes(bytes(9) + data[9:])
    for number, image in enumerate((kept, plain)):
        with pytest.raises((CorruptError, OSError, Exception)) as caught:
            store.images.push(image, f"{where.host}/damaged{number}:1")
        assert "\n" not in str(caught.value)
        with pytest.raises(NotFoundError):
            store.images.pull(f"{where.host}/damaged{number}:1")
        with pytest.raises(CorruptError):
            store.images.push(image, f"oci:{tmp_path / 'layout'}:{number}")
    assert os.listdir(tmp_path / "layout/blobs/sha256") == []


# -- copy --


def index_of(source: made.Made) -> str:
    """An image index of both images of `source`, which becomes its only entry: its digest."""
    entries = [
        {**entry, "platform": {"os": "linux", "architecture": name}, "annotations": {}}
        for entry, name in zip(source.entries, ("amd64", "arm64"), strict=True)
    ]
    kind = f"{made.OCI}index.v1+json"
    data = source.put(json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode())
    source.entries = [made.descriptor(kind, data, annotations={"org.opencontainers.image.ref.name": "v1"})]
    return made.sha256(data)


def test_a_copy_goes_round_and_stays_the_same(tmp_path: Path, where: Registry) -> None:
    source = made.Made()
    source.image([BASE, APP], "v1")
    source.image([BASE], "v1", architecture="arm64")
    first, second = (entry["digest"] for entry in source.entries)
    index = index_of(source)
    places = [
        f"oci:{source.directory(tmp_path / 'first')}:v1",
        f"docker://{where.host}/round:1",
        f"oci-archive:{tmp_path / 'archive.tar'}:v1",
        f"docker://{where.host}/round2:1",
        f"dir:{tmp_path / 'directory'}",
        f"docker://{where.host}/round3@{index}",
        f"oci:{tmp_path / 'last'}:v1",
    ]
    for begin, end in itertools.pairwise(places):
        copied = copy_image(parse_place(begin), parse_place(end), all_platforms=True)
        assert copied.digest == index
    assert len(manifest_of(places[-1])["manifests"]) == 2
    for name in source.blobs:
        assert (tmp_path / "last/blobs/sha256" / name[7:]).read_bytes() == source.blobs[name]
    for begin in places[:2]:  # one image of two would look like all of them
        with pytest.raises(UnsupportedError, match="holds no image index"):
            copy_image(parse_place(begin), parse_place(f"docker-archive:{tmp_path / 'one'}:x:1"), all_platforms=True)
    assert not (tmp_path / "one").exists()
    again = copy_image(parse_place(places[-1]), parse_place(places[1]), all_platforms=True)
    assert (again.blobs, again.sent) == (0, 0) and again.skipped == 4
    mounted = copy_image(parse_place(places[1]), parse_place(f"docker://{where.host}/round4:1"), all_platforms=True)
    assert (mounted.blobs, mounted.skipped) == (0, 4), "blobs of one registry are mounted"
    for architecture, digest in (("amd64", first), ("arm64", second)):
        command = Command(tmp_path / "none")
        words = ("copy", "--platform", f"linux/{architecture}", places[1], f"docker://{where.host}/one:{architecture}")
        assert command.ok(*words) == digest


def test_copies_with_docker_archives(store: Store, tmp_path: Path, where: Registry) -> None:
    image = load(store, tmp_path, BASE, APP)
    store.images.push(image, f"{where.host}/docker-archive:1")
    archive = f"docker-archive:{tmp_path / 'a.tar'}:made:2"
    copy_image(parse_place(f"docker://{where.host}/docker-archive:1"), parse_place(archive))
    assert podman_pull(tmp_path, f"docker-archive:{tmp_path / 'a.tar'}")["Id"] == image.id.hex
    copied = copy_image(parse_place(archive), parse_place(f"docker://{where.host}/docker-archive:2"))
    manifest = manifest_of(f"docker://{where.host}/docker-archive:2")
    assert [layer["digest"] for layer in manifest["layers"]] == [made.sha256(BASE), made.sha256(APP)]
    assert store.images.pull(f"{where.host}/docker-archive:2")[0].digest == copied.digest


def test_a_copy_of_bad_bytes_shows_nothing(tmp_path: Path, where: Registry) -> None:
    source = made.Made()
    layer = made.layer({"bad": os.urandom(9000)})
    source.image([BASE, layer], "v1")
    bad = made.sha256(made.gzip.compress(layer, mtime=0))
    with serving(source) as server:
        server.trouble[bad] = lambda answer, data: answer.give(bytes(len(data)))
        targets = [f"oci:{tmp_path / 'a'}:v1", f"oci-archive:{tmp_path / 'b'}", f"dir:{tmp_path / 'c'}"]
        for target in (*targets, f"docker://{where.host}/bad:1", f"docker-archive:{tmp_path / 'd'}:x:1"):
            with pytest.raises(CorruptError, match=bad[7:19]):
                copy_image(parse_place(f"docker://{server.host}/a:1"), parse_place(target))
    assert not any((tmp_path / name).exists() for name in "bcd")
    assert json.loads((tmp_path / "a/index.json").read_text())["manifests"] == []
    assert bad not in where.blobs


def test_a_copy_unpacks_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A docker-archive has layers as plain tars: what a registry's few bytes may become is bounded as for a pull."""
    monkeypatch.setattr("lazarus.images.source._RATIO_FREE", 1 << 20)
    monkeypatch.setattr("lazarus.images.source._MAX_RATIO", 100)
    bomb = made.Made()
    bomb.image([made.layer({"bomb": bytes(8 << 20)})], "v1")
    with serving(bomb) as server, pytest.raises(LimitError, match=r"^layer sha256:"):
        copy_image(parse_place(f"docker://{server.host}/a:1"), parse_place(f"docker-archive:{tmp_path / 'out'}:x:1"))
    assert os.listdir(tmp_path) == []


def test_which_image_is_copied(tmp_path: Path) -> None:
    source = made.Made()
    source.image([BASE], "v1")
    source.image([APP], "v2")
    place, target = f"oci:{source.directory(tmp_path / 'layout')}", parse_place(f"dir:{tmp_path / 'out'}")
    for tag, message in (("", "not one image; tags: v1, v2"), (":v3", "no such tag; tags: v1, v2")):
        with pytest.raises(NotFoundError, match=message):
            copy_image(parse_place(place + tag), target)
    assert copy_image(parse_place(f"{place}:v2"), target).digest == source.entries[1]["digest"]


# -- the command line --


def test_the_commands(tmp_path: Path, where: Registry) -> None:
    run = Command(tmp_path / "store")
    run.import_something("made:1")
    name = f"{where.host}/commands"
    digest = run.ok("push", "--digestfile", str(tmp_path / "digest"), "-q", "made:1", f"{name}:1")
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest) and (tmp_path / "digest").read_text() == digest
    run.ok("tag", "made:1", f"{name}:2")
    result = run("push", "--progress", "json", f"{name}:2")
    assert result.out.strip() == digest
    assert {json.loads(line)["action"] for line in result.err.splitlines()} == {"exists"}
    assert run.ok("copy", "-q", f"docker://{name}:1", f"docker://{name}:3") == digest
    assert sorted(run.ok("search-tags", name).split()) == ["1", "2", "3"]
    assert len(run.ok("search-tags", "--limit", "2", f"docker://{name}:1").split()) == 2
    assert sorted(json.loads(run.ok("search-tags", "--format", "json", name))["Tags"]) == ["1", "2", "3"]
    assert run.ok("rmi", "--remote", f"docker://{name}:2") == f"Deleted: {digest}"
    assert run("pull", f"{name}:1").code == 125, "a digest goes with all of its tags"
    assert run.ok("images", "-q"), "the store keeps what it has"
    result = run("rmi", "--remote", f"{name}:2")
    assert (result.code, result.err.count("\n")) == (1, 1) and "no such manifest" in result.err
    for words in (
        ("push", "made:1", "Bad/Name:1"),
        ("push", "none:1"),
        ("push", "--compression-format", "xz", "made:1", f"{name}:1"),
        ("push", "--compression-level", "99", "made:1", f"{name}:1"),
        ("copy", "made:1", f"docker://{name}:1"),
        ("copy", f"docker://{name}:none", f"dir:{tmp_path / 'd'}"),
        ("copy", "--platform", "linux/", f"docker://{name}:1", f"dir:{tmp_path / 'd'}"),
        ("search-tags", f"{where.host}/nothing/here"),
        ("search-tags", "dir:x"),
        ("pull", "127.0.0.1:1/x"),
    ):
        result = run(*words)
        assert result.code == 125 and result.out == "" and len(result.err.splitlines()[-1]) < 400, result
        assert result.err.count("\n") == 1 or "usage:" in result.err, result
