"""Which snapshots to keep: restic's rules (its documentation, "Removing backup snapshots"), in local time.

    last N       the N newest
    hourly N     of the N newest hours in which there is one, the newest of each; daily, weekly, monthly, yearly too
    within D     all that are at most D older than the newest; D is like 2y5m7d3h

N is a number or UNLIMITED. Each rule counts for itself, and a snapshot stays when any wants it. While a rule has not
used up its number it also keeps the oldest of all, so that what can be gone back to is as long as was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from lazarus.errors import FormatError
from lazarus.volumes.snapshot import Snapshot

UNLIMITED = -1
_SPAN = re.compile(r"(?=.)(?:(\d{1,4})y)?(?:(\d{1,5})m)?(?:(\d{1,6})d)?(?:(\d{1,7})h)?\Z")


class Policy(NamedTuple):
    """What to keep. `within` is like "7d", "" for none."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: str = ""


class Decision(NamedTuple):
    """A snapshot, and why it is kept; no reason: it is not."""

    snapshot: Snapshot
    reasons: tuple[str, ...]


class _Bucket:
    def __init__(self, name: str, count: int, key: Callable[[datetime, int], object]) -> None:
        self.name = name
        self.left = count
        self.key = key
        self.last: object = None

    def wants(self, when: datetime, number: int, oldest: bool) -> bool:
        if self.left == 0:
            return False
        key = self.key(when, number)
        if key == self.last and not oldest:
            return False
        self.last = key
        if self.left > 0:
            self.left -= 1
        return True


def decide(snapshots: Iterable[Snapshot], policy: Policy) -> list[Decision]:
    """What a policy says of each, the oldest first. `FormatError` for a policy that keeps nothing, or says what is no
    number or span of time."""
    counts = policy[:6]
    if any(count < UNLIMITED for count in counts):
        raise FormatError(f"{min(counts)}: not a number of snapshots to keep")
    if not any(counts) and not policy.within:
        raise FormatError("a policy that keeps nothing would remove every snapshot; say what to keep")
    newest_first = sorted(snapshots, key=lambda snapshot: (snapshot.created, snapshot.name), reverse=True)
    times = [datetime.fromtimestamp(snapshot.created).astimezone() for snapshot in newest_first]
    since = _before(times[0], policy.within) if policy.within and times else None
    if policy.within and not times:
        _before(datetime.now().astimezone(), policy.within)
    buckets = (
        _Bucket("last", policy.last, lambda _, number: number),
        _Bucket("hourly", policy.hourly, lambda when, _: (when.date(), when.hour)),
        _Bucket("daily", policy.daily, lambda when, _: when.date()),
        _Bucket("weekly", policy.weekly, lambda when, _: when.isocalendar()[:2]),
        _Bucket("monthly", policy.monthly, lambda when, _: (when.year, when.month)),
        _Bucket("yearly", policy.yearly, lambda when, _: when.year),
    )
    decisions = []
    for number, (snapshot, when) in enumerate(zip(newest_first, times, strict=True)):
        reasons = [f"within {policy.within}"] if since is not None and when > since else []
        oldest = number == len(newest_first) - 1
        reasons += [bucket.name for bucket in buckets if bucket.wants(when, number, oldest)]
        decisions.append(Decision(snapshot, tuple(reasons)))
    return decisions[::-1]


def is_span(text: str) -> bool:
    """Is it a span of time, as `within` has one?"""
    return _SPAN.match(text) is not None


def _before(newest: datetime, span: str) -> datetime:
    match = _SPAN.match(span)
    if match is None:
        raise FormatError(f"{span!r:.60}: not a span of time, as in 2y5m7d3h")
    years, months, days, hours = (int(part or 0) for part in match.groups())
    try:
        month = newest.year * 12 + newest.month - 1 - years * 12 - months
        first = newest.replace(year=month // 12, month=month % 12 + 1, day=1)
        return first + timedelta(days=newest.day - 1 - days, hours=-hours)
    except (ValueError, OverflowError):
        return datetime.min.replace(tzinfo=newest.tzinfo)
