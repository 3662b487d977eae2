"""A child that does something with a store, and kills itself before the n-th line that it runs in some files."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lazarus.store import Store

#: All of the moments that the kill tests know are tried with LAZARUS_EVERY_KILL=1, a third of them without.
EVERY_KILL = os.environ.get("LAZARUS_EVERY_KILL") == "1"
VISITS = 2  # of one line, in a loop: its first round, and one with a round behind it


def kills(number: int) -> int:
    """How many of `number` moments a run tries: with all of them the tests of one change would take minutes more."""
    return number if EVERY_KILL else number // 3


class Moments:
    """The lines that a call runs in files with one of `rooms` in their paths, in order, each at most VISITS times."""

    def __init__(self, rooms: Sequence[str], kill_at: int | None) -> None:
        self._rooms = rooms
        self.count = 0
        self._kill_at = kill_at
        self._visits: dict[tuple[str, int], int] = {}

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        """For sys.settrace."""
        if not any(room in frame.f_code.co_filename for room in self._rooms):
            return None
        if event == "line":
            line = (frame.f_code.co_filename, frame.f_lineno)
            self._visits[line] = self._visits.get(line, 0) + 1
            if self._visits[line] <= VISITS:
                if self.count == self._kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                self.count += 1
        return self.trace


def run_until(rooms: Sequence[str], root: Path, act: Callable[[Store], object], kill_at: int | None) -> int | None:
    """Does it in a child, which dies at the given moment: None. Else the number of moments that there were."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        moments = Moments(rooms, kill_at)
        try:
            with Store(root) as store:
                sys.settrace(moments.trace)
                act(store)
                sys.settrace(None)
            os.write(write_end, str(moments.count).encode())
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(0)
    os.close(write_end)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = os.read(read_end, 20)
    os.close(read_end)
    assert code == (0 if said else -signal.SIGKILL), (kill_at, code)
    return int(said) if said else None
