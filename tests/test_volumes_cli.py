"""`lazarus volume ...` and the options of `create` and `run` as a user types them: output, exit codes, one line."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_helpers import Command
from container_helpers import IMAGE, remove_all, until

from lazarus.cli import main
from lazarus.store import Store

pytest_plugins = ("container_fixtures",)


@pytest.fixture
def empty(tmp_path: Path) -> Command:
    """A store without images, which needs neither root nor a runtime."""
    return Command(tmp_path / "store")


@pytest.fixture
def lazarus(store: Store) -> Iterator[Command]:
    remove_all(store)
    yield Command(store.paths.root)
    remove_all(store)


def test_a_life(empty: Command) -> None:
    assert empty.ok("volume", "create", "--label", "a=1", "--label", "b", "db") == "db"
    assert empty.ok("volume", "create", "db") == "db", "there already, as in docker"
    nameless = empty.ok("volume", "create")
    assert re.fullmatch("[0-9a-f]{64}", nameless)
    assert empty.ok("volume", "ls").splitlines()[0].split() == ["DRIVER", "VOLUME", "NAME"]
    assert set(empty.ok("volume", "ls", "-q").split()) == {"db", nameless}
    assert empty.ok("volume", "ls", "-q", "--filter", "label=a=1") == "db"
    assert empty.ok("volume", "ls", "-q", "-f", "name=d", "--filter", "dangling=false") == ""
    (found,) = json.loads(empty.ok("volume", "ls", "--filter", "name=db", "--filter", "label=a", "--format", "json"))
    assert found == json.loads(empty.ok("volume", "inspect", "db"))[0]
    assert (found["Name"], found["Labels"]) == ("db", {"a": "1", "b": ""})
    assert os.path.isdir(found["Mountpoint"])
    assert empty.ok("volume", "prune", "-f").split()[0] == nameless
    assert empty.ok("volume", "prune", "--filter", "label=a", "-a").split()[0] == "db"
    assert empty.ok("volume", "ls", "-q") == ""
    assert empty.ok("volume", "prune") == "Total reclaimed space: 0B"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["create", "a/b"], 1, "not a volume name"),
        (["create", "a", "b"], 2, ""),
        (["create", "--bogus"], 2, "unknown flag"),
        (["ls", "--filter", "bogus=1"], 2, "not one of"),
        (["ls", "--filter", "name"], 2, "not one of"),
        (["ls", "--filter", "dangling=maybe"], 2, "neither true nor false"),
        (["ls", "--format", "yaml"], 2, ""),
        (["prune", "--filter", "name=x"], 2, "not one of"),
        (["inspect"], 2, "VOLUME[@NAME] is missing"),
        (["inspect", "none"], 1, "not in this store"),
        (["inspect", "../x"], 1, "not in this store"),
        (["rm"], 2, "VOLUME[@NAME] is missing"),
        (["rm", "none"], 1, "not in this store"),
        (["rm", "-f", "none"], 0, ""),
        (["cp", "a", "b"], 2, "one of SOURCE and TARGET"),
        (["cp", "v:/a", "v:/b"], 2, "one of SOURCE and TARGET"),
        (["cp", "none:/a", "."], 1, "not in this store"),
        (["cp", "v@none:/a", "."], 1, "volume 'v': not in this store"),
        (["cp", "v@a/b:/a", "."], 1, "not a snapshot name"),
        (["cp", "a", "v@s:/"], 2, "v@s: a snapshot does not change"),
        (["export", "v@none"], 1, "volume 'v': not in this store"),
        (["export", "none"], 1, "not in this store"),
        (["import", "none", "-"], 1, "not in this store"),
        (["import", "none"], 2, "FILE is missing"),
        (["bogus"], 2, ""),
        ([], 2, ""),
    ],
    ids=str,
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, text: str) -> None:
    """In this process, for there are many."""
    try:
        ended: object = main(["--root", str(tmp_path / "store"), "volume", *words])
    except SystemExit as ending:
        ended = ending.code
    said = capsys.readouterr().err
    assert ended == code and text in said, said
    assert code != 1 or said.count("\n") == 1


def test_one_that_fails_does_not_keep_the_others(empty: Command) -> None:
    empty.ok("volume", "create", "a")
    empty.ok("volume", "create", "b")
    result = empty("volume", "rm", "a", "none", "b")
    assert (result.code, result.out) == (1, "a\nb\n") and "none" in result.err


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
@pytest.mark.parametrize("words", ["volume import v -", "volume cp - v:/", "cp - c:/"])
def test_one_that_waits_for_the_rest_of_a_file_is_ended(
    empty: Command, words: str, number: int, code: int, said: str
) -> None:
    """In order and at once, though who sends the tar stays quiet: nothing of that file is left."""
    if words.startswith("volume"):
        empty.ok("volume", "create", "v")
    else:
        empty.import_something("some:1")
        empty.ok("create", "--name", "c", "some:1", "true")
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, size in (("whole", 3), ("half", 4 << 20)):
            info = tarfile.TarInfo(name)
            info.size = size
            archive.addfile(info, io.BytesIO(bytes(size)))
    with subprocess.Popen(empty.words(*words.split()), stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(tar.getvalue()[: 2 << 20])
        process.stdin.flush()
        until(lambda: any(path.stat().st_size >= 1 << 20 for path in Path(empty.root).rglob("half")))
        process.send_signal(number)
        assert process.wait(timeout=20) == code
        assert process.stderr.read().decode() == f"lazarus: {said}\n"
    names = {path.name for path in Path(empty.root).rglob("*")}
    assert "whole" in names and "half" not in names and not any(name.startswith(".lz-partial") for name in names)


def test_an_import_that_has_failed_waits_for_nobody(empty: Command) -> None:
    empty.ok("volume", "create", "v")
    words = empty.words("volume", "import", "v", "-")
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(b"no tar".ljust(256 << 10, b"."))  # what is read before anything is looked at
        process.stdin.flush()
        assert process.wait(timeout=20) == 1
        assert b"checksum does not match" in process.stderr.read()


def test_files(empty: Command, tmp_path: Path) -> None:
    empty.ok("volume", "create", "db")
    (tmp_path / "f").write_text("hello\n")
    assert empty.ok("volume", "cp", str(tmp_path / "f"), "db:/") == ""
    assert empty.ok("volume", "cp", str(tmp_path / "f"), "db:g") == "", "a path without a slash begins at the root"
    empty.ok("volume", "cp", "db:/g", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "hello\n"
    with tarfile.open(fileobj=io.BytesIO(empty("volume", "cp", "db:/f", "-").raw)) as tar:
        assert tar.getnames() == ["f"]
    result = empty("volume", "cp", "db:/none", ".")
    assert result.code == 1 and result.err.count("\n") == 1
    empty.ok("volume", "export", "db", "-o", str(tmp_path / "all.tar"))
    data = (tmp_path / "all.tar").read_bytes()
    assert empty("volume", "export", "db").raw == data
    empty.ok("volume", "create", "other")
    empty.ok("volume", "import", "other", str(tmp_path / "all.tar"))
    empty.ok("volume", "import", "other", "-", stdin=data)
    empty.ok("volume", "cp", "-", "other:/", stdin=data)
    mountpoint = json.loads(empty.ok("volume", "inspect", "other"))[0]["Mountpoint"]
    assert sorted(os.listdir(mountpoint)) == ["f", "g"]
    for words in (["other", str(tmp_path / "none")], ["other", str(tmp_path)], ["other", str(tmp_path / "f")]):
        result = empty("volume", "import", *words)
        assert result.code == 1 and result.err.count("\n") == 1 and words[1] in result.err
    assert empty("volume", "import", "other", "-", stdin=b"no tar").err.startswith("lazarus: <stdin>: tar ends inside ")


@pytest.mark.root
def test_mounting(lazarus: Command, tmp_path: Path) -> None:
    run = ["run", "--rm", "--mount", "source=db,target=/v", "-v", "/anon", "--mount", "type=tmpfs,dst=/t"]
    assert lazarus.ok(*run, "--mount", f"type=bind,src={tmp_path},dst=/b,ro", IMAGE, "sh", "-c", "echo x > /v/x") == ""
    assert lazarus.ok("volume", "ls", "-q") == "db"
    assert lazarus.ok("run", "--rm", "-v", "db:/v:ro", IMAGE, "cat", "/v/x") == "x"
    identity = lazarus.ok("create", "--name", "one", "-v", "db:/v", "-v", "/anon", IMAGE, "sh")
    result = lazarus("volume", "rm", "db")
    assert result.code == 1 and "in use by container one" in result.err and result.err.count("\n") == 1
    assert lazarus("volume", "rm", "-f", "db").code == 1
    assert lazarus.ok("volume", "ls", "-q", "--filter", "dangling=true") == ""
    assert {mount["Type"] for mount in json.loads(lazarus.ok("inspect", identity))[0]["Mounts"]} == {"volume"}
    assert lazarus.ok("rm", "-v", "one") == "one"
    assert lazarus.ok("volume", "ls", "-q") == "db" and lazarus.ok("volume", "rm", "db") == "db"


@pytest.mark.root
@pytest.mark.parametrize(
    "words",
    [
        ["-v", "a/b:/v"],
        ["-v", "db:v"],
        ["-v", "db:/v:bogus"],
        ["-v", "db:/v", "-v", "/tmp:/v"],
        ["--mount", "type=image,source=x,target=/v"],
        ["--mount", "type=bogus,target=/v"],
        ["--mount", "target=/v,bogus=1"],
        ["--mount", "source=db"],
        ["-v", "db:/v:subpath=../x"],
    ],
    ids=str,
)
def test_mounts_that_cannot_be(lazarus: Command, store: Store, words: list[str]) -> None:
    result = lazarus("run", *words, IMAGE, "sh")
    assert result.code == 125 and result.err.count("\n") == 1, result
    assert store.containers.list(all=True) == store.volumes.list() == []


@pytest.mark.root
def test_a_part_that_is_not_there(lazarus: Command) -> None:
    result = lazarus("run", "--rm", "-v", "db:/v:subpath=none", IMAGE, "sh")
    assert result.code == 125 and "db: none: No such file or directory" in result.err


@pytest.mark.root
def test_prune_and_df(lazarus: Command, store: Store) -> None:
    lazarus.ok("create", "-v", "db:/v", "-v", "/anon", IMAGE)
    assert json.loads(lazarus.ok("system", "df", "--format", "json"))["volumes"]["count"] == 2
    assert json.loads(lazarus.ok("system", "info", "--format", "json"))["Volumes"] == 2
    assert "0 volumes" in lazarus.ok("system", "prune", "--volumes")
    (anonymous,) = [volume.name for volume in store.volumes.list() if volume.anonymous]
    planned = json.loads(lazarus.ok("system", "prune", "--containers", "--volumes", "-n", "--format", "json"))
    assert planned["volumes"] == [anonymous] and len(store.volumes.list()) == 2
    text = lazarus.ok("system", "prune", "--containers", "--volumes", "-f")
    assert f"volume {anonymous}\n" in text and ", 1 volume;" in text
    assert lazarus.ok("volume", "ls", "-q") == "db", "one with a name stays"
