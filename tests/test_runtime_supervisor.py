"""attend() and background() with plain processes: no root, no runtime."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lazarus._native.spawn import spawn
from lazarus.runtime.crun import Streams
from lazarus.runtime.log import LogWriter, read_log
from lazarus.runtime.supervisor import Attachment, Child, Start, attend, background, exit_code


def shell(script: str) -> Start:
    def start(streams: Streams, _console: str | None) -> int:
        command = ["/bin/sh", "-c", script]
        return spawn(command, ["PATH=/bin:/usr/bin"], stdin=streams[0], stdout=streams[1], stderr=streams[2])

    return start


def run(script: str, tmp_path: Path, **options: object) -> int:
    log = LogWriter(str(tmp_path / "log"))
    try:
        return attend(shell(script), lambda _pid: None, Attachment(), notes=str(tmp_path), log=log)
    finally:
        log.close()


def logged(tmp_path: Path, stream: str) -> bytes:
    return b"".join(record.data for record in read_log(str(tmp_path / "log")) if record.stream == stream)


@pytest.mark.parametrize(("script", "code"), [("exit 5", 5), ("kill -TERM $$", 143), ("kill -KILL $$", 137), (":", 0)])
def test_exit_codes(script: str, code: int, tmp_path: Path) -> None:
    assert run(script, tmp_path) == code


def test_exit_code_of_a_status() -> None:
    assert exit_code(0) == 0 and exit_code(3 << 8) == 3 and exit_code(9) == 137


def test_a_megabyte_on_each_stream(tmp_path: Path) -> None:
    script = "dd if=/dev/zero bs=65536 count=16 status=none; dd if=/dev/zero bs=65536 count=16 status=none >&2"
    assert run(script, tmp_path) == 0
    assert len(logged(tmp_path, "stdout")) == len(logged(tmp_path, "stderr")) == 1 << 20


def test_what_is_left_in_the_pipes_at_the_end_is_taken(tmp_path: Path) -> None:
    """Also when a grandchild keeps them open."""
    assert run("sleep 0.7 & echo last", tmp_path) == 0
    assert logged(tmp_path, "stdout") == b"last\n"


def test_started_is_told_first_and_may_refuse(tmp_path: Path) -> None:
    pids: list[int] = []

    def refuse(pid: int) -> None:
        pids.append(pid)
        raise OSError(28, "no space")

    with pytest.raises(OSError, match="no space"):
        attend(shell("sleep 60"), refuse, Attachment(None, 1, 2), notes=str(tmp_path))
    assert not Path(f"/proc/{pids[0]}").exists()


def test_descriptors_are_all_given_back(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        run("echo x; echo y >&2", tmp_path)
        attend(shell("exit 1"), lambda _pid: None, Attachment(None, 1, 2), notes=str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_held_stdin_never_ends(tmp_path: Path) -> None:
    log = LogWriter(str(tmp_path / "log"))
    pids: list[int] = []

    def kill_later(pid: int) -> None:
        pids.append(pid)
        threading.Timer(0.3, os.kill, (pid, 15)).start()

    code = attend(shell("cat"), kill_later, Attachment(hold_stdin=True), notes=str(tmp_path), log=log)
    log.close()
    assert code == 143


def test_signals_before_the_start_are_kept(tmp_path: Path) -> None:
    child = Child(shell("trap 'exit 3' USR1; kill -USR1 $$"), lambda _pid: None, forward=False)
    with child:
        null = os.open(os.devnull, os.O_RDWR)
        child._handle(10, None)  # nobody is there yet
        child.launch(Streams(null, null, null))
        os.close(null)
        assert child.wait() in (3, 138)


def in_background(work: Callable[[Callable[[bytes], None]], None]) -> bytes:
    started = time.monotonic()
    answer = background(work)
    assert time.monotonic() - started < 5
    return answer


def test_background_reports_and_lives_on(tmp_path: Path) -> None:
    done = tmp_path / "done"

    def work(report: Callable[[bytes], None]) -> None:
        facts = {
            "pid": os.getpid(),
            "sid": os.getsid(0),
            "fds": sorted(os.listdir("/proc/self/fd")),
            "cwd": os.getcwd(),
        }
        report(json.dumps(facts).encode())
        time.sleep(0.3)
        done.write_text("yes")

    with (tmp_path / "open").open("w"):
        facts = json.loads(in_background(work))
    assert facts["pid"] != os.getpid() and facts["sid"] not in (os.getsid(0), facts["pid"])
    assert facts["cwd"] == "/"
    assert len(facts["fds"]) <= 5, "the caller's descriptors are closed in it"
    assert not done.exists()
    deadline = time.monotonic() + 5
    while not done.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert done.read_text() == "yes"


def test_background_that_dies_reports_nothing() -> None:
    assert in_background(lambda _report: os._exit(1)) == b""

    def fail(_report: Callable[[bytes], None]) -> None:
        raise RuntimeError

    assert in_background(fail) == b""
