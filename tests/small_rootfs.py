"""A root file system of a few megabytes, made from this machine's own programs: what container tests run in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

PROGRAMS = (
    "sh",
    "cat",
    "chmod",
    "chown",
    "dd",
    "env",
    "hostname",
    "id",
    "ln",
    "ls",
    "mkdir",
    "mknod",
    "mv",
    "readlink",
    "rm",
    "seq",
)
PROGRAMS += ("sleep", "stty", "touch", "tty", "wc")
PASSWD = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n"
GROUP = "root:x:0:\nbob:x:1000:\nstaff:x:50:bob,root\nwheel:x:10:root\n"


def need_runtime() -> None:
    """Skips with the reason when no container can be started here."""
    if shutil.which("crun") is None and shutil.which("runc") is None and not Path("/usr/sbin/runc").exists():
        pytest.skip("neither crun nor runc is installed")


def make_rootfs(root: Path) -> Path:
    """Programs with their libraries, users, an empty /tmp; no /proc, /sys, /dev and no /etc/hosts."""
    for directory in ("bin", "etc", "root", "home/bob", "tmp", "data"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    (root / "data/file").write_text("from the image\n")
    (root / "data/link").symlink_to("/data/file")
    for name in PROGRAMS:
        program = shutil.which(name)
        assert program is not None, name
        _install(root, Path(program), root / "bin" / name)
    return root


def _install(root: Path, program: Path, target: Path) -> None:
    shutil.copy(program, target)
    for library in re.findall(r"(/\S+)", subprocess.run(["ldd", program], capture_output=True, text=True).stdout):
        place = root / library.lstrip("/")
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(os.path.realpath(library), place)


def make_tar(root: Path, target: Path) -> Path:
    """The root file system as a tar, owned by root."""

    def owned(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        return info

    with tarfile.open(target, "w") as tar:
        tar.add(root, ".", filter=owned)
    return target
