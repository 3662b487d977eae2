"""squash, rebase, drop, reorder and split: new images out of the layers of those that exist; and diff of two images.

Only squash and split make layers, and they make them from indexes (csrc/tree/lz_relayer.h): no file's content is
copied. Layers that stay are the same bytes under the same digests, whatever lies under them now.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from lazarus.content.staged import StagedLayer
from lazarus.errors import ConflictError, FormatError, LazarusError, NotFoundError
from lazarus.images.build import as_oci, drop_foreign, publish_image, rfc3339
from lazarus.oci import media
from lazarus.terms import Descriptor, DiffID, Digest, Json, Progress, ProgressEvent, ViewChange

if TYPE_CHECKING:
    from lazarus._native.index import Index
    from lazarus._native.relayer import RelayerResult
    from lazarus.content.lease import Lease
    from lazarus.images.image import Image
    from lazarus.store import Store

BASE_DIGEST = "org.opencontainers.image.base.digest"  # image-spec, annotations.md
log = logging.getLogger(__name__)


class Part(NamedTuple):
    """One layer of an image: what its manifest says, and the lines of history that belong to it, its own first."""

    diff_id: DiffID
    descriptor: Descriptor
    tar_size: int
    index_path: str
    recipe_path: str
    history: tuple[Json, ...]


def parts_of(image: Image) -> tuple[tuple[Json, ...], list[Part]]:
    """The lines of history before the first layer, and the layers, lowest first.

    A history that speaks of another number of layers cannot be told apart: it becomes one empty line a layer.
    """
    layers = image.layers
    lines: list[Json] = image.config.raw.get("history") or []
    blocks: list[list[Json]] = [[]]
    for line, entry in zip(lines, image.config.history, strict=True):
        if not entry.empty_layer:
            blocks.append([])
        blocks[-1].append(line)
    if len(blocks) - 1 != len(layers):
        if lines:
            log.warning("%s: %d layers, its history speaks of %d: left out", image.id, len(layers), len(blocks) - 1)
        blocks = [[], *[[Json()] for _ in layers]]
    parts = [
        Part(layer.diff_id, as_oci(descriptor), layer.tar_size, layer.index_path, layer.recipe_path, tuple(block))
        for layer, descriptor, block in zip(layers, image.manifest.layers, blocks[1:], strict=True)
    ]
    return tuple(blocks[0]), parts


def layer_number(image: Image, text: str | int) -> int:
    """A layer of an image by its number (1 is the lowest) or the beginning of its diff ID; from 0. `NotFoundError`,
    `ConflictError` when a beginning fits several."""
    word = str(text)
    if word.isascii() and word.isdigit() and len(word) < 6:
        if not 1 <= int(word) <= len(image.diff_ids):
            raise NotFoundError(f"layer {word}: image {image.id} has {len(image.diff_ids)} (1 is the lowest)")
        return int(word) - 1
    digits = word.removeprefix("sha256:")
    found = [number for number, diff_id in enumerate(image.diff_ids) if digits and diff_id.hex.startswith(digits)]
    if not found:
        raise NotFoundError(f"layer {word:.80}: image {image.id} has none of this number or diff ID")
    if len(found) > 1:
        raise ConflictError(f"layer {word:.80}: fits layers {', '.join(str(n + 1) for n in found)} of image {image.id}")
    return found[0]


class Operation:
    """One operation on its way: the lease, the layers that it makes, and the image that it publishes."""

    def __init__(self, store: Store, lease: Lease, words: str, created: float, progress: Progress | None) -> None:
        self.store = store
        self.lease = lease
        self.words = words  # of the command line, for the history
        self.created = created
        self.progress = progress
        self.staged: list[StagedLayer] = []

    def line(self, comment: str = "", *, empty: bool = False) -> Json:
        """The line of history of this operation."""
        line: Json = {"created": rfc3339(self.created), "created_by": f"lazarus image {self.words}"}
        if comment:
            line["comment"] = comment
        return line | ({"empty_layer": True} if empty else {})

    def merged(self, parts: Sequence[Part]) -> Index:
        """The view that layers give together; O(entries), milliseconds per 10,000."""
        from lazarus._native import index

        path = self.lease.new_path("merged")
        index.merge([part.index_path for part in parts], [part.diff_id.raw for part in parts], path)
        return index.Index(path)

    def make(self, write: Callable[..., RelayerResult], size: int) -> Part:
        """A new layer: `write(directory, progress=...)` fills its directory. Its tar gets about `size` bytes."""
        directory = self.lease.new_directory("layer")
        told = self.progress
        step = None if told is None else (lambda done: told(ProgressEvent("hash", "new layer", done, max(size, done))))
        staged = StagedLayer(directory, write(directory, progress=step))
        self.staged.append(staged)
        descriptor = Descriptor(media.OCI_LAYER, Digest(staged.diff_id), staged.tar_size)
        return Part(
            staged.diff_id, descriptor, staged.tar_size, f"{directory}/index", f"{directory}/recipe", (self.line(),)
        )

    def publish(self, image: Image, parts: Sequence[Part], history: Sequence[Json], reference: str | None) -> Digest:
        """An image of these layers with the config of `image`; the manifest's digest."""
        document: dict[str, Any] = dict(image.config.raw)
        drop_foreign(document)
        document["created"] = rfc3339(self.created)
        document["history"] = list(history)
        document["rootfs"] = {"type": "layers", "diff_ids": [part.diff_id for part in parts]}
        layers = [(part.diff_id, part.descriptor) for part in parts]
        size = sum(part.tar_size for part in parts)
        return publish_image(self.store, self.lease, document, layers, self.staged, self.created, size, reference)


def history_of(first: Sequence[Json], parts: Sequence[Part], *last: Json) -> list[Json]:
    """The lines of layers in their new order."""
    return [*first, *(line for part in parts for line in part.history), *last]


# -- the operations; `created` is seconds since 1970 --


def squash(
    store: Store,
    image: Image,
    first: int,
    last: int | None,
    reference: str | None,
    created: float,
    progress: Progress | None,
) -> Digest:
    """See `Images.squash`."""
    from lazarus._native import relayer

    count = len(image.diff_ids)
    end = count if last is None else last
    if not 1 <= first <= end <= count:
        raise FormatError(f"image {image.id}: layers {first} to {end} of {count}: no such range (1 is the lowest)")
    with store.content.lease("image") as lease:
        this = Operation(store, lease, f"squash --from {first} --to {end}", created, progress)
        lines, parts = parts_of(image)
        chosen = parts[first - 1 : end]
        below = this.merged(parts[: first - 1]) if first > 1 else None
        sources = [(part.index_path, part.recipe_path) for part in chosen]
        write = partial(relayer.squash, sources, store.paths.objects, below=below)
        new = this.make(write, sum(part.tar_size for part in chosen))
        # As docker build --squash: the steps stay in the history, but the layer is that of one line after them.
        steps = [line | {"empty_layer": True} for part in chosen for line in part.history if line]
        new = new._replace(history=(*steps, this.line(f"layers {first} to {end} of {image.id}")))
        result = [*parts[: first - 1], new, *parts[end:]]
        return this.publish(image, result, history_of(lines, result), reference)


def split(
    store: Store,
    image: Image,
    layer: str | int,
    patterns: Sequence[str | bytes],
    reference: str | None,
    created: float,
    progress: Progress | None,
) -> Digest:
    """See `Images.split`."""
    from lazarus._native import index, relayer

    number = layer_number(image, layer)
    words = "".join(f" --path {os.fsencode(pattern).decode('utf-8', 'replace')}" for pattern in patterns)
    with store.content.lease("image") as lease:
        this = Operation(store, lease, f"split {number + 1}{words}", created, progress)
        lines, parts = parts_of(image)
        old = parts[number]
        source = (old.index_path, old.recipe_path)
        with index.Index(old.index_path) as table:
            matched, found = relayer.match(table, [os.fsencode(pattern) for pattern in patterns])
            entries = len(table) - 1
        if found == 0 or found == entries:
            what = "no entry" if found == 0 else "every entry"
            raise FormatError(f"layer {number + 1} of image {image.id}: {what} of {entries} matches{words}")
        halves: list[Part] = []
        for side in (False, True):
            below = this.merged([*parts[:number], *halves])
            write = partial(relayer.split, source, matched, side, store.paths.objects, below=below)
            halves.append(this.make(write, old.tar_size))
        halves[0] = halves[0]._replace(history=old.history[:1])
        halves[1] = halves[1]._replace(history=(this.line(f"from {old.diff_id}"), *old.history[1:]))
        result = [*parts[:number], *halves, *parts[number + 1 :]]
        return this.publish(image, result, history_of(lines, result), reference)


def drop(store: Store, image: Image, layers: Sequence[str | int], reference: str | None, created: float) -> Digest:
    """See `Images.drop`."""
    gone = sorted({layer_number(image, layer) for layer in layers})
    if len(gone) == len(image.diff_ids):
        raise FormatError(f"image {image.id}: without its {len(gone)} layers there is nothing left")
    with store.content.lease("image") as lease:
        this = Operation(store, lease, f"drop {' '.join(str(number + 1) for number in gone)}", created, None)
        lines, parts = parts_of(image)
        result = [part for number, part in enumerate(parts) if number not in gone]
        comment = f"of {image.id}"
        return this.publish(image, result, history_of(lines, result, this.line(comment, empty=True)), reference)


def reorder(
    store: Store, image: Image, order: Sequence[str | int], force: bool, reference: str | None, created: float
) -> Digest:
    """See `Images.reorder`."""
    from lazarus._native.relayer import Comparison

    numbers = [layer_number(image, layer) for layer in order]
    if sorted(numbers) != list(range(len(image.diff_ids))):
        raise FormatError(f"image {image.id}: an order names each of its {len(image.diff_ids)} layers once")
    words = " ".join(str(number + 1) for number in numbers)
    with store.content.lease("image") as lease:
        this = Operation(store, lease, f"reorder {words}", created, None)
        lines, parts = parts_of(image)
        result = [parts[number] for number in numbers]
        change = None if force else next(iter(Comparison(this.merged(parts), this.merged(result))), None)
        if change is not None:
            what = {"A": "would be there", "D": "would be gone"}.get(change.change)
            what = what or f"would have another {change.differs[0]}"
            path = change.path.decode("utf-8", "backslashreplace")
            raise ConflictError(
                f"image {image.id}: with its layers in the order {words}, {path} {what} (unless forced)"
            )
        comment = f"of {image.id}"
        return this.publish(image, result, history_of(lines, result, this.line(comment, empty=True)), reference)


def rebase(
    store: Store, image: Image, onto: Image, base: Image | None, reference: str | None, created: float
) -> Digest:
    """See `Images.rebase`."""
    old, new = image.config.platform, onto.config.platform
    if old != new:
        raise ConflictError(f"image {image.id} is for {old}, the new base {onto.id} for {new}")
    with store.content.lease("image") as lease:
        base = base or find_base(store, image)
        count = len(base.diff_ids)
        if image.diff_ids[:count] != base.diff_ids:
            other = next(n for n in range(count) if image.diff_ids[n : n + 1] != base.diff_ids[n : n + 1]) + 1
            raise ConflictError(f"image {image.id} is not built on {base.id}: layer {other} is another")
        this = Operation(store, lease, f"rebase --onto {onto.id}", created, None)
        _, parts = parts_of(image)
        lines, lower = parts_of(onto)
        result = [*lower, *parts[count:]]
        comment = f"{image.id} on {base.id}"
        return this.publish(image, result, history_of(lines, result, this.line(comment, empty=True)), reference)


def find_base(store: Store, image: Image) -> Image:
    """The image that `image` was built on: the one that its annotations or labels name, else the only one of this store
    whose layers are its lowest ones. `NotFoundError` or `ConflictError` say why it cannot be known."""
    annotations = image.manifest.raw.get("annotations") or {}
    digest = annotations.get(BASE_DIGEST) or (image.config.config.get("Labels") or {}).get(BASE_DIGEST)
    if isinstance(digest, str):
        try:
            named = store.images.get(digest)
        except LazarusError:
            named = None
        if named is not None and named.diff_ids == image.diff_ids[: len(named.diff_ids)]:
            return named
    found: dict[tuple[DiffID, ...], Image] = {}
    for other in store.images.list():
        ids = other.diff_ids
        if 0 < len(ids) < len(image.diff_ids) and ids == image.diff_ids[: len(ids)]:
            found.setdefault(ids, other)
    if not found:
        raise NotFoundError(
            f"image {image.id}: no image of this store has its lowest layers, so its old base is not known; name it"
        )
    if len(found) > 1:
        names = ", ".join((other.names or (other.id,))[0] for _, other in sorted(found.items(), key=_length))
        raise ConflictError(f"image {image.id}: is built on several images of this store ({names}); name its old base")
    return next(iter(found.values()))


def _length(item: tuple[tuple[DiffID, ...], Image]) -> int:
    return len(item[0])


def diff(store: Store, before: Image, after: Image) -> Iterator[ViewChange]:
    """See `Images.diff`."""
    from lazarus._native.relayer import Comparison

    with store.content.lease("image") as lease:
        this = Operation(store, lease, "diff", 0, None)
        comparison = Comparison(*(this.merged(parts_of(image)[1]) for image in (before, after)))
    return iter(comparison)
