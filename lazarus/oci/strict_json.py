"""JSON that means one thing only: UTF-8, no duplicate keys, no NaN, bounded size and depth.

Two programs that read a document with a duplicate key see two images under one digest; so does a program that takes
NaN, or UTF-16, for JSON.
"""

from __future__ import annotations

import json
from typing import Any

from lazarus.errors import FormatError, LimitError

MAX_SIZE = 4 << 20  # bytes; registries refuse larger manifests too (distribution-spec, "Pushing Manifests")
MAX_DEPTH = 64


class _DuplicateKey(ValueError):
    pass


def loads(data: bytes, what: str) -> Any:
    """The value of a JSON document. `FormatError` and `LimitError` begin with `what`, the name of the document."""
    if len(data) > MAX_SIZE:
        raise LimitError(f"{what}: {len(data)} bytes, more than {MAX_SIZE}")
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except _DuplicateKey as error:
        raise FormatError(f"{what}: duplicate key {error.args[0]!r:.100}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{what}: not UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise LimitError(f"{what}: nested more than {MAX_DEPTH} deep") from error
    except ValueError as error:
        raise FormatError(f"{what}: not JSON: {error}") from error
    _check_strings_and_depth(value, "\\u" in text, what)
    return value


def load_object(data: bytes, what: str) -> dict[str, Any]:
    """As `loads`, for a document that must be an object."""
    value = loads(data, what)
    if not isinstance(value, dict):
        raise FormatError(f"{what}: {kind(value)} where an object is expected")
    return value


def dumps(value: Any) -> bytes:
    """The one encoding that we write: no white space, UTF-8, keys in the order of the dictionary."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def kind(value: Any) -> str:
    """What JSON calls it, for messages."""
    if value is None:
        return "null"
    names = {
        dict: "an object",
        list: "an array",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return names[type(value)]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:  # a hostile document has 400,000 of them
            if key in seen:
                raise _DuplicateKey(key)
            seen.add(key)
    return result


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number of JSON")


def _check_strings_and_depth(value: Any, look_at_strings: bool, what: str) -> None:
    """Level by level, without recursion. Half of a surrogate pair (only an escape can bring it) has no UTF-8."""
    level = [value]
    for _ in range(MAX_DEPTH):
        strings = [item for item in level if isinstance(item, str)]
        below = [item for container in level if isinstance(container, dict) for item in container.values()]
        below += [item for container in level if isinstance(container, list) for item in container]
        if look_at_strings:
            strings += [key for container in level if isinstance(container, dict) for key in container]
            if any("\ud800" <= character <= "\udfff" for text in strings for character in text):
                raise FormatError(f"{what}: a string with half of a surrogate pair")
        level = below
        if not level:
            return
    raise LimitError(f"{what}: nested more than {MAX_DEPTH} deep")
