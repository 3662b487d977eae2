"""push: images of the store to a registry, or to any other place; only the blobs that it has not.

What a manifest says stays as it is where that can be: a layer whose bytes were kept is sent as it came, and one that
the place has already, or another repository of the same registry (places.py), is not sent at all. A layer that a commit
made has no compressed form yet: it is compressed on its way, and what came of it is remembered (`layer_blobs`), so that
a second push finds it there. Then the manifest is another one, of OCI's kind, with the same config, so the same image.

The order is that of trust: layers, config, manifest, image index. Nobody sees an image before it is whole.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from lazarus.errors import FormatError, StoreError, UnsupportedError
from lazarus.images.build import as_oci
from lazarus.images.load import at_once
from lazarus.images.places import remember, repositories_with
from lazarus.images.targets import Pieces, Target, check_expected, file_pieces, open_target, watched
from lazarus.layers.chunked.annotations import CHECKSUM
from lazarus.oci import media
from lazarus.oci.documents import write_index, write_manifest
from lazarus.oci.layout import sha256
from lazarus.terms import Descriptor, DiffID, Digest, Progress, ProgressEvent
from lazarus.union.pipe import pieces_of, through_pipe

if TYPE_CHECKING:
    from lazarus.images.image import Image
    from lazarus.layers.layer import Layer
    from lazarus.oci.transports import Place
    from lazarus.registry.client import RegistryClient
    from lazarus.store import Store

CHUNKED = "zstd:chunked"
FORMATS = ("gzip", "zstd", CHUNKED, "none")
DEFAULT = CHUNKED
LAYERS_AT_ONCE = 3


class Pushed(NamedTuple):
    """`digest` is of the manifest or image index; `blobs` were sent, of `sent` bytes, and `skipped` were there."""

    digest: Digest
    size: int
    blobs: int
    sent: int
    skipped: int


class Compression(NamedTuple):
    """`form` None: as the manifest says, and DEFAULT for layers without a compressed form. `level` 0: the form's."""

    form: str | None = None
    level: int = 0


def push(
    store: Store,
    images: Sequence[Image],
    place: Place,
    *,
    compression: Compression,
    client: RegistryClient | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """See `Images.push`. Several images become an image index."""
    if compression.form not in (None, *FORMATS):
        raise FormatError(f"compression {compression.form!r:.40}: not one of {', '.join(FORMATS)}")
    most = {"gzip": 9, "zstd": 22, CHUNKED: 22}.get(compression.form or DEFAULT, 0)
    if not 0 <= compression.level <= most:
        raise FormatError(f"compression level {compression.level}: {compression.form or DEFAULT} has 1 to {most}")
    if place.kind == "docker-archive":
        return _to_docker_archive(store, images, place, progress)
    with open_target(place, client) as target:
        work = _Push(store, target, compression)
        layers = {
            (diff_id, layer.digest): (diff_id, layer)
            for image in images
            for diff_id, layer in zip(image.diff_ids, image.manifest.layers, strict=True)
        }
        ordered = sorted(layers.values(), key=lambda item: -item[1].size)
        if place.kind == "docker" and place.reference.digest is not None:
            foreseen = work.foreseen(layers, place)
            check_expected(place, _root([work.manifest(image, foreseen) for image in images])[0])
        sent = at_once(work.layer, ordered, LAYERS_AT_ONCE, progress, client.cancel if client is not None else None)
        forms = dict(zip([(diff_id, layer.digest) for diff_id, layer in ordered], sent, strict=True))
        for image in images:
            work.config(image)
        manifests = [work.manifest(image, forms) for image in images]
        if len(manifests) > 1:
            for descriptor, document in manifests:
                target.add_manifest(descriptor, document)
        root, data = _root(manifests)
        target.finish(root, data)
    if place.kind == "docker":
        from lazarus.registry.settings import Repository

        there = [(form.digest, diff_id) for (diff_id, _), form in forms.items()]
        remember(store, Repository.of(place.reference), there)
    return Pushed(root.digest, root.size, work.blobs, work.sent, work.skipped)


def _root(manifests: list[tuple[Descriptor, bytes]]) -> tuple[Descriptor, bytes]:
    """What the name will stand for: the manifest, or an image index of several."""
    if len(manifests) == 1:
        return manifests[0]
    data = write_index([descriptor for descriptor, _ in manifests])
    return Descriptor(media.OCI_INDEX, sha256(data), len(data)), data


Forms = Mapping[tuple[DiffID, Digest], Descriptor]  # of a layer and its digest in the manifest: the one it is pushed in


class _Push:
    """What goes to one target."""

    def __init__(self, store: Store, target: Target, compression: Compression) -> None:
        self._store = store
        self._target = target
        self._wanted = compression
        self._lock = threading.Lock()
        self.blobs = self.sent = self.skipped = 0

    def layer(self, item: tuple[DiffID, Descriptor], progress: Progress | None) -> Descriptor:
        """Has a layer there, and says in which form it is."""
        diff_id, layer = item
        say = _Say(layer.digest, progress)
        for form in self._forms(diff_id, layer):
            found = self._as_it_is(diff_id, form, say)
            if found is not None:
                return found
        return self._compress(diff_id, self._wanted.form or DEFAULT, say)

    def foreseen(self, layers: Mapping[tuple[DiffID, Digest], tuple[DiffID, Descriptor]], place: Place) -> Forms:
        """The forms that `layer` will find, sending none; what a neighbour has may be mounted. `UnsupportedError`
        where there is none yet."""
        forms = {}
        for key, (diff_id, layer) in layers.items():
            for form in self._forms(diff_id, layer):
                if self._pieces_of(diff_id, form) is not None or self._there(diff_id, form):
                    forms[key] = form
                    break
            else:
                why = f"layer {layer.digest} is compressed on its way, so that the digest is not known before"
                raise UnsupportedError(f"{place}: {why}; push it by a tag")
        return forms

    def _forms(self, diff_id: DiffID, layer: Descriptor) -> Iterator[Descriptor]:
        """In which a layer may go, if it is there or here: as the manifest says, and as it went before."""
        if _fits(layer, self._wanted.form):
            yield layer
        yield from self._known(diff_id, self._wanted.form or DEFAULT)

    def config(self, image: Image) -> None:
        """Has an image's config there."""
        config = image.manifest.config
        if self._target.has(config):
            self._count(skipped=1)
        else:
            data = image.config_bytes
            self._target.send(config, lambda: (data,))
            self._count(sent=len(data))

    def manifest(self, image: Image, forms: Forms) -> tuple[Descriptor, bytes]:
        """The manifest of an image whose layers have these forms."""
        config = image.manifest.config
        layers = [
            forms[diff_id, layer.digest] for diff_id, layer in zip(image.diff_ids, image.manifest.layers, strict=True)
        ]
        media_type, document = image.manifest.media_type, image.manifest_bytes
        if [layer.digest for layer in layers] != [layer.digest for layer in image.manifest.layers]:
            described = Descriptor(media.OCI_CONFIG, config.digest, config.size)
            media_type, document = media.OCI_MANIFEST, write_manifest(described, [as_oci(layer) for layer in layers])
        return Descriptor(media_type, sha256(document), len(document), image.platform), document

    def _as_it_is(self, diff_id: DiffID, form: Descriptor, say: _Say) -> Descriptor | None:
        """One form of a layer: found there, or sent; None when it is neither there nor here."""
        if self._there(diff_id, form):
            self._count(skipped=1)
            say("exists", form.size, form.size)
            return form
        pieces = self._pieces_of(diff_id, form)
        if pieces is None:
            return None
        self._target.send(form, watched(pieces, "push", say.name, form.size, say.progress))
        self._count(sent=form.size)
        say("done", form.size, form.size)
        return form

    def _there(self, diff_id: DiffID, form: Descriptor) -> bool:
        return self._target.has(form, lambda: repositories_with(self._store, form.digest, diff_id))

    def _count(self, sent: int = 0, skipped: int = 0) -> None:
        with self._lock:
            self.skipped += skipped
            self.blobs += not skipped
            self.sent += sent

    def _pieces_of(self, diff_id: DiffID, layer: Descriptor) -> Pieces | None:
        """The bytes of one form of a layer; None where they were not kept."""
        if layer.digest == diff_id:
            return self._tar(diff_id)
        if not self._store.content.has_blob(layer.digest):
            return None

        def pieces() -> Iterator[bytes]:
            with open(self._store.content.open_blob(layer.digest), "rb", buffering=0) as file:
                yield from file_pieces(file.fileno())

        return pieces

    def _tar(self, diff_id: DiffID) -> Pieces:
        layer = self._store.layers.get(diff_id)
        return lambda: pieces_of(layer.write_tar)

    def _compress(self, diff_id: DiffID, form: str, say: _Say) -> Descriptor:
        """Compresses a layer on its way, and to an unknown size."""
        layer = self._store.layers.get(diff_id)
        annotations: dict[str, str] = {}

        def write(fd: int) -> None:
            annotations.clear()
            annotations.update(compress(layer, fd, form, self._wanted.level))

        pieces = watched(lambda: pieces_of(write), "push", say.name, 0, say.progress)
        digest, size = self._target.send_new(pieces)
        self._count(sent=size)
        say("done", size, size)
        found = Descriptor(_media_type(form), digest, size, annotations=annotations)
        self._remember(diff_id, form, found)
        return found

    def _known(self, diff_id: DiffID, form: str) -> list[Descriptor]:
        """Forms of this kind that came in, or went out, before. A level that was asked for wants a new one."""
        if form == "none":
            size = self._store.layers.get(diff_id).tar_size
            return [Descriptor(media.layer_media_type(form), Digest(diff_id), size)]
        if self._wanted.level:
            return []
        rows = self._store.catalogue.read().execute(
            "SELECT digest, size, annotations FROM layer_blobs WHERE diff_id=? AND compression=?"
            " AND (annotations IS NOT NULL OR NOT ?) ORDER BY kept DESC, digest",
            (diff_id, "zstd" if form == CHUNKED else form, form == CHUNKED),
        )
        return [
            Descriptor(_media_type(form), Digest(row[0]), row[1], annotations=json.loads(row[2] or "{}"))
            for row in rows
        ]

    def _remember(self, diff_id: DiffID, form: str, found: Descriptor) -> None:
        """Only a memory: without room for it, or when the layer has just been removed, the next push compresses
        again. A form that should have a table, and cannot, has empty annotations."""
        annotations = json.dumps(dict(found.annotations), sort_keys=True) if form == CHUNKED else None
        with suppress(OSError, StoreError, sqlite3.IntegrityError), self._store.catalogue.write() as connection:
            connection.execute(
                "INSERT INTO layer_blobs(digest, diff_id, compression, size, kept, annotations)"
                " VALUES (?, ?, ?, ?, 0, ?) ON CONFLICT (digest) DO UPDATE SET annotations=excluded.annotations",
                (found.digest, diff_id, "zstd" if form == CHUNKED else form, found.size, annotations),
            )


def _media_type(form: str) -> str:
    return media.layer_media_type("zstd" if form == CHUNKED else form)


def _fits(layer: Descriptor, wanted: str | None) -> bool:
    """May it go as it is? None: anything that is compressed."""
    form = media.layer_compression(layer.media_type, f"layer {layer.digest}")
    if wanted is None:
        return form != "none"
    if wanted == CHUNKED:
        return form == "zstd" and CHECKSUM in layer.annotations
    return form == wanted


class _Say:
    """Progress of one layer."""

    def __init__(self, name: str, progress: Progress | None) -> None:
        self.name = name
        self.progress = progress

    def __call__(self, action: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(ProgressEvent(action, self.name, done, total))


def compress(layer: Layer, fd: int, form: str, level: int) -> Mapping[str, str]:
    """Writes a compressed form of a layer's tar to a descriptor; the annotations that its own descriptor needs."""
    if form == CHUNKED:
        from lazarus.layers.chunked.writer import write_chunked

        return write_chunked(layer, fd, level=level).annotations
    from lazarus._native.stream import compress as compress_stream

    through_pipe(layer.write_tar, lambda in_fd: compress_stream(in_fd, fd, form, level))
    return {}


def _to_docker_archive(store: Store, images: Sequence[Image], place: Place, progress: Progress | None) -> Pushed:
    """As `save` writes it: layers as plain tars, and no manifest."""
    import os

    from lazarus.images.save import Named, save
    from lazarus.oci.references import parse_tag

    if len(images) != 1 or place.tag.startswith("@"):
        raise FormatError(f"{place}: one image is pushed to a docker-archive, and by its name")
    [image] = images
    names = (parse_tag(place.tag).tagged,) if place.tag else image.names
    save(store, [Named(image, names)], place.path, "docker-archive", progress)
    size = os.stat(place.path).st_size
    return Pushed(image.id, size, len(image.diff_ids) + 1, size, 0)
