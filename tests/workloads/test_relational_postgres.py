"""Relational: PostgreSQL 15 with data checksums, killed under pgbench, in a volume and in files of an image."""

from __future__ import annotations

from pathlib import Path

import debian_images
import postgres
import pytest
from cli_helpers import Command
from services import kill_when

from lazarus.store import Store

pytestmark = [pytest.mark.root, pytest.mark.workload]

KILLS, COMMITS, WRITERS = 3, 300, 2
IN_VOLUME = ("-v", f"db:{postgres.HOME}")


@pytest.fixture(scope="module")
def image(store_root: Path) -> str:
    with Store(store_root) as store:
        debian_images.load(store, postgres.POSTGRES)
    return "postgres:latest"


@pytest.mark.parametrize("options", [IN_VOLUME, ()], ids=["volume", "layer"])
def test_kills_lose_nothing(lazarus: Command, image: str, options: tuple[str, ...]) -> None:
    """In a volume the server goes on in another container each time; in the layer, in the same."""
    server = postgres.server(lazarus, "server", image, *options)
    last = [0] * WRITERS
    server.start()
    assert postgres.sql(server, "SHOW data_checksums") == "on"
    for _ in range(KILLS):
        server.load("pgbench", *postgres.LOGIN, "-n", "-c", "4", "-T", "600", "postgres")
        clients = [postgres.client(server, writer, last[writer]) for writer in range(WRITERS)]
        kill_when(server, clients, COMMITS)
        if options:
            server.replace()
        server.start()
        last = postgres.check_running(server, clients)
    server.stop()
    if options:
        postgres.check_stopped(lazarus, image, *options)
    else:
        lazarus.ok("commit", "--compression", "none", "server", "stopped:latest")
        postgres.check_stopped(lazarus, "stopped:latest")
