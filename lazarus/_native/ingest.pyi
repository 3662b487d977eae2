from collections.abc import Callable
from os import PathLike
from typing import NamedTuple

from lazarus.terms import Limits

class IngestResult(NamedTuple):
    source_digest: bytes
    source_size: int
    diff_id: bytes
    tar_size: int
    blob_digest: bytes
    blob_size: int
    compression: str
    entry_count: int
    content_size: int
    object_count: int
    new_object_count: int
    new_object_bytes: int
    inline_bytes: int

def ingest(
    source_fd: int,
    *,
    offset: int | None = None,
    size: int | None = None,
    compression: str | None = None,
    staging: str | PathLike[str],
    staged_objects: str | PathLike[str],
    objects: str | PathLike[str],
    blob: str = "none",
    blob_level: int = 0,
    limits: Limits | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> IngestResult: ...
