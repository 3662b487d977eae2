"""What a new volume begins with: the image's directory, all of it, once, by whoever mounts it first."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_helpers import IMAGE, clean, remove_all, run, sh, start
from pool_helpers import SIZE, need_pool, release

from lazarus.errors import ContainerRuntimeError
from lazarus.store import Store
from lazarus.volumes import populate

pytest_plugins = ("container_fixtures",)
pytestmark = pytest.mark.root
BIG = os.urandom(200_000)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar of a directory that has something of everything in it."""
    place = tmp_path_factory.mktemp("full")
    tree = place / "srv"
    (tree / "sub/deep").mkdir(parents=True)
    (tree / "big").write_bytes(BIG)
    (tree / "small").write_text("small\n")
    (tree / "gone").write_text("gone\n")
    (tree / "link").symlink_to("/srv/big")
    os.link(tree / "big", tree / "sub/same")
    with open(tree / "holes", "wb") as file:
        file.write(b"x" * 4096)
        file.seek(1 << 20)
        file.write(b"y" * 4096)
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.setxattr(tree / "small", "user.note", b"kept")
    os.chown(tree / "small", 7, 8)
    (tree / "small").chmod(0o4751)
    os.utime(tree / "small", ns=(1_000_000_000_123_456_789,) * 2)
    os.chown(tree, 70, 71)
    os.setxattr(tree, "user.top", b"1")
    tree.chmod(0o1770)
    tar = ["tar", "--xattrs", "--sparse", "--format=pax", "--numeric-owner", "-C", str(place), "-cf"]
    subprocess.run([*tar, str(place / "one.tar"), "srv"], check=True)
    return place / "one.tar"


@pytest.fixture
def full(store: Store, everything: Path) -> str:
    """An image of two layers that has that directory as a volume; the second layer changes what is in the first."""
    first = sh(store, "rm /srv/gone; echo more >> /srv/small; mkdir /srv/new; ln -s srv /also")
    with open(everything, "rb") as file:
        first.copy_in(file, "/", archive=True)
    first.commit("full:one", compression="none")
    second = store.containers.create("full:one", command=first.settings.args)
    assert second.start(attach=True) == 0
    second.commit("full:latest", changes=["VOLUME /srv"], compression="none")
    first.remove()
    second.remove()
    return "full:latest"


@pytest.fixture(autouse=True)
def no_volumes_left(store: Store) -> Iterator[None]:
    remove_all(store)
    yield
    remove_all(store)
    assert os.listdir(store.paths.volumes) == os.listdir(store.paths.staging) == []


def facts(path: str) -> tuple[object, ...]:
    """What a copy has to keep of one name."""
    info = os.lstat(path)
    plain = not stat.S_ISLNK(info.st_mode)
    return (
        info.st_mode,
        info.st_uid,
        info.st_gid,
        info.st_mtime_ns,
        info.st_rdev,
        info.st_size if stat.S_ISREG(info.st_mode) else 0,
        os.readlink(path) if not plain else "",
        {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)},
        Path(path).read_bytes() if stat.S_ISREG(info.st_mode) else b"",
    )


def whole(top: str) -> dict[str, tuple[object, ...]]:
    found = {".": facts(top)}
    for directory, directories, files in os.walk(top):
        for name in directories + files:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, top)] = facts(path)
    return found


def test_everything_of_a_directory(store: Store, full: str) -> None:
    container = store.containers.create(full, command=["sh", "-c", ":"], volumes=["db:/srv"])
    expected = whole(f"{container.mount()}/srv")
    container.unmount()
    volume = store.volumes.get("db")
    assert volume.fresh and start(container) == (0, "")
    assert whole(volume.path) == expected and not volume.fresh
    assert set(expected) >= {"big", "small", "link", "holes", "fifo", "null", "sub/deep", "new"}
    assert "gone" not in expected and expected["."][:3] == (stat.S_IFDIR | 0o1770, 70, 71)
    assert os.path.samefile(f"{volume.path}/big", f"{volume.path}/sub/same")
    assert os.stat(f"{volume.path}/holes").st_blocks * 512 < 100_000, "holes are holes"
    for directory, directories, files in os.walk(volume.path):
        for name in directories + files:
            names = os.listxattr(os.path.join(directory, name), follow_symlinks=False)
            assert not [name for name in names if "overlay" in name], "no marks of a union"


def test_only_once(store: Store, full: str) -> None:
    script = "rm -rf /srv/*"
    for _ in range(2):
        container = store.containers.create(full, command=["sh", "-c", script], volumes=["db:/srv"])
        assert start(container) == (0, "")
        assert os.listdir(store.volumes.get("db").path) == []


def test_whoever_comes_first_decides(store: Store, full: str, tmp_path: Path) -> None:
    assert run(store, "echo mine > /v/mine", volumes=["db:/v"])[0] == 0, "its image has nothing there"
    for volumes in (["db:/srv"], ["db:/srv", "other:/srv/sub:nocopy"]):
        start(store.containers.create(full, command=["sh", "-c", ":"], volumes=volumes))
    assert os.listdir(store.volumes.get("db").path) == ["mine", "sub"], "the mount point of the other"
    for _ in range(2):
        start(store.containers.create(full, command=["sh", "-c", ":"], volumes=["other:/srv"]))
        assert os.listdir(store.volumes.get("other").path) == [], "nocopy was first"
    with pytest.raises(ContainerRuntimeError):
        store.containers.create(full, command=["sh"], volumes=["part:/srv:subpath=none"]).start()
    assert store.volumes.get("part").fresh, "nothing has been mounted"


def test_through_a_symlink_and_over_a_file(store: Store, full: str) -> None:
    start(store.containers.create(full, command=["sh", "-c", ":"], volumes=["db:/also/sub"]))
    assert sorted(os.listdir(store.volumes.get("db").path)) == ["deep", "same"]
    with pytest.raises(ContainerRuntimeError):
        store.containers.create(full, command=["sh"], volumes=["file:/srv/small"]).start()
    assert os.listdir(store.volumes.get("file").path) == []


def test_volumes_without_a_name_are_populated_too(store: Store, full: str) -> None:
    container = store.containers.create(full, command=["sh", "-c", "cat /srv/small"])
    assert start(container) == (0, "small\nmore\n")
    assert container.diff() == []
    again = store.containers.create(full, command=["sh", "-c", "cat /srv/small; echo x > /srv/x"], auto_remove=True)
    assert start(again) == (0, "small\nmore\n")
    assert len(store.volumes.list()) == 1


def test_two_start_at_once(store: Store, full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One populates, the other waits, and finds it whole."""
    copies = 0
    copy = populate._copy

    def slowly(*arguments: object) -> str | None:
        nonlocal copies
        copies += 1
        waiting.wait(0.3)
        return copy(*arguments)  # type: ignore[arg-type]

    waiting = threading.Event()
    monkeypatch.setattr(populate, "_copy", slowly)
    make = lambda: store.containers.create(full, command=["sh", "-c", "cat /srv/small"], volumes=["db:/srv"])  # noqa: E731
    results: list[tuple[int | None, str]] = []
    threads = [threading.Thread(target=lambda one=one: results.append(start(one))) for one in (make(), make(), make())]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [(0, "small\nmore\n")] * 3 and copies == 1


def test_processes_at_once(store: Store, full: str) -> None:
    words = [sys.executable, "-m", "lazarus", "--root", store.paths.root, "run", "--rm", "-v", "db:/srv", full]
    runs = [subprocess.Popen([*words, "cat", "/srv/small"], stdout=subprocess.PIPE) for _ in range(4)]
    assert [done.communicate()[0] for done in runs] == [b"small\nmore\n"] * 4


def test_an_error_leaves_it_fresh(store: Store, full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    container = store.containers.create(full, command=["sh", "-c", "cat /srv/small"], volumes=["db:/srv"])

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "/somewhere")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("lazarus._native.pool.copy_tree", fail)
        container.start()
    volume = store.volumes.get("db")
    assert volume.fresh and os.listdir(volume.path) == [] and os.listdir(store.paths.staging) == []
    assert start(container) == (0, "small\nmore\n")


def test_recovery_unmounts_what_a_killed_process_left(store: Store, small_root: Path) -> None:
    """Killed between mounting the image and taking the mount out of the tree: the narrowest of gaps."""
    child = os.fork()
    if child == 0:
        with Store(small_root) as own, own.content.lease("volume") as lease:
            os.mkdir(upper := lease.new_path("upper"))
            import lazarus.mounts

            lazarus.mounts.detach = lambda *_, **__: os._exit(0)  # type: ignore[assignment]
            populate._mounted(own, lease, own.images.get(IMAGE).diff_ids, upper)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert "/merged" in Path("/proc/self/mountinfo").read_text()
    with Store(small_root) as other:
        assert os.listdir(other.paths.staging) == []
    assert str(small_root) not in Path("/proc/self/mountinfo").read_text()


def test_files_are_cloned_where_the_file_system_can(small_tar: Path, tmp_path: Path) -> None:
    need_pool()
    root = tmp_path / "store"
    try:
        with Store(root) as store:
            store.pool.create(SIZE)
            store.images.import_(str(small_tar), IMAGE, changes=['CMD ["sh"]'])
            container = sh(store, "mkdir /srv; dd if=/dev/zero of=/srv/big bs=1M count=24; echo x >> /srv/big")
            start(container)
            image = container.commit("big:latest")
            before = os.statvfs(root / "pool/mount")
            one = store.containers.create(image, command=["sh", "-c", "wc -c < /srv/big"], volumes=["db:/srv"])
            assert start(one) == (0, f"{(24 << 20) + 2}\n")
            after = os.statvfs(root / "pool/mount")
            assert (before.f_bfree - after.f_bfree) * before.f_frsize < 4 << 20, "no bytes were copied"
            path = f"{store.volumes.get('db').path}/big"
            assert os.stat(path).st_blocks * 512 >= 24 << 20
            clean(store)
            store.pool.destroy()
            assert Path(path).stat().st_size == (24 << 20) + 2 and store.volumes.get("db").path == path[: -len("/big")]
    finally:
        release(tmp_path)


def test_an_image_cannot_have_its_root_copied_into_itself(store: Store) -> None:
    container = sh(store, "ln -s / /loop")
    assert container.start(attach=True) == 0
    image = container.commit("volumes:loop")
    container.remove()
    container = store.containers.create(image, command=["true"], volumes=["db:/loop"])
    with pytest.raises(ContainerRuntimeError):
        container.start(attach=True)
    container.remove(volumes=True)
    assert os.listdir(store.volumes.get("db").path) == [] and os.listdir(store.paths.staging) == []
    store.volumes.remove("db")
