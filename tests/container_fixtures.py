"""A store with a small image for the tests of containers, and the proof that each of them left nothing behind."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_helpers import IMAGE, clean, descriptors, inside, remove_all, until
from small_rootfs import make_rootfs, make_tar, need_runtime

from lazarus.store import Store


@pytest.fixture(scope="session")
def small_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root file system of small_rootfs.py as a tar."""
    place = tmp_path_factory.mktemp("small")
    return make_tar(make_rootfs(place / "root"), place / "small.tar")


@pytest.fixture(scope="session")
def small_root(small_tar: Path) -> Path:
    """The path of a store that holds the image `small:latest`."""
    if os.geteuid() != 0:
        pytest.skip("needs root: containers are mounted")
    need_runtime()
    root = small_tar.parent / "store"
    with Store(root) as store:
        store.images.import_(str(small_tar), IMAGE, changes=['CMD ["sh"]'])
    return root


@pytest.fixture
def store(small_root: Path) -> Iterator[Store]:
    """That store, open; afterwards no container, no process of one, no mount and no descriptor may be left."""
    gc.collect()  # what earlier tests forgot to close is not this one's to answer for
    before = descriptors()
    with Store(small_root) as store:
        try:
            yield store
        finally:
            clean(store)
        for directory in (store.paths.containers, store.paths.trash):
            until(lambda: not os.listdir(directory))  # noqa: B023  - a --rm in the background is just done
    assert inside(small_root) == []
    assert str(small_root) not in Path("/proc/self/mountinfo").read_text()
    assert descriptors() <= before, "descriptors leaked"  # fewer: an earlier test's came to their end only now
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.fixture
def no_checkpoints_left(store: Store) -> Iterator[None]:
    """Removes all containers and volumes after a test, and with them the last checkpoint has to go."""
    yield
    remove_all(store)
    assert os.listdir(store.paths.checkpoints) == []
