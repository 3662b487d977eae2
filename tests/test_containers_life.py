"""A container from its creation to its removal: states, exit codes, logs, names, and what stays between two runs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
from pathlib import Path

import pytest
from container_helpers import IMAGE, execute, logged, run, sh, start, until

from lazarus.errors import ConflictError, ContainerRuntimeError, FormatError, NotFoundError
from lazarus.store import Store

pytest_plugins = ("container_fixtures",)
pytestmark = pytest.mark.root


def test_from_created_to_removed(store: Store) -> None:
    container = sh(store, "echo out; echo err >&2; exit 3", name="first")
    assert (container.status, container.exit_code, os.listdir(container.directory + "/upper")) == ("created", None, [])
    code, text = start(container)
    assert (code, sorted(text.splitlines())) == (3, ["err", "out"])
    assert (container.status, container.exit_code) == ("exited", 3)
    assert container.state.started <= container.state.finished
    assert logged(container, "stdout") == "out\n" and logged(container, "stderr") == "err\n"
    container.remove()
    assert not os.path.exists(container.directory)
    with pytest.raises(NotFoundError, match="first"):
        container.status  # noqa: B018
    with pytest.raises(NotFoundError):
        store.containers.get("first")
    container.remove()  # removed already: as it should be


def test_the_writable_layer_is_empty_until_something_is_written(store: Store) -> None:
    container = sh(store, "cat /data/file; ls /proc /sys /dev > /dev/null; cat /etc/hosts > /dev/null; hostname")
    assert start(container)[0] == 0
    assert os.listdir(container.directory + "/upper") == [] and container.diff() == []


def test_a_second_start_finds_the_files_of_the_first(store: Store) -> None:
    container = sh(
        store, "cat /kept 2> /dev/null; echo more >> /kept; echo changed > /data/file; rm -f /data/link; exec cat /kept"
    )
    assert start(container)[1].endswith("more\n")
    assert start(container) == (0, "more\nmore\nmore\n")
    assert [(c.change, c.path) for c in container.diff()] == [
        ("C", b"/data"),
        ("C", b"/data/file"),
        ("D", b"/data/link"),
        ("A", b"/kept"),
    ]


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 42", 42), ("kill -KILL $$; sleep 9", 0)])
def test_exit_codes(store: Store, script: str, code: int) -> None:
    """The last one: pid 1 of a namespace does not hear signals from inside."""
    if "kill" in script:
        script = "sh -c 'kill -KILL $$'; exit $?"
        code = 137
    container = sh(store, script)
    assert start(container)[0] == container.exit_code == code


@pytest.mark.parametrize(
    ("command", "code"), [(["/nope"], 127), (["nope"], 127), (["/data"], 126), (["/data/file"], 126), (["/etc"], 126)]
)
@pytest.mark.parametrize("attach", [True, False])
def test_commands_that_cannot_run(store: Store, command: list[str], code: int, attach: bool) -> None:
    container = store.containers.create(IMAGE, command=command)
    with pytest.raises(ContainerRuntimeError, match=re.escape(command[0])) as caught:
        container.start(attach=attach)
    assert caught.value.exit_code == code
    assert (container.status, container.exit_code) == ("exited", code)
    assert command[0] in container.state.error


def test_the_runtime_has_the_last_word_on_a_program(store: Store) -> None:
    """A script without an interpreter passes our check; it is found out when the container is there already."""
    container = sh(store, "printf '#!/nowhere\\n' > /tmp/x; chmod 755 /tmp/x")
    assert start(container)[0] == 0
    image = container.commit("bad:interpreter")
    for attach in (True, False):
        bad = store.containers.create(image, command=["/tmp/x"])
        bad.start(attach=attach)
        assert bad.wait() not in (0, None) and not os.path.ismount(bad.rootfs)
        assert "/tmp/x" in logged(bad, "stderr")


def test_in_the_background(store: Store) -> None:
    container = sh(store, "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.05; done")
    container.start()
    assert container.status == "running" and store.containers.list()[0].id == container.id
    until(lambda: logged(container))
    with pytest.raises(ConflictError, match="running"):
        container.start()
    with pytest.raises(ConflictError, match="running"):
        container.remove()
    assert container.wait(timeout=0.05) is None
    assert container.stop() == 9 and container.wait() == 9
    assert logged(container) == "up\nbye\n"
    assert container.stop() == 9, "stopped already: nothing to do"
    assert store.containers.list() == [] and len(store.containers.list(all=True)) == 1
    container.start()  # and once more
    container.kill()
    assert container.wait() == 137
    with pytest.raises(ConflictError, match="not running"):
        container.kill()


def test_stop_kills_what_does_not_listen(store: Store) -> None:
    container = sh(store, "trap '' TERM; echo up; while :; do sleep 0.05; done")
    container.start()
    until(lambda: logged(container))
    assert container.stop(timeout=0.1) == 137


def test_the_stop_signal_of_the_container(store: Store) -> None:
    script = "trap 'exit 7' USR1; echo up; while :; do sleep 0.05; done"
    container = sh(store, script, stop_signal="USR1")
    for own, code in ((None, 7), ("KILL", 137)):
        (Path(container.directory) / "log").unlink(missing_ok=True)
        container.start()
        until(lambda: logged(container))
        assert container.stop(signal=own) == code


def test_killing_and_waiting_from_elsewhere(store: Store) -> None:
    container = sh(store, "trap 'exit 5' HUP; echo up; while :; do sleep 0.05; done")
    container.start()
    until(lambda: logged(container))
    other = store.containers.get(container.id)
    threading.Timer(0.1, other.kill, ("HUP",)).start()
    assert container.wait(timeout=10) == 5


def test_auto_remove(store: Store) -> None:
    container = sh(store, "echo x > /tmp/x; exit 4", auto_remove=True)
    assert start(container)[0] == 4
    assert store.containers.list(all=True) == [] and not os.path.exists(container.directory)
    container = sh(store, "sleep 0.1", auto_remove=True)
    container.start()
    until(lambda: not store.containers.list(all=True))
    until(lambda: not os.path.exists(container.directory))
    failing = store.containers.create(IMAGE, command=["/nope"], auto_remove=True)
    with pytest.raises(ContainerRuntimeError):
        failing.start(attach=True)
    assert store.containers.list(all=True) == []
    with pytest.raises(ContainerRuntimeError):
        store.containers.run(IMAGE, attach=False, command=["/nope"], auto_remove=True)
    assert store.containers.list(all=True) == []


def test_stopping_one_that_removes_itself(store: Store) -> None:
    container = sh(store, "while :; do sleep 0.05; done", auto_remove=True)
    container.start()
    container.stop(timeout=0)
    until(lambda: not os.path.exists(container.directory))


def test_a_context_manager_removes_what_runs(store: Store) -> None:
    with sh(store, "sleep 60") as container:
        container.start()
        pid = container.state.process.pid
    assert not os.path.exists(f"/proc/{pid}") and store.containers.list(all=True) == []


def test_ephemeral_containers_start_again(store: Store) -> None:
    """overlayfs refuses a volatile upper that was not unmounted cleanly; nobody counts on this one."""
    container = sh(store, "cat /kept; echo x >> /kept", ephemeral=True)
    assert [start(container)[0] for _ in range(3)] == [0, 0, 0]
    assert container.mount() and (Path(container.rootfs) / "kept").read_text() == "x\nx\nx\n"


def test_stdin(store: Store, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("typed\n")
    with (tmp_path / "in").open() as file:
        assert start(sh(store, "cat"), stdin=file.fileno()) == (0, "typed\n")
    assert start(sh(store, "cat; echo end")) == (0, "end\n")  # /dev/null
    held = sh(store, "cat; echo end", interactive=True)
    held.start()
    assert held.wait(timeout=0.2) is None, "an interactive container waits for its input"
    held.remove(force=True)


def test_a_terminal_in_the_background(store: Store) -> None:
    container = sh(store, "tty && stty size && echo done", tty=True)
    container.start()
    assert container.wait() == 0
    assert "/dev/" in logged(container) and "done\r\n" in logged(container)


def test_logs(store: Store) -> None:
    container = sh(store, "seq 1 5; echo oops >&2; printf unfinished")
    assert list(container.logs()) == []
    container.start()
    assert container.wait() == 0
    assert logged(container, "stdout") == "1\n2\n3\n4\n5\nunfinished"
    assert len(list(container.logs(tail=2))) == 2 and list(container.logs(tail=0)) == []
    slow = sh(store, "for i in 1 2 3; do echo $i; sleep 0.1; done")
    slow.start()
    assert [record.data for record in slow.logs(follow=True)] == [b"1\n", b"2\n", b"3\n"]


def test_names_and_ids(store: Store) -> None:
    first, second = sh(store, ":", name="web"), sh(store, ":")
    assert re.fullmatch(r"[a-z]+_[a-z]+_[0-9a-f]{3}", second.name)
    for name in ("web", first.id, first.id[:12], first.id[:6]):
        assert store.containers.get(name).id == first.id
    for name in ("", "we", first.id[:1], "nope", first.id + "0", "a\0b", "\udcff", "../..", "%", "_"):
        with pytest.raises(NotFoundError):
            store.containers.get(name)
    with pytest.raises(ConflictError, match="web"):
        sh(store, ":", name="web")
    for name in ("", "-x", "a b", "a/b", "é", "x" * 129, "a\n"):
        with pytest.raises(FormatError):
            sh(store, ":", name=name)
    third = sh(store, ":", name=first.id[:8])  # a name that is the beginning of an ID: the name wins
    assert store.containers.get(first.id[:8]).id == third.id
    with pytest.raises(ConflictError):
        second.rename("web")
    second.rename("db")
    assert store.containers.get("db").id == second.id and second.name == "db"
    assert [container.id for container in store.containers.list(all=True)] == [third.id, second.id, first.id]


def test_a_beginning_that_two_have(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter([bytes.fromhex("abcd" + "00" * 30), bytes.fromhex("abce" + "00" * 30)])
    real = os.urandom
    monkeypatch.setattr(os, "urandom", lambda count: next(ids) if count == 32 else real(count))
    first, second = sh(store, ":"), sh(store, ":")
    with pytest.raises(ConflictError, match="abc"):
        store.containers.get("abc")
    assert store.containers.get("abcd").id == first.id and store.containers.get("abce").id == second.id


def test_a_missing_image_or_command(store: Store, small_tar: Path) -> None:
    with pytest.raises(NotFoundError, match="nothere"):
        store.containers.create("nothere")
    store.images.import_(str(small_tar), "silent:latest")
    with pytest.raises(ContainerRuntimeError, match="no command"):
        store.containers.create("silent")
    assert store.containers.list(all=True) == []


def test_the_image_of_a_container_outlives_its_name(store: Store, small_tar: Path) -> None:
    """A container keeps its layers, whatever becomes of the image."""
    store.images.import_(str(small_tar), "gone:latest", changes=['CMD ["cat", "/data/file"]', "LABEL a=b"])
    container = store.containers.create("gone")
    with pytest.raises(ConflictError):
        store.images.remove("gone")
    store.images.remove("gone", force=True)
    store.prune()
    assert start(container) == (0, "from the image\n")


def test_inspect(store: Store) -> None:
    container = sh(store, "exit 2", name="seen", env=["A=1"], labels={"x": "y"}, volumes=["/tmp:/mnt:ro"])
    start(container)
    facts = container.inspect()
    assert (facts["Id"], facts["Name"]) == (container.id, "seen")
    assert facts["State"]["Status"] == "exited" and facts["State"]["ExitCode"] == 2
    assert "A=1" in facts["Config"]["Env"] and facts["Config"]["Labels"] == {"x": "y"}
    assert facts["HostConfig"]["Binds"] == ["/tmp:/mnt:ro"] and facts["HostConfig"]["NetworkMode"] == "none"
    assert facts["Config"]["Hostname"] == container.id[:12]
    assert sh(store, ":", network="host").inspect()["Config"]["Hostname"] == os.uname().nodename


def test_runc_does_it_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    program = shutil.which("runc", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("runc is not installed")
    monkeypatch.setenv("LAZARUS_RUNTIME", program)
    container = sh(store, "echo up; exec sleep 60")
    container.start()
    until(lambda: logged(container))
    assert execute(container, "cat", "/data/file") == (0, "from the image\n")
    assert container.stop(timeout=0) == 137
    assert run(store, "exit 3", auto_remove=True)[0] == 3


def test_no_runtime_is_one_clear_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    container = sh(store, ":")
    monkeypatch.setenv("LAZARUS_RUNTIME", "/nowhere/crun")
    with pytest.raises(ContainerRuntimeError, match="/nowhere/crun"):
        container.start()
    assert container.status == "created"


def test_only_streams_are_inherited(store: Store, tmp_path: Path) -> None:
    """Neither attached nor in the background does a container see a descriptor of its starter."""
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        extra = os.dup2(file.fileno(), 77)
        try:
            container = sh(store, "ls /proc/self/fd", auto_remove=False)
            assert set(start(container)[1].split()) <= {"0", "1", "2", "3"}  # 3: ls reads the directory
            container.start()
            container.wait()
            assert set(logged(container).split()) <= {"0", "1", "2", "3"}
        finally:
            os.close(extra)


def test_signals_are_the_containers(store: Store) -> None:
    """An attached start with `signals` passes them on."""
    container = sh(store, "trap 'exit 6' TERM; echo up; while :; do sleep 0.05; done")

    def send() -> None:
        until(lambda: logged(container))
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    with open(os.devnull, "w") as null:
        code = container.start(attach=True, stdout=null.fileno(), stderr=null.fileno(), signals=True)
    sender.join()
    assert code == 6
