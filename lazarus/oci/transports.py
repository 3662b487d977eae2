"""Places outside of a store, spelled as skopeo spells them: `oci:DIRECTORY[:TAG]`, `oci-archive:FILE[:TAG]`."""

from __future__ import annotations

import re
from typing import NamedTuple

from lazarus.errors import FormatError, UnsupportedError

TRANSPORTS = ("oci", "oci-archive")
# image-spec, annotations.md: org.opencontainers.image.ref.name
_TAG = re.compile(r"[A-Za-z0-9]+(?:[-._:@/+]+[A-Za-z0-9]+)*\Z")
_MAX_TAG = 255


class Place(NamedTuple):
    """`kind` is one of TRANSPORTS; `tag` is "" when none was given."""

    kind: str
    path: str
    tag: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}" + (f":{self.tag}" if self.tag else "")


def parse_place(text: str) -> Place:
    """The path ends at the first colon, as for skopeo. Raises `FormatError`, `UnsupportedError` (registries)."""
    kind, separator, rest = text.partition(":")
    if kind == "docker" and separator:
        known = "oci:DIR[:TAG] and oci-archive:FILE[:TAG]"
        raise UnsupportedError(f"{text:.200}: registries are not there yet; known are {known}")
    path, colon, tag = rest.partition(":")
    if kind not in TRANSPORTS or not path or "\0" in path:
        raise FormatError(f"{text!r:.200}: not a place; expected oci:DIR[:TAG] or oci-archive:FILE[:TAG]")
    if colon and (len(tag) > _MAX_TAG or _TAG.match(tag) is None):
        raise FormatError(f"{text!r:.200}: the tag is not one (letters and digits, with - . _ : @ / + between them)")
    return Place(kind, path, tag)
