"""The catalogue: versions, damage, transactions, threads, forks."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lazarus.content import schema
from lazarus.content.catalogue import Catalogue, translate
from lazarus.errors import StoreError

ROW = "INSERT INTO blobs(digest, size, created) VALUES (?, 1, 0)"


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return Catalogue(str(tmp_path / "lazarus.db"), create=True)


def _blobs(catalogue: Catalogue) -> list[str]:
    return [row["digest"] for row in catalogue.read().execute("SELECT digest FROM blobs ORDER BY digest")]


def test_settings_are_those_of_the_design(catalogue: Catalogue) -> None:
    settings = {
        name: catalogue.read().execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "user_version")
    }
    assert settings == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 60_000,
        "user_version": schema.VERSION,
    }


def test_a_transaction_is_all_or_nothing(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        connection.execute(ROW, ("a",))
    with pytest.raises(ZeroDivisionError), catalogue.write() as connection:
        connection.execute(ROW, ("b",))
        1 / 0  # noqa: B018
    with pytest.raises(sqlite3.IntegrityError), catalogue.write() as connection:
        connection.execute(ROW, ("c",))
        connection.execute(ROW, ("a",))
    assert _blobs(catalogue) == ["a"]


def test_a_refused_commit_rolls_back(catalogue: Catalogue) -> None:
    """Foreign keys of images are checked at COMMIT."""
    with pytest.raises(sqlite3.IntegrityError), catalogue.write() as connection:
        connection.execute("INSERT INTO names VALUES ('a:b', 'no such image', 0)")
    with catalogue.write() as connection:
        assert connection.execute("SELECT count(*) FROM names").fetchone()[0] == 0


def test_a_commit_that_is_not_durable_leaves_the_next_one_durable(catalogue: Catalogue) -> None:
    with catalogue.write(durable=False) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 1
        connection.execute(ROW, ("a",))
    assert catalogue.read().execute("PRAGMA synchronous").fetchone()[0] == 2
    with pytest.raises(ZeroDivisionError), catalogue.write(durable=False):
        1 / 0  # noqa: B018
    assert catalogue.read().execute("PRAGMA synchronous").fetchone()[0] == 2


def test_a_thread_sees_only_what_is_committed(catalogue: Catalogue) -> None:
    seen: list[list[str]] = []
    with catalogue.write() as connection:
        connection.execute(ROW, ("a",))
        thread = threading.Thread(target=lambda: seen.append(_blobs(catalogue)))
        thread.start()
        thread.join()
    assert seen == [[]]
    assert _blobs(catalogue) == ["a"]


def test_writers_wait_for_one_another(catalogue: Catalogue) -> None:
    def add() -> None:
        for _ in range(50):
            with catalogue.write(durable=False) as connection:
                count = connection.execute("SELECT count(*) FROM blobs").fetchone()[0]
                connection.execute(ROW, (f"{count:04}",))  # unique only when nobody else is between the two

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _blobs(catalogue) == [f"{number:04}" for number in range(200)]


def test_an_interrupt_while_it_waits_for_another_writer(catalogue: Catalogue) -> None:
    """It comes when the lock is there, and leaves no transaction behind."""
    waiter, held = threading.get_ident(), threading.Event()

    def hold() -> None:
        with catalogue.write():
            held.set()
            while sys._current_frames()[waiter].f_code is not execute:
                time.sleep(0.001)
            signal.pthread_kill(waiter, signal.SIGINT)

    execute = type(catalogue.read()).execute.__code__
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    with pytest.raises(KeyboardInterrupt), catalogue.write():
        pass
    holder.join()
    assert not catalogue.read().in_transaction
    with catalogue.write() as connection:
        connection.execute(ROW, ("a",))


def test_a_forked_child_has_its_own_connection(catalogue: Catalogue) -> None:
    mine = catalogue.read()
    child = os.fork()
    if child == 0:
        try:
            assert catalogue.read() is not mine
            with catalogue.write() as connection:
                connection.execute(ROW, ("child",))
            catalogue.close()
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert _blobs(catalogue) == ["child"]
    assert catalogue.read() is mine


def test_processes_that_create_at_once_get_one_catalogue(tmp_path: Path) -> None:
    path = str(tmp_path / "lazarus.db")
    children = []
    for _ in range(6):
        child = os.fork()
        if child == 0:
            try:
                made = Catalogue(path, create=True)
                with made.write() as connection:
                    connection.execute(ROW, (str(os.getpid()),))
                os._exit(0)
            except BaseException as error:
                os.write(2, f"{error!r}\n".encode())
                os._exit(1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 6
    assert set(_blobs(Catalogue(path))) == {str(child) for child in children}


def test_a_newer_schema_is_named(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        connection.execute(f"PRAGMA user_version={schema.VERSION + 1}")
    catalogue.close()
    with pytest.raises(StoreError, match=rf"schema version {schema.VERSION + 1}, .* up to {schema.VERSION}"):
        Catalogue(catalogue.path, create=True)


def test_an_older_schema_is_named(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        connection.execute(f"PRAGMA user_version={schema.VERSION - 1}")
    catalogue.close()
    with pytest.raises(StoreError, match=rf"schema version {schema.VERSION - 1}, .* version {schema.VERSION} alone"):
        Catalogue(catalogue.path, create=True)


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "lazarus.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (a)")
    other.commit()
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not the catalogue of a Lazarus store"):
        Catalogue(str(path), create=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", [b"not a database at all " * 100, b""], ids=["text", "empty"])
def test_a_file_that_is_no_database(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "lazarus.db"
    path.write_bytes(damage)
    with pytest.raises(StoreError, match=r"lazarus\.db: ") as caught:
        Catalogue(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_no_more_room_is_told_from_a_broken_disk(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """SQLite says the same of both."""
    for said in (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_CANTOPEN):
        error = sqlite3.OperationalError("something")
        error.sqlite_errorcode = said
        found = translate(error, catalogue.path)
        assert isinstance(found, StoreError if said == sqlite3.SQLITE_CANTOPEN else OSError)
        assert not isinstance(found, OSError) or found.errno == errno.EIO
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", _refuse(code))
            found = translate(error, catalogue.path)
        assert isinstance(found, OSError) and (found.errno, found.filename) == (code, catalogue.path)


def _refuse(code: int) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


def test_a_flipped_page_is_an_error_of_ours(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        connection.executemany(ROW, [(f"{number:0200}",) for number in range(500)])
    catalogue.close()
    with open(catalogue.path, "r+b") as file:
        for page in range(1, os.fstat(file.fileno()).st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 64)
    with pytest.raises(StoreError, match="the catalogue is damaged"):
        _blobs(Catalogue(catalogue.path))
