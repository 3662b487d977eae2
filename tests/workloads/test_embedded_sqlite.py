"""Embedded: SQLite in WAL mode on 90 MB that come from a lower layer, two writing processes, ten kills.

The log's shared memory is a mapping of a file beside the database, locks are on bytes of both, and the first write
copies the database up while all of them are open.
"""

from __future__ import annotations

import json
from pathlib import Path

import debian_images
import pytest
from cli_helpers import Command
from debian_images import Recipe
from services import Client, Service, check_kept, kill_when

from benchmarks.contenders import databases
from lazarus.store import Store

pytestmark = [pytest.mark.root, pytest.mark.workload]

BANK = "/srv/bank.sqlite"
KILLS, TRANSACTIONS = 10, 10_000
WRITERS = (1, 2)
SQLITE = Recipe(
    "sqlite",
    script="python3 /run/databases.py make-sqlite /srv; ls -l /srv; test ! -e /srv/bank.sqlite-wal",
    files={"/run/databases.py": Path(databases.__file__)},
)


@pytest.fixture(scope="module")
def image(store_root: Path) -> str:
    with Store(store_root) as store:
        found = debian_images.load(store, SQLITE)
        with found.stack() as stack:
            assert stack.stat(BANK).st_size > 89_000_000
    return "sqlite:latest"


def test_ten_kills(lazarus: Command, image: str) -> None:
    program = Path(__file__).with_name("sqlite_client.py")
    service = Service(lazarus, "bank", image, ["sleep", "infinity"], options=["-v", f"{program}:/client.py:ro"])
    last = dict.fromkeys(WRITERS, 0)
    service.start()
    for _ in range(KILLS):
        clients = {
            writer: Client(service, ["python3", "/client.py", "write", BANK, str(writer)], str, last[writer])
            for writer in WRITERS
        }
        kill_when(service, list(clients.values()), TRANSACTIONS // KILLS // len(WRITERS))
        service.start()
        found = json.loads(service.ask("python3", "/client.py", "check", BANK))
        assert (found["integrity"], found["mode"]) == ("ok", "wal")
        assert found["sums"] == [len(found["kept"])] * 2
        for writer, client in clients.items():
            last[writer] = check_kept(client, [number for by, number in found["kept"] if by == writer])
    assert sum(last.values()) >= TRANSACTIONS
    assert f"C {BANK}" in lazarus.ok("diff", "bank").splitlines()
