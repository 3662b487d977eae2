"""kill -9 at any moment of load and collection: the store opens, nothing half is visible, a second try succeeds.

Two ways to choose the moment. By line: the child counts the lines that it runs in the store's rooms and kills itself
before the n-th (the native part has the same test in tests/c/test_lz_publish.c, before every rename). By time: the
parent kills at random moments, which also lands inside of native calls and system calls.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from kill_at_lines import kills
from store_helpers import (
    add_image,
    assert_tar,
    assert_whole,
    layer_tar,
    object_names,
    remove_image,
    sha256,
)

from lazarus.layers.stack import chain_id
from lazarus.store import Store
from lazarus.terms import DiffID, Digest

SEED = 20240611
ROOMS = ("/lazarus/content/", "/lazarus/layers/", "/lazarus/store.py")
BASE = [layer_tar("base 0"), layer_tar("base 1")]
TARS = {DiffID(sha256(tar)): tar for tar in [*BASE, *(layer_tar(seed) for seed in ("new 0", "new 1", "old"))]}


def _work(root: str) -> None:
    """What may be killed: load an image that shares a layer, build its stack, remove another image, collect."""
    with Store(root) as store:
        new = add_image(store, BASE[0], layer_tar("new 0"), layer_tar("new 1"), blob="gzip")
        store.stacks.open(new)
        remove_image(store, [DiffID(sha256(layer_tar("old")))])
        store.content.collect()


def _prepare(root: str) -> None:
    """An image that must never suffer, and one to be removed; the one to be loaded is not there."""
    with Store(root) as store:
        add_image(store, *BASE, blob="gzip")
        add_image(store, layer_tar("old"), blob="gzip")
        remove_image(store, [DiffID(sha256(tar)) for tar in (BASE[0], layer_tar("new 0"), layer_tar("new 1"))])
        store.content.collect()


def _check(root: str) -> None:
    with Store(root) as store:
        # Opening has recovered: nothing of the dead is left, and what is on disk has a row.
        assert os.listdir(store.paths.staging) == os.listdir(store.paths.trash) == []
        assert store.catalogue.read().execute("SELECT count(*) FROM leases").fetchone()[0] == 0
        assert_whole(store)
        visible = {DiffID(row[0]) for row in store.catalogue.read().execute("SELECT diff_id FROM layers")}
        assert {DiffID("sha256:" + name) for name in os.listdir(store.paths.layers)} >= visible
        for diff_id in visible:
            assert_tar(store, diff_id, TARS[diff_id])
        for image in store.catalogue.read().execute("SELECT manifest_digest FROM images").fetchall():
            manifest = store.content.read_blob(Digest(image[0]))
            assert {DiffID(line) for line in manifest.decode().split("\n")} <= visible  # whole, or not at all
        base = [DiffID(sha256(tar)) for tar in BASE]
        assert set(base) <= visible
        _work(root)
        assert_whole(store)
        alive = {*base, DiffID(sha256(layer_tar("new 0"))), DiffID(sha256(layer_tar("new 1")))}
        assert {DiffID("sha256:" + name) for name in os.listdir(store.paths.layers)} == alive
        assert len(object_names(store)) == 4 * 4 + 1
        new = [base[0], DiffID(sha256(layer_tar("new 0"))), DiffID(sha256(layer_tar("new 1")))]
        assert os.listdir(store.paths.stacks) == [chain_id(new).hex]


def _fork(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return child


def _count_lines(work: Callable[[], None], kill_before: int | None) -> int:
    """Runs `work`; kills this process before the n-th line of the store's rooms. Returns the number of lines."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if not any(room in frame.f_code.co_filename for room in ROOMS):
            return None
        if event == "line":
            if count == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


def _killed_before_line(work: Callable[[], None], line: int) -> bool:
    child = _fork(lambda: (_count_lines(work, line), None)[1])
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def _lines(work: Callable[[], None]) -> int:
    """How many lines there are to be killed before."""
    read_end, write_end = os.pipe()
    child = _fork(lambda: (os.write(write_end, str(_count_lines(work, None)).encode()), None)[1])
    assert os.waitpid(child, 0)[1] == 0
    count = int(os.read(read_end, 20))
    os.close(read_end)
    os.close(write_end)
    return count


def test_killed_before_any_line_of_load_and_collect(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    _prepare(root)
    _work(root)  # what it remembers it does not do again: the lines are the same from now on
    _prepare(root)
    total = _lines(lambda: _work(root))
    step = max(1, total // kills(100))
    first = random.Random(SEED).randrange(step)
    print(f"seed {SEED}: lines {first}, {first + step}, ... of {total}")
    assert total > 300
    for line in range(first, total, step):
        _prepare(root)
        assert _killed_before_line(lambda: _work(root), line), line
        try:
            _check(root)
        except BaseException:
            print(f"killed before line {line}")
            raise


def test_killed_before_any_line_of_making_a_store(tmp_path: Path) -> None:
    def make(root: Path) -> None:
        Store(root).close()

    total = _lines(lambda: make(tmp_path / "counted"))
    step = max(1, total // kills(100))
    print(f"seed {SEED}: every {step} of {total}")
    for line in range(random.Random(SEED).randrange(step), total, step):
        root = tmp_path / str(line)
        assert _killed_before_line(lambda root=root: make(root), line)  # type: ignore[misc]
        with Store(root) as store:
            add_image(store, layer_tar("a"))
            assert_whole(store)


@pytest.mark.parametrize("attempt", range(4))
def test_killed_at_random_moments(tmp_path: Path, attempt: int) -> None:
    root = str(tmp_path / "store")
    choose = random.Random(SEED + attempt)
    print("seed", SEED + attempt)
    _prepare(root)
    started = time.monotonic()
    child = _fork(lambda: _work(root))
    assert os.waitpid(child, 0)[1] == 0
    whole = time.monotonic() - started
    for _ in range(12):
        _prepare(root)
        child = _fork(lambda: _work(root))
        time.sleep(choose.uniform(0, whole))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        _check(root)


def test_killed_again_and_again_in_a_row(tmp_path: Path) -> None:
    """Recovery itself is killed too: several deaths pile up before anyone looks."""
    root = str(tmp_path / "store")
    choose = random.Random(SEED)
    print("seed", SEED)
    _prepare(root)
    for _ in range(4):
        for _ in range(6):
            child = _fork(lambda: _work(root))
            time.sleep(choose.uniform(0, 0.04))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        _check(root)
