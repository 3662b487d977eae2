"""Who is at work in a volume or a snapshot: a lock on its directory, which any death releases."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from lazarus.content import readers
from lazarus.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from lazarus.store import Store


@contextmanager
def held(store: Store, directory: str, how: int, what: str) -> Iterator[None]:
    """Holds a directory (fcntl.LOCK_*), and the room of volumes where it is. Waits, unless LOCK_NB: `ConflictError`.
    `NotFoundError` when it is gone. `what` is for messages."""
    with _room(store), ExitStack() as locks:
        locks.callback(os.close, _locked(directory, how, what))
        yield


@contextmanager
def nobody_in(store: Store, directories: Mapping[str, str]) -> Iterator[None]:
    """Inside the `with` nobody holds any of these directories (and what to call each), but for those that are gone:
    they can be removed. `ConflictError`, for nobody is waited for."""
    readers.make_room_for_descriptors(len(directories))
    with _room(store), ExitStack() as locks:
        for directory, what in directories.items():
            with suppress(NotFoundError):
                locks.callback(os.close, _locked(directory, fcntl.LOCK_EX | fcntl.LOCK_NB, what))
        yield


@contextmanager
def _room(store: Store) -> Iterator[None]:
    room = readers.hold(store.paths.volumes)
    try:
        yield
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
