"""What is called before and after a snapshot: in order, with the facts, and always the second once the first began."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from lazarus.errors import ConflictError, FormatError, HookError
from lazarus.store import Store
from lazarus.volumes.volume import Volume


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    with Store(tmp_path / "store") as store:
        yield store.volumes.create("db")
        assert os.listdir(store.paths.staging) == os.listdir(store.paths.trash) == []
        assert len(os.listdir(store.paths.snapshots)) == len(store.volumes.get("db").snapshots)


def shell(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


def test_commands(volume: Volume, tmp_path: Path) -> None:
    log = tmp_path / "log"
    say = f"echo $PHASE $VOLUME $SNAPSHOT $OUTCOME >> {log}"
    volume.snapshot("s", before=shell(f"{say}; echo written > {volume.path}/file"), after=shell(say))
    assert log.read_text() == "before db s\nafter db s taken\n"
    assert Path(volume.get_snapshot("s").path, "file").read_text() == "written\n", "before comes first"


def test_functions(volume: Volume) -> None:
    calls: list[Mapping[str, str]] = []
    volume.snapshot("s", before=calls.append, after=calls.append)
    facts = {"VOLUME": "db", "SNAPSHOT": "s", "LAZARUS_ROOT": volume.store.paths.root}
    assert calls == [{**facts, "PHASE": "before"}, {**facts, "PHASE": "after", "OUTCOME": "taken"}]

    def refuse(facts: Mapping[str, str]) -> None:
        raise ValueError("not now")

    with pytest.raises(HookError, match=r"^volume db: the hook before the snapshot failed: not now$"):
        volume.snapshot("t", before=refuse, after=calls.append)
    assert calls[2]["OUTCOME"] == "failed" and "not now" in calls[2]["ERROR"]
    assert [found.name for found in volume.snapshots] == ["s"]


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (shell("echo one >&2; echo two >&2; exit 7"), "the hook before the snapshot ended with 7: two"),
        (shell("exit 3"), "the hook before the snapshot ended with 3"),
        (shell("kill -9 $$"), "the hook before the snapshot was killed by SIGKILL"),
        (shell("kill -40 $$"), "the hook before the snapshot was killed by signal 40"),
        (["/nowhere/program"], "could not be started: /nowhere/program: No such file or directory"),
        (shell("echo slow >&2; sleep 100"), "did not end within 0.2 s and was killed: slow"),
    ],
)
def test_a_failure_before(volume: Volume, tmp_path: Path, command: list[str], text: str) -> None:
    log = tmp_path / "log"
    began = time.monotonic()
    timeout = 0.2 if "sleep 100" in command[-1] else 10
    with pytest.raises(HookError) as caught:
        volume.snapshot("s", before=command, after=shell(f"echo $OUTCOME $ERROR > {log}"), hook_timeout=timeout)
    assert (
        str(caught.value) == f"volume db: {text if text.startswith('the') else 'the hook before the snapshot ' + text}"
    )
    assert log.read_text() == f"failed {caught.value}\n" and time.monotonic() - began < 10
    assert volume.snapshots == ()


def test_one_that_prints_a_lot(volume: Volume, capfd: pytest.CaptureFixture[str]) -> None:
    """All of it can be read, the end of it stands in the error; what goes on in the background keeps nobody."""
    said = "yes 0123456789 | head -c 3000000 >&2; sleep 5 & printf '\\nthe end\\n' >&2"
    volume.snapshot("s", before=shell(said))
    assert capfd.readouterr().err.endswith("0123456789\n012\nthe end\n")
    with pytest.raises(HookError, match=r"ended with 2: the end$"):
        volume.snapshot("t", before=shell(f"{said}; exit 2"))
    assert capfd.readouterr().err.count("0123456789\n") == 3000000 // 11


def test_what_it_says_is_passed_on_and_not_kept(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 MB, in a process that may take 64 MiB more than it has, and has no place for files."""
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    os.dup2(null, 2)
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
    try:
        volume.snapshot("s", before=shell("yes 0123456789 | head -c 100000000 >&2"))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def test_all_of_its_processes_are_killed(volume: Volume, tmp_path: Path) -> None:
    with pytest.raises(HookError, match="did not end"):
        volume.snapshot(before=shell(f"sleep 100 & echo $! > {tmp_path}/pid; wait"), hook_timeout=0.5)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}") and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.01)


_STUCK = """
import os, sys
from lazarus.errors import HookError
from lazarus.store import Store
reader, writer = os.pipe()
os.set_blocking(writer, False)
try:
    while True:
        os.write(writer, b"x" * 4096)
except BlockingIOError:
    os.set_blocking(writer, True)
os.dup2(writer, 2)
with Store(sys.argv[1]) as store:
    volume = store.volumes.get("db")
    try:
        volume.snapshot("s", before=["/bin/sh", "-c", "echo said >&2; " + sys.argv[2]], hook_timeout=1)
    except HookError as error:
        print(error)
    print([found.name for found in volume.snapshots], flush=True)
"""


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("exec sleep 100", "volume db: the hook before the snapshot did not end within 1 s and was killed: said\n[]\n"),
        (
            "exec yes s >&2",
            "volume db: the hook before the snapshot did not end within 1 s and was killed: s\n[]\n",
        ),
        ("exit 3", "volume db: the hook before the snapshot ended with 3: said\n[]\n"),
        ("exit 0", "['s']\n"),
        ("sleep 5 & exit 0", "['s']\n"),
    ],
)
def test_nobody_reads_what_it_says(volume: Volume, command: str, text: str) -> None:
    """Our standard error is stuck: the time-out holds, what a hook came to is known, and our process ends."""
    words = [sys.executable, "-c", _STUCK, volume.store.paths.root, command]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, text=True, check=True)
    assert done.stdout == text


def test_what_it_says_when_it_is_killed_is_passed_on(volume: Volume, capfd: pytest.CaptureFixture[str]) -> None:
    """What is held up for a moment comes in order, and whole."""
    with pytest.raises(HookError, match=r"did not end within 0\.3 s and was killed: 9999$"):
        volume.snapshot("s", before=shell("seq 9999 >&2; exec sleep 100"), hook_timeout=0.3)
    assert capfd.readouterr().err == "".join(f"{number}\n" for number in range(1, 10000))


def test_a_failure_after(volume: Volume) -> None:
    with pytest.raises(HookError, match=r"hook after the snapshot ended with 5; the snapshot db@s was taken$"):
        volume.snapshot("s", after=shell("exit 5"))
    assert [found.name for found in volume.snapshots] == ["s"]


def test_both_fail(volume: Volume) -> None:
    with pytest.raises(HookError, match="before the snapshot ended with 4") as caught:
        volume.snapshot("s", before=shell("exit 4"), after=shell("exit 5"))
    assert "after the snapshot ended with 5" in caught.value.__notes__[0]


def test_after_an_error_in_between(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Mapping[str, str]] = []

    def fail(*_: object) -> None:
        raise OSError(28, os.strerror(28), "/x")

    monkeypatch.setattr("lazarus.volumes.snapshot._copy", fail)
    with pytest.raises(OSError, match="No space"):
        volume.snapshot("s", after=calls.append)
    assert calls[0]["OUTCOME"] == "failed" and calls[0]["ERROR"] == "/x: No space left on device"


def test_an_interrupt(volume: Volume) -> None:
    calls: list[Mapping[str, str]] = []
    child = os.fork()
    if child == 0:  # asks its parent to be interrupted
        time.sleep(0.5)
        os.kill(os.getppid(), signal.SIGINT)
        os._exit(0)
    with pytest.raises(KeyboardInterrupt):
        volume.snapshot("s", before=shell("sleep 100"), after=calls.append)
    os.waitpid(child, 0)
    assert calls[0]["ERROR"] == "interrupted" and volume.snapshots == ()


def test_an_interrupt_just_when_it_starts(volume: Volume, tmp_path: Path) -> None:
    """Whatever the moment: a hook that is told to end is gone, and its signals are not held back."""
    pid = tmp_path / "pid"
    for _ in range(30):
        with pytest.raises(KeyboardInterrupt):
            volume.snapshot("s", before=shell(f"kill -INT $PPID; echo $$ > {pid}; exec sleep 100"))
        if pid.exists():
            assert not os.path.exists(f"/proc/{pid.read_text().strip() or 'none'}")
            pid.unlink()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set() and volume.snapshots == ()
    masks = tmp_path / "masks"
    volume.snapshot("s", before=shell(f"grep ^SigBlk: /proc/self/status > {masks}"))
    assert int(masks.read_text().split()[1], 16) == 0


def test_none_is_called_for_nothing(volume: Volume) -> None:
    """What cannot be taken anyway disturbs no database."""
    calls: list[object] = []
    volume.snapshot("s")
    with pytest.raises(ConflictError):
        volume.snapshot("s", before=calls.append, after=calls.append)
    with pytest.raises(FormatError, match="not a snapshot name"):
        volume.snapshot("a/b", before=calls.append, after=calls.append)
    for wrong in ({"hook_timeout": 0}, {"hook_timeout": float("nan")}, {"before": "true"}, {"after": []}):
        with pytest.raises(FormatError, match="hook"):
            volume.snapshot("t", **wrong)  # type: ignore[arg-type]
    assert calls == []
