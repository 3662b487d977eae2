"""Containers whose size is limited: what they write stops at the limit, whoever writes it, and nobody else notices."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from container_helpers import execute, run, sh, start, until

from lazarus.containers import Container
from lazarus.containers.state import Lock
from lazarus.content import limited
from lazarus.errors import ConflictError, CorruptError, LimitError, NotFoundError, one_line
from lazarus.store import Store

pytest_plugins = ("container_fixtures",)
pytestmark = pytest.mark.root
SIZE = 300 << 20


def mounted(store: Store) -> bool:
    return f"{store.paths.root}/containers" in Path("/proc/self/mountinfo").read_text()


def test_the_limit_holds_and_harms_nobody(store: Store) -> None:
    small = sh(store, "dd if=/dev/zero of=/big bs=1M count=400 2>&1; ls -l /big; echo after", size=SIZE)
    code, said = start(small)
    assert "No space left" in said and said.endswith("after\n") and code == 0
    assert not mounted(store)
    written = os.stat(f"{small.directory}/limit.image").st_blocks * 512
    assert 200 << 20 < written < SIZE
    assert run(store, "dd if=/dev/zero of=/big bs=1M count=320 2>/dev/null && echo fine") == (0, "fine\n")
    assert start(sh(store, "dd if=/dev/zero of=/big bs=1M count=100 2>/dev/null && echo fine", size=SIZE))[0] == 0


def test_what_it_wrote_is_seen_by_every_view(store: Store) -> None:
    small = sh(store, "echo more >> /note; cat /note", size=SIZE)
    assert start(small) == (0, "more\n")
    assert start(small) == (0, "more\nmore\n")
    assert [(change.change, change.path) for change in small.diff()] == [("A", b"/note")]
    with small.stack(read_only=True) as files:
        assert files.open("/note", "rb").read() == b"more\nmore\n"
    with small.stack() as files, files.open("/note", "ab") as note:
        note.write(b"stack\n")
    assert not mounted(store)
    assert Path(small.mount(), "note").read_text() == "more\nmore\nstack\n"
    small.unmount()
    image = small.commit("limited:1")
    assert not mounted(store)
    small.remove()
    assert run(store, "true")[0] == 0
    assert start(store.containers.create(image, command=["cat", "/note"])) == (0, "more\nmore\nstack\n")


def test_while_it_runs(store: Store) -> None:
    small = sh(store, "echo one > /one; sleep 60", size=SIZE, name="small")
    small.start()
    while execute(small, "cat", "/one") != (0, "one\n"):
        pass
    assert [change.path for change in small.diff()] == [b"/one"]
    assert execute(small, "sh", "-c", "echo two > /two") == (0, "")
    small.commit("limited:2")
    assert small.inspect()["HostConfig"]["StorageOpt"] == {"size": str(SIZE)}
    small.remove(force=True)
    assert run(store, "true")[0] == 0
    assert start(store.containers.create("limited:2", command=["cat", "/one", "/two"])) == (0, "one\ntwo\n")


def test_a_stack_cannot_write_more_either(store: Store) -> None:
    small = sh(store, ":", size=SIZE)
    with small.stack() as files, pytest.raises(OSError, match="No space left"), files.open("/big", "wb") as big:
        for _ in range(400):
            big.write(os.urandom(1 << 20))
    small.remove()
    assert not mounted(store)


@pytest.mark.parametrize("runs", [False, True])
def test_copied_into_it(store: Store, tmp_path: Path, runs: bool) -> None:
    """Too much for it: what is said names the container and its limit, and it goes on."""
    (tmp_path / "big").write_bytes(bytes(400 << 20))
    small = sh(store, "sleep 60", size=SIZE, name="small")
    if runs:
        small.start()
    with pytest.raises(OSError, match="No space left") as caught:
        small.copy_in(str(tmp_path / "big"), "/big")
    assert one_line(caught.value) == f"container small: No space left on device: its limit is {SIZE} bytes"
    small.remove(force=True)


def test_copied_into_a_full_tmpfs_of_it(store: Store, tmp_path: Path) -> None:
    """That is no matter of the container's limit."""
    (tmp_path / "big").write_bytes(bytes(100 << 20))
    small = sh(store, "sleep 60", size=SIZE, name="small")
    small.start()
    with pytest.raises(OSError, match="No space left") as caught:
        small.copy_in(str(tmp_path / "big"), "/dev/shm/big")
    said = one_line(caught.value)
    assert said.startswith("container small: ") and "limit" not in said
    small.remove(force=True)


def test_more_than_the_disk_has(store: Store) -> None:
    """What it took and the disk has no room for would be lost."""
    with pytest.raises(LimitError, match="size 1125899906842624: the disk has room for"):
        sh(store, ":", size=1 << 50, name="small")
    with pytest.raises(LimitError, match="size 1125899906842624: the disk has room for"):
        store.volumes.create("small", size=1 << 50)
    assert store.containers.list(all=True) == store.volumes.list() == []
    assert os.listdir(store.paths.containers) == os.listdir(store.paths.staging) == []


def test_no_file_system_can_be_made(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENXIO, "no loop device")

    for what in ("make_image", "opened"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="no loop device"):
            patch.setattr(limited, what, refuse)
            sh(store, ":", size=SIZE, name="small")
        assert store.containers.list(all=True) == []
        assert os.listdir(store.paths.containers) == os.listdir(store.paths.staging) == []


def test_it_cannot_be_mounted_any_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it does not start, and can be removed; and so can what is left without a row."""
    small, other = sh(store, ":", size=SIZE), sh(store, ":", size=SIZE)

    def refuse(_: str) -> None:
        raise OSError(errno.ENXIO, "no loop device")

    monkeypatch.setattr(limited, "reach", refuse)
    with pytest.raises(OSError, match="no loop device"):
        start(small)
    small.remove()
    store.containers.forget(other)
    store.containers.sweep()
    assert os.listdir(store.paths.containers) == []


def test_its_file_system_is_gone(store: Store) -> None:
    """It never runs without its limit."""
    small = sh(store, ":", size=SIZE)
    for name in ("limit.image", "upper", "work", "union"):
        os.unlink(f"{small.directory}/{name}")
    with pytest.raises(CorruptError, match="the file system that limits its size is gone"):
        start(small)
    small.remove()


def test_what_cannot_be(store: Store) -> None:
    with pytest.raises(LimitError, match="300 MiB"):
        sh(store, ":", size=1 << 20, name="tiny")
    with pytest.raises(NotFoundError):
        store.containers.get("tiny")
    assert os.listdir(store.paths.containers) == []


def test_checkpoints_and_rollback(store: Store) -> None:
    small = sh(store, "cat /file; echo more >> /file; rm -f /etc/group; mkdir -p /etc/x; exit 3", size=SIZE)
    with small.stack() as stack, stack.open("/file", "w") as file:
        file.write("1\n")
    first = small.checkpoint("first")
    assert os.listdir(f"{store.paths.checkpoint(first.key)}/upper") == ["file"] and not mounted(store)
    assert start(small) == (3, "1\n")
    second = small.checkpoint("second")
    assert second.parent == first.key
    with pytest.raises(ConflictError, match="already"):
        small.checkpoint("first")
    small.rollback("first")
    assert not mounted(store) and small.diff()[0].path == b"/file"
    assert [one.name for one in small.checkpoints()] == ["first", "second"]
    assert start(small) == (3, "1\n")
    with pytest.raises(ConflictError, match="lies on it"):
        small.remove_checkpoint("first")
    mounting = Path(small.mount())
    assert (mounting / "file").read_text() == "1\nmore\n"
    small.rollback("second")
    assert (mounting / "file").read_text() == "1\nmore\n" and not (mounting / "etc/group").exists()
    (mounting / "file").write_text("by hand\n")
    third = small.checkpoint("third")
    assert third.parent == second.key and (mounting / "file").read_text() == "by hand\n"
    small.rollback("first")
    assert (mounting / "file").read_text() == "1\n" and (mounting / "etc/group").exists()
    small.unmount()
    small.rollback("third")
    assert start(small) == (3, "by hand\n")
    assert len([name for name in inside(small) if name.startswith("upper")]) == 1
    image = small.commit("checkpoints:1")
    small.remove()
    assert os.listdir(store.paths.checkpoints) == [] and not mounted(store)
    assert start(store.containers.create(image, command=["cat", "/file"])) == (0, "by hand\nmore\n")


def inside(container: Container) -> list[str]:
    with Lock(container.directory):
        return os.listdir(f"{container.directory}/limited")


def test_a_checkpoint_while_it_runs(store: Store) -> None:
    small = sh(store, "echo one > /one; sleep 60", size=SIZE)
    small.start()
    until(lambda: execute(small, "cat", "/one") == (0, "one\n"))
    one = small.checkpoint()
    execute(small, "sh", "-c", "echo two > /one")
    (fork,) = small.fork(checkpoint=one)
    (now,) = small.fork()
    with pytest.raises(ConflictError, match="running"):
        small.rollback(one)
    small.remove(force=True)
    for container, said in ((fork, "one\n"), (now, "two\n")):
        with container.stack(read_only=True) as stack, stack.open("/one") as file:
            assert file.read() == said
    fork.remove()
    now.remove()
    assert os.listdir(store.paths.checkpoints) == [] and not mounted(store)


def test_forks(store: Store) -> None:
    small = sh(store, "cat /file; dd if=/dev/zero of=/big bs=1M count=400 2>&1", size=SIZE)
    with small.stack() as stack, stack.open("/file", "w") as file:
        file.write("kept\n")
    forks = small.fork(3, name="fork", mount=True)
    assert {fork.settings.size for fork in forks} == {SIZE}
    assert [Path(fork.rootfs, "file").read_text() for fork in forks] == ["kept\n"] * 3
    Path(forks[0].rootfs, "file").write_text("mine\n")
    assert Path(forks[1].rootfs, "file").read_text() == "kept\n"
    for fork in forks:
        fork.unmount()
    assert not mounted(store) and os.listdir(store.paths.staging) == []
    said = start(forks[1])[1]
    assert said.startswith("kept\n") and "No space left" in said
    small.remove()
    assert start(forks[0])[1].startswith("mine\n")
    (again,) = forks[2].fork()
    assert start(again)[1].startswith("kept\n")
    forks[1].rollback("1")
    assert [change.path for change in forks[1].diff()] == [b"/file"], "full, it went back"
    store.containers.sweep()
    for container in (again, *forks):
        container.remove()
    assert os.listdir(store.paths.checkpoints) == [] and not mounted(store)


def test_they_move_with_a_pool(small_tar: Path, tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        store.images.import_(str(small_tar), "small:latest")
        small = sh(store, "cat /file; echo more >> /file", size=SIZE)
        with small.stack() as stack, stack.open("/file", "w") as file:
            file.write("kept\n")
        small.checkpoint("first")
        small.rollback("first")
        store.pool.create(1 << 30)
        assert start(small) == (0, "kept\n")
        store.pool.destroy()
        assert start(small) == (0, "kept\nmore\n")
        small.rollback("first")
        assert start(small) == (0, "kept\n")
        small.remove()


def test_one_that_nobody_left(store: Store) -> None:
    """A process that was killed while it had it mounted."""
    from lazarus.content import limited

    small = sh(store, "echo kept > /note; cat /note", size=SIZE)
    limited.reach(small.directory)
    assert start(small) == (0, "kept\n") and not mounted(store)
    limited.reach(small.directory)
    small.remove()
    assert not mounted(store)


def test_how_it_is_written() -> None:
    from lazarus.cli.options import Mistake, storage_size

    assert storage_size("--storage-opt", []) is None
    assert storage_size("--storage-opt", ["size=1G", "size=300M"]) == SIZE
    for text in ("size", "size=", "size=much", "inodes=3", "size=-1"):
        with pytest.raises(Mistake, match="--storage-opt"):
            storage_size("--storage-opt", [text])
