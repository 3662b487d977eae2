"""Files of results as `python -m benchmarks run` leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.harness.results import Row

MACHINE = {"kernel": "6.18", "cores": 2, "file_system": "ext4"}


def row(contender: str, median: float, spread: float = 0.0, **fields: Any) -> dict[str, Any]:
    base = Row(
        "copyup__first_write", "4 KiB", "ext4", contender, "first write", "s",
        median, spread, median - spread, median + spread, 7,
    )  # fmt: skip
    return base._replace(**fields)._asdict()


def write(
    path: Path, *rows: dict[str, Any], machine: dict[str, Any] | None = None, samples: Any = (), **missing: str
) -> Path:
    bench = {"name": "test_x", "extra_info": {"rows": rows, "missing": missing, "samples": samples}}
    document = {"benchmarks": [bench, {"name": "test_y"}], "machine_info": machine or MACHINE, "datetime": "2026-01-02",
                "commit_info": {"id": "abc"}}  # fmt: skip
    path.write_text(json.dumps(document))
    return path
