"""Runs in the container, on the table of benchmarks/contenders/databases.py.

usage: sqlite_client.py write DATABASE WRITER   transactions: reads numbers from stdin, says each that is committed
       sqlite_client.py check DATABASE          what is in it, as JSON
"""

from __future__ import annotations

import json
import random
import sqlite3
import sys
from typing import Any

KEPT = "CREATE TABLE IF NOT EXISTS kept (writer INTEGER, number INTEGER, PRIMARY KEY (writer, number)) WITHOUT ROWID"


def write(bank: sqlite3.Connection, writer: int) -> None:
    """Each transaction changes an account anywhere in the file, and two tables beside it."""
    (accounts,) = bank.execute("SELECT max(id) FROM account").fetchone()
    bank.execute("PRAGMA synchronous = FULL")  # in WAL mode: an fsync for each commit
    bank.execute(KEPT)
    chance = random.Random()
    for line in sys.stdin:
        bank.execute("BEGIN IMMEDIATE")
        account = chance.randrange(accounts)
        bank.execute("UPDATE account SET balance = balance + 1 WHERE id = ?", (account,))
        bank.execute("INSERT INTO history VALUES (?, 1, x'00')", (account,))
        bank.execute("INSERT INTO kept VALUES (?, ?)", (writer, int(line)))
        bank.execute("COMMIT")
        print(int(line), flush=True)


def check(bank: sqlite3.Connection) -> dict[str, Any]:
    """Everything is read."""

    def one(query: str) -> Any:
        return bank.execute(query).fetchone()[0]

    return {
        "integrity": one("PRAGMA integrity_check"),
        "mode": one("PRAGMA journal_mode"),
        "sums": [one("SELECT sum(balance) FROM account"), one("SELECT count(*) FROM history")],
        "kept": bank.execute("SELECT writer, number FROM kept").fetchall(),
    }


if __name__ == "__main__":
    connection = sqlite3.connect(sys.argv[2], isolation_level=None, timeout=30)
    if sys.argv[1] == "write":
        write(connection, int(sys.argv[3]))
    else:
        print(json.dumps(check(connection)))
