"""Containers that stand still for a moment, so that what they wrote can be copied as it is at one moment."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from lazarus.containers.state import Lock, Process, door
from lazarus.content import readers
from lazarus.errors import ConflictError, ContainerRuntimeError, NotFoundError
from lazarus.runtime import freezer

if TYPE_CHECKING:
    from lazarus.containers.container import Container
    from lazarus.store import Store
    from lazarus.volumes.volume import Volume


@contextmanager
def frozen(containers: Sequence[Container], *, patience: float = freezer.PATIENCE) -> Iterator[tuple[Container, ...]]:
    """Inside the `with` no process of them runs; yields those that were running, all others are left alone. The caller
    holds their locks, so that none starts; who wants to execute something in them waits.

    They go on at the end, also when this process is killed: see `lazarus.runtime.freezer`, which says how it is done
    with and without a cgroup of the container's own. `ContainerRuntimeError` when one cannot be frozen, or does not
    stand still within `patience` seconds: nothing is frozen then.
    """
    running, freezers = [], []
    with ExitStack() as doors:
        for container in containers:
            state = container._execution.settled()
            if state.status == "running" and state.process.alive:
                doors.enter_context(door(container.directory, shut=True))
                found = _freezer_of(container, state.process)
                if found is not None:
                    running.append(container)
                    freezers.append(found)
        names = ", ".join(container.name for container in running)
        with freezer.frozen(freezers, patience=patience, name=f"container {names}"):
            yield tuple(running)


def _freezer_of(container: Container, process: Process) -> freezer.Freezer | None:
    """None when it has ended by now: its first process is the last one to go."""
    while process.alive:
        try:
            return freezer.freezer_of(process.pid, container.id)
        except ProcessLookupError:  # it is about to
            time.sleep(freezer.WAIT)
        except ContainerRuntimeError as error:
            raise ContainerRuntimeError(f"container {container.name}: {error}") from error
    return None


@contextmanager
def at_rest(store: Store, volume: Volume, how: str) -> Iterator[None]:
    """See `Containers.at_rest`. Containers are locked before the volume, and the newest first, as everywhere: a start
    holds the container's lock, and then waits for the volume's."""
    alone = fcntl.LOCK_EX | (fcntl.LOCK_NB if how == "refuse" else 0)
    while True:
        with ExitStack() as locks:
            users = [] if how == "leave" else _naming(store, volume.name)
            readers.make_room_for_descriptors(2 * len(users))
            for container in users:
                with suppress(NotFoundError):  # without a directory: created by a process that died there
                    locks.enter_context(Lock(container.directory))
            locks.enter_context(volume.lock(alone))
            known = {container.id for container in users}
            if how != "leave" and any(found.id not in known for found in _naming(store, volume.name)):
                continue  # one more was made meanwhile: from here on none of them starts
            if how == "refuse":
                running = [found.name for found in users if found._execution.settled().status == "running"]
                if running:
                    names = ", ".join(running[:5]) + (", ..." if len(running) > 5 else "")
                    raise ConflictError(f"volume {volume.name}: container {names} runs on it; stop it first")
            locks.enter_context(frozen(users if how == "freeze" else ()))
            yield
            return


def _naming(store: Store, volume: str) -> list[Container]:
    """The containers that have a volume as it is now, not a snapshot of it alone, the newest first."""
    rows = store.catalogue.read().execute("SELECT container_id FROM container_volumes WHERE volume = ?", (volume,))
    ids = {row[0] for row in rows}
    found = [container for container in store.containers.list(all=True) if container.id in ids] if ids else []
    return [one for one in found if any(at.name == volume and not at.snapshot for at in one.settings.volumes)]
