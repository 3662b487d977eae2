"""`lazarus image ...` as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import images_made as made
import pytest
from cli_helpers import Command

BASE = made.layer({"etc": None, "etc/motd": b"hello\n", "usr/lib/one": bytes(9000)})
APP = made.layer({"srv/app": b"x" * 9000, "etc/.wh.motd": b"", "etc/\xff name": b"odd"})


@pytest.fixture
def lazarus(tmp_path: Path) -> Command:
    command = Command(tmp_path / "store")
    for tars, name in (([BASE], "base:1"), ([BASE, APP], "app:1"), ([APP], "other:1")):
        source = made.Made()
        source.image(tars, name)
        command.ok("load", "-q", "-i", str(source.archive(tmp_path / "in.tar")))
    return command


def test_every_verb_prints_the_new_id(lazarus: Command) -> None:
    for number, words in enumerate(
        (
            ["squash", "app:1"],
            ["squash", "app:1", "--from", "2", "--to=2", "-q"],
            ["split", "app:1", "2", "--path", "srv", "--path", "/etc/**"],
            ["drop", "app:1", "1"],
            ["reorder", "app:1", "1", "2"],
            ["reorder", "--force", "app:1", "2", "1"],
            ["rebase", "app:1", "--onto", "other:1"],
            ["rebase", "app:1", "--onto", "other:1", "--base", "base:1"],
        )
    ):
        new = lazarus.ok("image", *words, "-t", f"new:{number}")
        assert new.startswith("sha256:") and "\n" not in new
        assert new in lazarus.ok("images", "-q", "--no-trunc", "new")
        history = lazarus.ok("history", "--no-trunc", f"new:{number}")
        assert f"lazarus image {words[0]} " in history
    assert lazarus.ok("image", "squash", "app:1").startswith("sha256:")  # without a name too


def test_diff(lazarus: Command) -> None:
    result = lazarus("image", "diff", "base:1", "app:1")
    assert (result.code, result.err) == (0, "")
    assert result.raw.splitlines() == [
        b"D /etc/motd",
        b"A /etc/\xc3\xbf name",
        b"A /srv",
        b"A /srv/app",
    ]
    assert lazarus("image", "diff", "--exit-code", "base:1", "app:1").code == 1
    assert lazarus("image", "diff", "--exit-code", "app:1", "app:1").code == 0
    changes = json.loads(lazarus.ok("image", "diff", "--format", "json", "app:1", "base:1"))
    assert changes[-1] == {
        "change": "D",
        "path": "/srv/app",
        "kind": "file",
        "differs": [],
        "old_size": 9000,
        "size": 0,
    }
    lazarus.ok("image", "reorder", "-f", "app:1", "2", "1", "-t", "swapped")
    assert lazarus("image", "diff", "app:1", "swapped").out == "A /etc/motd\n"


def test_one_line_for_what_cannot_be(lazarus: Command) -> None:
    for words, told in (
        (["squash", "none"], "image none: not in this store"),
        (["squash", "app:1", "--from", "3"], "layers 3 to 2 of 2: no such range"),
        (["drop", "app:1", "5"], "layer 5: image sha256:"),
        (["drop", "app:1", "1", "2"], "there is nothing left"),
        (["reorder", "app:1", "2", "1"], "/etc/motd would be there"),
        (["rebase", "base:1", "--onto", "other:1"], "its old base is not known; name it"),
        (["split", "app:1", "1", "--path", "nothing\x1b[31m"], "no entry of"),
        (["diff", "app:1", "none"], "image none: not in this store"),
        (["squash", "app:1", "-t", "BAD"], "BAD"),
    ):
        result = lazarus("image", *words)
        assert result.code == 1 and result.out == "" and told in result.err, words
        assert result.err.count("\n") == 1 and result.err.isascii() and "\x1b" not in result.err
