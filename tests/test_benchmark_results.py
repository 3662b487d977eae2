"""What a result is, and what a comparison of two runs says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_helpers import MACHINE, row, write

from benchmarks.__main__ import main
from benchmarks.harness import results
from benchmarks.harness.results import Row, ratio, summary
from benchmarks.reporting.compare import Comparison, compare


def compared(tmp_path: Path, old: list[dict[str, Any]], new: list[dict[str, Any]], **machine: Any) -> Comparison:
    before = write(tmp_path / "old.json", *old)
    after = write(tmp_path / "new.json", *new, machine={**MACHINE, **machine})
    return compare(results.read(before), results.read(after))


def test_summary() -> None:
    assert summary([5.0]) == (5.0, 0.0, 5.0, 5.0)
    assert summary([1.0, 2.0, 3.0, 4.0, 100.0]) == (3.0, 25.25, 1.0, 100.0)
    assert summary(range(1, 21))[2:] == (6, 15)  # the table of the sign test: 6 and 15 of 20
    with pytest.raises(ValueError, match="no samples"):
        summary([])


def test_a_ratio_that_may_be_off_by_a_tenth_is_noisy() -> None:
    ours, steady, shaky = (Row(**row("any", 2.0, spread)) for spread in (0.05, 0.1, 0.3))
    for peer, noisy in ((steady, False), (shaky, True)):
        found = ratio(ours, peer)
        assert found is not None and found.value == 1.0 and found.is_noisy == noisy
    rates = (one._replace(unit="x/s") for one in (ours._replace(median=4.0, low=4.0, high=4.0), steady))
    assert (found := ratio(*rates)) is not None and found.value == 2.0
    assert ratio(ours, steady._replace(low=0.0)) is None


def test_a_result_is_read_back(tmp_path: Path) -> None:
    run = results.read(write(tmp_path / "a.json", row("lazarus", 2.0), row("kernel overlayfs", 4.0), podman="not here"))
    assert [(key.contender, found.median) for key, found in run.rows.items()] == [
        ("lazarus", 2.0),
        ("kernel overlayfs", 4.0),
    ]
    assert run.missing == {"test_x: podman": "not here"}
    assert (run.machine, run.when, run.commit) == (MACHINE, "2026-01-02", "abc")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"benchmarks": 3, "machine_info": {}}',
        '{"benchmarks": [{"name": "x", "extra_info": {"rows": [{}]}}], "machine_info": {}}',
        '{"benchmarks": [{"name": "x", "extra_info": {"semantics": {"views": []}}}], "machine_info": {}}',
        "[" * 100_000,
    ],
)
def test_what_is_no_result(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.json").write_text(text)
    assert main(["history", str(tmp_path / "bad.json")]) == 2
    assert capsys.readouterr().err.startswith(f"benchmarks: {tmp_path}/bad.json: not a file of results")


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 10**400, "1", None], ids=["nan", "inf", "huge", "text", "none"]
)
def test_what_is_no_number_is_no_result(tmp_path: Path, value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """And no regression that is worse than nothing, or better."""
    good = str(write(tmp_path / "good.json", row("lazarus", 1.0)))
    bad = str(write(tmp_path / "bad.json", row("lazarus", 1.0) | {"median": value}))
    assert main(["compare", good, bad]) == 2
    assert capsys.readouterr().err.startswith(f"benchmarks: {bad}: not a file of results")


def test_the_same_machine_is_compared_as_it_is(tmp_path: Path) -> None:
    found = compared(tmp_path, [row("lazarus", 1.0), row("podman", 9.0)], [row("lazarus", 1.25), row("podman", 90.0)])
    (move,) = found.moves
    assert found.same_machine and (move.old, move.new, move.unit) == (1.0, 1.25, "s")
    assert move.change == 0.25 and move.is_regression(0.1) and not move.is_regression(0.3)


def test_noise_is_no_regression(tmp_path: Path) -> None:
    (move,) = compared(tmp_path, [row("lazarus", 1.0, 0.1)], [row("lazarus", 1.2, 0.2)]).moves
    assert move.change > 0.1 and not move.is_regression(0.1)


def test_of_a_rate_less_is_worse(tmp_path: Path) -> None:
    rate = {"unit": "paths/s"}
    (move,) = compared(tmp_path, [row("lazarus", 10.0, **rate)], [row("lazarus", 5.0, **rate)]).moves
    assert move.change == 1.0 and move.is_regression(0.1)


def test_another_machine_is_compared_by_ratios(tmp_path: Path) -> None:
    old = [row("lazarus", 1.0), row("podman", 10.0), row("cp", 4.0)]
    same = [row("lazarus", 3.0), row("podman", 30.0), row("cp", 12.0)]
    slower = [row("lazarus", 6.0), row("podman", 30.0), row("cp", 12.0)]
    (move,) = compared(tmp_path, old, same, cores=64).moves
    assert move.against == 2 and abs(move.change) < 1e-9
    found = compared(tmp_path, old, slower, cores=64)
    assert not found.same_machine and found.moves[0].is_regression(0.1)
    assert compared(tmp_path, [row("lazarus", 1.0)], [row("lazarus", 9.0)], cores=64).moves == []  # no peer, no ratio


def test_a_peer_that_moves_alone_is_no_regression(tmp_path: Path) -> None:
    """One of two, or of three, has become 25 times as fast; and where there is but one, its noise counts."""
    old = [row("lazarus", 1.0), row("podman", 1.0), row("cp", 0.5), row("ctr", 0.01)]
    new = [row("lazarus", 1.0), row("podman", 1.0), row("cp", 0.02), row("ctr", 0.01)]
    for count in (3, 4):
        (move,) = compared(tmp_path, old[:count], new[:count], node="another").moves
        assert move.against == count - 1 and not move.is_regression(0.1)
    shaky = [row("lazarus", 1.0), row("podman", 0.8, 0.4)]
    (move,) = compared(tmp_path, old[:2], shaky, node="another").moves
    assert (move.change, move.noise) == (0.25, pytest.approx(0.5)) and not move.is_regression(0.1)


def test_another_unit_is_another_row(tmp_path: Path) -> None:
    found = compared(tmp_path, [row("lazarus", 1.0)], [row("lazarus", 999.0, unit="ms")])
    assert found.moves == [] and found.only_old == found.only_new != []
    old, new = [row("lazarus", 1.0), row("cp", 1.0)], [row("lazarus", 1.0), row("cp", 0.001, unit="ks")]
    found = compared(tmp_path, old, new, node="another")
    assert found.moves == [] and len(found.alone) == 1


def test_nothing_and_less_than_nothing(tmp_path: Path) -> None:
    """What is 0 but may be more says nothing, what becomes more than 0 is worse, and a difference may be negative."""
    for old, new, change, regressed in (
        (row("lazarus", 0.0, 0.1), row("lazarus", 0.05), float("inf"), False),
        (row("lazarus", 0.0), row("lazarus", 0.05), float("inf"), True),
        (row("lazarus", 0.0), row("lazarus", -0.05), -float("inf"), False),
        (row("lazarus", 0.0), row("lazarus", 0.0), 0.0, False),
        (row("lazarus", -1.0), row("lazarus", 1.0), 2.0, True),
        (row("lazarus", -1.0), row("lazarus", -2.0), -1.0, False),
        (row("lazarus", -1.0, 3.0), row("lazarus", 1.0), 2.0, False),
        (row("lazarus", 1.0, unit="x/s"), row("lazarus", 0.0, unit="x/s"), float("inf"), True),
    ):
        (move,) = compared(tmp_path, [old], [new]).moves
        assert move.change == change and move.is_regression(0.1) == regressed


def test_there_is_no_ratio_between_two_runs(tmp_path: Path) -> None:
    """A part that asks again, without a peer, has none of the first part's; what it does not ask stays."""
    first = [row("lazarus", 1.0), row("podman", 9.0), row("podman", 3.0, metric="cpu")]
    matrix = {"file_system": "ext4", "views": ["v"], "rows": [{"what": "w", "asked": "a", "answers": {"v": "yes"}}]}
    parts = [write(tmp_path / "1.json", *first), write(tmp_path / "2.json", row("lazarus", 5.0))]
    for number, part in enumerate(parts):
        document = json.loads(part.read_text())
        document["command"] = f"python -m benchmarks run{' --quick' * (1 - number)}"
        document["benchmarks"][0]["extra_info"] |= {"semantics": matrix, "disk": {"kind": f"kind{number}"}}
        part.write_text(json.dumps(document))
    whole = results.joined([results.read(part) for part in parts])
    assert [(found.contender, found.median) for found in whole.rows.values()] == [("podman", 3.0), ("lazarus", 5.0)]
    assert whole.semantics == [matrix]
    assert {"disk kind0", "disk kind1"} <= set(whole.machine)
    assert main(["report", *map(str, parts), "-o", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/index.html").read_text()
    assert "run copyup__first_write --fs ext4<" in text and "disk kind1" in text and ">w</summary>a<" in text


def test_parts_of_two_machines_are_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = write(tmp_path / "1.json", row("lazarus", 1.0))
    there = write(tmp_path / "2.json", row("lazarus", 1.0, case="x"), machine={**MACHINE, "node": "another"})
    assert main(["report", str(here), str(there), "-o", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"benchmarks: {there}: of another machine")


def test_parts_of_a_run_are_joined(tmp_path: Path) -> None:
    parts = [
        results.read(write(tmp_path / f"{name}.json", row("lazarus", value, case=name), **{name: "not here"}))
        for name, value in (("a", 1.0), ("b", 2.0))
    ]
    whole = results.joined(parts)
    assert [found.median for found in whole.rows.values()] == [1.0, 2.0]
    assert whole.missing == {"test_x: a": "not here", "test_x: b": "not here"} and whole.command == "\n"


def test_what_moves_from_run_to_run_is_noisy(tmp_path: Path) -> None:
    first, again = (
        results.read(write(tmp_path / f"{name}.json", row("lazarus", 1.0), row("steady", 2.0), row("moving", moved)))
        for name, moved in (("first", 4.0), ("again", 6.0))
    )
    ours, steady, moving = results.repeated(first, again).rows.values()
    assert [found.is_noisy for peer in (steady, moving) if (found := ratio(ours, peer))] == [False, True]
    few = ours._replace(samples=2)
    assert few.is_noisy and (found := ratio(few, steady)) is not None and found.is_noisy


def test_rows_of_one_run_alone_are_named(tmp_path: Path) -> None:
    found = compared(tmp_path, [row("lazarus", 1.0)], [row("lazarus", 1.0, case="another")])
    assert [key.case for key in found.only_old] == ["4 KiB"] and [key.case for key in found.only_new] == ["another"]


def test_few_samples_are_no_regression(tmp_path: Path) -> None:
    (move,) = compared(tmp_path, [row("lazarus", 1.0, samples=1)], [row("lazarus", 9.0, samples=1)]).moves
    assert not move.is_regression(0.1)


def test_another_clock_frequency_is_no_other_machine(tmp_path: Path) -> None:
    cpus = [{"brand_raw": "x", "hz_actual": [hz, 0]} for hz in (1, 2)]
    runs = [
        results.read(write(tmp_path / "a.json", row("lazarus", 1.0), machine={**MACHINE, "cpu": cpu})) for cpu in cpus
    ]
    assert compare(*runs).same_machine


def test_nothing_to_compare_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = (str(write(tmp_path / f"{name}.json", row("lazarus", 1.0, case=name))) for name in "ab")
    assert main(["compare", old, new]) == 2 and "no row of ours can be compared" in capsys.readouterr().err


def test_compare_exits_1_on_a_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = str(write(tmp_path / "old.json", row("lazarus", 1.0), row("lazarus", 1.0, case="steady")))
    new = str(write(tmp_path / "new.json", row("lazarus", 1.2), row("lazarus", 1.0, case="steady")))
    assert main(["compare", old, new, "--fail-over", "10%"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("WORSE    +20.0%  1 -> 1.2 s") and lines[0].endswith("ext4 / lazarus / first write")
    assert lines[-1] == "2 rows compared, 1 worse by more than 10% and their noise" and len(lines) == 2
    assert main(["compare", old, new, "--fail-over", "0.3"]) == 0
    assert main(["compare", old, old]) == 0
    assert main(["compare", old, str(tmp_path / "none.json")]) == 2
