"""Relational: snapshots of a volume while PostgreSQL and its clients write into it; clones of it that serve."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import debian_images
import pool_helpers
import postgres
import pytest
from cli_helpers import Command
from services import kill_when

from lazarus.store import Store

pytestmark = [pytest.mark.root, pytest.mark.workload]

IMAGE = "postgres:latest"
POOL = 5 << 30
SNAPSHOTS, COMMITS, WRITERS = 3, 100, 2
IN_VOLUME = ("-v", f"db:{postgres.HOME}")


@pytest.fixture(scope="module", params=["plain", "pool"])
def stored(request: pytest.FixtureRequest, store_root: Path) -> Iterator[str]:
    """The image in a store on this file system, then on a pool, where files can be cloned."""
    with Store(store_root) as store:
        debian_images.load(store, postgres.POSTGRES)
        if request.param == "pool":
            pool_helpers.need_pool()
            store.pool.create(POOL)
    yield request.param
    if request.param == "pool":
        with Store(store_root) as store:
            store.pool.destroy(force=True)
        pool_helpers.release(store_root.parent)


def test_under_load(lazarus: Command, stored: str) -> None:
    """Each is of one point in time: what was acknowledged before it is in it, and nothing that was sent after it."""
    server = postgres.server(lazarus, "server", IMAGE, *IN_VOLUME)
    server.start()
    server.load("pgbench", *postgres.LOGIN, "-n", "-c", "4", "-T", "600", "postgres")
    clients = [postgres.client(server, writer) for writer in range(WRITERS)]
    between = []
    for number in range(SNAPSHOTS):
        goal = clients[0].acknowledged + COMMITS
        while clients[0].acknowledged < goal:
            assert clients[0].is_alive(), clients[0].why()
            time.sleep(0.005)
        before = [client.acknowledged for client in clients]
        assert lazarus.ok("volume", "snapshot", "db", f"s{number}") == f"db@s{number}"
        between.append((before, [client.sent for client in clients]))
    kill_when(server, clients, 1)
    for number, (before, after) in enumerate(between):
        lazarus.ok("volume", "clone", f"db@s{number}", f"copy{number}")
        options = ["-v", f"copy{number}:{postgres.HOME}"]
        copy = postgres.server(lazarus, f"server{number}", IMAGE, *options)
        copy.start()
        for writer in range(WRITERS):
            numbers = sorted(postgres.kept(copy, writer))
            assert numbers == list(range(1, len(numbers) + 1))
            assert before[writer] <= len(numbers) <= after[writer]
        postgres.check_books(copy)
        copy.stop()
        postgres.check_stopped(lazarus, IMAGE, *options)
    lazarus.ok("volume", "rollback", "db@s1")
    server.start()
    assert len(postgres.kept(server, 0)) <= between[1][1][0]
    postgres.check_books(server)


@pytest.mark.parametrize("stored", ["pool"], indirect=True)
def test_a_clone_of_a_gigabyte_serves(
    lazarus: Command, stored: str, store_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where files can be cloned: no byte of it is copied."""
    server = postgres.server(lazarus, "server", IMAGE, *IN_VOLUME)
    server.start()
    server.ask("pgbench", *postgres.LOGIN, "-i", "-q", "-s", "65", "postgres", seconds=300)
    accounts = postgres.sql(server, "SELECT count(*), pg_database_size('postgres') > 900000000 FROM pgbench_accounts")
    assert accounts == "6500000|t"
    server.stop()
    with Store(store_root) as store:
        begun = time.perf_counter()
        cost = store.volumes.get("db").clone("copy").cost
        cloned = time.perf_counter() - begun
    assert cost.copied == 0 and cost.shared > 1_000_000_000
    copy = postgres.server(lazarus, "copy", IMAGE, "-v", f"copy:{postgres.HOME}")
    copy.start()
    assert postgres.sql(copy, "SELECT count(*) FROM pgbench_accounts") == "6500000"
    with capsys.disabled():
        print(f"\ncloned {cost.shared:,} bytes of {cost.entries:,} files in {cloned * 1e3:.1f} ms")
