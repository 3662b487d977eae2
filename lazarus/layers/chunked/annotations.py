"""The annotations of a layer's descriptor: where in the blob its table of contents lies, and what its digest is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from lazarus.errors import FormatError
from lazarus.terms import Digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lazarus.terms import Descriptor

OLD_PREFIX = "io.containers."  # containers/storage up to 1.43 (podman 4.3) spelled them so
PREFIX = "io.github.containers."
CHECKSUM = "io.github.containers.zstd-chunked.manifest-checksum"
POSITION = "io.github.containers.zstd-chunked.manifest-position"
TAR_SPLIT = "io.github.containers.zstd-chunked.tarsplit-position"
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_TYPE = 1  # "CRFS": the only one


class Part(NamedTuple):
    """Where something lies in the blob, and how many bytes it inflates to."""

    offset: int
    size: int
    plain_size: int


class Footer(NamedTuple):
    """`toc_digest` is of the table's bytes as they are in the blob. Headers lie between files, and in `tar_split`."""

    toc: Part
    toc_digest: Digest
    tar_split: Part | None


def format_annotations(footer: Footer) -> dict[str, str]:
    """As containers/storage writes them; not by the old names: podman 4.3, which knows only those, makes files without
    owners and times in parts, whoever has pushed, and so takes our layers whole."""
    found = {CHECKSUM: str(footer.toc_digest), POSITION: ":".join(map(str, (*footer.toc, _TYPE)))}
    if footer.tar_split is not None:
        found[TAR_SPLIT] = ":".join(map(str, footer.tar_split))
    return found


def parse_annotations(descriptor: Descriptor) -> Footer | None:
    """None for a layer without a table, and for a table of a type that is not known.

    Raises `FormatError` when the annotations are none, or speak of bytes that the blob does not have.
    """
    annotations = descriptor.annotations
    if CHECKSUM not in annotations:
        annotations = {name.replace(OLD_PREFIX, PREFIX, 1): text for name, text in annotations.items()}
    if CHECKSUM not in annotations or POSITION not in annotations:
        return None
    *place, kind = _numbers(annotations, POSITION, 4)
    if kind != _TYPE:
        return None
    tar_split = Part(*_numbers(annotations, TAR_SPLIT, 3)) if TAR_SPLIT in annotations else None
    footer = Footer(Part(*place), Digest(annotations[CHECKSUM]), tar_split)
    for name, part in ((POSITION, footer.toc), (TAR_SPLIT, tar_split)):
        if part is not None and (part.size == 0 or part.offset + part.size > descriptor.size):
            raise FormatError(f"annotation {name}: bytes {part.offset}+{part.size} of a blob of {descriptor.size}")
    return footer


def _numbers(annotations: Mapping[str, str], name: str, count: int) -> list[int]:
    parts = annotations[name].split(":")
    if len(parts) != count or not all(_NUMBER.fullmatch(part) for part in parts):
        raise FormatError(f"annotation {name}: {annotations[name]!r:.100}, expected {count} numbers and colons")
    return [int(part) for part in parts]
