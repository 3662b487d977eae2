"""The few numbers that stand at the top: a line each, ours beside the peers and the limit of the machine.

A line is asked for by question, metric and the beginning of the case; it is there when the run has it. Of several cases
that fit (a quick run has smaller files) the last one counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.harness.results import LIMIT, Key, Ratio, Row, Run, is_limit, is_ours, peers, ratio


class Wanted(NamedTuple):
    """What is asked, in a reader's words, and where its answer lies."""

    what: str
    question: str
    metric: str
    case: str = ""  # how it begins
    contender: str = ""  # of ours; the first that the run has when it is empty


class Line(NamedTuple):
    """A row of ours beside the same row of the others of its run, in their order."""

    what: str
    ours: Row
    others: list[Row]


WANTED = (
    Wanted("first write of 4 KiB to a large file of a lower layer", "copyup__first_write", "first write"),
    Wanted("bytes to the disk for each of 1,000 such writes", "accounting__write_amplification", "write amplification",
           "1000 x"),
    Wanted("first lookup of a name, cold, through 128 layers", "lookup__depth", "first hit", "128 layers"),
    Wanted("a name among 17,000 looked up in one call", "lookup__depth", "a path of a list", "64 layers"),
    Wanted("load of a 910 MB image", "import__real_image", "wall"),
    Wanted("pull of the 910 MB image, until a container is made", "pull__real_image", "wall", "4 layers"),
    Wanted("memory of a pull of one large layer", "pull__real_image", "peak memory", "a layer of"),
    Wanted("bytes of a pull when 1 % of the files of that image have changed, of all its bytes", "pull__small_change",
           "of the whole", "1 % of the files, other content"),
    Wanted("push of a new layer, from the shell", "push__new_layer", "wall"),
    Wanted("mount of a container's root file system", "start__mounted_rootfs", "mount"),
    Wanted("start of a container over 128 layers, to the end of its process", "start__cold_and_warm", "whole",
           "128 layers, warm"),
    Wanted("run --rm IMAGE true, from the shell", "start__run_true", "wall"),
    Wanted("commit of a 4 KiB change, from the shell", "commit__small_change", "wall", "", "lazarus commit"),
    Wanted("checkpoint of 1,000 changed files, and the next write", "checkpoint__fork_and_rollback",
           "checkpoint and next write", "", "lazarus"),
    Wanted("back to a checkpoint, from 1,000 changed files", "checkpoint__fork_and_rollback", "rollback", "",
           "lazarus"),
    Wanted("fork of 100 containers, all mounted", "checkpoint__fork_and_rollback", "fork, all mounted"),
    Wanted("next start beside 1,000 running containers", "density__thousand_containers", "next start", "1,000 alive"),
    Wanted("memory of the processes of each of 1,000 containers", "density__thousand_containers",
           "processes a container", "1,000 alive"),
    Wanted("SQLite transactions in a database of a lower layer", "database__sqlite_and_postgres", "transactions",
           "SQLite"),
    Wanted("PostgreSQL transactions (pgbench) in a database of a lower layer", "database__sqlite_and_postgres",
           "transactions", "PostgreSQL"),
    Wanted("the same in the first minute of 1 GB, with a pool", "database__sqlite_and_postgres", "transactions",
           "First minute: PostgreSQL, pgbench on 1 GB", "lazarus (pool)"),
    Wanted("the same in the first minute of 8 GB, nothing cached, with a pool", "database__sqlite_and_postgres",
           "transactions", "First minute: PostgreSQL, pgbench on 8 GB", "lazarus (pool)"),
    Wanted("PostgreSQL transactions (pgbench) in a volume", "database__sqlite_and_postgres", "transactions",
           "In a volume"),
    Wanted("snapshot of a volume of 1 GiB in one file", "volume__snapshot_and_clone", "snapshot", "one file"),
    Wanted("clone of a volume of 1 GiB in one file", "volume__snapshot_and_clone", "clone", "one file"),
    Wanted("clone of a volume of 1 GiB in 1,000 files", "volume__snapshot_and_clone", "clone", "1,000 files"),
    Wanted("clone of a PostgreSQL cluster of 1 GB", "volume__snapshot_and_clone", "clone", "a database"),
    Wanted("the same, until a server on it has done a transaction", "volume__snapshot_and_clone",
           "clone and first transaction"),
    Wanted("chunks of a buffer, cut and hashed", "chunk__throughput", "cut and SHA-256"),
    Wanted("bytes sent when 1 % of a 1 GiB volume has changed", "volume__second_push", "sent",
           "second push of 1024 MiB, pages of 4 KiB"),
)  # fmt: skip


def lines(run: Run) -> Iterator[Line]:
    """Those that the run can answer, once for each file system; beside others where anybody was there."""
    for wanted in WANTED:
        alone = [row for row in run.rows.values() if _fits(row, wanted)]
        fitting = [row for row in alone if _others(run, row.key)] or alone
        for file_system in dict.fromkeys(row.file_system for row in fitting):
            here = [row for row in fitting if row.file_system == file_system]
            last = [row for row in here if row.case == here[-1].case]
            yield Line(wanted.what, last[0], _others(run, last[0].key))


def _fits(row: Row, wanted: Wanted) -> bool:
    ours = row.contender == wanted.contender if wanted.contender else is_ours(row.contender)
    return ours and (row.question, row.metric) == (wanted.question, wanted.metric) and row.case.startswith(wanted.case)


def _others(run: Run, key: Key) -> list[Row]:
    """Peers, and limits after them; other ways of ours, which are no peers, are in the table of all rows."""
    return sorted((run.rows[other] for other in peers(run, key)), key=lambda row: is_limit(row.contender))


def amount(value: float, unit: str) -> str:
    """With three digits, and the prefix that makes it readable: 0.00065 s is 650 us."""
    rounded = float(f"{value:.3g}")  # before a prefix is chosen: 0.0009997 s is 1 ms, not 1e+03 us
    if unit == "s" and 0 < abs(rounded) < 1:
        for factor, name in ((1e3, "ms"), (1e6, "us"), (1e9, "ns")):
            if abs(rounded) * factor >= 1:
                return f"{rounded * factor:.3g} {name}"
    if unit.startswith("B") and abs(rounded) >= 1000:
        for factor, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(rounded) >= factor:
                return f"{rounded / factor:.3g} {name}{unit}"
    number = f"{rounded:.3g}" if abs(rounded) < 1000 else f"{value:,.0f}"
    return number + unit if unit == "x" else f"{number} {unit}"


def ratios(ours: Row, others: list[Row]) -> Iterator[str]:
    """ "podman 2.3x" for each; a "~" before those that are noisy."""
    for other in others:
        found = ratio(ours, other)
        yield f"{other.contender.removeprefix(LIMIT)} {said(found) if found else '-'}"


def said(found: Ratio) -> str:
    """A ratio, and whether it is noisy."""
    return ("~" if found.is_noisy else "") + amount(found.value, "x")


def markdown(run: Run) -> str:
    """The table for a README."""
    out = ["| | Lazarus | peers in the same run | limit |", "|---|---|---|---|"]
    for line in lines(run):
        what = f"{line.what}, {line.ours.file_system}" if line.ours.file_system else line.what
        sides = [[row for row in line.others if is_limit(row.contender) == limit] for limit in (False, True)]
        cells = (
            what,
            amount(line.ours.median, line.ours.unit),
            *("; ".join(ratios(line.ours, side)) for side in sides),
        )
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join(out) + "\n"
