"""Copying between a volume and the host, and all its files as a tar or as chunks.

A volume is a directory in which containers may be at work meanwhile: names are resolved below it each time (openat2),
and nothing they make of their paths leads out of it. The rules of a copy are those of lazarus/union/copy.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from lazarus._native.openat2 import open_in_root
from lazarus._native.pack import pack_tree, unpack
from lazarus.content import limited
from lazarus.errors import ConflictError, one_line
from lazarus.union import copy
from lazarus.union.pipe import through_pipe
from lazarus.volumes.populate import settle

if TYPE_CHECKING:
    from lazarus.oci.transports import Place
    from lazarus.registry.settings import Settings
    from lazarus.terms import Progress
    from lazarus.volumes.artifact.push import Pushed
    from lazarus.volumes.volume import Volume


def copy_in(volume: Volume, source: str | IO[bytes] | int, target: str, *, archive: bool) -> None:
    """See `Volume.copy_in`."""
    with _opened(volume, writing=True) as root, limited.at_limit(f"volume {volume.name}", volume.limit):
        copy.copy_in(_side(root, volume.name), source, target, archive=archive)


def copy_out(
    volume: Volume, source: str, target: str | IO[bytes] | int, *, snapshot: str | None, archive: bool
) -> None:
    """See `Volume.copy_out`."""
    name = volume.name if snapshot is None else f"{volume.name}@{snapshot}"
    with _opened(volume, snapshot) as root:
        copy.copy_out(_side(root, name), source, target, archive=archive)


def export(volume: Volume, out_fd: int, snapshot: str | None) -> int:
    """See `Volume.export`."""
    with _opened(volume, snapshot) as root:
        return pack_tree(root, out_fd)


def import_(volume: Volume, in_fd: int) -> int:
    """See `Volume.import_`."""
    from lazarus._native.stream import decompress

    keep_owner = os.geteuid() == 0

    def read(pipe_fd: int) -> int:
        entries = unpack(pipe_fd, root, keep_owner=keep_owner, no_replace_directory=True)
        while os.read(pipe_fd, 1 << 16):  # what follows the end of the archive
            pass
        return entries

    with _opened(volume, writing=True) as root, limited.at_limit(f"volume {volume.name}", volume.limit):
        try:
            return through_pipe(lambda out_fd: decompress(in_fd, out_fd), read)
        except (IsADirectoryError, NotADirectoryError) as error:
            raise ConflictError(f"volume {volume.name}: a directory and a file meet: {one_line(error)}") from error


def push(
    volume: Volume, place: Place, snapshot: str | None, progress: Progress | None, registry: Settings | None = None
) -> Pushed:
    """See `Volume.push`."""
    from lazarus.volumes.artifact.push import push as push_directory

    with _opened(volume, snapshot) as root:
        return push_directory(root, place, name=volume.name, labels=volume.labels, registry=registry, progress=progress)


@contextmanager
def _opened(volume: Volume, snapshot: str | None = None, *, writing: bool = False) -> Iterator[int]:
    """A descriptor of its root directory, or of a snapshot's, which stays where it is meanwhile. What is written in a
    fresh volume is what it begins with."""
    if writing:
        volume.store.content.reserve.check()
        settle(volume, None, durable=False)
    with volume.opened() if snapshot is None else volume.get_snapshot(snapshot).reading() as path:
        root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield root
        except FileNotFoundError:
            _ = volume.fresh  # `NotFoundError`: one without a name has gone with its container meanwhile
            raise
        finally:
            os.close(root)


def _side(root: int, name: str) -> copy.Directories:
    return copy.Directories(lambda path, flags: open_in_root(root, path, flags), name=name)
