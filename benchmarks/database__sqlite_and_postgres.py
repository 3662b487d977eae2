"""What does a database cost that lies in a lower layer: until its first transaction, and for each one after it? And in
a volume?

SQLite with 90 MB in WAL mode, where every commit is an fsync, and PostgreSQL 15 with 190 MB of pgbench's tables and
page checksums, which writes to many files, and whole pages after a checkpoint. Both must be whole afterwards. What a
`cp` copies is in its first phase. Of large clusters the whole first minute is asked, whatever is in it: of one that the
page cache has, and of one of which it has nothing, as after a boot. In the volume the server runs in a container of
Lazarus, with this machine's programs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contenders import databases
from benchmarks.contenders.peers import drop_caches
from benchmarks.contenders.roots import (
    EVERYONE,
    Container,
    KernelOverlay,
    Plain,
    PoolContainer,
    Root,
    VolumeContainer,
)
from benchmarks.contenders.turns import Done, ask
from benchmarks.harness.disks import HERE, Disk

ROUNDS = 3
WHY_NOT = "a database needs a path: only in process"


class Database:
    """A lower directory with one, and what is done with it."""

    def __init__(self, kind: str, lower: Path, *amount: int, before: tuple[str, ...] = ()) -> None:
        self.lower, self.before = lower, before
        lower.mkdir()
        self._run([*before, *self._words(f"make-{kind}", lower, *amount)])

    def ask(
        self, benchmark: Any, disk: Disk, what: str, amount: int, case: str, ways: Sequence[type[Root]] = EVERYONE,
        cold: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        """Everyone who has a path; `cold`: with nothing in the page cache."""

        def work(root: Root) -> Done:
            if cold:
                drop_caches()
            if isinstance(root, VolumeContainer):
                said = root.run(self._words(what, VolumeContainer.TARGET, amount))
            else:
                said = self._run([*self.before, *self._words(what, root.path, amount)])
            found = json.loads(said)
            return Done(found["seconds"], rates={"transactions": found["rate"]})

        options = {"rounds": ROUNDS, "needs_path": WHY_NOT, **options}
        ask(benchmark, disk, ways, work, lower=self.lower, case=case, **options)

    def _words(self, *words: object) -> list[str]:
        return [sys.executable, databases.__file__, *map(str, words)]

    def _run(self, command: Sequence[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError((done.stderr.strip() or f"exit {done.returncode}").splitlines()[-1])
        return done.stdout


@pytest.fixture
def alone() -> tuple[str, ...]:
    """What PostgreSQL is run with."""
    if (why := databases.why_no_postgres()) is not None:
        pytest.skip(why)
    return databases.ALONE


def test_sqlite(benchmark: Any, disk: Disk, quick: bool) -> None:
    transactions = 100 if quick else 1000
    database = Database("sqlite", disk.path / "lower")
    database.ask(benchmark, disk, "sqlite", transactions, f"SQLite, {transactions:,} transactions into 90 MB",
                 commit=not quick)  # fmt: skip


def test_postgres(benchmark: Any, disk: Disk, quick: bool, alone: tuple[str, ...]) -> None:
    seconds = 2 if quick else 5
    database = Database("postgres", disk.path / "lower", before=alone)
    case = f"PostgreSQL, {seconds} s of pgbench on 190 MB"
    database.ask(benchmark, disk, "postgres", seconds, case, commit=not quick)


def test_postgres_in_a_volume(benchmark: Any, disk: Disk, quick: bool, alone: tuple[str, ...]) -> None:
    """Against the same directory without Lazarus."""
    seconds, rounds = (2, ROUNDS) if quick else (5, 15)  # of six the medians were 18 % apart once, and once 0.5
    database = Database("postgres", disk.path / "lower", before=alone)
    case = f"In a volume: PostgreSQL, {seconds} s of pgbench on 190 MB"
    database.ask(benchmark, disk, "postgres", seconds, case, (VolumeContainer, Plain), rounds=rounds)


@pytest.mark.parametrize(("scale", "size", "cold"), [(65, "1 GB", False), (500, "8 GB", True)])
def test_postgres_first_minute(
    benchmark: Any, disk: Disk, quick: bool, alone: tuple[str, ...], scale: int, size: str, cold: bool
) -> None:
    if quick:
        pytest.skip("not in the quick set")
    if disk.kind != HERE and disk.size < (needed := scale * 80 << 20):
        pytest.skip(f"{size} need --size {needed >> 30}G: five copies lie on the disk at once")
    database = Database("postgres", disk.path / "lower", scale, before=alone)
    ways = (Container, PoolContainer, KernelOverlay, Plain)
    case = f"First minute: PostgreSQL, pgbench on {size}" + (", nothing cached" if cold else "")
    database.ask(benchmark, disk, "postgres-first", 60, case, ways, cold=cold, rounds=1, warm_up=False)
