"""Tables, sizes, ages and JSON: how answers look."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from lazarus.cli.options import Option
from lazarus.errors import one_line

FORMAT = Option(
    ("--format",), "format", "table (the default) or json", "table|json", default="table", choices=("table", "json")
)
QUIET = Option(("-q", "--quiet"), "quiet", "print IDs only")
NO_TRUNC = Option(("--no-trunc",), "no_trunc", "print IDs and commands in full")


def complain(error: BaseException) -> None:
    """The one line that is said about an error, on stderr; nothing in it drives the terminal."""
    said = "; ".join([one_line(error), *getattr(error, "__notes__", ())])
    text = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in said)
    with suppress(OSError):  # what was printed before comes first
        sys.stdout.flush()
    sys.stderr.write(f"lazarus: {text}\n")


def print_json(value: Any) -> None:
    """Indented, keys in the order they were made. Names that are not UTF-8 come as lone surrogates, escaped."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as they need to be, three spaces between them."""
    lines = [tuple(headers), *(tuple(plain(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        text = "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write(text.rstrip() + "\n")


def plain(text: str) -> str:
    """Nothing from an image or a container may drive the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def size(count: float) -> str:
    """Bytes as docker writes them: 1.23MB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            return f"{count:.0f}{unit}" if unit == "B" else f"{count:.3g}{unit}"
        count /= 1000
    raise AssertionError


def age(seconds: float) -> str:
    """How long ago a time (seconds since 1970) was: "5 minutes ago"."""
    return f"{duration(time.time() - seconds)} ago"


def duration(seconds: float) -> str:
    """Seconds in the largest unit that fits: "2 hours"."""
    for unit, length in (("year", 31_556_952), ("month", 2_629_746), ("week", 604_800), ("day", 86_400)):
        if seconds >= 2 * length:
            return plural(int(seconds // length), unit)
    for unit, length in (("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return plural(int(seconds // length), unit)
    return plural(max(int(seconds), 0), "second")


def plural(count: int, noun: str) -> str:
    """ "1 layer", "2 layers"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def short(digest: str, no_trunc: bool = False) -> str:
    """The first 12 hex digits of an ID or digest, or all of it."""
    return digest if no_trunc else digest.removeprefix("sha256:")[:12]
