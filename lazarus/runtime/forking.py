"""The children that this process starts, and what they hold of it.

A child begins with copies of all descriptors, also of those that other threads have just opened, and has them until it
closes them or becomes another program. A file system that has been given back here is busy that long.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from collections.abc import Iterator
from contextlib import contextmanager

_forking = allocate_lock()


def _forked() -> None:
    """A child of fork() starts with a free lock, whatever another thread held."""
    global _forking
    _forking = allocate_lock()


os.register_at_fork(after_in_child=_forked)


@contextmanager
def no_copies() -> Iterator[None]:
    """While it lasts, no child that this package has started holds a copy of a descriptor that was not meant for it,
    and one thread at a time may start one."""
    with _forking:
        yield
