"""`-v` and `--mount`: what is understood, and what is refused in one line."""

from __future__ import annotations

import os

import pytest

from lazarus.containers.settings import Settings, parse_mounts
from lazarus.errors import FormatError, UnsupportedError
from lazarus.volumes.mounts import Bind, ImageMount, Tmpfs, VolumeMount
from lazarus.volumes.spelling import check_mount, parse_mount, parse_volume


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a:/b", Bind("/a", "/b")),
        ("/a:/b/../c:ro", Bind("/a", "/c", True)),
        ("./x:/b:rw,Z", Bind(os.path.abspath("x"), "/b")),
        ("..:/b", Bind(os.path.abspath(".."), "/b")),
        ("v:/b", VolumeMount("v", "/b")),
        ("v.1_-:/b/:ro", VolumeMount("v.1_-", "/b", True)),
        ("v:/b:nocopy,rw,z", VolumeMount("v", "/b", nocopy=True)),
        ("v:/b:ro,subpath=x/y", VolumeMount("v", "/b", True, subpath="x/y")),
        ("v:/b:subpath=./x//y/", VolumeMount("v", "/b", subpath="x/y")),
        ("v@s:/b", VolumeMount("v", "/b", True, snapshot="s")),
        ("v@s.1:/b:ro,subpath=x", VolumeMount("v", "/b", True, subpath="x", snapshot="s.1")),
        ("/b", VolumeMount(None, "/b", anonymous=True)),
        ("//b//c/", VolumeMount(None, "/b/c", anonymous=True)),
    ],
)
def test_volumes_in_short(text: str, expected: object) -> None:
    assert parse_volume(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "a",
            "/",
            "/..",
            "/a:",
            ":/a",
            "/a:b",
            "/a:/",
            "/a:/..",
            "/a:/b:rx",
            "/a:/b:ro,rw",
            "/a\0:/b",
            "\udcff:/b",
        ),
        *("v:/", "v:b", "v:", "-v:/b", ".v:/b", "a/b:/c", "v" * 129 + ":/b", "ä:/b", "v:/b:ro,rw", "v:/b:bogus"),
        *("/a:/b:nocopy", "/a:/b:subpath=x", "v:/b:subpath", "v:/b:subpath=", "v:/b:subpath=/x", "v:/b:subpath=x/../y"),
        *("v@:/b", "@s:/b", "v@s@t:/b", "v@../s:/b", "v@s:/b:rw", "v@s:/b:nocopy", "v@" + "s" * 65 + ":/b"),
        *("v:/b:subpath=x,subpath=y", "v:/b:ro:rw", "v:/b:ro=1"),
    ],
)
def test_what_cannot_be_in_short(text: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_volume(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("type=bind,source=/a,target=/b", Bind("/a", "/b")),
        ("type=bind,src=a,dst=/b,readonly", Bind(os.path.abspath("a"), "/b", True)),
        ("type=bind,source=/a,destination=/b,ro=false", Bind("/a", "/b")),
        ("source=v,target=/b", VolumeMount("v", "/b")),
        ("source=v@s,target=/b", VolumeMount("v", "/b", True, snapshot="s")),
        ("type=volume,target=/b", VolumeMount(None, "/b", anonymous=True)),
        (
            "type=volume,source=v,target=/b,ro,volume-nocopy,volume-subpath=x",
            VolumeMount("v", "/b", True, True, "x"),
        ),
        ("type=volume,source=v,target=/b,nocopy=1,subpath=x", VolumeMount("v", "/b", False, True, "x")),
        ('type=volume,source=v,"subpath=a,b",target=/b', VolumeMount("v", "/b", subpath="a,b")),
        ("type=tmpfs,target=/b", Tmpfs("/b")),
        ("type=tmpfs,dst=/b,tmpfs-size=1.5m,tmpfs-mode=0700,ro", Tmpfs("/b", 3 << 19, 0o700, True)),
        ("type=tmpfs,dst=/b,tmpfs-size=64kb", Tmpfs("/b", 65536)),
        ("type=tmpfs,dst=/b,tmpfs-size=1GiB,tmpfs-mode=1777", Tmpfs("/b", 1 << 30, 0o1777)),
    ],
)
def test_mounts_in_full(text: str, expected: object) -> None:
    assert parse_mount(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "type=volume",
            "type=bind,target=/b",
            "type=bind,source=/a",
            "type=bogus,target=/b",
            "target=b",
            "target=/",
        ),
        *("bogus=1,target=/b", "target=/b,target=/c", "target=/b,src=a,source=b", "target", "target=/b,ro=maybe"),
        *("type=tmpfs,source=x,target=/b", "type=bind,source=/a,target=/b,nocopy", "source=/a,target=/b"),
        *("source=../v,target=/b", "target=/b,subpath=x", "source=v,target=/b,subpath=..", "target=/b,tmpfs-size=1"),
        *(f"type=tmpfs,target=/b,tmpfs-size={size}" for size in ("x", "-1", "0", "", "k", "1e9", "9" * 30, "²")),
        *(f"type=tmpfs,target=/b,tmpfs-mode={mode}" for mode in ("8", "77777", "-1", "rwx", "", "²")),
    ],
)
def test_what_cannot_be_in_full(text: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_mount(text)
    assert "\n" not in str(caught.value)
    assert "target is missing" in str(caught.value) or text not in ("type=volume", "type=bind,source=/a")


def test_types_that_are_not_there_yet() -> None:
    with pytest.raises(UnsupportedError, match="type npipe are not supported"):
        parse_mount("type=npipe,source=x,target=/b")


def test_typed_values_go_through_the_same_rules() -> None:
    assert check_mount(VolumeMount(None, "/a/../b/")) == VolumeMount(None, "/b", anonymous=True)
    assert check_mount(Bind("x", "/b")) == Bind(os.path.abspath("x"), "/b")
    for mount in (
        VolumeMount("a/b", "/b"),
        VolumeMount("v", "b"),
        VolumeMount(None, "/b", subpath="x"),
        VolumeMount("v", "/b", subpath="/x"),
        Tmpfs("/"),
        Tmpfs("/t", size=0),
        Tmpfs("/t", mode=-1),
        Bind("/a\0", "/b"),
    ):
        with pytest.raises(FormatError):
            check_mount(mount)


def test_the_images_volumes() -> None:
    config = {"Volumes": {"/data": {}, "/other/": {}, "relative": {}}}
    binds, volumes, images, tmpfs = parse_mounts(config, ["v:/data", Tmpfs("/other")])
    assert (binds, images, tmpfs) == ((), (), (Tmpfs("/other"),))
    assert volumes[0] == VolumeMount("v", "/data")
    assert (volumes[1].target, volumes[1].anonymous, len(volumes[1].name or "")) == ("/relative", True, 64)
    with pytest.raises(FormatError, match="two mounts"):
        parse_mounts({}, ["v:/data", "/tmp:/data/"])
    with pytest.raises(FormatError, match="root"):
        parse_mounts({"Volumes": {"/": {}}}, [])


def test_mounts_survive_the_catalogue() -> None:
    mounts = ((Bind("/a", "/b"),), (VolumeMount("v", "/c", True, True, "x", True),), (Tmpfs("/d", 1, 2, True),))
    made = Settings("i", "sha256:" + "0" * 64, (), ("a",), binds=mounts[0], volumes=mounts[1], tmpfs=mounts[2])
    made = made._replace(images=(ImageMount("image:1", "/e", True, "part", "0" * 64),))
    assert Settings.from_json(made.to_json()) == made
    assert made.targets == ("/b", "/c", "/e", "/d") and made.anonymous == ("v",)


@pytest.mark.parametrize("text", ['type=tmpfs,target=/a\n"b"', 'type=tmpfs,target="/a', 'type=tmpfs,"target=/a"b'])
def test_quotes_that_go_wrong(text: str) -> None:
    with pytest.raises(FormatError, match="mount"):
        parse_mount(text)


def test_a_subpath_that_is_all_of_it_is_none() -> None:
    assert parse_volume("db:/v:subpath=.") == VolumeMount("db", "/v")
