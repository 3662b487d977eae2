"""Publishing: from staging to visible, all or nothing. The protocol is in the docstring of `lazarus.content`."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from lazarus._native.publish import publish_objects, withdraw_objects
from lazarus._native.sync import syncfs
from lazarus.content.staged import StagedBlob, StagedLayer
from lazarus.errors import StoreError

if TYPE_CHECKING:
    from lazarus.content.catalogue import Catalogue
    from lazarus.content.lease import Lease
    from lazarus.content.paths import StorePaths

Rows = Callable[[sqlite3.Connection], None]


def sync_file_system(directory: str) -> None:
    """Everything of the file system that `directory` is on reaches the disk. 0.15 ms when there is nothing to write."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(fd)
    finally:
        os.close(fd)


class Publication:
    """One publish. Renames are remembered until the transaction is over, so that a failure can take them back while the
    write lock is still held (afterwards another process may already rely on them)."""

    def __init__(self, paths: StorePaths, catalogue: Catalogue, lease: Lease) -> None:
        self._paths = paths
        self._catalogue = catalogue
        self._lease = lease
        self._moved: list[tuple[str, str]] = []
        self._objects = b""

    def run(self, blobs: Iterable[StagedBlob], layers: Iterable[StagedLayer], rows: Rows | None) -> None:
        """See `ContentStore.publish`."""
        layers = list(layers)
        blobs = [*blobs, *(_layer_blob(layer) for layer in layers if layer.blob is not None)]
        self._lease.check_owner()
        syncfs(self._lease.fd)
        try:
            with self._catalogue.write() as connection:
                self._lease.check_row(connection)
                try:
                    self._place(connection, blobs, layers)
                    insert_rows(connection, blobs, layers)
                    if rows is not None:
                        rows(connection)
                    syncfs(self._lease.fd)
                except BaseException:
                    self._take_back()
                    raise
        except sqlite3.IntegrityError as error:
            raise StoreError(f"{self._paths.db}: the catalogue refuses the new rows: {error}") from error

    def _place(
        self, connection: sqlite3.Connection, blobs: Sequence[StagedBlob], layers: Sequence[StagedLayer]
    ) -> None:
        """What has a row is the same content, and stays. A layer without one was left by a publish that failed or died;
        its objects may be gone by now, and under other limits it needs other objects than ours."""
        for blob in blobs:  # before the layers, whose directories some of them are in
            place = self._paths.blob(blob.digest)
            if os.path.lexists(place):
                os.unlink(blob.path)
            else:
                self._rename(blob.path, place)
        for layer in layers:
            place = self._paths.layer(layer.diff_id)
            if os.path.lexists(place):
                row = connection.execute("SELECT damaged FROM layers WHERE diff_id=?", (layer.diff_id,)).fetchone()
                if row is not None and not row["damaged"]:
                    continue
                self._rename(place, self._lease.new_path("replaced"))
            self._rename(layer.directory, place)
        self._objects = publish_objects(self._lease.objects, self._paths.objects)

    def _rename(self, source: str, target: str) -> None:
        os.rename(source, target)
        self._moved.append((source, target))

    def _take_back(self) -> None:
        """Best effort: what stays behind has no row, so nobody sees it, and a collection takes it."""
        try:
            withdraw_objects(self._paths.objects, self._lease.objects, self._objects)
            for source, target in reversed(self._moved):
                os.rename(target, source)
        except OSError:
            pass


def _layer_blob(layer: StagedLayer) -> StagedBlob:
    assert layer.blob is not None
    return StagedBlob(f"{layer.directory}/blob", layer.blob, layer.blob_size)


def insert_rows(connection: sqlite3.Connection, blobs: Sequence[StagedBlob], layers: Sequence[StagedLayer]) -> None:
    """Rows of `blobs`, `layers` and `layer_blobs`; those that exist stay."""
    now = time.time()
    connection.executemany(
        "INSERT OR IGNORE INTO blobs(digest, size, created) VALUES (?, ?, ?)",
        [(blob.digest, blob.size, now) for blob in blobs],
    )
    connection.executemany(
        "INSERT INTO layers(diff_id, tar_size, entry_count, content_size, object_count, created)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (diff_id) DO UPDATE SET damaged = 0",
        [
            (
                layer.diff_id,
                layer.tar_size,
                layer.result.entry_count,
                layer.result.content_size,
                layer.result.object_count,
                now,
            )
            for layer in layers
        ],
    )
    forms = [(a.source_digest, a.diff_id, a.compression, a.source_size, a.blob == a.source_digest) for a in layers]
    forms += [(a.blob, a.diff_id, a.blob_compression, a.blob_size, True) for a in layers if a.blob is not None]
    connection.executemany(
        "INSERT INTO layer_blobs(digest, diff_id, compression, size, kept) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (digest) DO UPDATE SET kept = max(kept, excluded.kept)",
        forms,
    )
