"""kill -9 at any line of making, populating and removing a volume, and a disk that is full: the volume or nothing.

The moments are those of test_kill.py: the child counts the lines that it runs in the rooms concerned and kills itself
before the n-th.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from container_helpers import sh, start
from kill_at_lines import run_until
from store_helpers import add_image, assert_whole, make_tar

from lazarus.content.usage import disk_usage
from lazarus.errors import NotFoundError
from lazarus.store import Store
from lazarus.volumes import populate

pytest_plugins = ("container_fixtures",)
ROOMS = ("/lazarus/volumes/", "/lazarus/content/collect.py", "/lazarus/content/lease.py", "/lazarus/content/trash.py")
ROOMS += ("/lazarus/containers/shown.py", "/lazarus/containers/containers.py")


def killed_at_any_moment(
    root: Path, prepare: Callable[[Store], object], act: Callable[[Store], object], check: Callable[[Store], object]
) -> None:
    """From the same beginning, the act dies at every few moments; what a store that is opened then shows is checked."""
    with Store(root) as store:
        prepare(store)
    total = run_until(ROOMS, root, act, None)
    assert total is not None and total > 20
    with Store(root) as store:
        check(store)
    step = max(1, total // 30)
    for moment in range(step // 2, total, step):
        with Store(root) as store:
            prepare(store)
        died = run_until(ROOMS, root, act, moment) is None
        with Store(root) as store:
            try:
                assert os.listdir(store.paths.staging) == os.listdir(store.paths.trash) == []
                assert store.catalogue.read().execute("SELECT count(*) FROM leases").fetchone()[0] == 0
                rows = {volume.name for volume in store.volumes.list()}
                assert rows <= set(os.listdir(store.paths.volumes)), "no row without its directory"
                check(store)
                store.prune()
                rows = {volume.name for volume in store.volumes.list()}
                assert rows == set(os.listdir(store.paths.volumes)), "and no directory without a row is left for long"
            except BaseException:
                print(f"killed at {moment} of {total}: {died}")
                raise


def test_killed_while_it_is_made(tmp_path: Path) -> None:
    def prepare(store: Store) -> None:
        store.volumes.remove("db", missing_ok=True)

    def check(store: Store) -> None:
        volume = store.volumes.find("db")
        assert volume is None or (volume.fresh and volume.labels == {"a": "1"} and os.listdir(volume.path) == [])
        assert store.volumes.create("db", exist_ok=True).fresh

    killed_at_any_moment(tmp_path / "store", prepare, lambda store: store.volumes.create("db", {"a": "1"}), check)


def test_killed_while_it_is_removed(tmp_path: Path) -> None:
    def prepare(store: Store) -> None:
        for name in ("db", "kept"):
            volume = store.volumes.create(name, exist_ok=True)
            os.makedirs(f"{volume.path}/sub", exist_ok=True)
            Path(volume.path, "sub/file").write_text("x")

    def check(store: Store) -> None:
        assert Path(store.volumes.get("kept").path, "sub/file").read_text() == "x"
        volume = store.volumes.find("db")
        assert volume is None or Path(volume.path, "sub/file").read_text() == "x", "all of it, or nothing"
        assert os.listdir(store.volumes.create("new").path) == []
        store.volumes.remove("new")

    killed_at_any_moment(tmp_path / "store", prepare, lambda store: store.volumes.remove("db"), check)


@pytest.fixture
def root(store: Store, small_root: Path) -> Iterator[Path]:
    yield small_root
    for container in store.containers.list(all=True):
        container.remove(force=True, volumes=True)
    store.volumes.prune(all=True)


@pytest.mark.root
def test_killed_while_a_container_is_made_with_it(root: Path) -> None:
    def prepare(store: Store) -> None:
        for container in store.containers.list(all=True):
            container.remove(volumes=True)
        store.volumes.prune(all=True)

    def check(store: Store) -> None:
        volumes = store.volumes.list()
        try:
            container = store.containers.get("one")
        except NotFoundError:
            assert volumes == [], "made together"
        else:
            assert len(volumes) == 2 and all(volume.users == ("one",) for volume in volumes)
            container.remove(volumes=True)
            assert [volume.name for volume in store.volumes.list()] == ["db"]

    killed_at_any_moment(root, prepare, lambda store: sh(store, ":", name="one", volumes=["db:/v", "/anon"]), check)


@pytest.mark.root
def test_killed_while_it_is_populated(root: Path) -> None:
    def prepare(store: Store) -> None:
        for container in store.containers.list(all=True):
            container.remove()
        store.volumes.remove("db", missing_ok=True)
        sh(store, "cat /data/file", name="one", volumes=["db:/data"])

    def act(store: Store) -> None:
        volume, container = store.volumes.get("db"), store.containers.get("one")
        populate.settle(volume, (container.settings.diff_ids, "/data"))

    def check(store: Store) -> None:
        volume = store.volumes.get("db")
        assert sorted(os.listdir(volume.path)) in ([], ["file", "link"]), "all of it, or nothing"
        assert volume.fresh or os.listdir(volume.path) != []
        assert start(store.containers.get("one")) == (0, "from the image\n")
        assert not volume.fresh

    killed_at_any_moment(root, prepare, act, check)
    assert str(root) not in Path("/proc/self/mountinfo").read_text()


# -- a full disk --


def on_a_small_disk(place: Path, work: Callable[[Path], None], size: int = 24 << 20) -> None:
    """In a child with a mount namespace of its own, so nothing can be left mounted."""
    child = os.fork()
    if child == 0:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.unshare(0x20000) == 0, os.strerror(ctypes.get_errno())
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            (disk := place / "disk").mkdir()
            with open(place / "image", "wb") as file:
                file.truncate(size)
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-N", "2048", place / "image"], check=True)
            subprocess.run(["mount", "-o", "loop", place / "image", disk], check=True)
            work(disk)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def leave(disk: Path, free: int) -> None:
    """Fills the disk until only about `free` bytes are left."""
    (disk / "ballast").unlink(missing_ok=True)
    subprocess.run(["sync", "-f", disk], check=True)
    status = os.statvfs(disk)
    with open(disk / "ballast", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - free - (64 << 10))


def populate_until_it_fits(disk: Path) -> None:
    with Store(disk / "store") as store:
        (diff_id,) = add_image(store, make_tar({f"data/{n}": os.urandom(100_000) for n in range(10)}))
        store.volumes.create("db")
        failures = 0
        for free in (0, 200_000, 600_000, 4_000_000):
            volume = store.volumes.create(f"db{free}")
            store.stacks.open([diff_id])
            leave(disk, free)
            try:
                populate.settle(volume, ([diff_id], "/data"))
            except OSError as error:
                assert "No space left on device" in str(error) and "\n" not in str(error)
                failures += 1
                assert volume.fresh and os.listdir(volume.path) == []
                assert os.listdir(store.paths.staging) == []
            else:
                assert len(os.listdir(volume.path)) == 10 and not volume.fresh
            leave(disk, 0)
            volume.remove()
            assert store.volumes.find(volume.name) is None and os.listdir(store.paths.volumes) == ["db"]
            (disk / "ballast").unlink()
        assert failures == 3
        assert_whole(store)
        leave(disk, 0)
        store.content.reserve.give()
        leave(disk, 0)
        with pytest.raises(OSError, match="No space"):
            store.volumes.create("new")
        assert [found.name for found in store.volumes.list()] == ["db"]
        assert disk_usage(store.paths.volumes).files == 0
        store.volumes.remove("db")


@pytest.mark.root
def test_a_full_disk(tmp_path: Path) -> None:
    on_a_small_disk(tmp_path, populate_until_it_fits)
