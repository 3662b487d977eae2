"""The children that this process starts, and what they hold of it.

A child begins with copies of all descriptors, also of those that other threads have just opened, and has them until it
closes them or becomes another program. A file system that has been given back here is busy that long.
"""

from __future__ import annotations

import os
import signal
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


@contextmanager
def handlers_wait() -> Iterator[None]:
    """While it lasts, handlers of signals are not called, but at its end: one that raises in the middle of a start
    would leave nobody who knows of the child. A mask would not do: other threads take signals, and the child has it.

    Only the main thread calls handlers; in others there is nothing to wait for.
    """
    before = {number: handler for number in signal.valid_signals() if callable(handler := signal.getsignal(number))}
    came: list[int] = []
    held: list[signal.Signals] = []
    try:
        try:
            for number in before:
                signal.signal(number, lambda missed, _: came.append(missed))
                held.append(number)
        except ValueError:  # another thread than the main one
            pass
        yield
    finally:
        for number in held:
            signal.signal(number, before[number])
        for missed in came:
            signal.raise_signal(missed)
