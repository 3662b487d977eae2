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
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO

from lazarus.errors import FormatError, HookError, one_line

_PIECE = 1 << 16
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
    import tempfile

    from lazarus.runtime.forking import no_copies

    with tempfile.TemporaryFile() as errors:
        try:
            with no_copies():
                process = subprocess.Popen(
                    list(command),
                    env={**os.environ, **facts},
                    stdin=subprocess.DEVNULL,
                    stdout=2,
                    stderr=errors,
                    start_new_session=True,
                )
        except OSError as error:
            raise HookError(f"{what} could not be started: {command[0]}: {error.strerror}") from error
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise HookError(f"{what} did not end within {timeout:g} s and was killed{_last_line(errors)}") from None
        finally:
            with suppress(ProcessLookupError):  # what it has left in the background, too, if it failed
                if process.returncode != 0:
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        last = _last_line(errors)
    if code != 0:
        ended = f"ended with {code}" if code > 0 else f"was killed by {_signal_name(-code)}"
        raise HookError(f"{what} {ended}{last}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # between SIGRTMIN and SIGRTMAX
        return f"signal {number}"


def _last_line(errors: IO[bytes]) -> str:
    """What it wrote to its standard error goes to ours; ": " and the last line of it."""
    errors.seek(0)
    tail = b""
    while piece := errors.read(_PIECE):
        with suppress(OSError):
            os.write(2, piece)
        tail = (tail + piece)[-_PIECE:]
    lines = tail.decode(errors="replace").strip().splitlines()
    return f": {lines[-1]:.300}" if lines else ""
