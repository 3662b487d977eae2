"""kill -9 at any line of making, growing or destroying a pool: the store is on one side, whole; nothing is left."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from pool_helpers import SIZE, check, fill, reboot, root

from lazarus.store import Store

pytestmark = pytest.mark.root
__all__ = ["root"]
VISITS = 2  # of one line, in a loop: its first round, and one with a round behind it


class Moments:
    """The lines of `content/pool*.py` that a call runs, in order, each at most VISITS times."""

    def __init__(self, kill_at: int | None) -> None:
        self.count = 0
        self._kill_at = kill_at
        self._visits: dict[tuple[str, int], int] = {}

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        """For sys.settrace."""
        if "/lazarus/content/pool" not in frame.f_code.co_filename:
            return None
        if event == "line":
            line = (frame.f_code.co_filename, frame.f_lineno)
            self._visits[line] = self._visits.get(line, 0) + 1
            if self._visits[line] <= VISITS:
                if self.count == self._kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                self.count += 1
        return self.trace


def run(root: Path, verb: Callable[[Store], object], kill_at: int | None) -> int | None:
    """Does it in a child, which dies at the given moment: None. Else the number of moments that there were."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        moments = Moments(kill_at)
        try:
            with Store(root) as store:
                sys.settrace(moments.trace)
                verb(store)
                sys.settrace(None)
            os.write(write_end, str(moments.count).encode())
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(0)
    os.close(write_end)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = os.read(read_end, 20)
    os.close(read_end)
    assert code == (0 if said else -signal.SIGKILL), (kill_at, code)
    return int(said) if said else None


def create(store: Store) -> object:
    return store.pool.create(SIZE)


def destroy(store: Store) -> object:
    return store.pool.destroy()


@pytest.mark.parametrize("part", range(4))
def test_killed_while_it_is_made_or_destroyed(root: Path, part: int) -> None:
    fill(root)
    exists = False
    for verb, other, before in ((create, destroy, False), (destroy, create, True)):
        survived = {False: 0, True: 0}
        moment = part
        while True:
            if exists != before:
                assert run(root, other, None) is not None
            ended = run(root, verb, moment) is not None
            with Store(root) as store:
                exists = store.pool.exists
            try:
                check(root, pool=exists)
                if exists and moment % 3 == 0:
                    reboot(root)
                    check(root, pool=True)
            except BaseException:
                print(f"killed at moment {moment} of {verb.__name__}")
                raise
            if ended:
                break
            survived[exists] += 1
            moment += 4
        assert exists != before
        assert survived[before] > 8 and survived[not before] > 0, survived


def test_killed_while_it_is_destroyed_by_force(root: Path) -> None:
    """A store that is empty, or has everything that it had: rows and contents go together."""
    seen = set()
    for moment in range(0, 200, 5):
        fill(root)
        assert run(root, create, None) is not None
        ended = run(root, lambda store: store.pool.destroy(force=True), moment) is not None
        with Store(root) as store:
            exists, images = store.pool.exists, len(store.images.list())
            seen.add((exists, images))
            if images:
                check(root, pool=True)
            else:
                assert store.containers.list(all=True) == []
                store.prune()
                if exists:
                    store.pool.destroy()
                assert os.listdir(store.paths.layers) == []
            if images:
                store.pool.destroy(force=True)
        if ended:
            break
    assert ended and seen == {(True, 1), (True, 0), (False, 0)}, seen


def test_killed_while_it_grows(root: Path) -> None:
    fill(root)
    assert run(root, create, None) is not None
    size = SIZE
    moment = 0
    while True:
        size += 32 << 20
        wanted = size
        ended = run(root, lambda store: store.pool.grow(wanted), moment) is not None  # noqa: B023
        if moment % 4 == 0:
            reboot(root)
        check(root, pool=True)
        with Store(root) as store:
            assert store.pool.grow(size).size == size
        if ended:
            break
        moment += 2
    assert moment > 20
