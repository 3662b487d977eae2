"""Who reads a store's objects, or is at work in its volumes: `pool create` and `pool destroy` move them, but not away
from under an open stack or a copy."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from lazarus.errors import ConflictError


def hold(room: str) -> int:
    """A descriptor of the directory of objects, or of volumes: until it is closed, also in a child that has it, they
    stay where they are. Waits for who moves them just now. About 5 us."""
    while True:
        fd = os.open(room, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            if os.path.samestat(os.fstat(fd), os.stat(room)):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # they have moved meanwhile


@contextmanager
def none(*rooms: str) -> Iterator[None]:
    """Inside the `with` nobody holds any of them. `ConflictError` when somebody does."""
    with ExitStack() as opened:
        for room in rooms:
            fd = os.open(room, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConflictError(
                    f"{os.path.dirname(room)}: the store is in use: a layer stack is open, an image is saved,"
                    " a volume copied, or all of it checked"
                ) from None
        yield


def make_room_for_descriptors(count: int) -> None:
    """Raises this process's soft limit, if need be and allowed, so that it can open `count` more descriptors: a lock is
    one each. 10 us, and 1 us for each that is open."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 512
    with suppress(OSError):  # without /proc
        wanted += len(os.listdir("/proc/self/fd"))
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == -1 else min(wanted, hard), hard))
