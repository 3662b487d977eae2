"""Who fetches which content: of several processes that want the same layer one downloads it, and the others wait.

A claim is a lock on one byte of the file `claims`, the byte that the digest says, of an open file description
(fcntl(2), F_OFD_SETLK): threads have claims of their own, whatever ends a process releases them, and nothing has to be
removed. Two digests that say the same byte (one in 2**62) wait for one another, and that is all. The file stays in the
store's directory when a pool takes the rest elsewhere.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lazarus.content.lease import identity

if TYPE_CHECKING:
    from lazarus.content.content import ContentStore
    from lazarus.content.lease import Lease
    from lazarus.content.paths import StorePaths
    from lazarus.terms import Digest

_MARK = "claim-"
_FIRST, _LAST = 0.005, 0.1  # seconds between two tries


@contextmanager
def claim(paths: StorePaths, digest: Digest, wait: Callable[[float], object]) -> Iterator[bool]:
    """Holds the claim on `digest`. True: somebody else had it first, so look again whether the content is there.

    While somebody has it, `wait(seconds)` is called again and again (`Event.wait`, `time.sleep`); it may raise.
    """
    fd = os.open(paths.claims, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        waited = False
        pause = _FIRST
        while not _lock(fd, int.from_bytes(digest.raw[:8], "big") >> 2):
            waited = True
            wait(pause)
            pause = min(pause * 2, _LAST)
        yield waited
    finally:
        os.close(fd)


def mark(lease: Lease, digest: Digest) -> None:
    """Says that this lease is what came of a claim: `holder` goes by it. Open file descriptions have no process."""
    os.close(os.open(f"{lease.directory}/{_MARK}{digest.hex}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def holder(content: ContentStore, digest: Digest) -> int | None:
    """The process that has the claim, if it has said so, and lives in our PID namespace."""
    me = identity()
    for row in content.catalogue.read().execute("SELECT * FROM leases").fetchall():
        here = (row["boot_id"], row["pid_namespace"]) == (me.boot_id, me.pid_namespace)
        if here and os.path.exists(f"{content.paths.staging}/{row['id']}/{_MARK}{digest.hex}"):
            return int(row["pid"])
    return None


def _lock(fd: int, start: int) -> bool:
    # struct flock: type, whence, start, length, pid (0 for these)
    request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
        return True
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
