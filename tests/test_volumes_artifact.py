"""A volume's artifact by its parts: what a hostile one may cost, and what is said of it."""

from __future__ import annotations

import json
import os
import subprocess
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
from registry_helpers import needs_registry, registry

from lazarus.errors import LazarusError, LimitError
from lazarus.oci.media import OCI_MANIFEST
from lazarus.store import Store
from lazarus.volumes.artifact import index, manifest, packs
from lazarus.volumes.artifact.index import DIRECTORY, FILE, Tree
from lazarus.volumes.artifact.restore import Restore

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store
        assert os.listdir(store.paths.staging) == os.listdir(store.paths.trash) == []


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
    tracemalloc.start()
    try:
        Restore(-1, tree, "x", keep_owner=False)
        assert tracemalloc.get_traced_memory()[1] < 40 * MIB
    finally:
        tracemalloc.stop()


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
