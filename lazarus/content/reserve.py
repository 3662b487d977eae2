"""The reserve: disk blocks and inodes held back, so that on a full disk a store still opens and can be emptied.

SQLite needs 32 KiB of shared memory file to open a catalogue, and a log for every change, a deletion too. So the store
keeps `reserve/`: small files of allocated blocks. Work that reads, or that makes room, gives up some of them when the
disk is full, and whoever opens or closes the store next makes them again. Work that takes room (a load, a commit, a new
container) begins only when the reserve is whole: tried ever so often, it cannot use it up.

A store with a pool has two, `reserve/` for the catalogue and one inside the pool for all that lies there. Which of the
two disks was full nobody says, so both give.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self, TypeVar

from lazarus.errors import FULL

if TYPE_CHECKING:
    from lazarus.content.paths import StorePaths

PIECE = 64 * 1024  # bytes: one is enough to open a catalogue, and leaves little to others
PIECES = 64
SHARE = 8  # at most this part of a small file system

_Result = TypeVar("_Result")


class Reserve:
    """The files in the directory `path`, and in `reserve` of the pool that is mounted at `pool_mount`. Nothing here
    needs a lock: processes that give or make pieces at the same time give or make some twice, and that is all. There is
    one for those who must not lose what was given."""

    def __init__(self, path: str, pool_mount: str | None = None) -> None:
        self.path = path
        self._pool_mount = pool_mount

    @classmethod
    def of(cls, paths: StorePaths) -> Self:
        """That of a store."""
        return cls(paths.reserve, paths.pool_mount)

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
        """Gives up so many pieces of each disk, or what there is; how many it were. They are anybody's who takes them
        first. One that another process gives at the same moment counts: there is room now, as was asked for."""
        given = 0
        for place in self.places():
            for name in _names(place)[:pieces]:
                try:
                    os.unlink(f"{place}/{name}")
                except FileNotFoundError:
                    pass
                except OSError:
                    continue
                given += 1
        return given

    def places(self) -> list[str]:
        """The directories with the pieces. The second is there while a pool is mounted with the rooms in it: anywhere
        else it would be in nobody's way, and help nobody."""
        mounted = self._pool_mount is not None and os.path.isdir(f"{self._pool_mount}/staging")
        return [self.path, f"{self._pool_mount}/reserve"] if mounted else [self.path]

    @contextmanager
    def left_as_it_is(self) -> Iterator[None]:
        """While it lasts no other process fills it, so what it has given up stays free, as far as the store goes."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:  # a store that is being made
            yield
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            yield
        finally:
            os.close(fd)

    def fill(self) -> None:
        """Makes what is missing as far as there is room, unless somebody wants it left; never raises. 30 us when all
        is there.

        On a file system that cannot allocate ahead of writing, the pieces are written; on one that compresses or
        copies on write they may hold less than they say.
        """
        for place in self.places():
            with suppress(OSError):
                _fill(place, fcntl.LOCK_NB)

    def check(self) -> None:
        """Before work that takes room. `OSError`, one of FULL, when the reserve is not whole and there is no room to
        fill it; whatever else keeps it from being filled does not matter here."""
        for place in self.places():
            try:
                _fill(place)
            except OSError as error:
                if error.errno in FULL:
                    text = f"{os.strerror(error.errno)}; what is left is held back for looking and removing"
                    raise OSError(error.errno, text, os.path.dirname(place)) from error


def _fill(place: str, wait: int = 0) -> None:
    names = _names(place)
    if len(names) >= PIECES:
        return
    with suppress(FileExistsError):
        os.mkdir(place, 0o700)
    status = os.statvfs(place)
    wanted = min(PIECES, status.f_blocks * status.f_frsize // SHARE // PIECE)
    lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | wait)
        for name in [f"{number:02}" for number in range(wanted)]:
            if name not in names:
                _make(place, name)
    finally:
        os.close(lock)


def _names(place: str) -> list[str]:
    """The pieces that are whole."""
    try:
        return [name for name in os.listdir(place) if name.isdigit()]
    except OSError:
        return []


def _make(place: str, name: str) -> None:
    """Under its name once it is whole. A process that dies here leaves `new`, which the next one takes over."""
    new = f"{place}/new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, PIECE)
        with suppress(FileNotFoundError):  # another process took it over
            os.rename(new, f"{place}/{name}")
    except OSError:
        with suppress(OSError):
            os.unlink(new)
        raise
    finally:
        os.close(fd)
