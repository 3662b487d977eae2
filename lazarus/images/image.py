"""One image of a store: a manifest, the config it names, and the layers that both agree on."""

from __future__ import annotations

import datetime
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any

from lazarus.layers.stack import chain_id
from lazarus.oci.documents import ImageConfig, Manifest, parse_config, parse_manifest
from lazarus.terms import ChainID, DiffID, Digest, Platform

if TYPE_CHECKING:
    from lazarus.layers.layer import Layer
    from lazarus.store import Store
    from lazarus.union.layer_stack import LayerStack


class Image:
    """An image by its manifest digest. Documents are read, and checked against their digests, when they are asked
    for."""

    def __init__(self, store: Store, digest: Digest, config_digest: Digest, created: float, size: int) -> None:
        self.store = store
        self.digest = digest
        self.id = config_digest
        self.created = created
        self.size = size
        self.loaded_names: tuple[str, ...] = ()  # by `Images.load`: the names that the archive had for it

    def __repr__(self) -> str:
        return f"<Image {' '.join((self.id[7:19], *self.names))}>"

    @property
    def names(self) -> tuple[str, ...]:
        """Every `name:tag` that points here now, sorted."""
        from lazarus.oci.references import with_tag

        return with_tag(self.all_names)

    @property
    def all_names(self) -> tuple[str, ...]:
        """These, and every `name@digest` that the image was pulled by: the digest is that of its manifest, or of an
        image index that has it."""
        rows = self.store.catalogue.read().execute(
            "SELECT reference FROM names WHERE manifest_digest=? ORDER BY instr(reference, '@'), reference",
            (self.digest,),
        )
        return tuple(row[0] for row in rows)

    def names_meant_by(self, reference: str) -> tuple[str, ...]:
        """Its names that `reference` stands for: in any spelling, with any tag or digest when it has none; all, for its
        digest or the beginning of its ID."""
        from lazarus.oci.references import meant_by, with_tag

        names = self.all_names
        name, _, digest = reference.partition("@")
        if digest:
            return (meant_by(name, with_tag(names)) if digest == self.digest else ()) or meant_by(reference, names)
        return meant_by(reference, names) or (names if self.has_id(reference) else ())

    def has_id(self, text: str) -> bool:
        """Is `text` the beginning of its ID or digest?"""
        digits = text.removeprefix("sha256:")
        return digits != "" and f"sha256:{digits}" in (self.id[: len(digits) + 7], self.digest[: len(digits) + 7])

    @cached_property
    def diff_ids(self) -> tuple[DiffID, ...]:
        """The layers, lowest first."""
        rows = self.store.catalogue.read().execute(
            "SELECT diff_id FROM image_layers WHERE manifest_digest=? ORDER BY position", (self.digest,)
        )
        return tuple(DiffID(row[0]) for row in rows)

    @property
    def chain_id(self) -> ChainID:
        """The name of its stack of layers."""
        return chain_id(self.diff_ids)

    @property
    def layers(self) -> list[Layer]:
        """The layers, lowest first. `NotFoundError` when one is damaged."""
        return [self.store.layers.get(diff_id) for diff_id in self.diff_ids]

    def stack(self, **options: Any) -> LayerStack:
        """Its files as a `LayerStack`, without a mount; `options` are the stack's (`upper=...` makes it writable)."""
        from lazarus.union.layer_stack import LayerStack

        self.store.stacks.open(self.diff_ids)  # whose index every process shares
        return LayerStack(self.layers, **options)

    def copy_out(self, source: str, target: str | IO[bytes] | int, *, archive: bool = False) -> None:
        """Copies a file or tree of it to the host (or as a tar stream): docker's rules, see `lazarus/union/copy.py`."""
        from lazarus.union import copy

        with self.stack() as stack:
            copy.copy_out(copy.Stack(stack), source, target, archive=archive)

    @cached_property
    def config_bytes(self) -> bytes:
        """The config as it was loaded."""
        return self.store.content.read_blob(self.id)

    @cached_property
    def manifest_bytes(self) -> bytes:
        """The manifest as it was loaded."""
        return self.store.content.read_blob(self.digest)

    @cached_property
    def config(self) -> ImageConfig:
        """The parsed config."""
        return parse_config(self.config_bytes, f"config {self.id}")

    @cached_property
    def platform(self) -> Platform:
        """That for which the image index had it with which it came; without one, its config's."""
        row = (
            self.store.catalogue.read()
            .execute("SELECT os, architecture, variant FROM offers WHERE manifest_digest=?", (self.digest,))
            .fetchone()
        )
        return self.config.platform if row is None else Platform(*row)

    @cached_property
    def manifest(self) -> Manifest:
        """The parsed manifest."""
        return parse_manifest(self.manifest_bytes, None, f"manifest {self.digest}")

    def history(self) -> list[dict[str, Any]]:
        """How it was made, newest first, as far as its config tells: dictionaries of created, created_by, author,
        comment
        and size (bytes of the step's tar, 0 for a step without a layer)."""
        sizes = iter([layer.tar_size for layer in self.layers])
        lines = [
            {
                "created": entry.created,
                "created_by": entry.created_by,
                "author": entry.author,
                "comment": entry.comment,
                "size": 0 if entry.empty_layer else next(sizes, 0),
            }
            for entry in self.config.history
        ]
        return lines[::-1]

    def inspect(self) -> dict[str, Any]:
        """What `docker image inspect` shows, and the manifest's digest and media type."""
        from lazarus.oci.references import with_tag

        raw = self.config.raw
        names = self.all_names
        digests = [name if "@" in name else f"{name.rpartition(':')[0]}@{self.digest}" for name in names]
        return {
            "Id": self.id,
            "Digest": self.digest,
            "MediaType": self.manifest.media_type,
            "RepoTags": list(with_tag(names)),
            "RepoDigests": list(dict.fromkeys(digests)),
            "Comment": raw.get("comment", ""),
            "Author": raw.get("author", ""),
            "Created": self.config.created,
            "Architecture": self.config.platform.architecture,
            "Variant": self.config.platform.variant,
            "Os": self.config.platform.os,
            "Size": self.size,
            "Config": self.config.config,
            "RootFS": {"Type": "layers", "Layers": list(self.diff_ids)},
        }


def timestamp(text: str) -> float:
    """RFC 3339 as seconds since 1970; 0.0 for a time that cannot be read."""
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0
