"""Relational: MariaDB (InnoDB), killed under load, in a volume and in files of an image."""

from __future__ import annotations

import debian_images
import pytest
from cli_helpers import Command
from debian_images import Recipe
from services import Client, Service, check_kept, kill_when

from lazarus.store import Store

pytestmark = [pytest.mark.root, pytest.mark.workload]

KILLS, COMMITS, WRITERS = 3, 300, 2
HOME = "/var/lib/mysql"
IN_VOLUME = ("-v", f"db:{HOME}")

# The server's log and its data are of the size that its users have; a table of 20 MB is what the load works on.
MARIADB = Recipe(
    "mariadb",
    packages="mariadb-server",
    script=f"""
install -d -o mysql -g mysql /run/mysqld
mariadbd --user=mysql --skip-networking >/tmp/log 2>&1 &
until mariadb-admin --silent ping 2>/dev/null; do sleep 0.1; done
mariadb <<END
CREATE DATABASE bank;
USE bank;
CREATE TABLE kept (writer INT, number INT, PRIMARY KEY (writer, number)) ENGINE=InnoDB;
CREATE TABLE account (id INT PRIMARY KEY, balance INT NOT NULL, note CHAR(100) NOT NULL, KEY (balance)) ENGINE=InnoDB;
INSERT INTO account SELECT seq, 0, md5(seq) FROM seq_1_to_100000;
CREATE TABLE history (account INT NOT NULL, delta INT NOT NULL, KEY (account)) ENGINE=InnoDB;
END
mariadb-admin shutdown
wait
rm /tmp/log
ls {HOME}/bank
""",
)
RUN = ["mariadbd", "--user=mysql", "--skip-networking", "--innodb-checksum-algorithm=full_crc32"]

# Until it is killed with its server: moves something to an account, and writes that down, in one transaction.
LOAD = """
while :; do
    a=$(( (RANDOM * 32768 + RANDOM) % 100000 + 1 ))
    echo "BEGIN; UPDATE account SET balance = balance + 1 WHERE id = $a; INSERT INTO history VALUES ($a, 1); COMMIT;"
done | mariadb bank
"""
SUMS = "SELECT sum(balance) FROM account UNION SELECT count(*) FROM history"


def sql(server: Service, query: str) -> str:
    """What the client prints for it."""
    return server.ask("mariadb", "-N", "-B", "-e", query, "bank")


def client(server: Service, writer: int, last: int) -> Client:
    """Each number in a transaction of its own; the client prints a row when the server has said that it is done."""
    return Client(
        server,
        ["mariadb", "-N", "-B", "--unbuffered", "bank"],
        lambda number: f"INSERT INTO kept VALUES ({writer}, {number}); SELECT {number};",
        last,
    )


@pytest.fixture(scope="module")
def image(store_root: object) -> str:
    with Store(str(store_root)) as store:
        debian_images.load(store, MARIADB)
    return "mariadb:latest"


@pytest.mark.parametrize("options", [IN_VOLUME, ()], ids=["volume", "layer"])
def test_kills_lose_nothing(lazarus: Command, image: str, options: tuple[str, ...]) -> None:
    """In a volume the server goes on in another container each time; in the layer, in the same."""
    ready = ["mariadb-admin", "--silent", "ping"]
    server = Service(lazarus, "server", image, RUN, options=options, ready=ready)
    last = [0] * WRITERS
    server.start()
    assert sql(server, "SELECT @@innodb_flush_log_at_trx_commit, @@innodb_doublewrite").split() == ["1", "1"]
    for _ in range(KILLS):
        for _ in range(2):
            server.load("bash", "-c", LOAD)
        clients = [client(server, writer, last[writer]) for writer in range(WRITERS)]
        kill_when(server, clients, COMMITS)
        if options:
            server.replace()
        server.start()
        for writer, one in enumerate(clients):
            found = sql(server, f"SELECT number FROM kept WHERE writer = {writer}").split()
            last[writer] = check_kept(one, map(int, found))
        assert len(sql(server, SUMS).split()) == 1, "what was moved is what was written down"
        checked = server.ask("mariadb-check", "--all-databases", "--check", "--extended").splitlines()
        assert checked and all(line.endswith("OK") for line in checked), checked
    assert int(sql(server, "SELECT count(*) FROM history")) > 0
    server.stop()
    where = ["-v", f"db:{HOME}", image] if options else ["stopped:latest"]
    if not options:
        lazarus.ok("commit", "--compression", "none", "server", "stopped:latest")
    lazarus.ok("run", "--rm", *where, "sh", "-ec", f"for table in {HOME}/bank/*.ibd; do innochecksum $table; done")
