"""Scrubbing: does every byte on the disk still say what it said? To be asked often, beside work that must not notice.

    for problem in store.scrub(since=7 * 86400, rate=100 << 20):
        print(problem.text)

**What is read**, each once: objects and blobs (SHA-256), layers' indexes (a checksum, and the SHA-256 of each content
that they have inline) and recipes (a checksum), and the EROFS images of stacks (SHA-256). That finds whatever has
changed on the disk since it was written. It does not put layers' tars together, as `verify` does, which also proves
that recipe, index and objects belong to each other; and it mends nothing: `verify(repair=True)` does.

**Not the cache.** Objects and blobs are read past the page cache where the file system can (O_DIRECT), since what the
cache still has right may be wrong on the disk; and so that what databases on the host have there stays there. Indexes,
recipes and EROFS images, 1 to 2 % of a store, are read through it.

**In shards.** There are 256, by the first byte of a digest. When all of a shard is read and nothing is wrong with it,
the time at which the scrub began goes to its place in the file `scrubbed`. A later scrub with `since` leaves that shard
out: that is how one goes on after an interrupt, and how a large store is scrubbed a bit every night. What has come into
a shard since was verified when it came. The file is no promise of anything: when it is lost, torn, or of a clock that
was wrong, something is read once more.

**Why SHA-256**, and not faster sums of blocks, kept beside: of the Debian image's store (1.26 GB in 6,400 files, cold,
two cores of an AMD EPYC, a virtual disk) a scrub takes 2.6 s with four threads and 2.1 s with eight. Hashing, at 2 to
2.7 GB/s a core, is a quarter of a second of that, and would be a twentieth with XXH3-128; one file after the other took
5.0 s, for the objects alone. What costs is the disk, and what helps is that many are asked for at once. Sums would
have to be written, kept in step and believed, and which blocks of a file are wrong does not matter: all of it comes
again when its image is loaded.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from lazarus.content import readers
from lazarus.content.verify import (
    SHARDS,
    Problem,
    blob_problem,
    has_row,
    layer_problem,
    object_problems,
    stack_problem,
)
from lazarus.content.workers import Reading, Workers
from lazarus.errors import FULL
from lazarus.terms import Progress

if TYPE_CHECKING:
    import sqlite3

    from lazarus.content.content import ContentStore

_TIME = struct.Struct("<Q")  # seconds since 1970, for each shard
_NOT_KEPT = (*FULL, errno.EROFS)


class Scrub:
    """One scrub, done while it is iterated over, once; it yields `Problem`s. Leaving the iteration ends it.

    Then, and in between, `files` (objects and blobs) and `bytes` say what was read of those, `skipped` and `shards` how
    many of the 256 were left out and how many are done.
    """

    def __init__(
        self, content: ContentStore, since: float, rate: int, threads: int | None, progress: Progress | None
    ) -> None:
        if rate < 0 or since < 0:
            raise ValueError(f"since {since}, rate {rate}: expected 0 or more")
        self.files = self.bytes = self.skipped = self.shards = 0
        self._content, self._since, self._rate, self._progress = content, since, rate, progress
        self._workers = Workers(threads)

    def __iter__(self) -> Iterator[Problem]:
        path = f"{self._content.paths.root}/scrubbed"
        begun = time.time()
        with ExitStack() as closing:
            closing.callback(os.close, readers.hold(self._content.paths.objects))  # no pool takes them elsewhere
            times = closing.enter_context(_Times(path))
            workers = closing.enter_context(self._workers)
            due = [shard for shard in SHARDS if not begun - self._since < times.get(shard) <= begun]
            self.skipped = len(SHARDS) - len(due)
            reading = Reading(workers, "scrub", self._rate, self._progress)
            for shard, found in zip(due, workers.map(partial(self._one, reading), due), strict=True):
                yield from found
                self.shards += 1
                self.files, self.bytes = reading.files, reading.bytes
                if not found:
                    times.put(shard, begun)

    def _one(self, reading: Reading, shard: str) -> list[Problem]:
        content = self._content

        def each(table: str, column: str, look: Callable[[sqlite3.Row], Problem | None]) -> Iterator[Problem]:
            rows = content.catalogue.read().execute(
                f"SELECT * FROM {table} WHERE {column} GLOB ? ORDER BY {column}", (f"sha256:{shard}*",)
            )
            for row in rows.fetchall():
                problem = look(row)
                if problem is not None and has_row(content, table, column, row[column]):  # not collected meanwhile
                    yield problem

        return [
            *object_problems(content, reading, shard),
            *each("blobs", "digest", partial(blob_problem, content, reading)),
            *each("layers", "diff_id", partial(layer_problem, content)),
            *each("stacks", "chain_id", partial(stack_problem, content)),
        ]


class _Times:
    """The file with a time for each shard."""

    def __init__(self, path: str) -> None:
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            if error.errno not in _NOT_KEPT:
                raise

    def get(self, shard: str) -> int:
        """When it was begun to be read, the last time that all of it was whole; 0 when that is not known."""
        raw = os.pread(self._fd, _TIME.size, int(shard, 16) * _TIME.size) if self._fd >= 0 else b""
        return int(_TIME.unpack(raw)[0]) if len(raw) == _TIME.size else 0

    def put(self, shard: str, when: float) -> None:
        """Eight bytes of one sector: there, or not. Nothing is kept on a full disk."""
        try:
            if self._fd >= 0:
                os.pwrite(self._fd, _TIME.pack(int(when)), int(shard, 16) * _TIME.size)
        except OSError as error:
            if error.errno not in _NOT_KEPT:
                raise

    def __enter__(self) -> _Times:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
