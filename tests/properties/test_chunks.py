"""Chunks: they tile the input, keep their sizes, follow the content; a file gives those of its bytes in memory."""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import random
import threading
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazarus import chunks
from lazarus.errors import ConflictError

quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Noise, runs of one byte and repeats, in pieces of any length."""
    pieces = []
    for _ in range(draw(st.integers(0, 5))):
        size = draw(st.one_of(st.integers(0, 40000), st.sampled_from([63, 64, 256, 1024, 4096])))
        kind = draw(st.sampled_from(["noise", "run", "repeat"]))
        seed = draw(st.integers(0, 255))
        if kind == "noise":
            pieces.append(noise(size, seed))
        elif kind == "run":
            pieces.append(bytes([seed]) * size)
        else:
            pieces.append((noise(97, seed) * (size // 97 + 1))[:size])
    return b"".join(pieces)


@st.composite
def sizes(draw: st.DrawFn) -> dict[str, int]:
    average = 1 << draw(st.integers(8, 12))
    minimum = draw(st.integers(64, average - 1))
    return {"average": average, "minimum": minimum, "maximum": draw(st.integers(average, 5 * average))}


def check_tiles(rows: Any, content: bytes, minimum: int, maximum: int) -> None:
    at = 0
    for number, row in enumerate(rows):
        length = int(row["length"])
        chunk = content[at : at + length]
        assert int(row["offset"]) == at
        assert length == len(chunk) <= maximum
        assert length >= minimum or number == len(rows) - 1
        assert row["sha256"].tobytes() == hashlib.sha256(chunk).digest()
        assert row["xxh3"].tobytes() == xxhash.xxh3_128_digest(chunk)
        at += length
    assert at == len(content)


@quick
@given(content=contents(), sizes=sizes(), threads=st.integers(1, 3))
def test_chunks_tile_the_input_and_keep_their_sizes(content: bytes, sizes: dict[str, int], threads: int) -> None:
    check_tiles(chunks.cut(content, threads=threads, **sizes), content, sizes["minimum"], sizes["maximum"])


@quick
@given(content=contents(), size=st.integers(1, 5000), threads=st.integers(1, 3))
def test_blocks_have_one_size(content: bytes, size: int, threads: int) -> None:
    content = content[: 300 * size]
    check_tiles(chunks.blocks(content, size, threads=threads), content, size, size)


@quick
@given(content=contents(), sizes=sizes(), window=st.integers(1, 70000), threads=st.integers(1, 2))
def test_a_file_is_cut_as_its_bytes_are(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, sizes: dict[str, int], window: int, threads: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "content"
    path.write_bytes(content)
    window = max(window, len(content) // 50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "WINDOW", window)
        rows = chunks.cut(path, threads=threads, **sizes)
        some = chunks.blocks(str(path), sizes["minimum"])
    assert rows.tobytes() == chunks.cut(content, **sizes).tobytes()
    assert some.tobytes() == chunks.blocks(content, sizes["minimum"]).tobytes()


@quick
@given(seed=st.integers(0, 1 << 32), at=st.integers(0, 20000), inserted=st.binary(min_size=1, max_size=300))
def test_an_insert_changes_the_chunks_around_it_alone(seed: int, at: int, inserted: bytes) -> None:
    content = noise(300000, seed)
    before = chunks.cut(content, average=1024, xxh3=False)
    after = chunks.cut(content[:at] + inserted + content[at:], average=1024, xxh3=False)
    lost = {row.tobytes() for row in before["sha256"]} - {row.tobytes() for row in after["sha256"]}
    assert len(before) > 150
    # cuts meet again at the first hit that both take: a dozen chunks are rarely needed, and never the half
    assert len(lost) < len(before) // 2
    untouched = before[before["offset"] + before["length"] <= at]
    assert (after[: len(untouched)] == untouched).all()


@quick
@given(keys=st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=2, unique=True))
def test_a_key_moves_the_cuts(keys: list[bytes]) -> None:
    content = noise(200000, 1)
    ends = [set(chunks.cut(content, average=1024, key=key, sha256=False)["offset"].tolist()) for key in [*keys, None]]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert len(ends[one] & ends[other]) < len(ends[one]) // 4
    again = chunks.cut(content, average=1024, key=bytearray(keys[0]), sha256=False)
    assert set(again["offset"].tolist()) == ends[0]


def test_chunks_are_about_the_average() -> None:
    rows = chunks.cut(noise(8 << 20, 2), average=4096, sha256=False, xxh3=False)
    assert 3500 < rows["length"][:-1].mean() < 5500
    assert (rows["length"] == 4 * 4096).mean() < 0.01
    assert not rows["sha256"].any() and not rows["xxh3"].any()


def test_all_that_has_bytes_can_be_cut(tmp_path: Path) -> None:
    content = noise(100000, 3)
    expected = chunks.cut(content, average=1024).tobytes()
    (tmp_path / "file").write_bytes(content)
    with open(tmp_path / "file", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for source in (bytearray(content), memoryview(content), array("H", content), mapped):
            assert chunks.cut(source, average=1024).tobytes() == expected
    assert chunks.cut(numpy.frombuffer(content, "u4"), average=1024).tobytes() == expected
    assert len(chunks.cut(b"")) == 0 == len(chunks.blocks(b"", 1))


def test_a_pipe_can_be_cut(tmp_path: Path) -> None:
    content = noise(300000, 4)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[content])
    writer.start()
    rows = chunks.cut(tmp_path / "pipe", average=1024)
    writer.join()
    assert rows.tobytes() == chunks.cut(content, average=1024).tobytes()


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [_grow, _touch, lambda path: os.truncate(path, 150000)])
@pytest.mark.parametrize("reads", [1, 4])
def test_a_file_that_changes_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], reads: int
) -> None:
    """Neither rows of two states, nor the SIGBUS that a mapping would have brought."""
    path = tmp_path / "file"
    path.write_bytes(noise(200000, 5))
    monkeypatch.setattr(chunks, "WINDOW", 20000)
    read, count = chunks._read, 0

    def read_and_change(*arguments: Any) -> int:
        nonlocal count
        count += 1
        got = read(*arguments)
        if count == reads:
            change(path)
        return got

    monkeypatch.setattr(chunks, "_read", read_and_change)
    with pytest.raises(ConflictError, match=r"file: changed while it was read \(200000 bytes at first\)"):
        chunks.cut(path, average=1024)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"average": 1000}, "average: 1000 bytes, expected a power of two from 256"),
        ({"average": 128}, "average: 128 bytes"),
        ({"average": -256}, "average: -256 bytes"),
        ({"average": 1 << 31}, "average: 2147483648 bytes"),
        ({"minimum": 63}, "minimum: 63 bytes, expected 64 to 65536"),
        ({"minimum": 65537}, "minimum: 65537 bytes"),
        ({"maximum": 65535}, "maximum: 65535 bytes, expected 65536"),
        ({"maximum": (1 << 30) + 1}, "maximum: 1073741825 bytes"),
        ({"minimum": 65536, "maximum": 65536}, "both 65536 bytes"),
        ({"key": b"short"}, "key: 5 bytes, expected 32"),
        ({"threads": 0}, "threads: 0, expected 1 to 256"),
        ({"threads": 257}, "threads: 257"),
    ],
)
def test_values_that_cannot_be(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        chunks.cut(b"", **arguments)


def test_what_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size: 0 bytes, expected 1 to"):
        chunks.blocks(b"", 0)
    for wrong in (None, 5, [b"a"]):
        with pytest.raises(TypeError):
            chunks.cut(wrong)
    with pytest.raises(TypeError):
        chunks.cut(b"", key="k" * 32)
    with pytest.raises(BufferError):
        chunks.cut(memoryview(b"abcdef")[::2])
    with pytest.raises(FileNotFoundError) as missing:
        chunks.cut(tmp_path / "none")
    assert missing.value.filename == str(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        chunks.cut(tmp_path)


@pytest.mark.parametrize(
    "path", ["/proc/sys/kernel/ostype", "/proc/self/status", "/sys/kernel/mm/transparent_hugepage/enabled"]
)
def test_files_that_have_no_size_or_a_wrong_one(path: str) -> None:
    if not os.path.exists(path):
        pytest.skip(f"{path}: not on this machine")
    rows = chunks.cut(path)
    assert len(rows) == 1 and 0 < rows["length"][0] < 4096


def test_a_file_that_has_nothing_to_read_yet_is_an_error_and_not_its_end() -> None:
    class Slow(io.FileIO):
        def readinto(self, buffer: Any) -> Any:
            return None

    with Slow(os.devnull) as file, pytest.raises(BlockingIOError):
        chunks._read(file, memoryview(bytearray(9)), "x")
