"""Contenders in turns: one that fails, at first or in the middle, is missing, with the reason, and the others go on."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, ClassVar

import pytest

from benchmarks import import__real_image, lookup__depth
from benchmarks.contenders import roots, workloads
from benchmarks.contenders.turns import ask, workload
from benchmarks.harness.disks import HERE, Disk, run, why_not
from benchmarks.harness.metadata_trace import MetadataTrace
from benchmarks.harness.race import Contender, race
from lazarus import LayerStack


class Benchmark:
    """What pytest-benchmark's fixture is to a question."""

    name = "test_x"
    fullname = "benchmarks/some__question.py::test_x"

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}

    def pedantic(self, call: Any, *, rounds: int, iterations: int, setup: Any = lambda: None) -> None:
        for _ in range(rounds):
            setup()
            call()

    def rows(self, metric: str) -> dict[str, int]:
        return {row["contender"]: row["samples"] for row in self.extra_info["rows"] if row["metric"] == metric}


def failing_from(turn: int, path: Path) -> list[str]:
    """A command that works until it has been called so often."""
    return ["sh", "-c", f'echo >>"$0"; test $(wc -l <"$0") -lt {turn} || {{ echo broken >&2; exit 3; }}', str(path)]


def test_a_peer_that_fails_is_missing_and_the_others_go_on(tmp_path: Path) -> None:
    benchmark = Benchmark()
    peers = [
        Contender("good", ["true"]),
        Contender("bad at first", failing_from(1, tmp_path / "first")),
        Contender("bad in the middle", failing_from(3, tmp_path / "middle")),
        Contender("not there", ["no-such-program"]),
    ]
    race(benchmark, Contender("lazarus", ["true"]), peers, rounds=4)
    assert benchmark.rows("wall") == {"lazarus": 4, "good": 4}
    missing = benchmark.extra_info["missing"]
    assert set(missing) == {"bad at first", "bad in the middle", "not there"}
    assert "exit 3: broken" in missing["bad in the middle"] and "No such file" in missing["not there"]
    with pytest.raises(RuntimeError, match="exit 3"):
        race(benchmark, Contender("lazarus", failing_from(3, tmp_path / "ours")), [], rounds=4)


def test_a_peer_that_cannot_be_prepared_is_never_run(tmp_path: Path) -> None:
    benchmark, ran = Benchmark(), tmp_path / "ran"
    peers = [
        Contender("no store", ["touch", str(ran)], prepare=lambda: run("sh", "-c", "echo no room >&2; exit 4")),
        Contender("not there", ["touch", str(ran)], prepare=lambda: run("no-such-program")),
        Contender("client", ["true"], is_client=True),
    ]
    race(benchmark, Contender("lazarus", ["true"]), peers, rounds=1)
    assert not ran.exists() and "exit 4: no room" in benchmark.extra_info["missing"]["no store"]
    assert set(benchmark.extra_info["missing"]) == {"no store", "not there"}
    assert benchmark.rows("wall") == {"lazarus": 1, "client": 1} and benchmark.rows("cpu") == {"lazarus": 1}


def test_a_containerd_that_does_not_start_has_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(root: Path) -> list[str]:
        raise RuntimeError("containerd did not come up: no room")

    monkeypatch.setattr(import__real_image.peers, "containerd", dead)
    benchmark = Benchmark()
    race(benchmark, Contender("lazarus", ["true"]), [import__real_image._containerd(tmp_path, tmp_path)], rounds=1)
    assert benchmark.extra_info["missing"] == {"ctr image import": "containerd did not come up: no room"}


def test_a_peer_of_lookups_that_fails_is_missing() -> None:
    benchmark, turns = Benchmark(), iter(range(9))

    def failing() -> list[float]:
        if next(turns) == 1:
            raise OSError(22, "Invalid argument")
        return [2.0]

    asked = {("lazarus", "3 layers"): lambda: [1.0], ("kernel overlayfs", "3 layers"): failing}
    table = lookup__depth.in_turns(benchmark, asked, ["open"], rounds=4)
    assert [(name, len(rows), rows[0].samples) for (name, _), rows in table.items()] == [("lazarus", 1, 4)]
    assert "Invalid argument" in benchmark.extra_info["missing"]["3 layers: kernel overlayfs"]
    with pytest.raises(RuntimeError, match="ours"):
        lookup__depth.in_turns(benchmark, {("lazarus", "x"): lambda: fail("ours")}, ["open"], rounds=1)


def fail(why: str) -> Any:
    raise RuntimeError(why)


class Failing(roots.Copy):
    """A way that works until its third turn."""

    name = "failing"
    made: ClassVar[list[int]] = []

    def make(self) -> None:
        self.made.append(1)
        if len(self.made) == 3:
            raise RuntimeError("no more")
        super().make()


class Unclosed(roots.Copy):
    name = "unclosed"

    def close(self) -> None:
        raise OSError(16, "Device or resource busy")


class Unprepared(roots.Copy):
    name = "unprepared"

    def prepare(self) -> None:
        raise OSError(28, "No space left on device")


def test_ways_that_fail_are_missing_and_leave_nothing(tmp_path: Path) -> None:
    benchmark = Benchmark()
    with Disk(tmp_path, HERE, 0) as disk:
        lower = roots.lower_with_big(disk.path / "lower", 1 << 20)
        ways = (roots.BlockStack, Failing, Unprepared, Unclosed, roots.Plain)
        ask(benchmark, disk, ways, workload("random_writes", 3), lower=lower, case="3 writes", rounds=4)
        assert sorted(path.name for path in disk.path.iterdir()) == ["0", "1", "2", "3", "4", "lower"]
        assert [list(path.iterdir()) for path in disk.path.glob("[0-9]")] == [[]] * 5
    assert benchmark.rows("first write") == {"lazarus": 4, "limit: a plain directory": 4}
    missing = {name.rpartition(": ")[2]: why for name, why in benchmark.extra_info["missing"].items()}
    assert missing["failing"] == "no more" and "No space left" in missing["unprepared"]
    assert "busy" in missing["unclosed"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
def test_some_turns_are_committed_by_those_who_can(tmp_path: Path) -> None:
    benchmark = Benchmark()
    with Disk(tmp_path, HERE, 0) as disk:
        lower = roots.lower_with_big(disk.path / "lower", 1 << 20)
        work, ways = workload("append", 1), (roots.KernelOverlay, roots.Plain)
        ask(benchmark, disk, ways, work, lower=lower, case="x", rounds=5, commit=True)
    assert benchmark.rows("commit") == {roots.KernelOverlay.name: 3}
    assert benchmark.rows("fsync") == {roots.KernelOverlay.name: 5, roots.Plain.name: 5}


def test_ours_that_fails_is_an_error(tmp_path: Path) -> None:
    class Broken(Unprepared):
        name = "lazarus (broken)"

    with Disk(tmp_path, HERE, 0) as disk, pytest.raises(RuntimeError, match=r"of ours: .*No space left"):
        lower = roots.lower_with_big(disk.path / "lower", 1 << 20)
        ask(Benchmark(), disk, (Broken,), workload("append", 1), lower=lower, case="x", rounds=1)


@pytest.mark.parametrize("name", sorted(workloads.WORKLOADS))
def test_a_workload_does_the_same_in_a_directory_and_in_a_stack(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lower = roots.lower_with_big(tmp_path / "lower", 1 << 20)
    workloads.fill(str(lower), 20)
    plain = roots.Plain(tmp_path, lower)
    plain.make()
    for word in ("upper", "work"):
        (tmp_path / word).mkdir()
    stack = ("stack", str(lower), f"{tmp_path}/upper", f"{tmp_path}/work", "auto")
    answers = []
    for target in (plain.target, stack):
        workloads.main([name, "20", *target])
        answers.append(json.loads(capsys.readouterr().out))
    assert list(answers[0]["seconds"]) == list(answers[1]["seconds"]) and answers[0]["asked"] == answers[1]["asked"]
    with LayerStack([lower], upper=tmp_path / "upper", work=tmp_path / "work") as found:
        for top, directories, files in os.walk(plain.path):
            where = os.path.relpath(top, plain.path)
            assert sorted(map(os.fsdecode, found.listdir(where))) == sorted(directories + files)
            for one in directories + files:
                path = f"{where}/{one}"
                assert found.stat(path).st_mode == os.stat(f"{plain.path}/{path}").st_mode
                if one in files and name not in ("random_writes", "append"):  # which write random bytes
                    with found.open(path, "rb") as file:
                        assert file.read() == Path(f"{plain.path}/{path}").read_bytes()


@pytest.mark.root
def test_metadata_is_told_from_data(tmp_path: Path) -> None:
    for kind in ("ext4", "xfs", "btrfs"):
        if (reason := why_not(kind, tmp_path, 1 << 30)) is not None:
            print(f"{kind}: {reason}")
            continue
        with Disk(tmp_path, kind, 1 << 30) as disk:
            with disk.counting() as idle:
                pass
            with disk.counting() as written:
                (disk.path / "file").write_bytes(os.urandom(4 << 20))
            with disk.counting() as named:
                for number in range(100):
                    (disk.path / f"empty-{number}").touch()
            assert idle.all is not None and idle.all < 1 << 20
            assert written.all is not None and written.all >= 4 << 20
            if disk.why_no_metadata:
                print(f"{kind}: {disk.why_no_metadata}")
                continue
            assert written.data == 4 << 20 and written.metadata == written.all - (4 << 20)
            assert named.data == 0 and named.metadata is not None and named.metadata > 0
        assert list(tmp_path.iterdir()) == []


@pytest.mark.root
def test_metadata_of_a_partition_is_its_own(tmp_path: Path) -> None:
    """The kernel tells requests of the whole disk, here with a file system on each of two partitions."""
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    with contextlib.ExitStack() as closing:
        loop = run("losetup", "--find", "--show", "--partscan", str(image))
        closing.callback(run, "losetup", "--detach", loop)
        for number in (1, 2):
            run("addpart", loop, str(number), str((number * 32 - 31) << 11), str(30 << 11))
            closing.callback(run, "delpart", loop, str(number))
            place = tmp_path / str(number)
            place.mkdir()
            run("mkfs.ext4", "-q", f"{loop}p{number}")
            run("mount", f"{loop}p{number}", str(place))
            closing.callback(run, "umount", str(place))
        try:
            trace = closing.enter_context(MetadataTrace(f"{loop}p1", f"{tmp_path.name}-p", tmp_path / "tracing"))
        except (OSError, RuntimeError) as error:
            pytest.skip(f"no trace of a block device: {error}")
        written = []
        for number in (1, 2):
            os.sync()
            trace.start()
            for name in range(100):
                (tmp_path / f"{number}/empty-{name}").touch()
            os.sync()
            written.append(trace.stop())
        assert written[0] and written[1] == 0


def test_a_device_without_requests_has_no_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_dir", lambda path: path.name != "mq" and os.path.isdir(path))
    device = next(Path("/sys/class/block").iterdir())
    with pytest.raises(RuntimeError, match="has no queue of requests"):
        MetadataTrace(str(device), "any", tmp_path / "tracing")
