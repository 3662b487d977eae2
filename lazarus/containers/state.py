"""What a container is doing: derived each time from a small file and from /proc, so that no crash can leave a lie.

`state.json` names the container's first process and its supervisor by (pid, start time, boot ID). A container runs
while one of them does. A supervisor that ends properly writes the exit code before it goes; when both are gone without
that (kill -9, a reboot), the container has exited with a code that nobody knows.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

from lazarus.content import limited
from lazarus.content.lease import boot_id
from lazarus.errors import LazarusError, NotFoundError
from lazarus.runtime.log import timestamp


class Process(NamedTuple):
    """A process, told from any later one with the same pid. pid 0: none."""

    pid: int = 0
    start_time: int = 0
    boot: str = ""

    @property
    def alive(self) -> bool:
        """Is it there? A zombie is not."""
        return self.pid > 0 and self.boot == boot_id() and start_time(self.pid) == self.start_time


NOBODY = Process()


class State(NamedTuple):
    """`status` is "created", "running" or "exited". Times are RFC 3339, "" before they come; `exit_code` is None while
    there is none, and after an end that nobody saw."""

    status: str = "created"
    process: Process = NOBODY
    supervisor: Process = NOBODY
    exit_code: int | None = None
    started: str = ""
    finished: str = ""
    error: str = ""
    held: bool = False  # mounted by hand before the start: the exit leaves it mounted

    @property
    def abandoned(self) -> bool:
        """The file says "running", and neither process is there any more."""
        return self.status == "running" and not self.process.alive and not self.supervisor.alive


def start_time(pid: int) -> int | None:
    """Field 22 of /proc/<pid>/stat; None for no such process and for a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def process(pid: int) -> Process:
    """The process that has this pid now; NOBODY when there is none."""
    started = start_time(pid)
    return NOBODY if started is None else Process(pid, started, boot_id())


def read_state(directory: str) -> State:
    """The state of the container in `directory`; "created" when it never ran. A file that a power cut left empty or
    torn is that of a container that ran before the cut."""
    path = f"{directory}/state.json"
    try:
        with open(path, "rb") as file:
            fields: dict[str, Any] = json.loads(file.read())
        return State(**{**fields, "process": Process(*fields["process"]), "supervisor": Process(*fields["supervisor"])})
    except FileNotFoundError:
        return State()
    except (ValueError, TypeError, KeyError):
        finished = timestamp(os.stat(path).st_mtime_ns)
        return State("exited", finished=finished, error="its state file is damaged")


def write_state(directory: str, state: State) -> None:
    """Replaces the state file in one step. No fsync: after a reboot nothing runs anyway."""
    temporary = f"{directory}/state.{os.getpid()}"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(json.dumps(state._asdict()))
        os.rename(temporary, f"{directory}/state.json")
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


class Lock:
    """Holds a container's directory: one process at a time starts, mounts or removes it. Any death releases it.

    The files of one whose size is limited can be reached in the meantime (see lazarus/content/limited.py); `to_remove`:
    or not, if its file system is damaged or cannot be mounted.
    """

    def __init__(self, directory: str, *, to_remove: bool = False) -> None:
        self._directory = directory
        self._needs_files = not to_remove
        self._fd = -1

    def __enter__(self) -> Self:
        """Waits for it. Raises `NotFoundError` when the container has been removed."""
        while True:
            try:
                fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise self._removed() from None
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if self._is(fd):
                    self._reach()
                    self._fd, fd = fd, -1
                    return self
            finally:
                if fd >= 0:
                    os.close(fd)

    def _is(self, fd: int) -> bool:
        """Is it still there, and not moved to a pool?"""
        try:
            return os.path.samestat(os.stat(self._directory), os.fstat(fd))
        except FileNotFoundError:
            raise self._removed() from None

    def _reach(self) -> None:
        if not limited.is_limited(self._directory):
            return
        try:
            limited.reach(self._directory)
        except (OSError, LazarusError):
            if self._needs_files:
                raise

    def _removed(self) -> NotFoundError:
        return NotFoundError(f"container {os.path.basename(self._directory)[:12]}: it has been removed")

    @property
    def fd(self) -> int:
        """A child that inherits this descriptor holds the lock too: it is free when both have let go."""
        return self._fd

    def release(self) -> None:
        """Gives it back before the end of the `with`."""
        if self._fd >= 0:
            if limited.is_limited(self._directory):
                limited.leave(self._directory)
            os.close(self._fd)
            self._fd = -1

    def again(self) -> Self:
        """For `with lock.again():` in a `with` whose lock may have been given back."""
        self.release()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Room:
    """Holds the directory of all containers: several processes make new ones, or one (`alone`) moves them elsewhere."""

    def __init__(self, directory: str, *, alone: bool = False) -> None:
        self._directory = directory
        self._how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        self._fd = -1

    def __enter__(self) -> Self:
        while True:
            fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, self._how)
                if os.path.samestat(os.stat(self._directory), os.fstat(fd)):
                    self._fd, fd = fd, -1
                    return self
            finally:
                if fd >= 0:
                    os.close(fd)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)


@contextmanager
def door(directory: str, *, shut: bool = False) -> Iterator[ExitStack]:
    """Held by who brings a further process into a running container, until it is there; `shut`: by who freezes it, so
    that none comes meanwhile. Gives what can be closed before the end of the `with`."""
    with ExitStack() as held:
        fd = os.open(f"{directory}/bundle", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        held.callback(os.close, fd)
        fcntl.flock(fd, fcntl.LOCK_EX if shut else fcntl.LOCK_SH)
        yield held
