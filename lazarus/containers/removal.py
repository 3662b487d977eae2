"""Removing a container."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from lazarus.containers import chain, rootfs, shown
from lazarus.containers.state import Lock
from lazarus.content import limited
from lazarus.errors import FULL, ConflictError, CorruptError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lazarus.containers.container import Container


def delete(container: Container, force: bool, volumes: bool = False, *, checkpoints: bool = True) -> bool:
    """Row first: what has no row does not exist, whatever is left of its directory. False: it runs (`force` only).

    What it is doing is asked under the lock: another process may just have started it. Without `checkpoints` those
    that nobody needs any more are left to the next sweep.
    """
    with ExitStack() as locks:
        return _delete(container, force, volumes or container.settings.auto_remove, checkpoints, locks)
    raise AssertionError


def _delete(container: Container, force: bool, volumes: bool, checkpoints: bool, locks: ExitStack) -> bool:
    from lazarus._native.publish import remove_tree

    store, trash = container.store, f"{container.store.paths.trash}/container-{container.id}"
    lay_on: tuple[str, ...] = ()
    names: Sequence[str] = ()
    try:
        with Lock(container.directory, to_remove=True):
            state = container._execution.settled()
            ending_here = not state.process.alive and state.supervisor.pid == os.getpid()  # the end of a --rm
            if state.status == "running" and not ending_here:
                if force:
                    return False
                raise ConflictError(f"container {container.name}: it is running; stop it first, or force")
            container._execution.end_stray()
            shown.release(store, container.id, container.settings)
            if not force and os.path.isdir(f"{container.directory}/union"):
                from lazarus.containers.stack import check_free

                check_free(container.directory)
            if rootfs.is_mounted(container.rootfs):
                rootfs.unmount(container.directory, lazy=force)
            with suppress(CorruptError, OSError):
                lay_on = chain.chain(store.paths, container.directory)
            limited.leave(container.directory, lazy=True)
            names = _volumes(container, locks) if volumes else ()
            try:
                store.content.reserve.with_room(lambda: store.containers.forget(container, names))
            except OSError as error:
                if error.errno not in FULL:
                    raise
                os.rename(container.directory, trash)  # a full disk, no reserve: its own files make room for the change
                remove_tree(trash)
                store.containers.forget(container, names)
            else:
                os.rename(container.directory, trash)
    except NotFoundError:  # without a directory: created by a process that died there
        names = names or (_volumes(container, locks) if volumes else ())
        store.containers.forget(container, names)
    if names:
        store.volumes.sweep()
        locks.close()
    remove_tree(trash)
    for image in container.settings.images:  # their rows have gone with its own
        with suppress(FileNotFoundError):
            os.rename(store.paths.container(image.part), f"{store.paths.trash}/container-{image.part}")
            remove_tree(f"{store.paths.trash}/container-{image.part}")
    if checkpoints and (lay_on or os.path.isdir(f"{store.paths.checkpoints}/{container.id}")):
        from lazarus.containers.checkpoints import sweep_after

        with suppress(OSError):  # a full disk: a prune does it
            sweep_after(store, container.id, lay_on)
    return True


def _volumes(container: Container, locks: ExitStack) -> list[str]:
    """The volumes that were made for it alone. `locks` gets what keeps others from copying them until they are gone;
    one that is being copied stays, and is a prune's. The container is locked before them, as everywhere."""
    found = []
    for name in container.settings.anonymous:
        with suppress(ConflictError):
            locks.enter_context(container.store.volumes.nobody_in(name))
            found.append(name)
    return found
