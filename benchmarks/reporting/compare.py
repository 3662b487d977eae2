"""Two runs, row by row: what moved, and is any of it a regression?

Times of the same machine are compared as they are. Between two machines only ratios mean anything: there a row of ours
is divided by the same row of a peer in its own run, by each peer that both runs have, and the change of the ratio in
the middle counts (of two in the middle the better one): one peer that moved alone says nothing about us.

A regression is a row of ours that became worse by more than the limit and by more than the intervals of all medians in
it explain. A row with fewer than three samples is noise, whatever it says. A row whose unit has changed is another row.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from benchmarks.harness.results import FEW, Key, Row, Run, is_ours, peers

_SAME_MACHINE = ("node", "kernel", "cores", "processor", "file_system")


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
    ours = [{key for key in run.rows if is_ours(key.contender)} for run in (old, new)]
    both = {key for key in ours[0] & ours[1] if old.rows[key].unit == new.rows[key].unit}
    moves = [move for key in sorted(both) if (move := _move(old, new, key, same)) is not None]
    alone = sorted(both - {move.key for move in moves})
    only_old, only_new = (sorted(keys - both) for keys in ours)
    return Comparison(sorted(moves, key=lambda move: -move.change), alone, only_old, only_new, same)


def machine(run: Run) -> tuple[str, ...]:
    """What has to be equal for times to be compared as they are."""
    cpu = run.machine.get("cpu")
    brand = cpu.get("brand_raw") if isinstance(cpu, dict) else cpu  # its frequency is another at each look
    return (*(str(run.machine.get(fact)) for fact in _SAME_MACHINE), str(brand))


def _move(old: Run, new: Run, key: Key, same: bool) -> Move | None:
    before, after = old.rows[key], new.rows[key]
    if same:
        change = _change(before, before.median, after.median)
        return Move(key, before.median, after.median, before.unit, change, _relative(before) + _relative(after), 0)
    ratios = sorted(
        (move for peer in peers(old, key) if (move := _against(old, new, key, peer)) is not None),
        key=lambda move: move.change,
    )
    return ratios[(len(ratios) - 1) // 2]._replace(against=len(ratios)) if ratios else None


def _against(old: Run, new: Run, key: Key, peer: Key) -> Move | None:
    """What moved between us and one peer."""
    if peer not in new.rows:
        return None
    rows = old.rows[key], new.rows[key], old.rows[peer], new.rows[peer]
    if len({row.unit for row in rows}) > 1 or min(row.median for row in rows[2:]) <= 0:
        return None
    left, right = rows[0].median / rows[2].median, rows[1].median / rows[3].median
    return Move(key, left, right, "x", _change(rows[0], left, right), sum(map(_relative, rows)), 1)


def _relative(row: Row) -> float:
    """The part of its median by which it may be off; of nothing, that may be something, nobody knows."""
    off = max(row.high - row.median, row.median - row.low)
    if row.samples < FEW or (off and not row.median):
        return math.inf
    return off / abs(row.median) if off else 0.0


def _change(row: Row, old: float, new: float) -> float:
    """How much worse: of a rate, how much less. A difference of two looks at the machine may be less than nothing."""
    if row.is_rate:
        old, new = new, old
    if old == new:
        return 0.0
    return (new - old) / abs(old) if old else math.copysign(math.inf, new)


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
