"""`lazarus volume snapshot`, `snapshots`, `rollback`, `clone`, `diff` and `forget` as a user types them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from cli_helpers import Command
from container_helpers import until

from lazarus.cli import main
from lazarus.store import Store


@pytest.fixture
def lazarus(tmp_path: Path) -> Command:
    """A store with a volume that has one file; it needs neither root nor a runtime."""
    command = Command(tmp_path / "store")
    command.ok("volume", "create", "--label", "a=1", "db")
    Path(place(command), "file").write_text("one\n")
    return command


def place(command: Command, name: str = "db") -> str:
    (found,) = json.loads(command.ok("volume", "inspect", name))
    return str(found["Mountpoint"])


def test_a_life(lazarus: Command) -> None:
    result = lazarus("volume", "snapshot", "db", "first")
    assert (result.code, result.out) == (0, "db@first\n")
    assert re.fullmatch(r"1 entry: \d+B shared, \d+B copied(; in a pool .*)?\n", result.err)
    assert ("lazarus pool create" in result.err) == (", 0B copied" not in result.err)
    Path(place(lazarus), "file").write_text("two\n")
    Path(place(lazarus), "new").write_text("")
    timed = lazarus.ok("volume", "snapshot", "db")
    assert re.fullmatch(r"db@\d{8}T\d{6}\.\d{3}Z", timed)
    assert lazarus.ok("volume", "snapshots", "-q", "db").split() == ["db@first", timed]
    header, *rows = lazarus.ok("volume", "snapshots").splitlines()
    assert header.split() == ["SNAPSHOT", "CREATED", "ENTRIES", "SHARED", "COPIED"] and len(rows) == 2
    found = json.loads(lazarus.ok("volume", "snapshots", "db", "--format", "json"))
    assert found == json.loads(lazarus.ok("volume", "inspect", "db@first", timed))
    assert (found[0]["Name"], found[0]["Volume"], found[0]["Snapshot"]) == ("db@first", "db", "first")
    assert Path(found[0]["Mountpoint"], "file").read_text() == "one\n"
    assert lazarus.ok("volume", "diff", "db@first").splitlines() == [
        "C / (mtime)",
        "C /file (content, mtime)",
        "A /new",
    ]
    assert lazarus.ok("volume", "diff", "db@first", timed) == lazarus.ok("volume", "diff", "-c", "db@first")
    assert lazarus.ok("volume", "diff", timed, "db") == ""
    (_, changed, _) = json.loads(lazarus.ok("volume", "diff", "db@first", "--format", "json"))
    assert (changed["change"], changed["path"], changed["kind"]) == ("C", "/file", "file")
    assert (changed["differs"], changed["old_size"], changed["size"]) == (["content", "mtime"], 4, 4)
    assert lazarus.ok("volume", "rollback", "--keep", "kept", "db@first") == "db@first"
    assert Path(place(lazarus), "file").read_text() == "one\n"
    assert lazarus.ok("volume", "rollback", "db", "kept") == "db@kept"
    assert Path(place(lazarus), "file").read_text() == "two\n"
    assert lazarus.ok("volume", "clone", "db@first", "old", "--label", "b=2") == "old"
    assert lazarus.ok("volume", "clone", "db", "new") == "new"
    assert Path(place(lazarus, "old"), "file").read_text() == "one\n"
    assert json.loads(lazarus.ok("volume", "inspect", "old"))[0]["Labels"] == {"a": "1", "b": "2"}
    assert "snapshots" in lazarus.ok("system", "df")
    assert lazarus.ok("volume", "rm", "db@first", "-f", "db@none", "old").split() == ["db@first", "db@none", "old"]
    assert lazarus.ok("volume", "rm", "db") == "db"
    assert lazarus.ok("volume", "snapshots", "-q") == ""


def test_hooks(lazarus: Command, tmp_path: Path) -> None:
    said = lazarus(
        *("volume", "snapshot", "db", "s", "--pre-hook", f"echo to stdout; echo $PHASE > {tmp_path}/log"),
        *("--post-hook", f"echo $OUTCOME | cat >> {tmp_path}/log"),
    )
    assert said.out == "db@s\n" and "to stdout" in said.err, "what a hook prints is no name of a snapshot"
    assert (tmp_path / "log").read_text() == "before\ntaken\n"
    failed = lazarus("volume", "snapshot", "db", "--pre-hook", "echo the reason >&2; exit 9")
    assert failed.code == 1 and failed.out == ""
    assert failed.err == "the reason\nlazarus: volume db: the hook before the snapshot ended with 9: the reason\n"
    slow = lazarus("volume", "snapshot", "db", "--pre-hook", "sleep 50", "--hook-timeout", "0.1")
    assert slow.code == 1 and "did not end within 0.1 s and was killed" in slow.err
    assert lazarus.ok("volume", "snapshots", "-q") == "db@s"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_told_to_end_in_a_hook(lazarus: Command, tmp_path: Path, number: int) -> None:
    """As `timeout`, a service that is stopped or a closed terminal do: the database is told to go on all the same."""
    words = lazarus.words(
        *("volume", "snapshot", "db", "s", "--pre-hook", f"echo $$ > {tmp_path}/pid; sleep 100"),
        *("--post-hook", f"echo $OUTCOME > {tmp_path}/outcome"),
    )
    process = subprocess.Popen(words)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
    process.send_signal(number)
    assert process.wait() == 128 + number and (tmp_path / "outcome").read_text() == "failed\n"
    hook = int((tmp_path / "pid").read_text())
    until(lambda: not os.path.exists(f"/proc/{hook}") or " Z " in Path(f"/proc/{hook}/stat").read_text())
    assert lazarus.ok("volume", "snapshots", "-q") == ""


def test_both_hooks_fail(lazarus: Command) -> None:
    said = lazarus("volume", "snapshot", "db", "--pre-hook", "exit 3", "--post-hook", "exit 4")
    assert said.err == (
        "lazarus: volume db: the hook before the snapshot ended with 3;"
        " volume db: the hook after the snapshot ended with 4\n"
    )


def test_forget(lazarus: Command) -> None:
    said = lazarus("volume", "forget", "db", "--keep-last", "1")
    assert (said.code, said.out, said.err) == (0, "", "volume db: it has no snapshots\n")
    assert json.loads(lazarus.ok("volume", "forget", "db", "--keep-last", "1", "--format", "json")) == []
    for name in ("a", "b", "c"):
        lazarus.ok("volume", "snapshot", "db", name)
    planned = lazarus.ok("volume", "forget", "db", "--keep-last", "1", "--keep-yearly", "unlimited", "--dry-run")
    assert [line.split() for line in planned.splitlines()] == [
        ["SNAPSHOT", "WHY"],
        ["db@a", "keep", "yearly"],
        ["db@b", "would", "remove"],
        ["db@c", "keep", "last,", "yearly"],
    ]
    assert len(lazarus.ok("volume", "snapshots", "-q").split()) == 3
    done = lazarus.ok("volume", "forget", "db", "--keep-last", "1", "--keep-yearly", "unlimited")
    assert done.replace("removed", "would remove").split() == planned.split()
    (kept, _) = json.loads(lazarus.ok("volume", "forget", "db", "--keep-within", "7d", "--format", "json"))
    assert (kept["Name"], kept["Reasons"]) == ("db@a", ["within 7d"])


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["snapshot"], 2, "VOLUME is missing"),
        (["snapshot", "none"], 1, "volume 'none': not in this store"),
        (["snapshot", "db", "a/b"], 1, "not a snapshot name"),
        (["snapshot", "db", "s"], 1, "snapshot db@s: there is one already"),
        (["snapshot", "db", "--hook-timeout", "0"], 2, "time in seconds"),
        (["snapshot", "db", "--hook-timeout", "nan"], 2, "time in seconds"),
        (["snapshots", "none"], 1, "volume 'none': not in this store"),
        (["rollback", "db"], 2, "which snapshot?"),
        (["rollback", "db@none"], 1, "snapshot db@none: not in this store"),
        (["rollback", "none@s"], 1, "volume 'none': not in this store"),
        (["rollback", "db@s", "s"], 1, "not a snapshot name"),
        (["rollback", "db@s", "--keep", "s"], 1, "snapshot db@s: there is one already"),
        (["clone", "db"], 2, "NEW is missing"),
        (["clone", "db", "db"], 1, "volume db: there is one already"),
        (["clone", "db@none", "new"], 1, "snapshot db@none: not in this store"),
        (["clone", "db", "a@b"], 1, "not a volume name"),
        (["diff", "db"], 2, "which snapshot of db?"),
        (["diff", "db", "db@s"], 2, "which snapshot of db?"),
        (["diff", "db@s", "other"], 2, "are two volumes; a snapshot is compared with its own volume"),
        (["diff", "db@none"], 1, "snapshot db@none: not in this store"),
        (["forget", "db"], 2, "say what to keep"),
        (["forget", "db", "--keep-last", "0"], 2, "say what to keep"),
        (["forget", "db", "--keep-last", "-1"], 2, ""),
        (["forget", "db", "--keep-daily", "x"], 2, "number, or unlimited"),
        (["forget", "db", "--keep-within", "2x"], 2, "--keep-within: invalid span of time, as in 2y5m7d3h value: '2x'"),
        (["forget", "db", "other", "--keep-last", "1"], 2, "unrecognized arguments: other"),
        (["rm", "db@none"], 1, "snapshot db@none: not in this store"),
        (["rm", "db@"], 1, "not a snapshot name"),
        (["inspect", "db@none"], 1, "snapshot db@none: not in this store"),
    ],
    ids=str,
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, text: str) -> None:
    """In this process, for there are many; each leaves all as it was."""
    with Store(tmp_path / "store") as store:
        store.volumes.create("db").snapshot("s")
        store.volumes.create("other")
    try:
        ended: object = main(["--root", str(tmp_path / "store"), "volume", *words])
    except SystemExit as ending:
        ended = ending.code
    said = capsys.readouterr().err
    assert ended == code and text in said, said
    assert code != 1 or said.count("\n") == 1
    with Store(tmp_path / "store") as store:
        assert [found.name for found in store.volumes.get("db").snapshots] == ["s"]
        assert os.listdir(store.paths.staging) == [] and len(store.volumes.list()) == 2
