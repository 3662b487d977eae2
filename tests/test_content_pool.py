"""The pool: made, grown, remounted and destroyed, with what a store holds in it; what is refused, and how."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pool_helpers import BIG, SIZE, check, check_layout, devices, fill, reboot, root, wait_for_devices
from small_rootfs import need_runtime
from store_helpers import add_image, assert_whole, content, layer_tar, make_tar

from lazarus._native import mount as mounts
from lazarus._native import pool as native
from lazarus.content import pool as pool_module
from lazarus.content import pool_disk
from lazarus.content.pool import MINIMUM
from lazarus.errors import ConflictError, LimitError, NotFoundError, StoreError, UnsupportedError
from lazarus.store import Store

pytest_plugins = ("container_fixtures",)
pytestmark = pytest.mark.root
__all__ = ["root"]


def in_child(work: Callable[[], None]) -> int:
    """Forks, does `work` there; the pid. Its exit code is 0 when that went well."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def join(*pids: int) -> None:
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * len(pids)


# -- create and status --


def test_a_store_moves_to_its_pool_and_back(root: Path) -> None:
    fill(root)
    before = os.stat(root / "lazarus.db").st_ino
    with Store(root) as store:
        found = store.pool.create(SIZE)
        assert found == store.pool.status()._replace(allocated=found.allocated, host_free=found.host_free)
        assert (found.size, found.image_size, found.path) == (SIZE, SIZE, f"{root}/pool/image")
        assert found.reflink and found.missing == 0 and found.device in {f"/dev/{name}" for name in devices(root)}
        assert found.allocated < SIZE / 2 and found.used + found.free <= SIZE
    check(root, pool=True)
    with Store(root) as store:
        add_image(store, layer_tar("later"))
        store.prune(all_images=True)
        store.pool.destroy()
    assert os.stat(root / "lazarus.db").st_ino == before
    check(root, pool=False)


def test_checkpoints_move_too(root: Path) -> None:
    fill(root)
    with Store(root) as store:
        container = store.containers.get("one")
        container.checkpoint("kept")
        with container.stack() as stack:
            stack.open("/after", "w").close()
        [fork] = container.fork(checkpoint="kept")
        for move in (lambda: store.pool.create(SIZE), store.pool.destroy):
            move()
            assert [one.name for one in container.checkpoints()] == ["kept"]
            for one, there in ((container, True), (fork, False)):
                at = one.mount()
                assert Path(at, "big").read_bytes() == b"changed" + BIG[7:] and os.path.exists(f"{at}/after") == there
                one.unmount()
        container.rollback("kept")
        with container.stack() as stack:
            assert not stack.exists("/after")
    check(root, pool=False)


def test_a_copy_up_shares_blocks(root: Path) -> None:
    """The first write to a 32 MiB file of an image takes next to no room."""
    size = 32 << 20
    with Store(root) as store:
        store.pool.create(SIZE)
        tar = root.parent / "tar"
        tar.write_bytes(make_tar({"big": content("big", size)}))
        store.images.import_(str(tar), "big:latest", changes=['CMD ["sh"]'])
        container = store.containers.create("big:latest")
        at = container.mount()
        os.sync()
        before = store.pool.status().used
        with open(f"{at}/big", "r+b") as file:
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
        assert store.pool.status().used - before < size / 8
        container.unmount()


def test_sizes_that_cannot_be(root: Path) -> None:
    with Store(root) as store:
        for size in (0, 1, MINIMUM - 1):
            with pytest.raises(LimitError, match="at least"):
                store.pool.create(size)
        free = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize
        with pytest.raises(LimitError, match=f"{root} has room for"):
            store.pool.create(free + (1 << 30))
        check_layout(store, pool=False)
        store.pool.create(SIZE + 4097)  # whole MiB
        assert store.pool.status().size == SIZE
        with pytest.raises(ConflictError, match="has a pool already"):
            store.pool.create(SIZE)
        with pytest.raises(LimitError, match=f"has {SIZE} bytes already"):
            store.pool.grow(SIZE - 1)
        with pytest.raises(LimitError, match="has room for"):
            store.pool.grow(free * 2)
        assert store.pool.status().size == SIZE


def test_without_a_pool(root: Path) -> None:
    with Store(root) as store:
        assert not store.pool.exists
        for verb in (store.pool.status, lambda: store.pool.grow(SIZE), store.pool.destroy):
            with pytest.raises(NotFoundError, match=f"{root}: this store has no pool"):
                verb()
        check_layout(store, pool=False)


def test_what_is_missing_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(root) as store:
        with monkeypatch.context() as patch:
            patch.setattr("shutil.which", lambda *_, **__: None)
            with pytest.raises(UnsupportedError, match=r"mkfs\.xfs is not installed.*xfsprogs"):
                store.pool.create(SIZE)
        with monkeypatch.context() as patch:
            patch.setattr(mounts, "supports", lambda name: name != "xfs")
            with pytest.raises(UnsupportedError, match="no XFS"):
                store.pool.create(SIZE)
        with monkeypatch.context() as patch:
            patch.setattr("shutil.which", lambda *_, **__: "/bin/false")
            with pytest.raises(StoreError, match=r"mkfs\.xfs: exit code 1"):
                store.pool.create(SIZE)
        check_layout(store, pool=False)


def test_a_link_of_somebody_else(root: Path) -> None:
    fill(root)
    os.rename(root / "objects", root.parent / "elsewhere")
    os.symlink(root.parent / "elsewhere", root / "objects")
    with Store(root) as store, pytest.raises(StoreError, match="objects: a link of somebody else's"):
        store.pool.create(SIZE)
    os.unlink(root / "objects")
    os.rename(root.parent / "elsewhere", root / "objects")
    check(root, pool=False)


STEPS = [
    (native, "mount"),
    (native, "attach"),
    (native, "copy_tree"),
    (native, "exchange"),
    (pool_disk, "sync_file_system"),
    (pool_disk, "fsync_directory"),
    (os, "fsync"),
    (os, "rename"),
    (os, "symlink"),
]


@pytest.mark.parametrize("call", [1, 2, 5])
@pytest.mark.parametrize(("module", "name"), STEPS, ids=lambda part: part if isinstance(part, str) else "")
@pytest.mark.parametrize("verb", ["create", "destroy"])
def test_a_step_that_fails(
    root: Path, monkeypatch: pytest.MonkeyPatch, verb: str, module: Any, name: str, call: int
) -> None:
    """The call-th of a kind fails: the store is on its old side, whole; or on its new one when it had moved already."""
    fill(root)
    real, count = getattr(module, name), 0

    def failing(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == call:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments)

    with Store(root) as store:
        if verb == "destroy":
            store.pool.create(SIZE)
            store.content.reserve.fill()  # the new pool's: whether that works does not matter to any verb
        with monkeypatch.context() as patch:
            patch.setattr(module, name, failing)
            try:
                store.pool.create(SIZE) if verb == "create" else store.pool.destroy()
            except OSError as error:
                assert error.errno == errno.EIO
            else:
                assert count < call
        exists = store.pool.exists
        pool_disk.tidy_if_free(store.paths)
    check(root, pool=exists)
    with Store(root) as store:
        if exists:
            store.pool.destroy()
        store.pool.create(SIZE)
    check(root, pool=True)


def test_no_room_on_the_other_side(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that is too small for the store; a host that is too small for what the pool holds."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fill(root)
    with Store(root) as store:
        with monkeypatch.context() as patch:
            patch.setattr(native, "copy_tree", full)
            with pytest.raises(LimitError, match="the pool has no room for what the store holds; nothing has changed"):
                store.pool.create(SIZE)
        check(root, pool=False)
        store.pool.create(SIZE)
        with monkeypatch.context() as patch:
            patch.setattr(native, "copy_tree", full)
            with pytest.raises(LimitError, match="the host has no room"):
                store.pool.destroy()
        with monkeypatch.context() as patch:
            patch.setattr(pool_module, "free_bytes", lambda _: 1000)
            with pytest.raises(
                ConflictError,
                match=r"holds 1 objects, 2 blobs, 1 layers, 1 stacks, 1 containers, 1 volumes: \d+ bytes.*force",
            ):
                store.pool.destroy()
    check(root, pool=True)


# -- who is in the way --


def test_a_running_container_is_named(root: Path, small_tar: Path) -> None:
    need_runtime()
    with Store(root) as store:
        store.images.import_(str(small_tar), "small:latest", changes=['CMD ["sh"]'])
        store.containers.create("small:latest", name="idle")
        busy = store.containers.create("small:latest", name="busy", command=["sleep", "600"])
        busy.start()
        try:
            with pytest.raises(ConflictError, match="container busy: it is running"):
                store.pool.create(SIZE)
            busy.stop(0)
            store.pool.create(SIZE)
            busy.start()
            assert store.pool.grow(SIZE + (64 << 20)).size > SIZE  # in use
            for force in (False, True):
                with pytest.raises(ConflictError, match="container busy: it is running"):
                    store.pool.destroy(force=force)
            assert busy.status == "running" and len(store.containers.list(all=True)) == 2
        finally:
            busy.stop(0)
        idle = store.containers.get("idle")
        idle.mount()
        with pytest.raises(ConflictError, match="container idle: it is mounted"):
            store.pool.destroy()
        idle.unmount()
        store.pool.destroy()
        check_layout(store, pool=False)
        busy.start()
        busy.stop(0)


def test_others_at_work_are_in_the_way(root: Path) -> None:
    with Store(root) as store, Store(root) as other:
        with other.content.lease("ingest"), pytest.raises(ConflictError, match=r"is at work in it \(ingest\)"):
            store.pool.create(SIZE)
        store.pool.create(SIZE)
        with other.content.lease("ingest"), pytest.raises(ConflictError, match=r"is at work in it \(ingest\)"):
            store.pool.destroy()
        with other.content.lease("ingest"), pytest.raises(ConflictError, match=r"is at work in it \(ingest\)"):
            store.pool.destroy(force=True)
        check_layout(store, pool=True)


def test_open_stacks_are_in_the_way(root: Path) -> None:
    """Also those of another process' store, and files that are open after their stack was closed."""
    fill(root)
    with Store(root) as store, Store(root) as other:

        def is_refused(way: Callable[[], object]) -> None:
            stack = other.images.list()[0].stack()
            with stack.open("/big", "rb", buffering=0) as file:
                for _ in range(2):
                    with pytest.raises(ConflictError, match="a layer stack is open"):
                        way()
                    stack.close()
                assert file.read(7) == BIG[:7]

        is_refused(lambda: store.pool.create(SIZE))
        store.pool.create(SIZE)
        is_refused(store.pool.destroy)
        is_refused(lambda: store.pool.destroy(force=True))
        store.pool.destroy()
        assert_whole(other)


def test_a_store_that_is_open_elsewhere_need_not_know(root: Path) -> None:
    fill(root)
    with Store(root) as other:
        held = other.containers.get("one")
        with Store(root) as store:
            store.pool.create(SIZE)
        add_image(other, layer_tar("new"), blob="gzip")
        assert_whole(other)
        assert Path(f"{held.mount()}/big").read_bytes() == b"changed" + BIG[7:]
        held.unmount()
        other.containers.create("pooled:latest", name="two")
        with Store(root) as store:
            store.pool.destroy()
        assert Path(f"{held.mount()}/big").read_bytes() == b"changed" + BIG[7:]
        held.unmount()
        assert_whole(other)
        assert {container.name for container in other.containers.list(all=True)} == {"one", "two"}
        check_layout(other, pool=False)


def test_containers_made_meanwhile_are_not_lost(root: Path) -> None:
    """One process makes containers without a pause, another moves the store to and fro."""
    fill(root)
    made: list[str] = []
    done = threading.Event()

    def make() -> None:
        with Store(root) as store:
            while not done.is_set() or len(made) < 20:
                made.append(store.containers.create("pooled:latest").id)

    thread = threading.Thread(target=make)
    thread.start()
    try:
        with Store(root) as store:
            for _ in range(2):
                _patiently(lambda: store.pool.create(SIZE))
                _patiently(store.pool.destroy)
    finally:
        done.set()
        thread.join()
    with Store(root) as store:
        for name in made:
            container = store.containers.get(name)
            assert set(os.listdir(container.directory)) == {"upper", "work", "merged", "bundle"}
        assert len(store.containers.list(all=True)) == len(made) + 1
    check(root, pool=False)


def _patiently(verb: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            verb()
            return
        except ConflictError as error:  # a lease of whoever builds a stack
            assert "at work" in str(error) and time.monotonic() < deadline


def test_a_pool_does_not_move_a_volume_away_from_under_a_copy(root: Path) -> None:
    fill(root)
    with Store(root) as store:
        volume = store.volumes.get("kept")
        with volume.lock(fcntl.LOCK_SH), pytest.raises(ConflictError, match=", a volume copied, or"):
            store.pool.create(SIZE)
        store.pool.create(SIZE)
        with volume.lock(fcntl.LOCK_SH), pytest.raises(ConflictError, match=", a volume copied, or"):
            store.pool.destroy()
        with open(os.devnull, "wb") as null:
            assert volume.export(null) > len(BIG)
    check(root, pool=True)


def test_a_part_of_a_volume_that_a_killed_start_left_mounted_is_in_nobodys_way(root: Path) -> None:
    fill(root)
    with Store(root) as store:
        for move in (lambda: store.pool.create(SIZE), store.pool.destroy):
            volume = store.volumes.get("kept")
            os.makedirs(f"{volume.directory}/mounts/x", exist_ok=True)
            mounts.bind(volume.path, f"{volume.directory}/mounts/x")
            move()
    check(root, pool=False)


# -- force --


def test_force_loses_everything_and_leaves_a_good_store(root: Path) -> None:
    fill(root)
    with Store(root) as store:
        store.pool.create(SIZE)
        Path(f"{store.paths.volumes}/data").mkdir()
        store.containers.create("pooled:latest", volumes=["kept:/v"])
        store.pool.destroy(force=True)
        assert store.images.list() == [] and store.containers.list(all=True) == [] and store.volumes.list() == []
        assert os.listdir(store.paths.volumes) == os.listdir(store.paths.objects) == []
        check_layout(store, pool=False)
    fill(root)
    check(root, pool=False)


# -- mounts: reboots, namespaces, several processes --


def test_a_reboot(root: Path) -> None:
    fill(root)
    with Store(root) as store:
        store.pool.create(SIZE)
    for _ in range(3):
        reboot(root)
        check(root, pool=True)


def test_many_open_it_at_once_after_a_reboot(root: Path) -> None:
    fill(root)
    with Store(root) as store:
        store.pool.create(SIZE)
    reboot(root)

    def work() -> None:
        with Store(root) as store:
            assert len(store.images.list()) == 1

    join(*[in_child(work) for _ in range(12)])
    mounted = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{root}/pool/mount" in line]
    assert len(mounted) == 1
    wait_for_devices(root, 1)
    check(root, pool=True)


def test_another_mount_namespace_uses_the_same_device(root: Path) -> None:
    """A namespace that was there before the pool does not show it: opening mounts it there too, and writes through both
    meet in one file system."""
    fill(root)
    ready, go = os.pipe(), os.pipe()

    def work() -> None:
        os.close(ready[0])
        _unshare()
        os.write(ready[1], b"x")
        os.close(ready[1])
        os.read(go[0], 1)
        with pytest.raises(FileNotFoundError):
            os.listdir(root / "objects")
        check(root, pool=True)
        with Store(root) as store:
            add_image(store, layer_tar("theirs"))

    pid = in_child(work)
    os.close(ready[1])
    os.read(ready[0], 1)
    with Store(root) as store:
        store.pool.create(SIZE)
        os.write(go[1], b"x")
        join(pid)
        assert_whole(store)
        assert len(store.catalogue.read().execute("SELECT * FROM layers").fetchall()) == 2
    for pipe in (ready[0], *go):
        os.close(pipe)
    wait_for_devices(root, 1)


def _unshare() -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x00020000) == 0  # CLONE_NEWNS; the tests' own namespace is private already


def test_destroyed_under_another_namespace(root: Path) -> None:
    """It keeps its mount as long as it lives, and sees the store where it is now."""
    fill(root)
    with Store(root) as store:
        store.pool.create(SIZE)
    ready, go = os.pipe(), os.pipe()

    def work() -> None:
        _unshare()
        with Store(root) as store:
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            assert_whole(store)
            assert not store.pool.exists

    pid = in_child(work)
    os.read(ready[0], 1)
    with Store(root) as store:
        store.pool.destroy()
        os.write(go[1], b"x")
        join(pid)
    for pipe in (*ready, *go):
        os.close(pipe)
    check(root, pool=False)


def test_an_image_that_is_gone_is_named(root: Path) -> None:
    fill(root)
    with Store(root) as store:
        store.pool.create(SIZE)
    reboot(root)
    os.rename(root / "pool/image", root / "pool/away")
    with pytest.raises(StoreError, match="pool/image: the store's pool is gone"):
        Store(root)
    os.rename(root / "pool/away", root / "pool/image")
    check(root, pool=True)


# -- growing, room, durability --


def test_growing_finishes_what_was_interrupted(root: Path) -> None:
    fill(root)
    larger = SIZE + (100 << 20)
    with Store(root) as store:
        store.pool.create(SIZE)
        os.truncate(store.paths.pool_image, larger)  # killed after the first step
        assert store.pool.status().size == SIZE
        reboot(root)
    with Store(root) as store:
        found = store.pool.grow(larger)
        assert found.size == found.image_size == larger
        assert store.pool.grow(larger).size == larger
        assert store.pool.grow(larger + (64 << 20)).size == larger + (64 << 20)
    check(root, pool=True)


def test_prune_gives_room_back(root: Path) -> None:
    with Store(root) as store:
        store.pool.create(SIZE)
        before = store.pool.status().allocated
        add_image(store, make_tar({"big": os.urandom(40 << 20)}))
        assert store.pool.status().allocated > before + (39 << 20)
        with store.catalogue.write() as connection:
            connection.execute("DELETE FROM images")
        store.prune()
        deadline = time.monotonic() + 10  # the kernel gives it back a moment later
        while store.pool.status().allocated > before + (10 << 20) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert store.pool.status().allocated < before + (10 << 20)


def test_a_publish_flushes_the_device(root: Path) -> None:
    """An fsync inside must not end at the loop device: it reports a volatile cache, and counts flushes."""
    with Store(root) as store:
        store.pool.create(SIZE)
        block = Path("/sys/block") / devices(root)[0]
        assert (block / "queue/write_cache").read_text().strip() == "write back"
        assert (block / "loop/autoclear").read_text().strip() == "1"

        def flushes() -> int:
            return int((block / "stat").read_text().split()[15])

        before = flushes()
        add_image(store, layer_tar("new"))
        assert flushes() > before


def test_a_full_host(root: Path) -> None:
    """The image is sparse: others can take its room. Writes then fail, and nothing that was published is lost."""
    host = root.parent / "host"
    host.mkdir()
    assert os.system(f"mount -t tmpfs -o size=450M pool-test {host}") == 0
    root = host / "store"
    with Store(root) as store:
        store.pool.create(SIZE)
        add_image(store, layer_tar("before"))
        assert store.pool.status().missing == 0
        free = os.statvfs(host).f_bavail * os.statvfs(host).f_frsize
        with open(host / "filler", "wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, free - (8 << 20))
        assert store.pool.status().missing > 100 << 20
        with pytest.raises(LimitError, match="has room for"):
            store.pool.grow(SIZE + (1 << 20))
        with pytest.raises(OSError) as caught:
            add_image(store, make_tar({"big": os.urandom(64 << 20)}))
        assert caught.value.errno in (errno.ENOSPC, errno.EIO)
        os.unlink(host / "filler")
    reboot(root)
    with Store(root) as store:
        assert_whole(store)
        add_image(store, layer_tar("after"))
        assert_whole(store)
        assert len(store.catalogue.read().execute("SELECT * FROM layers").fetchall()) == 2
