"""push: a directory to an OCI layout, an archive of one, or a registry."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from lazarus.errors import LazarusError, LimitError
from lazarus.oci import media
from lazarus.oci.layout import INDEX as LAYOUT_INDEX
from lazarus.oci.layout import MARKER, VERSION, sha256
from lazarus.oci.layout_writer import REF_NAME, LayoutDirectory
from lazarus.oci.transports import Place
from lazarus.oci.writers import ArchiveWriter, put
from lazarus.terms import Descriptor, Digest, Progress, ProgressEvent
from lazarus.volumes.artifact import index, manifest, packs
from lazarus.volumes.artifact.packs import Known, Pack, PackWriter
from lazarus.volumes.artifact.scan import Cutter, Scan, Scanned
from lazarus.whole_file import whole_file

if TYPE_CHECKING:
    import numpy

    from lazarus.registry.settings import Settings

    Array: TypeAlias = numpy.ndarray[Any, numpy.dtype[Any]]

_USED = 4  # a pack of which less than one part in so many is used is not named again
_CROWD = 32  # packs of about one size, when they are small
_INDEX_LEVEL = 9
_COPY = 8 << 20
log = logging.getLogger(__name__)


class Pushed(NamedTuple):
    """What a push did. Bytes: `size` of all files (without holes), `new` in chunks that were not there, `sent` in blobs
    that were written."""

    digest: Digest
    size: int
    new: int
    sent: int
    entries: int
    chunks: int
    packs: int
    skipped: tuple[bytes, ...]


class _Destination(Protocol):
    @property
    def sent(self) -> int: ...
    def packs(self) -> list[Pack]: ...
    def open(self, pack: Pack) -> Any: ...
    def add(self, descriptor: Descriptor, data: bytes | memoryview) -> None: ...
    def publish(self, descriptor: Descriptor) -> None: ...


class _ToDirectory:
    """A layout, with the packs that artifacts in it have."""

    def __init__(self, layout: LayoutDirectory, tag: str) -> None:
        self._layout = layout
        self._tag = tag
        self.sent = 0

    def packs(self) -> list[Pack]:
        """Those that are whole as far as their size and table tell; others are not used again.

        The latest come first, for a chunk is looked for in this order: one that was taken out of an old pack is found
        where it went, and not taken out again because another tag still has the old pack.
        """
        found: dict[Digest, Pack] = {}
        for entry in reversed(self._layout.index().manifests):
            if entry.media_type != media.OCI_MANIFEST:
                continue
            what = f"manifest {entry.digest}"
            try:
                data = self._layout.layout.read(entry, what)
                mine = manifest.read(data, entry.media_type, what).packs if manifest.is_volume(data, what) else ()
            except (LazarusError, OSError):
                continue  # somebody else's, or damaged: it has nothing to give
            for pack in mine:
                if pack.digest in found:
                    continue
                try:
                    found[pack.digest] = Pack(pack, self._table(pack))
                except (LazarusError, OSError):
                    continue
        return list(found.values())

    def _table(self, pack: Descriptor) -> Array:
        what, layout = f"pack {pack.digest}", self._layout.layout
        return packs.read_table(pack, lambda offset, size: layout.part(pack, offset, size, what), what)

    def open(self, pack: Pack) -> Any:
        return self._layout.layout.blob(pack.descriptor, f"pack {pack.descriptor.digest}")

    def add(self, descriptor: Descriptor, data: bytes | memoryview) -> None:
        self._layout.add(descriptor, data)
        self.sent += descriptor.size

    def publish(self, descriptor: Descriptor) -> None:
        self._layout.publish(descriptor, self._tag, manifest.ARTIFACT)


class _ToArchive:
    """An archive, in which nothing is yet."""

    def __init__(self, fd: int, tag: str) -> None:
        self._writer = ArchiveWriter(fd)
        self._tag = tag
        self._there: set[Digest] = set()
        self.sent = 0
        put(self._writer, MARKER, b'{"imageLayoutVersion":"' + VERSION.encode() + b'"}')
        self._writer.directory("blobs")
        self._writer.directory("blobs/sha256")

    def packs(self) -> list[Pack]:
        return []

    def open(self, pack: Pack) -> Any:
        raise AssertionError

    def add(self, descriptor: Descriptor, data: bytes | memoryview) -> None:
        if descriptor.digest not in self._there:
            from lazarus.oci.writers import write_all

            self._there.add(descriptor.digest)
            self._writer.file(f"blobs/sha256/{descriptor.digest.hex}", descriptor.size, lambda fd: write_all(fd, data))
            self.sent += descriptor.size

    def publish(self, descriptor: Descriptor) -> None:
        from lazarus.oci.documents import descriptor_json
        from lazarus.oci.strict_json import dumps

        entry = descriptor_json(descriptor._replace(annotations={REF_NAME: self._tag} if self._tag else {}))
        document = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [entry]}
        entry["artifactType"] = manifest.ARTIFACT
        put(self._writer, LAYOUT_INDEX, dumps(document))
        self._writer.finish()


def push(
    root: int,
    place: Place,
    *,
    name: str = "",
    labels: Mapping[str, str],
    registry: Settings | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """Pushes the directory open as `root`. See `Volume.push`."""
    with ExitStack() as closing:
        destination: _Destination
        if place.kind == "docker":
            from lazarus.registry.client import RegistryClient
            from lazarus.volumes.artifact.registry import ToRegistry

            destination = ToRegistry(closing.enter_context(RegistryClient(registry, warn=log.warning)), place)
        elif place.kind == "oci":
            destination = _ToDirectory(closing.enter_context(LayoutDirectory(place.path)), place.tag)
        else:
            destination = _ToArchive(closing.enter_context(whole_file(place.path)), place.tag)
        return _Push(destination, name, labels, progress).run(root)
    raise AssertionError


class _Push:
    def __init__(
        self, destination: _Destination, name: str, labels: Mapping[str, str], progress: Progress | None
    ) -> None:
        self._to = destination
        self._name = name
        self._labels = labels
        self._progress = progress
        self._old = destination.packs()
        self._known = Known()
        self._new = 0

    def run(self, root: int) -> Pushed:
        import numpy

        if self._old:
            self._known.add_all(numpy.concatenate([pack.rows["sha256"] for pack in self._old]))
        writer = PackWriter(self._to.add)
        cutter = Cutter(lambda window, rows: self._take(writer, window, rows))
        try:
            scanned = Scan(root, cutter, self._say).run()
            numbers, kept = self._settle(writer, scanned.numbers)
        finally:
            cutter.close()
            writer.close()
        return self._publish(scanned, numbers, [*(pack.descriptor for pack in kept), *writer.packs])

    def _say(self, done: int) -> None:
        if self._progress is not None:
            self._progress(ProgressEvent("push", self._name, done, 0))

    def _take(self, writer: PackWriter, window: memoryview, rows: Array) -> Array:
        """A number for each chunk; those that are in no pack go into one."""
        import numpy

        digests = numpy.ascontiguousarray(rows["sha256"]).view("V32").reshape(-1)
        numbers, fresh = self._known.find(digests)
        self._new += int(rows["length"][fresh].sum(dtype="u8"))
        writer.add(window, rows[fresh])
        return numbers

    def _settle(self, writer: PackWriter, numbers: Array) -> tuple[Array, list[Pack]]:
        """Takes what is used out of old packs that do not stay: the numbers as they are then, and packs that stay."""
        import numpy

        counts = [len(pack.rows) for pack in self._old]
        first = packs.starts(counts)
        known = int(first[-1])
        used = numpy.zeros(known, bool)
        used[numbers[numbers < known].astype("i8")] = True
        kept: list[Pack] = []
        final = numpy.zeros(known, "u8")  # of the old chunks
        moved: list[tuple[Pack, Array, int]] = []
        at = 0
        mine = [used[begin : begin + count] for begin, count in zip(first[:-1].tolist(), counts, strict=True)]
        stays = _stay(self._old, mine)
        for pack, chosen, begin, stay in zip(self._old, mine, first[:-1].tolist(), stays, strict=True):
            if stay:
                kept.append(pack)
                final[begin : begin + len(pack.rows)] = numpy.arange(at, at + len(pack.rows))
                at += len(pack.rows)
            elif chosen.any():
                moved.append((pack, numpy.flatnonzero(chosen), begin))
        # new chunks follow, then those that move, in the order in which they are written
        fresh = self._known.count - known
        after = at + fresh
        for pack, which, begin in moved:
            final[begin + which] = numpy.arange(after, after + len(which))
            after += len(which)
            self._move(writer, pack, which)
        writer.finish()
        new = numbers >= known
        result = numpy.where(new, numbers - known + at, 0)
        result[~new] = final[numbers[~new].astype("i8")]
        return result, kept

    def _move(self, writer: PackWriter, pack: Pack, chosen: Array) -> None:
        """Chunks of an old pack into a new one, as they are stored; each is checked on the way."""
        import numpy

        from lazarus._native import frame
        from lazarus.errors import CorruptError

        ends = numpy.cumsum(pack.rows["stored"], dtype="u8")
        with self._to.open(pack) as source:
            for part in packs.batches(pack.rows, chosen, _COPY):
                rows = pack.rows[part]
                data = bytearray()
                for end, size in zip(ends[part].tolist(), rows["stored"].tolist(), strict=True):
                    data += os.pread(source.fd, size, source.offset + end - size)
                stored = numpy.ascontiguousarray(rows["stored"])
                lengths = numpy.ascontiguousarray(rows["length"])
                if len(data) != int(stored.sum(dtype="u8")):
                    raise CorruptError(f"pack {pack.descriptor.digest}: ends before its chunks")
                offsets = numpy.cumsum(stored, dtype="u8") - stored
                digests = numpy.ascontiguousarray(rows["sha256"]).view("u1")
                out = bytearray(int(lengths.sum(dtype="u8")))
                bad = frame.expand(data, offsets, stored, lengths, digests, out)
                if bad >= 0:
                    number = int(part[bad])
                    raise CorruptError(f"pack {pack.descriptor.digest}: chunk {number} is not what its table says")
                writer.add_stored(memoryview(data), rows)

    def _publish(self, scanned: Scanned, numbers: Array, used: list[Descriptor]) -> Pushed:
        tree = scanned.tree(*packs.runs(numbers), self._labels)
        raw = index.encode(tree)
        data = compress(raw)
        if len(raw) > index.most_bytes(len(data)):
            raise LimitError(f"volume {self._name}: an index of {len(raw)} bytes, more than a pull would read")
        described = Descriptor(manifest.INDEX, sha256(data), len(data))
        annotations = {manifest.TITLE: self._name} if self._name else {}
        descriptor, document = manifest.write(described, used, annotations)
        self._to.add(manifest.EMPTY, manifest.EMPTY_BYTES)
        self._to.add(described, data)
        self._to.add(descriptor, document)
        self._to.publish(descriptor)
        for path in scanned.skipped:
            log.warning("%s: a socket, which is left out", os.fsdecode(path))
        return Pushed(
            descriptor.digest,
            scanned.size,
            self._new,
            self._to.sent,
            tree.entries,
            len(numbers),
            len(used),
            scanned.skipped,
        )


def _stay(old: Sequence[Pack], used: Sequence[Array]) -> list[bool]:
    """Which packs stay as they are, with which of their chunks are used.

    Not those of which little is used. And of small ones of about one size (within a factor of four) no more than
    _CROWD: when there are more, all of them go into larger ones, so that a thousand small pushes leave few packs, and
    a chunk is sent again a few times at most.
    """
    sizes = [pack.descriptor.size - packs.ROW_SIZE * len(pack.rows) for pack in old]
    stored = [int(pack.rows["stored"][mine].sum(dtype="u8")) for pack, mine in zip(old, used, strict=True)]
    stays = [live * _USED >= size for live, size in zip(stored, sizes, strict=True)]
    classes = [size.bit_length() // 2 if size < packs.SIZE // 2 else -1 for size in sizes]
    crowds = Counter(number for number, stay in zip(classes, stays, strict=True) if stay)
    return [stay and (number < 0 or crowds[number] <= _CROWD) for number, stay in zip(classes, stays, strict=True)]


def compress(data: bytes) -> bytes:
    """As zstd."""
    from lazarus._native.stream import compress as compress_file

    with open(os.memfd_create("index"), "r+b") as source, open(os.memfd_create("packed"), "r+b") as out:
        source.write(data)
        source.flush()
        source.seek(0)
        compress_file(source.fileno(), out.fileno(), "zstd", _INDEX_LEVEL)
        out.seek(0)
        return out.read()
