"""The manifest of a volume's artifact: written, and read with what it promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lazarus.errors import FormatError, LimitError, UnsupportedError
from lazarus.oci import media
from lazarus.oci.documents import descriptor_json, parse_artifact
from lazarus.oci.references import parse_reference
from lazarus.oci.strict_json import MAX_SIZE, dumps
from lazarus.oci.transports import Place, parse_place
from lazarus.terms import Descriptor, Digest
from lazarus.volumes.artifact.packs import MAX_PACK, MAX_PACKED_CHUNKS, PACK, chunk_count

_PLACES = ("docker", "oci", "oci-archive")  # of lazarus.oci.transports
ARTIFACT = "application/vnd.lazarus.volume.v1"
INDEX = "application/vnd.lazarus.volume.index.v1+zstd"
TITLE = "org.opencontainers.image.title"
#: The empty config of OCI 1.1 (image-spec, manifest.md, "Guidance for an Empty Descriptor").
EMPTY_BYTES = b"{}"
EMPTY = Descriptor(
    "application/vnd.oci.empty.v1+json",
    Digest("sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
    len(EMPTY_BYTES),
)


class VolumeManifest(NamedTuple):
    """`name` is the volume's where it was pushed, or ""."""

    tree: Descriptor
    packs: tuple[Descriptor, ...]
    name: str


def parse_volume_place(text: str) -> Place:
    """`docker://REF`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, or HOST/REPOSITORY[:TAG] for a registry whose host is
    written. Any other name could be meant for a directory, and is not sent to the default registry. Raises
    `FormatError`, `UnsupportedError`."""
    try:
        with_host = bool(parse_reference(text).host)
    except FormatError:
        with_host = False
    return parse_place(text, _PLACES, bare=with_host)


def write(index: Descriptor, packs: Sequence[Descriptor], annotations: Mapping[str, str]) -> tuple[Descriptor, bytes]:
    """Its descriptor and its bytes, which depend on nothing else. `LimitError` over 4 MiB (registries refuse more), and
    for more chunks than are read again."""
    from lazarus.oci.layout import sha256

    _check_chunks([chunk_count(pack, f"pack {pack.digest}") for pack in packs], "manifest")
    data = dumps(
        {
            "schemaVersion": 2,
            "mediaType": media.OCI_MANIFEST,
            "artifactType": ARTIFACT,
            "config": descriptor_json(EMPTY),
            "layers": [descriptor_json(layer) for layer in (index, *packs)],
            "annotations": dict(annotations),
        }
    )
    if len(data) > MAX_SIZE:
        raise LimitError(f"a manifest of {len(packs)} packs has {len(data)} bytes, more than {MAX_SIZE}")
    return Descriptor(media.OCI_MANIFEST, sha256(data), len(data)), data


def is_volume(data: bytes, what: str) -> bool:
    """Is this manifest that of a volume's artifact?"""
    return parse_artifact(data, media.OCI_MANIFEST, what).raw.get("artifactType") == ARTIFACT


def read(data: bytes, media_type: str, what: str) -> VolumeManifest:
    """Raises `FormatError`, `UnsupportedError` for what is no volume, `LimitError` for a pack of more than 128 MiB, and
    for packs that say that they have more chunks than a pull can know at once: before any of them is fetched."""
    manifest = parse_artifact(data, media_type, what)
    kind = manifest.raw.get("artifactType")
    if kind != ARTIFACT:
        found = f"an artifact of type {kind!r:.100}" if kind else "a container image"
        raise UnsupportedError(f"{what}: {found}, not a volume ({ARTIFACT})")
    if not manifest.layers or manifest.layers[0].media_type != INDEX:
        raise FormatError(f"{what}: its first layer is not {INDEX}")
    packs = manifest.layers[1:]
    for number, pack in enumerate(packs, 2):
        if pack.media_type != PACK:
            raise FormatError(f"{what}, layer {number}: media type {pack.media_type:.100} where {PACK} is expected")
        if pack.size > MAX_PACK:
            raise LimitError(f"{what}, layer {number}: a pack of {pack.size} bytes, more than {MAX_PACK}")
    if len({pack.digest for pack in packs}) != len(packs):
        raise FormatError(f"{what}: names a pack twice")
    _check_chunks([chunk_count(pack, f"{what}, layer {number}") for number, pack in enumerate(packs, 2)], what)
    annotations = manifest.raw.get("annotations")
    name = annotations.get(TITLE) if isinstance(annotations, dict) else None
    return VolumeManifest(manifest.layers[0], packs, name if isinstance(name, str) else "")


def _check_chunks(counts: Sequence[int], what: str) -> None:
    if sum(counts) > MAX_PACKED_CHUNKS:
        raise LimitError(f"{what}: packs of {sum(counts)} chunks, more than {MAX_PACKED_CHUNKS}")
