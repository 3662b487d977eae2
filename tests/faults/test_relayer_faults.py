"""squash and split on a full disk, and killed at any moment: the store as it was, or with the new image whole."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import images_made as made
import pytest
from kill_at_lines import kills
from store_helpers import assert_whole, object_names
from test_full_disk import _leave, _with_small_disk
from test_kill import _fork, _killed_before_line, _lines

import lazarus
from lazarus.errors import LazarusError

SEED = 20240611
# Headers and inline contents that do not compress, so that the new layer needs room.
TARS = [
    made.layer({f"{layer}/{n}": os.urandom(3000) for n in range(60)} | {f"{layer}/big": os.urandom(9000)})
    for layer in range(3)
]


def _prepare(root: Path | str) -> None:
    with lazarus.Store(root) as store:
        if not store.images.list():
            source = made.Made()
            source.image(TARS, "app:1")
            archive = Path(f"{root}.tar")
            store.images.load(source.archive(archive))
            archive.unlink()


def _work(root: Path | str) -> None:
    with lazarus.Store(root) as store:
        store.images.split(store.images.squash("app:1", "app:flat"), 1, ["**/1*", "2"], "app:split")


def _check(root: Path | str) -> None:
    """The old image is whole; a new one is whole or not there; nothing else is left."""
    with lazarus.Store(root) as store:
        assert os.listdir(store.paths.staging) == os.listdir(store.paths.trash) == []
        assert_whole(store)
        assert len(object_names(store)) == 3
        old = store.images.get("app:1")
        for image in store.images.list():
            assert list(store.images.diff(old, image)) == []
            for layer in image.layers:
                with open(os.devnull, "wb") as out:
                    layer.write_tar(out.fileno())


def _forget(root: Path | str) -> None:
    with lazarus.Store(root) as store:
        for name in ("app:flat", "app:split"):
            with suppress(LazarusError):
                store.images.remove(name)


def _until_it_fits(disk: Path) -> None:
    root = disk / "store"
    _prepare(root)
    failures = successes = 0
    for free in [*range(0, 1_600_000, 100_000), 2_500_000]:
        _leave(disk, free)
        try:
            _work(root)
            successes += 1
        except Exception as error:
            assert isinstance(error, OSError | LazarusError), error
            assert not isinstance(error, OSError) or error.errno == errno.ENOSPC, error
            assert "No space" in str(error) and "\n" not in str(error), error
            failures += 1
        (disk / "ballast").unlink()
        _check(root)
        _forget(root)
    assert failures > 2 and successes >= 1


@pytest.mark.root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4 4096"])
def test_a_squash_that_does_not_fit(tmp_path: Path, kind: str) -> None:
    _with_small_disk(kind, tmp_path, _until_it_fits)


def test_killed_before_any_line(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    _prepare(root)
    total = _lines(lambda: _work(root))
    _forget(root)
    step = max(1, total // kills(40))
    first = random.Random(SEED).randrange(step)
    print(f"seed {SEED}: lines {first}, {first + step}, ... of {total}")
    for line in range(first, total, step):
        assert _killed_before_line(lambda: _work(root), line), line
        _check(root)
        _work(root)
        _check(root)
        _forget(root)


def test_killed_at_random_moments(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    choose = random.Random(SEED)
    print("seed", SEED)
    _prepare(root)
    started = time.monotonic()
    child = _fork(lambda: _work(root))
    assert os.waitpid(child, 0)[1] == 0
    whole = time.monotonic() - started
    for _ in range(15):
        _forget(root)
        child = _fork(lambda: _work(root))
        time.sleep(choose.uniform(0, whole))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        _check(root)
