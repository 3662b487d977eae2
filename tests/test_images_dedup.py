"""The dedup report: the same numbers as from the contents themselves, by sets and slices; what it says of damage."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import resource
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import images_made as made
import pytest
from cli_helpers import Command

from lazarus import chunks
from lazarus.errors import CorruptError, FormatError, NotFoundError, UnsupportedError
from lazarus.images.dedup import DedupReport
from lazarus.images.dedup_plot import check_can_plot, plot
from lazarus.store import Store

SIZES = (1 << 10, 16 << 10, 4 << 20)


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


LARGE = noise((20 << 20) + 12345, 1)  # more than two windows
BASE = {
    "a": noise(100_000, 2),
    "same": noise(100_000, 2),
    "small": b"inline",
    "also small": b"inline",
    "medium": noise(4000, 3),
    "empty": b"",
    "zeros": bytes(1 << 20),
    "large": LARGE,
}
APP = {"a": noise(100_000, 2) + b"more", "small": b"inline", "edge": noise(4096, 4), "over": noise(4097, 5)}
OTHER = {"shifted": b"x" + LARGE, "medium": noise(4000, 3), "page": noise(16 << 10, 6)}


def _tar(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO(made.layer(files))
    with tarfile.open(fileobj=out, mode="a") as tar:
        for name, target in (links or {}).items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.LNKTYPE, target
            tar.addfile(link)
    return out.getvalue()


# image -> its layers' contents, one a hard-link group
LAYERS = {"app:1": [BASE, APP], "app:2": [BASE, OTHER], "other:1": [OTHER]}


def _load(store: Store, directory: Path) -> None:
    for name, layers in LAYERS.items():
        source = made.Made()
        tars = [_tar(files, {"link": "a"} if "a" in files else None) for files in layers]
        source.image(tars, name)
        store.images.load(source.archive(directory / "image.tar"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    directory = tmp_path_factory.mktemp("dedup")
    with Store(directory / "store") as store:
        _load(store, directory)
        yield store


def _contents(layers: list[dict[str, bytes]]) -> list[bytes]:
    return [content for files in layers for content in files.values() if content]


def _expected(names: list[str], by: str, size: int, key: bytes | None) -> tuple[int, int, int, int]:
    """Uses, different ones, bytes, and bytes of the index."""
    layers = {id(files): files for name in names for files in LAYERS[name]}.values()
    uses = _contents(list(layers))
    files = set(uses)
    index = 40 * len(uses)
    if by == "layer":
        return sum(len(LAYERS[name]) for name in names), len(layers), sum(map(len, uses)), 0
    if by == "file":
        return len(uses), len(files), sum(map(len, files)), index
    cut: list[list[bytes]] = []
    for content in files:
        if by == "block":
            cut.append([content[at : at + size] for at in range(0, len(content), size)])
        else:
            rows = chunks.cut(content, average=size, key=key, sha256=False, xxh3=False)
            ends = (rows["offset"] + rows["length"]).tolist()
            cut.append([content[begin:end] for begin, end in zip(rows["offset"].tolist(), ends, strict=True)])
    listed = sum(len(pieces) for pieces in cut if len(pieces) > 1)
    different = {hashlib.sha256(piece).digest(): len(piece) for pieces in cut for piece in pieces}
    whole = sum(len(pieces) == 1 for pieces in cut)
    index += 4 * listed + 40 * (len(different) - whole)
    return sum(map(len, cut)), len(different), sum(different.values()), index


@pytest.mark.parametrize(
    ("names", "key", "threads"),
    [(["app:1", "app:2", "other:1"], None, 1), (["app:1"], bytes(range(32)), 3), (["other:1", "app:2"], None, 2)],
)
def test_it_counts_as_sets_of_the_contents_do(store: Store, names: list[str], key: bytes | None, threads: int) -> None:
    report = store.dedup.report(names, chunk_sizes=SIZES, key=key, threads=threads)
    assert report.alone == sum(len(content) for name in names for content in _contents(LAYERS[name]))
    assert report.images == tuple(store.images.get(name).digest for name in names)
    assert report.keyed == (key is not None)
    assert [(row.by, row.size) for row in report.rows] == [
        ("layer", 0),
        ("file", 0),
        *(("chunk", size) for size in SIZES),
        *(("block", size) for size in SIZES),
    ]
    for row in report.rows:
        assert (row.uses, row.different, row.bytes, row.index_bytes) == _expected(names, row.by, row.size, key), row
        assert row.saved == pytest.approx(1 - (row.bytes + row.index_bytes) / report.alone)


def test_what_is_merged_again_and_again_is_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from lazarus.images import survey

    expected = store.dedup.report(chunk_sizes=[1024])
    monkeypatch.setattr(survey, "_MERGE", 10)
    assert store.dedup.report(chunk_sizes=[1024], threads=3) == expected


def test_digests_that_are_equal_in_their_first_half_are_told_apart() -> None:
    import numpy

    from lazarus._native.chunk import ROW_FIELDS
    from lazarus.images.survey import Counted

    rows = numpy.zeros(6, numpy.dtype(list(ROW_FIELDS)))
    rows["xxh3"][:, 0] = [1, 1, 1, 1, 2, 2]
    rows["xxh3"][:, 15] = [7, 8, 7, 9, 7, 7]
    rows["length"] = [10, 20, 10, 30, 40, 40]
    counted = Counted()
    counted.add(rows, 0)
    assert (counted.uses, counted.result()) == (6, (4, 100))


def test_an_image_given_twice_counts_once_and_all_are_the_default(store: Store) -> None:
    once = store.dedup.report(["app:1"])
    assert store.dedup.report(["app:1", store.images.get("app:1")]) == once
    report = store.dedup.report()
    assert sorted(report.images) == sorted(image.digest for image in store.images.list())
    assert [row.size for row in report.chunks] == [64 << 10]


def test_progress_tells_of_every_byte(store: Store) -> None:
    events: list[Any] = []
    report = store.dedup.report(threads=3, progress=events.append)
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert events[-1].done == events[-1].total == report.files.bytes


def test_an_interrupt_ends_every_thread_and_leaves_nothing(store: Store) -> None:
    def interrupt(_event: object) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        store.dedup.report(threads=3, progress=interrupt)
    assert threading.active_count() == before
    assert os.listdir(store.paths.staging) == []
    assert len(store.catalogue.read().execute("SELECT * FROM leases").fetchall()) == 0


def test_bad_values(store: Store, tmp_path: Path) -> None:
    for wrong in (0, 512, 3000, 32 << 20):
        with pytest.raises(ValueError, match=f"chunk size: {wrong} bytes, expected a power of two"):
            store.dedup.report(chunk_sizes=[wrong])
    for threads in (0, 257):
        with pytest.raises(ValueError, match="expected 1 to 256"):
            store.dedup.report(threads=threads)
    with pytest.raises(ValueError, match="a key of 3 bytes"):
        store.dedup.report(key=b"abc")
    with pytest.raises(NotFoundError, match="image none: not in this store"):
        store.dedup.report(["app:1", "none"])
    with Store(tmp_path / "new") as empty, pytest.raises(NotFoundError, match="no image in this store"):
        empty.dedup.report()


@pytest.mark.parametrize("content", [BASE["a"], LARGE], ids=["small", "large"])
@pytest.mark.parametrize("how", ["missing", "shorter", "longer"])
def test_a_damaged_object_is_named(store: Store, content: bytes, how: str) -> None:
    digest = made.sha256(content)
    path = Path(f"{store.paths.objects}/{digest[7:9]}/{digest[9:]}")
    path.chmod(0o644)
    try:
        if how == "missing":
            path.unlink()
        else:
            os.truncate(path, len(content) + (1 if how == "longer" else -1))
        with pytest.raises(CorruptError, match=f"object {digest}: "):
            store.dedup.report(["app:1"])
        assert store.dedup.report(["other:1"]).files.different == 3
    finally:
        path.write_bytes(content)
        path.chmod(0o444)


def test_an_image_of_empty_files_saves_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        source = made.Made()
        source.image([made.layer({"a": b"", "d": None})], "empty:1")
        store.images.load(source.archive(tmp_path / "in.tar"))
        report = store.dedup.report()
        assert (report.alone, report.files.different, report.chunks[0].different) == (0, 0, 0)
        assert all(row.saved == 0 for row in report.rows)
        plot(report, str(tmp_path / "none.svg"))


# -- the plot --


def test_plots_are_images_and_the_same_each_time(store: Store, tmp_path: Path) -> None:
    report: DedupReport = store.dedup.report(chunk_sizes=SIZES)
    for name, magic in (("a.png", b"\x89PNG"), ("a.SVG", b"<?xml")):
        path = tmp_path / name
        plot(report, str(path))
        first = path.read_bytes()
        assert first.startswith(magic)
        plot(report, str(path))
        assert path.read_bytes() == first
    text = (tmp_path / "a.SVG").read_text()
    for words in ("each image alone", "layers shared", "files shared", "chunks of ", "blocks of", "3 images"):
        assert words in text
    assert sorted(os.listdir(tmp_path)) == ["a.SVG", "a.png"]


def test_a_plot_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FormatError, match=r"x\.pdf: a figure is a \.png or \.svg file"):
        check_can_plot("x.pdf")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UnsupportedError, match=r"a plot needs matplotlib.*lazarus-layers\[bench\]"):
        check_can_plot("x.svg")


# -- the command --


def test_the_command(store: Store, tmp_path: Path) -> None:
    lazarus = Command(store.paths.root)
    lines = lazarus.ok("dedup", "report", "app:1", "app:2", "--chunk-size=16K", "--chunk-size", "1MiB").splitlines()
    assert lines[0].split() == ["SHARED", "USES", "DIFFERENT", "SIZE", "INDEX", "SAVED"]
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "2 images alone",
        "layers",
        "files",
        "chunks of 16KiB",
        "chunks of 1MiB",
        "blocks of 16KiB",
        "blocks of 1MiB",
    ]
    found = json.loads(lazarus.ok("dedup", "report", "--keyed", "--threads", "1", "--format", "json"))
    report = store.dedup.report(key=store.chunk_key)
    assert found["keyed"] is True
    assert found["chunks"] == [report.chunks[0]._asdict()] != [store.dedup.report().chunks[0]._asdict()]
    assert found["files"] == report.files._asdict()
    assert found["blocks"] == [report.blocks[0]._asdict()]
    path = tmp_path / "plot.svg"
    assert "chunks of 256KiB" in lazarus.ok("dedup", "report", "app:1", "--plot", str(path))
    assert "What 1 image would take" in path.read_text()
    for words, code, told in (
        (["--chunk-size", "3K"], 2, "invalid power of two from 1KiB to 16MiB value"),
        (["--chunk-size", "64MMB"], 2, "invalid power of two from 1KiB to 16MiB value"),
        (["--threads", "0"], 2, "--threads: 0, expected 1 to 256"),
        (["none"], 1, "image none: not in this store"),
        (["--plot", "x.gif"], 1, "x.gif: a figure is a .png or .svg file"),
        (["--plot", f"{tmp_path}/no/x.png"], 1, f"{tmp_path}/no/x.png: No such file or directory"),
    ):
        result = lazarus("dedup", "report", *words)
        assert (result.code, result.out) == (code, "") and told in result.err, result


def test_more_layers_than_descriptors(tmp_path: Path) -> None:
    """Hundreds of images have thousands of layers, and a process a thousand descriptors, until it asks for more."""
    source = made.Made()
    source.image([_tar({"file": b"%d" % number}) for number in range(60)], "deep:1")
    with Store(tmp_path / "store") as store:
        store.images.load(source.archive(tmp_path / "image.tar"))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 30, hard))
        try:
            assert store.dedup.report(["deep:1"]).layers.different == 60
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
