"""What a container wrote: one JSON object a line, with the stream and the time, so that both streams come back apart.

    {"time": "2024-05-01T12:00:00.123456789Z", "stream": "stdout", "log": "text\\n"}

Output that is not UTF-8 has "base64" in place of "log". A record is one line of output, or a piece of a very long one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from json import dumps, loads
from time import gmtime, sleep, strftime, time_ns
from typing import NamedTuple

from lazarus.errors import FULL

_LONGEST = 1 << 16
_BLOCK = 1 << 16
_POLL_SECONDS = 0.1


class Record(NamedTuple):
    """One line that a container wrote; `time` is RFC 3339 in UTC, `stream` "stdout" or "stderr"."""

    time: str
    stream: str
    data: bytes


def timestamp(nanoseconds: int | None = None) -> str:
    """RFC 3339 in UTC with nanoseconds; now by default."""
    now = time_ns() if nanoseconds is None else nanoseconds
    return f"{strftime('%Y-%m-%dT%H:%M:%S', gmtime(now // 10**9))}.{now % 10**9:09d}Z"


class LogWriter:
    """Appends to a log file. Holds back an unfinished line until it ends, grows long, or the log is closed."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._open_lines = {"stdout": b"", "stderr": b""}
        self._torn = False

    def write(self, stream: str, data: bytes) -> None:
        """Adds what a stream brought."""
        *lines, rest = (self._open_lines[stream] + data).split(b"\n")
        pieces = [line + b"\n" for line in lines]
        while len(rest) > _LONGEST:
            pieces.append(rest[:_LONGEST])
            rest = rest[_LONGEST:]
        self._open_lines[stream] = rest
        if pieces:
            self._append(stream, pieces)

    def close(self) -> None:
        """Writes unfinished lines and closes the file. A second call does nothing."""
        if self._fd < 0:
            return
        for stream, rest in self._open_lines.items():
            if rest:
                self._append(stream, [rest])
        os.close(self._fd)
        self._fd = -1

    def _append(self, stream: str, pieces: list[bytes]) -> None:
        """What does not fit on a full disk is lost: no reason to end the container that wrote it."""
        now = timestamp()
        text = "".join(_line(now, stream, piece) for piece in pieces).encode()
        if self._torn:
            text = b"\n" + text
        try:
            while text:
                text = text[os.write(self._fd, text) :]
                self._torn = True
            self._torn = False
        except OSError as error:
            if error.errno not in FULL:
                raise


def _line(now: str, stream: str, piece: bytes) -> str:
    try:
        return dumps({"time": now, "stream": stream, "log": piece.decode()}) + "\n"
    except UnicodeDecodeError:
        from base64 import b64encode

        return dumps({"time": now, "stream": stream, "base64": b64encode(piece).decode()}) + "\n"


def read_log(path: str, *, tail: int | None = None, following: Callable[[], bool] | None = None) -> Iterator[Record]:
    """The records of a log, oldest first; the last `tail` of them; nothing when there is no log yet.

    `following` is asked at the end of the file: while it says True, more is waited for (ten times a second).
    """
    while not os.path.exists(path):
        if following is None or not following():
            return
        sleep(_POLL_SECONDS)
    with open(path, "rb") as file:
        if tail is not None:
            file.seek(_start_of_last(file.fileno(), tail))
        partial = b""
        while True:
            more = following is not None and following()  # asked before reading: nothing written before it is missed
            while line := file.readline():
                partial += line
                if partial.endswith(b"\n"):
                    record = _record(partial)
                    partial = b""
                    if record is not None:
                        yield record
            if not more:
                return
            sleep(_POLL_SECONDS)


def _record(line: bytes) -> Record | None:
    """None for a line that a full disk or a power cut left broken."""
    try:
        fields = loads(line)
        if "base64" in fields:
            from base64 import b64decode

            return Record(fields["time"], fields["stream"], b64decode(fields["base64"]))
        return Record(fields["time"], fields["stream"], fields["log"].encode())
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _start_of_last(fd: int, count: int) -> int:
    """The offset at which the last `count` lines of a file begin."""
    end = os.fstat(fd).st_size
    if count <= 0:
        return end
    position = end
    newlines = 0
    while position > 0:
        size = min(_BLOCK, position)
        position -= size
        block = os.pread(fd, size, position)
        for offset in range(len(block) - 1, -1, -1):
            if block[offset] == 10 and position + offset != end - 1:
                newlines += 1
                if newlines == count:
                    return position + offset + 1
    return 0
