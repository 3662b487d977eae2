"""Which devices containers may open where the runtime makes no cgroups: one version 1 cgroup for all of them.

Without one, a process with CAP_MKNOD makes itself the node of a disk of the host and opens it, or opens a node that its
image brings along.
"""

from __future__ import annotations

import os
from contextlib import suppress

# docker's: any node may be made; null, zero, full, random, urandom, tty, console, ptmx and pseudo-terminals be opened
RULES = (
    "c *:* m",
    "b *:* m",
    *(f"c {number} rwm" for number in ("1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:1", "5:2", "136:*")),
)


def device_cgroup(root: str) -> str | None:
    """The file through which a process joins that cgroup, below `root` (where cgroups are mounted); it is made when it
    is not there. None where this machine has no such cgroups, or this user may not make one."""
    group = f"{root}/devices/lazarus"
    members = f"{group}/tasks"
    if os.path.exists(members):
        return members
    if not os.path.exists(f"{root}/devices/devices.list"):
        return None
    new = f"{group}.{os.urandom(6).hex()}"  # under its name once it has its rules: others begin to use it then
    try:
        os.mkdir(new, 0o755)
        _write(f"{new}/devices.deny", "a")
        for rule in RULES:
            _write(f"{new}/devices.allow", rule)
        os.rename(new, group)
    except OSError:  # another process was quicker, or it may not be made
        with suppress(OSError):
            os.rmdir(new)
    return members if os.path.exists(members) else None


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
