"""Names: which of them a listing shows, and which a load prints."""

from __future__ import annotations

import json
from pathlib import Path

import images_made as made
import pytest
from cli_helpers import Command

from lazarus.oci import platforms
from lazarus.oci.references import meant_by
from lazarus.store import Store
from lazarus.terms import Platform

NAMES = ("docker.io/library/debian:app", "debian:mine", "docker.io/n/m:latest", "quay.io/n/m:1", "localhost/n/m:1")
DIGEST = f"sha256:{'5e' * 32}"
BY_DIGEST = f"quay.io/n/p@{DIGEST}"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("debian", ("docker.io/library/debian:app", "debian:mine")),
        ("debian:app", ("docker.io/library/debian:app",)),
        ("docker.io/library/debian", ("docker.io/library/debian:app", "debian:mine")),
        ("debian:latest", ()),
        ("n/m", ("docker.io/n/m:latest", "localhost/n/m:1")),
        ("n/m:latest", ("docker.io/n/m:latest",)),
        ("quay.io/n/m", ("quay.io/n/m:1",)),
        ("m", ()),
        ("deb", ()),
        ("Not A Name", ()),
        ("", ()),
        (f"debian@{DIGEST}", ()),
        (f"quay.io/n/p@{DIGEST}", (BY_DIGEST,)),
        ("quay.io/n/p", (BY_DIGEST,)),
        ("quay.io/n/p:1", ()),
        ("n" * 250, ()),  # with what docker puts before it, it is too long for a name
    ],
)
def test_what_a_reference_may_mean(text: str, meant: tuple[str, ...]) -> None:
    assert meant_by(text, (*NAMES, BY_DIGEST)) == meant


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with one image that has all of `NAMES`, and another, `other:1`."""
    source, another = made.Made(), made.Made()
    source.image([made.base_tar()])
    another.image([made.layer({"etc/motd": b"another"})], name="other:1")
    with Store(tmp_path / "store") as store:
        (image,) = store.images.load(source.archive(tmp_path / "in.tar"))
        for name in NAMES:
            store.images.tag(image, name)
        store.images.remove("made")
        store.images.load(another.archive(tmp_path / "other.tar"))
    return tmp_path / "store"


def test_a_listing_shows_the_names_that_were_asked_for(root: Path) -> None:
    lazarus = Command(root)
    for words, expected in (
        ((), {*NAMES, "other:1"}),
        (("n/m",), {"docker.io/n/m:latest", "localhost/n/m:1"}),
        (("debian:mine",), {"debian:mine"}),
        (("nothing",), set()),
    ):
        rows = [line.split() for line in lazarus.ok("images", *words).splitlines()[1:]]
        assert {f"{row[0]}:{row[1]}" for row in rows} == expected
        listed = json.loads(lazarus.ok("images", "--format", "json", *words))
        assert {name for image in listed for name in image["Names"]} == expected
    (image,) = json.loads(lazarus.ok("images", "--format", "json", "n/m"))
    for name in (image["Id"], image["Id"][7:15], image["Digest"], f"n/m@{image['Digest']}"):
        assert lazarus.ok("images", "-q", name) == image["Id"][7:19]
    assert lazarus.ok("images", "-q", f"other@{image['Digest']}") == ""
    with Store(root) as store:
        assert [found.id for found in store.images.list("n/m")] == [image["Id"]]
        assert store.images.list("nothing") == []


def test_a_load_says_the_names_that_the_archive_has(root: Path, tmp_path: Path) -> None:
    lazarus = Command(root)
    assert lazarus.ok("load", "-q", "-i", str(tmp_path / "in.tar")) == "Loaded image: made:latest"
    tar = made.base_tar()
    made.docker_archive(tmp_path / "two.tar", [tar], ["two:1", "two:2"])
    assert lazarus.ok("load", "-q", "-i", str(tmp_path / "two.tar")) == "Loaded image: two:1\nLoaded image: two:2"
    made.docker_archive(tmp_path / "none.tar", [tar], [])
    with Store(root) as store:
        identity = store.images.get("two:1").id
        (image,) = store.images.load(tmp_path / "two.tar")
        assert image.loaded_names == ("two:1", "two:2") and store.images.get("two:1").loaded_names == ()
    assert lazarus.ok("load", "-q", "-i", str(tmp_path / "none.tar")) == f"Loaded image: {identity}"


def test_platforms_in_few_words() -> None:
    """As docker has it: a system alone is on this host's architecture, an architecture alone is of linux."""
    host = platforms.host()
    assert platforms.parse_platform("linux") == platforms.parse_platform("LINUX") == host
    assert platforms.parse_platform("windows") == host._replace(os="windows")
    assert platforms.parse_platform("arm64") == Platform("linux", "arm64", "")
    assert platforms.parse_platform("linux/aarch64/v8") == Platform("linux", "arm64", "v8")
