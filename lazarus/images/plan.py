"""What a source of images holds, before anything of it is stored: documents read and checked, layers located."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self, TypeVar

from lazarus.errors import FormatError, LimitError, NotFoundError, UnsupportedError
from lazarus.oci import media, platforms
from lazarus.oci.docker_archive import ArchivedImage, read_images
from lazarus.oci.documents import ImageConfig, parse_artifact, parse_config, parse_index, parse_manifest
from lazarus.oci.references import parse_tag, spellings

if TYPE_CHECKING:
    from types import TracebackType

    from lazarus.oci.layout import BlobSource, Layout
    from lazarus.oci.outer_tar import OuterTar
    from lazarus.terms import Descriptor, DiffID, Digest, Platform

MAX_NESTING = 4
MAX_MANIFESTS = 256  # of one image index, nested ones with it
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"
log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class OpenBlob(Protocol):
    """Bytes that wait to be read, once, in one of two ways. A context manager."""

    @property
    def size(self) -> int: ...
    def read_by(self, read: Callable[[int, int | None], _Result], /) -> _Result:
        """What `read(fd, offset)` returns; offset None: `fd` is a pipe."""

    def pieces(self) -> Iterator[bytes | memoryview]:
        """One after the other; each is done with when the next one is asked for."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...


class Blobs(Protocol):
    """Where documents and blobs are: a layout, a registry. `what` names it, or the document, in errors."""

    @property
    def what(self) -> str: ...
    def read(self, descriptor: Descriptor, what: str, /) -> bytes:
        """A document, checked against size and digest."""

    def blob(self, descriptor: Descriptor, what: str, /) -> OpenBlob:
        """A blob; whoever reads it to its end checks the digest."""


class OneImage(NamedTuple):
    """A manifest or image index that was asked for, and the names that its image gets."""

    blobs: Blobs
    root: Descriptor
    names: tuple[str, ...]


class PlannedLayer(NamedTuple):
    """A layer of the source. `descriptor` is the manifest's, None in a docker-archive. `compression` None is found out
    by the magic."""

    diff_id: DiffID
    descriptor: Descriptor | None
    compression: str | None
    size: int
    name: str
    open: Callable[[], OpenBlob]

    @property
    def digest(self) -> Digest | None:
        """Of the stored bytes, as the manifest states it."""
        return None if self.descriptor is None else self.descriptor.digest


class PlannedImage(NamedTuple):
    """`manifest` is None in a docker-archive, which has none. `platform` is that of an image index, None without."""

    manifest: bytes | None
    media_type: str
    config: bytes
    parsed: ImageConfig
    names: tuple[str, ...]
    layers: tuple[PlannedLayer, ...]
    platform: Platform | None = None


def plan(
    source: Layout | OuterTar | OneImage, platform: Platform | None, *, tag: str = "", every: bool = False
) -> list[PlannedImage]:
    """Every image of the source; of several for different platforms under one name, the one for `platform` (default:
    the host's). One that stands alone may be for any platform, unless one was asked for: as docker, and unlike podman,
    which has no such option, no other is taken then. With `every`, all of them: the one that would be chosen has the
    name, the others have it with their platform after the tag. `tag` is that of a `Place` for an archive: only what it
    names. Raises `FormatError`, `CorruptError`, `NotFoundError` and `UnsupportedError`, each naming the document."""
    from lazarus.oci.layout import Layout

    if isinstance(source, OneImage):
        return list(_of_group(source.blobs, source.names, [source.root], platform, every, source.blobs.what))
    if isinstance(source, Layout):
        return [image for found in _of_layout(source, platform, tag, every) for image in found]
    images = [_of_docker(image) for image in _tagged(list(read_images(source)), tag, source.what)]
    for image in images:
        what = f"image {image.names[0]}" if image.names else "an image without a name"
        _check_platform(f"{source.what}: {what}", image.parsed.platform, platform)
    return images


def _check_platform(what: str, offered: Platform, wanted: Platform | None) -> None:
    if wanted is not None and not platforms.matches(wanted, offered):
        raise NotFoundError(f"{what}: it is for platform {offered}, asked for {wanted}")


def _of_layout(layout: Layout, asked: Platform | None, tag: str, every: bool) -> Iterator[list[PlannedImage]]:
    what = f"{layout.what}: index.json"
    manifests = parse_index(layout.index(), None, what).manifests
    if not manifests:
        raise FormatError(f"{what}: it names no image")
    if tag:
        named = [entry for entry in manifests if entry.annotations.get(_NAMES[1]) == tag]
        if not named:
            raise NotFoundError(f"{what}: no tag {tag}; there are: {_tags(manifests)}")
        manifests = tuple(named)
    else:
        manifests = tuple(entry for entry in manifests if not _is_artifact(layout, entry)) or manifests
    groups: dict[tuple[str, ...] | Digest, list[Descriptor]] = {}
    for descriptor in manifests:
        # without a name and a platform an entry is an image of its own
        alone = descriptor.digest if descriptor.platform is None else ()
        groups.setdefault(_names(descriptor, what) or alone, []).append(descriptor)
    for key, group in groups.items():
        yield _of_group(layout, key if isinstance(key, tuple) else (), group, asked, every, what)


def _is_artifact(layout: Layout, descriptor: Descriptor) -> bool:
    """Does it say itself that it is something else than an image, as a volume does? Such may lie beside images."""
    if descriptor.media_type != media.OCI_MANIFEST:
        return False
    what = f"manifest {descriptor.digest}"
    artifact = parse_artifact(layout.read(descriptor, what), descriptor.media_type, what).raw.get("artifactType")
    if artifact:
        log.info("%s: %s of type %.100s is left out", layout.what, what, artifact)
    return bool(artifact)


def _tags(manifests: Sequence[Descriptor]) -> str:
    tags = sorted({entry.annotations.get(_NAMES[1], "") for entry in manifests} - {""})
    return f"{', '.join(tags):.300}" if tags else "none"


def _names(descriptor: Descriptor, what: str) -> tuple[str, ...]:
    for key in _NAMES:
        name = descriptor.annotations.get(key)
        if name:
            try:
                return (parse_tag(name).tagged,)
            except FormatError as error:
                log.warning("%s: %s; the image is loaded without a name", what, error)
    return ()


def _of_group(
    blobs: Blobs,
    names: tuple[str, ...],
    group: list[Descriptor],
    asked: Platform | None,
    every: bool,
    what: str,
) -> list[PlannedImage]:
    """What stands under one name."""
    platform = asked or platforms.host()
    if every:
        return _of_all(blobs, names, group, platform, what)
    chosen = platforms.select(platform, group, what) if len(group) > 1 else group[0]
    found = _resolved(blobs, chosen, platform)
    image = _of_manifest(blobs, found, names)
    _check_platform(f"{what}: manifest {found.digest}", found.platform or image.parsed.platform, asked)
    return [image]


def _of_all(
    blobs: Blobs, names: tuple[str, ...], group: list[Descriptor], platform: Platform, what: str
) -> list[PlannedImage]:
    found = {descriptor.digest: descriptor for descriptor in flattened(blobs, group)}
    images = [(descriptor, _of_manifest(blobs, descriptor, ())) for descriptor in found.values()]
    if not images:
        raise NotFoundError(f"{what}: no image in it")
    offered = [
        descriptor if descriptor.platform is not None else descriptor._replace(platform=image.parsed.platform)
        for descriptor, image in images
    ]
    try:
        first = platforms.select(platform, offered, what)
    except NotFoundError:
        first = offered[0]
    return [
        image._replace(names=names if descriptor is first else tuple(_with_platform(n, descriptor) for n in names))
        for descriptor, (_, image) in zip(offered, images, strict=True)
    ]


def _with_platform(name: str, descriptor: Descriptor) -> str:
    assert descriptor.platform is not None
    name, at, _ = name.partition("@")
    if at:
        return f"{name}@{descriptor.digest}"
    return parse_tag(platforms.name_for(name, descriptor.platform)).tagged


def flattened(blobs: Blobs, descriptors: Sequence[Descriptor]) -> Iterator[Descriptor]:
    """The image manifests that image indexes lead to. What is no image (attestations, for no platform) is left out.
    Each document is looked at once, however often it is named: else a few of them could name one another without end.
    """
    return _flattened(blobs, descriptors, set(), 0)


def _flattened(blobs: Blobs, descriptors: Sequence[Descriptor], seen: set[Digest], depth: int) -> Iterator[Descriptor]:
    for descriptor in descriptors:
        if descriptor.digest in seen or is_attestation(descriptor):
            continue
        seen.add(descriptor.digest)
        if len(seen) > MAX_MANIFESTS:
            raise LimitError(f"{blobs.what}: more than {MAX_MANIFESTS} images in one image index")
        if descriptor.media_type not in media.INDEXES:
            yield descriptor
            continue
        what = f"image index {descriptor.digest}"
        if depth >= MAX_NESTING:
            raise LimitError(f"{what}: image indexes nested more than {MAX_NESTING} deep")
        index = parse_index(blobs.read(descriptor, what), descriptor.media_type, what)
        yield from _flattened(blobs, index.manifests, seen, depth + 1)


def is_attestation(descriptor: Descriptor) -> bool:
    """BuildKit's statements about the images beside them."""
    return descriptor.platform is not None and descriptor.platform[:2] == ("unknown", "unknown")


def _resolved(blobs: Blobs, descriptor: Descriptor, platform: Platform) -> Descriptor:
    """The manifest for a platform: what image indexes lead to."""
    seen: set[Digest] = set()
    while descriptor.media_type in media.INDEXES:
        what = f"image index {descriptor.digest}"
        if descriptor.digest in seen or len(seen) >= MAX_NESTING:
            raise LimitError(f"{what}: image indexes nested more than {MAX_NESTING} deep")
        seen.add(descriptor.digest)
        index = parse_index(blobs.read(descriptor, what), descriptor.media_type, what)
        descriptor = platforms.select(platform, index.manifests, what)
    return descriptor


def check_kind(descriptor: Descriptor) -> None:
    """`UnsupportedError` for what is neither a manifest nor an image index."""
    what = f"manifest {descriptor.digest}"
    if descriptor.media_type.startswith(_SCHEMA_1):
        raise UnsupportedError(f"{what}: Docker's manifest schema 1 is not supported")
    if descriptor.media_type not in media.MANIFESTS | media.INDEXES:
        kinds = "neither a manifest nor an image index"
        raise UnsupportedError(f"{what}: media type {descriptor.media_type:.100} is {kinds}")


def _of_manifest(blobs: Blobs, descriptor: Descriptor, names: tuple[str, ...]) -> PlannedImage:
    check_kind(descriptor)
    what = f"manifest {descriptor.digest}"
    data = blobs.read(descriptor, what)
    manifest = parse_manifest(data, descriptor.media_type, what)
    config = blobs.read(manifest.config, f"config {manifest.config.digest}")
    parsed = parse_config(config, f"config {manifest.config.digest}")
    _check_count(what, len(manifest.layers), parsed)
    layers = tuple(
        _of_layer(blobs, layer, diff_id) for layer, diff_id in zip(manifest.layers, parsed.diff_ids, strict=True)
    )
    return PlannedImage(data, manifest.media_type, config, parsed, names, layers, descriptor.platform)


def _check_count(what: str, layers: int, parsed: ImageConfig) -> None:
    if layers != len(parsed.diff_ids):
        raise FormatError(f"{what}: {layers} layers, its config has {len(parsed.diff_ids)} diff IDs")
    real = sum(not entry.empty_layer for entry in parsed.history)
    if parsed.history and real != layers:
        log.warning("%s: %d layers, its history speaks of %d", what, layers, real)


def _of_layer(blobs: Blobs, layer: Descriptor, diff_id: DiffID) -> PlannedLayer:
    what = f"layer {layer.digest}"
    compression = media.layer_compression(layer.media_type, what)
    return PlannedLayer(diff_id, layer, compression, layer.size, layer.digest, lambda: blobs.blob(layer, what))


def _tagged(images: list[ArchivedImage], tag: str, what: str) -> list[ArchivedImage]:
    """Of a docker-archive: all, the one of that name, or the one of that number (`@0`)."""
    if tag.startswith("@"):
        if int(tag[1:]) >= len(images):
            raise NotFoundError(f"{what}: no image {tag}; it has {len(images)}")
        return [images[int(tag[1:])]]
    if not tag:
        return images
    wanted = parse_tag(tag).tagged
    spelled = spellings(parse_tag(tag))
    found = [image._replace(names=(wanted,)) for image in images if not set(spelled).isdisjoint(image.names)]
    if not found:
        names = ", ".join(sorted(name for image in images for name in image.names)) or "none"
        raise NotFoundError(f"{what}: no image {wanted}; there are: {names:.300}")
    return found[:1]


def _of_docker(image: ArchivedImage) -> PlannedImage:
    def located(diff_id: DiffID, name: str, source: BlobSource) -> PlannedLayer:
        return PlannedLayer(diff_id, None, None, source.size, name, lambda: source)

    layers = [
        located(diff_id, name, source)
        for diff_id, (name, source) in zip(image.parsed.diff_ids, image.layers, strict=True)
    ]
    return PlannedImage(None, media.OCI_MANIFEST, image.config, image.parsed, image.names, tuple(layers))


def distinct(images: Sequence[PlannedImage]) -> list[PlannedLayer]:
    """Every layer once, largest first, so that the last one to finish is a small one."""
    found = {(layer.diff_id, layer.digest): layer for image in images for layer in image.layers}
    if not images:
        raise NotFoundError("the archive holds no image")
    return sorted(found.values(), key=lambda layer: -layer.size)
