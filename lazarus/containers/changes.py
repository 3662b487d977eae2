"""What a container has changed: as a list, and as a layer of a new image."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from lazarus.containers.chain import mark_of, uppers
from lazarus.containers.freeze import frozen
from lazarus.containers.state import Lock
from lazarus.content.limited import is_limited
from lazarus.errors import FormatError, NotFoundError
from lazarus.terms import Change
from lazarus.union.pipe import through_pipe

if TYPE_CHECKING:
    from lazarus.containers.container import Container
    from lazarus.content.lease import Lease
    from lazarus.content.staged import StagedLayer
    from lazarus.images import Image
    from lazarus.terms import DiffID

COMPRESSIONS = ("gzip", "zstd", "none")


def diff(container: Container) -> list[Change]:
    """See `Container.diff`."""
    if is_limited(container.directory):
        with Lock(container.directory):
            return _diff(container)
    return _diff(container)


def _diff(container: Container) -> list[Change]:
    upper = f"{container.directory}/upper"
    try:
        while True:
            base = mark_of(upper)
            found = _diff_of_upper(container) if base is None else _diff_of_chain(container)
            if mark_of(upper) == base:  # no checkpoint was taken meanwhile
                return found
    except FileNotFoundError:
        if os.path.isdir(container.directory):
            raise
        raise NotFoundError(f"container {container.name}: it has been removed") from None


def _diff_of_chain(container: Container) -> list[Change]:
    """Of a container whose upper lies on checkpoints: what they and it show is compared with what the image shows."""
    from lazarus._native.union import Union
    from lazarus.union.changes import changes
    from lazarus.union.layer_stack import LayerStack
    from lazarus.union.sources import open_branches

    store, directory = container.store, container.directory
    layers = [store.layers.get(diff_id) for diff_id in container.settings.diff_ids]
    below = uppers(store.paths, directory)
    maps = _block_maps(container)
    with ExitStack() as ending:
        if maps is None:
            now = LayerStack([*layers, *reversed(below), f"{directory}/upper"])
        else:
            now = LayerStack(
                [*layers, *reversed(below)],
                upper=f"{directory}/upper",
                work=f"{directory}/union",
                user_xattr=False,
                read_only=True,
            )
        ending.enter_context(now)
        before = Union(open_branches(layers, True))
        ending.callback(before.close)
        opened = []
        for place in (f"{directory}/upper", *below):
            opened.append(os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            ending.callback(os.close, opened[-1])
        return list(changes(now, before, opened, len(layers), "trusted.overlay."))


def _diff_of_upper(container: Container) -> list[Change]:
    from lazarus._native.pack import diff as native_diff

    store = container.store
    stack = store.stacks.open(container.settings.diff_ids)
    maps = _block_maps(container)
    contents = () if maps is None else (stack.layer_index_paths, store.paths.objects)
    return native_diff(f"{container.directory}/upper", stack.index_path, *contents, maps=maps)


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
        with Lock(container.directory):
            staged = _read_checkpoints(meant, lease, compression, epoch)
            diff_ids = [*meant.settings.diff_ids, *(layer.diff_id for layer in staged)]
            with frozen([container] if pause else []):
                upper = f"{meant.directory}/upper"
                staged.append(_read_upper(meant, upper, diff_ids, lease, compression, epoch))
        return store.images.add_layers(
            base,
            staged,
            lease,
            changes=changes,
            author=author,
            message=message,
            created=epoch if epoch is not None else time.time(),
            reference=reference,
        )


def _read_checkpoints(container: Container, lease: Lease, compression: str, epoch: int | None) -> list[StagedLayer]:
    """What the checkpoints hold that its upper lies on, the oldest first. What comes after may refer to it, so they are
    published; those of which no image comes are rubbish."""
    store, found = container.store, []
    diff_ids = list(container.settings.diff_ids)
    for place in reversed(uppers(store.paths, container.directory)):
        if os.listdir(place):  # the last layer has the root directory's attributes
            found.append(_read_upper(container, place, diff_ids, lease, compression, epoch))
            store.content.publish(lease, layers=found[-1:])
            diff_ids.append(found[-1].diff_id)
    return found


def _read_upper(
    container: Container, upper: str, diff_ids: list[DiffID], lease: Lease, compression: str, epoch: int | None
) -> StagedLayer:
    """An upper directory over these layers as a tar, through a pipe, into the lease's staging: nothing is written
    twice."""
    from lazarus._native.pack import pack_upper
    from lazarus.layers.stack import merged_index

    store = container.store
    stack = store.stacks.open(container.settings.diff_ids)  # whose index every process shares
    layers = [store.layers.get(diff_id) for diff_id in diff_ids]
    index = stack.index_path if tuple(diff_ids) == stack.diff_ids else merged_index(layers)

    def write(out_fd: int) -> None:
        pack_upper(
            upper,
            index,
            [layer.index_path for layer in layers],
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
