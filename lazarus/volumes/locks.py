"""Who is at work in a volume or a snapshot: a lock on its directory, which any death releases."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lazarus.content import readers
from lazarus.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from lazarus.store import Store


@contextmanager
def held(store: Store, directory: str, how: int, what: str) -> Iterator[None]:
    """Holds a directory (fcntl.LOCK_*), and the room of volumes where it is. Waits, unless LOCK_NB: `ConflictError`.
    `NotFoundError` when it is gone. `what` is for messages."""
    room = readers.hold(store.paths.volumes)
    try:
        fd = _locked(directory, how, what)
        try:
            yield
        finally:
            os.close(fd)
    finally:
        os.close(room)


def _locked(directory: str, how: int, what: str) -> int:
    while True:
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFoundError(f"{what}: its directory is gone") from None
        try:
            fcntl.flock(fd, how)
            if os.path.samestat(os.stat(directory), os.fstat(fd)):
                found, fd = fd, -1
                return found
        except BlockingIOError:
            raise ConflictError(f"{what}: its files are being copied; try again") from None
        except FileNotFoundError:
            continue  # removed meanwhile: said in the next round
        finally:
            if fd >= 0:
                os.close(fd)
