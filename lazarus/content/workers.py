"""Threads that read a store for one call, and what they tell while they do."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

from lazarus.errors import CancelledError
from lazarus.terms import Progress, ProgressEvent

T = TypeVar("T")
R = TypeVar("R")

_NAP = 0.1  # seconds: how long one that waits does not see that it should end


def default_threads() -> int:
    """Twice the cores, from 4 to 16: many small files are a matter of how many are asked for at once."""
    return min(max(2 * len(os.sched_getaffinity(0)), 4), 16)


class Workers:
    """A pool of threads as a context manager, which waits for them; an exception in the `with` makes them end soon."""

    def __init__(self, threads: int | None = None) -> None:
        count = default_threads() if threads is None else threads
        if not 1 <= count <= 256:
            raise ValueError(f"threads: {count}, expected 1 to 256")
        self.stopped = False
        self._pool = ThreadPoolExecutor(count)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """The results, in the order of the items; the first exception."""
        for future in [self._pool.submit(function, item) for item in items]:
            yield future.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stopped = True
        self._pool.shutdown(cancel_futures=True)


class Reading:
    """How much has been read, counted over all threads: the `step` of verify_files. It tells `progress` of it, and
    holds the threads back so that together they read no more than `rate` bytes a second (0: as fast as they can).

    `CancelledError` once the workers are to end.
    """

    def __init__(self, workers: Workers, action: str, rate: int = 0, progress: Progress | None = None) -> None:
        self.files = self.bytes = 0
        self._workers, self._action, self._rate, self._progress = workers, action, rate, progress
        self._lock = threading.Lock()
        self._free_at = 0.0

    def __call__(self, files: int, size: int) -> None:
        with self._lock:
            self.files += files
            self.bytes += size
            if self._progress is not None:
                self._progress(ProgressEvent(self._action, "store", self.bytes, 0))
            until = 0.0
            if self._rate:
                self._free_at = until = max(self._free_at, time.monotonic()) + size / self._rate
        while True:
            if self._workers.stopped:
                raise CancelledError(f"{self._action}: ended")
            rest = until - time.monotonic()
            if rest <= 0:
                return
            time.sleep(min(rest, _NAP))
