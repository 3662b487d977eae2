"""What a container has changed: as a list, and as a layer of a new image."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from lazarus.containers.freeze import frozen
from lazarus.containers.state import Lock
from lazarus.errors import FormatError, NotFoundError
from lazarus.terms import Change
from lazarus.union.pipe import through_pipe

if TYPE_CHECKING:
    from lazarus.containers.container import Container
    from lazarus.content.lease import Lease
    from lazarus.content.staged import StagedLayer
    from lazarus.images import Image

COMPRESSIONS = ("gzip", "zstd", "none")


def diff(container: Container) -> list[Change]:
    """See `Container.diff`."""
    from lazarus._native.pack import diff as native_diff

    store = container.store
    stack = store.stacks.open(container.settings.diff_ids)
    maps = _block_maps(container)
    contents = () if maps is None else (stack.layer_index_paths, store.paths.objects)
    try:
        return native_diff(f"{container.directory}/upper", stack.index_path, *contents, maps=maps)
    except FileNotFoundError:
        if os.path.isdir(container.directory):
            raise
        raise NotFoundError(f"container {container.name}: it has been removed") from None


def _block_maps(container: Container) -> str | None:
    """Where the maps of files that were copied up block by block are, if there are any."""
    maps = f"{container.directory}/union/blocks"
    return maps if os.path.isdir(maps) else None


def commit(
    container: Container,
    reference: str | None,
    *,
    changes: tuple[str, ...],
    message: str,
    author: str,
    compression: str,
    pause: bool,
    part: Container | None = None,
) -> Image:
    """See `Container.commit`. `part`: an image that is mounted in it is meant."""
    from lazarus.images.build import source_date_epoch

    if compression not in COMPRESSIONS:
        raise FormatError(f"compression {compression!r:.40}: not one of {', '.join(COMPRESSIONS)}")
    store = container.store
    meant = container if part is None else part
    base = meant.image
    epoch = source_date_epoch()
    with store.content.lease("commit") as lease:
        # The lock keeps it from being removed meanwhile: files that vanish are taken as removed by the container.
        with Lock(container.directory), frozen([container] if pause else []):
            staged = _read_upper(meant, lease, compression, epoch)
        return store.images.add_layer(
            base,
            staged,
            lease,
            changes=changes,
            author=author,
            message=message,
            created=epoch if epoch is not None else time.time(),
            reference=reference,
        )


def _read_upper(container: Container, lease: Lease, compression: str, epoch: int | None) -> StagedLayer:
    """The upper directory as a tar, through a pipe, into the lease's staging: nothing is written twice."""
    from lazarus._native.pack import pack_upper

    store = container.store
    stack = store.stacks.open(container.settings.diff_ids)

    def write(out_fd: int) -> None:
        pack_upper(
            f"{container.directory}/upper",
            stack.index_path,
            stack.layer_index_paths,
            store.paths.objects,
            out_fd,
            maps=_block_maps(container),
            max_mtime=epoch,
        )

    def read(in_fd: int) -> StagedLayer:
        name = f"commit of {container.name}"
        blob = "keep" if compression == "none" else compression
        return store.layers.ingest(lease, in_fd, compression="none", blob=blob, name=name)

    return through_pipe(write, read)
