"""What is done on the host before and after a snapshot: a database is told to write everything down, and to go on.

A hook is a command (a list of words; `["sh", "-c", text]` for a shell's) or a function. The command finds in its
environment, the function gets as a mapping:

    VOLUME, SNAPSHOT    the names
    LAZARUS_ROOT        the store, which `lazarus` in a command then speaks of
    PHASE               "before" or "after"
    OUTCOME             after: "taken", or "failed" (`before` failed, or the disk was full, ...)
    ERROR               after, when it failed: why, in one line

`before` fails when the command ends with another code than 0 or takes longer than the timeout (its whole process group
is killed then), or when the function raises: nothing is taken. `after` is called whatever happened since `before` was
begun, a signal that raises included (SIGINT; for the command line SIGTERM and SIGHUP, too); a process that a signal
kills calls nothing any more.

What a command prints goes to our standard error; its own standard error comes through a pipe, of which the last line is
kept for the error. What it leaves in the background can write there as long as we live. Where nobody reads our standard
error any more (a full pipe, a terminal that is held), the hook waits as its writes do, and its time goes on.
"""

from __future__ import annotations

import os
import select
import signal
import time
from _thread import LockType, allocate_lock, start_new_thread
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from lazarus.errors import FormatError, HookError, one_line

_PIPE = 1 << 16  # bytes that one holds
_LONG = 3600  # seconds: no poll takes for ever as a number
_GRACE = 1.0  # seconds for the last words of a hook whose time is over
Hook = Sequence[str] | Callable[[Mapping[str, str]], object]


class Hooks:
    """Those of one snapshot. `FormatError` for a timeout or a command that is none."""

    def __init__(self, before: Hook | None, after: Hook | None, timeout: float) -> None:
        if not timeout > 0:
            raise FormatError(f"hook timeout {timeout}: not a time in seconds")
        for hook in (before, after):
            if isinstance(hook, str) or (hook is not None and not callable(hook) and not hook):
                raise FormatError(f"hook {hook!r:.100}: not a command as a list of words, and not a function")
        self._before = before
        self._after = after
        self._timeout = timeout

    @contextmanager
    def around(self, facts: Mapping[str, str]) -> Iterator[None]:
        """Calls the one, and after the body the other. `HookError`; an error of the body comes first."""
        failure: BaseException | None = None
        try:
            if self._before is not None:
                self._call(self._before, {**facts, "PHASE": "before"})
            yield
        except BaseException as error:
            failure = error
            raise
        finally:
            if self._after is not None:
                outcome = {"OUTCOME": "taken"} if failure is None else {"OUTCOME": "failed", "ERROR": one_line(failure)}
                self._end(self._after, {**facts, "PHASE": "after", **outcome}, failure)

    def _end(self, hook: Hook, facts: Mapping[str, str], failure: BaseException | None) -> None:
        try:
            self._call(hook, facts)
        except HookError as error:
            if failure is None:
                raise HookError(f"{error}; the snapshot {facts['VOLUME']}@{facts['SNAPSHOT']} was taken") from error
            failure.add_note(one_line(error))

    def _call(self, hook: Hook, facts: Mapping[str, str]) -> None:
        what = f"volume {facts['VOLUME']}: the hook {facts['PHASE']} the snapshot"
        if not callable(hook):
            _run(hook, facts, self._timeout, what)
            return
        try:
            hook(facts)
        except Exception as error:
            raise HookError(f"{what} failed: {one_line(error)}") from error


def _run(command: Sequence[str], facts: Mapping[str, str], timeout: float, what: str) -> None:
    """Its output goes to our standard error, where it does not mix with what a verb prints."""
    import subprocess

    from lazarus.runtime.forking import handlers_wait, no_copies

    errors, theirs = os.pipe()
    said = _Said(errors)
    process: subprocess.Popen[bytes] | None = None
    try:
        try:
            with handlers_wait(), no_copies():
                process = subprocess.Popen(
                    list(command),
                    env={**os.environ, **facts},
                    stdin=subprocess.DEVNULL,
                    stdout=2,
                    stderr=theirs,
                    start_new_session=True,
                )
        except OSError as error:
            raise HookError(f"{what} could not be started: {command[0]}: {error.strerror}") from error
        finally:
            os.close(theirs)
        ended = said.wait(process.pid, timeout)
        if not ended:
            raise HookError(f"{what} did not end within {timeout:g} s and was killed{said.last_line}")
        code = process.wait()
    finally:
        try:
            if process is not None and process.returncode != 0:
                with suppress(ProcessLookupError):  # what it has left in the background, too, if it failed
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        finally:
            said.leave()
    if code != 0:
        end = f"ended with {code}" if code > 0 else f"was killed by {_signal_name(-code)}"
        raise HookError(f"{what} {end}{said.last_line}")


class _Said:
    """What comes out of a pipe: it goes to our standard error as it comes, and the end of it is kept.

    A thread writes it, one piece after the other: such a write can take for ever, and a time-out holds all the same. It
    is one thread for all of them, and counts when it has begun to run: where memory is short, it may never do.
    """

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._ended = False
        self._tail = b""
        self._late = b""  # was read when nothing could be written
        self._writing: LockType | None = None  # held while a thread writes
        self._writer: _Writer | None = None

    def wait(self, pid: int, timeout: float) -> bool:
        """Passes on what comes until a child has ended, and all that it said is here; False when the time is over."""
        deadline = time.monotonic() + timeout
        child = os.pidfd_open(pid)
        try:
            waiting = select.poll()
            waiting.register(child, select.POLLIN)
            waiting.register(self._fd, select.POLLIN)
            while True:
                left = deadline - time.monotonic()
                ready = {fd for fd, _ in waiting.poll(min(max(0, left), _LONG) * 1000)}
                if self._fd in ready:
                    self._show(self._read(), deadline)  # all that was there: a pipe holds no more
                    if self._ended:
                        waiting.unregister(self._fd)
                if child in ready:
                    return True
                if left <= 0:
                    return False
        finally:
            os.close(child)

    def _read(self) -> bytes:
        """What there is; nothing just now, or when it has ended."""
        try:
            piece = os.read(self._fd, _PIPE)
        except BlockingIOError:
            return b""
        self._ended = not piece
        self._tail = (self._tail + piece)[-_PIPE:]
        return piece

    def _show(self, piece: bytes, deadline: float) -> None:
        """Returns when it is written, or can wait no longer: what could not even be begun is late."""
        if not piece or not self._written(deadline):
            self._late += piece
            return
        if self._writer is None:
            self._writer = _Writer()
        self._writing = self._writer.write(piece)
        self._written(deadline)

    def _written(self, deadline: float) -> bool:
        """Has all been written that was to be?"""
        left = min(max(0, deadline - time.monotonic()), _LONG)
        if self._writing is not None and self._writing.acquire(timeout=left):
            self._writing = None
        return self._writing is None

    @property
    def last_line(self) -> str:
        """ ": " and the last line, if there was one."""
        lines = self._tail.decode(errors="replace").strip().splitlines()
        return f": {lines[-1]:.300}" if lines else ""

    def leave(self) -> None:
        """Closes the pipe; but not before those who are left in the background have."""
        if not self._ended:
            self._show(self._read(), time.monotonic() + (0 if self._late else _GRACE))
        if self._writer is not None:
            self._writer.end()
        if self._ended and not self._late:
            os.close(self._fd)
        else:
            start_new_thread(self._go_on, ())

    def _go_on(self) -> None:
        os.set_blocking(self._fd, True)
        if self._writing is not None:
            self._writing.acquire()
        _write(self._late)
        while not self._ended:
            _write(self._read())
        os.close(self._fd)


class _Writer:
    """A thread that writes pieces to standard error; or, where none is to be had, the caller does it."""

    def __init__(self) -> None:
        self._job: tuple[bytes, LockType] | None = None
        self._ending = False
        self._go, begun = allocate_lock(), allocate_lock()
        self._go.acquire()
        begun.acquire()
        try:
            start_new_thread(self._run, (begun,))
            self._runs = begun.acquire(timeout=_GRACE)
        except RuntimeError:
            self._runs = False

    def write(self, piece: bytes) -> LockType:
        """Begins to, when the last one is written; what it returns is held until this one is."""
        done = allocate_lock()
        if self._runs:
            done.acquire()
            self._job = (piece, done)
            self._go.release()
        else:
            _write(piece)
        return done

    def end(self) -> None:
        """The thread ends, after what it writes."""
        self._ending = True
        with suppress(RuntimeError):  # it is to go on with the last piece anyway
            self._go.release()

    def _run(self, begun: LockType) -> None:
        begun.release()
        while True:
            self._go.acquire()
            job, self._job = self._job, None
            if job is not None:
                try:
                    _write(job[0])
                finally:
                    job[1].release()
            if self._ending:
                return


def _write(piece: bytes) -> None:
    with suppress(OSError, MemoryError):
        while piece:
            piece = piece[os.write(2, piece) :]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # between SIGRTMIN and SIGRTMAX
        return f"signal {number}"
