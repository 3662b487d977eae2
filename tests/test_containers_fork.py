"""fork(): new containers that go on from a checkpoint, and how long a checkpoint stays for them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from container_fixtures import no_checkpoints_left, small_root, small_tar, store
from container_helpers import execute, sh, start, until

from lazarus.containers import Container, forks
from lazarus.content.catalogue import Write
from lazarus.errors import ConflictError, FormatError, LimitError, NotFoundError
from lazarus.store import Store
from lazarus.terms import Mount

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("no_checkpoints_left")]
__all__ = ["no_checkpoints_left", "small_root", "small_tar", "store"]


def write(container: Container, name: str, text: str) -> None:
    with container.stack() as stack, stack.open(f"/{name}", "w") as file:
        file.write(text)


def text(container: Container, name: str) -> str | None:
    with container.stack(read_only=True) as stack:
        return str(stack.open(f"/{name}").read()) if stack.exists(f"/{name}") else None


def test_they_go_on_apart(store: Store) -> None:
    origin = sh(store, "cat /file; echo mine >/file", env=["A=b"], labels={"tier": "1"})
    write(origin, "file", "origin\n")
    first, second = origin.fork(2)
    assert [one.name for one in origin.checkpoints()] == ["1"], "taken because something was written"
    write(origin, "file", "changed\n")
    assert start(first) == (0, "origin\n") and text(first, "file") == "mine\n"
    assert start(second) == (0, "origin\n") and start(origin) == (0, "changed\n")
    assert first.settings == origin.settings and first.image.digest == origin.image.digest
    assert first.inspect()["Checkpoint"] == {"Container": origin.id, "Name": "1"}
    third = origin.fork(checkpoint="1", name="third")[0]
    assert third.name == "third" and text(third, "file") == "origin\n"
    assert [change[:2] for change in third.diff()] == [("A", b"/file")]


def test_nothing_written_takes_no_checkpoint(store: Store) -> None:
    origin = sh(store, "cat /file")
    [fresh] = origin.fork()
    assert origin.checkpoints() == [] == fresh.checkpoints()
    write(origin, "file", "x")
    [one] = origin.fork()
    [other] = origin.fork()
    [of_it] = one.fork()
    assert [len(container.checkpoints()) for container in (origin, one, other, of_it)] == [1] * 4
    assert text(of_it, "file") == "x"


def test_a_fork_of_a_fork(store: Store) -> None:
    origin = sh(store, ":")
    write(origin, "a", "1")
    [one] = origin.fork()
    write(one, "b", "2")
    [two] = one.fork()
    write(two, "a", "3")
    two.checkpoint("own")
    assert [text(two, name) for name in "ab"] == ["3", "2"] and [text(one, name) for name in "ab"] == ["1", "2"]
    assert [(found.container_id, found.name) for found in two.checkpoints()] == [
        (origin.id, "1"),
        (one.id, "1"),
        (two.id, "own"),
    ]
    origin.remove()
    one.remove()
    assert [text(two, name) for name in "ab"] == ["3", "2"], "what its files lie on stays"
    assert sorted(os.listdir(store.paths.checkpoints)) == sorted((origin.id, one.id, two.id))
    two.rollback("1")  # the nearest of that name
    assert [text(two, name) for name in "ab"] == ["1", "2"]
    two.rollback(two.checkpoints()[0])
    assert [text(two, name) for name in "ab"] == ["1", None]
    two.remove()
    assert os.listdir(store.paths.checkpoints) == []


def test_a_checkpoint_in_use(store: Store) -> None:
    origin = sh(store, ":")
    write(origin, "a", "1")
    origin.checkpoint("base")
    [one] = origin.fork(checkpoint="base")
    origin.rollback("base")
    with pytest.raises(ConflictError, match=rf"{origin.name}@base: container ({origin.name}|{one.name}) lies on it"):
        origin.remove_checkpoint("base")
    origin.remove()
    store.prune()
    assert text(one, "a") == "1"
    one.remove()


def test_names_and_numbers(store: Store) -> None:
    origin = sh(store, ":")
    assert [one.name for one in origin.fork(3, name="lab")] == ["lab-1", "lab-2", "lab-3"]
    count = len(store.containers.list(all=True))
    for n, name, kind in (
        (2, "lab", ConflictError),
        (1, "lab-1", ConflictError),
        (1, "a b", FormatError),
        (0, None, LimitError),
        (-1, None, LimitError),
        (forks.MOST + 1, None, LimitError),
    ):
        with pytest.raises(kind):
            origin.fork(n, name=name)
    with pytest.raises(NotFoundError):
        origin.fork(checkpoint="none")
    assert len(store.containers.list(all=True)) == count == len(os.listdir(store.paths.containers)), "all or nothing"
    assert len(origin.fork(50)) == 50


def test_a_random_name_that_is_taken(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = sh(store, ":", name="taken")
    names = iter(["taken", "free"])
    monkeypatch.setattr(forks, "random_name", lambda: next(names))
    assert [one.name for one in origin.fork()] == ["free"]


def test_volumes(store: Store) -> None:
    origin = sh(store, "cat /v/file /anon/file /t/file; echo own >/anon/file", volumes=["db:/v", "/anon"])
    (Path(store.volumes.get("db").path) / "file").write_text("shared\n")
    origin.mount()
    origin.unmount()
    start(origin)
    [one] = origin.fork()
    [anonymous] = one.settings.anonymous
    assert anonymous not in origin.settings.anonymous and store.volumes.get("db").users == tuple(
        sorted((origin.name, one.name))
    )
    assert start(one)[1].startswith("shared\n") and "own" not in start(origin.fork()[0])[1]
    one.remove(volumes=True)
    assert store.volumes.find(anonymous) is None and store.volumes.find("db") is not None


def test_of_a_running_one(store: Store) -> None:
    origin = sh(store, "echo 1 >/file; sleep 100")
    origin.start()
    until(lambda: execute(origin, "cat", "/file")[1] == "1\n")
    one, two = origin.fork(2)
    assert text(one, "file") == text(two, "file") == "1\n" and origin.status == "running"
    origin.remove(force=True)
    assert text(one, "file") == "1\n"


def test_mounted_all_at_once(store: Store) -> None:
    origin = sh(store, ":")
    Path(origin.mount(), "file").write_text("x")
    origin.unmount()
    found = [*origin.fork(20, mount=True), *origin.fork(3)]
    for number, one in enumerate(found):
        Path(one.mount(), "own").write_text(str(number))
    for number, one in enumerate(found):
        assert sorted({"file", "own"} - set(os.listdir(one.rootfs))) == []
        assert Path(one.rootfs, "own").read_text() == str(number)
        assert os.listdir(f"{one.directory}/upper") == ["own"]
        one.unmount()
    never = sh(store, "echo started")
    for one in never.fork(3, mount=True):
        assert os.path.isdir(f"{one.rootfs}/proc") and os.path.ismount(one.rootfs)
        assert start(one) == (0, "started\n")
        one.unmount()


def test_one_of_many_that_cannot_be_mounted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several threads mount them: its error is told, and none of them stays."""
    origin = sh(store, ":")
    write(origin, "file", "1")
    origin.checkpoint("one")
    targets: list[str] = []

    def attach(mount: Mount, target: str) -> None:
        targets.append(target)
        if len(targets) == 30:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), target)
        attached(mount, target)

    attached = forks.attach
    monkeypatch.setattr(forks, "attach", attach)
    monkeypatch.setattr(forks, "_cores", lambda: 4)
    with pytest.raises(OSError, match="Cannot allocate") as caught:
        origin.fork(60, "one", mount=True)
    assert caught.value.filename == targets[29] and len(targets) < 60
    assert [found.name for found in store.containers.list(all=True)] == [origin.name]
    assert os.listdir(store.paths.staging) == []
    monkeypatch.setattr(forks, "attach", attached)
    assert len({fork.rootfs for fork in origin.fork(60, "one", mount=True) if os.path.ismount(fork.rootfs)}) == 60


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_while_the_rows_are_written(store: Store, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """A signal during COMMIT is handled right after it: then they are all there, with their directories."""
    origin = sh(store, ":")
    write(origin, "file", "1")
    origin.checkpoint("a")
    leave = Write.__exit__

    def interrupted(self: Write, *how: object) -> None:
        made = any(one.name == "fork-1" for one in store.containers.list(all=True))
        if made and when == "before":
            leave(self, KeyboardInterrupt, None, None)
        else:
            leave(self, *how)  # type: ignore[arg-type]
        if made:
            monkeypatch.undo()
            raise KeyboardInterrupt

    monkeypatch.setattr(Write, "__exit__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        origin.fork(2, "a", name="fork")
    found = [one for one in store.containers.list(all=True) if one.id != origin.id]
    assert sorted(one.name for one in found) == ([] if when == "before" else ["fork-1", "fork-2"])
    assert all(text(one, "file") == "1" for one in found)
    assert len(os.listdir(store.paths.containers)) == 1 + len(found) and os.listdir(store.paths.staging) == []


def test_mount_points_in_common(store: Store) -> None:
    """Those that the image lacks are the checkpoint's, until a fork needs others or the checkpoint goes."""
    origin = sh(store, "echo x >>/file; cat /file")
    origin.checkpoint("old")
    assert start(origin) == (0, "x\n")
    one, other = origin.fork(2)
    assert os.path.islink(f"{one.directory}/init") and start(one) == (0, "x\nx\n")
    one.rollback("old")
    other.remove()
    origin.rollback("old")
    origin.remove_checkpoint("1")
    assert start(one) == (0, "x\n") and not os.path.islink(f"{one.directory}/init")
    [again] = one.fork()
    assert start(again) == (0, "x\nx\n")
    with again.stack(read_only=True) as stack:
        assert stack.exists("/proc")


def test_commits_share_layers(store: Store) -> None:
    origin = sh(store, ":")
    write(origin, "a", "1")
    one, two = origin.fork(2)
    write(one, "b", "1")
    write(two, "b", "2")
    first, second = one.commit("one:1"), two.commit("two:1")
    assert first.diff_ids[:-1] == second.diff_ids[:-1] and first.diff_ids != second.diff_ids
    [of_image] = store.containers.create(first, command=["true"]).fork()
    assert text(of_image, "a") == "1" and text(of_image, "b") == "1"


def test_a_sweep_does_not_take_what_is_being_made(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the forks that have their names, and not yet their rows."""
    import threading

    origin = sh(store, ":")
    write(origin, "a", "1")
    swept = []
    rename = os.rename

    def sweep() -> None:
        with Store(store.paths.root) as own:
            swept.append(own.containers.sweep())

    def slowly(source: str, target: str) -> None:
        rename(source, target)
        if "/fork-" in source:
            sweeper = threading.Thread(target=sweep)
            sweeper.start()
            sweeper.join(0.3)
            threads.append(sweeper)

    threads: list[threading.Thread] = []
    monkeypatch.setattr(os, "rename", slowly)
    [one] = origin.fork()
    monkeypatch.undo()
    for thread in threads:
        thread.join()
    assert len(swept) == 1 and text(one, "a") == "1"


def test_two_processes_at_once(store: Store) -> None:
    origin = sh(store, ":")
    write(origin, "a", "1")
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with Store(store.paths.root) as own:
                    found = own.containers.get(origin.id)
                    for _ in range(10):
                        found.checkpoint()
                        found.fork(3)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert len(origin.checkpoints()) == 40 and len(store.containers.list(all=True)) == 121
    assert {text(one, "a") for one in store.containers.list(all=True)} == {"1"}
