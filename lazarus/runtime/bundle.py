"""The OCI runtime-spec document (config.json) of a container: docker's defaults, no more privileges than those.

Source: opencontainers/runtime-spec config.md and config-linux.md; the lists are those of moby's `oci/defaults.go` and
`oci/caps/defaults.go`.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from lazarus.runtime.user import User
from lazarus.terms import Json

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
MASKED_PATHS = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
]
READONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]

_QUIET = ["nosuid", "noexec", "nodev"]
_MOUNTS: tuple[tuple[str, str, list[str]], ...] = (
    ("/proc", "proc", _QUIET),
    ("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
    ("/sys", "sysfs", [*_QUIET, "ro"]),
    ("/dev/mqueue", "mqueue", _QUIET),
    ("/dev/shm", "tmpfs", [*_QUIET, "mode=1777", "size=65536k"]),
)


class Bind(NamedTuple):
    """A file or directory of the host inside the container; `source` is absolute."""

    source: str
    target: str
    read_only: bool = False


class Tmpfs(NamedTuple):
    """An empty directory in memory; `size` in bytes (None: half of the memory), `mode` of its root (None: 01777)."""

    target: str
    size: int | None = None
    mode: int | None = None
    read_only: bool = False


class Process(NamedTuple):
    """What to run and as whom: the process object of the runtime-spec."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: User
    terminal: bool = False


def process_document(process: Process, *, rules_devices: bool = True) -> Json:
    """The `process` object; a user other than root starts without effective capabilities, as under docker. Where
    nothing rules which devices may be opened, none may be made."""
    bounding = [name for name in CAPABILITIES if rules_devices or name != "CAP_MKNOD"]
    held = bounding if process.user.uid == 0 else []
    return {
        "terminal": process.terminal,
        "user": {"uid": process.user.uid, "gid": process.user.gid, "additionalGids": list(process.user.groups)},
        "args": list(process.args),
        "env": list(process.env),
        "cwd": process.cwd,
        "capabilities": {"bounding": bounding, "effective": held, "permitted": held},
        "noNewPrivileges": False,
    }


def bundle_document(
    process: Process,
    *,
    rootfs: str,
    hostname: str,
    network: str,
    binds: tuple[Bind | Tmpfs, ...] = (),
    read_only: bool = False,
    cgroups_path: str | None = None,
    rules_devices: bool = True,
) -> Json:
    """config.json. `network` is "none" (a namespace with lo alone) or "host".

    `cgroups_path` None: no cgroup is made, and the container sees none; else it gets its own, the device rules of
    docker, and a read-only view of it.
    """
    namespaces = ["pid", "ipc", "uts", "mount"]
    mounts: list[Json] = [
        {"destination": target, "type": kind, "source": kind, "options": options} for target, kind, options in _MOUNTS
    ]
    linux: Json = {"maskedPaths": MASKED_PATHS, "readonlyPaths": READONLY_PATHS}
    if network == "none":
        namespaces.append("network")
    if cgroups_path is not None:
        namespaces.append("cgroup")
        linux["cgroupsPath"] = cgroups_path
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}  # the runtime adds the usual ones
        mounts.append(
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*_QUIET, "ro"]}
        )
    mounts += [_mount(bind) for bind in binds]
    linux["namespaces"] = [{"type": kind} for kind in namespaces]
    return {
        "ociVersion": "1.0.2",
        "process": process_document(process, rules_devices=rules_devices),
        "root": {"path": rootfs, "readonly": read_only},
        "hostname": hostname,
        "mounts": mounts,
        "linux": linux,
    }


def _mount(mount: Bind | Tmpfs) -> Json:
    access = "ro" if mount.read_only else "rw"
    if isinstance(mount, Bind):
        # rro: with what is mounted in it, and from the beginning. With ro alone crun makes what lacks for a mount point
        # or working directory in it before it is read-only, on the host. (It takes rro for directories alone.)
        whole = mount.read_only and os.path.isdir(mount.source)
        options = ["rbind", "rprivate", access, *(["rro"] if whole else [])]
        return {"destination": mount.target, "type": "bind", "source": mount.source, "options": options}
    options = [*_QUIET, access]
    options += [] if mount.size is None else [f"size={mount.size}"]
    options += [] if mount.mode is None else [f"mode={mount.mode:o}"]
    return {"destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options}


def environment(image_env: list[str], own: tuple[str, ...], *, hostname: str, home: str, terminal: bool) -> list[str]:
    """The environment of a process: defaults, then the image's, then the caller's; later settings of a name win."""
    merged = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname, **({"TERM": "xterm"} if terminal else {}), "HOME": home}
    for setting in (*image_env, *own):
        name, _, value = setting.partition("=")
        merged[name] = value
    return [f"{name}={value}" for name, value in merged.items()]
