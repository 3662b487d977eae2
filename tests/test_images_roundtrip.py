"""What goes in comes out: every format, names, platforms, and what another tool reads of what we write."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import images_made as made
import pytest

import lazarus
from lazarus import errors
from lazarus.oci import platforms


@pytest.fixture
def store(tmp_path: Path) -> Iterator[lazarus.Store]:
    with lazarus.Store(tmp_path / "store") as store:
        yield store


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        found = {}
        for info in tar:
            member = tar.extractfile(info)
            if member is not None:
                found[info.name] = member.read()
        return found


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker schema 2"])
@pytest.mark.parametrize("compress", [False, True], ids=["tar", "gzip"])
def test_same_manifest_and_same_blobs(store: lazarus.Store, tmp_path: Path, docker: bool, compress: bool) -> None:
    source = made.Made()
    entry = source.image([made.base_tar(), made.layer({"etc/.wh.motd": b""})], docker=docker, compress=compress)
    (image,) = store.images.load(source.archive(tmp_path / "in.tar"))
    assert image.digest == entry["digest"] and image.names == ("made:latest",)
    store.images.save(["made"], tmp_path / "out.tar")
    saved = members(tmp_path / "out.tar")
    assert {name: data for name, data in saved.items() if name.startswith("blobs/")} == {
        f"blobs/sha256/{digest[7:]}": data for digest, data in source.blobs.items()
    }
    (written,) = json.loads(saved["index.json"])["manifests"]
    assert written["digest"] == entry["digest"]
    assert written["annotations"]["org.opencontainers.image.ref.name"] == "made:latest"
    again = tmp_path / "again.tar"
    store.images.save(["made"], again)
    assert again.read_bytes() == (tmp_path / "out.tar").read_bytes()


def test_directory_in_and_out(store: lazarus.Store, tmp_path: Path) -> None:
    source = made.Made()
    entry = source.image([made.base_tar()])
    (image,) = store.images.load(source.directory(tmp_path / "in"))
    store.images.save(["made"], tmp_path / "out", format="oci-dir")
    with lazarus.Store(tmp_path / "second") as second:
        (loaded,) = second.images.load(tmp_path / "out")
    assert image.digest == loaded.digest == entry["digest"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(errors.ConflictError, match="not an empty directory"):
        store.images.save(["made"], tmp_path / "full", format="oci-dir")


@pytest.mark.parametrize("pack", [False, True], ids=["plain", "gzip"])
def test_docker_archive_keeps_config_and_layer_bytes(store: lazarus.Store, tmp_path: Path, pack: bool) -> None:
    tars = [made.base_tar(), made.layer({"srv/app": b"x" * 5000})]
    source = made.docker_archive(tmp_path / "in.tar", tars, ["one:1", "two:2"])
    before = members(source)
    if pack:
        packed = tmp_path / "in.tar.gz"
        packed.write_bytes(gzip.compress(source.read_bytes()))
        source = packed
    (image,) = store.images.load(source)
    assert image.names == ("one:1", "two:2")
    store.images.save(["one:1", "two:2"], tmp_path / "out.tar", format="docker-archive")
    after = members(tmp_path / "out.tar")
    assert {name: data for name, data in after.items() if name in before and name != "manifest.json"} == {
        name: data for name, data in before.items() if name != "manifest.json"
    }
    assert json.loads(after["manifest.json"])[0]["RepoTags"] == ["one:1", "two:2"]


def test_without_blobs_the_layers_come_back_uncompressed(
    store: lazarus.Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = made.Made()
    tars = [made.base_tar(), made.layer({"a": b"b"})]
    source.image(tars)
    (image,) = store.images.load(source.archive(tmp_path / "in.tar"), keep_blobs=False)
    assert store.content.usage()["blobs"]["count"] == 2  # manifest and config
    with caplog.at_level(logging.WARNING):
        store.images.save(["made"], tmp_path / "out.tar")
    assert "not kept" in caplog.text
    saved = members(tmp_path / "out.tar")
    for tar in tars:
        assert saved[f"blobs/sha256/{made.sha256(tar)[7:]}"] == tar
    with lazarus.Store(tmp_path / "second") as second:
        (loaded,) = second.images.load(tmp_path / "out.tar")
        assert loaded.id == image.id and loaded.diff_ids == image.diff_ids


def test_several_images_and_platforms(store: lazarus.Store, tmp_path: Path) -> None:
    source = made.Made()
    source.image([made.base_tar()], "first:1")
    manifests = []
    for architecture in ("amd64", "arm64"):
        entry = source.image([made.layer({architecture: b""})], None, architecture=architecture, index=False)
        manifests.append({**entry, "platform": {"os": "linux", "architecture": architecture}})
    document = {"schemaVersion": 2, "mediaType": f"{made.OCI}index.v1+json", "manifests": manifests}
    index = source.put(json.dumps(document).encode())
    name = {"org.opencontainers.image.ref.name": "many:platforms"}
    source.entries.append(made.descriptor(f"{made.OCI}index.v1+json", index, annotations=name))
    archive = source.archive(tmp_path / "in.tar")
    images = store.images.load(archive)
    assert [image.names for image in images] == [("first:1",), ("many:platforms",)]
    assert images[1].config.platform.architecture == platforms.host().architecture
    source.entries.pop(0)
    archive = source.archive(tmp_path / "many.tar")
    (image,) = store.images.load(archive, platform="linux/arm64")
    assert image.config.platform.architecture == "arm64"
    with pytest.raises(errors.NotFoundError, match=r"linux/s390x.*linux/amd64, linux/arm64"):
        store.images.load(archive, platform="linux/s390x")


@pytest.mark.parametrize("kind", ["oci", "oci with a platform", "docker"])
def test_an_image_that_stands_alone(store: lazarus.Store, tmp_path: Path, kind: str) -> None:
    """It may be for any platform, unless one is asked for."""
    if kind == "docker":
        archive = made.docker_archive(tmp_path / "in.tar", [made.base_tar()], ["alone:1"])
        there, other = "linux/amd64", "linux/arm64"
    else:
        source = made.Made()
        source.image([made.base_tar()], "alone:1", architecture="arm64")
        if kind != "oci":
            source.entries[0]["platform"] = {"os": "linux", "architecture": "arm64"}
        archive = source.archive(tmp_path / "in.tar")
        there, other = "linux/arm64/v8", "linux/amd64"
    with pytest.raises(errors.NotFoundError, match=f"it is for platform {there[:11]}, asked for {other}"):
        store.images.load(archive, platform=other)
    assert store.images.list() == []
    for asked in (None, there):
        (image,) = store.images.load(archive, platform=asked)
        assert image.names == ("alone:1",)


def test_second_load_reads_no_layer_and_shared_layers_are_stored_once(store: lazarus.Store, tmp_path: Path) -> None:
    base = made.base_tar()
    first, second = made.Made(), made.Made()
    first.image([base], "one:1")
    second.image([base, made.layer({"more": b"x" * 8000})], "two:1")
    store.images.load(first.archive(tmp_path / "1.tar"))
    events: list[str] = []
    store.images.load(
        second.archive(tmp_path / "2.tar"),
        progress=lambda event: events.append(event.name) if event.action == "ingest" else None,
    )
    assert made.sha256(gzip.compress(base, mtime=0)) not in events
    assert store.content.usage()["layers"]["count"] == 2


def test_names_ids_and_removal(store: lazarus.Store, tmp_path: Path) -> None:
    source = made.Made()
    source.image([made.base_tar()], "made:1")
    (image,) = store.images.load(source.archive(tmp_path / "in.tar"))
    store.images.tag("made:1", "other")
    for reference in (
        "made:1",
        "other",
        "other:latest",
        image.id,
        image.id[7:19],
        image.digest,
        f"made@{image.digest}",
    ):
        assert store.images.get(reference).digest == image.digest
    with pytest.raises(errors.NotFoundError, match="nothing"):
        store.images.get("nothing")
    with pytest.raises(errors.ConflictError, match="several names"):
        store.images.remove(image.id)
    assert store.images.remove("made:1") == ["Untagged: made:1"]
    assert store.images.remove("other") == ["Untagged: other:latest", f"Deleted: {image.id}"]
    usage = store.content.usage()
    assert store.images.list() == []
    assert [usage[kind]["count"] for kind in ("blobs", "layers", "objects")] == [0, 0, 0]


def test_import_and_changes_are_reproducible(
    store: lazarus.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    tar = tmp_path / "root.tar"
    tar.write_bytes(made.base_tar())
    changes = (
        'CMD ["/bin/sh"]',
        "ENV A=1 B='two words'",
        "EXPOSE 80",
        "LABEL x=y",
        "USER 33",
        "WORKDIR /srv",
        "VOLUME /data",
    )
    image = store.images.import_(tar, "imported:1", changes=changes, message="from a tar")
    config = image.config.config
    assert config["Cmd"] == ["/bin/sh"] and config["Env"] == ["A=1", "B=two words"]
    assert config["ExposedPorts"] == {"80/tcp": {}} and config["Labels"] == {"x": "y"} and config["User"] == "33"
    assert image.inspect()["Created"] == "2023-11-14T22:13:20Z"
    with lazarus.Store(tmp_path / "second") as second:
        assert second.images.import_(tar, "imported:1", changes=changes, message="from a tar").digest == image.digest
    with pytest.raises(errors.FormatError, match="FROM"):
        store.images.import_(tar, changes=("FROM scratch",))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "tomorrow")
    with pytest.raises(errors.FormatError, match="SOURCE_DATE_EPOCH 'tomorrow': not a number of seconds"):
        store.images.import_(tar, "imported:2")


def test_other_tools_read_what_we_write(store: lazarus.Store, tmp_path: Path) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed")
    source = made.Made()
    source.image([made.base_tar(), made.layer({"etc/new": b"1"})])
    (image,) = store.images.load(source.archive(tmp_path / "in.tar"))
    store.images.save(["made"], tmp_path / "oci.tar")
    store.images.save(["made"], tmp_path / "docker.tar", format="docker-archive")
    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci-archive:{tmp_path}/oci.tar"], check=True, capture_output=True
    )
    assert "sha256:" + hashlib.sha256(raw.stdout).hexdigest() == image.digest
    config = subprocess.run(
        ["skopeo", "inspect", "--config", "--raw", f"docker-archive:{tmp_path}/docker.tar"],
        check=True,
        capture_output=True,
    )
    assert "sha256:" + hashlib.sha256(config.stdout).hexdigest() == image.id
