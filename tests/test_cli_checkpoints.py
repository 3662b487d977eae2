"""`checkpoint`, `log`, `rollback` and `fork` as a user types them."""

from __future__ import annotations

import json
import time

import pytest
from cli_helpers import Command
from container_helpers import IMAGE

from lazarus.store import Store

pytest_plugins = ("container_fixtures",)
pytestmark = pytest.mark.root


@pytest.fixture
def lazarus(store: Store) -> Command:
    return Command(store.paths.root)


def test_a_story(lazarus: Command) -> None:
    lazarus.ok("run", "--name", "one", IMAGE, "sh", "-c", "echo more >>/note; cat /note")
    assert lazarus.ok("checkpoint", "one", "first") == "first"
    assert lazarus.ok("start", "-a", "one") == "more\nmore"
    assert lazarus.ok("checkpoint", "--sync", "one") == "1"
    assert lazarus.ok("log", "-q", "one").split() == ["first", "1"]
    lines = lazarus.ok("log", "one").splitlines()
    assert [line[:12].rstrip() for line in lines] == ["CHECKPOINT", "  first", "*   1"]
    assert lazarus.ok("rollback", "one@first") == "one@first"
    first, second = json.loads(lazarus.ok("log", "--format", "json", "one"))
    assert first["Name"] == "first" and first["Parent"] is None and first["Current"] is True
    assert second["Parent"] == f"{first['Container']}/first" and second["Current"] is False
    ids = lazarus.ok("fork", "one@first", "-n", "2", "--name", "lab").split()
    assert [found["Id"] for found in json.loads(lazarus.ok("inspect", "lab-1", "lab-2"))] == ids
    assert lazarus.ok("start", "-a", "lab-1") == "more\nmore" and lazarus.ok("diff", "lab-2") == "A /note"
    assert lazarus.ok("log", "lab-1").splitlines()[1].split()[:3] == ["*", "first", "one"]
    assert lazarus.ok("rm", "one@1", "lab-1") == "one@1\nlab-1"
    assert len(lazarus.ok("fork", "one").split()) == 1


def test_forks_that_are_started(lazarus: Command, store: Store) -> None:
    lazarus.ok("run", "--name", "one", IMAGE, "sh", "-c", "echo more >>/note; cat /note")
    ids = lazarus.ok("fork", "one", "-n", "3", "--name", "lab", "--start").split()
    assert [store.containers.get(one).wait() for one in ids] == [0, 0, 0]
    assert [lazarus.ok("logs", f"lab-{number}") for number in (1, 2, 3)] == ["more\nmore"] * 3
    store.containers.get("lab-1").remove()
    broken = lazarus.ok("create", "--name", "broken", IMAGE, "/none")
    result = lazarus("fork", broken, "-n", "2", "--name", "no", "--start")
    assert result.code == 1 and "/none" in result.err
    assert [store.containers.get(f"no-{number}").status for number in (1, 2)] == [
        "exited",
        "created",
    ]  # as `start` leaves them


def test_mistakes(lazarus: Command) -> None:
    lazarus.ok("create", "--name", "one", IMAGE)
    lazarus.ok("checkpoint", "one", "first")
    for words, code, said in (
        (["checkpoint", "one", "a/b"], 1, "not a checkpoint name"),
        (["checkpoint", "one", "first"], 1, "container one: it has a checkpoint first already"),
        (["checkpoint", "two"], 1, "container 'two': not in this store"),
        (["checkpoint"], 2, "CONTAINER is missing"),
        (["rollback", "one"], 2, "one: not CONTAINER@CHECKPOINT"),
        (["rollback", "one@none"], 1, "container one: it has no checkpoint 'none'"),
        (["fork", "one@"], 2, "one@: not CONTAINER or CONTAINER@CHECKPOINT"),
        (["fork", "one", "-n", "0"], 1, "0 containers; from 1 to"),
        (["fork", "one", "-n", "x"], 2, "x"),
        (["fork", "one@first", "--name", "one"], 1, "container name one: already in use"),
        (["rm", "one@first"], 1, "checkpoint one@first: container"),
        (
            ["commit", "one@first", "x:1"],
            2,
            "one@first: a checkpoint is not committed itself: `lazarus fork one@first`",
        ),
        (["rm", "one@none"], 1, "no checkpoint 'none' of its own"),
    ):
        result = lazarus(*words)
        assert result.code == code and said in result.err, result
        assert code == 2 or result.err.count("\n") == 1, result


def test_a_log_for_programs(lazarus: Command) -> None:
    """Times are as those of `ps`."""
    lazarus.ok("create", "--name", "one", IMAGE)
    lazarus.ok("checkpoint", "one", "first")
    (row,) = json.loads(lazarus.ok("log", "one", "--format", "json"))
    (container,) = json.loads(lazarus.ok("ps", "-a", "--filter", "name=one", "--format", "json"))
    assert row["Container"] == container["Id"] and type(row["Created"]) is type(container["Created"])
    assert container["Created"] <= row["Created"] <= time.time()


def test_help_says_what_it_is_not(lazarus: Command) -> None:
    assert "file system only" in lazarus.ok("checkpoint", "--help")
