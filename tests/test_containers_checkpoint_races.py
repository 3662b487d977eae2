"""Checkpoints that go while somebody comes to lie on them. Who removes one waits for who is about to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from container_fixtures import no_checkpoints_left, small_root, small_tar, store
from container_helpers import sh, until

from lazarus.containers import Container, chain, checkpoints
from lazarus.errors import ConflictError, NotFoundError
from lazarus.store import Store

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("no_checkpoints_left")]
__all__ = ["no_checkpoints_left", "small_root", "small_tar", "store"]
LONG = 0.3  # seconds: for somebody who should wait, and who is done by then if he does not


def write(container: Container, name: str) -> None:
    with container.stack() as stack, stack.open(f"/{name}", "w") as file:
        file.write(name)


def files(container: Container) -> list[bytes]:
    """What it has made, as far as its files can be reached."""
    return sorted(change.path for change in container.diff())


def elsewhere(root: Path, act: Callable[[Store], object]) -> threading.Thread:
    """Does it as another process would."""

    def do() -> None:
        with Store(root) as store:
            act(store)

    thread = threading.Thread(target=do)
    thread.start()
    return thread


def remove_first(store: Store) -> None:
    with suppress(ConflictError):  # too late: somebody lies on it
        store.containers.get("origin").remove_checkpoint("first")


@pytest.mark.parametrize("act", [lambda store: store.containers.get("origin").remove(), remove_first], ids=["C", "C@1"])
def test_beside_a_rollback(
    store: Store, small_root: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Store], object]
) -> None:
    """`other` comes from both, but its files lie on the second alone, which holds what the first does."""
    origin = sh(store, "echo >/one; while [ ! -e /go ]; do sleep 0.01; done; echo >/two; sleep 100", name="origin")
    origin.start()
    until(lambda: Path(origin.directory, "upper/one").exists())
    origin.checkpoint("first")
    origin.copy_in("/etc/hostname", "/go")
    until(lambda: Path(origin.directory, "upper/two").exists())
    origin.checkpoint("second")
    [other] = origin.fork(1, "second", name="other")
    origin.stop(0)
    exchange = checkpoints.exchange
    threads: list[threading.Thread] = []

    def exchanged(one: str, other: str) -> None:
        threads.append(elsewhere(small_root, act))
        threads[0].join(LONG)
        exchange(one, other)

    monkeypatch.setattr(checkpoints, "exchange", exchanged)
    other.rollback("first")
    threads[0].join()
    assert files(other) == [b"/one"]


def test_beside_a_checkpoint(store: Store, small_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is needed is gathered from uppers, one after the other, of which two are about to change places."""
    origin = sh(store, ":", name="origin")
    write(origin, "one")
    [other] = origin.fork(1, name="other")
    write(other, "two")
    origin.remove()
    assert files(other) == [b"/one", b"/two"], "its checkpoint has stayed"
    exchange, look = checkpoints.exchange, checkpoints.lies_on
    seen, changed = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []
    looks: list[str | None] = []

    def looked(upper: str) -> str | None:
        key = look(upper)
        if upper.endswith("/new/upper"):
            looks.append(key)
            if len(looks) == 2 and not changed.is_set():  # it lies on itself, as when it is begun
                seen.set()
                assert changed.wait(10)
        return key

    def exchanged(one: str, other: str) -> None:
        threads.append(elsewhere(small_root, lambda store: store.prune()))
        seen.wait(LONG)
        exchange(one, other)
        changed.set()
        threads[0].join(LONG)

    monkeypatch.setattr(checkpoints, "lies_on", looked)
    monkeypatch.setattr(checkpoints, "exchange", exchanged)
    other.checkpoint("new")
    threads[0].join()
    assert files(other) == [b"/one", b"/two"]
    assert len(chain.chain(store.paths, other.directory)) == 2


def test_a_look_at_one_that_is_being_removed(store: Store) -> None:
    container = sh(store, ":")
    write(container, "one")
    container.checkpoint()
    container.remove()
    with pytest.raises(NotFoundError, match="it has been removed"):
        chain.chain(store.paths, container.directory)
