"""Races between processes, kill -9 at any moment, a full disk: a container is in one state, and it can be removed."""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from container_helpers import IMAGE, inside, logged, run, sh, start, until

from lazarus.containers.container import Container
from lazarus.containers.state import NOBODY, State, process, read_state, write_state
from lazarus.errors import ConflictError, ContainerRuntimeError, LazarusError, NotFoundError
from lazarus.store import Store

pytest_plugins = ("container_fixtures",)
pytestmark = pytest.mark.root
LAZARUS = [sys.executable, "-m", "lazarus"]
LOOP = "while :; do sleep 0.05; done"


def lazarus(store: Store, *words: str) -> subprocess.Popen[bytes]:
    """The command, in a process of its own."""
    command = [*LAZARUS, "--root", store.paths.root, *words]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def code(process: subprocess.Popen[bytes]) -> int:
    """Its exit code; whatever it said, it was no traceback."""
    _, errors = process.communicate(timeout=60)
    assert b"Traceback" not in errors, errors.decode()
    return process.returncode


# -- two processes at once --


def test_only_one_start_wins(store: Store) -> None:
    container = sh(store, LOOP)
    starters = [lazarus(store, "start", "-a", container.id) for _ in range(4)]
    until(lambda: sum(starter.poll() is not None for starter in starters) == 3)
    assert container.status == "running" and len(inside(Path(store.paths.root))) <= 2  # sh, and its sleep
    container.kill()
    assert sorted(code(starter) for starter in starters) == [125, 125, 125, 137]


def test_a_remove_that_waits_for_a_start_finds_it_running(store: Store) -> None:
    """The decision is made under the lock: nothing that runs loses its files."""
    container = sh(store, LOOP)
    other = store.containers.get(container.id)
    real = other._execution.settled
    assert other._execution.settled().status == "created"
    container.start()
    other._execution.settled = real  # type: ignore[method-assign]
    with pytest.raises(ConflictError, match="running"):
        other._delete(force=False)
    assert other._delete(force=True) is False, "it has to be stopped first"
    assert container.status == "running" and os.path.isdir(container.directory)
    other.remove(force=True)
    assert store.containers.list(all=True) == []


@pytest.mark.parametrize("verb", [["rm", "-f"], ["rm"]])
def test_removing_while_it_starts(store: Store, verb: list[str]) -> None:
    generator = random.Random(20240612)
    for _ in range(6):
        container = sh(store, LOOP)
        starter = lazarus(store, "start", container.id)
        time.sleep(generator.uniform(0, 0.06))
        removed = code(lazarus(store, *verb, container.id)) == 0
        started = code(starter) == 0
        if removed and verb == ["rm", "-f"]:
            assert not os.path.exists(container.directory)
        if not os.path.exists(container.directory):
            until(lambda: not inside(Path(store.paths.root)))
            assert store.containers.list(all=True) == []
        else:
            assert started and container.status == "running"
            container.remove(force=True)


def test_many_runs_side_by_side(store: Store) -> None:
    runs = [lazarus(store, "run", "--rm", IMAGE, "sh", "-c", f"exit {number}") for number in range(8)]
    assert [code(process) for process in runs] == list(range(8))
    assert store.containers.list(all=True) == []


def test_removed_from_elsewhere_while_attached(store: Store) -> None:
    container = sh(store, LOOP)
    attached = lazarus(store, "start", "-a", container.id)
    until(lambda: read_state(container.directory).status == "running")
    container.remove(force=True)
    assert code(attached) == 137


# -- killed --


def test_a_killed_supervisor(store: Store) -> None:
    """Its container runs on; its end is seen by whoever looks, but not its exit code."""
    container = sh(store, f"echo up; {LOOP}")
    container.start()
    until(lambda: logged(container))
    os.kill(container.state.supervisor.pid, signal.SIGKILL)
    until(lambda: not container.state.supervisor.alive)
    assert container.status == "running"
    container.kill()
    until(lambda: container.status == "exited")
    assert container.exit_code is None and "killed" in container.state.error
    assert not os.path.ismount(container.rootfs)
    assert start(sh(store, ":"))[0] == 0
    container.start()
    assert container.stop(timeout=0) == 137


@pytest.mark.parametrize("options", [["run", "--rm"], ["run", "-d", "--rm"]], ids=" ".join)
def test_a_killed_supervisor_of_a_container_that_removes_itself(store: Store, options: list[str]) -> None:
    """Who next asks for it finishes what its supervisor had to do."""
    process = lazarus(store, *options, "--name", "gone", IMAGE, "sleep", "60")
    until(lambda: any(container.status == "running" for container in store.containers.list()))
    (container,) = store.containers.list()
    state = container.state
    os.kill(state.supervisor.pid, signal.SIGKILL)
    process.wait(timeout=20)
    assert process.stderr is not None
    process.stderr.close()  # it is the container's too
    assert container.status == "running", "its process lives"
    os.kill(state.process.pid, signal.SIGKILL)
    until(lambda: not state.process.alive)
    command = [*LAZARUS, "--root", store.paths.root, "ps", "-aq"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == ""
    assert store.containers.list(all=True) == [] and not os.path.exists(container.directory)
    with pytest.raises(NotFoundError, match="gone: it has been removed"):
        _ = container.state


def test_kill_9_of_run_at_any_moment(store: Store) -> None:
    """Afterwards every container can be listed, started or removed, and no process is left that nobody knows of."""
    generator = random.Random(20240611)
    for _ in range(14):
        process = lazarus(store, "run", *generator.choice([[], ["-d"], ["--rm"]]), IMAGE, "sh", "-c", LOOP)
        time.sleep(generator.uniform(0.02, 0.13))
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()  # not read to its end: a container may hold it, and live on
    time.sleep(0.1)
    for container in store.containers.list(all=True):
        with suppress(NotFoundError):
            if container.status != "running":
                assert container.status in ("created", "exited")
                with suppress(ConflictError):  # its supervisor is just starting it
                    container.start()
            container.inspect()
            container.remove(force=True)
    assert store.containers.list(all=True) == []
    assert inside(Path(store.paths.root)) == []


def test_a_stray_process_of_a_killed_starter(store: Store) -> None:
    """The starter was killed between the start of the process and its note of it."""
    for act in ("remove", "start"):
        container = sh(store, f"echo up; {LOOP}")
        container.start()
        until(lambda: logged(container))  # noqa: B023
        state = container.state
        os.kill(state.supervisor.pid, signal.SIGKILL)
        until(lambda: not state.supervisor.alive)  # noqa: B023
        write_state(container.directory, State())  # as if it had never been written
        assert container.status == "created" and state.process.alive
        if act == "start":
            container.start()
            assert container.state.process.pid != state.process.pid
            container.stop(timeout=0)
            container.unmount()
        container.remove()
        assert not state.process.alive


def test_a_pid_that_belongs_to_somebody_else(store: Store) -> None:
    container = sh(store, ":")
    container.mount()
    with subprocess.Popen(["sleep", "60"]) as innocent:
        Path(container.directory, "bundle", "pid").write_text(str(innocent.pid))
        container.unmount()
        container.mount()
        container.remove()
        assert innocent.poll() is None
        innocent.kill()


def test_a_signal_while_it_starts_in_the_background(store: Store) -> None:
    """The caller is interrupted, the container runs; never is it both running and called ended."""
    generator = random.Random(20240613)
    for _ in range(8):
        container = sh(store, LOOP)
        starter = lazarus(store, "start", container.id)
        time.sleep(generator.uniform(0.03, 0.09))
        starter.send_signal(signal.SIGINT)
        starter.communicate(timeout=30)

        def is_one_or_the_other(container: Container = container) -> bool:
            gone = not os.path.ismount(container.rootfs) and not inside(Path(store.paths.root))
            return gone or container.status == "running"

        until(is_one_or_the_other)
        container.remove(force=True)


def test_a_frozen_name_of_a_removed_row(store: Store) -> None:
    """A directory without a row (a power cut, a killed remove) is found by prune; a live one is not touched."""
    lost, kept = sh(store, ":"), sh(store, ":")
    lost.mount()
    store.containers.forget(lost)
    store.prune()
    assert not os.path.exists(lost.directory) and os.path.isdir(kept.directory)
    assert start(kept)[0] == 0


def test_prune_removes_what_does_not_run(store: Store) -> None:
    ended, running = sh(store, ":"), sh(store, LOOP)
    start(ended)
    running.start()
    store.prune(containers=True)
    assert [container.id for container in store.containers.list(all=True)] == [running.id]


# -- an end that cannot be tidied --


def test_somebody_stands_in_its_files_when_it_ends(store: Store) -> None:
    container = sh(store, "echo up; sleep 0.3; exit 6")
    container.start()
    until(lambda: logged(container))
    with open(f"{container.rootfs}/data/file"):
        assert container.wait() == 6
        assert container.status == "exited" and container.inspect()["State"]["ExitCode"] == 6
        with pytest.raises(ConflictError, match="in use"):
            container.remove()
        container.start()
        assert container.wait() == 6
        container.remove(force=True)
    assert not os.path.exists(container.directory)


def test_a_damaged_state_file(store: Store) -> None:
    """As a power cut may leave it."""
    for text in ("", "{", "[]", '{"process": 1}', json.dumps(State()._asdict() | {"unknown": 1})):
        container = sh(store, ":")
        Path(container.directory, "state.json").write_text(text)
        assert (container.status, container.exit_code) == ("exited", None)
        assert container.state.finished and container.state.error
        assert start(container)[0] == 0 and container.exit_code == 0
        container.remove()


def test_a_container_without_a_directory(store: Store) -> None:
    """Its row was written, and then the machine died."""
    container = sh(store, ":")
    subprocess.run(["rm", "-r", container.directory], check=True)
    for act in (container.start, container.mount, container.inspect, container.commit):
        with pytest.raises(NotFoundError):
            act()
    assert store.containers.list() == []
    container.remove()
    assert store.containers.list(all=True) == []


def test_no_runtime_any_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    container = sh(store, LOOP)
    container.start()
    monkeypatch.setenv("LAZARUS_RUNTIME", "/nowhere")
    os.kill(container.state.supervisor.pid, signal.SIGKILL)
    until(lambda: not read_state(container.directory).supervisor.alive)
    container.kill()
    until(lambda: container.status == "exited")
    container.remove()


def test_a_process_that_had_ended_when_it_was_asked_for(store: Store) -> None:
    """Its starter is about to say how: there is none to send a signal to, nor pid 0."""
    container = sh(store, ":")
    write_state(container.directory, State("running", NOBODY, process(os.getpid())))
    with pytest.raises(ConflictError, match="it is not running"):
        container.kill()
    assert container.wait(timeout=-5) is None
    write_state(container.directory, State())


def test_the_writer_of_a_state_fails(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk when the end is to be written: it has ended all the same, for everybody who asks."""
    container = sh(store, LOOP)
    container.start()
    supervisor = container.state.supervisor
    os.kill(supervisor.pid, signal.SIGKILL)
    until(lambda: not supervisor.alive)
    container.kill()
    until(lambda: not read_state(container.directory).process.alive)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lazarus.containers.execution.write_state", full)
    assert container.status == "exited" and not os.path.ismount(container.rootfs)
    container.remove()


def test_states(tmp_path: Path) -> None:
    assert read_state(str(tmp_path)) == State()
    state = State("exited", NOBODY, NOBODY, 3, "a", "b", "c", True)
    write_state(str(tmp_path), state)
    assert read_state(str(tmp_path)) == state
    (tmp_path / "state.json").unlink()
    (tmp_path / "state.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_state(str(tmp_path), state)
    assert os.listdir(tmp_path) == ["state.json"]


# -- a full disk --


def _on_a_small_disk(place: Path, work: Callable[[Path], None]) -> None:
    """Runs `work` in a child with a mount namespace of its own, on an ext4 of 24 MB: nothing can be left mounted."""
    child = os.fork()
    if child == 0:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.unshare(0x20000) == 0, os.strerror(ctypes.get_errno())  # CLONE_NEWNS
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            with open(place / "image", "wb") as file:
                file.truncate(24 << 20)
            (place / "disk").mkdir()
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", place / "image"], check=True)
            subprocess.run(["mount", "-o", "loop", place / "image", place / "disk"], check=True)
            work(place / "disk")
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _fill(disk: Path) -> None:
    with open(disk / "ballast", "ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(b"x" * size)


def test_a_full_disk(tmp_path: Path, small_tar: Path) -> None:
    """What runs goes on; what cannot be done says so in one line; a removal makes room."""

    def work(disk: Path) -> None:
        with Store(disk / "store") as store:
            store.images.import_(str(small_tar), IMAGE)
            talker = sh(store, "echo up; while :; do echo line; sleep 0.01; done")
            talker.start()
            until(lambda: logged(talker))
            ended = sh(store, "echo x > /x")
            ended.start()
            assert ended.wait() == 0
            _fill(disk)
            time.sleep(0.3)
            assert talker.status == "running", "a log that does not fit ends no container"
            images = {image.id for image in store.images.list()}
            for act in (lambda: run(store, ":"), lambda: ended.commit("full:1")):
                with pytest.raises((OSError, ContainerRuntimeError, LazarusError)) as caught:
                    act()
                assert "\n" not in str(caught.value)
            assert {image.id for image in store.images.list()} == images
            talker.stop(timeout=0)
            assert talker.status == "exited"
            for container in store.containers.list(all=True):
                container.remove(force=True)
            os.unlink(disk / "ballast")
            assert run(store, "exit 3", auto_remove=True)[0] == 3
            assert list(store.check()) == []
        assert os.listdir(disk / "store/staging") == [] and os.listdir(disk / "store/containers") == []

    _on_a_small_disk(tmp_path, work)
