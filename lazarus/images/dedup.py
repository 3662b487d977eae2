"""How much would sharing save, over many images: by layer, by file, by content-defined chunk, by block of a fixed size?

    report = store.dedup.report(["app:1", "app:2"], chunk_sizes=[16 << 10, 64 << 10])
    report.alone, report.files.bytes, [(row.size, row.saved) for row in report.chunks]

**What is counted** is the content of regular files, uncompressed; of a hard-linked file once in each layer. Alone, each
image has layers of its own; then each layer is kept once; then each content (what a store keeps, as objects and inline
files); then each different chunk or block of these contents. So a row has no more bytes than the ones above it. Names,
owners and what else is in a tar are in none of them.

**An index is not free.** To share files each of a layer's needs its digest; to share chunks, each different one needs a
row in a table, and each file a list. `index_bytes` are those that these take: 40 for a file (the object table of
csrc/bytes/lz_index.h); 40 for a different chunk and 4 for each in a list (the artifact of `lazarus.volumes.artifact`),
but none for files that are one chunk. `saved` is what is left when that is paid.

**Digests** of chunks are XXH3-128, for counting alone: nothing is kept by them. survey.py has how they are got.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from lazarus.content import readers
from lazarus.errors import NotFoundError
from lazarus.terms import DiffID, Progress

if TYPE_CHECKING:
    from lazarus.images.image import Image
    from lazarus.store import Store

SMALLEST, LARGEST = 1 << 10, 16 << 20
OBJECT_ROW = TABLE_ROW = 40
LIST_ENTRY = 4


class Sharing(NamedTuple):
    """One way to share: `by` "layer", "file", "chunk" or "block", of `size` bytes (on average; 0 where there is none).

    Of `uses`, that many are `different`; they have `bytes` of content, and `index_bytes` more to find them. `saved` is
    the share of the images' bytes that is not needed (below 0 where the index costs more).
    """

    by: str
    size: int
    uses: int
    different: int
    bytes: int
    index_bytes: int
    saved: float


class DedupReport(NamedTuple):
    """What `Dedup.report` found. `images` are digests, `alone` the bytes of all without any sharing; `chunks`
    and `blocks` have a row for each size; `keyed` says whether chunks were cut with a key."""

    images: tuple[str, ...]
    alone: int
    layers: Sharing
    files: Sharing
    chunks: tuple[Sharing, ...]
    blocks: tuple[Sharing, ...]
    keyed: bool

    @property
    def rows(self) -> tuple[Sharing, ...]:
        """All of them, in this order."""
        return (self.layers, self.files, *self.chunks, *self.blocks)


class Dedup:
    """What the images of a store share: `store.dedup`."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def report(
        self,
        images: Sequence[Image | str] | None = None,
        *,
        chunk_sizes: Sequence[int] = (64 << 10,),
        key: bytes | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> DedupReport:
        """How many bytes are saved when images (default: all) share layers, files, and chunks and blocks of each size.

        `chunk_sizes` are averages in bytes, powers of two from 1 KiB to 16 MiB; `key`: 32 secret bytes to cut
        chunks with, such as `Store.chunk_key`. Every content is read once, by `threads` (default: one a core): 870 MB
        in 0.6 s on two, for one size, in 1.7 s for five. Memory: 8 MiB and four times the largest size a thread, 80
        bytes a different chunk. `CorruptError` names an object that is missing or has another size; `NotFoundError`.
        """
        find = self.store.images
        chosen = find.list() if images is None else [find.get(one) if isinstance(one, str) else one for one in images]
        return _report(self.store, chosen, chunk_sizes, key, threads, progress)


def _report(
    store: Store,
    images: Sequence[Image],
    chunk_sizes: Sequence[int],
    key: bytes | None,
    threads: int | None,
    progress: Progress | None,
) -> DedupReport:
    from lazarus.images.survey import LayerFiles, Survey, different, kinds

    sizes = sorted({_checked(size) for size in chunk_sizes})
    threads = len(os.sched_getaffinity(0)) if threads is None else threads
    if not 1 <= threads <= 256:
        raise ValueError(f"threads: {threads}, expected 1 to 256")
    images = list({image.digest: image for image in images}.values())
    if not images:
        raise NotFoundError("no image in this store")
    layers: dict[DiffID, LayerFiles] = {}
    with store.content.lease("dedup"), ExitStack() as closing:  # what is there now stays until this ends
        closing.callback(os.close, readers.hold(store.paths.objects))  # and no pool takes it to another place
        indexes = {diff_id for image in images for diff_id in image.diff_ids}
        readers.make_room_for_descriptors(len(indexes))
        for image in images:
            for diff_id in image.diff_ids:
                if diff_id not in layers:
                    layers[diff_id] = LayerFiles(store.layers.get(diff_id))
        files = different(list(layers.values()))
        survey = Survey(list(layers.values()), files, kinds(sizes, key), progress)
        survey.run(threads)
    alone = sum(layers[diff_id].bytes for image in images for diff_id in image.diff_ids)

    def row(by: str, size: int, uses: int, count: int, kept: int, index: int) -> Sharing:
        return Sharing(by, size, uses, count, kept, index, 1 - (kept + index) / alone if alone else 0.0)

    names = sum(layer.count for layer in layers.values())
    chunked = []
    for kind, found in survey.counts.items():
        count, kept = found.result()
        index = TABLE_ROW * (count - found.whole) + LIST_ENTRY * (found.uses - found.whole)
        chunked.append(row(*kind, found.uses, count, kept, OBJECT_ROW * names + index))
    return DedupReport(
        tuple(image.digest for image in images),
        alone,
        row(
            "layer",
            0,
            sum(len(image.diff_ids) for image in images),
            len(layers),
            sum(layer.bytes for layer in layers.values()),
            0,
        ),
        row("file", 0, names, len(files), int(files["size"].sum()), OBJECT_ROW * names),
        tuple(found for found in chunked if found.by == "chunk"),
        tuple(found for found in chunked if found.by == "block"),
        key is not None,
    )


def _checked(size: int) -> int:
    if not SMALLEST <= size <= LARGEST or size & (size - 1):
        raise ValueError(f"chunk size: {size} bytes, expected a power of two from {SMALLEST} to {LARGEST}")
    return size
