"""`ContentStore`: the face of this room. What the words mean is in the docstring of `lazarus.content`."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from lazarus.content.lease import Lease
from lazarus.content.reserve import Reserve
from lazarus.content.staged import StagedBlob, StagedLayer
from lazarus.errors import CorruptError, LimitError, NotFoundError
from lazarus.terms import Digest, Progress

if TYPE_CHECKING:
    from lazarus.content.catalogue import Catalogue
    from lazarus.content.collect import Collected
    from lazarus.content.paths import StorePaths
    from lazarus.content.scrub import Scrub
    from lazarus.content.verify import Problem

__all__ = ["ContentStore", "Lease", "StagedBlob", "StagedLayer"]


def sha256(data: bytes) -> Digest:
    """The digest of bytes in memory."""
    import hashlib

    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


class ContentStore:
    """Blobs, objects, leases, publishing and collection of one store. Safe from several threads and processes."""

    def __init__(self, paths: StorePaths, catalogue: Catalogue) -> None:
        self.paths = paths
        self.catalogue = catalogue
        self.reserve = Reserve.of(paths)

    def lease(self, purpose: str = "ingest") -> Lease:
        """A lease, to be used in a `with`; `purpose` is one word. A row and two directories (0.1 ms), no fsync."""
        return Lease(self.paths, self.catalogue, purpose)

    # -- blobs --

    def has_blob(self, digest: Digest) -> bool:
        """Is the blob published? After `publish` with it: yes, until a collection finds that nothing refers to it."""
        rows = self.catalogue.read().execute("SELECT 1 FROM blobs WHERE digest=?", (digest,))
        return rows.fetchone() is not None

    def open_blob(self, digest: Digest) -> int:
        """A descriptor for reading, which the caller closes. `NotFoundError`."""
        if self.has_blob(digest):
            try:
                return os.open(self.paths.blob(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                pass
        raise NotFoundError(f"blob {digest}: not in this store")

    def read_blob(self, digest: Digest, limit: int = 4 << 20) -> bytes:
        """All bytes of a small blob. `NotFoundError`, `LimitError` over `limit` bytes, `CorruptError`."""
        fd = self.open_blob(digest)
        try:
            size = os.fstat(fd).st_size
            if size > limit:
                raise LimitError(f"blob {digest}: {size} bytes, more than {limit}")
            with open(fd, "rb", buffering=0, closefd=False) as file:
                data = file.read()
        finally:
            os.close(fd)
        found = sha256(data)
        if found != digest:
            raise CorruptError(f"blob {digest}: its bytes have digest {found}")
        return data

    def stage_blob(self, lease: Lease, data: bytes) -> StagedBlob:
        """Writes `data` to the lease's staging; `.digest`, `.size`. Publish it with the lease."""
        lease.check_owner()
        path = lease.new_path("blob")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        with open(fd, "wb") as file:
            file.write(data)
        return StagedBlob(path, sha256(data), len(data))

    # -- publish, recover, collect --

    def publish(
        self,
        lease: Lease,
        *,
        blobs: Iterable[StagedBlob] = (),
        layers: Iterable[StagedLayer] = (),
        rows: Callable[[sqlite3.Connection], None] | None = None,
    ) -> None:
        """Makes blobs, layers (with all objects of the lease) and what `rows(connection)` inserts visible and durable,
        at once. On any exception the store is as it was; the staged files are then only good for the lease's exit.

        Content that is there already stays as it is, so a retry is always safe. Two write-backs of the file system and
        one commit: a few milliseconds when the data has reached the disk already.
        """
        from lazarus.content.publish import Publication

        Publication(self.paths, self.catalogue, lease).run(blobs, layers, rows)

    def recover(self) -> bool:
        """Removes what dead processes left. Called by every open: two empty directories and an empty table (30 us).

        True when there was a dead lease.
        """
        # A lease may have a row without a directory, a directory without a row, or both.
        leases = self.catalogue.read().execute("SELECT 1 FROM leases LIMIT 1").fetchone()
        if leases is None and not os.listdir(self.paths.staging) and not os.listdir(self.paths.trash):
            return False
        from lazarus.content.recover import recover

        return self.reserve.with_room(lambda: recover(self))

    def collect(self, dry_run: bool = False, *, rows: Callable[[sqlite3.Connection], None] | None = None) -> Collected:
        """Removes every blob, layer, stack and object that no image and no container needs, once `rows(connection)` has
        deleted what the caller wants gone, in the same transaction; it may be called twice. Directories of volumes that
        no row names go, too.

        Content that a live lease may count on stays; a later collection takes it. `dry_run` undoes it and counts. The
        write lock is held while objects are marked and renamed: about 2 us an object that goes. On a full disk it takes
        the room for its own work from the reserve.
        """
        from lazarus.content.collect import collect

        return self.reserve.with_room(lambda: collect(self, dry_run, rows))

    def verify(
        self, repair: bool = False, *, threads: int | None = None, progress: Progress | None = None
    ) -> Iterator[Problem]:
        """Reads everything and yields what is wrong: objects, blobs, layers (each tar is put together), stacks, rows.

        With `repair`, what is wrong is taken out of the way, so that loading the image again brings it back; stacks are
        rebuilt on their next use, and a layer that was taken so and is whole by now counts again. Objects and blobs are
        read past the page cache: the speed is that of the disk, or of SHA-256 (2.7 GB/s a core), for `threads`
        (default: twice the cores, at least 4) at once, with 8 MiB for each. Tars are read through the cache.
        """
        from lazarus.content.verify import verify

        return verify(self, repair, threads, progress)

    def scrub(
        self, *, since: float = 0.0, rate: int = 0, threads: int | None = None, progress: Progress | None = None
    ) -> Scrub:
        """Every byte that the store keeps, read once and compared with its digest or checksum: a `Scrub`, which yields
        what is wrong; see scrub.py for what that promises.

        Leaves out what a scrub has found whole within the last `since` seconds; reads no more than `rate` bytes a
        second (0: as fast as the disk). Threads and memory as for `verify`.
        """
        from lazarus.content.scrub import Scrub

        return Scrub(self, since, rate, threads, progress)

    def usage(self) -> dict[str, Any]:
        """For `system df`: for each of blobs, layers, objects, stacks, containers, checkpoints, volumes, staging (and
        trash, and the reserve): `count`, `bytes` (logical) and `allocated` (on disk); `total` is their sum;
        `reclaimable` bytes on disk."""
        from lazarus.content.usage import usage

        return usage(self)
