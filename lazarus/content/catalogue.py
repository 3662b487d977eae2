"""The catalogue: one SQLite database in WAL mode, shared by any number of processes and threads.

A connection belongs to one thread of one process: a thread never sees rows that another has not committed, and a forked
child never touches its parent's connections.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from _thread import get_ident
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from lazarus.content import schema
from lazarus.content.reserve import Reserve
from lazarus.errors import FULL, StoreError

BUSY_SECONDS = 60.0
_HOLES = 256 * 1024  # bytes: more than SQLite's shared memory file takes


def translate(error: sqlite3.Error, path: str) -> Exception:
    """What to raise for an error of SQLite: `OSError` where the operating system is at fault, else `StoreError`."""
    code = getattr(error, "sqlite_errorcode", 0)
    primary = code & 0xFF
    full = 0
    if primary == sqlite3.SQLITE_FULL:
        full = errno.ENOSPC
    elif primary in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        full = _refused(path, _HOLES)
    if full:
        return OSError(full, os.strerror(full), path)
    if primary in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return StoreError(f"{path}: the catalogue is damaged: {error}")
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreError(f"{path}: another process has held the write lock for {BUSY_SECONDS:.0f} s")
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return OSError(errno.EACCES, f"{os.strerror(errno.EACCES)} ({error})", path)
    if primary == sqlite3.SQLITE_IOERR:
        return OSError(errno.EIO, f"{os.strerror(errno.EIO)} ({error})", path)
    return StoreError(f"{path}: {error}")


def _refused(path: str, size: int) -> int:
    """ENOSPC or EDQUOT when there is no room beside `path` for a file of `size` bytes, else 0.

    SQLite does not say so: a full disk that is met while it grows its shared memory file, and a quota anywhere, is a
    "disk I/O error", and a log that gets no inode an "unable to open database file".
    """
    directory = os.path.dirname(path)
    try:
        status = os.statvfs(directory)
        is_full = status.f_bavail * status.f_frsize < size and os.geteuid() != 0  # what is kept for root counts for it
        if is_full or (status.f_files > 0 and status.f_ffree == 0):
            return errno.ENOSPC
        fd = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)  # only this shows a quota
        try:
            os.posix_fallocate(fd, 0, size)
        finally:
            os.close(fd)
    except OSError as error:
        return error.errno if error.errno in FULL else 0
    return 0


def _leaves_holes(path: str) -> bool:
    """SQLite maps its shared memory file (32 KiB) after writing a byte to each page of it. Where blocks are smaller
    than pages that leaves holes, and on a full disk the first touch of a hole kills the process with SIGBUS. So there
    we want room for all of it before it is mapped, keep other processes from taking that room for their reserve
    meanwhile, and have it allocated after."""
    try:
        return os.statvfs(os.path.dirname(path)).f_bsize < 4096
    except OSError:
        return False  # what follows says it better


def _check_room_for_holes(path: str) -> None:
    """`OSError` ENOSPC when there is none. Asked, not tried, for others need the room that a trial takes; but by root,
    where there is room that is kept for it, and nothing says whether this root may have that."""
    status = os.statvfs(os.path.dirname(path))
    if status.f_bavail * status.f_frsize >= _HOLES:
        return
    may_try = os.geteuid() == 0 and status.f_bfree * status.f_frsize >= 2 * _HOLES
    if not may_try or _refused(path, _HOLES):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def _fill_holes(path: str) -> None:
    """Through SQLite's own descriptor: closing one of ours would release its locks on the file."""
    wanted = os.stat(path)
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor of listdir itself
            status = os.stat(f"/proc/self/fd/{name}")
            if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
                os.posix_fallocate(int(name), 0, wanted.st_size)
                return


class _Connection(sqlite3.Connection):
    """Errors of SQLite as ours, but for IntegrityError: that one is an answer, which the caller interprets."""

    path = ""

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        try:
            return super().execute(*arguments)
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise translate(error, self.path) from error

    def executemany(self, *arguments: Any) -> sqlite3.Cursor:
        try:
            return super().executemany(*arguments)
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise translate(error, self.path) from error


class Write:
    """One write transaction: BEGIN IMMEDIATE, then COMMIT, or ROLLBACK when the body raises."""

    __slots__ = ("_connection", "_durable")

    def __init__(self, connection: sqlite3.Connection, durable: bool) -> None:
        self._connection = connection
        self._durable = durable

    def __enter__(self) -> sqlite3.Connection:
        if not self._durable:
            self._connection.execute("PRAGMA synchronous=NORMAL")
        inside = self._connection.in_transaction  # a mistake of the caller's, which stays in its own
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except BaseException:
            if self._connection.in_transaction and not inside:  # an interrupt came while it waited for others
                self._connection.execute("ROLLBACK")
            self._restore()
            raise
        return self._connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            # Open still: the body raised, or COMMIT was refused. SQLite ends it by itself after some errors.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._restore()

    def _restore(self) -> None:
        if not self._durable:
            self._connection.execute("PRAGMA synchronous=FULL")


class Catalogue:
    """`with catalogue.write() as connection` for changes, `catalogue.read()` for a connection to ask.

    Rows are `sqlite3.Row`. Opening one that exists costs about 0.4 ms.
    """

    def __init__(
        self,
        path: str,
        *,
        create: bool = False,
        prepare: Callable[[], None] | None = None,
        reserve: Reserve | None = None,
    ) -> None:
        """Opens the database at `path`. With `create`, an empty or missing one gets its tables; `prepare` is called in
        that transaction, so that whatever it makes exists once the schema version is there. On a full disk, pieces of
        `reserve` make room for the files that SQLite needs beside an open database.

        Raises `StoreError` for another schema, a database that is not ours or is damaged; `OSError` otherwise.
        """
        self.path = path
        self._reserve = reserve
        self._pid = os.getpid()
        self._connections: dict[int, _Connection] = {}
        self._inherited: list[dict[int, _Connection]] = []
        try:
            self._check_version(create, prepare)
        except BaseException:
            self.close()
            raise

    def read(self) -> sqlite3.Connection:
        """This thread's connection, outside of any transaction unless the thread is inside `write()`."""
        if self._pid != os.getpid():
            # Forked. SQLite forbids using, and even closing, the parent's connections here: keep them, untouched.
            self._inherited.append(self._connections)
            self._connections = {}
            self._pid = os.getpid()
        thread = get_ident()
        connection = self._connections.get(thread)
        if connection is None:
            connection = self._connections[thread] = self._connect()
        return connection

    def write(self, *, durable: bool = True) -> Write:
        """A write transaction; one at a time in the whole store, the others wait up to 60 s (then `StoreError`).

        `durable=False` commits without an fsync: the change may be lost in a power cut (with every later one that is
        not durable either), but never the order of changes. About 20 us instead of an fsync.
        """
        return Write(self.read(), durable)

    def close(self) -> None:
        """Closes the connections of all threads. Idempotent."""
        if self._pid != os.getpid():
            return
        while self._connections:
            self._connections.popitem()[1].close()

    def _connect(self) -> _Connection:
        if self._reserve is None:
            return self._open(_leaves_holes(self.path))
        if not _leaves_holes(self.path):
            return self._reserve.with_room(lambda: self._open(False))
        with self._reserve.left_as_it_is():
            return self._reserve.with_room(lambda: self._open(True))

    def _open(self, holes: bool) -> _Connection:
        if holes:
            _check_room_for_holes(self.path)
        try:
            connection = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, factory=_Connection
            )
        except sqlite3.Error as error:
            raise translate(error, self.path) from error
        connection.path = self.path
        connection.row_factory = sqlite3.Row
        try:
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA synchronous=FULL")
            if holes and os.path.exists(f"{self.path}-shm"):
                _fill_holes(f"{self.path}-shm")
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_version(self, create: bool, prepare: Callable[[], None] | None) -> None:
        version = self._version()
        if version == 0 and create:
            self._create(prepare)
            version = self._version()
        if version > schema.VERSION:
            raise StoreError(
                f"{self.path}: schema version {version}, this program knows versions up to {schema.VERSION}; "
                "use a newer lazarus"
            )
        if 0 < version < schema.VERSION and self._pragma("application_id") == schema.APPLICATION_ID:
            raise StoreError(
                f"{self.path}: schema version {version}, this program knows version {schema.VERSION} alone; save its"
                " images with the lazarus that made it, and load them into a new store"
            )
        if version != schema.VERSION or self._pragma("application_id") != schema.APPLICATION_ID:
            raise StoreError(f"{self.path}: not the catalogue of a Lazarus store")

    def _version(self) -> int:
        return self._pragma("user_version")

    def _pragma(self, name: str) -> int:
        return int(self.read().execute(f"PRAGMA {name}").fetchone()[0])

    def _create(self, prepare: Callable[[], None] | None) -> None:
        """Several processes may come here at once: the first makes the tables, the others wait for it."""
        if self.read().execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] and self._version() == 0:
            return  # somebody else's database
        self._use_wal()
        with self.write() as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] != 0:
                return
            for statement in schema.TABLES:
                connection.execute(statement)
            if prepare is not None:
                prepare()
            connection.execute(f"PRAGMA application_id={schema.APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={schema.VERSION}")

    def _use_wal(self) -> None:
        """Switching the journal needs the database alone, and does not wait for it."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self.read().execute("PRAGMA journal_mode=WAL")
                return
            except StoreError as error:
                busy = isinstance(error.__cause__, sqlite3.OperationalError) and "lock" in str(error.__cause__)
                if not busy or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
