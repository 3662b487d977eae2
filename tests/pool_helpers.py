"""A store with something of everything in it, on a pool or not, and what must be true of it either way."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_helpers import assert_whole, content, make_tar

from lazarus._native import mount as mounts
from lazarus.content import pool_disk
from lazarus.content.pool import MINIMUM
from lazarus.store import Store

SIZE = MINIMUM + (20 << 20)
BIG = content("big", 400_000)
PLAIN = {*pool_disk.ROOMS, "reserve"}


def need_pool() -> None:
    """Skips with the reason when no pool can be made here."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a pool is a mounted file system")
    if shutil.which("mkfs.xfs") is None:
        pytest.skip("mkfs.xfs is not installed (Debian: xfsprogs)")
    if not mounts.supports("xfs"):
        pytest.skip("this kernel has no XFS")
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("no loop devices here: /dev/loop-control is missing")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Where a store may be; afterwards no mount and no loop device of it is left."""
    need_pool()
    try:
        yield tmp_path / "store"
    finally:
        release(tmp_path)


def fill(root: Path | str) -> None:
    """An image, a container that has changed a large file of it, what only an upper can hold, and a volume."""
    with Store(root) as store:
        tar = Path(f"{root}.tar")
        tar.write_bytes(make_tar({"big": BIG, "etc/motd": b"hello\n", "gone": b"x"}))
        try:
            store.images.import_(str(tar), "pooled:latest", changes=['CMD ["sh"]'])
        finally:
            tar.unlink()
        container = store.containers.create("pooled:latest", name="one")
        at = container.mount()
        with open(f"{at}/big", "r+b") as file:
            file.write(b"changed")
        os.unlink(f"{at}/gone")
        os.chmod(f"{at}/etc/motd", 0o600)
        os.mkfifo(f"{at}/fifo")
        os.link(f"{at}/fifo", f"{at}/fifo2")
        container.unmount()
        volume = store.volumes.create("kept", {"a": "1"})
        Path(volume.path, "file").write_bytes(BIG)
        os.chown(volume.path, 7, 8)
        os.chmod(volume.path, 0o1770)


def check(root: Path | str, *, pool: bool) -> None:
    """The store holds what fill() put there, in the layout that it should have, with nothing left over."""
    with Store(root) as store:
        assert store.pool.exists == pool
        assert_whole(store)
        assert [image.names for image in store.images.list()] == [("pooled:latest",)]
        container = store.containers.get("one")
        changes = {(change.change, change.path) for change in container.diff()}
        assert changes >= {("C", b"/big"), ("D", b"/gone"), ("C", b"/etc/motd"), ("A", b"/fifo"), ("A", b"/fifo2")}
        at = container.mount()
        assert Path(f"{at}/big").read_bytes() == b"changed" + BIG[7:]
        assert os.stat(f"{at}/fifo").st_ino == os.stat(f"{at}/fifo2").st_ino
        container.unmount()
        (volume,) = store.volumes.list()
        info = os.stat(volume.path)
        assert (volume.name, volume.labels, info.st_uid, info.st_gid, info.st_mode & 0o7777) == (
            *("kept", {"a": "1"}, 7, 8, 0o1770),
        )
        assert Path(volume.path, "file").read_bytes() == BIG
        check_layout(store, pool=pool)


def check_layout(store: Store, *, pool: bool) -> None:
    """Rooms and links where they should be, staging and trash empty, one loop device or none."""
    root, paths = store.paths.root, store.paths
    names = {name for name in os.listdir(root) if not name.startswith("lazarus.db")}
    assert names == (PLAIN | {"data", "pool"} if pool else PLAIN)
    assert all(os.path.islink(f"{root}/{room}") == pool for room in pool_disk.ROOMS)
    assert os.listdir(paths.staging) == os.listdir(paths.trash) == []
    assert store.catalogue.read().execute("SELECT count(*) FROM leases").fetchone()[0] == 0
    if pool:
        assert os.stat(paths.objects).st_dev == os.stat(paths.staging).st_dev != os.stat(root).st_dev
    wait_for_devices(root, 1 if pool else 0)


def devices(root: Path | str) -> list[str]:
    """Loop devices over files below `root`, by what the kernel says of each."""
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if path.read_text().startswith(f"{root}/"):
                found.append(path.parts[3])
        except OSError:
            continue  # it went away just now
    return found


def wait_for_devices(root: Path | str, count: int) -> None:
    """A device without a mount clears itself a moment later."""
    deadline = time.monotonic() + 10
    while len(devices(root)) != count and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(devices(root)) == count, devices(root)


def reboot(root: Path | str) -> None:
    """What a reboot does to a pool: nothing is mounted, no device is bound."""
    mounts.unmount(f"{root}/pool/mount")
    wait_for_devices(root, 0)


def release(root: Path | str) -> None:
    """Unmounts all that is mounted below `root`, however a test ended."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in reversed([point for point in points if point.startswith(f"{root}/")]):
        mounts.unmount(point, lazy=True)
    wait_for_devices(root, 0)
