"""Big data: DuckDB on Parquet files in a volume that containers read at once: same answers, one copy on disk."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import debian_images
import pytest
from cli_helpers import Command
from debian_images import Recipe

from lazarus.store import Store

pytestmark = [pytest.mark.root, pytest.mark.workload]

READERS, PARTS, ROWS = 3, 3, 500_000
DUCKDB = Recipe("duckdb", wheels=("duckdb",), script="python3 -c 'import duckdb'")
PROGRAM = ("-v", f"{Path(__file__).with_name('duckdb_query.py')}:/query.py:ro")


@pytest.fixture(scope="module")
def image(store_root: Path) -> str:
    with Store(store_root) as store:
        debian_images.load(store, DUCKDB)
    return "duckdb:latest"


def write(lazarus: Command, image: str, parts: int) -> None:
    """A container that makes the volume have so many parts."""
    lazarus.ok("run", "--rm", *PROGRAM, "-v", "lake:/lake", image, "python3", "/query.py", "write", "/lake", str(parts))


def read(lazarus: Command, image: str) -> list[dict[str, Any]]:
    """What containers say that run at once."""
    command = [*PROGRAM, "-v", "lake:/lake:ro", image, "python3", "/query.py", "read", "/lake"]
    names = [lazarus.ok("run", "-d", *command) for _ in range(READERS)]
    assert [lazarus.ok("wait", name) for name in names] == ["0"] * READERS, [lazarus("logs", name) for name in names]
    return [json.loads(lazarus.ok("logs", name)) for name in names]


def on_disk(directory: str | Path) -> int:
    """What it takes, in bytes, each file once."""
    return int(subprocess.run(["du", "-sB1", directory], check=True, capture_output=True, text=True).stdout.split()[0])


def test_one_copy_for_all(lazarus: Command, image: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(lazarus, image, PARTS)
    volume = Path(json.loads(lazarus.ok("volume", "inspect", "lake"))[0]["Mountpoint"])
    table, everything = on_disk(volume), on_disk(lazarus.root)
    assert table > 20_000_000
    first, *others = read(lazarus, image)
    assert all(other == first for other in others), "the same answers, from the same files"
    rows = PARTS * ROWS
    assert first["answers"]["orders"] == [[rows, rows * (rows - 1) // 2, 1000]]
    assert first["files"] == {
        path.name: [os.stat(path).st_dev, os.stat(path).st_ino] for path in volume.glob("*.parquet")
    }, "the files of the containers are those of the volume"
    assert not first["writable"]
    grown = on_disk(lazarus.root) - everything
    with capsys.disabled():
        print(f"\n{READERS} containers read {table:,} bytes; the store has grown by {grown:,}")
    assert grown < table / 10 and on_disk(volume) == table


def test_what_one_adds_the_others_see(lazarus: Command, image: str) -> None:
    write(lazarus, image, 1)
    before = read(lazarus, image)
    write(lazarus, image, 2)
    after = read(lazarus, image)
    assert [one["answers"]["orders"][0][0] for one in before] == [ROWS] * READERS
    assert [one["answers"]["orders"][0][0] for one in after] == [2 * ROWS] * READERS
    assert set(before[0]["files"]) < set(after[0]["files"])
