"""Runs in the container. usage: duckdb_query.py write DIRECTORY PARTS | read DIRECTORY

`write` makes a table of orders as Parquet files; `read` asks it questions and prints the answers as JSON, with what the
files are here.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import duckdb

ROWS = 500_000  # in each part
ORDERS = """
    SELECT i AS id, i % 1000 AS customer, (hash(i) % 10000)::BIGINT AS cents, md5(i::VARCHAR) AS note
    FROM range({first}, {first} + {rows}) AS numbers(i)
"""
QUESTIONS = {
    "orders": "SELECT count(*), sum(id), count(DISTINCT customer) FROM orders",
    "best": "SELECT customer, sum(cents) AS total FROM orders GROUP BY ALL ORDER BY total DESC, customer LIMIT 5",
    "running": """
        SELECT max(total) FROM (
            SELECT sum(cents) OVER (PARTITION BY customer ORDER BY id) AS total FROM orders WHERE customer < 100
        )
    """,
    "notes": "SELECT count(*), min(note) FROM orders WHERE note LIKE 'cafe%'",
}


def write(directory: Path, parts: int) -> None:
    """Each part has its name when it is whole."""
    for part in range(len(list(directory.glob("*.parquet"))), parts):
        orders = ORDERS.format(first=part * ROWS, rows=ROWS)
        partial = directory / "partial"
        duckdb.sql(f"COPY ({orders}) TO '{partial}' (FORMAT parquet)")
        partial.rename(directory / f"part-{part}.parquet")


def read(directory: Path) -> None:
    """All columns of all parts."""
    files = sorted(directory.glob("*.parquet"))
    duckdb.sql(f"CREATE VIEW orders AS SELECT * FROM read_parquet('{directory}/*.parquet')")
    answers = {name: [list(row) for row in duckdb.sql(query).fetchall()] for name, query in QUESTIONS.items()}
    try:
        (directory / "mine").touch()
        writable = True
    except OSError:
        writable = False
    places = {path.name: [os.stat(path).st_dev, os.stat(path).st_ino] for path in files}
    print(json.dumps({"answers": answers, "files": places, "writable": writable}, default=int))


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        read(Path(sys.argv[2]))
