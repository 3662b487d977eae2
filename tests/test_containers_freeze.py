"""Containers that stand still: nothing in them runs, all goes on after, whoever is killed in between."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from container_helpers import sh, until

from lazarus.containers import Container
from lazarus.containers.freeze import frozen
from lazarus.containers.state import Lock
from lazarus.errors import ContainerRuntimeError
from lazarus.runtime import freezer
from lazarus.runtime.freezer import Cgroup, Signals
from lazarus.store import Store

pytest_plugins = ("container_fixtures",)
pytestmark = pytest.mark.root
# Processes come and go all the time, two of them at work, and one waits.
BUSY = (
    "sleep 1000 & (n=0; while :; do n=$((n+1)); echo $n > /tmp/a; done) & while :; do sh -c 'wc /tmp/a > /tmp/b'; done"
)


def started(store: Store, script: str = BUSY, name: str | None = None) -> Container:
    container = sh(store, script, name=name)
    container.start()
    return container


def marks(container: Container) -> tuple[object, ...]:
    """What a container that runs BUSY changes all the time."""
    found = []
    for name in ("a", "b"):
        try:
            info = os.stat(f"{container.directory}/upper/tmp/{name}")
            found.append((info.st_mtime_ns, info.st_ino))
        except FileNotFoundError:
            found.append(None)
    return tuple(found)


def goes_on(container: Container) -> None:
    before = marks(container)
    until(lambda: all(now != then for now, then in zip(marks(container), before, strict=True)))


def stands_still(container: Container) -> bool:
    before = marks(container)
    time.sleep(0.1)
    return marks(container) == before


def runtimes() -> list[str]:
    path = f"{os.environ['PATH']}:/usr/sbin"
    return [name for name in ("crun", "runc") if shutil.which(name, path=path)]


@pytest.mark.parametrize("runtime", runtimes())
def test_nothing_runs_and_all_goes_on(store: Store, runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAZARUS_RUNTIME", runtime)
    one, two, idle = started(store), started(store), sh(store, ":")
    for container in (one, two):
        goes_on(container)
    for _ in range(3):
        with Lock(one.directory), Lock(two.directory), frozen([one, two, idle]) as stopped:
            assert stopped == (one, two)
            assert stands_still(one) and stands_still(two)
        goes_on(one)
        goes_on(two)
    assert one.status == "running"
    one.stop(0)


def test_the_own_cgroup_is_taken_where_there_is_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {}
    for runtime in runtimes():
        monkeypatch.setenv("LAZARUS_RUNTIME", runtime)
        container = started(store, "sleep 1000")
        pid = container.state.process.pid
        kinds[runtime] = type(freezer.freezer_of(pid, container.id))
        own = any(container.id in line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
        assert kinds[runtime] is (Cgroup if own else Signals)
        container.stop(0)
    if "runc" in kinds and os.access("/sys/fs/cgroup", os.W_OK):
        assert kinds["runc"] is Cgroup, "runc makes one wherever it may"


def test_the_freezer_of_version_two(tmp_path: Path) -> None:
    place = next((path for path in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup") if _has_version_two(path)), None)
    if place is None:
        pytest.skip("no writable cgroup of version 2 here")
    cgroup = Path(place, f"lazarus-{os.getpid()}")
    cgroup.mkdir()
    count = tmp_path / "count"
    child = os.fork()
    if child == 0:
        for number in range(1 << 40):
            count.write_text(str(number))
        os._exit(0)
    try:
        (cgroup / "cgroup.procs").write_text(str(child))
        found = Cgroup(str(cgroup))
        with freezer.frozen([found]):
            before = count.read_bytes()
            time.sleep(0.1)
            assert count.read_bytes() == before
        until(lambda: count.read_bytes() not in (b"", before))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        cgroup.rmdir()
    with freezer.frozen([found]):  # gone: there is nothing to freeze
        pass


def _has_version_two(path: str) -> bool:
    return os.path.exists(f"{path}/cgroup.controllers") and os.access(path, os.W_OK)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_meanwhile_they_go_on(store: Store, number: int) -> None:
    container = started(store)
    goes_on(container)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with Lock(container.directory), frozen([container]):
                os.write(theirs, b".")
                time.sleep(60)
        finally:
            os._exit(1)
    os.close(theirs)
    assert os.read(ours, 1) == b"."
    os.close(ours)
    assert stands_still(container)
    os.kill(child, number)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -number
    goes_on(container)
    container.stop(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM])
def test_all_of_ours_are_told_to_end_meanwhile(store: Store, number: int) -> None:
    """As whoever stops a service does: all processes of its cgroup get the signal, the watcher, too."""
    container = started(store)
    goes_on(container)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(number, signal.SIG_DFL)
            pipe, made = os.pipe, []
            freezer.os.pipe = lambda: made.append(pipe()) or made[-1]
            with Lock(container.directory), frozen([container]):
                os.write(theirs, b" ".join(b"%d" % os.fstat(ends[1]).st_ino for ends in made[:1]))
                time.sleep(60)
        finally:
            os._exit(1)
    os.close(theirs)
    both = _who_has(f"pipe:[{int(os.read(ours, 20))}]")
    os.close(ours)
    assert child in both and len(both) == 2
    assert stands_still(container)
    for one in sorted(both, reverse=True):  # the watcher first
        os.kill(one, number)
        time.sleep(0.05)
    os.waitpid(child, 0)
    goes_on(container)
    until(lambda: not any(os.path.exists(f"/proc/{one}") for one in both))
    container.stop(0)


def test_a_watcher_that_is_killed_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    container = started(store)
    monkeypatch.setattr(freezer, "_watch", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ContainerRuntimeError, match="was killed; nothing was stopped"), frozen([container]):
        raise AssertionError
    goes_on(container)
    container.stop(0)


def _who_has(file: str) -> list[int]:
    """Processes that have it open."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if any(os.readlink(f"/proc/{pid}/fd/{fd}") == file for fd in os.listdir(f"/proc/{pid}/fd")):
                found.append(int(pid))
    return found


def test_an_error_meanwhile(store: Store) -> None:
    container = started(store)
    goes_on(container)
    with pytest.raises(RuntimeError), frozen([container]):
        raise RuntimeError
    goes_on(container)
    container.stop(0)


@pytest.mark.parametrize("detach", [False, True])
def test_an_exec_meanwhile_waits(store: Store, detach: bool) -> None:
    container = started(store, "sleep 1000")
    place = Path(container.directory, "upper/tmp/new")

    def execute() -> None:
        container.exec(["sh", "-c", "echo > /tmp/new"], detach=detach)

    thread = threading.Thread(target=execute)
    with Lock(container.directory), frozen([container]):
        thread.start()
        time.sleep(0.5)
        assert not place.exists()
    until(place.exists)
    thread.join()
    container.stop(0)


def test_what_was_stopped_before_stays_stopped(store: Store) -> None:
    container = started(store, "sleep 1000 & kill -STOP $!; echo $! > /tmp/pid; sleep 1000")
    until(lambda: os.path.exists(f"{container.directory}/upper/tmp/pid"))
    (first, *rest) = sorted(freezer.Signals(*_first(container))._members())

    def states() -> dict[int, str]:
        return {
            one.pid: Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split()[0] for one in (first, *rest)
        }

    until(lambda: sorted(states().values()) == ["S", "S", "T"])
    before = states()
    with frozen([container]):
        assert set(states().values()) == {"T"}
    until(lambda: states() == before)
    for one in (first, *rest):  # all of them: as a watcher leaves it that was killed, too
        os.kill(one.pid, signal.SIGSTOP)
    until(lambda: set(states().values()) == {"T"})  # a signal takes its time
    with frozen([container]):
        pass
    until(lambda: set(states().values()) == {"S"})
    container.stop(0)


def _first(container: Container) -> tuple[int, str]:
    pid = container.state.process.pid
    return pid, os.readlink(f"/proc/{pid}/ns/pid")


def test_one_that_ends_meanwhile(store: Store) -> None:
    container = started(store, "sleep 1000")
    with frozen([container]):
        container.kill("KILL")
        assert container.wait() == 137
    with frozen([container]) as stopped:
        assert stopped == ()


def test_one_that_ends_just_then(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ran when it was asked, and is gone when somebody looks where its processes are."""
    container = started(store, "sleep 1000")
    other = started(store, "sleep 1000")
    own_cgroup = freezer._own_cgroup

    def look(pid: int, name: str, root: str) -> Cgroup | None:
        if name != container.id:
            return own_cgroup(pid, name, root)
        container.kill("KILL")
        until(lambda: not os.path.exists(f"/proc/{pid}"))
        return None

    monkeypatch.setattr(freezer, "_own_cgroup", look)
    with frozen([container, other]) as stopped:
        assert [one.id for one in stopped] == [other.id]
    other.stop(0)


class _Restless:
    """A freezer whose processes never stop."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def freeze(self) -> None:
        self.calls.append("freeze")

    def frozen(self) -> bool:
        return False

    def thaw(self) -> None:
        self.calls.append("thaw")


def test_one_that_does_not_stop() -> None:
    one, other = _Restless(), _Restless()
    with pytest.raises(ContainerRuntimeError, match=r"^container c: its processes did not stop within 0.1 s$"):  # noqa: SIM117
        with freezer.frozen([one, other], patience=0.1, name="container c"):
            raise AssertionError("never entered")
    assert one.calls == other.calls == ["freeze", "thaw"]


def test_a_process_of_this_namespace_is_none_of_a_container() -> None:
    with pytest.raises(ContainerRuntimeError, match="neither a cgroup nor a PID namespace"):
        freezer.freezer_of(os.getpid(), "x" * 64)


def test_a_commit_waits_for_no_half_written_file(store: Store) -> None:
    """Two files that are always written one after the other: the commit never has the second ahead of the first."""
    container = started(store, "n=0; while :; do n=$((n+1)); echo $n > /tmp/1; echo $n > /tmp/2; done")
    until(lambda: os.path.exists(f"{container.directory}/upper/tmp/2"))
    for _ in range(3):
        image = container.commit(compression="none")
        with image.stack() as stack:
            texts = [stack.open(f"/tmp/{name}").read() for name in (1, 2)]
        first, second = (int(text or b"0") for text in texts)
        assert second in (0, first, first - 1) or first == 0
    container.stop(0)
