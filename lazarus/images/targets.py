"""Where images are written: a registry, a layout, an archive, a directory. Blobs come in pieces, and in any order, from
several threads; what they belong to is named last, so that nobody sees it before it is whole.

    with open_target(place, ...) as target:
        target.has(layer) or target.send(layer, pieces)      # pieces() begins anew each time it is called
        digest, size = target.send_new(pieces)               # what compresses on its way, of unknown digest
        target.add_manifest(manifest, data)                  # below an image index
        target.finish(root, data)
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

from lazarus.errors import CancelledError, CorruptError, LazarusError, UnsupportedError
from lazarus.oci import dir_image
from lazarus.oci.documents import descriptor_json
from lazarus.oci.layout import INDEX, MARKER, VERSION
from lazarus.oci.layout_writer import REF_NAME, LayoutDirectory
from lazarus.oci.strict_json import dumps
from lazarus.oci.writers import ArchiveWriter, copy_hashed, put, write_hashed
from lazarus.terms import Descriptor, Digest, Progress, ProgressEvent
from lazarus.whole_directory import whole_directory
from lazarus.whole_file import whole_file

if TYPE_CHECKING:
    from lazarus.oci.transports import Place
    from lazarus.registry.client import RegistryClient
    from lazarus.registry.settings import Repository

Pieces = Callable[[], Iterable[bytes | memoryview]]
_MOUNTS = 4  # repositories that are asked for a blob
_COPY = 1 << 20
_OFTEN = 0.1  # seconds
log = logging.getLogger(__name__)


class Target(Protocol):
    """See the module. Errors of a blob whose bytes are not its digest's are `CorruptError`, whoever finds them.
    `repeats`: after that the blob may be sent once more."""

    @property
    def repeats(self) -> bool: ...

    def has(self, descriptor: Descriptor, sources: Callable[[], list[Repository]] | None = None) -> bool:
        """Is the blob there? A registry may take it out of another repository of its own: one of `sources`."""

    def send(self, descriptor: Descriptor, pieces: Pieces) -> None: ...
    def send_new(self, pieces: Pieces) -> tuple[Digest, int]: ...
    def add_manifest(self, descriptor: Descriptor, data: bytes) -> None: ...
    def finish(self, root: Descriptor, data: bytes) -> None: ...


@contextmanager
def open_target(place: Place, client: RegistryClient | None = None) -> Iterator[Target]:
    """What is written to a place; `client` for a registry. An archive has its name once `finish` was called and the
    `with` is over; so has the directory of `dir:`."""
    with ExitStack() as closing:
        if place.kind == "docker":
            assert client is not None
            yield _ToRegistry(client, place)
        elif place.kind == "oci":
            yield _ToLayout(closing.enter_context(LayoutDirectory(place.path)), place.tag)
        elif place.kind == "oci-archive":
            yield _ToArchive(closing.enter_context(whole_file(place.path)), place)
        elif place.kind == "dir":
            yield _ToDirectory(closing.enter_context(whole_directory(place.path)))
        else:
            raise UnsupportedError(f"{place}: {place.kind}: is not written here")


def check_expected(place: Place, root: Descriptor) -> None:
    """Before anything is sent: `CorruptError` when the place is a name by digest, of something else."""
    if place.kind == "docker" and place.reference.digest not in (None, root.digest):
        raise CorruptError(f"{place}: the manifest has digest {root.digest}")


class _ToRegistry:
    repeats = True

    def __init__(self, client: RegistryClient, place: Place) -> None:
        from lazarus.registry.settings import Repository

        self._client = client
        self._reference = place.reference
        self._repository = Repository.of(self._reference)

    def has(self, descriptor: Descriptor, sources: Callable[[], list[Repository]] | None = None) -> bool:
        if self._client.has_blob(self._repository, descriptor.digest):
            return True
        near = [source for source in sources() if source.host == self._repository.host] if sources is not None else []
        near = [source for source in near if source != self._repository][:_MOUNTS]
        return any(self._mounts(descriptor.digest, source) for source in near)

    def _mounts(self, digest: Digest, source: Repository) -> bool:
        """We may be somebody there who must not read the source, or not be told of it: then the blob is sent."""
        try:
            return self._client.mount_blob(self._repository, digest, source)
        except CancelledError:
            raise
        except LazarusError as error:
            log.info("%s; it is sent", error)
            return False

    def send(self, descriptor: Descriptor, pieces: Pieces) -> None:
        def checked() -> Iterator[bytes | memoryview]:
            return _checked(descriptor.digest, pieces())

        self._client.upload_blob(self._repository, descriptor, checked(), rewind=checked)

    def send_new(self, pieces: Pieces) -> tuple[Digest, int]:
        size = 0

        def counted() -> Iterator[bytes | memoryview]:
            nonlocal size
            size = 0
            for piece in pieces():
                size += len(piece)
                yield piece

        digest = self._client.upload_blob(self._repository, None, counted(), rewind=counted)
        return digest, size

    def add_manifest(self, descriptor: Descriptor, data: bytes) -> None:
        self._client.put_manifest(self._repository, descriptor.digest, descriptor.media_type, data)

    def finish(self, root: Descriptor, data: bytes) -> None:
        name = self._reference.digest or self._reference.tag
        self._client.put_manifest(self._repository, name, root.media_type, data)


class _ToLayout:
    """An image layout that others may read meanwhile."""

    repeats = True

    def __init__(self, layout: LayoutDirectory, tag: str) -> None:
        self._layout = layout
        self._tag = tag

    def has(self, descriptor: Descriptor, sources: object = None) -> bool:
        return self._layout.has(descriptor)

    def send(self, descriptor: Descriptor, pieces: Pieces) -> None:
        self._layout.add_pieces(descriptor.digest, pieces())

    def send_new(self, pieces: Pieces) -> tuple[Digest, int]:
        return self._layout.add_pieces(None, pieces())

    def add_manifest(self, descriptor: Descriptor, data: bytes) -> None:
        self._layout.add(descriptor, data)

    def finish(self, root: Descriptor, data: bytes) -> None:
        self._layout.add(root, data)
        self._layout.publish(root, self._tag)


class _ToArchive:
    """An archive of a layout, one member after the other."""

    repeats = False  # what is written of it stays written

    def __init__(self, fd: int, place: Place) -> None:
        self._writer = ArchiveWriter(fd)
        self._place = place
        self._there: set[Digest] = set()
        self._lock = threading.Lock()
        put(self._writer, MARKER, b'{"imageLayoutVersion":"' + VERSION.encode() + b'"}')
        self._writer.directory("blobs")
        self._writer.directory("blobs/sha256")

    def has(self, descriptor: Descriptor, sources: object = None) -> bool:
        return descriptor.digest in self._there

    def send(self, descriptor: Descriptor, pieces: Pieces) -> None:
        def produce(fd: int) -> int:
            found, size = copy_hashed(fd, pieces())
            if found != descriptor.digest:
                raise CorruptError(f"blob {descriptor.digest}: its bytes have digest {found}")
            return size

        with self._lock:
            if descriptor.digest not in self._there:
                self._writer.file(f"blobs/sha256/{descriptor.digest.hex}", descriptor.size, produce)
                self._there.add(descriptor.digest)

    def send_new(self, pieces: Pieces) -> tuple[Digest, int]:
        """Beside the archive first: a member's header says its name and size."""
        directory = os.path.dirname(os.path.realpath(self._place.path))
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            digest, size = copy_hashed(file.fileno(), pieces())
            self.send(Descriptor("", digest, size), lambda: file_pieces(file.fileno()))
        return digest, size

    def add_manifest(self, descriptor: Descriptor, data: bytes) -> None:
        self.send(descriptor, lambda: (data,))

    def finish(self, root: Descriptor, data: bytes) -> None:
        self.add_manifest(root, data)
        tag = {REF_NAME: self._place.tag} if self._place.tag else {}
        entry = descriptor_json(root._replace(annotations=tag))
        index = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        }
        put(self._writer, INDEX, dumps(index))
        self._writer.finish()


class _ToDirectory:
    """skopeo's `dir:`."""

    repeats = True

    def __init__(self, path: str) -> None:
        self._path = path

    def has(self, descriptor: Descriptor, sources: object = None) -> bool:
        return os.path.lexists(f"{self._path}/{descriptor.digest.hex}")

    def send(self, descriptor: Descriptor, pieces: Pieces) -> None:
        self._put(descriptor.digest.hex, descriptor.digest, pieces)

    def send_new(self, pieces: Pieces) -> tuple[Digest, int]:
        return self._put("", None, pieces)

    def _put(self, name: str, digest: Digest | None, pieces: Pieces) -> tuple[Digest, int]:
        temporary = f"{self._path}/{os.urandom(8).hex()}.partial"
        found, size = write_hashed(temporary, digest, pieces())
        os.rename(temporary, f"{self._path}/{name or found.hex}")
        return found, size

    def add_manifest(self, descriptor: Descriptor, data: bytes) -> None:
        self._put(f"{descriptor.digest.hex}.manifest.json", descriptor.digest, lambda: (data,))

    def finish(self, root: Descriptor, data: bytes) -> None:
        self._put(dir_image.VERSION, None, lambda: (dir_image.VERSION_TEXT,))
        self._put(dir_image.MANIFEST, root.digest, lambda: (data,))


def _checked(digest: Digest, pieces: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The same pieces; at the end `CorruptError` when their digest is another one."""
    import hashlib

    hasher = hashlib.sha256()
    for piece in pieces:
        hasher.update(piece)
        yield piece
    if hasher.hexdigest() != digest.hex:
        raise CorruptError(f"blob {digest}: its bytes have digest sha256:{hasher.hexdigest()}")


def watched(pieces: Pieces, action: str, name: str, total: int, progress: Progress | None) -> Pieces:
    """Says how far it is, ten times a second."""
    if progress is None:
        return pieces

    def said() -> Iterator[bytes | memoryview]:
        done, last = 0, 0.0
        for piece in pieces():
            yield piece
            done += len(piece)
            now = time.monotonic()
            if now - last >= _OFTEN:
                last = now
                progress(ProgressEvent(action, name, done, total))

    return said


def file_pieces(fd: int) -> Iterator[bytes]:
    """All of a file, in pieces."""
    at = 0
    while piece := os.pread(fd, _COPY, at):
        at += len(piece)
        yield piece
