"""The benchmarks' own tools: what is asked, the page and its figures; a killed run leaves nothing behind."""

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
from xml.etree import ElementTree

import pytest
from benchmark_helpers import row, write

from benchmarks.__main__ import _parser, main
from benchmarks.harness import results
from benchmarks.harness import run as running
from benchmarks.harness.race import measure
from benchmarks.harness.results import Row
from benchmarks.harness.run import QUICK, chosen, questions
from benchmarks.reporting import headline, plots

ROOT = Path(__file__).resolve().parent.parent


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


def test_history(tmp_path: Path) -> None:
    rate = row("lazarus", 9, metric="rate", unit="x/s")
    run = str(write(tmp_path / "a.json", row("lazarus", 2.0, 0.5), row("podman", 4.0), rate))
    lines, github = tmp_path / "lines", tmp_path / "github"
    for _ in range(2):
        assert main(["history", run, "--lines", str(lines), "--github", str(github)]) == 0
    kept = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [line["median"] for line in kept] == [2.0, 4.0, 9] and kept[0]["commit"] == "abc"
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
        (0.0009997, "s", "1 ms"),
        (0.9997, "s", "1 s"),
        (999.7, "MiB", "1,000 MiB"),
        (999_700.0, "B", "1 MB"),
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
    "words",
    [
        ["run", "--fs", "fat"],
        ["run", "--size", "5"],
        ["compare"],
        [],
        ["run", "nonsense"],
        ["compare", "old", "new", "--fail-over", "10"],  # 1,000 %?
        ["compare", "old", "new", "--fail-over", "nan"],
    ],
)
def test_mistakes_end_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(words)
    except SystemExit as exit_:
        code = exit_.code  # type: ignore[assignment]
    assert code == 2 and "Traceback" not in capsys.readouterr().err


def test_who_may_not_make_namespaces_is_asked_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root in many a container."""
    unshare = tmp_path / "unshare"
    unshare.write_text("#!/bin/sh\nexit 1\n")
    unshare.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert running._alone() == ["setpriv", "--pdeathsig", "KILL"]


@pytest.mark.root
def test_what_is_called_as_the_run_goes_with_it(tmp_path: Path) -> None:
    """Its directory, what is in /run, and the cgroups of runtimes that were killed."""
    directory = tmp_path / f"bench-test{os.getpid()}"
    one = Path("/sys/fs/cgroup")
    cgroup = (one if (one / "cgroup.controllers").exists() else one / "pids") / directory.name
    volatile = Path(f"/run/{directory.name}-0")
    for path in (directory / "some", volatile):
        path.mkdir(parents=True)
        (path / "file").touch()
    try:
        (cgroup / "container").mkdir(parents=True)
    except OSError as error:
        print(f"no cgroups: {error}")
    janitor = [sys.executable, "-I", "-S", str(running.HERE / "janitor.py"), "0", str(directory)]
    subprocess.run(janitor, stdin=subprocess.DEVNULL, check=True)
    assert not any(path.exists() for path in (directory, volatile, cgroup))


def test_a_file_system_is_asked_once() -> None:
    assert _parser().parse_args(["run", "--fs", "xfs,ext4,,xfs"]).fs == ["xfs", "ext4"]


def test_a_peer_that_hangs_is_given_up() -> None:
    with pytest.raises(RuntimeError, match="sleep: not done after 1 s"):
        measure(["sleep", "60"], patience=1)
    assert measure(["true"], patience=1).wall < 1


def test_the_headline_compares_like_with_like() -> None:
    """A call is not put beside a command of somebody else's."""
    (commit,) = (wanted for wanted in headline.WANTED if wanted.question == "commit__small_change")
    assert commit.contender == "lazarus commit" and commit.what.endswith("from the shell")


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
def test_an_interrupted_run_keeps_what_was_measured(tmp_path: Path) -> None:
    """As a terminal interrupts it: all of its processes. Asked are two questions, of which the second lasts."""
    command = [sys.executable, "-m", "benchmarks", "run", "harness", "start__run_true", "--quick"]
    output = tmp_path / "out.json"
    # It is not one of our workers, where benchmarks are disabled; and what it says comes at once.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    with subprocess.Popen(
        [*command, "--dir", str(tmp_path), "-o", str(output)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0,
        env=environment | {"PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        seen = ""
        while "\n." not in seen and process.poll() is None:  # the first one's end
            seen += process.stdout.read(1)
        os.killpg(process.pid, signal.SIGINT)
        seen += process.stdout.read()
    assert process.returncode == 130, seen
    assert f"until it was interrupted: {output}" in seen, seen
    assert {key.question for key in results.read(output).rows} == {"harness__overhead"}
    assert os.listdir(tmp_path) == ["out.json"]


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
