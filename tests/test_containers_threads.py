"""Containers in several threads of one process: what a thread is starting must not disturb the others."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from container_helpers import run, sh

from lazarus.mounts import detach
from lazarus.runtime import forking
from lazarus.runtime.supervisor import background
from lazarus.store import Store

pytest_plugins = ("container_fixtures",)


@pytest.mark.root
def test_many_threads_of_one_process(store: Store) -> None:
    codes: dict[int, object] = {}

    def one(number: int) -> None:
        codes[number] = run(store, f"echo {number}; exit {number}")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {number: (number, f"{number}\n") for number in range(6)}


@pytest.mark.root
def test_a_child_that_another_thread_starts_keeps_nothing_busy(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has copies of all descriptors for a while; whoever unmounts what they were open in waits for it."""
    container = sh(store, ":")
    copied, refused = threading.Event(), threading.Event()

    def start_something() -> None:
        with forking.no_copies():
            copy = os.open(container.rootfs, os.O_PATH | os.O_DIRECTORY)
            copied.set()
            refused.wait(10)
            os.close(copy)

    def watched(target: str, *, lazy: bool = False) -> None:
        try:
            detach(target, lazy=lazy)
        except OSError:
            refused.set()
            raise

    container.mount()
    thread = threading.Thread(target=start_something)
    thread.start()
    copied.wait(10)
    monkeypatch.setattr("lazarus.mounts.detach", watched)
    container.unmount()
    thread.join()
    assert refused.is_set() and not os.path.ismount(container.rootfs)


def test_a_process_in_the_background_has_closed_its_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the next one can be started it has none left, however slow it was."""
    closing, go_on = os.closerange, tmp_path / "go on"

    def slowly(first: int, last: int) -> None:
        time.sleep(0.1)
        closing(first, last)

    def work(report: Callable[[bytes], None]) -> None:
        while not go_on.exists():
            time.sleep(0.01)
        report(b"done")

    monkeypatch.setattr(os, "closerange", slowly)
    source, copied = os.pipe()
    answers: list[bytes] = []
    thread = threading.Thread(target=lambda: answers.append(background(work)))
    thread.start()
    while not forking._forking.locked():
        time.sleep(0.001)
    with forking.no_copies():
        os.close(copied)
        ended = select.select([source], [], [], 0)[0]
    go_on.touch()
    thread.join()
    os.close(source)
    assert ended, "somebody still holds its other end"
    assert answers == [b"done"]
