"""New images: a base's documents with one more layer, or none with a first one."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lazarus.errors import FormatError
from lazarus.images import changes as instructions
from lazarus.oci import media, platforms
from lazarus.oci.documents import write_manifest
from lazarus.oci.references import parse_tag
from lazarus.oci.strict_json import dumps
from lazarus.terms import Descriptor, DiffID, Digest, Platform

if TYPE_CHECKING:
    import sqlite3

    from lazarus.content.content import StagedBlob
    from lazarus.content.lease import Lease
    from lazarus.content.staged import StagedLayer
    from lazarus.images.image import Image
    from lazarus.store import Store


def source_date_epoch() -> int | None:
    """$SOURCE_DATE_EPOCH (reproducible-builds.org), seconds since 1970. Raises `FormatError` when it is no number."""
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise FormatError(f"SOURCE_DATE_EPOCH {text!r:.40}: not a number of seconds")
    return int(text)


class NewImage:
    """An image on its way into the catalogue: its documents and layers, and the names that it gets."""

    def __init__(
        self,
        manifest: StagedBlob,
        config_digest: Digest,
        media_type: str,
        layers: Sequence[tuple[DiffID, Digest]],
        *,
        created: float,
        size: int,
        names: Sequence[str],
        offered: Platform | None = None,
    ) -> None:
        """`offered`: for which platform an image index has it, where its config says another one."""
        self.manifest = manifest
        self.config_digest = config_digest
        self.media_type = media_type
        self.layers = layers
        self.created = created
        self.size = size
        self.names = names
        self.offered = offered

    def insert(self, connection: sqlite3.Connection) -> None:
        """The rows; those that exist stay, names move here."""
        digest = self.manifest.digest
        connection.execute(
            "INSERT OR IGNORE INTO images(manifest_digest, config_digest, media_type, created, size)"
            " VALUES (?, ?, ?, ?, ?)",
            (digest, self.config_digest, self.media_type, self.created, self.size),
        )
        connection.executemany(
            "INSERT OR IGNORE INTO image_layers(manifest_digest, position, diff_id, blob_digest) VALUES (?, ?, ?, ?)",
            [(digest, position, *layer) for position, layer in enumerate(self.layers)],
        )
        connection.executemany(
            "INSERT INTO names(reference, manifest_digest, created) VALUES (?, ?, ?)"
            " ON CONFLICT (reference) DO UPDATE SET manifest_digest=excluded.manifest_digest, created=excluded.created",
            [(name, digest, time.time()) for name in self.names],
        )
        if self.offered is not None:
            connection.execute("INSERT OR REPLACE INTO offers VALUES (?, ?, ?, ?)", (digest, *self.offered))


def add_layers(
    store: Store,
    base: Image | None,
    staged: Sequence[StagedLayer],
    lease: Lease,
    *,
    changes: tuple[str, ...],
    author: str,
    message: str,
    created: float,
    created_by: str,
    reference: str | None,
    platform: Platform | None,
) -> Digest:
    """Writes config and manifest of `base` plus `staged`, of which all but the last are published, and publishes the
    lease with that one; the manifest's digest.

    Same inputs, same bytes. Docker's media types of a base become OCI's; the layers' digests stay.
    """
    document = _config(base, staged, changes, author, message, created, created_by, platform)
    layers = [] if base is None else [as_oci(layer) for layer in base.manifest.layers]
    for layer in staged:
        digest = layer.blob or Digest(layer.diff_id)
        size = layer.blob_size if layer.blob is not None else layer.tar_size
        compression = layer.blob_compression if layer.blob is not None else "none"
        layers.append(Descriptor(media.layer_media_type(compression), digest, size))
    diff_ids = [*(() if base is None else base.diff_ids), *(layer.diff_id for layer in staged)]
    size_of_all = (0 if base is None else base.size) + sum(layer.tar_size for layer in staged)
    return publish_image(
        store, lease, document, list(zip(diff_ids, layers, strict=True)), staged[-1:], created, size_of_all, reference
    )


def publish_image(
    store: Store,
    lease: Lease,
    document: dict[str, Any],
    layers: Sequence[tuple[DiffID, Descriptor]],
    staged: Sequence[StagedLayer],
    created: float,
    size: int,
    reference: str | None,
) -> Digest:
    """Writes a config and the manifest of `layers` and publishes the lease with them and the `staged` ones among
    them; the manifest's digest. `size` is the sum of the layers' tars in bytes."""
    names = [] if reference is None else [parse_tag(reference).tagged]
    config = store.content.stage_blob(lease, dumps(document))
    descriptors = [descriptor for _, descriptor in layers]
    manifest = store.content.stage_blob(
        lease, write_manifest(Descriptor(media.OCI_CONFIG, config.digest, config.size), descriptors)
    )
    image = NewImage(
        manifest,
        config.digest,
        media.OCI_MANIFEST,
        [(diff_id, descriptor.digest) for diff_id, descriptor in layers],
        created=created,
        size=size,
        names=names,
    )
    store.content.publish(lease, blobs=[config, manifest], layers=staged, rows=image.insert)
    return manifest.digest


def _config(
    base: Image | None,
    staged: Sequence[StagedLayer],
    changes: tuple[str, ...],
    author: str,
    message: str,
    created: float,
    created_by: str,
    platform: Platform | None,
) -> dict[str, Any]:
    document: dict[str, Any] = {} if base is None else dict(base.config.raw)
    if base is None:
        chosen = platforms.normal(platform or platforms.host())
        document |= {"architecture": chosen.architecture, "os": chosen.os}
        if chosen.variant:
            document["variant"] = chosen.variant
    drop_foreign(document)
    when = rfc3339(created)
    line = {"created": when, "created_by": created_by, "author": author, "comment": message}
    document["created"] = when
    if author:
        document["author"] = author
    document["config"] = instructions.apply(document.get("config") or {}, changes)
    below = {"created": when, "created_by": f"{created_by} (checkpoint)"}
    lines = [*(below for _ in staged[1:]), {key: value for key, value in line.items() if value}]
    document["history"] = [*(document.get("history") or []), *lines]
    diff_ids = [*(() if base is None else base.diff_ids), *(layer.diff_id for layer in staged)]
    document["rootfs"] = {"type": "layers", "diff_ids": list(diff_ids)}
    return document


def drop_foreign(document: dict[str, Any]) -> None:
    """Takes members of Docker's own making, which speak of the image that it was, out of a config."""
    for key in ("container", "container_config", "docker_version", "id", "parent"):
        document.pop(key, None)


def as_oci(layer: Descriptor) -> Descriptor:
    """A layer's descriptor with OCI's media type."""
    compression = media.layer_compression(layer.media_type, f"layer {layer.digest}")
    return layer._replace(media_type=media.layer_media_type(compression))


def rfc3339(seconds: float) -> str:
    """Seconds since 1970 as UTC, with microseconds where there are any."""
    whole = int(seconds)
    fraction = round((seconds - whole) * 1_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{text}.{fraction:06}Z" if 0 < fraction < 1_000_000 else f"{text}Z"
