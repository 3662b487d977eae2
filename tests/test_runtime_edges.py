"""Rare ends of attend(), background() and the log: full disks, high descriptors, signals, hung-up terminals."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lazarus._native.spawn import spawn
from lazarus.runtime.crun import Streams
from lazarus.runtime.log import LogWriter, read_log
from lazarus.runtime.supervisor import Attachment, Child, attend, background, write_all


def test_a_log_on_a_full_disk_loses_lines_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogWriter(str(tmp_path / "log"))
    log.write("stdout", b"first\n")
    real = os.write
    answers: Iterator[int] = iter([10, 0, 0])

    def full(fd: int, data: bytes) -> int:
        room = next(answers)
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data[:room])

    monkeypatch.setattr(os, "write", full)
    log.write("stdout", b"torn\n")
    log.write("stdout", b"lost\n")
    monkeypatch.setattr(os, "write", real)
    log.write("stdout", b"again\n")
    log.close()
    assert [record.data for record in read_log(str(tmp_path / "log"))] == [b"first\n", b"again\n"]


def test_descriptors_above_those_that_select_takes() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 2100:
        pytest.skip(f"at most {limits[1]} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2100, limits[1]))
    source, target = os.pipe()
    try:
        high = fcntl.fcntl(target, fcntl.F_DUPFD_CLOEXEC, 2000)
        os.set_blocking(high, False)
        reader = threading.Timer(0.1, lambda: [os.read(source, 1 << 16) for _ in range(4)])
        reader.start()
        write_all(high, b"x" * (4 << 16))  # four times what fits
        os.close(high)
        reader.join()
    finally:
        os.close(source)
        os.close(target)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_kept_descriptor_and_no_other(tmp_path: Path) -> None:
    with (tmp_path / "kept").open("w") as kept, (tmp_path / "closed").open("w") as closed:

        def work(report: Callable[[bytes], None]) -> None:
            os.write(kept.fileno(), b"x")
            try:
                os.fstat(closed.fileno())
            except OSError:
                report(b"closed")

        assert background(work, keep=(kept.fileno(),)) == b"closed"
    assert (tmp_path / "kept").read_text() == "x"


def test_a_report_among_the_standard_streams() -> None:
    """The caller has closed its own: the pipe gets their numbers."""
    child = os.fork()
    if child == 0:
        for fd in range(3):
            os.close(fd)
        os._exit(0 if background(lambda report: report(b"here")) == b"here" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_signal_waits_for_the_report() -> None:
    class Stop(Exception):
        pass

    def handler(*_: object) -> None:
        raise Stop

    reported = []
    before = signal.signal(signal.SIGALRM, handler)

    def work(report: Callable[[bytes], None]) -> None:
        import time

        time.sleep(0.3)
        report(b"x")

    def waiting() -> None:
        reported.append(background(work))

    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Stop):
            waiting()
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_handler_that_raises_during_the_start_finds_the_process() -> None:
    """Its pid is known before any handler runs, so that it can be killed."""
    pids: list[int] = []

    def handler(*_: object) -> None:
        raise KeyboardInterrupt

    def start(_streams: Streams, _console: str | None) -> int:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # another thread would take the process's at once
        pids.append(spawn(["/bin/sleep", "60"], [], stdin=0, stdout=1, stderr=2))
        return pids[0]

    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt), Child(start, lambda _pid: None, forward=False) as child:
            child.launch(Streams())
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(pids) == 1 and not Path(f"/proc/{pids[0]}").exists()


def test_nobody_reads_what_a_terminal_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal hangs up, and what runs in it ends."""
    from lazarus.runtime import console

    ours, theirs = pty.openpty()
    name = os.ttyname(theirs)

    def start(_streams: Streams, _console: str | None) -> int:
        script = f"exec < {name} > {name} 2>&1; while echo y; do :; done; exit 9"  # leads a session: it becomes its own
        pid = spawn(["/bin/sh", "-c", script], ["PATH=/bin"], stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        return pid

    monkeypatch.setattr(console.Console, "receive", lambda _self: ours)
    source, target = os.pipe()
    os.close(source)
    code = attend(start, lambda _pid: None, Attachment(None, target, target), notes=str(tmp_path), terminal=True)
    os.close(target)
    assert code in (9, 128 + signal.SIGHUP)
