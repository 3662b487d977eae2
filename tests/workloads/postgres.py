"""PostgreSQL 15 of Debian in a container: its image, its server, and when its data are whole."""

from __future__ import annotations

from collections.abc import Sequence

from cli_helpers import Command
from debian_images import Recipe
from services import Client, Service, check_kept

HOME = "/var/lib/postgresql"
DATA = f"{HOME}/data"
SCALE = 5  # of pgbench: 500,000 rows, 75 MB
LOGIN = ("-h", "/tmp", "-U", "postgres")

# The package's own cluster makes way for one with checksums. Its log may take 64 MB, so it is checkpointed under load.
POSTGRES = Recipe(
    "postgres",
    packages="postgresql-15",
    script=f"""
ln -sf /usr/lib/postgresql/15/bin/* /usr/local/bin
rm -rf {HOME}/15 /etc/postgresql/15
as() {{ setpriv --reuid postgres --regid postgres --clear-groups "$@"; }}
cd {HOME}
as initdb -D {DATA} --data-checksums --no-sync --locale=C.UTF-8 -A trust
cat >>{DATA}/postgresql.conf <<END
listen_addresses = ''
unix_socket_directories = '/tmp'
shared_buffers = '32MB'
min_wal_size = '32MB'
max_wal_size = '64MB'
END
as pg_ctl -D {DATA} -w -l /tmp/log start
as pgbench -h /tmp -q -i -s {SCALE} postgres
as psql -h /tmp -qc 'CREATE EXTENSION amcheck; CREATE TABLE kept (writer int, number int, PRIMARY KEY (writer, number))'
as pg_ctl -D {DATA} -w stop
rm -f /tmp/log
""",
)
RUN = ["postgres", "-D", DATA]
AS_POSTGRES = ["--user", "postgres"]

# pgbench's transactions add the same to an account, a teller, a branch and the history.
SUMS = " UNION ".join(
    f"SELECT coalesce(sum({column}), 0) FROM pgbench_{table}"
    for table, column in {
        "accounts": "abalance",
        "tellers": "tbalance",
        "branches": "bbalance",
        "history": "delta",
    }.items()
)


def server(lazarus: Command, name: str, image: str, *options: str) -> Service:
    """A container with a server, which does not run yet. SIGINT is its fast stop."""
    return Service(
        lazarus,
        name,
        image,
        RUN,
        options=[*AS_POSTGRES, "--stop-signal", "INT", *options],
        ready=["pg_isready", "-q", *LOGIN],
    )


def sql(service: Service, query: str) -> str:
    """What psql prints for it."""
    return service.ask("psql", "-XqAt", *LOGIN, "-c", query, "postgres")


def client(service: Service, writer: int, last: int = 0) -> Client:
    """Each number in a transaction of its own; psql prints a row when the server has said that it is committed."""
    return Client(
        service,
        ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", *LOGIN, "postgres"],
        lambda number: f"INSERT INTO kept VALUES ({writer}, {number}) RETURNING number;",
        last,
    )


def kept(service: Service, writer: int) -> list[int]:
    """The numbers of a writer that are there."""
    return [int(line) for line in sql(service, f"SELECT number FROM kept WHERE writer = {writer}").split()]


def check_running(service: Service, clients: Sequence[Client]) -> list[int]:
    """Writers 0, 1, ... find what they were told, and all is whole; the last number of each writer."""
    last = [check_kept(one, kept(service, writer)) for writer, one in enumerate(clients)]
    check_books(service)
    return last


def check_books(service: Service) -> None:
    """pgbench's books balance; tables and indexes agree, to the last row."""
    assert len(sql(service, SUMS).split()) == 1 and int(sql(service, "SELECT count(*) FROM pgbench_history")) > 0
    assert service.ask("pg_amcheck", *LOGIN, "--heapallindexed", "--parent-check", "postgres") == ""


def check_stopped(lazarus: Command, image: str, *options: str) -> None:
    """Every page has its checksum, of a server that was stopped."""
    said = lazarus.ok("run", "--rm", *AS_POSTGRES, *options, image, "pg_checksums", "--check", "-D", DATA)
    assert "Bad checksums:  0" in said and "Data checksum version: 1" in said
