"""What waits in staging to be published."""

from __future__ import annotations

from typing import Protocol

from lazarus.terms import DiffID, Digest


class StagedBlob:
    """A file in staging with the digest and size of its bytes."""

    __slots__ = ("digest", "path", "size")

    def __init__(self, path: str, digest: Digest, size: int) -> None:
        self.path = path
        self.digest = digest
        self.size = size


class IngestResultLike(Protocol):
    """What publish reads of `lazarus._native.ingest.IngestResult`. Digests are 32 raw bytes, sizes bytes."""

    @property
    def source_digest(self) -> bytes: ...
    @property
    def source_size(self) -> int: ...
    @property
    def diff_id(self) -> bytes: ...
    @property
    def tar_size(self) -> int: ...
    @property
    def blob_digest(self) -> bytes: ...
    @property
    def blob_size(self) -> int: ...
    @property
    def compression(self) -> str: ...
    @property
    def entry_count(self) -> int: ...
    @property
    def content_size(self) -> int: ...
    @property
    def object_count(self) -> int: ...


class StagedLayer:
    """A directory in staging with a layer's `index`, `recipe` and perhaps `blob`; its new objects are in the lease's.

    `source_digest` and `source_size` are of the bytes it was read from, `compression` what they were ("none", "gzip",
    "zstd"). `blob` and `blob_size` are of the stored form that is kept (None and 0 without one), `blob_compression`
    what that is. `result` is what ingest returned.
    """

    __slots__ = (
        "blob",
        "blob_compression",
        "blob_size",
        "compression",
        "diff_id",
        "directory",
        "result",
        "source_digest",
        "source_size",
        "tar_size",
    )

    def __init__(self, directory: str, result: IngestResultLike, blob_mode: str = "none") -> None:
        """`blob_mode` is what ingest was asked for: "none", "keep", "gzip" or "zstd"."""
        self.directory = directory
        self.result = result
        self.diff_id = DiffID.from_bytes(result.diff_id)
        self.tar_size = result.tar_size
        self.source_digest = Digest.from_bytes(result.source_digest)
        self.source_size = result.source_size
        self.compression = result.compression
        self.blob = Digest.from_bytes(result.blob_digest) if blob_mode != "none" else None
        self.blob_size = result.blob_size if blob_mode != "none" else 0
        self.blob_compression = result.compression if blob_mode in ("none", "keep") else blob_mode
