"""Headers that a registry may fill with anything: parsed as they were written, or refused, and never slowly."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazarus.errors import FormatError
from lazarus.registry.challenges import (
    Challenge,
    next_link,
    parse_challenges,
    parse_content_range,
    parse_upload_range,
)
from lazarus.registry.words import printable, retry_after

TOKENS = st.text("abcXYZ019!#$%&'*+.^_`|~-", min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)
PARAMETERS = st.dictionaries(TOKENS.map(str.lower), VALUES, min_size=1, max_size=4)
SPACES = st.sampled_from(["", " ", "\t ", "  "])


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(st.lists(st.tuples(TOKENS, PARAMETERS), min_size=1, max_size=4), SPACES, SPACES, st.booleans())
def test_challenges_come_back(
    made: list[tuple[str, dict[str, str]]], before: str, after: str, one_header: bool
) -> None:
    texts = [
        f"{scheme} "
        + f"{before},{after}".join(f"{name}{before}={after}{quoted(value)}" for name, value in words.items())
        for scheme, words in made
    ]
    headers = [", ".join(texts)] if one_header else texts
    assert parse_challenges(headers) == [Challenge(scheme.lower(), words) for scheme, words in made]


REALM, SCOPE = "https://auth.example/token", "repository:a/b:pull,push"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Basic", [("basic", {})]),
        ("Negotiate, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
        ("Negotiate abc==, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
        (',, Bearer realm="a, b=c" ,service=d', [("bearer", {"realm": "a, b=c", "service": "d"})]),
        (f'Bearer realm="{REALM}",scope="{SCOPE}"', [("bearer", {"realm": REALM, "scope": SCOPE})]),
    ],
)
def test_challenges_of_real_servers(text: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [tuple(challenge) for challenge in parse_challenges([text])] == expected


@given(st.text(st.sampled_from(' \t,="\\aB;<>/-_0é\x1b'), max_size=200), st.sampled_from([1, 50]))
def test_whatever_comes_is_parsed_or_refused_at_once(text: str, times: int) -> None:
    for parse in (
        lambda value: parse_challenges([value]),
        lambda value: next_link([value]),
        parse_content_range,
        parse_upload_range,
    ):
        begin = time.process_time()
        try:
            parse(text * times)
        except FormatError as error:
            assert str(error).isprintable() or "\\" in str(error)
        assert time.process_time() - begin < 1, "no regular expression goes astray"


@given(st.lists(st.tuples(st.text("abc/?=&%:", max_size=20), st.sampled_from(["next", "prev", "first"])), max_size=5))
def test_the_next_link(made: list[tuple[str, str]]) -> None:
    expected = next((target for target, relation in made if relation == "next"), None)
    assert (
        next_link([", ".join(f'<{target}>; title="x, y"; rel="{relation}"' for target, relation in made)]) == expected
    )
    assert next_link([f"<{target}>;rel={relation}" for target, relation in made]) == expected


@given(st.integers(0, 10**18), st.integers(1, 10**18), st.none() | st.integers(1, 10**18))
def test_ranges(first: int, count: int, more: int | None) -> None:
    total = "*" if more is None else str(first + count + more - 1)
    text = f"bytes {first}-{first + count - 1}/{total}"
    assert parse_content_range(text) == (first, first + count, None if more is None else int(total))
    assert parse_upload_range(f"0-{count - 1}") == parse_upload_range(f"bytes=0-{count - 1}") == count
    for wrong in (
        f"bytes {first + count}-{first}/*",
        f"bytes 0-{first + count}/{first + count}",
        f"{text} ",
        f"bits{text}",
    ):
        with pytest.raises(FormatError):
            parse_content_range(wrong)


@given(st.text(), st.integers(4, 300))
def test_words_are_one_printable_line(text: str, limit: int) -> None:
    line = printable(text, limit)
    assert len(line) <= limit and (line == "" or (line.isascii() and line.isprintable()))
    pause = retry_after(text)
    assert pause is None or pause >= 0
