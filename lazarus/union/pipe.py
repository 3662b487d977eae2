"""Two native passes on the two ends of a pipe: one writes a tar, the other reads it, each in a thread of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

T = TypeVar("T")
_PIPE_BYTES = 1 << 20


def through_pipe(write: Callable[[int], object], read: Callable[[int], T]) -> T:
    """Runs `write(out_fd)` in a thread and `read(in_fd)` in this one; what read() returns.

    The writer's error is raised when both fail: the reader then only saw its stream end early.
    """
    failure: list[BaseException] = []
    try:
        with _written_by(write, failure) as in_fd:
            result = read(in_fd)
    except BaseException as error:
        if failure and not isinstance(failure[0], BrokenPipeError):
            raise failure[0] from error
        raise
    if failure:
        raise failure[0]
    return result


def pieces_of(write: Callable[[int], object]) -> Iterator[memoryview]:
    """What `write(out_fd)` writes, run in a thread, in pieces of up to 1 MiB; each is done with when the next one is
    asked for. Its error is raised at the end, so whoever takes the pieces must not take them for whole before that."""
    failure: list[BaseException] = []
    with _written_by(write, failure) as in_fd:
        buffer = memoryview(bytearray(_PIPE_BYTES))
        while count := os.readv(in_fd, [buffer]):
            yield buffer[:count]
    if failure:
        raise failure[0]


@contextmanager
def _written_by(write: Callable[[int], object], failure: list[BaseException]) -> Iterator[int]:
    """The end of a pipe that `write(out_fd)` fills in a thread, which has ended afterwards; what it raised goes into
    `failure`."""
    import threading

    in_fd, out_fd = os.pipe()
    _grow(in_fd)

    def run_writer() -> None:
        try:
            write(out_fd)
        except BaseException as error:
            failure.append(error)
        finally:
            os.close(out_fd)

    writer = threading.Thread(target=run_writer, name="pipe writer")
    try:
        writer.start()
    except BaseException:  # no thread is to be had
        os.close(in_fd)
        os.close(out_fd)
        raise
    try:
        yield in_fd
    finally:
        os.close(in_fd)  # the writer, if it still writes, gets EPIPE
        writer.join()


def _grow(fd: int) -> None:
    """A larger pipe means fewer switches between the two threads; it is refused where the user's limit is reached."""
    import fcntl

    with suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
