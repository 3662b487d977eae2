"""The OCI document that a runtime gets, and the check for the program."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lazarus.errors import ContainerRuntimeError
from lazarus.runtime.bundle import (
    CAPABILITIES,
    DEFAULT_PATH,
    Bind,
    Process,
    bundle_document,
    environment,
    process_document,
)
from lazarus.runtime.executable import check_program
from lazarus.runtime.user import User


def process(*args: str, cwd: str = "/", path: str = "/bin:/usr/bin", uid: int = 0) -> Process:
    return Process(args, (f"PATH={path}",), cwd, User(uid, uid))


def document(**options: Any) -> dict[str, Any]:
    return bundle_document(process("true"), rootfs="/r", hostname="h", **{"network": "none", **options})


def namespaces(config: dict[str, Any]) -> set[str]:
    return {entry["type"] for entry in config["linux"]["namespaces"]}


def test_network() -> None:
    assert namespaces(document()) == {"pid", "ipc", "uts", "mount", "network"}
    assert namespaces(document(network="host")) == {"pid", "ipc", "uts", "mount"}


def test_cgroups_only_where_they_can_be_made() -> None:
    without = document()
    assert "cgroupsPath" not in without["linux"] and "resources" not in without["linux"]
    config = document(cgroups_path="/lazarus/x")
    assert "cgroup" in namespaces(config) and config["linux"]["cgroupsPath"] == "/lazarus/x"
    assert config["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    (mount,) = [mount for mount in config["mounts"] if mount["type"] == "cgroup"]
    assert mount["destination"] == "/sys/fs/cgroup" and "ro" in mount["options"]


def test_binds_come_last_and_may_be_read_only() -> None:
    config = document(binds=(Bind("/a", "/b"), Bind("/c", "/d", True)))
    assert [mount["destination"] for mount in config["mounts"][-2:]] == ["/b", "/d"]
    assert "rw" in config["mounts"][-2]["options"] and "ro" in config["mounts"][-1]["options"]


def test_dangerous_parts_of_proc_and_sys_are_covered() -> None:
    config = document()
    assert {"/proc/kcore", "/proc/keys", "/sys/firmware"} <= set(config["linux"]["maskedPaths"])
    assert {"/proc/sys", "/proc/sysrq-trigger"} <= set(config["linux"]["readonlyPaths"])
    (sys_mount,) = [mount for mount in config["mounts"] if mount["destination"] == "/sys"]
    assert "ro" in sys_mount["options"]


def test_only_root_starts_with_capabilities() -> None:
    root, other = process_document(process("true")), process_document(process("true", uid=5))
    assert len(CAPABILITIES) == 14 and "CAP_SYS_ADMIN" not in CAPABILITIES
    assert root["capabilities"]["effective"] == root["capabilities"]["bounding"] == list(CAPABILITIES)
    assert other["capabilities"]["effective"] == other["capabilities"]["permitted"] == []


def test_environment_later_wins() -> None:
    found = environment(["PATH=/image", "A=1", "B=2"], ("B=3", "EMPTY="), hostname="h", home="/home/x", terminal=True)
    assert found == ["PATH=/image", "HOSTNAME=h", "TERM=xterm", "HOME=/home/x", "A=1", "B=3", "EMPTY="]
    assert f"PATH={DEFAULT_PATH}" in environment([], (), hostname="h", home="/", terminal=False)


@pytest.fixture
def root(tmp_path: Path) -> int:
    for directory in ("bin", "usr/bin", "work"):
        (tmp_path / directory).mkdir(parents=True)
    for name, mode in {"bin/yes": 0o755, "usr/bin/later": 0o755, "bin/later": 0o644, "bin/no": 0o644}.items():
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(mode)
    (tmp_path / "work/script").symlink_to("/bin/yes")
    (tmp_path / "bin/dangling").symlink_to("/etc/passwd")  # a file of the host, none of the container
    return os.open(tmp_path, os.O_PATH)


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("yes", 0),
        ("later", 0),
        ("/bin/yes", 0),
        ("./script", 0),
        ("no", 126),
        ("/bin/no", 126),
        ("/bin", 126),
        ("missing", 127),
        ("/bin/missing", 127),
        ("dangling", 127),
        ("", 125),
    ],
)
def test_check_program(root: int, program: str, code: int) -> None:
    try:
        check_program(root, process(program, cwd="/work"))
        found = 0
    except ContainerRuntimeError as error:
        found = error.exit_code
    finally:
        os.close(root)
    assert found == code
