"""Who reads a store's objects: `pool create` and `pool destroy` move them, but not away from under an open stack."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from lazarus.errors import ConflictError


def hold(objects: str) -> int:
    """A descriptor of the objects' directory: until it is closed, also in a child that has it, they stay where they
    are. Waits for who moves them just now. About 5 us."""
    while True:
        fd = os.open(objects, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            if os.path.samestat(os.fstat(fd), os.stat(objects)):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # they have moved meanwhile


@contextmanager
def none(objects: str) -> Iterator[None]:
    """Inside the `with` nobody reads them. `ConflictError` when somebody does."""
    fd = os.open(objects, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            root = os.path.dirname(objects)
            raise ConflictError(f"{root}: the store is in use: a layer stack is open, or an image is saved") from None
        yield
    finally:
        os.close(fd)
