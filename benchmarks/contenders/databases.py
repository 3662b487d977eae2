"""usage: databases.py make-sqlite DIRECTORY
       databases.py make-postgres DIRECTORY [SCALE]
       databases.py sqlite DIRECTORY TRANSACTIONS
       databases.py postgres DIRECTORY SECONDS
       databases.py postgres-first DIRECTORY SECONDS
       databases.py postgres-answer DIRECTORY

A database in a directory, made once, and what its users do with it, with the clock in it: prints the seconds of each
phase and the transactions per second, as JSON. Those of PostgreSQL want root, and run in namespaces of their own
(`ALONE`, or a container): their server ends with them, however they end.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROWS = 197_000  # of SQLite: 90 MB
SCALE = 10  # of pgbench: 1,000,000 rows; 190 MB with the catalogues and the log
BIN = Path("/usr/lib/postgresql/15/bin")
SOCKET = "@lazarus-bench"  # an abstract one, which has no file; it belongs to a network namespace

# The words before a command that ends its children with it. A shell is its process 1, as in harness/run.py. What the
# kernel keeps of a killed server's shared memory goes with the IPC namespace.
ALONE = (
    *("unshare", "--mount", "--propagation", "private", "--ipc", "--net", "--pid", "--fork", "--kill-child"),
    *("--mount-proc", "sh", "-c", '"$@"; exit $?', "sh"),
)

SETTINGS = {
    "listen_addresses": "",
    "unix_socket_directories": SOCKET,
    "dynamic_shared_memory_type": "sysv",
    "shared_buffers": "32MB",
    "max_connections": "20",
    "autovacuum": "off",  # it would come in some turns and not in others
}


def why_no_postgres() -> str | None:
    """What PostgreSQL 15 of Debian lacks here; None when it can run."""
    if not (BIN / "postgres").exists():
        return f"PostgreSQL 15 is not installed: there is no {BIN}"
    try:
        home = pwd.getpwnam("postgres").pw_dir
    except KeyError:
        return "there is no user postgres"
    return None if os.path.isdir(home) else f"the user postgres has no {home}"


def make_sqlite(directory: Path) -> None:
    """A table with accounts in WAL mode, and an empty one for what happens to them."""
    chance = random.Random(1)
    with contextlib.closing(sqlite3.connect(directory / "bank.sqlite", isolation_level=None)) as bank:
        bank.execute("PRAGMA journal_mode = WAL")
        bank.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, note BLOB NOT NULL)")
        bank.execute("CREATE TABLE history (account INTEGER NOT NULL, change INTEGER NOT NULL, note BLOB NOT NULL)")
        bank.execute("BEGIN")
        bank.executemany(
            "INSERT INTO account VALUES (?, 0, ?)", ((number, chance.randbytes(430)) for number in range(ROWS))
        )
        bank.execute("COMMIT")


def sqlite(directory: Path, count: int) -> dict[str, Any]:
    """`count` transactions, each durable before the next begins; the database must be whole afterwards."""
    path = directory / "bank.sqlite"
    chance = random.Random(count)
    keys = [chance.randrange(ROWS) for _ in range(count)]
    note = chance.randbytes(100)

    def transact(key: int) -> None:
        bank.execute("BEGIN IMMEDIATE")
        bank.execute("UPDATE account SET balance = balance + 1 WHERE id = ?", (key,))
        bank.execute("INSERT INTO history VALUES (?, 1, ?)", (key, note))
        bank.execute("COMMIT")

    begun = time.perf_counter()
    bank = sqlite3.connect(path, isolation_level=None)
    bank.execute("PRAGMA synchronous = FULL")
    transact(keys[0])
    first = time.perf_counter()
    for key in keys[1:]:
        transact(key)
    done = time.perf_counter()
    bank.close()  # and with it the log goes into the database
    closed = time.perf_counter()

    with contextlib.closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as bank:
        found = bank.execute("PRAGMA integrity_check").fetchone()[0]
        sums = bank.execute("SELECT (SELECT sum(balance) FROM account), (SELECT count(*) FROM history)").fetchone()
    if found != "ok" or sums != (count, count):
        raise RuntimeError(f"integrity_check: {found}; {sums} transactions of {count} are there")
    return {
        "seconds": {"first transaction": first - begun, "checkpoint and close": closed - done},
        "rate": (count - 1) / (done - first),
    }


class Cluster:
    """A cluster in `directory`/data, as its server and clients see it: below the home of the user postgres, whatever
    the modes of the directories above are. So it is in a container, and nobody else sees the mount."""

    def __init__(self, directory: Path) -> None:
        self.home = Path(pwd.getpwnam("postgres").pw_dir)
        self.data = self.home / "data"
        if directory != self.home:  # in a container it is mounted there
            subprocess.run(["mount", "--bind", str(directory), str(self.home)], check=True)

    def command(self, name: str, *words: str) -> str:
        """What one of PostgreSQL's programs prints."""
        command = [str(BIN / name), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, **self._as_postgres)
        if done.returncode != 0:
            raise RuntimeError(f"{name}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")
        return done.stdout

    @contextlib.contextmanager
    def server(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """A server that answers. Who does not stop() it ends it at once.

        Not by pg_ctl, which looks ten times a second whether it is up, and whether it is gone.
        """
        with tempfile.TemporaryFile() as log:
            words = [str(BIN / "postgres"), "-D", str(self.data), *options]
            with subprocess.Popen(words, stdout=log, stderr=log, **self._as_postgres) as process:
                try:
                    while not self._is_ready():
                        if process.poll() is not None:
                            log.seek(0)
                            raise RuntimeError(f"postgres: {log.read().decode(errors='replace').strip()[-300:]}")
                        time.sleep(0.001)
                    yield process
                finally:
                    if process.poll() is None:
                        process.send_signal(signal.SIGQUIT)

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Writes back what it has, and ends."""
        process.send_signal(signal.SIGINT)
        if process.wait() != 0:
            raise RuntimeError(f"postgres: exit {process.returncode} when it was stopped")

    def bench(self, *words: str) -> str:
        """pgbench."""
        return self.command("pgbench", "-h", SOCKET, "-n", *words, "postgres")

    def _is_ready(self) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"  # LOCK_FILE_LINE_PM_STATUS of pidfile.h

    @property
    def _as_postgres(self) -> dict[str, Any]:
        return {"user": "postgres", "group": "postgres", "extra_groups": (), "cwd": self.home}


def make_postgres(directory: Path, scale: int = SCALE) -> None:
    """A cluster with pgbench's tables."""
    cluster = Cluster(directory)
    cluster.data.mkdir(0o700)
    user = pwd.getpwnam("postgres")
    os.chown(cluster.data, user.pw_uid, user.pw_gid)
    cluster.command("initdb", "-D", str(cluster.data), "-A", "trust", "--data-checksums", "--no-sync", "--locale=C")
    with open(cluster.data / "postgresql.conf", "a") as settings:
        settings.writelines(f"{name} = '{value}'\n" for name, value in SETTINGS.items())
    # So that what lies in the lower is tables, and not the log of their making.
    quietly = ("fsync=off", "wal_level=minimal", "max_wal_senders=0", "min_wal_size=32MB")
    with cluster.server(*(f"--{setting}" for setting in quietly)) as process:
        cluster.command("pgbench", "-h", SOCKET, "-i", "-q", "-s", str(scale), "postgres")
        cluster.stop(process)


def postgres(directory: Path, seconds: int) -> dict[str, Any]:
    """A server's life: start, one transaction, `seconds` with two clients, stop. Every page must be whole afterwards,
    by its checksum."""
    cluster = Cluster(directory)
    begun = time.perf_counter()
    with cluster.server() as process:
        started = time.perf_counter()
        cluster.bench("-t", "1")
        first = time.perf_counter()
        said = cluster.bench("-c", "2", "-j", "1", "-T", str(seconds))
        stopping = time.perf_counter()
        cluster.stop(process)
        stopped = time.perf_counter()
    cluster.command("pg_checksums", "--check", "-D", str(cluster.data))
    return {
        "seconds": {"start": started - begun, "first transaction": first - started, "stop": stopped - stopping},
        "rate": _number("tps = ", said),
    }


def postgres_first(directory: Path, seconds: int) -> dict[str, Any]:
    """The first `seconds` of a server, from before its start, with two clients: whatever it waits for is in them."""
    cluster = Cluster(directory)
    begun = time.perf_counter()
    with cluster.server() as process:
        started = time.perf_counter()
        said = cluster.bench("-c", "2", "-j", "1", "-T", str(max(1, round(begun + seconds - started))))
        ended = time.perf_counter()
        cluster.stop(process)
    cluster.command("pg_checksums", "--check", "-D", str(cluster.data))
    count = _number("number of transactions actually processed: ", said)
    return {"seconds": {"start": started - begun}, "rate": count / (ended - begun)}


def postgres_answer(directory: Path) -> dict[str, Any]:
    """Starts a server and has one transaction done; `answered` is when, by the clock of `time.perf_counter()`, which is
    that of all processes."""
    cluster = Cluster(directory)
    begun = time.perf_counter()
    with cluster.server() as process:
        started = time.perf_counter()
        cluster.bench("-t", "1")
        answered = time.perf_counter()
        cluster.stop(process)
    return {"seconds": {"start": started - begun, "first transaction": answered - started}, "answered": answered}


def _number(words: str, said: str) -> float:
    """What stands after these words at the beginning of a line of pgbench."""
    found = re.search(rf"^{words}([\d.]+)", said, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"pgbench: {said.strip()[-300:]}")
    return float(found[1])


def main(words: list[str]) -> None:
    """One of them."""
    name, directory, *amount = words
    works = {"sqlite": sqlite, "postgres": postgres, "postgres-first": postgres_first}
    makes = {"make-sqlite": make_sqlite, "make-postgres": make_postgres}
    if name in makes:
        makes[name](Path(directory), *map(int, amount))
    elif name == "postgres-answer":
        print(json.dumps(postgres_answer(Path(directory))))
    else:
        print(json.dumps(works[name](Path(directory), int(amount[0]))))


if __name__ == "__main__":
    main(sys.argv[1:])
