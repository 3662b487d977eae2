"""kill -9 at any line of taking, going back to, cloning and removing snapshots, and a full disk: before or after.

The moments are those of test_volumes_faults.py.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from kill_at_lines import run_until
from store_helpers import assert_whole
from test_volumes_faults import leave, on_a_small_disk

from lazarus.errors import one_line
from lazarus.store import Store
from lazarus.volumes.retention import Policy

ROOMS = (
    "/lazarus/volumes/",
    "/lazarus/content/collect.py",
    "/lazarus/content/lease.py",
    "/lazarus/containers/freeze.py",
)
Facts = tuple[dict[str, str], list[str], list[str]]


def volume_files(path: str) -> dict[str, str]:
    return {name: Path(path, name).read_text() for name in sorted(os.listdir(path))}


def facts(store: Store) -> Facts:
    """What the volume holds; its snapshots; all volumes."""
    volume = store.volumes.get("db")
    return volume_files(volume.path), [one.name for one in volume.snapshots], [one.name for one in store.volumes.list()]


def prepare(store: Store) -> None:
    for volume in store.volumes.list():
        volume.remove()
    volume = store.volumes.create("db")
    Path(volume.path, "file").write_text("old")
    Path(volume.path, "gone").write_text("old")
    volume.snapshot("a")
    Path(volume.path, "file").write_text("new")
    os.unlink(f"{volume.path}/gone")
    Path(volume.path, "more").write_text("new")


OLD, NEW = {"file": "old", "gone": "old"}, {"file": "new", "more": "new"}


@pytest.mark.parametrize(
    ("act", "outcomes"),
    [
        (lambda store: store.volumes.get("db").snapshot("b"), [(NEW, ["a"], ["db"]), (NEW, ["a", "b"], ["db"])]),
        (lambda store: store.volumes.get("db").rollback("a"), [(NEW, ["a"], ["db"]), (OLD, ["a"], ["db"])]),
        (
            lambda store: store.volumes.get("db").rollback("a", keep="b"),
            [(NEW, ["a"], ["db"]), (NEW, ["a", "b"], ["db"]), (OLD, ["a", "b"], ["db"])],
        ),
        (lambda store: store.volumes.get("db").clone("c"), [(NEW, ["a"], ["db"]), (NEW, ["a"], ["c", "db"])]),
        (
            lambda store: store.volumes.get("db").clone("c", snapshot="a"),
            [(NEW, ["a"], ["db"]), (NEW, ["a"], ["c", "db"])],
        ),
        (lambda store: store.volumes.get("db").get_snapshot("a").remove(), [(NEW, ["a"], ["db"]), (NEW, [], ["db"])]),
    ],
    ids=["snapshot", "rollback", "rollback and keep", "clone", "clone of a snapshot", "remove"],
)
def test_killed_at_any_moment(tmp_path: Path, act: Callable[[Store], object], outcomes: list[Facts]) -> None:
    killed_at_any_moment(tmp_path / "store", act, outcomes, 40)


def killed_at_any_moment(root: Path, act: Callable[[Store], object], outcomes: list[Facts], moments: int) -> None:
    with Store(root) as store:
        prepare(store)
    total = run_until(ROOMS, root, act, None)
    assert total is not None and total > 20
    with Store(root) as store:
        assert facts(store) == outcomes[-1]
    met = set()
    step = max(1, total // moments)
    for moment in range(step // 2, total, step):
        with Store(root) as store:
            prepare(store)
        assert run_until(ROOMS, root, act, moment) is None
        with Store(root) as store:
            assert os.listdir(store.paths.staging) == os.listdir(store.paths.trash) == [], moment
            found = facts(store)
            assert found in outcomes, (moment, found)
            met.add(outcomes.index(found))
            for name, expected in (("a", OLD), ("b", NEW)):
                if name in found[1]:
                    assert volume_files(store.volumes.get("db").get_snapshot(name).path) == expected
            if "c" in found[2]:
                assert volume_files(store.volumes.get("c").path) in (OLD, NEW)
            store.prune()
            assert sorted(os.listdir(store.paths.snapshots)) == [f"db@{name}" for name in found[1]]
            act_again(store)
    assert met == set(range(len(outcomes))), "each of them was met"


@pytest.mark.root
def test_killed_on_btrfs(tmp_path: Path) -> None:
    """Where the volume is a subvolume, and what is staged a snapshot of it."""
    (disk := tmp_path / "disk").mkdir()
    with open(image := tmp_path / "image", "wb") as file:
        file.truncate(256 << 20)
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    line = f"mkfs.btrfs -q {image} >/dev/null && mount -o loop {image} {disk}"
    if subprocess.run(line, shell=True, env=environment, check=False).returncode != 0:
        pytest.skip("no btrfs can be made here")
    try:
        acts: list[tuple[Callable[[Store], object], list[Facts]]] = [
            (lambda store: store.volumes.get("db").snapshot("b"), [(NEW, ["a"], ["db"]), (NEW, ["a", "b"], ["db"])]),
            (lambda store: store.volumes.get("db").rollback("a"), [(NEW, ["a"], ["db"]), (OLD, ["a"], ["db"])]),
            (lambda store: store.volumes.get("db").clone("c"), [(NEW, ["a"], ["db"]), (NEW, ["a"], ["c", "db"])]),
        ]
        for act, outcomes in acts:
            killed_at_any_moment(disk / "store", act, outcomes, 12)
        with Store(disk / "store") as store:
            assert os.stat(store.volumes.get("db").path).st_ino == 256  # a subvolume still
    finally:
        subprocess.run(["umount", disk], check=True)


def act_again(store: Store) -> None:
    """Whatever was left, the same names can be used."""
    volume = store.volumes.get("db")
    for name in ("a", "b"):
        if name not in [found.name for found in volume.snapshots]:
            volume.snapshot(name)
        volume.rollback(name)


def test_a_hook_that_kills_us(tmp_path: Path) -> None:
    """What the hook before has begun stays begun, and nothing else is left."""
    with Store(tmp_path / "store") as store:
        prepare(store)

    def act(store: Store) -> None:
        store.volumes.get("db").snapshot("b", before=lambda _: os.kill(os.getpid(), 9))

    assert run_until((), tmp_path / "store", act, 0) is None
    with Store(tmp_path / "store") as store:
        assert facts(store) == (NEW, ["a"], ["db"]) and os.listdir(store.paths.staging) == []


def fill_the_disk(disk: Path) -> None:
    with Store(disk / "store") as store:
        volume = store.volumes.create("db")
        for number in range(10):
            Path(volume.path, f"f{number}").write_bytes(os.urandom(100_000))
        volume.snapshot("a")
        acts: list[Callable[[], object]] = [
            lambda: volume.snapshot("b"),
            lambda: volume.clone("c"),
            lambda: volume.clone("c", snapshot="a"),
            lambda: volume.rollback("a"),
            lambda: volume.rollback("a", keep="b"),
        ]
        inodes = [os.stat(f"{volume.path}/f{number}").st_ino for number in range(10)]
        for free in (0, 300_000, 800_000):
            leave(disk, free)
            for act in acts:
                with pytest.raises(OSError, match="No space left on device") as caught:
                    act()
                assert "\n" not in str(caught.value)
                said = one_line(caught.value)
                assert free == 0 or said.startswith(("volume db: copying /f", "volume c: copying /f")), said
                assert os.listdir(store.paths.staging) == os.listdir(store.paths.trash) == []
                assert os.listdir(store.paths.snapshots) == ["db@a"] and os.listdir(store.paths.volumes) == ["db"]
                assert [os.stat(f"{volume.path}/f{number}").st_ino for number in range(10)] == inodes
        leave(disk, 0)
        volume.get_snapshot("a").remove()  # makes room
        leave(disk, 1_400_000)
        volume.snapshot("b")
        leave(disk, 0)
        assert [found.snapshot.name for found in volume.forget(Policy(last=1))] == ["b"]
        volume.remove()
        (disk / "ballast").unlink()
        assert os.listdir(store.paths.snapshots) == []
        assert_whole(store)


@pytest.mark.root
def test_a_full_disk(tmp_path: Path) -> None:
    on_a_small_disk(tmp_path, fill_the_disk)
