"""Standing still: every process of a container stops for a moment, and goes on as if nothing had been.

    cgroup     where the container has one of its own (a unified machine, or runc): its freezer, version 2 or 1
    signals    elsewhere: SIGSTOP to all processes of its PID namespace and of those below it, again and again until
               none is new and each thread has stopped; later SIGCONT to all but those that had been stopped before

The second can be seen from inside: a handler for SIGCONT runs, and a parent that asks for it (WUNTRACED, as a shell
with job control does) learns of the stop. A thread that waits for what it has vforked cannot stop, and does nothing.

Nobody stays frozen because a process of ours was killed: before anything is stopped a watcher starts in a session of
its own, whose only tie to us is a pipe. When that ends without a word it lets everything go on. SIGKILL alone ends it
before; should that hit both, whoever freezes the container next lets it go on after.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, Protocol

from lazarus.errors import ContainerRuntimeError
from lazarus.runtime.crun import CGROUP_ROOT, cgroup_layout
from lazarus.runtime.supervisor import background

PATIENCE = 10.0  # seconds that a process may need to come out of a system call
WAIT = 0.0005
_READY = b"."
# Where a thread waits that has vforked (vfork, clone and clone3), in /proc/<pid>/task/<tid>/syscall.
_FORKING = {"x86_64": ("58", "56", "435"), "aarch64": ("220", "435")}


class Freezer(Protocol):
    """One container that can stand still."""

    def freeze(self) -> None:
        """Begins it."""

    def frozen(self) -> bool:
        """Does all of it stand still? Goes on with what freeze() began."""

    def thaw(self) -> None:
        """Undoes it. Never raises: what has ended meanwhile needs no thaw."""


@contextmanager
def frozen(freezers: Sequence[Freezer], *, patience: float = PATIENCE, name: str = "container") -> Iterator[None]:
    """Inside the `with` all of them stand still. `ContainerRuntimeError`, about `name`, when one does not within
    `patience` seconds: then they all go on. A few milliseconds (the watcher), and what the processes need to stop.
    """
    if not freezers:
        yield
        return
    with _watched(freezers, name):
        deadline = time.monotonic() + patience
        for freezer in freezers:
            freezer.freeze()
        for freezer in freezers:
            while not freezer.frozen():
                if time.monotonic() > deadline:
                    raise ContainerRuntimeError(f"{name}: its processes did not stop within {patience:g} s")
                time.sleep(WAIT)
        yield


@contextmanager
def _watched(freezers: Sequence[Freezer], name: str) -> Iterator[None]:
    """Thaws them at the end, whatever ends it."""
    watched, hand = os.pipe()
    try:
        try:
            if background(lambda report: _watch(freezers, watched, report), keep=(watched,)) != _READY:
                raise ContainerRuntimeError(f"{name}: who should let it go on was killed; nothing was stopped")
        finally:
            os.close(watched)
        try:
            yield
        finally:
            for freezer in freezers:
                freezer.thaw()
            with suppress(BrokenPipeError):
                os.write(hand, b".")
    finally:
        os.close(hand)


def _watch(freezers: Sequence[Freezer], watched: int, report: Callable[[bytes], None]) -> None:
    # Who ends a service tells all in its cgroup to end, this one too: it ends when all go on, which is soon.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    report(_READY)
    if os.read(watched, 1) == b"":
        for freezer in freezers:
            freezer.thaw()


# -- which of the two --


def freezer_of(pid: int, name: str, root: str = CGROUP_ROOT) -> Freezer:
    """For the container whose first process is `pid`; its own cgroup has `name` in its path. `ContainerRuntimeError`
    when it has neither that nor a PID namespace of its own, `ProcessLookupError` when it is just ending."""
    found = _own_cgroup(pid, name, root)
    if found is not None:
        return found
    try:
        namespace = os.readlink(f"/proc/{pid}/ns/pid")
    except FileNotFoundError as error:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), f"/proc/{pid}") from error
    except OSError:
        namespace = ""
    if not namespace or namespace == _namespace(os.getpid()):
        raise ContainerRuntimeError(f"process {pid}: it has neither a cgroup nor a PID namespace of its own")
    return Signals(pid, namespace)


def _own_cgroup(pid: int, name: str, root: str) -> Cgroup | None:
    unified = f"{root}/unified" if cgroup_layout(root) == "hybrid" else root
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in lines:
        number, controllers, path = line.split(":", 2)
        place = unified if number == "0" else f"{root}/freezer"
        head, own, _ = path.partition(f"/{name}")
        file_name = "cgroup.freeze" if number == "0" else "freezer.state"
        if own and (number == "0" or controllers == "freezer") and os.path.exists(f"{place}{head}{own}/{file_name}"):
            return Cgroup(f"{place}{head}{own}")
    return None


class Cgroup:
    """A freezer of the kernel: the cgroup in a directory, of version 2 or 1, with all those in it."""

    def __init__(self, path: str) -> None:
        self._unified = os.path.exists(f"{path}/cgroup.freeze")
        self._switch = f"{path}/cgroup.freeze" if self._unified else f"{path}/freezer.state"
        self._events = f"{path}/cgroup.events"

    def freeze(self) -> None:
        """See `Freezer`. A cgroup that is gone has nothing to freeze."""
        self._set("1" if self._unified else "FROZEN")

    def frozen(self) -> bool:
        """See `Freezer`."""
        try:
            with open(self._events if self._unified else self._switch, encoding="ascii") as file:
                text = file.read()
        except OSError:
            return True
        if not self._unified and text.strip() == "FREEZING":
            self._set("FROZEN")  # version 1 looks again at those that were not ready
        return ("frozen 1" in text or "populated 0" in text) if self._unified else text.strip() == "FROZEN"

    def thaw(self) -> None:
        """See `Freezer`."""
        self._set("0" if self._unified else "THAWED")

    def _set(self, text: str) -> None:
        with suppress(OSError), open(self._switch, "w", encoding="ascii") as file:
            file.write(text)


# -- signals --


class _Seen(NamedTuple):
    """A process, told from any later one with its pid."""

    pid: int
    start_time: int


class Signals:
    """The processes of a PID namespace, and of those that were made inside it."""

    def __init__(self, first: int, namespace: str) -> None:
        self._first = first
        self._namespace = namespace
        states = {one: _state(f"/proc/{one.pid}") for one in self._members()}
        stopped = {one for one, state in states.items() if state == b"T"}
        # All of them: that is no job that somebody has stopped inside, but what a killed watcher has left.
        self._before = stopped if set(states.values()) - {b"T", b"Z", b"X"} else set()
        self._sent: set[_Seen] = set()

    def freeze(self) -> None:
        """See `Freezer`."""
        self._stop(self._members())

    def frozen(self) -> bool:
        """See `Freezer`. Processes that were made since are stopped, too."""
        found = self._members()
        fresh = self._stop(found)
        return not fresh and all(_stands_still(one.pid) for one in found)

    def thaw(self) -> None:
        """See `Freezer`."""
        for one in self._members() - self._before:
            _send(one, signal.SIGCONT)

    def _stop(self, found: set[_Seen]) -> set[_Seen]:
        fresh = found - self._sent
        for one in fresh:
            _send(one, signal.SIGSTOP)
        self._sent |= fresh
        return fresh

    def _members(self) -> set[_Seen]:
        """Those in the namespace, and all that descend from them. A walk of /proc: 10 us a process of the machine."""
        parents: dict[int, tuple[int, int]] = {}
        inside: set[int] = set()
        for name in filter(str.isdigit, os.listdir("/proc")):
            pid = int(name)
            with suppress(OSError, IndexError):
                parents[pid] = _parent_and_start(pid)
                if _namespace(pid) == self._namespace:
                    inside.add(pid)
        for pid in parents:
            line = []
            while pid in parents and pid not in inside and pid not in line:
                line.append(pid)
                pid = parents[pid][0]
            if pid in inside:
                inside.update(line)
        return {_Seen(pid, parents[pid][1]) for pid in inside}


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _parent_and_start(pid: int) -> tuple[int, int]:
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[1]), int(fields[19])


def _send(one: _Seen, number: int) -> None:
    with suppress(OSError, IndexError):
        pidfd = os.pidfd_open(one.pid)
        try:
            if _parent_and_start(one.pid)[1] == one.start_time:  # asked after the descriptor was taken
                signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)


def _state(place: str) -> bytes:
    """A letter, of the process or thread in a directory of /proc; X when there is none any more."""
    try:
        with open(f"{place}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split(maxsplit=1)[0]
    except (OSError, IndexError):
        return b"X"


def _stands_still(pid: int) -> bool:
    """Has each thread stopped, or ended?"""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return True
    return all(_thread_stands_still(f"/proc/{pid}/task/{thread}") for thread in threads)


def _thread_stands_still(place: str) -> bool:
    state = _state(place)
    if state != b"D":
        return state in (b"T", b"t", b"Z", b"X")
    try:
        with open(f"{place}/syscall", encoding="ascii") as file:
            return file.read().split(" ", 1)[0] in _FORKING.get(os.uname().machine, ())
    except OSError:
        return True  # it has ended
