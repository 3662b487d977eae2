"""Manifests, image indexes and configs: parsed strictly, written canonically.

A descriptor says what its bytes are; the document may say it again (`mediaType`), and its members show it. Where these
three do not agree the document is refused: two programs could otherwise see two images under one digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from lazarus.errors import FormatError, UnsupportedError
from lazarus.oci import media
from lazarus.oci.strict_json import dumps, kind, load_object
from lazarus.terms import Descriptor, DiffID, Digest, Json, Platform

MAX_BLOB = 1 << 62
_OTHER_ALGORITHMS = ("sha512:", "sha384:", "blake3:")


class Manifest(NamedTuple):
    """An image manifest; `layers` lowest first. `raw` is the document as it was."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str
    raw: Json


class ImageIndex(NamedTuple):
    """An image index or Docker manifest list."""

    manifests: tuple[Descriptor, ...]
    media_type: str
    raw: Json


class HistoryEntry(NamedTuple):
    """One line of a config's history; `created` is RFC 3339 or empty."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(NamedTuple):
    """An image config. `config` is what containers are started with (Env, Cmd, ...), `created` RFC 3339 or empty."""

    raw: Json
    diff_ids: tuple[DiffID, ...]
    history: tuple[HistoryEntry, ...]
    config: Json
    platform: Platform
    created: str


# -- reading --


def parse_digest(value: Any, what: str) -> Digest:
    """A digest from a document; `what` names the place in errors."""
    if isinstance(value, str) and value.startswith(_OTHER_ALGORITHMS):
        raise UnsupportedError(f"{what}: {value!r:.40}: only SHA-256 digests are supported")
    try:
        return Digest(value)
    except FormatError as error:
        raise FormatError(f"{what}: {error}") from error


def parse_descriptor(value: Any, what: str) -> Descriptor:
    """A content descriptor (image-spec, descriptor.md)."""
    if not isinstance(value, dict):
        raise FormatError(f"{what}: {kind(value)} where a descriptor is expected")
    _check_spelling(value, ("mediaType", "digest", "size", "platform", "annotations", "urls", "data"), what)
    media_type = value.get("mediaType")
    if not isinstance(media_type, str) or not media_type:
        raise FormatError(f"{what}: a descriptor without mediaType")
    _check_printable(media_type, what)
    size = value.get("size")
    if type(size) is not int or not 0 <= size < MAX_BLOB:
        raise FormatError(f"{what}: size {size!r:.40} is not a number of bytes")
    return Descriptor(
        media_type,
        parse_digest(value.get("digest"), what),
        size,
        _platform(value.get("platform"), what),
        _annotations(value.get("annotations"), what),
    )


def parse_manifest(data: bytes, media_type: str | None, what: str) -> Manifest:
    """An image manifest. `media_type` is the descriptor's; `what` names the document in errors ("manifest sha256:...").

    Layers may have any media type: whoever reads them asks `media.layer_compression`.
    """
    manifest = parse_artifact(data, media_type, what)
    config = manifest.config
    if media.is_layer(config.media_type) or config.media_type in media.MANIFESTS | media.INDEXES:
        raise FormatError(f"{what}: its config is of media type {config.media_type}")
    if config.media_type not in media.CONFIGS:
        artifact = manifest.raw.get("artifactType")  # a volume of ours, a Helm chart, a signature
        of = f"of type {artifact!r:.100}" if artifact else f"config of media type {config.media_type:.100}"
        raise UnsupportedError(f"{what}: {of}: an artifact, not a container image")
    return manifest


def parse_artifact(data: bytes, media_type: str | None, what: str) -> Manifest:
    """A manifest of anything: config and layers may have any media type. See `parse_manifest`."""
    document = load_object(data, what)
    media_type = _agree(document, media_type, media.MANIFESTS, "manifests", what)
    names = ("schemaVersion", "mediaType", "artifactType", "config", "layers", "annotations", "subject")
    _check_spelling(document, names, what)
    config = parse_descriptor(document.get("config"), f"{what}, config")
    layers = _list(document.get("layers"), f"{what}, layers")
    return Manifest(
        config,
        tuple(parse_descriptor(layer, f"{what}, layer {number}") for number, layer in enumerate(layers, 1)),
        media_type,
        document,
    )


def parse_index(data: bytes, media_type: str | None, what: str) -> ImageIndex:
    """An image index (or manifest list). `media_type` is the descriptor's, None for an index.json."""
    document = load_object(data, what)
    media_type = _agree(document, media_type, media.INDEXES, "layers", what)
    _check_spelling(document, ("schemaVersion", "mediaType", "manifests", "annotations", "subject"), what)
    manifests = _list(document.get("manifests"), f"{what}, manifests")
    return ImageIndex(
        tuple(parse_descriptor(item, f"{what}, manifest {number}") for number, item in enumerate(manifests, 1)),
        media_type,
        document,
    )


def parse_config(data: bytes, what: str) -> ImageConfig:
    """An image config, OCI's or Docker's."""
    document = load_object(data, what)
    if "layers" in document or "manifests" in document:
        raise FormatError(f"{what}: a manifest or image index where a config is expected")
    rootfs = document.get("rootfs")
    if not isinstance(rootfs, dict) or rootfs.get("type") != "layers":
        raise FormatError(f"{what}: rootfs.type is not layers")
    diff_ids = _list(rootfs.get("diff_ids"), f"{what}, rootfs.diff_ids")
    config = document.get("config") or {}
    if not isinstance(config, dict):
        raise FormatError(f"{what}: config is {kind(config)} where an object is expected")
    history = _list(document.get("history") or [], f"{what}, history")
    _check_run_config(config, f"{what}, config")
    return ImageConfig(
        document,
        tuple(DiffID(parse_digest(value, f"{what}, diff ID {number}")) for number, value in enumerate(diff_ids, 1)),
        tuple(_history(entry, f"{what}, history {number}") for number, entry in enumerate(history, 1)),
        config,
        _platform(document, what) or Platform("linux", ""),
        _text(document, "created", what),
    )


def _check_run_config(config: Json, what: str) -> None:
    """Types of what containers are started with; other members are nobody's business."""
    for key in ("User", "WorkingDir", "StopSignal"):
        _text(config, key, what)
    for key in ("Env", "Cmd", "Entrypoint", "OnBuild"):
        value = config.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(text, str) for text in value)):
            raise FormatError(f"{what}: {key} is not an array of strings")
    for key in ("Labels", "ExposedPorts", "Volumes"):
        value = config.get(key)
        if value is not None and not isinstance(value, dict):
            raise FormatError(f"{what}: {key} is {kind(value)} where an object is expected")


def _agree(document: Json, stated: str | None, allowed: frozenset[str], foreign: str, what: str) -> str:
    """The media type, when descriptor, document and members agree. `foreign` is the member of the other kind."""
    own = document.get("mediaType")
    if own is not None and not isinstance(own, str):
        raise FormatError(f"{what}: mediaType is {kind(own)}")
    _check_printable(own or "", what)
    if "manifests" in document and ("layers" in document or "config" in document):
        raise FormatError(f"{what}: has both manifests and layers or config; it must be an image index or a manifest")
    if document.get("schemaVersion") == 1 or "fsLayers" in document:
        raise UnsupportedError(f"{what}: Docker's manifest schema 1 is not supported")
    if stated and own and stated != own:
        raise FormatError(f"{what}: its descriptor says {stated:.100}, the document says {own:.100}")
    media_type = stated or own
    if media_type is not None and media_type not in allowed:
        raise FormatError(f"{what}: media type {media_type:.100} where one of {', '.join(sorted(allowed))} is expected")
    if foreign in document:
        raise FormatError(f"{what}: has {foreign}, which {media_type or 'this document'} has not")
    if document.get("schemaVersion") != 2 or isinstance(document.get("schemaVersion"), float):
        raise FormatError(f"{what}: schemaVersion {document.get('schemaVersion')!r:.40} where 2 is expected")
    return media_type or (media.OCI_INDEX if allowed is media.INDEXES else media.OCI_MANIFEST)


def _check_spelling(document: Json, names: Sequence[str], what: str) -> None:
    """Some readers (Go's) match member names without regard to case: `Layers` would be `layers` to them only."""
    lower = {name.lower(): name for name in names}
    for key in document:
        if key not in names and key.lower() in lower:
            raise FormatError(f"{what}: member {key!r} is spelled {lower[key.lower()]!r}")


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise FormatError(f"{what}: {kind(value)} where an array is expected")
    return value


def _text(document: Json, key: str, what: str) -> str:
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise FormatError(f"{what}: {key} is {kind(value)} where a string is expected")
    return value


def _platform(value: Any, what: str) -> Platform | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise FormatError(f"{what}: platform is {kind(value)} where an object is expected")
    words = Platform(*(_text(value, key, what) for key in ("os", "architecture", "variant")))
    for word in words:
        _check_printable(word, what)
    return words if words.os or words.architecture else None


def _check_printable(word: str, what: str) -> None:
    """Media types and platforms stand in messages and tables: nothing in them may break a line or drive a terminal."""
    if not (word.isascii() and word.isprintable()):
        raise FormatError(f"{what}: {word!r:.100} is not a word of printable ASCII")


def _annotations(value: Any, what: str) -> Mapping[str, str]:
    if value is None:
        return MappingProxyType({})
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise FormatError(f"{what}: annotations are not an object of strings")
    return MappingProxyType(value)


def _history(value: Any, what: str) -> HistoryEntry:
    if not isinstance(value, dict):
        raise FormatError(f"{what}: {kind(value)} where an object is expected")
    created, created_by, author, comment = (
        _text(value, key, what) for key in ("created", "created_by", "author", "comment")
    )
    return HistoryEntry(created, created_by, author, comment, value.get("empty_layer") is True)


# -- writing: one document, one encoding --


def descriptor_json(descriptor: Descriptor) -> Json:
    """A descriptor as a member of a document."""
    result: Json = {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}
    if descriptor.platform is not None:
        platform = {"architecture": descriptor.platform.architecture, "os": descriptor.platform.os}
        result["platform"] = platform | (
            {"variant": descriptor.platform.variant} if descriptor.platform.variant else {}
        )
    if descriptor.annotations:
        result["annotations"] = dict(sorted(descriptor.annotations.items()))
    return result


def write_manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """An OCI image manifest."""
    return dumps(
        {
            "schemaVersion": 2,
            "mediaType": media.OCI_MANIFEST,
            "config": descriptor_json(config),
            "layers": [descriptor_json(layer) for layer in layers],
        }
    )


def write_index(manifests: Sequence[Descriptor]) -> bytes:
    """An OCI image index."""
    return dumps(
        {
            "schemaVersion": 2,
            "mediaType": media.OCI_INDEX,
            "manifests": [descriptor_json(manifest) for manifest in manifests],
        }
    )
