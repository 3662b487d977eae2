"""`WWW-Authenticate`, `Link`, `Range` and `Content-Range`: headers with a grammar, parsed strictly and in bounds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from lazarus.errors import FormatError

_MAX = 16 << 10  # bytes of one header that are looked at
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SPACE = r"[ \t]*"
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+|(?={_SPACE}(?:,|\Z)))")
_PARAMETER = re.compile(rf'({_TOKEN}){_SPACE}={_SPACE}(?:({_TOKEN})(?=[ \t,]|\Z)|"((?:[^"\\]|\\.)*)")')
_TOKEN68 = re.compile(rf"[A-Za-z0-9._~+/-]+=*(?={_SPACE}(?:,|\Z))")
_SEPARATOR = re.compile(r"[ \t]*(?:,[ \t]*)+")
_LINK = re.compile(
    rf'{_SPACE}<([^<>"\x00-\x20]*)>((?:{_SPACE};{_SPACE}{_TOKEN}(?:={_SPACE}(?:{_TOKEN}|"[^"]*"))?)*){_SPACE}(?:,|\Z)'
)
_REL = re.compile(rf';{_SPACE}rel={_SPACE}(?:({_TOKEN})|"([^"]*)")', re.IGNORECASE)
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)\Z")
_UPLOAD_RANGE = re.compile(r"(?:bytes=)?([0-9]{1,19})-([0-9]{1,19})\Z")


class Challenge(NamedTuple):
    """One way to authenticate; the scheme and the names of parameters in lower case."""

    scheme: str
    parameters: dict[str, str]


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """RFC 9110, 11.6.1: the challenges of all `WWW-Authenticate` headers. Raises `FormatError`."""
    found: list[Challenge] = []
    for value in values:
        if len(value) > _MAX:
            raise FormatError(f"a WWW-Authenticate of {len(value)} bytes")
        _parse_value(value, found)
    return found


def _parse_value(value: str, found: list[Challenge]) -> None:
    position = _skip(value, 0)
    while position < len(value):
        scheme = _SCHEME.match(value, position)
        if scheme is None:
            raise FormatError(f"a WWW-Authenticate that is not one, at character {position}")
        position = scheme.end()
        challenge = Challenge(scheme[1].lower(), {})
        found.append(challenge)
        while parameter := _PARAMETER.match(value, position):
            text = parameter[2] if parameter[2] is not None else re.sub(r"\\(.)", r"\1", parameter[3])
            name = parameter[1].lower()
            if name in challenge.parameters:
                raise FormatError(f"a WWW-Authenticate that says {name[:40]} twice")
            challenge.parameters[name] = text
            position = parameter.end()
            separator = _SEPARATOR.match(value, position)
            if separator is None:
                break
            position = separator.end()
        else:
            if not challenge.parameters and (opaque := _TOKEN68.match(value, position)):
                position = opaque.end()
        position = _skip(value, position)


def _skip(value: str, position: int) -> int:
    while position < len(value) and value[position] in " \t,":
        position += 1
    return position


def next_link(values: Iterable[str]) -> str | None:
    """RFC 8288: where the link with `rel="next"` leads; None without one. Raises `FormatError`."""
    for value in values:
        if len(value) > _MAX:
            raise FormatError(f"a Link of {len(value)} bytes")
        position = 0
        while position < len(value):
            link = _LINK.match(value, position)
            if link is None:
                raise FormatError("a Link that is not one")
            for relation in _REL.finditer(link[2]):
                if "next" in (relation[1] or relation[2] or "").lower().split():
                    return link[1]
            position = link.end()
    return None


def parse_content_range(value: str) -> tuple[int, int, int | None]:
    """First byte, the one after the last, and the size of the whole (None: `*`). Raises `FormatError`."""
    found = _CONTENT_RANGE.match(value)
    if found is None:
        raise FormatError(f"a Content-Range that is not one: {value!a:.80}")
    first, last = int(found[1]), int(found[2])
    size = None if found[3] == "*" else int(found[3])
    if last < first or (size is not None and last >= size):
        raise FormatError(f"a Content-Range that cannot be: {value!a:.80}")
    return first, last + 1, size


def parse_upload_range(value: str) -> int:
    """distribution-spec: how many bytes of an upload a registry has, from its `Range: 0-N`. Raises `FormatError`.

    "0-0" is one byte, or none: distribution says so of an empty upload.
    """
    found = _UPLOAD_RANGE.match(value)
    if found is None or int(found[1]) != 0:
        raise FormatError(f"a Range that is not one: {value!a:.80}")
    return int(found[2]) + 1
