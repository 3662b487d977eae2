"""A run in forms that a CI job keeps: JSON lines, and what github-action-benchmark takes."""

from __future__ import annotations

import json
from collections.abc import Iterator

from benchmarks.harness.results import Run, is_ours


def lines(run: Run) -> Iterator[str]:
    """One JSON object a row, with when, at which commit and on which kernel."""
    common = {"when": run.when, "commit": run.commit, "kernel": run.machine.get("kernel")}
    for row in run.rows.values():
        yield json.dumps({**common, **row._asdict()})


def github(run: Run) -> str:
    """An array for the tool `customSmallerIsBetter`: our own rows, but for rates, of which more is better."""
    found = [
        {
            "name": str(row.key),
            "unit": row.unit,
            "value": row.median,
            "range": f"± {row.spread:.3g}",
            "extra": f"{row.samples} samples",
        }
        for row in run.rows.values()
        if is_ours(row.contender) and not row.is_rate
    ]
    return json.dumps(found, indent=1)
