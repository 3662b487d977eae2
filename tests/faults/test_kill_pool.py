"""kill -9 at any line of making, growing or destroying a pool: the store is on one side, whole; nothing is left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from kill_at_lines import EVERY_KILL, run_until
from pool_helpers import SIZE, check, fill, reboot, root

from lazarus.store import Store

pytestmark = pytest.mark.root
__all__ = ["root"]
ROOMS = ("/lazarus/content/pool",)


def create(store: Store) -> object:
    return store.pool.create(SIZE)


def destroy(store: Store) -> object:
    return store.pool.destroy()


@pytest.mark.parametrize("part", range(4) if EVERY_KILL else [1])
def test_killed_while_it_is_made_or_destroyed(root: Path, part: int) -> None:
    fill(root)
    exists = False
    for verb, other, before in ((create, destroy, False), (destroy, create, True)):
        survived = {False: 0, True: 0}
        moment = part
        while True:
            if exists != before:
                assert run_until(ROOMS, root, other, None) is not None
            ended = run_until(ROOMS, root, verb, moment) is not None
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
    for moment in range(0, 200, 5 if EVERY_KILL else 10):
        fill(root)
        assert run_until(ROOMS, root, create, None) is not None
        ended = run_until(ROOMS, root, lambda store: store.pool.destroy(force=True), moment) is not None
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
    assert run_until(ROOMS, root, create, None) is not None
    size = SIZE
    moment = 0
    while True:
        size += 32 << 20
        wanted = size
        ended = run_until(ROOMS, root, lambda store: store.pool.grow(wanted), moment) is not None  # noqa: B023
        if moment % 4 == 0:
            reboot(root)
        check(root, pool=True)
        with Store(root) as store:
            assert store.pool.grow(size).size == size
        if ended:
            break
        moment += 2
    assert moment > 20
