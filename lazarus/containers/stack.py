"""A container's files as a layer stack: the same `upper` that its process writes to, without the kernel.

Two drivers, one upper, never at once. Whoever opens a writable stack holds a shared lock on the stack's work directory,
`union`, until the last file of it is closed; whoever mounts the container needs that lock for itself for a moment, and
settles first what a stack that was killed has left block by block. Both happen under the container's own lock. `diff`
and `commit` read block-level files as they are.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lazarus._native.publish import remove_tree
from lazarus.containers import chain, rootfs
from lazarus.containers.state import Lock
from lazarus.content.limited import is_limited
from lazarus.errors import ConflictError, NotFoundError
from lazarus.union.layer_stack import LayerStack, Stats

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lazarus.containers.container import Container
    from lazarus.containers.settings import Settings
    from lazarus.store import Store
    from lazarus.terms import Change
    from lazarus.union.sources import Source


class ContainerStack(LayerStack):
    """What `Container.stack` gives. Closing it settles block-level files and adds its numbers to `Container.stats`."""

    container: Container

    def diff(self) -> Iterator[Change]:
        """As `Container.diff`: the mount points that Lazarus adds are no part of the image nor of the changes."""
        return iter(self.container.diff())

    def close(self) -> None:
        """Makes every file whole and ends it; files that are open go on. A second call is harmless."""
        if self.closed:
            return
        try:
            if not self.read_only:
                with suppress(NotFoundError), Lock(self.container.directory):  # or it was removed by force
                    self.settle()
                    _add_stats(self.container.directory, self.stats)
                    super().close()
                    _end_of_blocks(self.container.directory)
        finally:
            super().close()
            if is_limited(self.container.directory):
                with suppress(NotFoundError), Lock(self.container.directory):
                    pass  # whose end unmounts what the stack has kept busy


def open_stack(container: Container, read_only: bool, options: dict[str, Any]) -> ContainerStack:
    """See `Container.stack`."""
    directory, store, settings = container.directory, container.store, container.settings
    with Lock(directory):
        container._execution.settled()
        sources = _sources(store, directory, settings)
        if read_only and os.path.isdir(f"{directory}/union/blocks"):  # there may be files of which only some blocks are
            stack = ContainerStack(sources, read_only=True, **_upper(directory), **options)
        elif read_only:
            stack = ContainerStack([*sources, f"{directory}/upper"], **options)
        else:
            if rootfs.is_mounted(container.rootfs):
                doing = "is running" if container._execution.settled().status == "running" else "is mounted"
                raise ConflictError(f"container {container.name}: it {doing}; only a read-only stack can be opened")
            lock = _lock(directory, fcntl.LOCK_SH)
            try:
                stack = ContainerStack(sources, lock=lock, **_upper(directory), **options)
            finally:
                os.close(lock)
    stack.container = container
    return stack


def _sources(store: Store, directory: str, settings: Settings) -> list[Source]:
    store.stacks.open(settings.diff_ids)  # whose index every process shares
    init = f"{directory}/init"
    layers: list[Source] = [store.layers.get(diff_id) for diff_id in settings.diff_ids]
    checkpoints = reversed(chain.uppers(store.paths, directory))
    return [*layers, *([init] if os.path.isdir(init) else []), *checkpoints]


def _upper(directory: str) -> dict[str, Any]:
    """The container's upper as a stack takes it: the kernel's own marks."""
    return {"upper": f"{directory}/upper", "work": f"{directory}/union", "user_xattr": False}


def _lock(directory: str, kind: int) -> int:
    """A descriptor of the work directory that holds its lock, shared or exclusive."""
    with suppress(FileExistsError):
        os.mkdir(f"{directory}/union", 0o700)
    fd = os.open(f"{directory}/union", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        name = os.path.basename(directory)[:12]
        raise ConflictError(f"container {name}: a layer stack has its files open for writing") from None
    return fd


def check_free(directory: str) -> None:
    """`ConflictError` while a writable stack is open. The container's lock is held."""
    os.close(_lock(directory, fcntl.LOCK_EX))


def hand_over(store: Store, directory: str, settings: Settings) -> None:
    """Before the kernel takes the upper: nobody else has it, and every file is whole. The container's lock is held.

    `blocks` is there from the first opening for writing to a clean end: only then is the upper looked through, for
    files themselves say whether they are whole. `CorruptError` when the map of one is gone.
    """
    check_free(directory)
    if not os.path.isdir(f"{directory}/union/blocks"):
        return
    with LayerStack(_sources(store, directory, settings), **_upper(directory)) as stack:
        stack.settle()
    remove_tree(f"{directory}/union/blocks")  # maps that no file names


def _end_of_blocks(directory: str) -> None:
    """The last writer has gone and left no block-level file. The container's lock is held."""
    with suppress(ConflictError, OSError):
        held = _lock(directory, fcntl.LOCK_EX)
        try:
            os.rmdir(f"{directory}/union/blocks")
        finally:
            os.close(held)


def read_stats(directory: str) -> Stats:
    """What stacks that were closed have cost; zeros when there were none."""
    try:
        with open(f"{directory}/stats.json", "rb") as file:
            return Stats(**json.loads(file.read()))
    except (FileNotFoundError, ValueError, TypeError):  # a power cut may have torn it: numbers, not data
        return Stats({}, 0, 0, 0)


def _add_stats(directory: str, more: Stats) -> None:
    old = read_stats(directory)
    rungs = {name: old.copyups.get(name, 0) + more.copyups.get(name, 0) for name in {**old.copyups, **more.copyups}}
    total = Stats(
        rungs,
        old.copyups_other + more.copyups_other,
        old.bytes_asked + more.bytes_asked,
        old.bytes_copied + more.bytes_copied,
    )
    temporary = f"{directory}/stats.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(json.dumps(total._asdict()))
    os.rename(temporary, f"{directory}/stats.json")
