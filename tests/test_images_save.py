"""save in the form that is asked for; podman and skopeo read the archives and layouts with zstd:chunked layers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import images_made as made
import pytest
from cli_helpers import Command
from test_registry_push import load, manifest_of, podman_pull

from lazarus.errors import FormatError
from lazarus.layers.chunked.annotations import parse_annotations
from lazarus.oci.documents import parse_descriptor
from lazarus.store import Store

BASE = made.base_tar()
APP = made.layer({"app": os.urandom(20_000), "text": b"lorem ipsum " * 5000})
needs_peers = pytest.mark.skipif(
    not (shutil.which("podman") and shutil.which("skopeo")), reason="podman or skopeo is not installed"
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


def manifest_in(archive: Path) -> dict[str, Any]:
    """Of an archive with one image, after a look at the digests of all that is in it."""
    with tarfile.open(archive) as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar if info.isreg()}  # type: ignore[union-attr]
    for name, data in members.items():
        assert not name.startswith("blobs/") or made.sha256(data) == f"sha256:{name.rpartition('/')[2]}"
    [entry] = json.loads(members["index.json"])["manifests"]
    found: dict[str, Any] = json.loads(members[f"blobs/sha256/{entry['digest'][7:]}"])
    assert all(len(members[f"blobs/sha256/{one['digest'][7:]}"]) == one["size"] for one in found["layers"])
    return found


@pytest.mark.parametrize("form", ["zstd:chunked", "zstd", "gzip", "none"])
@pytest.mark.parametrize("came", ["plain", "gzip", "dropped"])
def test_all_layers_have_the_form_that_is_asked_for(store: Store, tmp_path: Path, form: str, came: str) -> None:
    image = load(store, tmp_path, BASE, APP, APP, keep=came != "dropped", compress=came != "plain")
    for name in ("a", "b"):
        store.images.save(["made:1"], tmp_path / f"{name}.tar", compression=form)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    layers = manifest_in(tmp_path / "a.tar")["layers"]
    suffix = {"none": "", "gzip": "+gzip"}.get(form, "+zstd")
    assert {layer["mediaType"] for layer in layers} == {f"{made.OCI}layer.v1.tar{suffix}"}
    assert {bool(parse_annotations(parse_descriptor(layer, ""))) for layer in layers} == {form == "zstd:chunked"}
    with Store(tmp_path / "other") as other:
        [found] = other.images.load(tmp_path / "a.tar")
        assert found.id == image.id and found.diff_ids == image.diff_ids
        assert (found.digest == image.digest) == ((came, form) in (("plain", "none"), ("gzip", "gzip")))
        other.images.save([found.id], tmp_path / "again.tar", compression=form)  # what was kept goes as it came
        assert manifest_in(tmp_path / "again.tar")["layers"] == layers


@needs_peers
def test_peers_read_layers_with_tables(store: Store, tmp_path: Path) -> None:
    """Debian's podman 4.3 and skopeo 1.9, from an archive and from a layout: to them it is zstd."""
    image = load(store, tmp_path, BASE, APP)
    store.images.save(["made:1"], tmp_path / "a.tar", compression="zstd:chunked")
    store.images.save(["made:1"], tmp_path / "a", format="oci-dir", compression="zstd:chunked")
    for number, place in enumerate((f"oci-archive:{tmp_path / 'a.tar'}", f"oci:{tmp_path / 'a'}")):
        assert len(manifest_of(place)["layers"]) == 2
        found = podman_pull(tmp_path / str(number), place)
        assert found["Id"] == image.id.hex and found["RootFS"]["Layers"] == [made.sha256(BASE), made.sha256(APP)]
        copied = tmp_path / f"copied{number}"
        subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", place, f"dir:{copied}"], check=True)
        with Store(tmp_path / f"store{number}") as other:
            assert other.images.pull(f"dir:{copied}")[0].id == image.id


def test_what_cannot_be_asked_for(store: Store, tmp_path: Path) -> None:
    load(store, tmp_path, APP)
    with pytest.raises(FormatError, match=r"compression 'lz4': not one of gzip, zstd, zstd:chunked, none"):
        store.images.save(["made:1"], tmp_path / "a.tar", compression="lz4")
    with pytest.raises(FormatError, match="docker-archive has layers that are not compressed, and not gzip"):
        store.images.save(["made:1"], tmp_path / "a.tar", format="docker-archive", compression="gzip")
    store.images.save(["made:1"], tmp_path / "a.tar", format="docker-archive", compression="none")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "in.tar", "store"]


def test_at_the_command_line(tmp_path: Path) -> None:
    lazarus = Command(tmp_path / "store")
    source = made.Made()
    source.image([APP], "made:1")
    lazarus.ok("load", "-q", "-i", str(source.archive(tmp_path / "in.tar")))
    words = ("save", "-q", "--compression-format", "zstd:chunked", "made:1")
    lazarus.ok(*words, "-o", str(tmp_path / "a.tar"))
    assert lazarus(*words).raw == (tmp_path / "a.tar").read_bytes()
    assert manifest_in(tmp_path / "a.tar")["layers"][0]["annotations"]
    found = lazarus(*words, "--format", "docker-archive")
    assert (found.code, found.err) == (
        1,
        "lazarus: format docker-archive has layers that are not compressed, and not zstd:chunked\n",
    )
