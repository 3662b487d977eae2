"""What a container is created with: the image's config, the caller's wishes, and which of them wins."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from container_helpers import IMAGE, logged, run, sh, start

from lazarus.containers.settings import Settings, command_line, working_directory
from lazarus.containers.signals import signal_number
from lazarus.errors import ContainerRuntimeError, FormatError
from lazarus.runtime.bundle import Bind
from lazarus.store import Store

pytest_plugins = ("container_fixtures",)
root = pytest.mark.root


@pytest.mark.parametrize(
    ("config", "command", "entrypoint", "expected"),
    [
        ({"Cmd": ["a", "b"]}, None, None, "a b"),
        ({"Entrypoint": ["e"], "Cmd": ["a"]}, None, None, "e a"),
        ({"Entrypoint": ["e"], "Cmd": ["a"]}, ["x", "y"], None, "e x y"),
        ({"Entrypoint": ["e"], "Cmd": ["a"]}, None, "z", "z"),
        ({"Entrypoint": ["e"], "Cmd": ["a"]}, ["x"], ["z", "1"], "z 1 x"),
        ({"Entrypoint": ["e"], "Cmd": ["a"]}, ["x"], "", "x"),
        ({"Entrypoint": None, "Cmd": None}, None, None, ""),
        ({}, [], None, ""),
    ],
)
def test_entrypoint_and_command(config: dict[str, object], command: object, entrypoint: object, expected: str) -> None:
    assert " ".join(command_line(config, command, entrypoint)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "own", "expected"),
    [(None, None, "/"), ("/a/b/", None, "/a/b"), ("rel", None, "/rel"), ("/../..", None, "/"), ("/a", "/b//c", "/b/c")],
)
def test_working_directory(image: str | None, own: str | None, expected: str) -> None:
    assert working_directory({"WorkingDir": image}, own) == expected


@pytest.mark.parametrize(
    ("text", "number"), [("TERM", 15), ("sigterm", 15), ("9", 9), (9, 9), (" INT ", 2), ("SIGRTMIN+3", 37)]
)
def test_signals(text: str | int, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "FOO", "0", "-1", "65", "²", "TERM+1", "RTMIN+99", "RTMIN+²", "SIG_DFL", "9" * 999]
)
def test_no_signals(text: str) -> None:
    with pytest.raises(FormatError):
        signal_number(text)


def test_settings_survive_the_catalogue() -> None:
    made = Settings(
        "i", "sha256:" + "0" * 64, (), ("a",), env=("A=ä",), binds=(Bind("/a", "/b", True),), labels={"x": "y"}
    )
    assert Settings.from_json(made.to_json()) == made


@root
def test_environment(store: Store, small_tar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.images.import_(str(small_tar), "env:latest", changes=['CMD ["env"]', "ENV A=image", "ENV B=image"])
    monkeypatch.setenv("FROM_HERE", "taken")
    monkeypatch.delenv("NOT_HERE", raising=False)
    container = store.containers.create("env", env=["A=own", "C==x y", "D=", "FROM_HERE", "NOT_HERE", "U=ü"])
    code, text = start(container)
    found = dict(line.split("=", 1) for line in text.splitlines())
    assert code == 0
    assert (found["A"], found["B"], found["C"], found["D"], found["FROM_HERE"], found["U"]) == (
        "own",
        "image",
        "=x y",
        "",
        "taken",
        "ü",
    )
    assert "NOT_HERE" not in found and found["HOME"] == "/root" and found["HOSTNAME"] == container.id[:12]
    assert set(found) == {"A", "B", "C", "D", "FROM_HERE", "U", "PATH", "HOME", "HOSTNAME"}, "nothing of the caller's"


@root
def test_user_and_working_directory_of_the_image(store: Store, small_tar: Path) -> None:
    changes = ["USER bob", "WORKDIR /made/here", 'ENTRYPOINT ["sh", "-c"]', 'CMD ["id -un; pwd; echo $HOME"]']
    store.images.import_(str(small_tar), "who:latest", changes=changes)
    assert start(store.containers.create("who")) == (0, "bob\n/made/here\n/home/bob\n")
    other = store.containers.create("who", user="0:staff", workdir="/tmp", command=["id -u; id -g; pwd"])
    assert start(other) == (0, "0\n50\n/tmp\n")


@root
@pytest.mark.parametrize(
    ("user", "expected"),
    [("", "0 0 0 10 50"), ("bob", "1000 1000 1000 50"), ("7:8", "7 8 8"), ("bob:wheel", "1000 10 10")],
)
def test_users(store: Store, user: str, expected: str) -> None:
    code, text = run(store, "id -u; id -g; id -G", user=user)
    assert (code, sorted(text.split())) == (0, sorted(expected.split()))


@root
def test_users_have_no_more_privileges_than_docker_gives(store: Store) -> None:
    code, text = run(store, "while read a b; do case $a in Cap*) echo $a $b;; esac; done < /proc/self/status")
    assert code == 0 and "CapEff: 00000000a80425fb" in text  # docker's well-known mask
    assert (
        "CapEff: 0000000000000000"
        in run(store, "while read a b; do case $a in Cap*) echo $a $b;; esac; done < /proc/self/status", user="bob")[1]
    )
    assert run(store, "echo 1 > /proc/sys/kernel/panic")[0] != 0
    assert run(store, "cat /proc/kcore 2> /dev/null | wc -c")[1] == "0\n"
    assert run(store, "mkdir /sys/x")[0] != 0


@root
def test_an_unknown_user(store: Store) -> None:
    container = sh(store, ":", user="nobody")
    with pytest.raises(ContainerRuntimeError, match="nobody") as caught:
        container.start(attach=True)
    assert caught.value.exit_code == 126 and not os.path.ismount(container.rootfs)


@root
def test_volumes(store: Store, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("host\n")
    script = "cat /v/file; cat /deep/er/f; echo new > /v/made; echo no > /ro/x; echo no > /deep/er/f"
    binds = [f"{tmp_path}:/v", f"{tmp_path}/dir:/ro:ro", f"{tmp_path}/file:/deep/er/f:ro"]
    container = sh(store, script, volumes=binds)
    code, text = start(container)
    assert code != 0 and text.startswith("host\nhost\n")
    assert (tmp_path / "made").read_text() == "new\n"
    assert list((tmp_path / "dir").iterdir()) == [] and (tmp_path / "file").read_text() == "host\n"
    assert container.diff() == [], "mount points are no changes"
    (tmp_path / "program").write_text("#!/bin/sh\necho from a volume\n")
    (tmp_path / "program").chmod(0o755)
    assert start(store.containers.create(IMAGE, command=["/v/program"], volumes=binds)) == (0, "from a volume\n")


@root
def test_volumes_over_files_of_etc(store: Store, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("mine\n")
    assert run(store, "cat /etc/hosts", volumes=[f"{tmp_path}/hosts:/etc/hosts"]) == (0, "mine\n")


@root
def test_a_volume_that_is_not_there(store: Store, tmp_path: Path) -> None:
    container = sh(store, ":", volumes=[f"{tmp_path}/none:/v"])
    with pytest.raises(ContainerRuntimeError, match="none"):
        container.start()
    (tmp_path / "none").mkdir()
    assert start(container)[0] == 0, "it is asked anew at each start"


@root
def test_volumes_cannot_leave_the_container(store: Store, tmp_path: Path) -> None:
    """A mount point that the image made a symlink: the volume lands inside, wherever it points."""
    container = sh(store, f"ln -s {tmp_path}/out /evil; ln -s / /data/up")
    assert start(container)[0] == 0
    store.images.list()
    container.commit("evil:latest")
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in/f").write_text("x\n")
    for target in ("/evil", "/data/up/new/place"):
        bad = store.containers.create("evil", command=["cat", f"{target}/f"], volumes=[f"{tmp_path}/in:{target}"])
        with suppress(ContainerRuntimeError):  # refused: fine too
            assert start(bad) == (0, "x\n")
        assert list((tmp_path / "out").iterdir()) == []
        assert not os.path.exists("/new")


@root
def test_read_only(store: Store) -> None:
    container = sh(store, "echo x > /x; echo $?; echo y > /dev/shm/y && echo shm", read_only=True)
    code, text = start(container)
    assert code == 0 and "Read-only" in text and "shm\n" in text
    assert container.diff() == []


@root
def test_hostname_and_networks(store: Store) -> None:
    script = "hostname; cat /etc/hostname; cat /proc/net/dev"
    code, text = run(store, script, hostname="box.example")
    names, devices = text.splitlines()[:2], [line.split(":")[0].strip() for line in text.splitlines()[4:]]
    assert (code, names, devices) == (0, ["box.example", "box.example"], ["lo"])
    assert "box.example" in run(store, "cat /etc/hosts", hostname="box.example")[1]
    code, text = run(store, script, network="host")
    assert text.splitlines()[0] == os.uname().nodename
    shown = {line.split(":")[0].strip() for line in text.splitlines()[4:]}
    assert shown == {name for _, name in socket.if_nameindex()}
    if os.path.exists("/etc/resolv.conf"):
        assert run(store, "cat /etc/resolv.conf", network="host")[1] == Path("/etc/resolv.conf").read_text()


@root
def test_what_the_container_writes_into_its_hosts_file_stays(store: Store) -> None:
    container = sh(store, "cat /etc/hosts; echo 10.0.0.1 other >> /etc/hosts")
    assert "other" not in start(container)[1] and "other" in start(container)[1]
    assert container.diff() == []


@root
@pytest.mark.parametrize(
    "options",
    [
        {"network": "bridge"},
        {"hostname": "a b"},
        {"hostname": "x" * 65},
        {"hostname": "a\n1.2.3.4 b"},
        {"stop_signal": "NOPE"},
        {"workdir": "relative"},
        {"env": ["=x"]},
        {"env": ["A\0=x"]},
        {"env": ["A=\udcff"]},
        {"command": ["cat", "\udcff"]},
        {"volumes": ["/data/..:/x:rx"]},
        {"volumes": ["v:/x", "/tmp:/x/."]},
        {"name": "/"},
    ],
    ids=str,
)
def test_wishes_that_are_refused(store: Store, options: dict[str, object]) -> None:
    with pytest.raises(FormatError) as caught:
        store.containers.create(IMAGE, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert store.containers.list(all=True) == []


@root
def test_a_working_directory_cannot_be_a_file(store: Store) -> None:
    for place in ("/data/file", "/data/file/x"):
        with pytest.raises((ContainerRuntimeError, OSError)):
            sh(store, ":", workdir=place).start()


@root
def test_the_bundle_is_ours_alone(store: Store) -> None:
    """What goes to the runtime is in the container's directory, closed to others; and it is a document of the spec."""
    container = sh(store, ":")
    container.start()
    container.wait()
    assert os.stat(container.directory).st_mode & 0o777 == 0o700
    with open(f"{container.directory}/bundle/config.json") as file:
        assert json.load(file)["root"]["path"] == container.rootfs
    assert logged(container) == ""
