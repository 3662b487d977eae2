"""What the README shows can be typed: its commands are of verbs and flags that are there, its imports work."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from lazarus.cli import GROUPS
from lazarus.cli.options import scan
from lazarus.cli.overview import all_verbs

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"the README has no block of {language}"
    return found


def command_lines() -> list[list[str]]:
    """The words after `lazarus` of each command in the README's shell blocks."""
    found = []
    for block in blocks("sh"):
        for line in block.splitlines():
            words = shlex.shlex(line, posix=True, punctuation_chars=";|<>")
            words.whitespace_split = True
            command: list[str] = []
            for word in [*words, ";"]:
                if set(word) <= set(";|<>"):
                    if command[:1] == ["lazarus"]:
                        found.append(command[1:])
                    command = []
                else:
                    command.append(word)
    return found


LINES = command_lines()


def test_there_are_many() -> None:
    assert len(LINES) > 60 and ["commit", "c1", "debian:mine"] in LINES


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_a_command_line(words: list[str]) -> None:
    count = 2 if words[0] in GROUPS else 1
    verb = all_verbs()[" ".join(words[:count])]
    assert scan(verb, words[count:]) is not None, f"lazarus {verb.name} does not take this"


@pytest.mark.parametrize("source", blocks("python"), ids=lambda source: source.splitlines()[0])
def test_python(source: str) -> None:
    imports = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), str(README), "exec"), {})
