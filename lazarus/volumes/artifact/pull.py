"""pull: from an OCI layout, an archive of one or a registry to a new volume."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from lazarus.content import limited
from lazarus.errors import ConflictError, CorruptError, FormatError, LazarusError, LimitError, NotFoundError
from lazarus.oci import media
from lazarus.oci.documents import parse_index
from lazarus.oci.layout import INDEX as LAYOUT_INDEX
from lazarus.oci.layout import ArchiveFiles, BlobSource, Layout, open_layout
from lazarus.oci.layout_writer import REF_NAME
from lazarus.oci.outer_tar import OuterTar
from lazarus.oci.transports import Place
from lazarus.terms import Descriptor, Digest, Progress, ProgressEvent
from lazarus.volumes.artifact import index, manifest, packs
from lazarus.volumes.artifact.index import Tree
from lazarus.volumes.artifact.manifest import VolumeManifest
from lazarus.volumes.artifact.packs import Pack
from lazarus.volumes.artifact.restore import Places, Restore, data_size, places
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
            work = _Pull(store, layout, place, described, progress)
            tree = work.tree(new.lease)
            carried = tree.labels if labels is None else labels
            directory = new.stage(chosen, carried, anonymous=False, size=size, durable=False, fresh=False)
            with limited.at_limit(f"volume {chosen}", size):
                work.make(tree, directory)
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
    ) -> None:
        self._store = store
        self._layout = layout
        self._what = str(place)
        self._described = described
        self._progress = progress
        self.size = self.read = self.entries = self._done = 0

    def tree(self, lease: Lease) -> Tree:
        """What the index says."""
        return index.decode(self._index(lease), f"{self._what}: index")

    def make(self, tree: Tree, directory: str) -> None:
        """The tree, in an empty directory."""
        import numpy

        tables = [Pack(pack, self._table(pack)) for pack in self._described.packs]
        lengths = numpy.concatenate([numpy.empty(0, "<u4"), *(table.rows["length"] for table in tables)])
        self.size, self.entries = data_size(tree, lengths, f"{self._what}: index"), tree.entries
        self._check_room(directory)
        where = places(tree, lengths, f"{self._what}: index")
        root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        restore = Restore(root, tree, self._what, keep_owner=os.geteuid() == 0)
        try:
            restore.make()
            first = 0
            for table in tables:
                self._fill(restore, where, table, first)
                first += len(table.rows)
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
        with (
            self._layout.blob(descriptor, what) as source,
            open(path, "x+b") as packed,
            open(f"{path}.raw", "x+b") as raw,
        ):
            self._verify(descriptor, source, what, packed.write)
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

    def _table(self, pack: Descriptor) -> Array:
        what = f"{self._what}: pack {pack.digest}"
        return packs.read_table(pack, lambda offset, size: self._layout.part(pack, offset, size, what), what)

    def _fill(self, restore: Restore, where: Places, pack: Pack, first: int) -> None:
        name = f"pack {pack.descriptor.digest}"
        with self._layout.blob(pack.descriptor, f"{self._what}: {name}") as source:
            restore.fill(where, pack.rows, source, name, first, self._say)
            self._verify(pack.descriptor, source, f"{self._what}: {name}")

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
        self.read += source.size
        if hasher.hexdigest() != descriptor.digest.hex:
            raise CorruptError(f"{what}: its bytes have digest sha256:{hasher.hexdigest()}")
