"""pull: from an OCI layout, an archive of one or a registry to a new volume."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from lazarus.content import limited
from lazarus.errors import ConflictError, CorruptError, FormatError, LazarusError, LimitError, NotFoundError
from lazarus.oci import media
from lazarus.oci.documents import parse_index
from lazarus.oci.layout import INDEX as LAYOUT_INDEX
from lazarus.oci.layout import ArchiveFiles, BlobSource, Layout, open_layout
from lazarus.oci.layout_writer import REF_NAME
from lazarus.oci.outer_tar import OuterTar
from lazarus.oci.transports import Place
from lazarus.registry.others import asking_others
from lazarus.terms import Descriptor, Digest, Progress, ProgressEvent
from lazarus.volumes.artifact import index, manifest, packs
from lazarus.volumes.artifact.index import Tree
from lazarus.volumes.artifact.manifest import VolumeManifest
from lazarus.volumes.artifact.places import Places, check_numbers
from lazarus.volumes.artifact.restore import Restore
from lazarus.volumes.names import check_name, is_name

if TYPE_CHECKING:
    import numpy

    from lazarus.content.lease import Lease
    from lazarus.registry.settings import Settings
    from lazarus.store import Store
    from lazarus.volumes.artifact.registry import RegistryArtifacts
    from lazarus.volumes.volume import Volume

    Array: TypeAlias = numpy.ndarray[Any, numpy.dtype[Any]]

_MAX_INDEX = 1 << 30  # bytes, as it is stored
_PIECE = 4 << 20
_Result = TypeVar("_Result")
log = logging.getLogger(__name__)


class Pulled(NamedTuple):
    """What a pull made. Bytes: `size` of all files (without holes), `read` of blobs."""

    volume: Volume
    digest: Digest
    size: int
    read: int
    entries: int


def pull(
    store: Store,
    place: Place,
    name: str | None,
    labels: Mapping[str, str] | None,
    size: int | None,
    progress: Progress | None,
    registry: Settings | None = None,
) -> Pulled:
    """See `Volumes.pull`."""
    if name is not None:
        _check_free(store, check_name(name))
    with ExitStack() as closing:
        layout = _open(store, place, closing, registry)
        if isinstance(layout, Layout):
            entry = choose(layout, place)
        else:
            entry = layout.resolve(place.reference.digest or place.reference.tag)
        what = f"{place}: manifest {entry.digest}"
        described = manifest.read(layout.read(entry, what), entry.media_type, what)
        chosen = name if name is not None else described.name
        if not is_name(chosen):
            raise FormatError(f"{place}: no usable name of a volume in it ({chosen!r:.140}); give one")
        _check_free(store, chosen)
        with store.volumes.making() as new:
            work = _Pull(store, layout, place, described, progress, lambda: limited.at_limit(f"volume {chosen}", size))
            tree = work.tree(new.lease)
            carried = tree.labels if labels is None else labels
            directory = new.stage(chosen, carried, anonymous=False, size=size, durable=False, fresh=False)
            work.make(tree, directory)
            with limited.at_limit(f"volume {chosen}", None):  # what does not fit then is the disk's fault
                new.sync()
            with store.catalogue.write() as connection:
                if connection.execute("SELECT 1 FROM volumes WHERE name=?", (chosen,)).fetchone() is not None:
                    raise _taken(chosen)
                new.place(connection)
        return Pulled(store.volumes.get(chosen), entry.digest, work.size, work.read, work.entries)
    raise AssertionError


def _check_free(store: Store, name: str) -> None:
    if store.volumes.find(name) is not None:
        raise _taken(name)


def _taken(name: str) -> ConflictError:
    return ConflictError(
        f"volume {name}: there is one already, and a pull makes a new one: give it another name, or remove that"
    )


def _open(store: Store, place: Place, closing: ExitStack, registry: Settings | None) -> Layout | RegistryArtifacts:
    if place.kind == "docker":
        from lazarus.registry.client import RegistryClient
        from lazarus.volumes.artifact.registry import RegistryArtifacts

        client = closing.enter_context(RegistryClient(registry, warn=log.warning))
        return RegistryArtifacts(client, place, store.paths.staging)
    if place.kind == "oci":
        return closing.enter_context(open_layout(place.path))
    fd = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
    closing.callback(os.close, fd)
    return closing.enter_context(Layout(ArchiveFiles(OuterTar(fd, place.path))))


def choose(layout: Layout, place: Place) -> Descriptor:
    """The manifest with the place's tag; without a tag, the only volume there is. `NotFoundError` lists the tags."""
    entries = parse_index(layout.index(), None, f"{place.path}: {LAYOUT_INDEX}").manifests
    if place.tag:
        named = [entry for entry in entries if entry.annotations.get(REF_NAME) == place.tag]
        if len(named) == 1:
            return named[0]
        if named:
            raise FormatError(f"{place}: the tag is there {len(named)} times")
    volumes = [entry for entry in entries if entry.media_type == media.OCI_MANIFEST and _is_volume(layout, entry)]
    if not place.tag and len(volumes) == 1:
        return volumes[0]
    tags = ", ".join(sorted(entry.annotations.get(REF_NAME, "") or "(no tag)" for entry in volumes)) or "none"
    raise NotFoundError(f"{place}: {'no such tag' if place.tag else 'not one volume'}; volumes there: {tags:.300}")


def _is_volume(layout: Layout, entry: Descriptor) -> bool:
    what = f"{layout.what}: manifest {entry.digest}"
    return manifest.is_volume(layout.read(entry, what), what)


class _Pull:
    def __init__(
        self,
        store: Store,
        layout: Layout | RegistryArtifacts,
        place: Place,
        described: VolumeManifest,
        progress: Progress | None,
        at_limit: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """`at_limit` is around what writes in the volume, and in nothing else."""
        self._store = store
        self._layout = layout
        self._what = str(place)
        self._described = described
        self._progress = progress
        self._at_limit = at_limit
        self.size = self.read = self.entries = self._done = 0

    def tree(self, lease: Lease) -> Tree:
        """What the index says."""
        return index.decode(self._index(lease), f"{self._what}: index")

    def make(self, tree: Tree, directory: str) -> None:
        """The tree, in an empty directory."""
        what = f"{self._what}: index"
        counts = [packs.chunk_count(pack, f"{self._what}: pack {pack.digest}") for pack in self._described.packs]
        check_numbers(tree, counts, what)  # before any table is fetched
        where = Places(tree, self._lengths(counts), what)
        self.size, self.entries = where.size, tree.entries
        with self._at_limit():
            self._check_room(directory)
        root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        restore = Restore(root, tree, self._what, keep_owner=os.geteuid() == 0)
        try:
            with self._at_limit():
                restore.make()
            first = 0
            for pack, count in zip(self._described.packs, counts, strict=True):
                self._fill(restore, where, pack, first, count)
                first += count
            with self._at_limit():
                restore.finish()
        finally:
            restore.close()
            os.close(root)

    def _check_room(self, directory: str) -> None:
        status = os.statvfs(directory)
        if self.size > status.f_bavail * status.f_frsize:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} for {self.size} bytes", self._what)

    def _index(self, lease: Lease) -> bytes:
        """Its bytes, unpacked in staging and gone from there."""
        from lazarus._native.stream import decompress

        descriptor = self._described.tree
        what = f"{self._what}: index {descriptor.digest}"
        if descriptor.size > _MAX_INDEX:
            raise LimitError(f"{what}: {descriptor.size} bytes, more than {_MAX_INDEX}")
        path = lease.new_path("index")
        with open(path, "x+b") as packed, open(f"{path}.raw", "x+b") as raw:

            def fetch() -> None:
                packed.seek(0)
                packed.truncate()
                with self._layout.blob(descriptor, what) as source:
                    self._verify(descriptor, source, what, packed.write)

            self._asking(descriptor, fetch)
            packed.flush()
            packed.seek(0)
            try:
                decompress(packed.fileno(), raw.fileno(), max_size=index.most_bytes(descriptor.size))
            except LazarusError as error:
                raise type(error)(f"{what}: {error}") from error
            os.unlink(path)
            os.unlink(raw.name)
            raw.seek(0)
            return raw.read()

    def _lengths(self, counts: list[int]) -> Array:
        """Of all chunks of all packs. Of their tables no more is kept: a pack has its own at its end."""
        import numpy

        lengths = numpy.zeros(sum(counts), "u4")
        first = 0
        for pack, count in zip(self._described.packs, counts, strict=True):
            lengths[first : first + count] = self._asking(pack, partial(self._table, pack))["length"]
            first += count
        return lengths

    def _table(self, pack: Descriptor, source: BlobSource | None = None) -> Array:
        """Of a pack that was fetched, or of one of which nothing else is."""
        what = f"{self._what}: pack {pack.digest}"

        def part(offset: int, size: int) -> bytes:
            if source is None:
                return self._layout.part(pack, offset, size, what)
            return os.pread(source.fd, size, source.offset + offset)

        return packs.read_table(pack, part, what)

    def _fill(self, restore: Restore, where: Places, pack: Descriptor, first: int, count: int) -> None:
        name = f"pack {pack.digest}"
        runs = where.runs(first, first + count)
        before = self._done

        def fetch() -> None:
            self._done = before  # nothing of what somebody sent wrong counts; what is written is written again
            with self._layout.blob(pack, f"{self._what}: {name}") as source:
                table = self._table(pack, source)
                with self._at_limit():
                    restore.fill(where, runs, table, source, name, first, self._say)
                self._verify(pack, source, f"{self._what}: {name}")

        self._asking(pack, fetch)

    def _asking(self, descriptor: Descriptor, attempt: Callable[[], _Result]) -> _Result:
        """What an attempt makes of a blob's bytes; after wrong ones of a mirror with those of the next one."""
        layout = self._layout
        if isinstance(layout, Layout):
            return attempt()
        return asking_others(attempt, lambda error: layout.client.distrust(descriptor.digest, error))

    def _say(self, done: int) -> None:
        self._done += done
        if self._progress is not None:
            self._progress(ProgressEvent("pull", self._what, self._done, self.size))

    def _verify(self, descriptor: Descriptor, source: BlobSource, what: str, take: Any = None) -> None:
        """All bytes of a blob have the digest that its descriptor says."""
        hasher = hashlib.sha256()
        at, end = source.offset, source.offset + source.size
        while at < end and (piece := os.pread(source.fd, min(_PIECE, end - at), at)):
            hasher.update(piece)
            at += len(piece)
            if take is not None:
                take(piece)
        if hasher.hexdigest() != descriptor.digest.hex:
            raise CorruptError(f"{what}: its bytes have digest sha256:{hasher.hexdigest()}")
        self.read += source.size
