"""Leases: who is working on what is not published yet, and whether they are still alive."""

from __future__ import annotations

import itertools
import os
import sqlite3
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from lazarus.content.reserve import Reserve
from lazarus.errors import LazarusError, StoreError

if TYPE_CHECKING:
    from lazarus.content.catalogue import Catalogue
    from lazarus.content.paths import StorePaths

HOUSEKEEPING = ("collect", "recover", "stack", "volume", "rollback", "mount")  # they reuse no layers and blobs
LIFETIME = 24 * 3600.0  # seconds; matters only where the process cannot be looked up (another PID namespace)


class Identity(NamedTuple):
    """What tells a process from all others, also from a later one with the same pid. 0 and "" mean: not known."""

    pid: int
    start_time: int
    boot_id: str
    pid_namespace: str


def boot_id() -> str:
    """The kernel's ID of this boot; "" without /proc."""
    try:
        fd = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 64).decode().strip()
    finally:
        os.close(fd)


def _start_time(pid: int) -> int | None:
    """Field 22 of /proc/<pid>/stat (clock ticks after boot); None when there is no such process."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fields = os.read(fd, 4096).rpartition(b")")[2].split()  # the name before it may hold spaces and brackets
    except OSError:
        return None  # it ended between open and read
    finally:
        os.close(fd)
    return None if fields[:1] in ([b"Z"], [b"X"]) else int(fields[19])


def is_stopped(pid: int) -> bool:
    """By SIGSTOP, SIGTSTP or a debugger (the state in /proc/<pid>/stat)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read(4096).rpartition(b")")[2].split()[:1] in ([b"T"], [b"t"])
    except OSError:
        return False


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def identity() -> Identity:
    """Of the calling process."""
    pid = os.getpid()
    return Identity(pid, _start_time(pid) or 0, boot_id(), _pid_namespace())


def is_dead(row: sqlite3.Row, me: Identity, now: float) -> bool:
    """Has the owner of this row of `leases` ended? Its time matters only where that cannot be seen: a process that
    still reads from a slow pipe, or whose clock was put forward, must not lose what it has staged."""
    if row["boot_id"] != me.boot_id:
        return True
    if row["pid_namespace"] != me.pid_namespace or not me.start_time or not row["start_time"]:
        return bool(row["expires"] < now)
    return bool(_start_time(row["pid"]) != row["start_time"])


class Lease:
    """A context manager made by `ContentStore.lease()`: the row and `staging/<id>/` from enter to exit.

    `directory` and `objects` (the flat directory for new objects) exist inside the `with`, and `fd` is open on the
    first: syncfs(2) on a descriptor reports what failed to reach the disk since that was opened, whoever else has been
    told already, so it must be older than everything that is staged. Leaving the `with` removes all that was not
    published. A forked child that leaves it removes nothing: the lease is its parent's.
    """

    def __init__(self, paths: StorePaths, catalogue: Catalogue, purpose: str = "ingest") -> None:
        self.id = os.urandom(8).hex()
        self.purpose = purpose
        self.directory = f"{paths.staging}/{self.id}"
        self.objects = f"{self.directory}/objects"
        self.expires = 0.0
        self.fd = -1
        self._catalogue = catalogue
        self._reserve = Reserve.of(paths)
        self._pid = 0
        self._numbers: Iterator[int] = itertools.count()

    def __enter__(self) -> Self:
        if self.purpose not in HOUSEKEEPING:
            self._reserve.check()
        me = identity()
        now = time.time()
        self.expires = now + LIFETIME
        with self._catalogue.write(durable=False) as connection:
            connection.execute(
                "INSERT INTO leases(id, purpose, pid, start_time, boot_id, pid_namespace, created, expires)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (self.id, self.purpose, *me, now, self.expires),
            )
        self._pid = me.pid
        try:
            # After the row: whoever finds the directory finds the row too, or knows that the directory is garbage.
            os.mkdir(self.directory, 0o700)
            self.fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            os.mkdir(self.objects, 0o700)
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pid == os.getpid():
            self._release()

    def new_path(self, prefix: str) -> str:
        """A path in `directory` that nobody was given before. Safe from several threads."""
        return f"{self.directory}/{prefix}-{next(self._numbers)}"

    def new_directory(self, prefix: str) -> str:
        """A new, empty directory in `directory`. Safe from several threads."""
        path = self.new_path(prefix)
        os.mkdir(path, 0o700)
        return path

    def renew(self) -> None:
        """Starts the lifetime (24 h) again. `StoreError` when somebody has recovered the lease already."""
        self.check_owner()
        expires = time.time() + LIFETIME
        with self._catalogue.write(durable=False) as connection:
            if connection.execute("UPDATE leases SET expires=? WHERE id=?", (expires, self.id)).rowcount != 1:
                raise StoreError(f"lease {self.id}: expired and recovered by another process")
        self.expires = expires

    def check_owner(self) -> None:
        """`StoreError` outside of the `with` and in a forked child."""
        if self._pid != os.getpid():
            raise StoreError(f"lease {self.id}: not held by this process")

    def check_row(self, connection: sqlite3.Connection) -> None:
        """`StoreError` when the row is gone: staging may have been removed by whoever recovered it."""
        if connection.execute("SELECT 1 FROM leases WHERE id=?", (self.id,)).fetchone() is None:
            raise StoreError(f"lease {self.id}: expired and recovered by another process")

    def _release(self) -> None:
        """Never raises: what cannot be removed now is recovered once this process has ended. On a full disk the row
        goes with the help of the reserve: left, it would keep collections of this process from freeing anything."""
        from lazarus._native.publish import remove_tree

        self._pid = 0
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        try:
            remove_tree(self.directory)
            self._reserve.with_room(self._delete_row)
        except (OSError, LazarusError):
            pass

    def _delete_row(self) -> None:
        with self._catalogue.write(durable=False) as connection:
            connection.execute("DELETE FROM leases WHERE id=?", (self.id,))
