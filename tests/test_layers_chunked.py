"""zstd:chunked: an ordinary zstd layer to all, with a table that says where each file is, and the tar's headers."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import struct
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from store_helpers import add_image, content, make_tar, sha256

from lazarus._native import chunked as native
from lazarus.errors import CorruptError, FormatError
from lazarus.layers.chunked import ChunkedBlob, write_chunked
from lazarus.layers.chunked.annotations import CHECKSUM, POSITION, TAR_SPLIT, parse_annotations
from lazarus.store import Store
from lazarus.terms import Descriptor, DiffID, Digest

CORPUS = Path(__file__).parent / "fuzz" / "corpus" / "lz_tar"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


def unzstd(data: bytes) -> bytes:
    """With the zstd of the machine: somebody else's reader."""
    return subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=True).stdout


def written(store: Store, diff_id: DiffID, *, level: int = 0) -> tuple[ChunkedBlob, bytes]:
    fd = os.memfd_create("blob")
    try:
        blob = write_chunked(store.layers.get(diff_id), fd, level=level)
        data = os.pread(fd, blob.size + 1, 0)
    finally:
        os.close(fd)
    assert (len(data), sha256(data)) == (blob.size, blob.digest)
    assert blob.diff_id == diff_id
    return blob, data


def part(data: bytes, annotation: str) -> bytes:
    """What an annotation says lies there: a skippable frame's content, inflated to the size that it says."""
    offset, size, plain_size, *_ = map(int, annotation.split(":"))
    assert struct.unpack("<II", data[offset - 8 : offset]) == (0x184D2A50, size)
    plain = unzstd(data[offset : offset + size])
    assert len(plain) == plain_size
    return plain


def table(blob: ChunkedBlob, data: bytes) -> dict[str, Any]:
    offset, size, *_ = map(int, blob.annotations[POSITION].split(":"))
    assert blob.annotations[CHECKSUM] == sha256(data[offset : offset + size])
    found: dict[str, Any] = json.loads(part(data, blob.annotations[POSITION]))
    return found


def files_of(toc: Mapping[str, Any], data: bytes) -> dict[str, bytes]:
    """Contents by name, each from its own bytes of the blob alone."""
    found: dict[str, bytes] = {}
    entries: list[dict[str, Any]] = toc["entries"]
    for number, entry in enumerate(entries):
        if entry["type"] != "reg":
            continue
        chunks = [entry]
        for following in entries[number + 1 :]:
            if following["type"] != "chunk":
                break
            chunks.append(following)
        if entry.get("size", 0) == 0:
            assert len(chunks) == 1 and "digest" not in entry and "offset" not in entry
            found[entry["name"]] = b""
            continue
        ends = [*(chunk["offset"] for chunk in chunks[1:]), entry["endOffset"]]
        pieces = [unzstd(data[chunk["offset"] : end]) for chunk, end in zip(chunks, ends, strict=True)]
        assert sha256(b"".join(pieces)) == entry["digest"] and len(b"".join(pieces)) == entry["size"]
        if len(chunks) > 1:
            assert chunks[-1]["endOffset"] == entry["endOffset"]
            position = 0
            for chunk, piece in zip(chunks, pieces, strict=True):
                assert (chunk.get("chunkOffset", 0), chunk["chunkSize"]) == (position, len(piece))
                assert chunk["chunkDigest"] == sha256(piece) and chunk["name"] == entry["name"]
                position += len(piece)
        found[entry["name"]] = b"".join(pieces)
    return found


def crc64_iso(data: bytes) -> bytes:
    """Go's hash/crc64 with the ISO polynomial, a bit at a time."""
    crc = (1 << 64) - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xD800000000000000 if crc & 1 else 0)
    return (crc ^ ((1 << 64) - 1)).to_bytes(8, "big")


def put_together(tar_split: bytes, files: Mapping[str, bytes]) -> bytes:
    """The tar as vbatts/tar-split makes it."""
    tar = io.BytesIO()
    for position, line in enumerate(tar_split.splitlines()):
        entry = json.loads(line)
        assert entry["position"] == position
        if entry["type"] == 2:
            tar.write(base64.b64decode(entry["payload"], validate=True))
        elif entry.get("size", 0) > 0:
            data = files[entry["name"]]
            assert len(data) == entry["size"]
            if len(data) < 20_000:
                assert base64.b64decode(entry["payload"]) == crc64_iso(data)
            tar.write(data)
        else:
            assert entry["payload"] is None
    return tar.getvalue()


def assert_chunked(store: Store, tar: bytes) -> dict[str, Any]:
    """All that is promised of a layer that has a table; the table."""
    blob, data = written(store, DiffID(sha256(tar)))
    assert unzstd(data) == tar
    toc = table(blob, data)
    assert toc["version"] == 1
    files = files_of(toc, data)
    offset, size, _ = map(int, blob.annotations[TAR_SPLIT].split(":"))
    assert toc["tarSplitDigest"] == sha256(data[offset : offset + size])
    assert put_together(part(data, blob.annotations[TAR_SPLIT]), files) == tar
    footer = struct.unpack("<IIQQQQQQQ8s", data[-72:])
    numbers = [*map(int, f"{blob.annotations[POSITION]}:{blob.annotations[TAR_SPLIT]}".split(":"))]
    assert footer == (0x184D2A50, 64, *numbers, b"GNUlInUx")
    descriptor = Descriptor("x", blob.digest, blob.size, annotations=blob.annotations)
    parsed = parse_annotations(descriptor)
    assert parsed is not None and parsed.tar_split is not None
    assert (*parsed.toc, 1, *parsed.tar_split) == tuple(numbers)
    return toc


def everything() -> bytes:
    """Files on both sides of every border, and every kind of entry, with long names, owners, times and xattrs."""
    noise = hashlib.shake_256(b"noise").digest(3_000_000)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in ("./", "./etc/", "./usr/"):
            entry = tarfile.TarInfo(path)
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000.25
            tar.addfile(entry)
        for size in (0, 1, 511, 512, 4096, 4097, 262_144, 1_048_575, 1_048_576, 1_048_577, 2_999_999):
            entry = tarfile.TarInfo(f"./usr/file{size}")
            entry.size, entry.mode, entry.uid, entry.gid = size, 0o4755, 3_000_000, 7
            entry.pax_headers = {"SCHILY.xattr.user.x": "y\u00e9", "atime": "1700000001.5", "ctime": "3"}
            tar.addfile(entry, io.BytesIO(noise[:size]))
        entry = tarfile.TarInfo("./usr/zeros")
        entry.size = 5_000_000
        tar.addfile(entry, io.BytesIO(bytes(entry.size)))
        entry = tarfile.TarInfo("./usr/" + "long\u00e9" * 40)
        entry.size = 5
        tar.addfile(entry, io.BytesIO(b"hello"))
        for number, (kind, target) in enumerate(
            (
                (tarfile.SYMTYPE, 'a"b\\c\n'),
                (tarfile.LNKTYPE, "./usr/file1"),
                (tarfile.FIFOTYPE, ""),
                (tarfile.CHRTYPE, ""),
            )
        ):
            entry = tarfile.TarInfo(f"./etc/{number}")
            entry.type, entry.linkname, entry.devmajor, entry.devminor = kind, target, 5, 1
            tar.addfile(entry)
        tar.addfile(tarfile.TarInfo("./etc/.wh.gone"))
    return out.getvalue()


def test_everything_comes_back_from_its_parts(store: Store) -> None:
    tar = everything()
    add_image(store, tar)
    entries = {entry["name"]: entry for entry in assert_chunked(store, tar)["entries"] if entry["type"] != "chunk"}
    assert entries["./usr/file511"] == {
        "type": "reg",
        "name": "./usr/file511",
        "mode": 0o4755,
        "size": 511,
        "uid": 3_000_000,
        "gid": 7,
        "modtime": "1970-01-01T00:00:00Z",
        "accesstime": "2023-11-14T22:13:21.5Z",
        "changetime": "1970-01-01T00:00:03Z",
        "xattrs": {"user.x": base64.b64encode("y\u00e9".encode()).decode()},
        **{key: entries["./usr/file511"][key] for key in ("digest", "offset", "endOffset")},
    }
    assert entries["./"]["modtime"] == "2023-11-14T22:13:20.25Z"
    assert entries["./etc/0"] == {
        "type": "symlink", "name": "./etc/0", "linkName": "a\"b\\c\n", "mode": 0o644, "modtime": "1970-01-01T00:00:00Z",
    }  # fmt: skip
    assert entries["./etc/1"]["type"] == "hardlink" and entries["./etc/2"]["type"] == "fifo"
    assert (entries["./etc/3"]["devMajor"], entries["./etc/3"]["devMinor"]) == (5, 1)


def test_many_small_files_and_entries_without_content(store: Store) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(3000):
            entry = tarfile.TarInfo(f"d{number // 100}/{number}")
            if number % 1000 < 900:
                entry.type = tarfile.SYMTYPE
                entry.linkname = f"target {number}" * 5
                tar.addfile(entry)
            else:
                entry.size = number
                tar.addfile(entry, io.BytesIO(content(str(number), number)))
    add_image(store, out.getvalue())
    assert len(assert_chunked(store, out.getvalue())["entries"]) == 3000


def test_the_link_that_docker_leaves_in_a_whiteout_is_told(store: Store) -> None:
    for name, form in (("var/.wh.Release", tarfile.USTAR_FORMAT), ("var/.wh." + 100 * "x", tarfile.GNU_FORMAT)):
        entry = tarfile.TarInfo(name)
        entry.linkname = "var/old"
        tar = entry.tobuf(form) + bytes(1024)
        add_image(store, tar)
        assert assert_chunked(store, tar)["entries"][0]["linkName"] == "var/old"


@pytest.mark.parametrize("end", [b"", bytes(512), bytes(1024), bytes(20_000), bytes(12_000_000)])
def test_ends_of_an_archive(store: Store, end: bytes) -> None:
    entry = tarfile.TarInfo("file")
    entry.size = 7000
    tar = entry.tobuf() + content("a", 7000) + bytes(168) + end
    add_image(store, tar)
    assert_chunked(store, tar)


def test_the_same_bytes_whatever_the_threads(store: Store, tmp_path: Path) -> None:
    (diff_id,) = add_image(store, everything())
    layer = store.layers.get(diff_id)
    found = set()
    for threads in (1, 2, 3, 16):
        with (tmp_path / "blob").open("wb") as out:
            blob = native.write(layer.recipe_path, layer.index_path, layer.objects_path, out.fileno(), threads=threads)
        found.add(blob.digest)
        assert hashlib.sha256((tmp_path / "blob").read_bytes()).digest() == blob.digest
    assert len(found) == 1


def test_the_same_bytes_however_the_layer_came(store: Store, tmp_path: Path) -> None:
    tar = everything()
    (diff_id,) = add_image(store, tar)
    blob, _ = written(store, diff_id)
    from lazarus.terms import Limits

    with Store(tmp_path / "other") as other:
        add_image(other, tar, limits=Limits(inline_limit=600_000))
        assert written(other, diff_id)[0] == blob


def sparse() -> bytes:
    return (CORPUS / "pax-sparse-1.0").read_bytes()


def twice() -> bytes:
    return make_tar({"a": b"1", "b": b"2"})[:2048] + make_tar({"./a": b"3"})


def not_utf8() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, encoding="latin1") as tar:
        tar.addfile(tarfile.TarInfo("caf\u00e9"))
    return out.getvalue()


def with_global_header() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}) as tar:
        tar.addfile(tarfile.TarInfo("a"))
    return out.getvalue()


@pytest.mark.parametrize(
    "tar", [sparse(), twice(), not_utf8(), with_global_header(), make_tar({"a": content("a")}) + b"garbage" * 100]
)
def test_what_a_table_cannot_say_is_an_ordinary_layer(store: Store, tar: bytes) -> None:
    add_image(store, tar)
    blob, data = written(store, DiffID(sha256(tar)))
    assert blob.annotations == {} and b"GNUlInUx" not in data
    assert unzstd(data) == tar


def corpus() -> list[Path]:
    """Those that are layers, too: not a hard link to nothing, nor a hole of a terabyte."""
    no_layers = ("should-fail-", "gnu-long-both", "pax-sparse-1.0-all-hole")
    return sorted(path for path in CORPUS.iterdir() if not path.name.startswith(no_layers))


@pytest.mark.parametrize("path", corpus(), ids=lambda path: path.name)
def test_every_archive_of_the_corpus(store: Store, path: Path) -> None:
    """Whatever its entries are, the blob inflates to it; with a table, all of it comes back from its parts."""
    tar = path.read_bytes()
    add_image(store, tar)
    blob, data = written(store, DiffID(sha256(tar)))
    assert unzstd(data) == tar
    if blob.annotations:
        assert_chunked(store, tar)


def test_a_damaged_object_is_named(store: Store) -> None:
    (diff_id,) = add_image(store, make_tar({"a": content("a", 50_000), "b": content("b", 50_000)}))
    layer = store.layers.get(diff_id)
    digest = sha256(content("b", 50_000))
    path = Path(layer.objects_path, digest.hex[:2], digest.hex[2:])
    path.chmod(0o644)
    path.write_bytes(content("c", 50_000))
    fd = os.memfd_create("blob")
    with pytest.raises(CorruptError, match=f"layer {diff_id}: object {digest}: its content has another digest"):
        write_chunked(layer, fd)
    path.write_bytes(b"short")
    with pytest.raises(CorruptError, match=f"object {digest}: shorter"):
        write_chunked(layer, fd)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=digest):
        write_chunked(layer, fd)
    os.close(fd)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (POSITION, "1:2:3"),
        (POSITION, "1:2:3:1:5"),
        (POSITION, "-1:2:3:1"),
        (POSITION, "01:2:3:1"),
        (POSITION, "1:2:3:1\n"),
        (POSITION, "1:0:3:1"),
        (POSITION, "90:20:3:1"),
        (POSITION, f"{2**63}:20:3:1"),
        (TAR_SPLIT, "101:1:1"),
        (TAR_SPLIT, "x"),
        (CHECKSUM, "md5:1"),
    ],
)
def test_annotations_that_are_none(name: str, value: str) -> None:
    good = {CHECKSUM: "sha256:" + 64 * "a", POSITION: "10:20:30:1", TAR_SPLIT: "40:20:30"}
    descriptor = Descriptor("x", Digest("sha256:" + 64 * "b"), 100, annotations=good)
    assert parse_annotations(descriptor) is not None
    with pytest.raises(FormatError):
        parse_annotations(descriptor._replace(annotations=good | {name: value}))


def test_annotations_of_no_table_or_an_unknown_one() -> None:
    good = {CHECKSUM: "sha256:" + 64 * "a", POSITION: "10:20:30:2"}
    descriptor = Descriptor("x", Digest("sha256:" + 64 * "b"), 100, annotations=good)
    assert parse_annotations(descriptor) is None
    assert parse_annotations(descriptor._replace(annotations={CHECKSUM: good[CHECKSUM]})) is None
    assert parse_annotations(descriptor._replace(annotations={})) is None
