"""kill -9 at any line of checkpoint, rollback, fork and removal: it has happened, or it has not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from container_helpers import remove_all, sh
from kill_at_lines import kills, run_until
from store_helpers import make_tar
from test_volumes_faults import leave, on_a_small_disk

from lazarus.containers import Container
from lazarus.containers.state import Lock
from lazarus.errors import NotFoundError
from lazarus.store import Store

pytest_plugins = ("container_fixtures",)
pytestmark = pytest.mark.root
ROOMS = ("/lazarus/containers/chain.py", "/lazarus/containers/checkpoints.py", "/lazarus/containers/forks.py")
ROOMS += ("/lazarus/containers/removal.py", "/lazarus/containers/shown.py", "/lazarus/content/lease.py")


@pytest.fixture
def root(no_checkpoints_left: None, small_root: Path) -> Path:
    return small_root


def files(container: Container) -> dict[str, str]:
    """Those of the test, and what is in them."""
    with container.stack(read_only=True) as stack:
        found = [os.fsdecode(name) for name in stack.listdir("/") if name.startswith(b"f-")]
        return {name: stack.open(f"/{name}").read() for name in found}


def write(container: Container, name: str) -> None:
    with container.stack() as stack, stack.open(f"/f-{name}", "w") as file:
        file.write(name)


def killed_at_any_moment(
    root: Path, act: Callable[[Store], object], check: Callable[[Store], object], size: int | None = None
) -> None:
    """From the same beginning (`one`, on checkpoint `a`, has written `two`), the act dies at every few moments."""

    def prepare(store: Store) -> None:
        remove_all(store)
        container = sh(store, ":", name="one", volumes=["/anon"], size=size)
        write(container, "one")
        container.checkpoint("a")
        write(container, "two")

    with Store(root) as store:
        prepare(store)
    total = run_until(ROOMS, root, act, None)
    assert total is not None and total > 20
    with Store(root) as store:
        check(store)
    step = max(1, total // kills(30 if size is None else 12))
    for moment in range(step // 2, total, step):
        with Store(root) as store:
            prepare(store)
        assert run_until(ROOMS, root, act, moment) is None
        with Store(root) as store:
            try:
                assert os.listdir(store.paths.staging) == os.listdir(store.paths.trash) == []
                check(store)
                store.prune()
                check(store)
                ids = {container.id for container in store.containers.list(all=True)}
                assert set(os.listdir(store.paths.containers)) == ids
            except BaseException:
                print(f"killed at {moment} of {total}")
                raise


def whole(store: Store) -> Container:
    """`one` has all its files, and can go on."""
    container = store.containers.get("one")
    assert files(container) == {"f-one": "one", "f-two": "two"}
    return container


def names(container: Container) -> list[str]:
    return [one.name for one in container.checkpoints()]


def test_checkpoint(root: Path) -> None:
    def check(store: Store) -> None:
        container = whole(store)
        found = names(container)
        assert found in (["a"], ["a", "b"])
        assert os.listdir(f"{container.directory}/upper") == ([] if "b" in found else ["f-two"])
        if "b" not in found:
            container.checkpoint("b")
            whole(store)
        container.rollback("a")
        assert files(container) == {"f-one": "one"}
        container.rollback("b")
        whole(store)
        assert sorted(os.listdir(store.paths.checkpoint(container.id))) == ["a", "b"]

    killed_at_any_moment(root, lambda store: store.containers.get("one").checkpoint("b"), check)


def test_rollback(root: Path) -> None:
    def check(store: Store) -> None:
        container = store.containers.get("one")
        assert files(container) in ({"f-one": "one", "f-two": "two"}, {"f-one": "one"})
        assert names(container) == ["a"]

    killed_at_any_moment(root, lambda store: store.containers.get("one").rollback("a"), check)


def test_rollback_of_a_mounted_one(root: Path) -> None:
    def act(store: Store) -> None:
        container = store.containers.get("one")
        container.mount()
        container.rollback("a")
        container.unmount()

    def check(store: Store) -> None:
        container = store.containers.get("one")
        assert files(container) in ({"f-one": "one", "f-two": "two"}, {"f-one": "one"})
        container.unmount()

    killed_at_any_moment(root, act, check)


def test_fork(root: Path) -> None:
    def check(store: Store) -> None:
        whole(store)
        found = store.containers.list(all=True)
        assert len(found) in (1, 4), "all of them or none"
        for container in found:
            assert files(container) == {"f-one": "one", "f-two": "two"}
            assert store.volumes.get(container.settings.anonymous[0]).users == (container.name,)
        assert len(store.volumes.list()) == len(found)

    killed_at_any_moment(root, lambda store: store.containers.get("one").fork(3), check)


LIMITED: dict[str, Callable[[Store], object]] = {
    "checkpoint": lambda store: store.containers.get("one").checkpoint("b"),
    "rollback": lambda store: store.containers.get("one").rollback("a"),
    "fork": lambda store: store.containers.get("one").fork(2),
    "removal": lambda store: store.containers.get("one").remove(volumes=True),
}


@pytest.mark.parametrize("act", LIMITED.values(), ids=LIMITED)
def test_of_a_limited_size(root: Path, act: Callable[[Store], object]) -> None:
    """What is in an image, and its forks' images."""

    def check(store: Store) -> None:
        found = store.containers.list(all=True)
        assert len(found) in ((1, 3) if act is LIMITED["fork"] else (0, 1) if act is LIMITED["removal"] else (1,))
        allowed = [{"f-one": "one", "f-two": "two"}]
        allowed += [{"f-one": "one"}] if act is LIMITED["rollback"] else []
        for container in found:
            assert files(container) in allowed
        assert not any(str(root) in line for line in Path("/proc/self/mountinfo").read_text().splitlines())
        for container in found:
            if container.name == "one":
                container.checkpoint()
                container.rollback("a")
                assert files(container) == {"f-one": "one"}
                with Lock(container.directory):
                    uppers = [name for name in os.listdir(f"{container.directory}/limited") if "upper" in name]
                assert len(uppers) == 1, "the others have gone"
                container.rollback(container.checkpoints()[-1])

    killed_at_any_moment(root, act, check, 300 << 20)


def test_removal(root: Path) -> None:
    def act(store: Store) -> None:
        store.containers.get("one").fork(checkpoint="a", name="fork")
        store.containers.get("one").remove(volumes=True)

    def check(store: Store) -> None:
        try:
            fork = store.containers.get("fork")
        except NotFoundError:
            whole(store)
        else:
            assert files(fork) == {"f-one": "one"}
        try:
            whole(store)
        except NotFoundError:
            assert files(store.containers.get("fork")) == {"f-one": "one"}

    killed_at_any_moment(root, act, check)


def test_nothing_is_left_when_the_last_is_gone(root: Path) -> None:
    def act(store: Store) -> None:
        store.containers.get("one").remove(volumes=True)

    def check(store: Store) -> None:
        try:
            whole(store)
        except NotFoundError:
            store.prune()
            assert os.listdir(store.paths.checkpoints) == []

    killed_at_any_moment(root, act, check)


# -- a full disk --


def refused_or_done(disk: Path) -> None:
    with Store(disk / "store") as store:
        (disk / "tar").write_bytes(make_tar({"data/file": b"x"}))
        store.images.import_(str(disk / "tar"), "small:1", changes=['CMD ["sh"]'])
        container = store.containers.create("small:1", name="one")
        write(container, "one")
        container.checkpoint("a")
        write(container, "two")
        leave(disk, 0)
        store.content.reserve.give()
        leave(disk, 0)
        for act in (lambda: container.checkpoint("b"), lambda: container.fork(3)):
            with pytest.raises(OSError, match="No space"):
                act()
        assert names(whole(store)) == ["a"] and len(os.listdir(store.paths.containers)) == 1
        (disk / "ballast").unlink()
        store.content.reserve.fill()
        leave(disk, -60_000)  # not a block more than the reserve
        container.rollback("a")
        assert files(container) == {"f-one": "one"}
        container.remove()
        store.prune()
        assert os.listdir(store.paths.checkpoints) == []


def test_a_full_disk(tmp_path: Path) -> None:
    on_a_small_disk(tmp_path, refused_or_done)
