"""The runtime program (crun, else runc): how it is called, and what it must be told about this machine's cgroups.

Containers are always started detached: the program sets the container up, starts its first process and ends; the
process becomes a child of the caller, who waits for it and thus learns exactly how it ended. No runtime process stays.

crun refuses a machine whose cgroups are half version 1 and half version 2 ("hybrid"), even when told to make none.
There it is told to make none and runs in a mount namespace in which the version 2 half is covered (see lz_spawn.h).
Such containers have no cgroup of their own, and stop by signals (see `freezer.py`). They share one for the rules on
devices (see `devices.py`); where there is none, they cannot make the node of a device, but still open one that their
image has.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import NamedTuple

from lazarus._native.spawn import set_subreaper, spawn
from lazarus.errors import ContainerRuntimeError
from lazarus.runtime.devices import device_cgroup
from lazarus.runtime.forking import no_copies

CGROUP_ROOT = "/sys/fs/cgroup"


class _Adoptions:
    """What the threads that start containers share: how many do just now, and the children that nobody else waits for.

    Threads start side by side: one lock around the whole of `crun run` made eight at once take as long as eight in a
    row (benchmarks, start__cold_and_warm: 61 of 85 ms were spent waiting for it).
    """

    def __init__(self) -> None:
        self.lock = allocate_lock()  # held for moments, never while a program runs
        self.users = 0
        self.kept: set[int] = set()


_adoptions = _Adoptions()


def _forked() -> None:
    """A child of fork() starts with a free lock and no children, whatever another thread did."""
    global _adoptions
    _adoptions = _Adoptions()


os.register_at_fork(after_in_child=_forked)


class Streams(NamedTuple):
    """Descriptors that become a process's standard input, output and error."""

    stdin: int = 0
    stdout: int = 1
    stderr: int = 2


def cgroup_layout(root: str = CGROUP_ROOT) -> str:
    """How cgroups are mounted: "unified" (version 2 alone), "hybrid", "legacy" (version 1 alone) or "none".

    Asked of the interface files that only a cgroup file system has, so it holds in a container and a chroot too.
    """
    if os.path.exists(f"{root}/cgroup.controllers"):
        return "unified"
    if os.path.exists(f"{root}/unified/cgroup.controllers"):
        return "hybrid"
    try:
        legacy = any(os.path.exists(f"{root}/{name}/tasks") for name in os.listdir(root))
    except OSError:
        legacy = False
    return "legacy" if legacy else "none"


def find_runtime() -> str:
    """$LAZARUS_RUNTIME, else crun, else runc from PATH. Raises `ContainerRuntimeError` when there is none."""
    asked = os.environ.get("LAZARUS_RUNTIME")
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin"
    for name in (asked,) if asked else ("crun", "runc"):
        for directory in [""] if "/" in name else path.split(":"):
            candidate = os.path.join(directory, name)
            if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):
                return os.path.abspath(candidate)
    raise ContainerRuntimeError(f"no container runtime: {asked or 'neither crun nor runc'} found in PATH")


class Runtime:
    """One runtime program on one machine. `state` is always a directory for its own notes on a container."""

    def __init__(self, path: str | None = None, layout: str | None = None) -> None:
        self.path = path or find_runtime()
        self.is_crun = os.path.basename(self.path).startswith("crun")
        layout = layout or cgroup_layout()
        self.hide: str | None = None
        self.manages_cgroups = layout in ("unified", "legacy") and os.access(CGROUP_ROOT, os.W_OK)
        if self.is_crun and not self.manages_cgroups:
            self.hide = {"hybrid": f"{CGROUP_ROOT}/unified", "none": CGROUP_ROOT}.get(layout)
        # runc makes its own in the version 1 half
        self._has_rules = self.manages_cgroups or (not self.is_crun and layout == "hybrid")

    @cached_property
    def _members(self) -> str | None:
        return None if self._has_rules else device_cgroup(CGROUP_ROOT)

    @property
    def rules_devices(self) -> bool:
        """Is it settled which devices a container may open, whatever nodes it has?"""
        return self._has_rules or self._members is not None

    def run(self, state: str, name: str, bundle: str, streams: Streams, console: str | None = None) -> int:
        """Starts the container that `bundle` describes; the pid of its first process, a child of the caller.

        `console` is the path of a socket that gets the terminal's descriptor when the bundle asks for a terminal.
        Raises `ContainerRuntimeError` with the exit code that goes with the failure: 125, 126 or 127.
        """
        with adoption() as adopted:
            pid_file = f"{bundle}/pid"
            self._call(state, ["run", "--detach", "--bundle", bundle], name, streams, bundle, pid_file, console)
            adopted.append(_adopt(pid_file))
        return adopted[0]

    def exec(
        self, state: str, name: str, process_file: str, notes: str, streams: Streams, console: str | None = None
    ) -> int:
        """Starts a further process (a runtime-spec process object in a file) in a running container; as run()."""
        with adoption() as adopted:
            pid_file = f"{notes}/pid"
            verb = ["exec", "--detach", "--process", process_file]
            self._call(state, verb, name, streams, notes, pid_file, console)
            adopted.append(_adopt(pid_file))
        return adopted[0]

    def forget(self, state: str, name: str, notes: str) -> None:
        """Removes what the program keeps of a container that has ended, its cgroup included."""
        if self.manages_cgroups or not self.is_crun:
            with suppress(ContainerRuntimeError):  # it may know nothing of it any more
                self._quiet(state, ["delete", "--force"], name, notes)
        for directory in (f"{state}/{name}", state):
            with suppress(OSError):
                for entry in os.listdir(directory):
                    os.unlink(f"{directory}/{entry}")
            with suppress(OSError):
                os.rmdir(directory)

    def _quiet(self, state: str, verb: list[str], name: str, notes: str) -> None:
        null = os.open(os.devnull, os.O_RDWR)
        try:
            self._call(state, verb, name, Streams(null, null, null), notes)
        finally:
            os.close(null)

    def _call(
        self,
        state: str,
        verb: list[str],
        name: str,
        streams: Streams,
        notes: str,
        pid_file: str | None = None,
        console: str | None = None,
    ) -> None:
        log = f"{notes}/runtime.log"
        command = [self.path, "--root", state, "--log", log, "--log-format", "json"]
        if self.is_crun and not self.manages_cgroups:
            command.append("--cgroup-manager=disabled")
        command += verb
        if pid_file is not None:
            command += ["--pid-file", pid_file]
        if console is not None:
            command += ["--console-socket", console]
        environment = [f"PATH={os.environ.get('PATH', os.defpath)}"]
        with no_copies(), _adoptions.lock:
            pid = spawn(
                [*command, name],
                environment,
                stdin=streams.stdin,
                stdout=streams.stdout,
                stderr=streams.stderr,
                join=self._members,
                hide=self.hide,
            )
            _adoptions.kept.add(pid)
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        finally:
            with _adoptions.lock:
                _adoptions.kept.discard(pid)
        if code != 0:
            raise failure(last_error(log) or f"{self.path} {verb[0]} ended with {code}")


@contextmanager
def adoption() -> Iterator[list[int]]:
    """While it lasts, orphaned grandchildren become children of this process. The list is for those that are to stay:
    when the last thread is done, all other children that came meanwhile and are of the runtime's program are waited
    for."""
    shared = _adoptions
    with shared.lock:
        if shared.users == 0:
            shared.kept |= _children()
            set_subreaper(True)
        shared.users += 1
    adopted: list[int] = []
    try:
        yield adopted
    finally:
        with shared.lock:
            shared.kept.update(adopted)
            shared.users -= 1
            if shared.users == 0:
                set_subreaper(False)
                _reap_helpers(shared.kept)
                shared.kept &= _children()


def last_error(log: str) -> str | None:
    """The last error in a runtime's JSON log; None when there is none."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            lines = file.read(1 << 20).splitlines()
    except OSError:
        return None
    import json

    for line in reversed(lines):
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict) and message.get("level") in ("error", "fatal"):
            return str(message.get("msg"))
    return None


def failure(message: str) -> ContainerRuntimeError:
    """The exception for a runtime's message. The program is missing: 127; it cannot be invoked: 126; all else: 125."""
    text = message.lower()
    about_program = "exec" in text
    if about_program and ("not found" in text or "no such file" in text):
        return ContainerRuntimeError(message, 127)
    if about_program and any(
        word in text for word in ("permission denied", "not permitted", "exec format", "directory")
    ):
        return ContainerRuntimeError(message, 126)
    return ContainerRuntimeError(message)


def _adopt(pid_file: str) -> int:
    """The pid that the runtime wrote, once that process is a child of this one.

    crun hands over in two steps: a helper that holds the new process ends a little after crun itself. It is this
    process's child by then, and waiting for it moves the new one up.
    """
    with open(pid_file, "rb") as file:
        pid = int(file.read())
    while (parent := _status(pid).parent) != os.getpid():
        os.waitpid(parent, 0)
    return pid


def _reap_helpers(kept: set[int]) -> None:
    """Waits for the helpers of crun that nobody waited for; `kept` are the children that others wait for.

    A helper ends right after crun did. A process that crun is about to turn into the program of an exec looks just like
    one, and a crun that another thread waits for, too: they have to be in `kept`.
    """
    for child in _children() - kept:
        with suppress(OSError):
            status = _status(child)
            if status.command == "crun" and status.session != child:
                os.waitpid(child, 0)


class _Status(NamedTuple):
    command: str
    parent: int
    session: int


def _status(pid: int) -> _Status:
    """What /proc/<pid>/stat says. Raises `OSError` when there is no such process."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        before, _, after = file.read().rpartition(b")")
    _state, parent, _group, session = after.split(maxsplit=4)[:4]
    return _Status(os.fsdecode(before.partition(b"(")[2]), int(parent), int(session))


def _children() -> set[int]:
    """Children of this process's main thread, to which the kernel gives orphans. Empty where it does not tell."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
            return {int(pid) for pid in file.read().split()}
    except OSError:
        return set()
