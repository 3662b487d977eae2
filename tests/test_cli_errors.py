"""Bad input at the command line: one clear line, the right exit code, never a traceback."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_helpers import Command
from container_helpers import until

from lazarus.cli.overview import all_verbs

VERBS = list(all_verbs())


@pytest.fixture
def lazarus(tmp_path: Path) -> Command:
    return Command(tmp_path / "store")


@pytest.mark.parametrize("verb", VERBS)
def test_help(lazarus: Command, verb: str) -> None:
    for words in ([*verb.split(), "--help"], [*verb.split(), "-h"], ["help", *verb.split()]):
        result = lazarus(*words)
        assert (result.code, result.err) == (0, "") and result.out.startswith(f"usage: lazarus {verb} ")
    for option in all_verbs()[verb].options:
        assert all(flag in result.out for flag in option.flags)
    assert not os.path.exists(lazarus.root), "help opens no store"


def test_help_on_all(lazarus: Command) -> None:
    for words in (["--help"], ["-h"], ["help"]):
        result = lazarus(*words)
        assert result.code == 0 and all(f"  {verb}" in result.out for verb in VERBS)
    assert lazarus("system", "--help").code == lazarus("image", "--help").code == 0
    assert lazarus("--version").out == lazarus("version").out != ""


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["bogus"],
        ["--bogus"],
        ["system"],
        ["system", "bogus"],
        ["image"],
        ["image", "bogus"],
        ["image", "squash", "x", "--from", "first"],
        ["image", "split", "x", "1"],
        ["image", "rebase", "x"],
        ["image", "reorder", "x"],
        ["image", "diff", "x"],
        ["run"],
        ["run", "--bogus", "x"],
        ["run", "--network", "bridge", "x"],
        ["exec", "c"],
        ["rm"],
        ["cp", "a", "b"],
        ["cp", "a:/b", "c:/d"],
        ["ps", "--filter", "bogus=1"],
        ["ps", "--filter", "name"],
        ["images", "--format", "yaml"],
        ["logs", "--tail", "²", "c"],
        ["stop", "-t", "nan", "c"],
        ["load", "--max-tar-size", "inf"],
        ["save", "--format", "oci-dir", "x"],
        ["start", "-a", "a", "b"],
        ["completion"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line(lazarus: Command, words: list[str]) -> None:
    result = lazarus(*words)
    code = 125 if words and words[0] in ("run", "exec", "start") else 2  # as docker and podman
    assert (result.code, result.out) == (code, "") and result.err
    assert result.err.count("\n") == 1 or words in ([], ["system"], ["image"]), "one line, but where no verb is named"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["image", "ls"], "images"),  # docker's and podman's other names
        (["image", "rm", "x"], "rmi"),
        (["image", "pull", "x"], "pull"),
        (["container", "ls", "-a"], "ps"),
        (["container", "stop", "c"], "stop"),
        (["info"], "system info"),
        (["restart", "c"], "stop, start"),
        (["prune"], "volume prune, system prune"),  # without the first of two words
        (["scrub"], "system scrub"),
        (["imgaes"], "images, image"),  # a slip of the finger
        (["rnu", "x"], "run"),
        (["volume", "inspekt", "x"], "volume inspect"),
        (["voluem", "ls"], "volume ls"),
        (["voluem"], "volume"),
        (["comm"], "commit"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_what_may_have_been_meant(lazarus: Command, words: list[str], hint: str) -> None:
    result = lazarus(*words)
    assert result.code == 2 and f"no such verb (did you mean {hint}?); see lazarus --help\n" in result.err


def test_nothing_near(lazarus: Command) -> None:
    assert lazarus("zzz").err == "lazarus: 'zzz': no such verb; see lazarus --help\n"
    assert lazarus("dedup", "zzz").err == "lazarus: 'dedup zzz': no such verb; dedup goes with report\n"
    assert lazarus("help", "zzz").code == 2


def test_an_image_that_is_not_here_may_be_pulled(lazarus: Command) -> None:
    for verb in ("run", "create"):
        assert lazarus(verb, "a/b:1").err == (
            "lazarus: image a/b:1: not in this store; `lazarus pull a/b:1` asks its registry\n"
        )
        assert lazarus(verb, "No:1").err == "lazarus: image No:1: not in this store\n"  # no registry has such a name
    lazarus.import_something("x:1")
    mount = "type=image,source=no,target=/x"
    assert lazarus("create", "--mount", mount, "x:1", "true").err == "lazarus: image no: not in this store\n"


def test_an_empty_root_is_not_the_current_directory(tmp_path: Path) -> None:
    for root in ("", "="):
        result = (
            Command("")("images", cwd=tmp_path) if not root else Command(tmp_path)("--root=", "images", cwd=tmp_path)
        )
        assert result.code == 2 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [b"nothere", b"\xff", b"", b"../x", b"a b", b"x" * 5000, "ü".encode(), b"%s", b"'"])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["run", None], 125),
        (["create", None], 1),
        (["start", None], 125),
        (["exec", None, "ls"], 125),
        (["stop", None], 1),
        (["kill", None], 1),
        (["wait", None], 1),
        (["rm", None], 1),
        (["logs", None], 1),
        (["rename", None, "x"], 1),
        (["inspect", None], 1),
        (["diff", None], 1),
        (["commit", None, "x"], 1),
        (["export", "-o", "/dev/null", None], 1),
        (["mount", None], 1),
        (["umount", None], 1),
        (["history", None], 1),
        (["tag", None, "x"], 1),
        (["rmi", None], 1),
        (["save", "-o", "/dev/null", None], 1),
        (["load", "-i", None], 1),
    ],
    ids=lambda value: " ".join(str(word) for word in value) if isinstance(value, list) else str(value),
)
def test_names_of_nothing(tmp_path: Path, words: list[str | None], code: int, bad: bytes) -> None:
    """In the test's own process: 190 starts of Python would cost more than all other tests."""
    import io

    from lazarus.cli import main

    argv = ["--root", str(tmp_path / "store"), *(os.fsdecode(bad) if word is None else word for word in words)]
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
        found = main(argv)
    text = err.getvalue()
    assert found == code, text
    assert text.startswith("lazarus: ") and text.count("\n") == 1 and text.strip().isprintable()
    assert "mistake in lazarus" not in text


def test_no_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Python says it as if it were a mistake of ours."""
    import threading

    from lazarus.cli import main

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading, "_start_new_thread", refuse)
    assert main(["--root", str(tmp_path / "store"), "system", "check"]) == 1
    said = "lazarus: no more threads can be started: a limit of processes is reached (ulimit -u, pids.max)\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--bogus"], "lazarus run: unknown flag: --bogus; see lazarus run --help\n"),
        (["run", "--bogus=1", "x", "y"], "lazarus run: unknown flag: --bogus; see lazarus run --help\n"),
        (["run", "-itX", "x"], "lazarus run: unknown flag: -X; see"),
        (
            ["find", "-name", "x", "a"],
            "lazarus find: unknown flag: -name; did you mean --name?; see lazarus find --help",
        ),
        (
            ["run", "--net", "x", "a"],
            "lazarus run: --network/--net: invalid choice: 'x' (choose from 'none', 'host'); see",
        ),
        (["ps", "-aZq"], "lazarus ps: unknown flag: -Z in -aZq; see"),
        (["run"], "lazarus run: IMAGE is missing; see lazarus run --help\n"),
        (["cp"], "lazarus cp: SOURCE and TARGET are missing; see"),
        (["load", "-i", "/etc/passwd"], "is not a number: no tar"),
        (["umount", "/tmp"], "union: target /tmp: nothing is mounted there"),
        (["umount", "/proc"], "union: target /proc: proc, not a union, is mounted there"),
        (["run", "nothere"], "image nothere: not in this store"),
        (["rm", "nothere"], "container 'nothere': not in this store"),
        (["inspect", "nothere"], "nothere: no such container or image"),
        (["load", "-i", "nothere"], "nothere: No such file or directory"),
    ],
)
def test_what_is_said(lazarus: Command, words: list[str], said: str) -> None:
    found = lazarus(*words).err
    assert said in found and found.count("\n") == 1 and "b'" not in found


def test_roots_that_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    for root in (tmp_path / "file", tmp_path / "full", "/proc/1/x"):
        result = Command(root)("images")
        assert result.code == 1 and result.err.startswith("lazarus: ") and str(root) in result.err


def test_streams_that_are_closed_or_full(lazarus: Command) -> None:
    lazarus.ok("images")
    for number, words in ((0, ["load"]), (0, ["cp", "-", "c:/"]), (1, ["images"]), (2, ["rm", "x"])):
        result = lazarus(*words, stdin=open(os.devnull, "rb"), preexec_fn=lambda number=number: os.close(number))
        assert result.code in (0, 1)
    with open("/dev/full", "wb") as full:
        result = lazarus("images", stdout=full)
        assert result.code == 1 and "No space left" in result.err


def test_who_reads_no_more(lazarus: Command) -> None:
    source, target = os.pipe()
    os.close(source)
    result = lazarus("--help", stdout=target)
    os.close(target)
    assert result.err == "" and result.code in (0, 1, 141)


def test_another_encoding(lazarus: Command) -> None:
    lazarus.ok("images")
    for encoding in ("ascii", "latin-1"):
        assert lazarus("images", env={"PYTHONIOENCODING": encoding}).code == 0


def test_empty_answers(lazarus: Command) -> None:
    for words in (["images"], ["ps", "-a"]):
        assert lazarus.ok(*words, "-q") == "" and lazarus.ok(*words, "--format", "json") == "[]"
        assert len(lazarus.ok(*words).splitlines()) == 1
    assert lazarus.ok("rm", "-f", "nothere") == lazarus.ok("rmi", "-f", "nothere:1") == ""


def test_a_mistake_of_ours_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lazarus.cli import main
    from lazarus.store import Store

    def broken(_self: Store) -> None:
        raise ZeroDivisionError("by hand")

    monkeypatch.delenv("LAZARUS_TRACEBACK", raising=False)
    monkeypatch.setattr(Store, "system_df", broken)
    assert main(["--root", str(tmp_path / "s"), "system", "df"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "ZeroDivisionError: by hand" in line and "test_cli_errors.py" in line
    monkeypatch.setenv("LAZARUS_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main(["--root", str(tmp_path / "s"), "system", "df"])


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "terminated"),
    ],
)
def test_an_interrupt_is_one_line(tmp_path: Path, number: int, code: int, said: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    words = Command(tmp_path / "store").words("load", "-i", str(fifo))
    with (
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
        fifo.open("wb"),  # it has been opened for reading too
    ):
        for _ in range(10):  # one that comes just before read() blocks is seen after it: a person presses again
            process.send_signal(number)
            if number != signal.SIGINT:  # as timeout(1) and closed terminals do: it is one end
                process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=2 if number == signal.SIGINT else 20)
                break
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (code, b"", f"lazarus: {said}\n".encode())
    assert os.listdir(tmp_path / "store/staging") == []


def test_told_to_end_just_before_it_waits() -> None:
    """A read() that begins when the signal has been does not notice it. Here another thread gets the signal."""
    code = (
        "import os, signal, threading; from lazarus import cli\n"
        "cli._end_in_order(); threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "cli.command = lambda _: os.read(0, 1); cli.main()\n"
    )
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until(lambda: "pipe" in Path(f"/proc/{process.pid}/wchan").read_text())
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        process.wait(timeout=20)
        assert time.monotonic() - begun < 4.5, "ended in order, and not because it took too long"
        assert process.stderr is not None and process.stderr.read() == b"lazarus: terminated\n"
    assert process.returncode == 143


def test_told_to_end_in_a_call_of_c(tmp_path: Path) -> None:
    """Where no Python handler is called: it waits five seconds for the end of that, and a later signal not at all."""
    (tmp_path / "large").write_bytes(bytes(1 << 20))
    code = (
        "import os, sys; from lazarus import cli; from lazarus._native.pack import pack_tree\n"
        "here = os.open(sys.argv[1], os.O_RDONLY); _, full = os.pipe()\n"
        "cli.command = lambda _: pack_tree(here, full); cli.main()\n"
    )
    for signals, ended, text in ((1, 143, b"lazarus: terminated\n"), (2, -signal.SIGTERM, b"")):
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE) as process:
            until(lambda process=process: "pipe" in Path(f"/proc/{process.pid}/wchan").read_text())
            for _ in range(signals):
                process.send_signal(signal.SIGTERM)
                time.sleep(1.2)
            _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (ended, text)


@pytest.mark.parametrize("call", ["clone.clone_tree", "pool.copy_tree"])
def test_told_to_end_while_a_tree_is_copied(tmp_path: Path, call: str) -> None:
    """It ends in order and soon, not with the last of its files, nor because that took too long."""
    room, _, name = call.partition(".")
    code = (
        f"import sys; from lazarus import cli; from lazarus._native.{room} import {name}\n"
        f"def copy(_):\n    try:\n        {name}(*sys.argv[1:])\n    finally:\n        print('over', flush=True)\n"
        "cli.command = copy; cli.main()\n"
    )
    source, target = tmp_path / "from", tmp_path / "to"
    source.mkdir()
    for number in range(10_000):
        (source / f"{number:05}").touch()
    if name == "copy_tree":
        target.mkdir()
    words = [sys.executable, "-c", code, str(source), str(target)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until(lambda: (target / "00000").exists())
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (143, b"over\n", b"lazarus: terminated\n")
    assert 0 < len(os.listdir(target)) < 10_000


def test_an_archive_for_a_terminal_is_refused_in_plain_words(lazarus: Command) -> None:
    lazarus.import_something("some:1")
    ours, theirs = pty.openpty()
    done = subprocess.run(lazarus.words("save", "some:1"), stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = os.read(ours, 1 << 16)
    os.close(ours)
    assert done.returncode == 2 and b"refusing to write an archive to a terminal" in said and b"\x1b" not in said
