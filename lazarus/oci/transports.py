"""Places outside of a store, spelled as skopeo spells them.

docker://REF                 a registry; the default one for a short name
oci:DIR[:TAG]                an OCI image layout
oci-archive:FILE[:TAG]       an archive of one
docker-archive:FILE[:REF]    what `docker save` writes; @N instead of REF is the N-th image of it, from 0
dir:DIR                      one image: its manifest, and a file for each blob
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from lazarus.errors import FormatError, UnsupportedError
from lazarus.oci.references import Reference, parse_reference, parse_tag

SPELLINGS = {
    "docker": "docker://REF",
    "oci": "oci:DIR[:TAG]",
    "oci-archive": "oci-archive:FILE[:TAG]",
    "docker-archive": "docker-archive:FILE[:REF]",
    "dir": "dir:DIR",
}
TRANSPORTS = tuple(SPELLINGS)
#: What skopeo and podman know besides, and Lazarus does not.
_FOREIGN = ("containers-storage", "docker-daemon", "ostree", "sif", "tarball", "atomic")
# image-spec, annotations.md: org.opencontainers.image.ref.name
_TAG = re.compile(r"[A-Za-z0-9]+(?:[-._:@/+]+[A-Za-z0-9]+)*\Z")
_MAX_TAG = 255
_NUMBER = re.compile(r"@[0-9]{1,6}\Z")


class Place(NamedTuple):
    """`kind` is one of TRANSPORTS. `path` is a directory or file, or the reference of a registry's image as it was
    written; `tag` is "" when none was given, and for a registry."""

    kind: str
    path: str
    tag: str = ""

    def __str__(self) -> str:
        separator = "://" if self.kind == "docker" else ":"
        return f"{self.kind}{separator}{self.path}" + (f":{self.tag}" if self.tag else "")

    @property
    def reference(self) -> Reference:
        """Of a registry's image."""
        return parse_reference(self.path)


def parse_place(text: str, kinds: Collection[str] = TRANSPORTS, *, bare: bool = False) -> Place:
    """One of `kinds`. The path ends at the first colon, as for skopeo; with `bare`, what names no transport is a
    registry's. Raises `FormatError`, `UnsupportedError`."""
    kind, separator, rest = text.partition(":")
    if not separator or kind not in (*TRANSPORTS, *_FOREIGN):
        if bare and "docker" in kinds:
            parse_reference(text)
            return Place("docker", text)
        raise FormatError(f"{text!r:.200}: not a place; expected {_known(kinds)}")
    if kind not in kinds:
        raise UnsupportedError(f"{text:.200}: {kind}: is not supported here; known are {_known(kinds)}")
    if kind == "docker":
        if not rest.startswith("//"):
            raise FormatError(f"{text!r:.200}: not a place; expected {SPELLINGS[kind]}")
        parse_reference(rest[2:])
        return Place(kind, rest[2:])
    path, colon, tag = (rest, "", "") if kind == "dir" else rest.partition(":")
    if not path or "\0" in path:
        raise FormatError(f"{text!r:.200}: not a place; expected {SPELLINGS[kind]}")
    if colon:
        _check_tag(kind, tag, text)
    return Place(kind, path, tag)


def _known(kinds: Collection[str]) -> str:
    words = [SPELLINGS[kind] for kind in SPELLINGS if kind in kinds]
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _check_tag(kind: str, tag: str, text: str) -> None:
    if kind == "docker-archive":
        if not _NUMBER.match(tag):
            try:
                parse_tag(tag)
            except FormatError as error:
                raise FormatError(f"{text!r:.200}: {error}") from error
    elif len(tag) > _MAX_TAG or _TAG.match(tag) is None:
        raise FormatError(f"{text!r:.200}: the tag is not one (letters and digits, with - . _ : @ / + between them)")
