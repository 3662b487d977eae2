"""Two runs, row by row: what moved, and is any of it a regression?

Times of the same machine are compared as they are. Between two machines only ratios mean anything: there a row of ours
is divided by the same row of a peer in its own run, by each peer that both runs have, and the median of those ratios is
compared.

A regression is a row of ours that became worse by more than the limit and by more than the intervals of both medians
explain. A row with fewer than three samples is noise, whatever it says.
"""

from __future__ import annotations

import statistics
from typing import NamedTuple

from benchmarks.harness.results import FEW, Key, Row, Run, is_ours, peers

_SAME_MACHINE = ("kernel", "cores", "processor", "file_system")


class Move(NamedTuple):
    """One row of both runs; `change` 0.1 is a tenth worse, -0.1 a tenth better. `against`: peers it was divided by."""

    key: Key
    old: float
    new: float
    unit: str
    change: float
    noise: float
    against: int

    def is_regression(self, limit: float) -> bool:
        """Worse by more than the limit, and than the spreads explain."""
        return self.change > limit and self.change > self.noise


class Comparison(NamedTuple):
    """What `compare` returns. `alone` are rows of both runs that no peer of both stands beside: on another machine they
    say nothing."""

    moves: list[Move]
    alone: list[Key]
    only_old: list[Key]
    only_new: list[Key]
    same_machine: bool


def compare(old: Run, new: Run) -> Comparison:
    """Rows of ours in both runs, worst first, and those that only one of them has."""
    same = machine(old) == machine(new)
    moves = [
        move
        for key, row in old.rows.items()
        if is_ours(key.contender) and key in new.rows and (move := _move(old, new, key, same)) is not None
    ]
    both = [key for key in old.rows if is_ours(key.contender) and key in new.rows]
    moved = {move.key for move in moves}
    alone = [key for key in both if key not in moved]
    ours = [{key for key in run.rows if is_ours(key.contender)} for run in (old, new)]
    return Comparison(
        sorted(moves, key=lambda move: -move.change), alone, sorted(ours[0] - ours[1]), sorted(ours[1] - ours[0]), same
    )


def machine(run: Run) -> tuple[str, ...]:
    """What has to be equal for times to be compared as they are."""
    cpu = run.machine.get("cpu")
    brand = cpu.get("brand_raw") if isinstance(cpu, dict) else cpu  # its frequency is another at each look
    return (*(str(run.machine.get(fact)) for fact in _SAME_MACHINE), str(brand))


def _move(old: Run, new: Run, key: Key, same: bool) -> Move | None:
    before, after = old.rows[key], new.rows[key]
    noise = _relative(before) + _relative(after)
    if same:
        return Move(
            key, before.median, after.median, before.unit, _change(before, before.median, after.median), noise, 0
        )
    ratios = [pair for peer in peers(old, key) if (pair := _ratios(old, new, key, peer)) is not None]
    if not ratios:
        return None
    left, right = (statistics.median(column) for column in zip(*ratios, strict=True))
    return Move(key, left, right, "x", _change(before, left, right), noise, len(ratios))


def _ratios(old: Run, new: Run, key: Key, peer: Key) -> tuple[float, float] | None:
    if peer not in new.rows or old.rows[peer].median == 0 or new.rows[peer].median == 0:
        return None
    return old.rows[key].median / old.rows[peer].median, new.rows[key].median / new.rows[peer].median


def _relative(row: Row) -> float:
    if row.samples < FEW:
        return float("inf")
    return max(row.high - row.median, row.median - row.low) / row.median if row.median else 0.0


def _change(row: Row, old: float, new: float) -> float:
    """How much worse: of a rate, how much less."""
    if row.is_rate:
        old, new = new, old
    if old == new:
        return 0.0
    return new / old - 1 if old else float("inf")


def table(found: Comparison, limit: float, *, every: bool = False) -> list[str]:
    """What moved by more than the limit (or every row), and what only one run has, as lines."""
    out = []
    if not found.same_machine:
        out.append("another machine: rows of ours are divided by those of the peers in the same run")
    for move in found.moves:
        if not (every or abs(move.change) > limit):
            continue
        word = "WORSE" if move.is_regression(limit) else "noise" if abs(move.change) <= move.noise else "moved"
        out.append(
            f"{word}  {move.change:+8.1%}  {move.old:.4g} -> {move.new:.4g} {move.unit}  ±{move.noise:.0%}  {move.key}"
        )
    for title, keys in (("gone", found.only_old), ("new ", found.only_new)):
        out += [f"{title}   {key}" for key in keys]
    if found.alone:
        out.append(f"{len(found.alone)} rows that no peer stands beside in both runs were not compared")
    bad = sum(move.is_regression(limit) for move in found.moves)
    out.append(f"{len(found.moves)} rows compared, {bad} worse by more than {limit:.0%} and their noise")
    return out
