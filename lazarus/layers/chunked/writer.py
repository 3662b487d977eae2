"""A layer of the store, written as zstd:chunked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from lazarus.errors import LazarusError
from lazarus.layers.chunked.annotations import Footer, Part, format_annotations
from lazarus.terms import DiffID, Digest

if TYPE_CHECKING:
    from lazarus.layers.layer import Layer


class ChunkedBlob(NamedTuple):
    """What was written. `annotations` belong into the layer's descriptor; there are none where a table cannot describe
    the layer (csrc/tree/lz_chunked.h says when): then it is a zstd blob like any other."""

    digest: Digest
    size: int
    annotations: dict[str, str]
    diff_id: DiffID


def write_chunked(layer: Layer, fd: int, *, level: int = 0) -> ChunkedBlob:
    """Streams the layer to a file, pipe or socket; every zstd reader gets the layer's tar back from it.

    `level` is zstd's (0: 3). On all cores; the same layer always gives the same bytes with one version of libzstd.
    Raises `CorruptError` (what was written is worthless then), and `OSError`, ENOENT for an object that is missing.
    """
    from lazarus._native.chunked import write

    held = layer.hold()
    try:
        written = write(layer.recipe_path, layer.index_path, layer.objects_path, fd, level=level)
    except LazarusError as error:
        raise type(error)(f"layer {layer.diff_id}: {error}") from error
    finally:
        os.close(held)
    annotations: dict[str, str] = {}
    if written.toc is not None and written.toc_digest is not None:
        tar_split = Part(*written.tar_split) if written.tar_split is not None else None
        annotations = format_annotations(Footer(Part(*written.toc), Digest.from_bytes(written.toc_digest), tar_split))
    return ChunkedBlob(Digest.from_bytes(written.digest), written.size, annotations, DiffID.from_bytes(written.diff_id))
