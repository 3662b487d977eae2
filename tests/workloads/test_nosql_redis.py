"""NoSQL: Redis with an append-only file, synced before each answer, killed under load, in a volume and in a layer."""

from __future__ import annotations

import debian_images
import pytest
from cli_helpers import Command
from debian_images import Recipe
from services import Client, Service, check_kept, kill_when

from lazarus.store import Store

pytestmark = [pytest.mark.root, pytest.mark.workload]

KILLS, WRITES, WRITERS = 10, 500, 2
HOME = "/var/lib/redis"
IN_VOLUME = ("-v", f"db:{HOME}")
SETTINGS = "--appendonly yes --appendfsync always --dir /var/lib/redis --unixsocket /tmp/redis --port 0"

# The data are 30,000 keys, 15 MB: the base of the append-only file, which a rewrite under load replaces.
REDIS = Recipe(
    "redis",
    packages="redis-server",
    script=f"""
cd {HOME}
ask() {{ redis-cli -s /tmp/redis "$@"; }}
setpriv --reuid redis --regid redis --clear-groups redis-server {SETTINGS} >/dev/null &
until ask ping 2>/dev/null; do sleep 0.1; done
redis-benchmark -s /tmp/redis -q -t set -r 50000 -n 50000 -d 500 >/dev/null
ask BGREWRITEAOF
while ask INFO persistence | grep -q 'aof_rewrite_\\(in_progress\\|scheduled\\):1'; do sleep 0.1; done
ask SHUTDOWN NOSAVE || true
wait
ls {HOME}/appendonlydir/appendonly.aof.2.base.rdb
""",
)
CLI = ["redis-cli", "-s", "/tmp/redis"]


@pytest.fixture(scope="module")
def image(store_root: object) -> str:
    with Store(str(store_root)) as store:
        debian_images.load(store, REDIS)
    return "redis:latest"


@pytest.mark.parametrize("options", [IN_VOLUME, ()], ids=["volume", "layer"])
def test_kills_lose_nothing(lazarus: Command, image: str, options: tuple[str, ...]) -> None:
    """In a volume the server goes on in another container each time; in the layer, in the same."""
    server = Service(
        lazarus, "server", image, ["redis-server", *SETTINGS.split()],
        options=["--user", "redis", *options], ready=["sh", "-c", f"{' '.join(CLI)} ping | grep -q PONG"],
    )  # fmt: skip
    last = [0] * WRITERS
    server.start()
    before = int(server.ask(*CLI, "DBSIZE"))
    assert before > 10_000
    for _ in range(KILLS):
        server.load(
            "redis-benchmark", "-s", "/tmp/redis", "-q", "-l", "-c", "4", "-t", "set", "-r", "50000", "-d", "500"
        )
        # RPUSH answers the length of the list: the number itself, when none before it is missing
        clients = [
            Client(server, CLI, lambda number, writer=writer: f"RPUSH kept:{writer} {number}", last[writer])  # type: ignore[misc]
            for writer in range(WRITERS)
        ]
        server.ask(*CLI, "BGREWRITEAOF")
        kill_when(server, clients, WRITES)
        if options:
            server.replace()
        server.start()
        for writer, client in enumerate(clients):
            found = server.ask(*CLI, "LRANGE", f"kept:{writer}", "0", "-1").split()
            last[writer] = check_kept(client, map(int, found))
        assert int(server.ask(*CLI, "DBSIZE")) > before, "the load has set keys that were not there"
        manifest = f"{HOME}/appendonlydir/appendonly.aof.manifest"
        assert "is valid" in server.ask("redis-check-aof", manifest)
    assert sum(last) >= KILLS * WRITES * WRITERS
    server.stop()
