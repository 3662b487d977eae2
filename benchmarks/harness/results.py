"""What a benchmark found, as rows that another program can compare, plot and tabulate.

A row is one number of one contender: `question` (the file's name), `case` (what was done, at which size or depth),
`file_system`, `contender`, `metric` and its unit, the median with its spread (half the distance between the quartiles),
and how many samples it has. They lie in `extra_info["rows"]` of pytest-benchmark's JSON; a contender that could not be
asked is in `extra_info["missing"]`, with the reason.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

OURS = "lazarus"
NOISY = 0.10  # a spread of more than this part of the median


class Key(NamedTuple):
    """What makes two rows of two runs the same question."""

    question: str
    case: str
    file_system: str
    contender: str
    metric: str

    def __str__(self) -> str:
        """What there is of it, for a reader."""
        return " / ".join(part for part in self if part)


class Row(NamedTuple):
    """One number. Smaller is better, unless the unit is a rate ("/s" at its end)."""

    question: str
    case: str
    file_system: str
    contender: str
    metric: str
    unit: str
    median: float
    spread: float
    samples: int

    @property
    def key(self) -> Key:
        """What it answers."""
        return Key(self.question, self.case, self.file_system, self.contender, self.metric)

    @property
    def is_rate(self) -> bool:
        """Is larger better?"""
        return self.unit.endswith("/s")

    @property
    def is_noisy(self) -> bool:
        """Is the spread more than a tenth of the median?"""
        return self.spread > NOISY * abs(self.median)


def is_ours(contender: str) -> bool:
    """Lazarus itself, in any of its ways; everyone else is a peer."""
    return contender == OURS or contender.startswith(f"{OURS} ")


def summary(samples: Sequence[float]) -> tuple[float, float]:
    """Median, and half the distance between the quartiles (0 for a single sample). `ValueError` for none."""
    if not samples:
        raise ValueError("no samples")
    quartiles = statistics.quantiles(samples, n=4) if len(samples) > 1 else [samples[0]] * 3
    return statistics.median(samples), (quartiles[2] - quartiles[0]) / 2


def record(
    benchmark: Any,
    contender: str,
    metric: str,
    unit: str,
    samples: Sequence[float],
    *,
    case: str = "",
    file_system: str = "",
) -> Row:
    """Adds a row to a benchmark's JSON, and returns it. The question is the benchmark's file."""
    question = Path(benchmark.fullname.partition("::")[0]).stem
    found = Row(question, case, file_system, contender, metric, unit, *summary(samples), len(samples))
    benchmark.extra_info.setdefault("rows", []).append(found._asdict())
    return found


def record_missing(benchmark: Any, missing: dict[str, str]) -> None:
    """Adds contenders that could not be asked, with the reason."""
    benchmark.extra_info.setdefault("missing", {}).update(missing)


class Run(NamedTuple):
    """One JSON file: its rows, what was missing, and the machine's facts."""

    rows: dict[Key, Row]
    missing: dict[str, str]
    machine: dict[str, Any]
    when: str
    commit: str
    command: str  # that made it


def peers(run: Run, key: Key) -> Iterator[Key]:
    """The same question, asked of others in that run."""
    for other in run.rows:
        if other == key._replace(contender=other.contender) and not is_ours(other.contender):
            yield other


def read(path: Path) -> Run:
    """`ValueError`, naming the file, when it is none of pytest-benchmark's."""
    try:
        document = json.loads(path.read_text())
        benchmarks, machine = document["benchmarks"], document["machine_info"]
        rows = {found.key: found for found in _rows(benchmarks)}
        missing = {
            f"{bench['name']}: {name}": str(why)
            for bench in benchmarks
            for name, why in bench.get("extra_info", {}).get("missing", {}).items()
        }
        missing |= {str(name): str(why) for name, why in document.get("not_asked", {}).items()}
        commit = str((document.get("commit_info") or {}).get("id") or "")
        command = str(document.get("command", ""))
        return Run(rows, missing, dict(machine), str(document.get("datetime", "")), commit, command)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a file of results: {type(error).__name__}: {error}") from error


def _rows(benchmarks: list[dict[str, Any]]) -> Iterator[Row]:
    for bench in benchmarks:
        for fields in bench.get("extra_info", {}).get("rows", []):
            yield Row(**fields)
