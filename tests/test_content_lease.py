"""Leases: whose they are, and when anyone may clean up after them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_helpers import ingest, layer_tar

from lazarus.content import lease as leases
from lazarus.errors import StoreError
from lazarus.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


def _names(store: Store) -> list[str]:
    return os.listdir(store.paths.staging)


def _rows(store: Store) -> int:
    count: int = store.catalogue.read().execute("SELECT count(*) FROM leases").fetchone()[0]
    return count


def test_a_lease_lasts_as_long_as_its_block(store: Store) -> None:
    with store.content.lease() as lease:
        assert os.path.isdir(lease.objects)
        assert os.stat(lease.directory).st_mode & 0o777 == 0o700
        ingest(store, lease, layer_tar("a"))
        assert _names(store) == [lease.id] and _rows(store) == 1
        assert store.content.recover() is False
        with Store(store.paths.root):
            assert _names(store) == [lease.id] and _rows(store) == 1
    assert _names(store) == [] and _rows(store) == 0


def test_an_exception_removes_it_too(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.content.lease() as lease:
        ingest(store, lease, layer_tar("a"))
        1 / 0  # noqa: B018
    assert _names(store) == [] and _rows(store) == 0


def test_paths_are_given_once(store: Store) -> None:
    with store.content.lease() as lease:
        paths = [lease.new_path("x") for _ in range(10)] + [lease.new_directory("x") for _ in range(10)]
        assert len(set(paths)) == 20


def test_a_forked_child_does_not_end_its_parents_lease(store: Store) -> None:
    with store.content.lease() as lease:
        child = os.fork()
        if child == 0:
            try:
                with pytest.raises(StoreError, match="not held by this process"):
                    store.content.publish(lease)
                lease.__exit__(None, None, None)
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert _names(store) == [lease.id] and _rows(store) == 1
        store.content.publish(lease)


def test_a_killed_owner_is_cleaned_up_by_the_next_open(store: Store) -> None:
    script = (
        "import sys; from lazarus.store import Store\n"
        f"lease = Store({store.paths.root!r}).content.lease()\n"
        "lease.__enter__(); open(lease.directory + '/x', 'w'); print(lease.id, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    Store(store.paths.root).close()
    assert _names(store) == [name]  # alive: left alone
    process.send_signal(signal.SIGKILL)
    process.communicate()
    Store(store.paths.root).close()
    assert _names(store) == [] and _rows(store) == 0


@pytest.mark.parametrize(
    ("column", "value", "dead"),
    [
        ("pid", 2**22 + 1, True),  # over the kernel's largest: no such process
        ("start_time", 1, True),  # the pid was given to another process
        ("boot_id", "another boot", True),
        ("expires", 1.0, False),  # its owner can be seen to live
        ("pid_namespace", "pid:[1]", False),  # it may be alive where we cannot look
        ("start_time", 0, False),  # its owner had no /proc
        ("expires=1, pid_namespace", "pid:[1]", True),
        ("expires=1, start_time", 0, True),
    ],
)
def test_who_is_dead(store: Store, column: str, value: object, dead: bool) -> None:
    with store.content.lease() as lease:
        with store.catalogue.write() as connection:
            connection.execute(f"UPDATE leases SET {column}=?", (value,))
        assert store.content.recover() is dead
        assert _names(store) == ([] if dead else [lease.id])
        if dead:
            with pytest.raises(StoreError, match="recovered by another process"):
                lease.renew()


def test_publish_under_a_lease_that_was_recovered_is_refused(store: Store) -> None:
    with store.content.lease() as lease:
        staged = ingest(store, lease, layer_tar("a"))
        with store.catalogue.write() as connection:
            connection.execute("DELETE FROM leases")
        with pytest.raises(StoreError, match="recovered by another process"):
            store.content.publish(lease, layers=[staged])
    assert not store.layers.has(staged.diff_id)


def test_renewal_moves_the_expiry(store: Store) -> None:
    with store.content.lease() as lease:
        with store.catalogue.write() as connection:
            connection.execute("UPDATE leases SET expires=?", (time.time() + 1,))
        lease.renew()
        assert lease.expires > time.time() + leases.LIFETIME - 60
        row = store.catalogue.read().execute("SELECT expires FROM leases").fetchone()
        assert row[0] == lease.expires


def test_staging_without_a_row_is_garbage(store: Store) -> None:
    os.makedirs(f"{store.paths.staging}/0123456789abcdef/objects/deep/er")
    os.mkdir(f"{store.paths.trash}/0123456789abcdef")
    Store(store.paths.root).close()
    assert _names(store) == [] and os.listdir(store.paths.trash) == []


def test_a_zombie_is_dead() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert leases._start_time(child) is None
    os.waitpid(child, 0)
    assert leases._start_time(os.getpid()) == leases.identity().start_time
