"""Tars that say two things at once, or ask for too much: one clear line, or the meaning that everybody gives them."""

from __future__ import annotations

import io
import os
import resource
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_helpers import add_image

from lazarus import errors
from lazarus._native.index import Index
from lazarus.store import Store

END = bytes(1024)


def header(name: bytes, size: int = 0, kind: bytes = b"0", **fields: bytes) -> bytes:
    """A ustar header; `at_N` overwrites bytes from N on. The checksum is right."""
    block = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    block[0:100] = name.ljust(100, b"\0")
    block[124:136] = b"%011o\0" % size
    block[156:157] = kind
    for place, value in fields.items():
        at = int(place.removeprefix("at_"))
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def extended(**records: bytes) -> bytes:
    text = b""
    for key, value in records.items():
        rest = b" %s=%s\n" % (key.encode(), value)
        length = len(rest) + len(str(len(rest) + 2))
        text += str(length).encode() + rest
    return header(b"PaxHeaders/x", len(text), b"x") + padded(text)


def long_name(name: bytes) -> bytes:
    return header(b"././@LongLink", len(name) + 1, b"L", at_257=b"ustar  \0") + padded(name + b"\0")


def with_xattrs(**sizes: int) -> bytes:
    """A file "f" with xattrs user.NAME of so many bytes."""
    records = {f"SCHILY.xattr.user.{name}": b"v" * size for name, size in sizes.items()}
    return extended(**records) + header(b"f", 5) + padded(b"hello") + END  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


def names(root: str) -> list[str]:
    return sorted(
        os.path.join(at, name) for at, _, files in os.walk(root) for name in files if "lazarus.db" not in name
    )


def refuse(store: Store, tar: bytes, kind: type[errors.LazarusError], match: str) -> None:
    before = names(store.paths.root)
    fd = os.memfd_create("layer")
    try:
        os.write(fd, tar)
        with pytest.raises(kind, match=match) as caught, store.content.lease() as lease:
            store.layers.ingest(lease, fd, offset=0, size=len(tar), name="bad")
    finally:
        os.close(fd)
    assert str(caught.value).isprintable() and str(caught.value).startswith("layer bad: ")
    assert names(store.paths.root) == before


def contents(store: Store, tar: bytes) -> dict[bytes, tuple[str, int]]:
    """Kind and size of every entry but the root."""
    fd = os.memfd_create("layer")
    try:
        os.write(fd, tar)
        with store.content.lease() as lease:
            staged = store.layers.ingest(lease, fd, offset=0, size=len(tar))
            with Index(f"{staged.directory}/index") as index:
                return {entry.path: (entry.kind, entry.size) for entry in index if entry.path}
    finally:
        os.close(fd)


def test_nested_opaque_marks(store: Store) -> None:
    """A million of them, one below the other: the path is too long long before."""
    tar = b"".join(
        long_name(b"a/" * depth + b".wh..wh..opq") + header(b"a", at_257=b"ustar  \0") for depth in range(1, 3000)
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refuse(store, tar + END, errors.LimitError, r"path of 40\d\d bytes: 'a/a/a/a")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize("marks_first", [True, False])
def test_many_opaque_marks(store: Store, marks_first: bool) -> None:
    """Each hides what is below, and nothing of its own layer, wherever it stands."""
    marks = b"".join(header(b"d%d/.wh..wh..opq" % number) for number in range(2000))
    files = b"".join(header(b"d%d/own" % number) for number in range(2000))
    found = contents(store, (marks + files if marks_first else files + marks) + END)
    assert len(found) == 4000 and found[b"d7/own"] == ("file", 0)


def test_pax_size_wins_over_the_headers(store: Store) -> None:
    tar = extended(size=b"5") + header(b"file", 0o777) + padded(b"hello") + header(b"next") + END
    assert contents(store, tar) == {b"file": ("file", 5), b"next": ("file", 0)}


@pytest.mark.parametrize(
    ("tar", "kind", "match"),
    [
        (extended(size=b"-1") + header(b"file") + END, errors.FormatError, "pax size: '-1'"),
        (extended(size=b"9223372036854775808") + header(b"file") + END, errors.FormatError, "pax size"),
        (extended(size=b"0x10") + header(b"file") + END, errors.FormatError, "pax size"),
        (extended(size=b"9223372036854775807") + header(b"file") + END, errors.LimitError, "file.*max_file_size"),
        (extended(size=b"5000") + header(b"file", 5) + padded(b"hello") + END, errors.TruncatedError, "file"),
        (extended(path=b"a\0b") + header(b"file") + END, errors.FormatError, "pax path: a NUL"),
        (extended(path=b"a/../../b") + header(b"file") + END, errors.UnsafeError, r"a/\.\./\.\./b"),
        (extended(path=b"a\x1b[2J/../b") + header(b"file") + END, errors.UnsafeError, r"\\x1b"),
        (header(b"file", at_124=b"\xff" * 12) + END, errors.FormatError, "size -1 is out of range"),
        (header(b"file", at_124=b"\x80" + b"\xff" * 11) + END, errors.FormatError, "size"),
        (header(b"file", at_108=b"\xff" * 8) + END, errors.FormatError, "uid"),
        (header(b"dev", kind=b"3", at_329=b"\x80\0\0\x01\0\0\0\0") + END, errors.FormatError, "device number"),
        (header(b"a/.wh.b/c") + END, errors.FormatError, r"below the mark \.wh\.b"),
        (header(b".wh...") + END, errors.FormatError, r"reserved name \.wh\.\.\."),
        (header(b"a", kind=b"1", at_157=b"a") + END, errors.FormatError, "a.*which this layer does not have"),
        (header(b".wh.a") + header(b"b", kind=b"1", at_157=b"a") + END, errors.FormatError, "b.*hard link to 'a'"),
        (header(b"d", kind=b"5") + header(b"b", kind=b"1", at_157=b"d") + END, errors.FormatError, "is a directory"),
        (header(b"b", kind=b"1", at_157=b"/") + END, errors.FormatError, "b.*hard link"),
        (header(b".", kind=b"2", at_157=b"/etc") + END, errors.FormatError, "not a kind that can stand here"),
        (
            header(b"s", kind=b"2", at_157=b"/etc") + header(b"s/x", kind=b"1", at_157=b"s") + END,
            errors.UnsafeError,
            "s/x.*symlink",
        ),
        (header(b"s", kind=b"2", at_157=b"/etc") + header(b"s/.wh.x") + END, errors.UnsafeError, "s/x.*symlink"),
        (header(b"f") + header(b"f/.wh..wh..opq") + END, errors.UnsafeError, "f"),
        (with_xattrs(v=65536), errors.LimitError, r"f: xattr user\.v has 65536 bytes, EROFS holds at most 65535"),
        (with_xattrs(a=65000, b=65000, c=65000, d=65000, e=5000), errors.LimitError, "f: .* bytes of xattrs, EROFS"),
        (header(b"f", kind=b"4", at_329=b"0010000\0") + END, errors.LimitError, "f: device 4096:0, Linux has 4095:"),
    ],
)
def test_what_can_only_be_refused(store: Store, tar: bytes, kind: type[errors.LazarusError], match: str) -> None:
    refuse(store, tar, kind, match)


def test_the_largest_xattrs_that_a_container_can_see(store: Store) -> None:
    """What is just let in, the stack takes."""
    for tar in (with_xattrs(v=65535), with_xattrs(a=65000, b=65000, c=65000, d=65000)):
        assert os.path.getsize(store.stacks.open(add_image(store, tar)).image_path) > 65535


def test_devices_that_are_whiteouts(store: Store) -> None:
    """Char 0:0 is overlayfs' whiteout, also in a tar; other devices are devices, and so is block 0:0."""
    tar = header(b"gone", kind=b"3") + header(b"null", kind=b"3", at_329=b"0000001\0", at_337=b"0000003\0")
    found = contents(store, tar + header(b"zero", kind=b"4") + END)
    assert {path: kind for path, (kind, _) in found.items()} == {b"gone": "whiteout", b"null": "char", b"zero": "block"}


def test_the_later_of_two_is_the_entry(store: Store) -> None:
    tar = (
        header(b"a", 3)
        + padded(b"one")
        + header(b"./a", 5)
        + padded(b"three")
        + header(b"/b/")
        + header(b"b", kind=b"5")
    )
    assert contents(store, tar + header(b"b/c") + END) == {
        b"a": ("file", 5),
        b"b": ("directory", 0),
        b"b/c": ("file", 0),
    }


def test_tarfile_reads_what_the_helpers_write() -> None:
    tar = extended(path=b"long/name") + header(b"x", 5) + padded(b"hello") + long_name(b"n" * 200) + header(b"y") + END
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert archive.getnames() == ["long/name", "n" * 200]
