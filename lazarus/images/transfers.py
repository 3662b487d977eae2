"""What brings images into a store and out of it: load and save, pull and push. A part of `Images`."""

from __future__ import annotations

import builtins
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lazarus.errors import FormatError
from lazarus.terms import Digest, Limits, Platform, Progress

if TYPE_CHECKING:
    from lazarus.images.image import Image
    from lazarus.images.push import Pushed
    from lazarus.images.save import Target
    from lazarus.images.source import Source
    from lazarus.oci.transports import Place
    from lazarus.registry.client import RegistryClient, Settings
    from lazarus.store import Store

log = logging.getLogger(__name__)


class Transfers:
    """Images from elsewhere, and to there."""

    store: Store

    def get(self, reference: str) -> Image:
        """By name or ID: see `Images.get`."""
        raise NotImplementedError

    def name_of(self, image: Image, text: str, *, digests: bool = False) -> str | None:
        """See `Images.name_of`."""
        raise NotImplementedError

    def load(
        self,
        source: Source,
        *,
        platform: Platform | str | None = None,
        keep_blobs: bool = True,
        limits: Limits | None = None,
        progress: Progress | None = None,
    ) -> builtins.list[Image]:
        """Brings every image of an OCI archive, an OCI layout directory or a docker-archive into the store, verified.

        `source` is a path, an open binary file, or "-" for standard input; archives may be compressed. `platform`
        chooses from image indexes (default: the host's); when it is given, an image that stands alone must be for it,
        too. With `keep_blobs` compressed layers are kept as they came, so that `save` gives the same manifest back
        (disk: their size); without, `save` writes the same layers uncompressed. Layers that the store has are not read.
        `progress` gets events from several threads, one at a time.

        One pass: about 450 MB of uncompressed layers a second on two cores, under 100 MB of memory. Raises
        `FormatError`, `CorruptError`, `LimitError`, `NotFoundError` (no image for the platform), `UnsafeError`,
        `UnsupportedError` or `OSError`, and leaves the store as it was.
        """
        from lazarus.images.load import load
        from lazarus.oci.platforms import parse_platform

        wanted = parse_platform(platform) if isinstance(platform, str) else platform
        found = load(self.store, source, platform=wanted, keep_blobs=keep_blobs, limits=limits, progress=progress)
        return [self._loaded(digest, names) for digest, names in found]

    def _loaded(self, digest: Digest, names: tuple[str, ...]) -> Image:
        image = self.get(digest)
        image.loaded_names = names
        return image

    def pull(
        self,
        place: str,
        *,
        reference: str | None = None,
        platform: Platform | str | None = None,
        all_platforms: bool = False,
        keep_blobs: bool = False,
        limits: Limits | None = None,
        registry: Settings | None = None,
        progress: Progress | None = None,
    ) -> builtins.list[Image]:
        """Brings the image at a place (a reference, for a registry, or as `lazarus.oci.transports` spells them) into
        the store, verified while it streams; layers that the store has are not fetched. An archive or layout of several
        images gives all of them, unless the place names one.

        A registry's image gets the name by which it was asked for, others those that they have there, or `reference`;
        `loaded_names` of each says which. `platform` is as for `load`; `all_platforms` takes all of an index: that for
        this host (or `platform`) has the name, the others have it with their platform after the tag
        ("app:1-linux-arm64"). `keep_blobs` keeps compressed layers as they came, so that `save`, and `push` to another
        registry, give the same manifest. `registry` says how one is spoken to. `progress` gets events from several
        threads, one at a time: exists, wait, parts, pull and done for each layer.

        Layers that have come whole stay when it fails or is killed: the next pull goes on from there. Raises what
        `load` does, and `RegistryError`.
        """
        from lazarus.images.pull import pull
        from lazarus.oci.platforms import parse_platform
        from lazarus.oci.references import parse_tag
        from lazarus.oci.transports import parse_place

        source = parse_place(place, bare=True)
        with _client(source, registry) as client:
            found = pull(
                self.store,
                source,
                client=client,
                name=None if reference is None else parse_tag(reference).tagged,
                platform=parse_platform(platform) if isinstance(platform, str) else platform,
                every=all_platforms,
                keep_blobs=keep_blobs,
                limits=limits,
                progress=progress,
            )
        return [self._loaded(digest, names) for digest, names in found]

    def save(
        self,
        references: Sequence[str],
        target: Target,
        *,
        format: str = "oci-archive",
        compression: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Writes images to an "oci-archive", an "oci-dir" or a "docker-archive": a path (replaced when it is whole),
        or an open binary file.

        Layers are as they came; those whose compressed form was not kept are plain. With `compression` ("zstd:chunked",
        "zstd", "gzip" or "none") all have that form, under a new manifest where theirs was another one. The same images
        give the same bytes. Raises `FormatError`, `NotFoundError`, `ConflictError` (a directory that is not empty),
        `CorruptError` when the store's bytes are not what they were, `OSError`.
        """
        from lazarus.images.save import Named, save

        images: dict[Digest, tuple[Image, list[str]]] = {}
        for reference in references:
            image = self.get(reference)
            names = images.setdefault(image.digest, (image, []))[1]
            name = self.name_of(image, reference)
            if name is not None and name not in names:
                names.append(name)
        named = [Named(image, tuple(names)) for image, names in images.values()]
        save(self.store, named, target, format, progress, compression)

    def push(
        self,
        image: Image | str,
        place: str | None = None,
        *,
        all_platforms: bool = False,
        compression: str | None = None,
        level: int = 0,
        registry: Settings | None = None,
        progress: Progress | None = None,
    ) -> Pushed:
        """Writes an image to a place (see `pull`; without one, to the registry that its name says), and there only the
        blobs that are missing. The digest, and what was sent.

        Layers stay compressed as they came where those bytes were kept, or the place has them; others are compressed on
        their way, with `compression` ("zstd:chunked", the default, which is zstd to whoever does not know it, "zstd",
        "gzip" or "none") at `level` (0: the form's default). When it is given, layers of another form become it, too.
        `all_platforms` pushes an image index of it and its neighbours of other platforms, by the names that `pull`
        gives them. `progress` as in `pull`: exists, push, done.

        The place shows the image when it is whole. What a push that is killed leaves in a registry are blobs that no
        manifest names: the next push finds them there, or the registry's own garbage collection does. To a name by
        digest only what has that digest is sent (`CorruptError` before anything is), and only layers of which a
        compressed form is known (`UnsupportedError`).

        Raises `FormatError`, `NotFoundError`, `ConflictError`, `UnsupportedError`, `RegistryError`, `CorruptError` when
        the store's bytes are not what they were, `OSError`.
        """
        from lazarus.images.push import Compression, push
        from lazarus.oci.transports import parse_place

        if isinstance(image, str):
            name, found = image, self.get(image)
        else:
            name, found = (image.names or (image.id,))[0], image
        known = self.name_of(found, name)
        if place is None and known is None:
            raise FormatError(f"image {name}: no name that says where to; give a place")
        target = parse_place(place or name, bare=True)
        with _client(target, registry) as client:
            return push(
                self.store,
                self._platforms(found, known) if all_platforms and known is not None else [found],
                target,
                compression=Compression(compression, level),
                client=client,
                progress=progress,
            )

    def _platforms(self, image: Image, name: str) -> builtins.list[Image]:
        """An image and those that have its name with their platform after the tag."""
        from lazarus.oci.platforms import name_for

        rows = self.store.catalogue.read().execute(
            "SELECT reference FROM names WHERE substr(reference, 1, ?)=? ORDER BY reference",
            (len(name) + 1, f"{name}-"),
        )
        found = [image]
        for (text,) in rows.fetchall():
            other = self.get(text)
            platform = other.platform
            if text == name_for(name, platform):
                found.append(other)
            elif text.startswith(f"{name}-{platform.os}-"):  # somebody has named it so by hand
                log.warning("%s: left out, because it is for platform %s", text, platform)
        return found


@contextmanager
def _client(place: Place, settings: Settings | None) -> Iterator[RegistryClient | None]:
    """What speaks to a registry; None for another place."""
    if place.kind != "docker":
        yield None
        return
    from lazarus.registry.client import RegistryClient

    with RegistryClient(settings, warn=lambda text: log.warning("%s", text)) as client:
        yield client
