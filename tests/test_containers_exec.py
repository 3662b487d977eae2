"""Further processes in a running container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_helpers import execute, logged, sh, until

from lazarus.containers import Container
from lazarus.errors import ConflictError, ContainerRuntimeError, FormatError
from lazarus.store import Store

pytest_plugins = ("container_fixtures",)
pytestmark = pytest.mark.root


@pytest.fixture
def running(store: Store) -> Iterator[Container]:
    container = sh(store, "echo up; exec sleep 600", env=["FROM=create"], user="bob", workdir="/tmp")
    container.start()
    until(lambda: logged(container))
    yield container
    leftovers = [name for name in os.listdir(container.directory) if name.startswith("exec-")]
    assert leftovers == []


def test_what_it_inherits_and_what_it_is_given(running: Container) -> None:
    script = "id -un; pwd; echo $FROM $OWN; exit 5"
    assert execute(running, "sh", "-c", script) == (5, "bob\n/tmp\ncreate\n")
    own = execute(running, "sh", "-c", script, env=["FROM=exec", "OWN=1"], user="root", workdir="/data")
    assert own == (5, "root\n/data\nexec 1\n")


def test_it_is_in_the_same_namespaces_and_files(running: Container) -> None:
    assert execute(running, "sh", "-c", "echo x > /tmp/made; readlink /proc/1/exe; cat /proc/1/comm")[1].endswith(
        "sleep\n"
    )
    assert [change.path for change in running.diff()] == [b"/tmp", b"/tmp/made"]


@pytest.mark.parametrize(
    ("command", "options", "code"),
    [
        (["nope"], {}, 127),
        (["/nope"], {}, 127),
        (["/data"], {}, 126),
        (["/data/file"], {}, 126),
        (["ls"], {"workdir": "/missing"}, 126),
        (["ls"], {"workdir": "/data/file"}, 126),
        (["ls"], {"user": "nobody"}, 126),
    ],
)
def test_what_cannot_run(running: Container, command: list[str], options: dict[str, str], code: int) -> None:
    for detach in (False, True):
        with pytest.raises(ContainerRuntimeError) as caught:
            running.exec(command, detach=detach, **options)  # type: ignore[arg-type]
        assert caught.value.exit_code == code, caught.value
        for name in [name for name in os.listdir(running.directory) if name.startswith("exec-")]:
            until(lambda name=name: not os.path.exists(f"{running.directory}/{name}"))  # type: ignore[misc]
    assert running.status == "running"


@pytest.mark.parametrize(
    ("command", "options"), [(["a", "\udcff"], {}), (["a"], {"env": ["=x"]}), (["a"], {"workdir": "rel"})]
)
def test_what_is_refused(running: Container, command: list[str], options: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        running.exec(command, **options)  # type: ignore[arg-type]


def test_stdin_and_streams(running: Container, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("typed")
    with (tmp_path / "in").open() as file, (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        command = ["sh", "-c", "cat; echo oops >&2; kill -TERM $$"]
        assert running.exec(command, stdin=file.fileno(), stdout=out.fileno(), stderr=err.fileno()) == 143
    assert (tmp_path / "out").read_text() == "typed" and (tmp_path / "err").read_text() == "oops\n"
    assert "typed" not in logged(running)


def test_a_terminal(running: Container) -> None:
    code, text = execute(running, "sh", "-c", "tty; echo $TERM", tty=True)
    assert code == 0 and "/dev/pts/" in text and "xterm" in text


def test_in_the_background(running: Container) -> None:
    assert running.exec(["sh", "-c", "sleep 0.1; echo x > /tmp/later"], detach=True) is None
    until(lambda: execute(running, "cat", "/tmp/later") == (0, "x\n"))
    until(lambda: not [name for name in os.listdir(running.directory) if name.startswith("exec-")])


def test_many_in_a_row(running: Container) -> None:
    """Each is this process's child, whatever the runtime's own helpers do meanwhile."""
    assert {execute(running, "sh", "-c", "exit 3")[0] for _ in range(120)} == {3}


def test_it_ends_with_the_container(running: Container) -> None:
    running.exec(["sleep", "600"], detach=True)
    running.stop(timeout=0)
    until(lambda: not [name for name in os.listdir(running.directory) if name.startswith("exec-")])


def test_only_a_running_container_has_it(store: Store) -> None:
    container = sh(store, "exit 0")
    for _ in range(2):
        with pytest.raises(ConflictError, match="not running"):
            container.exec(["true"])
        container.start(attach=True)


def test_links_of_the_container_do_not_lead_out(running: Container) -> None:
    """A program, a working directory and /etc/passwd behind absolute symlinks are the container's, not the host's."""
    script = "ln -s /etc/passwd /tmp/p; ln -sfn / /tmp/root; ln -s /bin/sh /tmp/shell"
    assert execute(running, "sh", "-c", script, user="root")[0] == 0
    assert execute(running, "/tmp/shell", "-c", "pwd", workdir="/tmp/root/data")[0] == 0
    assert "bob" in execute(running, "cat", "/tmp/p")[1]
