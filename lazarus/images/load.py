"""load: from an OCI archive, an OCI layout or a docker-archive into the store."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

from lazarus.content.content import StagedBlob
from lazarus.errors import FULL, CancelledError, CorruptError
from lazarus.images.build import NewImage
from lazarus.images.image import timestamp
from lazarus.images.plan import PlannedImage, PlannedLayer, distinct, plan
from lazarus.images.source import Source, open_source
from lazarus.oci import media
from lazarus.oci.documents import write_manifest
from lazarus.terms import Descriptor, DiffID, Digest, Limits, Platform, Progress, ProgressEvent

if TYPE_CHECKING:
    import sqlite3

    from lazarus.content.lease import Lease
    from lazarus.content.staged import StagedLayer
    from lazarus.store import Store

# Two layers at once keep two cores busy while one of them waits for the disk: 3.8 s against 4.0 s one after the other
# for 400 MB of layers on two cores, and each more costs 11 MB.
LAYERS_AT_ONCE = 2
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def load(
    store: Store,
    source: Source,
    *,
    platform: Platform | None,
    keep_blobs: bool,
    limits: Limits | None,
    progress: Progress | None,
) -> list[tuple[Digest, tuple[str, ...]]]:
    """See `Images.load`; the manifest digests, with the names that the archive has for each, in its order."""
    name = os.fsdecode(source) if isinstance(source, str | bytes | os.PathLike) and source != "-" else ""
    with naming_the_store(store, name), store.content.lease("load") as lease, ExitStack() as closing:
        images = plan(open_source(source, lease, closing, limits), platform)
        wanted = [layer for layer in distinct(images) if not is_here(store, layer, keep_blobs)]

        def one(layer: PlannedLayer, progress: Progress | None) -> StagedLayer:
            return ingest_layer(store, lease, layer, keep_blobs, limits, progress)

        staged = at_once(one, wanted, LAYERS_AT_ONCE, progress)
        return publish_images(store, lease, images, staged, progress)


@contextmanager
def naming_the_store(store: Store, what: str) -> Iterator[None]:
    """Where a full disk ends what comes from `what`: the native passes know neither that nor the store."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            error.filename, error.filename2 = what or None, store.paths.root
        raise


def is_here(store: Store, layer: PlannedLayer, keep_blobs: bool) -> bool:
    """Is all of it in the store? Bytes with a known digest are not read again; that the config speaks of the right
    diff ID, and its manifest of the right compression, is checked all the same."""
    if layer.digest is None:
        return store.layers.has(layer.diff_id)
    known = store.layers.find_by_blob(layer.digest, layer.compression)
    if known is None:
        return False
    if known != layer.diff_id:
        raise CorruptError(f"layer {layer.digest}: tar has diff ID {known}, config says {layer.diff_id}")
    return not keep_blobs or layer.compression == "none" or store.content.has_blob(layer.digest)


def ingest_layer(
    store: Store,
    lease: Lease,
    layer: PlannedLayer,
    keep_blobs: bool,
    limits: Limits | None,
    progress: Progress | None,
) -> StagedLayer:
    """Reads a layer into the lease's staging; what it came as, and what it is, must be what the documents say."""
    # an uncompressed layer needs no blob: its recipe gives the same bytes back
    keep = keep_blobs and layer.digest is not None and layer.compression != "none"
    with layer.open() as source:
        return source.read_by(
            lambda fd, offset: store.layers.ingest(
                lease,
                fd,
                offset=offset,
                size=layer.size,
                compression=layer.compression,
                blob="keep" if keep else "none",
                limits=limits,
                name=layer.name,
                progress=progress,
                expected_blob=layer.digest,
                expected_diff_id=layer.diff_id,
            )
        )


def at_once(
    one: Callable[[_Item, Progress | None], _Result],
    items: Sequence[_Item],
    count: int,
    progress: Progress | None,
    cancel: Callable[[], None] | None = None,
) -> list[_Result]:
    """`one(item, progress)` of each, `count` at a time; the results in the order of the items. The first that fails, or
    Ctrl-C, stops the others: `cancel` is called, and their next call of `progress` raises `CancelledError`."""
    stop = threading.Event()
    progress = _one_at_a_time(progress)

    def watched(event: ProgressEvent) -> None:
        if stop.is_set():
            raise CancelledError(f"layer {event.name}: cancelled")
        if progress is not None:
            progress(event)

    if not items or (len(items) == 1 and cancel is None):
        return [one(item, progress) for item in items]
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(one, item, watched) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            if cancel is not None:
                cancel()
            pool.shutdown(cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _one_at_a_time(progress: Progress | None) -> Progress | None:
    """Calls come from several threads; the caller's function sees them one after the other."""
    if progress is None:
        return None
    lock = threading.Lock()

    def locked(event: ProgressEvent) -> None:
        with lock:
            progress(event)

    return locked


def publish_images(
    store: Store,
    lease: Lease,
    images: Sequence[PlannedImage],
    staged: Sequence[StagedLayer],
    progress: Progress | None,
) -> list[tuple[Digest, tuple[str, ...]]]:
    """Publishes the lease with the images, whose other layers are here; their manifests' digests, and their names."""
    sizes = {layer.diff_id: layer.tar_size for layer in staged}
    blobs: list[StagedBlob] = []
    rows = [_new_image(store, lease, image, sizes, blobs) for image in images]
    if progress is not None:
        progress(ProgressEvent("publish", "", 0, 0))

    def insert(connection: sqlite3.Connection) -> None:
        for row in rows:
            row.insert(connection)

    store.content.publish(lease, blobs=blobs, layers=staged, rows=insert)
    return [(row.manifest.digest, tuple(row.names)) for row in rows]


def _new_image(
    store: Store, lease: Lease, image: PlannedImage, sizes: dict[DiffID, int], blobs: list[StagedBlob]
) -> NewImage:
    """Stages the documents. A docker-archive has no manifest: it gets one of uncompressed layers, always the same."""
    for layer in image.layers:
        if layer.diff_id not in sizes:
            sizes[layer.diff_id] = store.layers.get(layer.diff_id).tar_size
    config = store.content.stage_blob(lease, image.config)
    digests = [layer.digest or Digest(layer.diff_id) for layer in image.layers]
    data = image.manifest
    if data is None:
        data = write_manifest(
            Descriptor(media.OCI_CONFIG, config.digest, config.size),
            [
                Descriptor(media.OCI_LAYER, digest, sizes[layer.diff_id])
                for digest, layer in zip(digests, image.layers, strict=True)
            ],
        )
    manifest = store.content.stage_blob(lease, data)
    blobs += [config, manifest]
    return NewImage(
        manifest,
        config.digest,
        image.media_type,
        [(layer.diff_id, digest) for layer, digest in zip(image.layers, digests, strict=True)],
        created=timestamp(image.parsed.created),
        size=sum(sizes[layer.diff_id] for layer in image.layers),
        names=image.names,
        offered=image.platform if image.platform not in (None, image.parsed.platform) else None,
    )
