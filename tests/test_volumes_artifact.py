"""A volume's artifact by its parts: what a hostile one may cost, and what is said of it."""

from __future__ import annotations

import json
import os
import subprocess
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import pytest
from registry_helpers import needs_registry, registry

from lazarus.errors import FormatError, LazarusError, LimitError
from lazarus.oci.layout import sha256
from lazarus.oci.layout_writer import LayoutDirectory
from lazarus.oci.media import OCI_MANIFEST
from lazarus.store import Store
from lazarus.terms import Descriptor
from lazarus.volumes.artifact import index, manifest, packs
from lazarus.volumes.artifact.index import DIRECTORY, FILE, Tree
from lazarus.volumes.artifact.places import Places
from lazarus.volumes.artifact.push import compress
from lazarus.volumes.artifact.restore import Restore

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store
        assert os.listdir(store.paths.staging) == os.listdir(store.paths.trash) == []


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """What is done in the `with` has no more than so many bytes in memory at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


def file_of(length: int, *runs: tuple[int, int, int]) -> Tree:
    """One file of chunks of one length; (first, count, step) of each run."""
    columns: dict[str, Any] = {name: numpy.zeros(2, "u8") for name in index.ENTRY_COLUMNS}
    chunks = sum(count for _, count, _ in runs)
    columns |= {"kind": numpy.array([DIRECTORY, FILE]), "name_size": numpy.array([0, 4])}
    columns["chunks"][1], columns["size"][1] = chunks, chunks * length
    columns |= {name: numpy.zeros(0, "u8") for name in index._COLUMNS if name not in columns}
    columns["run_first"], columns["run_count"], columns["run_step"] = numpy.array(runs, "u8").T
    return index.decode(index.encode(Tree(columns, b"data", b"", b"", {})), "the tree")


def artifact(place: Path, tree: Tree, chunks: list[bytes], more: list[Descriptor] | None = None) -> None:
    """A layout with a tree and a pack, as nobody would push it; `more` packs are named, and are not there."""
    with LayoutDirectory(str(place)) as layout:
        rows = numpy.zeros(len(chunks), packs.ROW)
        rows["sha256"] = numpy.frombuffer(b"".join(bytes.fromhex(sha256(chunk).hex) for chunk in chunks), "V32")
        rows["length"] = rows["stored"] = [len(chunk) for chunk in chunks]
        writer = packs.PackWriter(layout.add)
        writer.add_stored(memoryview(b"".join(chunks)), rows)
        writer.finish()
        writer.close()
        data = compress(index.encode(tree))
        described = Descriptor(manifest.INDEX, sha256(data), len(data))
        descriptor, document = manifest.write(described, [*writer.packs, *(more or [])], {manifest.TITLE: "db"})
        for blob, content in ((manifest.EMPTY, manifest.EMPTY_BYTES), (described, data), (descriptor, document)):
            layout.add(blob, content)
        layout.publish(descriptor, "v1", manifest.ARTIFACT)


def pack_of(chunks: int, number: int = 0) -> Descriptor:
    """One that is nowhere."""
    digest = sha256(b"%d" % number)
    return Descriptor(
        packs.PACK, digest, 100 << 20, None, {packs.CHUNKS_KEY: str(chunks), packs.TABLE_KEY: str(digest)}
    )


def test_one_chunk_in_very_many_places(store: Store, tmp_path: Path) -> None:
    """A few hundred bytes say where; what they stand for is written, and is nowhere in memory at once."""
    chunk, count = os.urandom(2048), 1 << 17
    artifact(tmp_path / "out", file_of(2048, (0, count, 0)), [chunk])
    with at_most(16 * MIB):
        pulled = store.volumes.pull(f"oci:{tmp_path}/out", "new")
    assert pulled.size == count * 2048
    with open(f"{pulled.volume.path}/data", "rb") as file:
        while data := file.read(2 * MIB):
            assert data == chunk * 1024
    with at_most(16 * MIB):
        where = Places(file_of(2048, (0, 1 << 30, 0)), numpy.array([2048], "u4"), "x")
        runs = where.runs(0, 1)
        some = [slice for _, slice in zip(range(3), where.slices(runs, 0, 1), strict=False)]
        assert where.size == 1 << 41 and some[2].offsets[-1] < 1 << 30


def test_one_chunk_in_many_runs(store: Store, tmp_path: Path) -> None:
    """Runs of both kinds, over and over the same chunks: each is somewhere else in a batch, or in two."""
    chunks = [os.urandom(4096) for _ in range(5000)]
    runs = [(0, 5000, 1), (7, 3, 0), (4990, 10, 1), (5, 1, 1), (3, 3000, 1), (0, 2, 1), (4999, 2, 0), (2040, 20, 1)]
    artifact(tmp_path / "out", file_of(4096, *runs), chunks)
    pulled = store.volumes.pull(f"oci:{tmp_path}/out", "new")
    wanted = b"".join(chunks[first + step * at] for first, count, step in runs for at in range(count))
    assert Path(pulled.volume.path, "data").read_bytes() == wanted


def test_no_table_is_fetched_that_is_not_wanted(store: Store, tmp_path: Path) -> None:
    """What packs say of themselves is compared with the index first. Those here are nowhere, so none is asked for."""
    chunks, tree = [os.urandom(4096)], file_of(4096, (0, 1, 1), (2, 1, 1))
    for name, more, error, text in (
        ("beyond", [pack_of(1)], FormatError, "index: speaks of chunk 3, its packs have 2"),
        ("unused", [pack_of(2), pack_of(1, 1)], FormatError, "index: has no chunk of pack 3 of 3"),
    ):
        artifact(tmp_path / name, tree, chunks, more)
        with pytest.raises(error, match=text):
            store.volumes.pull(f"oci:{tmp_path}/{name}", "new")
    many = [pack_of(packs.MAX_PACK_CHUNKS, number) for number in range(257)]
    text = r"packs of 269484032 chunks, more than 268435456"
    with pytest.raises(LimitError, match=text):
        manifest.write(manifest.EMPTY, many, {})
    descriptor, document = manifest.write(manifest.EMPTY._replace(media_type=manifest.INDEX), many[:256], {})
    assert len(manifest.read(document, descriptor.media_type, "x").packs) == 256
    data = json.loads(document)
    data["layers"].append(data["layers"][1] | {"digest": str(many[256].digest)})
    with pytest.raises(LimitError, match=text):
        manifest.read(json.dumps(data).encode(), descriptor.media_type, "x")


def punched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, volume: str) -> None:
    """Between two questions of a scan, what it was told of is punched out of a file that has data in its middle."""
    with open(f"{volume}/data", "wb") as file:
        file.truncate(3 * MIB)
        file.seek(MIB)
        file.write(os.urandom(64 << 10))
        file.seek(2 * MIB)
        file.write(b"later" * 1000)
    real, asked = os.lseek, []

    def lseek(fd: int, at: int, whence: int) -> int:
        if whence == os.SEEK_HOLE and not asked:
            words = ["fallocate", "--punch-hole", "--offset", str(MIB), "--length", str(64 << 10), f"{volume}/data"]
            subprocess.run(words, check=True)
            asked.append(at)
        return real(fd, at, whence)

    monkeypatch.setattr(os, "lseek", lseek)


def test_a_hole_that_is_punched_while_a_file_is_read(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = store.volumes.create("db")
    punched(tmp_path, monkeypatch, volume.path)
    volume.push(f"oci:{tmp_path}/out")
    pulled = store.volumes.pull(f"oci:{tmp_path}/out", "new")
    data = Path(pulled.volume.path, "data").read_bytes()
    assert data == Path(volume.path, "data").read_bytes() and data.count(b"later") == 1000 and len(data) == 3 * MIB


def test_a_pack_that_nobody_makes_is_not_fetched(store: Store, tmp_path: Path) -> None:
    volume = store.volumes.create("db")
    Path(volume.path, "data").write_bytes(os.urandom(MIB))
    pushed = volume.push(f"oci:{tmp_path}/out:v1")
    document = json.loads((tmp_path / "out/blobs/sha256" / pushed.digest.hex).read_bytes())
    assert len(manifest.read(json.dumps(document).encode(), OCI_MANIFEST, "x").packs) == 1
    document["layers"][1]["size"] = packs.MAX_PACK + 1
    with pytest.raises(LimitError, match=r"x, layer 2: a pack of 134217729 bytes, more than 134217728"):
        manifest.read(json.dumps(document).encode(), OCI_MANIFEST, "x")


def test_batches_are_small_with_what_lies_between(store: Store) -> None:
    rows = numpy.zeros(10_000, packs.ROW)
    rows["length"], rows["stored"] = 4096, 4000
    for wanted in (numpy.arange(10_000), numpy.arange(0, 10_000, 100), numpy.array([0, 9_999]), numpy.array([5])):
        parts = list(packs.batches(rows, wanted, MIB))
        assert numpy.array_equal(numpy.concatenate(parts), wanted)
        assert all((part[-1] - part[0] + 1) * 4000 <= MIB and len(part) * 4096 <= MIB for part in parts)
    assert len(list(packs.batches(rows, numpy.arange(10_000), MIB))) == 10_000 * 4096 // MIB + 1
    assert [list(part) for part in packs.batches(rows, numpy.array([1, 2]), 1)] == [[1], [2]], "one at least"


def test_files_far_down_take_no_memory_for_their_paths() -> None:
    """100,000 in 15 directories with names of 255 bytes: their paths alone would be 400 MB."""
    depth, files = 15, 100_000
    names = b"d" * 255 * depth + b"".join(b"%06x" % number for number in range(files))
    parents = [0, *range(depth), *[depth] * files]
    columns = {name: numpy.zeros(1 + depth + files, "u4") for name in index.ENTRY_COLUMNS}
    columns["parent"] = numpy.array(parents, "u4")
    columns["kind"] = numpy.array([DIRECTORY] * (1 + depth) + [FILE] * files, "u1")
    columns["name_size"] = numpy.array([0] + [255] * depth + [6] * files, "u1")
    rest = ("key_size", "value_size", "hole_entry", "hole_offset", "hole_size", "run_first", "run_count", "run_step")
    tree = Tree(columns | {name: numpy.zeros(0, "u4") for name in rest}, names, b"", b"", {})
    index.decode(index.encode(tree), "the tree")
    with at_most(10 * MIB):
        Restore(-1, tree, "x", keep_owner=False)


def test_an_index_takes_twice_its_bytes() -> None:
    """Of many entries a pull has what the index says of them, and little else: no list, no set of names."""
    files = 200_000
    columns: dict[str, Any] = {name: numpy.zeros(1 + files, "u8") for name in index.ENTRY_COLUMNS}
    columns["kind"] = numpy.array([DIRECTORY] + [FILE] * files)
    columns["name_size"] = numpy.array([0] + [6] * files)
    columns["size"][1:], columns["chunks"][1:] = 3000, 1
    columns |= {name: numpy.zeros(0, "u8") for name in index._COLUMNS if name not in columns}
    columns |= {"run_first": numpy.array([0]), "run_count": numpy.array([files]), "run_step": numpy.array([1])}
    names = b"".join(b"%06x" % number for number in range(files))
    raw = index.encode(Tree(columns, names, b"", b"", {}))
    with at_most(2 * len(raw)):
        tree = index.decode(memoryview(bytearray(raw)), "the tree")
        where = Places(tree, numpy.full(files, 3000, "u4"), "x")
        Restore(-1, tree, "x", keep_owner=False)
    assert where.size == files * 3000
    twice = bytearray(raw)
    twice[-6:] = b"%06x" % 5
    with pytest.raises(FormatError, match="the tree: entry 200000: '000005' is there twice"):
        index.decode(twice, "the tree")


@needs_registry
@pytest.mark.parametrize("damage", ["a chunk", "the table", "the end", "all of it"])
def test_what_a_registry_has_damaged(store: Store, tmp_path: Path, damage: str) -> None:
    """Nothing of it shows, and a push that comes after brings what is missing, where that can be seen."""
    volume = store.volumes.create("db")
    Path(volume.path, "data").write_bytes(os.urandom(MIB))
    with registry(tmp_path) as where:
        place = f"docker://{where.host}/db:v1"
        pushed = volume.push(place)
        [pack] = [digest for digest in where.blobs if where.blob(digest).stat().st_size > MIB]
        data = bytearray(where.blob(pack).read_bytes())
        if damage == "all of it":
            where.blob(pack).unlink()
        elif damage == "the end":
            where.blob(pack).write_bytes(data[:-100])
        else:
            data[100 if damage == "a chunk" else -100] ^= 1
            where.blob(pack).write_bytes(data)
        with pytest.raises(LazarusError) as caught:
            store.volumes.pull(place, "new")
        assert str(pack) in str(caught.value) and "\n" not in str(caught.value)
        assert [found.name for found in store.volumes.list()] == ["db"]
        if damage != "a chunk":  # which nobody sees who does not read all
            Path(volume.path, "more").write_bytes(os.urandom(MIB))
            assert volume.push(place).sent > 2 * MIB > pushed.sent


@needs_registry
def test_of_other_tags_not_all_chunks_are_known(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that says it has a billion of them fills no memory."""
    volume = store.volumes.create("db")
    with registry(tmp_path) as where:
        for number in range(6):
            Path(volume.path, "data").write_bytes(os.urandom(256 << 10))
            volume.push(f"docker://{where.host}/db:{number}")
        Path(volume.path, "data").write_bytes(b"")
        seen: list[int] = []
        known = packs.Known.add_all
        monkeypatch.setattr(packs.Known, "add_all", lambda self, all: (seen.append(len(all)), known(self, all))[1])
        for most, expected in ((1 << 22, 6 * 64), (100, 2 * 64), (0, 64)):
            monkeypatch.setattr("lazarus.volumes.artifact.registry._CHUNKS", most)
            volume.push(f"docker://{where.host}/db:5-again")
            assert seen.pop() == expected
