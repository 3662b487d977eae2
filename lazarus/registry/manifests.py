"""Manifests and image indexes as they come from a registry: of which kind, and whether they are what was asked."""

from __future__ import annotations

import hashlib

from lazarus.errors import CorruptError, FormatError, LimitError, RegistryError, UnsupportedError
from lazarus.oci import media
from lazarus.oci.documents import parse_artifact, parse_index
from lazarus.oci.strict_json import MAX_SIZE, load_object
from lazarus.registry.http import Response, check_digest_header
from lazarus.registry.words import printable
from lazarus.terms import Descriptor, Digest

ACCEPT = ", ".join(sorted(media.MANIFESTS | media.INDEXES))
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"
# what servers of static files and some proxies say of every document
_VAGUE = ("", "application/json", "text/plain", "application/octet-stream", "binary/octet-stream")


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """`sha256:...` of some bytes."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def read_manifest(response: Response, expected: Digest | None, patience: float) -> tuple[Descriptor, bytes]:
    """The document of an answer, with a descriptor made of what it is. Digest, header and media type must agree."""
    what = response.request.what
    response.check_encoding()
    data = response.read(MAX_SIZE, patience)
    digest = Digest(digest_of(data))
    if expected is not None and digest != expected:
        raise CorruptError(f"{what}: its bytes are {digest}")
    check_digest_header(response, lambda algorithm: digest_of(data, algorithm), what)
    return Descriptor(media_type_of(data, content_type(response), what), digest, len(data)), data


def content_type(response: Response) -> str:
    """The media type of Content-Type, "" when it says nothing."""
    stated = response.header("Content-Type").partition(";")[0].strip().lower()
    return "" if stated in _VAGUE else stated


def media_type_of(data: bytes, stated: str, what: str) -> str:
    """The media type on which Content-Type, the document's mediaType and its members agree. Raises `FormatError`,
    `UnsupportedError`."""
    if stated.startswith(_SCHEMA_1):
        raise UnsupportedError(f"{what}: Docker's manifest schema 1 is not supported")
    if stated and stated not in media.MANIFESTS | media.INDEXES:
        raise FormatError(
            f"{what}: Content-Type {printable(stated, 80)} where a manifest or an image index is expected"
        )
    if stated:
        is_index = stated in media.INDEXES
    else:
        document = load_object(data, what)
        is_index = document.get("mediaType") in media.INDEXES or (
            "mediaType" not in document and "manifests" in document
        )
    parsed = parse_index(data, stated or None, what) if is_index else parse_artifact(data, stated or None, what)
    return parsed.media_type


def describe(response: Response, expected: Digest | None) -> Descriptor | None:
    """The descriptor that the headers of an answer to HEAD make; None when they do not say enough."""
    what = response.request.what
    stated = response.header("Docker-Content-Digest")
    size, kind = response.header("Content-Length"), content_type(response)
    if not size.isdecimal() or len(size) > 12 or not kind or not (stated or expected):
        return None
    if kind not in media.MANIFESTS | media.INDEXES:
        raise FormatError(f"{what}: Content-Type {printable(kind, 80)} where a manifest or an image index is expected")
    if int(size) > MAX_SIZE:
        raise LimitError(f"{what}: {size} bytes, more than {MAX_SIZE}")
    try:
        digest = Digest(stated) if stated else expected
    except FormatError as error:
        raise RegistryError(f"{what}: Docker-Content-Digest is {error}") from error
    if expected is not None and digest != expected:
        raise CorruptError(f"{what}: the registry says {digest} in Docker-Content-Digest")
    assert digest is not None
    return Descriptor(kind, digest, int(size))
