"""The two readers of a command line, the fast scanner and argparse, hold each other to the same table."""

from __future__ import annotations

import contextlib
import io
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazarus.cli import VERBS
from lazarus.cli.images import byte_count
from lazarus.cli.options import Verb, complaint, parse_slowly, scan, truth, whole_number
from lazarus.cli.output import duration
from lazarus.cli.overview import all_verbs

ALL = all_verbs()


def slowly(verb: Verb, argv: list[str]) -> SimpleNamespace | None:
    """What argparse makes of it; None for a mistake."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            return parse_slowly(verb, argv)
        except SystemExit:
            return None


def test_every_verb_is_in_the_table_under_its_own_name() -> None:
    assert list(ALL) == list(VERBS)
    for name, verb in ALL.items():
        assert verb.name == name and verb.summary[0].islower() and not verb.summary.endswith(".")
        flags = [flag for option in verb.options for flag in option.flags]
        assert len(flags) == len(set(flags)), name
        for option in verb.options:
            assert option.help and (option.metavar or not option.choices), (name, option.dest)


@pytest.mark.parametrize(
    ("name", "argv", "expected"),
    [
        (
            "run",
            ["-it", "--rm", "img", "sh", "-c", "x"],
            {"command": ["sh", "-c", "x"], "interactive": True, "tty": True},
        ),
        ("run", ["-eA=1", "-e", "B", "--env=C=2", "img"], {"env": ["A=1", "B", "C=2"], "command": []}),
        ("run", ["--name", "x", "img", "--name", "y"], {"name": "x", "command": ["--name", "y"]}),
        ("run", ["--", "img", "-x"], {"image": "img", "command": ["-x"]}),
        ("exec", ["c", "ls", "-l"], {"container": "c", "command": ["ls", "-l"]}),
        ("rm", ["a", "-f", "b"], {"containers": ["a", "b"], "force": True}),
        ("images", [], {"reference": None, "quiet": False}),
        ("commit", ["c"], {"reference": None, "pause": True, "change": []}),
        ("commit", ["--pause=false", "c", "x:1"], {"reference": "x:1", "pause": False}),
        ("stop", ["-t", "0.5", "a"], {"time": 0.5}),
        ("cp", ["-", "c:/"], {"source": "-", "target": "c:/"}),
        ("mount", [], {"containers": []}),
        ("run", ["-h", "web", "img"], {"hostname": "web", "image": "img"}),  # of docker and podman
        ("du", ["-sh", "c:/etc"], {"summarize": True, "human": True, "targets": ["c:/etc"]}),
        ("ls", ["-lh", "c"], {"human": True, "targets": ["c"]}),
    ],
)
def test_spellings(name: str, argv: list[str], expected: dict[str, object]) -> None:
    fast = scan(ALL[name], argv)
    assert fast is not None and vars(fast).items() >= expected.items()
    assert slowly(ALL[name], argv) == fast


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("run", []),
        ("run", ["--bogus", "img"]),
        ("run", ["--network", "bridge", "img"]),
        ("run", ["--nam", "x", "img"]),
        ("run", ["-e"]),
        ("rm", []),
        ("cp", ["a"]),
        ("cp", ["a", "b", "c"]),
        ("stop", ["-t", "soon", "a"]),
        ("stop", ["-t", "nan", "a"]),
        ("logs", ["--tail", "²", "a"]),
        ("logs", ["--tail", "-1", "a"]),
        ("load", ["--max-entries", "9" * 30]),
        ("load", ["--max-tar-size", "inf"]),
        ("load", ["--max-ratio", "-1"]),
        ("images", ["--format", "yaml"]),
        ("commit", ["--pause=maybe", "c"]),
    ],
)
def test_mistakes_are_argparses_to_tell(name: str, argv: list[str]) -> None:
    assert scan(ALL[name], argv) is None and slowly(ALL[name], argv) is None


@pytest.mark.parametrize("name", list(ALL))
def test_what_the_scanner_understands_it_understands_as_argparse_does(name: str) -> None:
    verb = ALL[name]
    flags = [flag for option in verb.options for flag in option.flags]
    pieces = st.sampled_from([*flags, "a", "b:c", "1", "0", "json", "none", "true", "x=y", "img"])

    @settings(max_examples=60, deadline=None)
    @given(st.lists(pieces, max_size=6))
    def agree(argv: list[str]) -> None:
        fast = scan(verb, argv)
        if fast is None:  # argparse has the word
            assert complaint(verb, argv) is None or slowly(verb, argv) is None, argv
            return
        slow = slowly(verb, argv)
        assert slow == fast, argv
        assert complaint(verb, argv) is None, argv

    agree()


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("500", 500), ("20k", 20_000), ("3.5G", 3_500_000_000), ("1MB", 10**6), ("2tb", 2 * 10**12)],
)
def test_byte_counts(text: str, count: int) -> None:
    assert byte_count(text) == count


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1e30", "x", "k", "1x", "9" * 40])
def test_no_byte_counts(text: str) -> None:
    with pytest.raises(ValueError):
        byte_count(text)


def test_words() -> None:
    assert truth("TRUE") and not truth("0") and whole_number(str(2**63 - 1)) == 2**63 - 1
    for text in ("yes", "", "2"):
        with pytest.raises(ValueError):
            truth(text)
    for text in ("", "-1", "+1", "1.0", "²", " 1", "1_0", str(2**63)):
        with pytest.raises(ValueError):
            whole_number(text)


def test_how_long() -> None:
    seconds = {0: "0 seconds", 1: "1 second", 1.9: "1 second", 59: "59 seconds", 60: "1 minute", 120: "2 minutes"}
    seconds |= {3600: "1 hour", 86_400: "24 hours", 172_800: "2 days", 13 * 86_400: "13 days", 14 * 86_400: "2 weeks"}
    assert {length: duration(length) for length in seconds} == seconds


def test_what_has_no_name_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.progress import Progress

    from lazarus.cli.progress import progress_bars
    from lazarus.terms import ProgressEvent

    drawn: list[str] = []
    add = Progress.add_task
    monkeypatch.setattr(
        Progress, "add_task", lambda bars, what, **more: (drawn.append(what), add(bars, what, **more))[1]
    )
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress_bars(one_each=True) as draw:
        assert draw is not None
        draw(ProgressEvent("pull", "sha256:0123", 1, 2))
        draw(ProgressEvent("publish", "", 0, 0))
    assert drawn == ["pull 0123"]
