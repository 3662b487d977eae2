"""copy: an image from one place to another, as it is, without a store. Blobs are verified while they stream, and only
those that the other place has not are read.

    copy_image(parse_place("docker://debian:12"), parse_place("oci:/srv/mirror:debian"))
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from lazarus.errors import CorruptError, FormatError, LazarusError, LimitError, NotFoundError, UnsupportedError
from lazarus.images.load import at_once
from lazarus.images.plan import (
    MAX_MANIFESTS,
    MAX_NESTING,
    Blobs,
    OneImage,
    OpenBlob,
    PlannedImage,
    PlannedLayer,
    check_kind,
    plan,
)
from lazarus.images.source import most_bytes, open_place
from lazarus.images.targets import Target, check_expected, open_target, watched
from lazarus.oci import media, platforms
from lazarus.oci.docker_archive import write_docker_index
from lazarus.oci.documents import parse_artifact, parse_index, write_manifest
from lazarus.oci.layout import BlobSource, Layout, sha256
from lazarus.oci.references import parse_tag, with_tag
from lazarus.oci.writers import ArchiveWriter, copy_hashed, put, put_file
from lazarus.registry.others import asking_others
from lazarus.terms import Descriptor, DiffID, Digest, Limits, Platform, Progress, ProgressEvent
from lazarus.union.pipe import through_pipe
from lazarus.whole_file import whole_file

if TYPE_CHECKING:
    from lazarus.oci.outer_tar import OuterTar
    from lazarus.oci.transports import Place
    from lazarus.registry.client import Settings
    from lazarus.registry.settings import Repository

BLOBS_AT_ONCE = 3
log = logging.getLogger(__name__)


class Copied(NamedTuple):
    """`digest` is of the manifest or image index; `blobs` were sent, of `sent` bytes, and `skipped` were there."""

    digest: Digest
    blobs: int
    sent: int
    skipped: int


def copy_image(
    source: Place,
    target: Place,
    *,
    platform: Platform | None = None,
    all_platforms: bool = False,
    registry: Settings | None = None,
    target_registry: Settings | None = None,
    progress: Progress | None = None,
) -> Copied:
    """Copies one image or artifact. Of an image index it is the one for `platform` (default: this host's), or, with
    `all_platforms`, the index and everything in it, so that its digest stays. `registry` says how registries are spoken
    to, `target_registry` that of the target if that is another way. `progress` gets events from several threads, one at
    a time: exists, copy and done for each blob.

    The target shows the image when it is whole. Raises `FormatError`, `CorruptError`, `NotFoundError`,
    `UnsupportedError`, `LimitError`, `ConflictError`, `RegistryError` and `OSError`.
    """
    with ExitStack() as closing:
        scratch = _Scratch(closing)
        reading = writing = None
        if "docker" in (source.kind, target.kind):
            from lazarus.registry.client import RegistryClient

            def client(settings: Settings | None) -> RegistryClient:
                return closing.enter_context(RegistryClient(settings, warn=lambda text: log.warning("%s", text)))

            reading = client(registry)
            writing = reading if target_registry is None else client(target_registry)
        opened = open_place(source, scratch, closing, client=reading)
        if target.kind == "docker-archive":
            if all_platforms and _is_index(opened, source):
                raise UnsupportedError(f"{target}: a docker-archive holds no image index, only images")
            return _to_docker_archive(plan(opened, platform, tag=source.tag), target)
        if isinstance(opened, Layout):
            found = _root_of_layout(opened, source)
            blobs: Blobs = opened
        elif isinstance(opened, OneImage):
            found, blobs = opened.root, opened.blobs
        else:
            blobs = _Archived(plan(opened, platform, tag=source.tag), str(source))
            found = blobs.root
        sources = _same_registry(source)
        to = closing.enter_context(open_target(target, writing))

        def cancel() -> None:
            for each in (reading, writing):
                if each is not None:
                    each.cancel()

        copying = _Copy(blobs, to, sources, progress, cancel)
        if not all_platforms:
            found = copying.choose(found, platform)
        check_expected(target, found)
        return copying.run(found)


class _Scratch:
    """A directory for archives that have to be spooled, made when it is needed."""

    def __init__(self, closing: ExitStack) -> None:
        self._closing = closing
        self._directory = ""

    def new_path(self, prefix: str, /) -> str:
        if not self._directory:
            self._directory = self._closing.enter_context(tempfile.TemporaryDirectory(prefix="lazarus-"))
        return f"{self._directory}/{prefix}-{len(os.listdir(self._directory))}"


def _same_registry(source: Place) -> Callable[[], list[Repository]] | None:
    if source.kind != "docker":
        return None
    from lazarus.registry.settings import Repository

    return lambda: [Repository.of(source.reference)]


def _root_of_layout(layout: Layout, place: Place) -> Descriptor:
    what = f"{layout.what}: index.json"
    entries = parse_index(layout.index(), None, what).manifests
    names = [entry.annotations.get("org.opencontainers.image.ref.name", "") for entry in entries]
    if place.tag:
        entries = tuple(entry for entry, name in zip(entries, names, strict=True) if name == place.tag)
    if len(entries) != 1:
        there = ", ".join(sorted(filter(None, names))) or "none"
        problem = "the tag is there twice" if entries and place.tag else "not one image"
        raise NotFoundError(f"{place}: {problem if entries or not place.tag else 'no such tag'}; tags: {there:.300}")
    return entries[0]._replace(annotations={})


def _is_index(opened: Layout | OuterTar | OneImage, place: Place) -> bool:
    if isinstance(opened, Layout):
        return _root_of_layout(opened, place).media_type in media.INDEXES
    return isinstance(opened, OneImage) and opened.root.media_type in media.INDEXES


class _Copy:
    def __init__(
        self,
        blobs: Blobs,
        target: Target,
        sources: Callable[[], list[Repository]] | None,
        progress: Progress | None,
        cancel: Callable[[], None],
    ) -> None:
        self._from = blobs
        self._to = target
        self._sources = sources
        self._progress = progress
        self._cancel = cancel
        self._lock = threading.Lock()
        self._count = self._sent = self._skipped = 0

    def choose(self, root: Descriptor, platform: Platform | None) -> Descriptor:
        """The manifest for a platform, through image indexes."""
        for _ in range(MAX_NESTING + 1):
            if root.media_type not in media.INDEXES:
                return root
            what = f"image index {root.digest}"
            index = parse_index(self._from.read(root, what), root.media_type, what)
            root = platforms.select(platform or platforms.host(), index.manifests, what)
        raise LimitError(f"{self._from.what}: image indexes nested more than {MAX_NESTING} deep")

    def run(self, root: Descriptor) -> Copied:
        """All blobs, several at once, then manifests, and the root last."""
        manifests: dict[Digest, tuple[Descriptor, bytes]] = {}
        layers: dict[Digest, Descriptor] = {}
        self._collect(root, manifests, layers, 0)
        ordered = sorted(layers.values(), key=lambda layer: -layer.size)
        at_once(self._blob, ordered, BLOBS_AT_ONCE, self._progress, self._cancel)
        for descriptor, data in list(manifests.values())[:-1]:
            self._to.add_manifest(descriptor, data)
        self._to.finish(root, manifests[root.digest][1])
        return Copied(root.digest, self._count, self._sent, self._skipped)

    def _collect(
        self,
        descriptor: Descriptor,
        manifests: dict[Digest, tuple[Descriptor, bytes]],
        layers: dict[Digest, Descriptor],
        depth: int,
    ) -> None:
        """Manifests come after what they name."""
        check_kind(descriptor)
        if descriptor.digest in manifests:
            return
        if depth > MAX_NESTING or len(manifests) >= MAX_MANIFESTS:
            limit = f"more than {MAX_MANIFESTS} manifests, or nested more than {MAX_NESTING} deep"
            raise LimitError(f"image index {descriptor.digest}: {limit}")
        if descriptor.media_type in media.INDEXES:
            what = f"image index {descriptor.digest}"
            data = self._from.read(descriptor, what)
            for below in parse_index(data, descriptor.media_type, what).manifests:
                self._collect(below, manifests, layers, depth + 1)
        else:
            what = f"manifest {descriptor.digest}"
            data = self._from.read(descriptor, what)
            manifest = parse_artifact(data, descriptor.media_type, what)
            for blob in (manifest.config, *manifest.layers):
                if not media.is_foreign(blob.media_type):  # whose bytes are elsewhere
                    layers[blob.digest] = blob
        manifests[descriptor.digest] = (descriptor, data)

    def _blob(self, blob: Descriptor, progress: Progress | None) -> None:
        def say(action: str, done: int) -> None:
            if progress is not None:
                progress(ProgressEvent(action, blob.digest, done, blob.size))

        if self._to.has(blob, self._sources):
            with self._lock:
                self._skipped += 1
            say("exists", blob.size)
            return

        def pieces() -> Iterator[bytes | memoryview]:
            with self._from.blob(blob, f"blob {blob.digest}") as source:
                yield from source.pieces()

        def others(error: LazarusError) -> bool:
            from lazarus.images.remote import ask_others

            return self._to.repeats and ask_others(self._from.blob(blob, f"blob {blob.digest}"), error)

        asking_others(lambda: self._to.send(blob, watched(pieces, "copy", blob.digest, blob.size, progress)), others)
        with self._lock:
            self._count += 1
            self._sent += blob.size
        say("done", blob.size)


class _Archived:
    """The one image of a docker-archive, which has no manifest: it gets one of uncompressed layers, always the same."""

    def __init__(self, images: Sequence[PlannedImage], what: str) -> None:
        if len(images) != 1:
            names = ", ".join(sorted(name for image in images for name in image.names)) or "none"
            raise NotFoundError(f"{what}: not one image; names: {names:.300}")
        [image] = images
        self.what = what
        config = Descriptor(media.OCI_CONFIG, sha256(image.config), len(image.config))
        layers = [Descriptor(media.OCI_LAYER, Digest(layer.diff_id), layer.size) for layer in image.layers]
        manifest = write_manifest(config, layers)
        self.root = Descriptor(media.OCI_MANIFEST, sha256(manifest), len(manifest))
        self._documents = {config.digest: image.config, self.root.digest: manifest}
        self._layers = dict(zip([layer.digest for layer in layers], image.layers, strict=True))

    def read(self, descriptor: Descriptor, what: str, /) -> bytes:
        return self._documents[descriptor.digest]

    def blob(self, descriptor: Descriptor, what: str, /) -> OpenBlob:
        if descriptor.digest in self._layers:
            return self._layers[descriptor.digest].open()
        fd = os.memfd_create("document")
        os.write(fd, self._documents[descriptor.digest])
        return BlobSource(fd, 0, descriptor.size, os.close)


def _to_docker_archive(images: Sequence[PlannedImage], place: Place) -> Copied:
    """As `save` writes it. Layers become plain tars, whose size a header says before them: they lie beside the archive
    until they are whole."""
    if len(images) != 1 or place.tag.startswith("@"):
        raise FormatError(f"{place}: one image is copied to a docker-archive, and by its name")
    [image] = images
    names = (parse_tag(place.tag).tagged,) if place.tag else with_tag(image.names)
    sent = 0
    with whole_file(place.path) as fd:
        writer = ArchiveWriter(fd)
        layers = {layer.diff_id: layer for layer in image.layers}
        for layer in layers.values():
            with tempfile.TemporaryFile(dir=os.path.dirname(os.path.realpath(place.path)), buffering=0) as file:
                sent += _unpack(layer, file.fileno())
                put_file(writer, f"{layer.diff_id.hex}.tar", file.fileno())
        config = f"{sha256(image.config).hex}.json"
        put(writer, config, image.config)
        write_docker_index(writer, [(config, names, [layer.diff_id for layer in image.layers])])
        writer.finish()
    return Copied(sha256(image.config), len(layers) + 1, sent + len(image.config), 0)


def _unpack(layer: PlannedLayer, out_fd: int) -> int:
    """The tar of a layer; what it came as, and what it is, must be what the documents say. Returns its size."""
    from lazarus._native.stream import decompress, sha256_file

    def feed(fd: int) -> None:
        with layer.open() as source:
            found, _ = copy_hashed(fd, source.pieces())
        if layer.digest not in (None, found):
            raise CorruptError(f"layer {layer.digest}: its bytes have digest {found}")

    try:
        size = through_pipe(feed, lambda fd: decompress(fd, out_fd, max_size=most_bytes(layer.size, Limits())))
    except LazarusError as error:
        raise type(error)(f"layer {layer.name}: {error}") from error
    diff_id = DiffID.from_bytes(sha256_file(out_fd))
    if diff_id != layer.diff_id:
        raise CorruptError(f"layer {layer.name}: tar has diff ID {diff_id}, config says {layer.diff_id}")
    return size
