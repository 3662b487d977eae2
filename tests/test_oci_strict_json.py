"""JSON that was made to cost its reader something."""

from __future__ import annotations

import pytest

from lazarus.errors import FormatError
from lazarus.oci import strict_json


class Key(str):
    """Counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Key.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_a_duplicate_key_is_found_in_one_pass() -> None:
    """A document of 4 MiB has 400,000 keys, and one of them may be there twice: not an hour's work."""
    pairs = [(Key(number), 0) for number in [*range(2000), 1999]]
    with pytest.raises(ValueError, match="1999"):
        strict_json._object(pairs)  # type: ignore[arg-type]
    assert Key.compared < 10 * len(pairs)


@pytest.mark.parametrize("text", ['{"a":1,"a":1}', '{"b":[{"a":1,"c":0,"a":2}]}'])
def test_duplicate_keys_are_named(text: str) -> None:
    with pytest.raises(FormatError, match="document: duplicate key 'a'"):
        strict_json.loads(text.encode(), "document")
