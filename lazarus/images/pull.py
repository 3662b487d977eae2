"""pull: an image from a registry, or from any other place, into the store; only the layers that are missing.

Documents come first: manifest and config say which layers there are, and those whose diff ID the store has are not
asked for. Each of the others is one pipeline, several run at once: bytes come from the network in one thread, go
through a pipe into `layers.ingest`, which hashes, inflates, hashes the tar and every file, and writes each file once,
into staging. A layer is published when it is whole, and the image when all of its layers are here.

A layer that was pushed as zstd:chunked comes in parts, where the store has enough of its files: these, too, end as a
tar whose digest is the config's diff ID (`lazarus.layers.chunked.reader`).

So what a kill or a full disk leaves is whole layers, which the next pull does not fetch again. Nobody names them yet,
and a `system prune` after the pull's end takes them, or the removal of an image: they are not kept for a while, because
it is after a full disk that somebody prunes, and then all of it has to come back. While a pull runs its lease keeps
them, and whatever it found here.
Of several processes one fetches a layer (`lazarus.content.claims`), and the others find it.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from lazarus.content.claims import claim, holder, mark
from lazarus.content.lease import is_stopped
from lazarus.errors import (
    ConflictError,
    CorruptError,
    FormatError,
    LazarusError,
    LimitError,
    UnsafeError,
    UnsupportedError,
)
from lazarus.images.load import at_once, ingest_layer, naming_the_store, publish_images
from lazarus.images.places import remember
from lazarus.images.plan import OneImage, PlannedImage, PlannedLayer, distinct, plan
from lazarus.images.source import open_place
from lazarus.layers.chunked.annotations import CHECKSUM
from lazarus.oci import platforms
from lazarus.registry.others import asking_others
from lazarus.terms import Digest, Limits, Platform, Progress, ProgressEvent

if TYPE_CHECKING:
    from lazarus.content.lease import Lease
    from lazarus.content.staged import StagedLayer
    from lazarus.oci.transports import Place
    from lazarus.registry.client import RegistryClient
    from lazarus.store import Store

#: As docker: three that wait for the network keep two cores busy.
LAYERS_AT_ONCE = 3
SAID_AFTER = 5.0  # seconds of waiting for another process
#: What comes of wrong bytes, which may look like anything before their digest is known.
_WRONG = (CorruptError, FormatError, LimitError, UnsafeError, UnsupportedError)
log = logging.getLogger(__name__)


def pull(
    store: Store,
    place: Place,
    *,
    client: RegistryClient | None,
    name: str | None,
    platform: Platform | None,
    every: bool,
    keep_blobs: bool,
    limits: Limits | None,
    progress: Progress | None,
) -> list[tuple[Digest, tuple[str, ...]]]:
    """See `Images.pull`; the manifest digests, with the names that each image got."""
    with naming_the_store(store, str(place)), store.content.lease("pull") as lease, ExitStack() as closing:
        source = open_place(place, lease, closing, limits, client=client, name=name)
        images = plan(source, platform, tag=place.tag, every=every)
        if platform is None and not every:
            for image in images:
                _warn_of_platform(place, image.parsed.platform)
        fetch = _Fetch(store, keep_blobs, limits)
        cancel = client.cancel if client is not None else None
        at_once(fetch.one, distinct(images), LAYERS_AT_ONCE, progress, cancel)
        if name is not None and not isinstance(source, OneImage):
            images = _renamed(images, name, place)
        published = publish_images(store, lease, images, (), progress)
        if place.kind == "docker":
            from lazarus.registry.settings import Repository

            there = [(layer.digest, layer.diff_id) for layer in distinct(images) if layer.digest is not None]
            remember(store, Repository.of(place.reference), there)
        return published


def _warn_of_platform(place: Place, offered: Platform) -> None:
    """One that stands alone may be for any platform, but who did not ask for another one hardly wants it."""
    if offered.architecture and not platforms.matches(platforms.host(), offered):
        log.warning("%s: an image for platform %s, this host is %s", place, offered, platforms.host())


def _renamed(images: list[PlannedImage], name: str, place: Place) -> list[PlannedImage]:
    if len(images) != 1:
        raise ConflictError(f"{place}: {len(images)} images in it, which cannot all be called {name}")
    return [images[0]._replace(names=(name,))]


class _Fetch:
    """Layers, each until it is published."""

    def __init__(self, store: Store, keep_blobs: bool, limits: Limits | None) -> None:
        self._store = store
        self._keep_blobs = keep_blobs
        self._limits = limits

    def one(self, layer: PlannedLayer, progress: Progress | None) -> None:
        """Has a layer in the store: finds it, waits for whoever fetches it, or fetches it."""

        def say(action: str, done: int) -> None:
            if progress is not None:
                progress(ProgressEvent(action, layer.name, done, layer.size))

        begun = time.monotonic()
        told: set[int | None] = set()

        def wait(seconds: float) -> None:
            say("wait", 0)  # raises when somebody has stopped us
            time.sleep(seconds)
            if not told and time.monotonic() - begun > SAID_AFTER:
                told.add(self._say_who(layer))

        if self._is_here(layer):
            say("exists", layer.size)
            return

        with claim(self._store.paths, layer.diff_id, wait):
            if self._is_here(layer):  # somebody was faster, be it only between the two
                say("exists", layer.size)
                return
            asking_others(lambda: self._fetch(layer, progress), lambda error: self._others(layer, error), _WRONG)
            say("done", layer.size)

    @staticmethod
    def _others(layer: PlannedLayer, error: LazarusError) -> bool:
        from lazarus.images.remote import ask_others

        return layer.descriptor is not None and ask_others(layer.open(), error)

    def _fetch(self, layer: PlannedLayer, progress: Progress | None) -> None:
        """With a lease of its own: what is published with one is all objects in it, whichever layer they are for."""
        with self._store.content.lease("pull") as lease:
            mark(lease, layer.diff_id)
            staged = self._in_parts(lease, layer, progress) or ingest_layer(
                self._store,
                lease,
                layer,
                self._keep_blobs,
                self._limits,
                progress and (lambda event: progress(ProgressEvent("pull", layer.name, event.done, layer.size))),
            )
            self._store.content.publish(lease, layers=[staged])

    def _say_who(self, layer: PlannedLayer) -> int | None:
        """Whom we wait for: they may be stopped, and then nobody but the user can help."""
        pid = holder(self._store.content, layer.diff_id)
        who = f"process {pid}" if pid is not None else "another process"
        stopped = " (it is stopped)" if pid is not None and is_stopped(pid) else ""
        log.warning("layer %s: waiting for %s%s, which fetches it", layer.name, who, stopped)
        return pid

    def _in_parts(self, lease: Lease, layer: PlannedLayer, progress: Progress | None) -> StagedLayer | None:
        """A zstd:chunked layer of a registry, of which only the files are fetched that the store has not; None when it
        is to come whole."""
        if layer.descriptor is None or self._keep_blobs or CHECKSUM not in layer.descriptor.annotations:
            return None
        from lazarus.images.remote import RemoteBlob
        from lazarus.layers.chunked.reader import ingest_chunked

        with layer.open() as blob:
            if not isinstance(blob, RemoteBlob):
                return None  # where reading is cheap
            return ingest_chunked(
                self._store.layers,
                lease,
                blob,
                layer.descriptor,
                layer.diff_id,
                limits=self._limits,
                progress=progress and (lambda event: progress(event._replace(action="parts", name=layer.name))),
            )

    def _is_here(self, layer: PlannedLayer) -> bool:
        """By diff ID; where the blob is to be kept, it must be here, too. A digest that is known to be another layer
        is a lie of the documents."""
        if layer.digest is not None:
            known = self._store.layers.find_by_blob(layer.digest)
            if known is not None and known != layer.diff_id:
                raise CorruptError(f"layer {layer.digest}: tar has diff ID {known}, config says {layer.diff_id}")
        if not self._store.layers.has(layer.diff_id):
            return False
        if not self._keep_blobs or layer.digest is None or layer.digest == layer.diff_id:
            return True
        return self._store.content.has_blob(layer.digest)
