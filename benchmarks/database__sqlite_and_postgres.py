"""What does a database cost that lies in a lower layer: until its first transaction, and for each one after it?

SQLite with 90 MB in WAL mode, where every commit is an fsync, and PostgreSQL 15 with 190 MB of pgbench's tables and
page checksums, which writes to many files, and whole pages after a checkpoint. Both must be whole afterwards. What a
`cp` copies is in its first phase.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contenders import databases
from benchmarks.contenders.roots import EVERYONE, Root
from benchmarks.contenders.turns import Done, ask
from benchmarks.harness.disks import Disk

ROUNDS = 3
WHY_NOT = "a database needs a path: only in process"


class Database:
    """A lower directory with one, and what is done with it."""

    def __init__(self, name: str, lower: Path, before: tuple[str, ...] = ()) -> None:
        self.name, self.lower, self.before = name, lower, before
        lower.mkdir()
        self._run(f"make-{name}", str(lower))

    def ask(self, benchmark: Any, disk: Disk, amount: int, case: str) -> None:
        """Everyone who has a path."""

        def work(root: Root) -> Done:
            found = json.loads(self._run(self.name, str(root.path), str(amount)))
            return Done(found["seconds"], rates={"transactions": found["rate"]})

        ask(benchmark, disk, EVERYONE, work, lower=self.lower, case=case, rounds=ROUNDS, needs_path=WHY_NOT)

    def _run(self, *words: str) -> str:
        command = [*self.before, sys.executable, databases.__file__, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError((done.stderr.strip() or f"{words[0]}: exit {done.returncode}").splitlines()[-1])
        return done.stdout


def test_sqlite(benchmark: Any, disk: Disk, quick: bool) -> None:
    transactions = 100 if quick else 1000
    database = Database("sqlite", disk.path / "lower")
    database.ask(benchmark, disk, transactions, f"SQLite, {transactions:,} transactions into 90 MB")


def test_postgres(benchmark: Any, disk: Disk, quick: bool) -> None:
    if (why := databases.why_no_postgres()) is not None:
        pytest.skip(why)
    seconds = 2 if quick else 5
    database = Database("postgres", disk.path / "lower", databases.ALONE)
    database.ask(benchmark, disk, seconds, f"PostgreSQL, {seconds} s of pgbench on 190 MB")
