"""Which snapshots a policy keeps: restic's rules, each alone and together."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from lazarus.errors import FormatError
from lazarus.store import Store
from lazarus.volumes.retention import UNLIMITED, Policy, decide
from lazarus.volumes.snapshot import Cost, Snapshot


def snapshots(*times: str) -> list[Snapshot]:
    """Named by their local time."""
    return [
        Snapshot(None, "db", text, datetime.fromisoformat(text).timestamp(), False, Cost(0, 0, 0))  # type: ignore[arg-type]
        for text in times
    ]


DAYS = [f"2026-03-{day:02}T{hour:02}:00" for day in range(1, 21) for hour in (6, 18)]


def kept(times: list[str], policy: Policy) -> list[str]:
    return [found.snapshot.name for found in decide(snapshots(*times), policy) if found.reasons]


def test_last() -> None:
    assert kept(DAYS, Policy(last=3)) == DAYS[-3:]
    assert kept(DAYS, Policy(last=1000)) == kept(DAYS, Policy(last=UNLIMITED)) == DAYS
    assert kept([], Policy(last=3)) == []


def test_the_newest_of_each_day() -> None:
    assert kept(DAYS, Policy(daily=2)) == ["2026-03-19T18:00", "2026-03-20T18:00"]
    assert kept(DAYS, Policy(hourly=3)) == DAYS[-3:]
    gap = ["2026-01-01T10:00", "2026-01-01T12:00", "2026-02-01T10:00", "2026-03-01T09:00", "2026-03-01T10:00"]
    assert kept(gap, Policy(daily=2)) == ["2026-02-01T10:00", "2026-03-01T10:00"], "days in which there are some"
    assert kept(gap, Policy(monthly=3)) == ["2026-01-01T12:00", "2026-02-01T10:00", "2026-03-01T10:00"]


def test_weeks_are_those_of_iso() -> None:
    times = ["2025-12-28T00:00", "2025-12-29T00:00", "2026-01-01T00:00", "2026-01-04T23:00", "2026-01-05T00:00"]
    assert kept(times, Policy(weekly=2)) == ["2026-01-04T23:00", "2026-01-05T00:00"]
    assert kept(times, Policy(weekly=3)) == ["2025-12-28T00:00", "2026-01-04T23:00", "2026-01-05T00:00"]
    assert kept(times, Policy(yearly=1)) == ["2026-01-05T00:00"]


def test_a_rule_that_is_not_used_up_keeps_the_oldest() -> None:
    times = ["2026-01-01T01:00", "2026-01-01T02:00", "2026-01-01T03:00"]
    assert kept(times, Policy(daily=1)) == times[2:]
    assert kept(times, Policy(daily=2)) == [times[0], times[2]]
    (first, _, last) = decide(snapshots(*times), Policy(daily=2, yearly=2))
    assert first.reasons == last.reasons == ("daily", "yearly")


def test_within() -> None:
    assert kept(DAYS, Policy(within="2d")) == DAYS[-4:], "from the newest, and that exactly two days older is out"
    assert kept(DAYS, Policy(within="49h")) == DAYS[-5:]
    assert kept(DAYS, Policy(within="1y2m3d4h")) == DAYS
    assert kept(["2026-01-31T10:00", "2026-02-28T09:00", "2026-03-31T10:00"], Policy(within="1m")) == [
        "2026-03-31T10:00"
    ], "a month before is 31 February, that is 3 March"
    assert kept(DAYS, Policy(within="9999y")) == DAYS


def test_rules_add_up() -> None:
    decisions = decide(snapshots(*DAYS), Policy(last=1, daily=2, weekly=2, within="1h"))
    assert [(found.snapshot.name, found.reasons) for found in decisions if found.reasons] == [
        ("2026-03-15T18:00", ("weekly",)),
        ("2026-03-19T18:00", ("daily",)),
        ("2026-03-20T18:00", ("within 1h", "last", "daily", "weekly")),
    ]
    assert [found.snapshot.name for found in decisions] == DAYS, "all of them, the oldest first"


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (Policy(), "would remove every snapshot"),
        (Policy(last=-2), "-2: not a number"),
        (Policy(within="x"), "'x': not a span of time"),
        (Policy(last=1, within="7"), "'7': not a span of time"),
        (Policy(within="7d 3h"), "not a span of time"),
    ],
)
def test_no_policy(policy: Policy, text: str) -> None:
    for times in ([], DAYS):
        with pytest.raises(FormatError, match=text):
            decide(snapshots(*times), policy)


def test_forget(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        volume = store.volumes.create("db")
        other = store.volumes.create("other")
        for name in ("a", "b", "c"):
            volume.snapshot(name)
            other.snapshot(name)
        planned = volume.forget(Policy(last=2), dry_run=True)
        assert [(found.snapshot.name, bool(found.reasons)) for found in planned] == [
            ("a", False),
            ("b", True),
            ("c", True),
        ]
        assert len(volume.snapshots) == 3
        with pytest.raises(FormatError):
            volume.forget(Policy())
        assert len(volume.snapshots) == 3
        assert volume.forget(Policy(last=2)) == planned
        assert [found.name for found in volume.snapshots] == ["b", "c"]
        assert volume.forget(Policy(last=2))[0].reasons == ("last",)
        assert len(other.snapshots) == 3
