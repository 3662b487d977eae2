"""The layers of a store: finding them, and reading new ones from a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazarus.content.staged import StagedLayer
from lazarus.errors import CorruptError, LazarusError, NotFoundError
from lazarus.layers.layer import Layer
from lazarus.terms import DiffID, Digest, Limits, Progress, ProgressEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from lazarus.content.content import ContentStore
    from lazarus.content.lease import Lease

__all__ = ["LayerStore", "StagedLayer"]


class LayerStore:
    """Layers by diff ID. What is not published, or damaged, is not here."""

    def __init__(self, content: ContentStore) -> None:
        self.content = content

    def get(self, diff_id: DiffID) -> Layer:
        """Raises `NotFoundError`. One row is read, no file is touched (20 us)."""
        row = (
            self.content.catalogue.read()
            .execute("SELECT tar_size, entry_count, content_size, damaged FROM layers WHERE diff_id=?", (diff_id,))
            .fetchone()
        )
        if row is None:
            raise NotFoundError(f"layer {diff_id}: not in this store")
        if row["damaged"]:
            raise NotFoundError(f"layer {diff_id}: damaged; load its image again")
        paths = self.content.paths
        return Layer(
            diff_id, paths.layer(diff_id), paths.objects, row["tar_size"], row["entry_count"], row["content_size"]
        )

    def has(self, diff_id: DiffID) -> bool:
        """Inside a lease: if it is here, it stays until the lease ends."""
        rows = self.content.catalogue.read().execute("SELECT 1 FROM layers WHERE diff_id=? AND damaged=0", (diff_id,))
        return rows.fetchone() is not None

    def find_by_blob(self, digest: Digest, compression: str | None = None) -> DiffID | None:
        """The layer that the stored form `digest` (compressed or not) inflates to, if it was read here before; with
        `compression`, only if it was read as that.

        The bytes of that form may be gone: `content.has_blob(digest)` tells.
        """
        row = (
            self.content.catalogue.read()
            .execute(
                "SELECT diff_id FROM layer_blobs JOIN layers USING (diff_id)"
                " WHERE digest=? AND damaged=0 AND coalesce(?, compression)=compression",
                (digest, compression),
            )
            .fetchone()
        )
        return None if row is None else DiffID(row[0])

    def ingest(
        self,
        lease: Lease,
        source_fd: int,
        *,
        offset: int | None = None,
        size: int | None = None,
        compression: str | None = None,
        blob: str = "none",
        blob_level: int = 0,
        limits: Limits | None = None,
        name: str = "",
        progress: Progress | None = None,
        expected_blob: Digest | None = None,
        expected_diff_id: DiffID | None = None,
    ) -> StagedLayer:
        """Reads one layer from `source_fd` into the lease's staging, in one pass; publish it with the lease.

        `offset` None reads a pipe, or a file from where it stands; `size` bytes are expected (None: to the end).
        `compression` None looks at the magic. `blob`: "none", "keep" (the source's bytes), "gzip" or "zstd". `name`
        goes into progress events and errors (default: the expected digest). Several threads may share one lease.

        Raises `CorruptError` when blob digest or diff ID are not the expected ones, what the native pass raises with
        the layer's name before it, and `OSError`.
        """
        from lazarus._native.ingest import ingest

        what = name or expected_blob or expected_diff_id or "layer"
        lease.check_owner()
        directory = lease.new_directory("layer")
        try:
            result = ingest(
                source_fd,
                offset=offset,
                size=size,
                compression=compression,
                staging=directory,
                staged_objects=lease.objects,
                objects=self.content.paths.objects,
                blob=blob,
                blob_level=blob_level,
                limits=limits,
                progress=_watcher(progress, what, size),
            )
        except LazarusError as error:
            raise type(error)(f"layer {what}: {error}") from error
        staged = StagedLayer(directory, result, blob)
        if expected_blob is not None and staged.source_digest != expected_blob:
            raise CorruptError(f"layer {what}: bytes have digest {staged.source_digest}, manifest says {expected_blob}")
        if expected_diff_id is not None and staged.diff_id != expected_diff_id:
            raise CorruptError(f"layer {what}: tar has diff ID {staged.diff_id}, config says {expected_diff_id}")
        return staged


def _watcher(progress: Progress | None, name: str, size: int | None) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda source_bytes, tar_bytes: progress(ProgressEvent("ingest", name, source_bytes, size or 0))
