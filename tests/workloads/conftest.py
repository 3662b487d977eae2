"""What every workload shares: a store that is gone afterwards, with all that its containers wrote."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_helpers import Command
from container_helpers import inside, remove_all

from lazarus.store import Store


@pytest.fixture(scope="module")
def store_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a store may be. Afterwards what its images have must be as it was, to the last byte."""
    place = tmp_path_factory.mktemp("workload")
    try:
        yield place / "store"
        with Store(place / "store") as store:
            assert list(store.check()) == []
    finally:
        shutil.rmtree(place)


@pytest.fixture
def lazarus(store_root: Path) -> Iterator[Command]:
    """The command, on that store. Afterwards no container, no volume and no process of one is left in it."""
    yield Command(store_root)
    with Store(store_root) as store:
        remove_all(store)
    assert inside(store_root) == []
