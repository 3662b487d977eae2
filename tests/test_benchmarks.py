"""The benchmarks' own tools: what a result is, how two runs are compared; a killed run leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.__main__ import main
from benchmarks.harness import results
from benchmarks.harness.results import Row, ratio, summary
from benchmarks.harness.run import QUICK, chosen, questions
from benchmarks.reporting import headline, plots
from benchmarks.reporting.compare import Comparison, compare

ROOT = Path(__file__).resolve().parent.parent
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
    ],
)
def test_what_is_no_result(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.json").write_text(text)
    assert main(["history", str(tmp_path / "bad.json")]) == 2
    assert capsys.readouterr().err.startswith(f"benchmarks: {tmp_path}/bad.json: not a file of results")


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


def test_a_run_that_measures_nothing_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And what lies where its results would go is not shown as them."""
    old = write(tmp_path / "old.json", row("lazarus", 1.0))
    before = old.read_bytes()
    words = ["run", "copyup", "--quick", "--fs", "ext4", "--size", "900T", "--dir", str(tmp_path), "-o", str(old)]
    assert main([*words, "--report", str(tmp_path / "report")]) == 1
    assert "nothing could be asked" in capsys.readouterr().err
    assert old.read_bytes() == before and os.listdir(tmp_path / "report") == []
    for output in (tmp_path, Path("/proc/no/such.json")):
        assert main([*words[:-1], str(output)]) == 2


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


def test_history(tmp_path: Path) -> None:
    rate = row("lazarus", 9, metric="rate", unit="x/s")
    run = str(write(tmp_path / "a.json", row("lazarus", 2.0, 0.5), row("podman", 4.0), rate))
    lines, github = tmp_path / "lines", tmp_path / "github"
    for _ in range(2):
        assert main(["history", run, "--lines", str(lines), "--github", str(github)]) == 0
    kept = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [line["median"] for line in kept] == [2.0, 4.0, 9] * 2 and kept[0]["commit"] == "abc"
    (entry,) = json.loads(github.read_text())
    assert entry.pop("name") == "copyup__first_write / 4 KiB / ext4 / lazarus / first write"
    assert entry == {"unit": "s", "value": 2.0, "range": "± 0.5", "extra": "7 samples"}


def test_amounts_are_readable() -> None:
    for value, unit, text in (
        (0.00065, "s", "650 us"),
        (1.5, "s", "1.5 s"),
        (2e-8, "s", "20 ns"),
        (0.0, "s", "0 s"),
        (262182.0, "x", "262,182x"),
        (1.07, "x", "1.07x"),
        (2.5e9, "B/s", "2.5 GB/s"),
    ):
        assert headline.amount(value, unit) == text


def test_the_page_is_whole_and_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("lazarus", 0.001), row("podman & co", 0.01), row("lazarus", 5, 4, metric="alone")]
    rows += [row("limit: a plain file", 0.0005), row("shaky", 0.02, 0.01)]
    result = write(tmp_path / "a.json", *rows, ctr="it said <no>")
    assert main(["report", str(result), "-o", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/index.html").read_text()
    assert "podman &amp; co 10x; shaky ~20x</td><td>a plain file 0.5x<" in text
    assert "podman & co 10x; shaky ~20x | a plain file 0.5x |" in (tmp_path / "out/headline.md").read_text()
    for part in (
        ".venv/bin/python -m benchmarks run copyup__first_write --fs ext4<",
        "it said &lt;no&gt;",
        'noisy">5 s',
    ):
        assert part in text
    assert "src=" not in text and not re.search(r"url\((?!#)", text)  # nothing from outside
    assert capsys.readouterr().out == f"report: {tmp_path}/out/index.html\n"


def test_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: no figures")
    looks = [
        row(contender, depth * scale, question="lookup__depth", case=f"{depth} layers", metric=metric, file_system="")
        for contender, scale in (("lazarus", 1e-7), ("kernel overlayfs", 1e-5))
        for depth in (1, 8, 128)
        for metric in ("first hit", "first miss")
    ]
    writes = [
        row(contender, 1.0, file_system=system, case=f"1 x 4 KiB into {size} MiB", metric=metric, question=question)
        for contender in ("lazarus", "lazarus (blocks)", "cp", "limit: it")
        for system in ("ext4", "xfs")
        for size in (1, 1024)
        for question, metric in (
            ("copyup__first_write", "first write"),
            ("accounting__write_amplification", "write amplification"),
        )
    ]
    both = ("lazarus", "podman")
    walls = [row(name, 0.1, question="start__run_true", metric="wall", case="") for name in both]
    starts = [
        row(name, 0.1, question=question, metric=metric, case=case)
        for name in both
        for question, metric, case in (
            ("start__cold_and_warm", "whole", "16 layers, warm"),
            ("start__cold_and_warm", "whole", "128 layers, cold"),
            ("density__thousand_containers", "next start", "1,000 alive"),
            ("density__thousand_containers", "processes a container", "1,000 alive"),
        )
    ]
    samples = [{"key": Row(**starts[0]).key, "values": [0.3, 0.1, 0.2]}]
    run = results.read(write(tmp_path / "a.json", *looks, *writes, *walls, *starts, samples=samples))
    drawn = list(plots.figures(run))
    names = ["lookup", "copyup", "write-amplification", "start-depth", "start-distribution", "density", "commands"]
    assert [figure.name for figure in drawn] == names
    assert list(plots.figures(run)) == drawn  # the same run, the same bytes
    for figure in drawn:
        ElementTree.fromstring(figure.svg)
        assert "lazarus" in figure.svg and 'width="' not in figure.svg.partition(">")[0]
    assert list(plots.figures(results.read(write(tmp_path / "b.json")))) == []


def test_the_number_of_a_case() -> None:
    for case, number in (("1 x 4 KiB into 64 MiB", 64), ("1,000 alive", 1000), ("16 layers, warm", 16)):
        assert plots.number_in(case) == number
    with pytest.raises(ValueError, match="no number"):
        plots.number_in("warm")


def test_questions_are_found_by_name() -> None:
    assert "lookup__depth" in questions() and set(QUICK) <= set(questions())
    assert not any(name.startswith("_") for name in questions())
    assert chosen([], quick=False) == questions()
    assert chosen(["lookup", "lookup__depth"], quick=True) == ["lookup__depth"]
    with pytest.raises(ValueError, match="no benchmark is called nonsense; there are"):
        chosen(["nonsense"], quick=False)


@pytest.mark.parametrize(
    "words", [["run", "--fs", "fat"], ["run", "--size", "5"], ["compare"], [], ["run", "nonsense"]]
)
def test_mistakes_end_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(words)
    except SystemExit as exit_:
        code = exit_.code  # type: ignore[assignment]
    assert code == 2 and "Traceback" not in capsys.readouterr().err


def _descendants(pid: int) -> list[int]:
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        try:
            for task in os.listdir(f"/proc/{one}/task"):
                todo += [int(word) for word in Path(f"/proc/{one}/task/{task}/children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found.append(one)
    return found


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _left(place: Path, runs: list[str], children: list[int]) -> list[str]:
    """What there still is of runs: files, processes, loop devices, and what begins with their names in /run and among
    the kernel's traces."""
    script = 'mount -t tracefs tracefs "$0" && ls "$0/instances"'
    alone = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(place)]
    traces = subprocess.run(alone, capture_output=True, text=True, check=False).stdout.split()
    named = [name for name in (*os.listdir("/run"), *traces) for run in runs if name.startswith(run)]
    return [
        *map(str, place.iterdir()),
        *(f"process {pid}" for pid in children if _lives(pid)),
        *(name for name in _backing_files() if str(place) in name),
        *named,
    ]


def _backing_files() -> Iterator[str]:
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # its device goes just now
            yield path.read_text()


@pytest.mark.root
def test_a_killed_run_leaves_nothing_behind(tmp_path: Path) -> None:
    """Killed anywhere: no process, mount, loop device, kernel trace or file stays."""
    choose = random.Random(20261126)
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "run",
        "copyup__first_write",
        "--quick",
        "--fs",
        "ext4",
        "--size",
        "1G",
    ]
    mounts = Path("/proc/self/mountinfo").read_text()
    for _ in range(4):
        process = subprocess.Popen(
            [*command, "--dir", str(tmp_path), "-o", str(tmp_path / "out.json")],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(choose.uniform(0.3, 5.0))
        children = _descendants(process.pid)
        runs = os.listdir(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 20
        while (left := _left(tmp_path, runs, children)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left == []
        assert Path("/proc/self/mountinfo").read_text() == mounts
