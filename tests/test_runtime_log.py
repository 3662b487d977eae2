"""A container's log gives back what was written, stream by stream."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazarus.runtime.log import LogWriter, Record, read_log, timestamp

writes = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=200)), max_size=20)


@settings(max_examples=60, deadline=None)
@given(writes)
def test_every_byte_comes_back_on_its_stream(pieces: list[tuple[str, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/log"
        log = LogWriter(path)
        for stream, data in pieces:
            log.write(stream, data)
        log.close()
        records = list(read_log(path))
        for stream in ("stdout", "stderr"):
            written = b"".join(data for name, data in pieces if name == stream)
            assert b"".join(record.data for record in records if record.stream == stream) == written
        assert all(json.loads(line) for line in Path(path).read_text().splitlines())


def test_tail(tmp_path: Path) -> None:
    log = LogWriter(str(tmp_path / "log"))
    lines = [f"line {number}\n".encode() * 3 for number in range(5000)]
    for line in lines:
        log.write("stdout", line)
    log.close()
    every = b"".join(lines).splitlines(keepends=True)
    for count in (0, 1, 2, 700, 15000, 20000):
        found = [record.data for record in read_log(str(tmp_path / "log"), tail=count)]
        assert found == every[len(every) - min(count, len(every)) :], count


def test_a_very_long_line_is_not_held_in_memory(tmp_path: Path) -> None:
    log = LogWriter(str(tmp_path / "log"))
    log.write("stdout", b"x" * 300_000)
    assert sum(len(record.data) for record in read_log(str(tmp_path / "log"))) >= 200_000
    log.close()
    assert sum(len(record.data) for record in read_log(str(tmp_path / "log"))) == 300_000


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    log = LogWriter(str(tmp_path / "log"))
    log.write("stdout", b"whole\n")
    log.close()
    with (tmp_path / "log").open("ab") as file:
        file.write(b'{"time": "2024\n[]\n{"stream": "stdout"}\n')
    assert [record.data for record in read_log(str(tmp_path / "log"))] == [b"whole\n"]


def test_follow_sees_what_comes_later(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    running = True
    found: list[Record] = []

    def follow() -> None:
        found.extend(read_log(path, following=lambda: running))

    reader = threading.Thread(target=follow)
    reader.start()
    log = LogWriter(path)
    log.write("stdout", b"one\n")
    time.sleep(0.15)
    log.write("stderr", b"two\nthree")
    log.close()
    running = False
    reader.join(5)
    assert [(record.stream, record.data) for record in found] == [
        ("stdout", b"one\n"),
        ("stderr", b"two\n"),
        ("stderr", b"three"),
    ]


def test_no_log_yet(tmp_path: Path) -> None:
    assert list(read_log(str(tmp_path / "none"))) == []


@pytest.mark.parametrize(
    ("nanoseconds", "text"), [(0, "1970-01-01T00:00:00.000000000Z"), (1_000_000_007, "1970-01-01T00:00:01.000000007Z")]
)
def test_timestamp(nanoseconds: int, text: str) -> None:
    assert timestamp(nanoseconds) == text
