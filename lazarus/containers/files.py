"""Copying between a container and the host, and the export of all its files.

A container that runs or is mounted is copied through its root directory as its process sees it, volumes too; one that
does neither through a layer stack, so that nothing has to be mounted. The rules are those of lazarus/union/copy.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from lazarus._native.openat2 import open_in_root
from lazarus._native.pack import pack_tree
from lazarus._native.union_tar import pack
from lazarus.containers import rootfs
from lazarus.containers.state import Lock
from lazarus.content.limited import at_limit
from lazarus.errors import ConflictError
from lazarus.union import copy
from lazarus.union.layer_stack import LayerStack

if TYPE_CHECKING:
    from lazarus.containers.container import Container


def export(container: Container, out_fd: int) -> int:
    """See `Container.export`."""
    with _files(container, writing=False) as files:
        if isinstance(files, LayerStack):
            return pack(files, b"/", out_fd)
        inside = os.open(f"/proc/self/fd/{files}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return pack_tree(inside, out_fd)
        finally:
            os.close(inside)


def copy_in(container: Container, source: str | IO[bytes] | int, target: str, *, archive: bool) -> None:
    """See `Container.copy_in`."""
    with _files(container, writing=True) as files:
        limit = container.settings.size if _is_own(files, target) else None
        with at_limit(f"container {container.name}", limit):
            copy.copy_in(_side(container, files), source, target, archive=archive)


def copy_out(container: Container, source: str, target: str | IO[bytes] | int, *, archive: bool) -> None:
    """See `Container.copy_out`."""
    with _files(container, writing=False) as files:
        copy.copy_out(_side(container, files), source, target, archive=archive)


def _side(container: Container, files: int | LayerStack) -> copy.Side:
    if isinstance(files, LayerStack):
        return copy.Stack(files, name=container.name)
    root = files
    return copy.Directories(lambda path, flags: open_in_root(root, path, flags), name=container.name)


def _is_own(files: int | LayerStack, target: str) -> bool:
    """Is the path in the container's own layer, and not in a volume or on a tmpfs?"""
    if isinstance(files, LayerStack):
        return True
    for path in (target, os.path.dirname(target)):
        try:
            place = open_in_root(files, os.fsencode(path) or b"/", os.O_PATH)
        except OSError:
            continue  # what is copied may get that name
        try:
            return os.fstat(place).st_dev == os.fstat(files).st_dev
        finally:
            os.close(place)
    return True


@contextmanager
def _files(container: Container, *, writing: bool) -> Iterator[int | LayerStack]:
    """A descriptor of the root directory of a container that runs or is mounted, else a stack."""
    while True:
        root = _open_root(container)
        if root >= 0:
            try:
                yield root
            finally:
                os.close(root)
            return
        try:
            stack = container.stack(read_only=not writing)
        except ConflictError:
            if rootfs.is_mounted(container.rootfs):  # since we looked
                continue
            raise
        with stack:
            yield stack
        return


def _open_root(container: Container) -> int:
    """-1: it neither runs nor is it mounted. The lock is not kept: a long copy must not hold up the container's end."""
    with Lock(container.directory):
        if container._execution.settled().process.alive:
            return container._execution.open_live_root()
        if rootfs.is_mounted(container.rootfs):
            return os.open(container.rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return -1
