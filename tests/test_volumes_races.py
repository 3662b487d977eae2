"""Two who speak of one volume at once: a copy of it, or of a snapshot, and its end; names that are wanted twice."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from container_helpers import remove_all, sh
from test_volumes_snapshots import plain  # noqa: F401  - a fixture

from lazarus.errors import ConflictError, NotFoundError
from lazarus.store import Store
from lazarus.volumes import snapshot as snapshots
from lazarus.volumes.retention import Policy

pytest_plugins = ("container_fixtures",)


@contextmanager
def descriptors(soft: int) -> Iterator[None]:
    """As many are allowed, unless somebody raises that."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_snapshot_that_is_read_keeps_its_volume(plain: Store) -> None:  # noqa: F811
    """A clone or a push of it would go on with what has not been removed yet, and take that for all."""
    volume = plain.volumes.create("db")
    plain.volumes.create("other")
    Path(volume.path, "file").write_text("1")
    found = volume.snapshot("a")
    with found.reading():
        with pytest.raises(ConflictError, match="snapshot db@a: its files are being copied; try again"):
            volume.remove()
        assert plain.volumes.prune(all=True).names == ("other",)
        volume.snapshot("b")
        with pytest.raises(ConflictError, match="snapshot db@a: its files are being copied; try again"):
            volume.forget(Policy(last=1))
    assert [one.name for one in volume.snapshots] == ["a", "b"]
    assert os.listdir(found.path) == ["file"]
    volume.remove()
    with pytest.raises(NotFoundError), found.reading():
        pass


@pytest.mark.root
@pytest.mark.parametrize("part", ["volume", "snapshot"])
def test_a_volume_without_a_name_that_is_read_outlives_its_container(store: Store, part: str) -> None:
    try:
        container = sh(store, ":", volumes=["/data"])
        [volume] = store.volumes.list()
        Path(volume.path, "file").write_text("1")
        found = volume.snapshot("a")
        with found.reading() if part == "snapshot" else volume.lock(1):
            container.remove(volumes=True)
            assert os.listdir(volume.path) == os.listdir(found.path) == ["file"] and volume.users == ()
        assert store.volumes.prune().names == (volume.name,), "and a prune takes it then"
    finally:
        remove_all(store)


def test_many_at_once(plain: Store) -> None:  # noqa: F811
    """Each that goes is locked, and locks are descriptors: more than a process may have by default."""
    volume = plain.volumes.create("db")
    with descriptors(1024):
        count = 1100
        with plain.catalogue.write() as connection:
            for number in range(count):
                connection.execute("INSERT INTO snapshots VALUES ('db', ?, ?, 0, 0, 0, 0)", (f"s{number}", number))
                os.makedirs(f"{plain.paths.snapshot('db', f's{number}')}/data")
        assert sum(not one.reasons for one in volume.forget(Policy(last=2))) == count - 2
    assert sorted(os.listdir(plain.paths.snapshots)) == [f"db@s{count - 2}", f"db@s{count - 1}"]


def test_many_volumes_with_snapshots_at_once(plain: Store) -> None:  # noqa: F811
    """A prune locks a hundred volumes at once, and the snapshots of each."""
    with descriptors(1024):
        for volume in range(100):
            plain.volumes.create(f"v{volume}")
        with plain.catalogue.write() as connection:
            for volume in range(100):
                for number in range(20):
                    connection.execute(
                        "INSERT INTO snapshots VALUES (?, ?, ?, 0, 0, 0, 0)", (f"v{volume}", f"s{number}", number)
                    )
                    os.makedirs(f"{plain.paths.snapshot(f'v{volume}', f's{number}')}/data")
        assert len(plain.volumes.prune(all=True).names) == 100
    assert os.listdir(plain.paths.volumes) == os.listdir(plain.paths.snapshots) == []


def test_two_in_one_millisecond(plain: Store, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Both chose the time as the name, before either was there: the second gets another, and its hook learns of it."""
    volume = plain.volumes.create("db")
    told: list[str] = []
    monkeypatch.setattr(snapshots, "_timed", lambda now: f"{now:.3f}")
    monkeypatch.setattr(snapshots.time, "time", lambda: 1e9)

    def before(facts: object) -> None:
        volume.snapshot()

    second = volume.snapshot(before=before, after=lambda facts: told.append(facts["SNAPSHOT"]))
    assert sorted(one.name for one in volume.snapshots) == ["1000000000.000", "1000000000.001"]
    assert told == [second.name] == ["1000000000.001"]
    with pytest.raises(ConflictError, match="snapshot db@x: there is one already"):
        volume.snapshot("x", before=lambda _: volume.snapshot("x"))


def test_a_volume_that_comes_anew_meanwhile(plain: Store, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """What was copied from the one before is no snapshot of it."""
    volume = plain.volumes.create("db")
    Path(volume.path, "old").write_text("1")
    stage = snapshots._stage

    def staged(*words: object) -> object:
        found = stage(*words)  # type: ignore[arg-type]
        monkeypatch.setattr(snapshots, "_publish", published)
        return found

    def published(*words: object) -> object:
        volume.remove()
        plain.volumes.create("db")
        return publish(*words)  # type: ignore[arg-type]

    publish = snapshots._publish
    monkeypatch.setattr(snapshots, "_stage", staged)
    with pytest.raises(NotFoundError, match="volume db: it has been removed"):
        volume.snapshot("a")
    assert plain.volumes.get("db").snapshots == () and os.listdir(plain.paths.snapshots) == []


def test_two_copies_of_one_file(plain: Store, tmp_path: Path) -> None:  # noqa: F811
    """Into the same place, over and over: the last one stays, and no copy fails."""
    volume = plain.volumes.create("db")
    failures: list[BaseException] = []

    def copy(text: str) -> None:
        source = tmp_path / text / "file"
        source.parent.mkdir()
        source.write_text(text)
        try:
            for _ in range(150):
                volume.copy_in(str(source), "/")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=copy, args=(text,)) for text in ("one", "two", "three")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and Path(volume.path, "file").read_text() in ("one", "two", "three")
