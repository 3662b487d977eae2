"""Containers that stand still for a moment, so that what they wrote can be copied as it is at one moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lazarus.errors import ContainerRuntimeError
from lazarus.runtime import freezer

if TYPE_CHECKING:
    from lazarus.containers.container import Container


@contextmanager
def frozen(containers: Sequence[Container], *, patience: float = freezer.PATIENCE) -> Iterator[tuple[Container, ...]]:
    """Inside the `with` no process of them runs; yields those that were running, all others are left alone. The caller
    holds their locks, so that none starts.

    They go on at the end, also when this process is killed: see `lazarus.runtime.freezer`, which says how it is done
    with and without a cgroup of the container's own. `ContainerRuntimeError` when one cannot be frozen, or does not
    stand still within `patience` seconds: nothing is frozen then.
    """
    running, freezers = [], []
    for container in containers:
        state = container._execution.settled()
        if state.status == "running" and state.process.alive:
            running.append(container)
            try:
                freezers.append(freezer.freezer_of(state.process.pid, container.id))
            except ContainerRuntimeError as error:
                raise ContainerRuntimeError(f"container {container.name}: {error}") from error
    names = ", ".join(container.name for container in running)
    with freezer.frozen(freezers, patience=patience, name=f"container {names}"):
        yield tuple(running)
