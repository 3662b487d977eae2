"""What an archive holds, before anything of it is stored: documents read and checked, layers located."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lazarus.errors import FormatError, LimitError, NotFoundError, UnsupportedError
from lazarus.oci import media, platforms
from lazarus.oci.docker_archive import ArchivedImage, read_images
from lazarus.oci.documents import ImageConfig, parse_config, parse_index, parse_manifest
from lazarus.oci.references import parse_tag

if TYPE_CHECKING:
    from lazarus.oci.layout import BlobSource, Layout
    from lazarus.oci.outer_tar import OuterTar
    from lazarus.terms import Descriptor, DiffID, Digest, Platform

MAX_NESTING = 4
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
log = logging.getLogger(__name__)


class PlannedLayer(NamedTuple):
    """A layer in the archive. `digest` is of the stored bytes as a manifest states it, None in a docker-archive.
    `compression` None is found out by the magic."""

    diff_id: DiffID
    digest: Digest | None
    compression: str | None
    size: int
    name: str
    open: Callable[[], BlobSource]


class PlannedImage(NamedTuple):
    """`manifest` is None in a docker-archive, which has none."""

    manifest: bytes | None
    media_type: str
    config: bytes
    parsed: ImageConfig
    names: tuple[str, ...]
    layers: tuple[PlannedLayer, ...]


def plan(source: Layout | OuterTar, platform: Platform | None) -> list[PlannedImage]:
    """Every image of the source; of several for different platforms under one name, the one for `platform` (default:
    the host's). One that stands alone may be for any platform, unless one was asked for: as docker, and unlike podman,
    which has no such option, no other is taken then. Raises `FormatError`, `CorruptError`, `NotFoundError` and
    `UnsupportedError`, each naming the document."""
    from lazarus.oci.layout import Layout

    if isinstance(source, Layout):
        return list(_of_layout(source, platform))
    images = [_of_docker(image) for image in read_images(source)]
    for image in images:
        what = f"image {image.names[0]}" if image.names else "an image without a name"
        _check_platform(f"{source.what}: {what}", image.parsed.platform, platform)
    return images


def _check_platform(what: str, offered: Platform, wanted: Platform | None) -> None:
    if wanted is not None and not platforms.matches(wanted, offered):
        raise NotFoundError(f"{what}: it is for platform {offered}, asked for {wanted}")


def _of_layout(layout: Layout, asked: Platform | None) -> Iterator[PlannedImage]:
    platform = asked or platforms.host()
    what = f"{layout.what}: index.json"
    manifests = parse_index(layout.index(), None, what).manifests
    if not manifests:
        raise FormatError(f"{what}: it names no image")
    groups: dict[tuple[str, ...] | Digest, list[Descriptor]] = {}
    for descriptor in manifests:
        # without a name and a platform an entry is an image of its own
        alone = descriptor.digest if descriptor.platform is None else ()
        groups.setdefault(_names(descriptor, what) or alone, []).append(descriptor)
    for key, group in groups.items():
        chosen = platforms.select(platform, group, what) if len(group) > 1 else group[0]
        image, offered = _of_descriptor(layout, chosen, key if isinstance(key, tuple) else (), platform)
        _check_platform(f"{what}: manifest {offered.digest}", offered.platform or image.parsed.platform, asked)
        yield image


def _names(descriptor: Descriptor, what: str) -> tuple[str, ...]:
    for key in _NAMES:
        name = descriptor.annotations.get(key)
        if name:
            try:
                return (parse_tag(name).tagged,)
            except FormatError as error:
                log.warning("%s: %s; the image is loaded without a name", what, error)
    return ()


def _of_descriptor(
    layout: Layout, descriptor: Descriptor, names: tuple[str, ...], platform: Platform
) -> tuple[PlannedImage, Descriptor]:
    """The image, and the descriptor by which its manifest was found."""
    seen: set[Digest] = set()
    while descriptor.media_type in media.INDEXES:
        what = f"image index {descriptor.digest}"
        if descriptor.digest in seen or len(seen) >= MAX_NESTING:
            raise LimitError(f"{what}: image indexes nested more than {MAX_NESTING} deep")
        seen.add(descriptor.digest)
        index = parse_index(layout.read(descriptor, what), descriptor.media_type, what)
        descriptor = platforms.select(platform, index.manifests, what)
    what = f"manifest {descriptor.digest}"
    if descriptor.media_type not in media.MANIFESTS:
        kinds = "neither a manifest nor an image index"
        raise UnsupportedError(f"{what}: media type {descriptor.media_type:.100} is {kinds}")
    data = layout.read(descriptor, what)
    manifest = parse_manifest(data, descriptor.media_type, what)
    config = layout.read(manifest.config, f"config {manifest.config.digest}")
    parsed = parse_config(config, f"config {manifest.config.digest}")
    _check_count(what, len(manifest.layers), parsed)
    layers = tuple(
        _of_layer(layout, layer, diff_id) for layer, diff_id in zip(manifest.layers, parsed.diff_ids, strict=True)
    )
    return PlannedImage(data, manifest.media_type, config, parsed, names, layers), descriptor


def _check_count(what: str, layers: int, parsed: ImageConfig) -> None:
    if layers != len(parsed.diff_ids):
        raise FormatError(f"{what}: {layers} layers, its config has {len(parsed.diff_ids)} diff IDs")
    real = sum(not entry.empty_layer for entry in parsed.history)
    if parsed.history and real != layers:
        log.warning("%s: %d layers, its history speaks of %d", what, layers, real)


def _of_layer(layout: Layout, layer: Descriptor, diff_id: DiffID) -> PlannedLayer:
    what = f"layer {layer.digest}"
    compression = media.layer_compression(layer.media_type, what)
    return PlannedLayer(diff_id, layer.digest, compression, layer.size, layer.digest, lambda: layout.blob(layer, what))


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
