"""What a benchmark found, as rows that another program can compare, plot and tabulate.

A row is one number of one contender: `question` (the file's name), `case` (what was done, at which size or depth),
`file_system`, `contender`, `metric` and its unit, the median with its spread (half the distance between the quartiles)
and the interval in which the median lies with a confidence of 95 %, and how many samples it has. They lie in
`extra_info["rows"]` of pytest-benchmark's JSON; a contender that could not be asked is in `extra_info["missing"]`, with
the reason.

Contenders are ours, peers, and limits: what the machine does without anybody's cleverness, measured in the same turns.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

OURS = "lazarus"
LIMIT = "limit: "  # how the names of limits begin
NOISY = 0.10  # a ratio that may be off by more than this part of it
FEW = 3  # with fewer samples nobody knows how far off it may be


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
    low: float
    high: float
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
        """May the median be off by more than a tenth?"""
        return self.samples < FEW or max(self.high - self.median, self.median - self.low) > NOISY * abs(self.median)


class Ratio(NamedTuple):
    """How much more a peer takes than we do (of a rate: how much less it does), and between what and what that lies."""

    value: float
    low: float
    high: float
    samples: int

    @property
    def is_noisy(self) -> bool:
        """May it be off by more than a tenth?"""
        return self.samples < FEW or max(self.high - self.value, self.value - self.low) > NOISY * self.value


def ratio(ours: Row, peer: Row) -> Ratio | None:
    """None where one of them is nothing."""
    if min(ours.low, peer.low) <= 0:
        return None
    more, less = (ours, peer) if ours.is_rate else (peer, ours)
    samples = min(ours.samples, peer.samples)
    return Ratio(more.median / less.median, more.low / less.high, more.high / less.low, samples)


def is_ours(contender: str) -> bool:
    """Lazarus itself, in any of its ways; everyone else is a peer."""
    return contender == OURS or contender.startswith(f"{OURS} ")


def is_limit(contender: str) -> bool:
    """A measure of the machine, not of a program."""
    return contender.startswith(LIMIT)


class Summary(NamedTuple):
    """Of some samples: median, half the distance between the quartiles, and where the median lies."""

    median: float
    spread: float
    low: float
    high: float


def summary(samples: Sequence[float]) -> Summary:
    """`ValueError` for no samples.

    The interval is that of order statistics: with n samples the median lies between the k-th smallest and the k-th
    largest with a confidence of 1 - 2 P(B < k), B binomial (n, 1/2); k is the largest that leaves 95 %, and with fewer
    than six samples, where no k does, the smallest and the largest (Conover, Practical Nonparametric Statistics, 3.2).
    """
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    count = len(ordered)
    quartiles = statistics.quantiles(ordered, n=4) if count > 1 else [ordered[0]] * 3
    outside, below = 0, 0.0
    while (below := below + math.comb(count, outside) / 2**count) <= 0.025:
        outside += 1
    place = max(outside, 1) - 1
    half = (quartiles[2] - quartiles[0]) / 2
    return Summary(statistics.median(ordered), half, ordered[place], ordered[count - 1 - place])


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


def record_samples(benchmark: Any, row: Row, values: Sequence[float]) -> None:
    """Adds the samples behind a row, for a figure of their distribution."""
    benchmark.extra_info.setdefault("samples", []).append({"key": list(row.key), "values": list(values)})


class Run(NamedTuple):
    """One JSON file: its rows, the samples of some, semantics, what was missing, and the machine's facts."""

    rows: dict[Key, Row]
    missing: dict[str, str]
    machine: dict[str, Any]
    when: str
    commit: str
    command: str  # that made it
    samples: dict[Key, list[float]]
    semantics: list[dict[str, Any]]  # of semantics__matrix.py, one for each file system
    commands: dict[str, str]  # by question: that asked it


def peers(run: Run, key: Key) -> Iterator[Key]:
    """The same question, asked of others in that run."""
    for other in run.rows:
        if other == key._replace(contender=other.contender) and not is_ours(other.contender):
            yield other


def read(path: Path) -> Run:
    """`ValueError`, naming the file, when it is none of pytest-benchmark's, or a number in it is none: nothing is worse
    than NaN."""
    try:
        document = json.loads(path.read_text("utf-8"))
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
        extras = [bench.get("extra_info", {}) for bench in benchmarks]
        samples = {
            Key(*one["key"]): [float(value) for value in one["values"]]
            for extra in extras
            for one in extra.get("samples", [])
        }
        semantics = [_matrix(extra["semantics"]) for extra in extras if "semantics" in extra]
        disks = {f"disk {one['disk']['kind']}": one["disk"] for one in extras if "disk" in one}
        commands = {key.question: command for key in rows}
        when = str(document.get("datetime", ""))
        return Run(rows, missing, {**machine, **disks}, when, commit, command, samples, semantics, commands)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: not a file of results: {type(error).__name__}: {error}") from error


def repeated(run: Run, again: Run) -> Run:
    """The same run, but where the other's median lies outside of an interval, the interval is widened to have it: what
    differs from run to run is noise, too."""
    rows = dict(run.rows)
    for key in rows.keys() & again.rows.keys():
        row, median = rows[key], again.rows[key].median
        rows[key] = row._replace(low=min(row.low, median), high=max(row.high, median))
    return run._replace(rows=rows)


def joined(runs: Sequence[Run]) -> Run:
    """Parts of one run, asked one after the other on one machine: the facts are the first one's. Of what several have
    asked the last one's answers count, and only those: there is no ratio between two runs."""
    first, *others = runs
    for other in others:
        asked = {key._replace(contender="") for key in other.rows}
        kept = {key: row for key, row in first.rows.items() if key._replace(contender="") not in asked}
        matrices = {matrix["file_system"]: matrix for matrix in (*first.semantics, *other.semantics)}
        first = first._replace(
            rows=kept | other.rows,
            missing=first.missing | other.missing,
            machine=other.machine | first.machine,
            samples={key: values for key, values in first.samples.items() if key in kept} | other.samples,
            semantics=list(matrices.values()),
            command=f"{first.command}\n{other.command}",
            commands=first.commands | other.commands,
        )
    return first


def _rows(benchmarks: list[dict[str, Any]]) -> Iterator[Row]:
    for bench in benchmarks:
        for fields in bench.get("extra_info", {}).get("rows", []):
            row = Row(**fields)
            if not all(isinstance(word, str) for word in row[:6]) or not all(map(math.isfinite, row[6:])):
                raise ValueError(f"a row is not of words and numbers: {fields}")
            yield row


def _matrix(found: dict[str, Any]) -> dict[str, Any]:
    rows = [{"what": row["what"], "asked": row["asked"], "answers": dict(row["answers"])} for row in found["rows"]]
    return {"file_system": found["file_system"], "views": list(found["views"]), "rows": rows}
