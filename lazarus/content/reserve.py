"""The reserve: disk blocks and inodes held back, so that on a full disk a store still opens and can be emptied.

SQLite needs 32 KiB of shared memory file to open a catalogue, and a log for every change, a deletion too. So the store
keeps `reserve/`: small files of allocated blocks. Work that reads, or that makes room, gives up some of them when the
disk is full, and whoever opens or closes the store next makes them again. Work that takes room (a load, a commit, a new
container) begins only when the reserve is whole: tried ever so often, it cannot use it up.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

PIECE = 64 * 1024  # bytes: one is enough to open a catalogue, and leaves little to others
PIECES = 64
SHARE = 8  # at most this part of a small file system

FULL = (errno.ENOSPC, errno.EDQUOT)  # what a full disk answers, and one on which this user may have no more

_Result = TypeVar("_Result")


class Reserve:
    """The files in the directory `path`. Nothing here needs a lock: processes that give or make pieces at the same time
    give or make some twice, and that is all."""

    def __init__(self, path: str) -> None:
        self.path = path

    def with_room(self, act: Callable[[], _Result]) -> _Result:
        """Calls `act`; on a full disk (`OSError`, one of FULL) again, each time with twice as many pieces given up, and
        once more when none was left: another process may just have given them. So `act` leaves things as they were when
        it raises, or goes on where it was."""
        pieces = 1
        last = False
        while True:
            try:
                return act()
            except OSError as error:
                if error.errno not in FULL or last:
                    raise
            last = self.give(pieces) == 0
            pieces *= 2

    def give(self, pieces: int = PIECES) -> int:
        """Gives up so many pieces, or what there is; how many it were. They are anybody's who takes them first. One
        that another process gives at the same moment counts: there is room now, and that is what was asked for."""
        given = 0
        for name in self._names()[:pieces]:
            try:
                os.unlink(f"{self.path}/{name}")
            except FileNotFoundError:
                pass
            except OSError:
                continue
            given += 1
        return given

    def fill(self) -> None:
        """Makes what is missing as far as there is room; never raises. 30 us when all is there.

        On a file system that cannot allocate ahead of writing, the pieces are written; on one that compresses or
        copies on write they may hold less than they say.
        """
        with suppress(OSError):
            self._fill()

    def check(self) -> None:
        """Before work that takes room. `OSError`, one of FULL, when the reserve is not whole and there is no room to
        fill it; whatever else keeps it from being filled does not matter here."""
        try:
            self._fill()
        except OSError as error:
            if error.errno in FULL:
                text = f"{os.strerror(error.errno)}; what is left is held back for looking and removing"
                raise OSError(error.errno, text, os.path.dirname(self.path)) from error

    def _fill(self) -> None:
        names = self._names()
        if len(names) >= PIECES:
            return
        with suppress(FileExistsError):
            os.mkdir(self.path, 0o700)
        status = os.statvfs(self.path)
        wanted = min(PIECES, status.f_blocks * status.f_frsize // SHARE // PIECE)
        for name in [f"{number:02}" for number in range(wanted)]:
            if name not in names:
                self._make(name)

    def _names(self) -> list[str]:
        """The pieces that are whole."""
        try:
            return [name for name in os.listdir(self.path) if name.isdigit()]
        except OSError:
            return []

    def _make(self, name: str) -> None:
        """Under its name once it is whole. A process that dies here leaves `new`, which the next one takes over."""
        new = f"{self.path}/new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, PIECE)
            with suppress(FileNotFoundError):  # another process took it over
                os.rename(new, f"{self.path}/{name}")
        except OSError:
            with suppress(OSError):
                os.unlink(new)
            raise
        finally:
            os.close(fd)
