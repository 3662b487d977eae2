"""Images: load and save, pull and push, import, tag, remove, what a commit becomes, and new images out of layers that
exist."""

from __future__ import annotations

import builtins
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lazarus.errors import ConflictError, FormatError, NotFoundError, TruncatedError
from lazarus.images.image import Image
from lazarus.images.transfers import Transfers
from lazarus.terms import Digest, Limits, Platform, Progress, ViewChange

if TYPE_CHECKING:
    import sqlite3

    from lazarus.content.lease import Lease
    from lazarus.content.staged import StagedLayer
    from lazarus.images.source import Source
    from lazarus.oci.references import Reference
    from lazarus.store import Store

__all__ = ["Image", "Images"]

_COLUMNS = "manifest_digest, config_digest, images.created, size"


class Images(Transfers):
    """The images of a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def import_(
        self,
        source: Source,
        reference: str | None = None,
        *,
        changes: Sequence[str] = (),
        message: str = "",
        platform: Platform | str | None = None,
        limits: Limits | None = None,
        progress: Progress | None = None,
    ) -> Image:
        """An image of one layer from a root file system's tar (plain, gzip or zstd): a path, an open binary file, or
        "-"."""
        from contextlib import ExitStack

        from lazarus.images.build import add_layers
        from lazarus.images.source import open_file
        from lazarus.oci.platforms import parse_platform

        wanted = parse_platform(platform) if isinstance(platform, str) else platform
        with self.store.content.lease("import") as lease, ExitStack() as closing:
            fd, what = open_file(source, closing)
            staged = self.store.layers.ingest(lease, fd, limits=limits, name=what, progress=progress)
            if staged.tar_size == 0:  # a pipe whose writer failed, rather than a root file system
                raise TruncatedError(f"{what}: empty: not a tar")
            digest = add_layers(
                self.store,
                None,
                [staged],
                lease,
                changes=tuple(changes),
                author="",
                message=message,
                created=_now(),
                created_by="lazarus import",
                reference=reference,
                platform=wanted,
            )
        return self.get(digest)

    def add_layers(
        self,
        base: Image | None,
        staged: Sequence[StagedLayer],
        lease: Lease,
        *,
        changes: Sequence[str] = (),
        author: str = "",
        message: str = "",
        created: float | None = None,
        reference: str | None = None,
    ) -> Image:
        """A new image of `base`'s layers and staged ones; publishes the lease and the last of them. For commits."""
        from lazarus.images.build import add_layers

        digest = add_layers(
            self.store,
            base,
            staged,
            lease,
            changes=tuple(changes),
            author=author,
            message=message,
            created=_now() if created is None else created,
            created_by="lazarus commit",
            reference=reference,
            platform=None,
        )
        return self.get(digest)

    # -- deconstructing: see relayer.py. Each gives a new image, and the old one stays. --

    def squash(
        self,
        image: Image | str,
        reference: str | None = None,
        *,
        first: int = 1,
        last: int | None = None,
        progress: Progress | None = None,
    ) -> Image:
        """Layers `first` to `last` (1 is the lowest; default: all) as one; the tree stays the same.

        Marks that hide something of the layers below stay. No content is copied and no object is written; but each is
        read once, because the new layer's diff ID is the SHA-256 of its tar (about 600 MB/s on one core).
        """
        from lazarus.images.relayer import squash

        return self.get(squash(self.store, self._given(image), first, last, reference, _now(), progress))

    def split(
        self,
        image: Image | str,
        layer: int | str,
        paths: Sequence[str | bytes],
        reference: str | None = None,
        *,
        progress: Progress | None = None,
    ) -> Image:
        """One layer (its number, 1 is the lowest, or diff ID) as two: what matches no pattern, and on it what does.

        `paths` are globs (csrc/bytes/lz_glob.h). All that is in a directory that matches does too, and all names of a
        hard-linked file of which one does. The tree stays the same; the cost is that of `squash`.
        """
        from lazarus.images.relayer import split

        return self.get(split(self.store, self._given(image), layer, paths, reference, _now(), progress))

    def drop(self, image: Image | str, layers: Sequence[int | str], reference: str | None = None) -> Image:
        """Without these layers (numbers, 1 is the lowest, or diff IDs). The others stay the same bytes, so what they
        delete may not be there any more, which is no error. Reads no content."""
        from lazarus.images.relayer import drop

        return self.get(drop(self.store, self._given(image), layers, reference, _now()))

    def reorder(
        self, image: Image | str, order: Sequence[int | str], reference: str | None = None, *, force: bool = False
    ) -> Image:
        """The same layers in another order, lowest first. `ConflictError` names the first path that would not be the
        same then, unless `force`. Reads no content."""
        from lazarus.images.relayer import reorder

        return self.get(reorder(self.store, self._given(image), order, force, reference, _now()))

    def rebase(
        self, image: Image | str, onto: Image | str, reference: str | None = None, *, base: Image | str | None = None
    ) -> Image:
        """The layers that `image` has above its `base` on the layers of `onto`, with the config of `image`.

        Without `base` it is the image that annotation or label org.opencontainers.image.base.digest names, or the only
        one of this store whose layers are the lowest of `image`; `NotFoundError` or `ConflictError` where that leaves
        doubt, and for another platform. Reads no content; the layers keep their digests.
        """
        from lazarus.images.relayer import rebase

        old = None if base is None else self._given(base)
        return self.get(rebase(self.store, self._given(image), self._given(onto), old, reference, _now()))

    def diff(self, before: Image | str, after: Image | str) -> Iterator[ViewChange]:
        """What became of each path from one image's tree to another's, sorted by path, component by component.

        Every path that is in one of them only is a change, also inside a directory that is. Reads indexes alone: about
        4 ms for 17,000 equal entries, after merging the layers (milliseconds per 10,000 entries).
        """
        from lazarus.images.relayer import diff

        return diff(self.store, self._given(before), self._given(after))

    def _given(self, image: Image | str) -> Image:
        return self.get(image) if isinstance(image, str) else image

    def get(self, reference: str) -> Image:
        """By `name[:tag]`, `name@digest`, digest, ID, or the beginning of an ID. `NotFoundError`, or `ConflictError`
        when a
        beginning fits several images."""
        found = self._by_name(reference) or self._by_id(reference)
        if found is None:
            raise NotFoundError(f"image {reference}: not in this store")
        return found

    def list(self, reference: str | None = None) -> builtins.list[Image]:
        """Every image, newest first, those without a name too; with `reference` those that have a name which it stands
        for (see `Image.names_meant_by`), or its ID."""
        rows = self._read(f"SELECT {_COLUMNS} FROM images ORDER BY images.created DESC, manifest_digest")
        images = [self._image(row) for row in rows]
        if reference is None:
            return images
        return [image for image in images if image.names_meant_by(reference) or image.has_id(reference)]

    def tag(self, image: Image | str, name: str) -> Image:
        """Gives an image a further name; one that another image had moves here."""
        from lazarus.oci.references import parse_tag

        image = self.get(image) if isinstance(image, str) else image
        with self.store.catalogue.write() as connection:
            connection.execute(
                "INSERT INTO names(reference, manifest_digest, created) VALUES (?, ?, ?) ON CONFLICT (reference)"
                " DO UPDATE SET manifest_digest=excluded.manifest_digest, created=excluded.created",
                (parse_tag(name).tagged, image.digest, time.time()),
            )
        return image

    def remove(self, reference: str, *, force: bool = False) -> builtins.list[str]:
        """Takes a name away; with the last one the image goes, and what nothing else needs.

        Asked for by ID, all names go: `ConflictError` for several unless `force`. So is an image that a container uses,
        whose name is in the message: with `force` its names go, and it stays without one until a prune after the
        container's end, so that the container can still be started and committed.
        Returns docker's lines: "Untagged: NAME", "Deleted: ID".
        """
        from lazarus.images.remove import remove

        return remove(self.store, reference, force)

    # -- finding --

    def _read(self, query: str, *values: object) -> builtins.list[sqlite3.Row]:
        rows: builtins.list[sqlite3.Row] = self.store.catalogue.read().execute(query, values).fetchall()
        return rows

    def _image(self, row: sqlite3.Row) -> Image:
        return Image(self.store, Digest(row[0]), Digest(row[1]), row[2], row[3])

    def _by_name(self, text: str) -> Image | None:
        reference = _parse(text)
        if reference is None:
            return None
        from lazarus.oci.references import spellings

        if reference.digest is not None and not reference.tag:
            rows = self._read(f"SELECT {_COLUMNS} FROM images WHERE manifest_digest=?", reference.digest)
            if rows:
                return self._image(rows[0])
        for name in spellings(reference):
            rows = self._read(
                f"SELECT {_COLUMNS} FROM images JOIN names USING (manifest_digest) WHERE reference=?", name
            )
            if rows and (not reference.tag or reference.digest in (None, rows[0][0])):
                return self._image(rows[0])
        return None

    def _by_id(self, text: str) -> Image | None:
        digits = text.removeprefix("sha256:")
        if not digits or len(digits) > 64 or digits.strip("0123456789abcdef"):
            return None
        pattern = f"sha256:{digits}*"
        rows = self._read(
            f"SELECT {_COLUMNS} FROM images WHERE manifest_digest GLOB ? OR config_digest GLOB ?", pattern, pattern
        )
        if len({row[1] for row in rows}) > 1:
            raise ConflictError(f"image {text}: the beginning of {len(rows)} IDs")
        return self._image(rows[0]) if rows else None

    def name_of(self, image: Image, text: str, *, digests: bool = False) -> str | None:
        """The name of `image` that `text` stands for, with `digests` one of `Image.all_names`; None when it is an ID,
        or a digest."""
        reference = _parse(text)
        if reference is None:
            return None
        from lazarus.oci.references import spellings

        names = image.all_names if digests else image.names
        return next((name for name in spellings(reference) if name in names), None)


def _parse(text: str) -> Reference | None:
    from lazarus.oci.references import parse_reference

    try:
        return parse_reference(text)
    except FormatError:
        return None


def _now() -> float:
    """The time, or $SOURCE_DATE_EPOCH."""
    from lazarus.images.build import source_date_epoch

    epoch = source_date_epoch()
    return time.time() if epoch is None else float(epoch)
