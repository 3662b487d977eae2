"""Both runtime programs: exit codes, streams, terminals, failures; and nothing stays behind."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_rootfs import make_rootfs

from lazarus.errors import ContainerRuntimeError
from lazarus.runtime import crun
from lazarus.runtime.bundle import Process, bundle_document, environment
from lazarus.runtime.log import LogWriter, read_log
from lazarus.runtime.supervisor import Attachment, attend
from lazarus.runtime.user import User

PATH = f"{os.environ['PATH']}:/usr/sbin"


@pytest.mark.parametrize(
    ("files", "layout"),
    [
        (["cgroup.controllers"], "unified"),
        (["unified/cgroup.controllers", "memory/tasks"], "hybrid"),
        (["memory/tasks"], "legacy"),
        ([], "none"),
    ],
)
def test_cgroup_layout_is_probed(tmp_path: Path, files: list[str], layout: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert crun.cgroup_layout(str(tmp_path)) == layout
    assert crun.cgroup_layout(str(tmp_path / "nowhere")) == "none"


def test_what_crun_is_kept_from_seeing() -> None:
    assert crun.Runtime("/bin/crun", "hybrid").hide == "/sys/fs/cgroup/unified"
    assert crun.Runtime("/bin/crun", "none").hide == "/sys/fs/cgroup"
    assert crun.Runtime("/bin/crun", "unified").hide is None
    assert crun.Runtime("/bin/runc", "hybrid").hide is None
    assert not crun.Runtime("/bin/crun", "hybrid").manages_cgroups


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("executable file `x` not found in $PATH: No such file or directory", 127),
        ('runc run failed: unable to start container process: exec: "/x": stat /x: no such file or directory', 127),
        ("open executable: Permission denied", 126),
        ('unable to start container process: exec: "/etc": is a directory', 126),
        ("cgroups in hybrid mode not supported", 125),
        ("mount `/a` to `/b`: No such file or directory", 125),
    ],
)
def test_messages_become_exit_codes(message: str, code: int) -> None:
    assert crun.failure(message).exit_code == code


def test_find_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("crun", "runc"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    monkeypatch.delenv("LAZARUS_RUNTIME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert crun.find_runtime() == str(tmp_path / "crun")
    monkeypatch.setenv("LAZARUS_RUNTIME", "runc")
    assert crun.find_runtime() == str(tmp_path / "runc")
    monkeypatch.setenv("LAZARUS_RUNTIME", "/nowhere/crun")
    with pytest.raises(ContainerRuntimeError, match="/nowhere/crun"):
        crun.find_runtime()


def test_last_error_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert crun.last_error(str(log)) is None
    log.write_text(
        '{"level":"error","msg":"first"}\n{"level":"error","msg":"last"}\n{"level":"warning","msg":"w"}\nnot JSON\n'
    )
    assert crun.last_error(str(log)) == "last"


# -- with root --


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rootfs(tmp_path_factory.mktemp("rootfs"))


class Box:
    """One container on a plain directory."""

    def __init__(self, program: str, rootfs: Path, directory: Path) -> None:
        self.runtime = crun.Runtime(program)
        self.rootfs = rootfs
        self.notes = str(directory)
        self.state = str(directory / "state")
        self.name = f"test-{os.urandom(4).hex()}"
        self.pid = 0

    def run(self, script: str, *, attachment: Attachment, terminal: bool = False, log: LogWriter | None = None) -> int:
        env = environment([], (), hostname="box", home="/", terminal=terminal)
        what = Process(("sh", "-c", script), tuple(env), "/", User(0, 0), terminal)
        config = bundle_document(what, rootfs=str(self.rootfs), hostname="box", network="none")
        Path(self.notes, "config.json").write_text(json.dumps(config))

        def start(streams: crun.Streams, console: str | None) -> int:
            self.pid = self.runtime.run(self.state, self.name, self.notes, streams, console)
            return self.pid

        try:
            return attend(start, lambda _pid: None, attachment, notes=self.notes, terminal=terminal, log=log)
        finally:
            self.runtime.forget(self.state, self.name, self.notes)


@pytest.fixture(params=["crun", "runc"])
def box(request: pytest.FixtureRequest, rootfs: Path, tmp_path: Path) -> Iterator[Box]:
    program = shutil.which(request.param, path=PATH)
    if program is None:
        pytest.skip(f"{request.param} is not installed")
    box = Box(program, rootfs, tmp_path)
    yield box
    assert not Path(box.state).exists(), "the runtime's notes stayed"
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # no zombie, no process


def output(box: Box, script: str, tmp_path: Path) -> tuple[int, str]:
    with (tmp_path / "out").open("w+b") as out:
        code = box.run(script, attachment=Attachment(None, out.fileno(), out.fileno()))
        out.seek(0)
        return code, out.read().decode()


@pytest.mark.root
def test_exit_codes_and_the_world_inside(box: Box, tmp_path: Path) -> None:
    script = "hostname; echo $$; ls /dev; cat /proc/net/dev | wc -l; readlink /proc/self/exe; exit 7"
    code, text = output(box, script, tmp_path)
    assert code == 7
    hostname, pid, *rest = text.splitlines()
    assert hostname == "box" and pid == "1"
    assert {"null", "pts", "shm", "mqueue", "fd"} <= set(rest)
    assert "3" in rest  # two header lines and lo
    assert output(box, "kill -9 $$ || exit 3; sh -c 'kill -TERM $$'; echo $?", tmp_path)[1].split()[-1] == "143"


@pytest.mark.root
def test_streams_apart_and_logged(box: Box, tmp_path: Path) -> None:
    log = LogWriter(str(tmp_path / "log"))
    code = box.run("echo out; echo err >&2; printf end", attachment=Attachment(), log=log)
    log.close()
    assert code == 0
    found = {(record.stream, record.data) for record in read_log(str(tmp_path / "log"))}
    assert found == {("stdout", b"out\n"), ("stderr", b"err\n"), ("stdout", b"end")}


@pytest.mark.root
def test_stdin(box: Box, tmp_path: Path) -> None:
    source, target = os.pipe()
    os.write(target, b"typed\n")
    os.close(target)
    with (tmp_path / "out").open("w+b") as out:
        assert box.run("cat", attachment=Attachment(source, out.fileno(), out.fileno())) == 0
    os.close(source)
    assert (tmp_path / "out").read_bytes() == b"typed\n"
    assert output(box, "cat; echo end", tmp_path) == (0, "end\n")  # without stdin: /dev/null


@pytest.mark.root
def test_terminal(box: Box, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    subprocess.run(["stty", "rows", "33", "cols", "77"], stdin=theirs, check=True)
    before = subprocess.run(["stty", "-g"], stdin=theirs, capture_output=True, check=True).stdout
    os.write(ours, b"hello\r")
    script = "sleep 0.1; stty size; tty; read word; echo got $word; exit 4"
    code = box.run(script, attachment=Attachment(theirs, theirs, theirs), terminal=True)
    text = os.read(ours, 65536).decode()
    after = subprocess.run(["stty", "-g"], stdin=theirs, capture_output=True, check=True).stdout
    os.close(ours)
    os.close(theirs)
    assert code == 4
    assert "33 77" in text and "/dev/" in text and "got hello" in text
    assert after == before, "the caller's terminal was left in raw mode"


@pytest.mark.root
def test_terminal_into_the_log_alone(box: Box, tmp_path: Path) -> None:
    log = LogWriter(str(tmp_path / "log"))
    assert box.run("echo line; test -t 1", attachment=Attachment(), terminal=True, log=log) == 0
    log.close()
    assert [record.data for record in read_log(str(tmp_path / "log"))] == [b"line\r\n"]


@pytest.mark.root
def test_signals_are_forwarded(box: Box, tmp_path: Path) -> None:
    def send() -> None:
        while not (tmp_path / "out").exists() or b"ready" not in (tmp_path / "out").read_bytes():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)

    sender = threading.Thread(target=send)
    before = signal.getsignal(signal.SIGUSR1)
    with (tmp_path / "out").open("w+b") as out:
        sender.start()
        script = "trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.05; done"
        code = box.run(script, attachment=Attachment(None, out.fileno(), out.fileno(), signals=True))
    sender.join()
    assert code == 9 and b"caught" in (tmp_path / "out").read_bytes()
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.root
def test_who_reads_no_more_is_noticed(box: Box, tmp_path: Path) -> None:
    """`run ... | head -1`: the container is told by EPIPE, and ends."""
    source, target = os.pipe()
    os.close(source)
    log = LogWriter(str(tmp_path / "log"))
    with (tmp_path / "err").open("wb") as err:
        code = box.run("while echo y; do :; done; exit 6", attachment=Attachment(None, target, err.fileno()), log=log)
    log.close()
    os.close(target)
    assert code in (6, 141)


@pytest.mark.root
def test_a_failed_start_leaves_nothing(box: Box, tmp_path: Path, rootfs: Path) -> None:
    with pytest.raises(ContainerRuntimeError):
        box.rootfs = tmp_path / "missing"
        output(box, "true", tmp_path)


@pytest.mark.root
def test_an_error_while_waiting_kills_the_container(box: Box, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def handler(*_: object) -> None:
        raise Stop

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(Stop):
            output(box, "while :; do sleep 1; done", tmp_path)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not Path(f"/proc/{box.pid}").exists()
