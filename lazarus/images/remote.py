"""A registry as a source of images: documents are kept in memory, blobs are streams.

A distant registry seldom fills the line through one connection. So of a large blob the first bytes are asked for by
themselves, and when they come slowly the rest comes in ranges, several at once, put in order again. At most SLOTS of
them are in memory, whatever the number of blobs that are read at once. Where one connection is fast enough, ranges
would only cost: 5.6 s instead of 4.4 s for the 400 MB of an image, on loopback.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from lazarus.errors import CancelledError, CorruptError, LazarusError, LimitError, NotFoundError, UnsupportedError
from lazarus.oci import media
from lazarus.oci.strict_json import MAX_SIZE
from lazarus.oci.writers import write_all
from lazarus.registry.others import asking_others
from lazarus.registry.settings import Repository
from lazarus.union.pipe import through_pipe

if TYPE_CHECKING:
    from lazarus.images.plan import OpenBlob
    from lazarus.oci.references import Reference
    from lazarus.oci.transports import Place
    from lazarus.registry.blob import BlobStream
    from lazarus.registry.client import RegistryClient
    from lazarus.registry.settings import Settings
    from lazarus.terms import Descriptor, Digest

FIRST = 8 << 20  # bytes that say how fast the line is
FAST = 64e6  # bytes a second, with which one connection is enough
RANGE = 4 << 20  # bytes: at 10 MB/s a connection, what a request costs (50 ms and more) is an eighth
CONNECTIONS = 3  # for one blob
SLOTS = 4  # ranges in memory
MAX_DOCUMENTS = 64 << 20  # bytes of manifests, image indexes and configs of one pull: they are all kept
_PIECE = 1 << 20
_Result = TypeVar("_Result")


def tags(place: Place, settings: Settings | None = None) -> Iterator[str]:
    """The tags of a registry's repository, in its order. Raises `NotFoundError`, `RegistryError`."""
    from lazarus.registry.client import RegistryClient

    with RegistryClient(settings) as client:
        yield from client.tags(Repository.of(place.reference))


def delete(place: Place, settings: Settings | None = None) -> Digest:
    """Removes what a tag or digest names from a registry, with all of its tags: the digest of what went. The blobs are
    the registry's to collect. Raises `NotFoundError`, `RegistryError` (many registries do not allow it)."""
    from lazarus.registry.client import RegistryClient

    reference = place.reference
    repository = Repository.of(reference)
    with RegistryClient(settings) as client:
        found = client.has_manifest(repository, reference.digest or reference.tag)
        if found is None:
            raise NotFoundError(f"{place}: no such manifest")
        client.delete_manifest(repository, found.digest)
    return found.digest


class RegistryImages:
    """The repository of a reference. Safe from several threads; `close` stops what is under way."""

    def __init__(self, client: RegistryClient, reference: Reference) -> None:
        self.what = str(reference)
        self.client = client
        self.repository = Repository.of(reference)
        self._documents: dict[Digest, bytes] = {}
        self._held = 0
        self._ranges = _Ranges(client, self.repository)

    def root(self, reference: Reference) -> Descriptor:
        """What the tag or digest of the reference names now."""
        descriptor, data = self.client.resolve(self.repository, reference.digest or reference.tag)
        self._documents[descriptor.digest] = data
        return descriptor

    def read(self, descriptor: Descriptor, what: str, /) -> bytes:
        """A manifest, an image index or a config, checked against size and digest."""
        data = self._documents.get(descriptor.digest)
        if data is None:
            if self._held + descriptor.size > MAX_DOCUMENTS:
                raise LimitError(f"{what}: with it more than {MAX_DOCUMENTS} bytes of manifests and configs")
            data = self._documents[descriptor.digest] = self._fetch(descriptor, what)
            self._held += len(data)
        if len(data) != descriptor.size:
            raise CorruptError(f"{what}: {len(data)} bytes, its descriptor says {descriptor.size}")
        return data

    def _fetch(self, descriptor: Descriptor, what: str) -> bytes:
        if descriptor.media_type in media.MANIFESTS | media.INDEXES:
            return self.client.manifest(self.repository, descriptor)
        if descriptor.size > MAX_SIZE:
            raise LimitError(f"{what}: {descriptor.size} bytes, more than {MAX_SIZE}")
        buffer = bytearray(descriptor.size)

        def fetch() -> bytes:
            with self.client.open_blob(self.repository, descriptor) as stream:
                _fill(stream, memoryview(buffer))
            return bytes(buffer)

        return asking_others(fetch, lambda error: self.client.distrust(descriptor.digest, error))

    def blob(self, descriptor: Descriptor, what: str, /) -> RemoteBlob:
        """A blob, of which nothing is read yet."""
        return RemoteBlob(self._ranges, descriptor)

    def close(self) -> None:
        """Idempotent."""
        self._ranges.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def ask_others(blob: OpenBlob, error: LazarusError) -> bool:
    """After bytes that are not the blob's: is there anybody who has not sent any of them? Closes it."""
    with blob:
        return isinstance(blob, RemoteBlob) and blob.distrust(error)


class RemoteBlob:
    """One blob of a registry, to be read once. Its digest is for the reader to check."""

    def __init__(self, ranges: _Ranges, descriptor: Descriptor) -> None:
        self.size = descriptor.size
        self._ranges = ranges
        self._descriptor = descriptor

    def open(self, offset: int, size: int, /) -> BlobStream:
        """Some of it; whoever asks checks what it is. Raises `UnsupportedError` when the registry sends no parts."""
        return self._ranges.open(self._descriptor, offset, size)

    def distrust(self, error: LazarusError) -> bool:
        """What came was not the blob: see `RegistryClient.distrust`."""
        return self._ranges.distrust(self._descriptor, error)

    def read_by(self, read: Callable[[int, int | None], _Result], /) -> _Result:
        """What `read(fd, None)` returns, with `fd` the end of a pipe."""
        return through_pipe(self._feed, lambda fd: read(fd, None))

    def pieces(self) -> Iterator[memoryview]:
        """One after the other; each is done with when the next one is asked for."""
        given = 0
        try:
            with closing(self._by_speed()) as pieces:
                for piece in pieces:
                    yield piece
                    given += len(piece)
        except UnsupportedError:  # a registry that sends no parts, or some of whose servers do not
            yield from self._stream(given, None)

    def _by_speed(self) -> Generator[memoryview, None, None]:
        begin = 0
        if self.size > FIRST + 2 * RANGE:
            begin, seconds = yield from self._stream(0, FIRST)
            if begin < FAST * seconds:
                yield from self._ranges.pieces(self._descriptor, begin)
                return
        yield from self._stream(begin, None)

    def _stream(self, offset: int, size: int | None) -> Generator[memoryview, None, tuple[int, float]]:
        """Some of it by one connection; how many bytes came, and the seconds that they were waited for."""
        buffer = memoryview(bytearray(min(_PIECE, max(self.size, 1))))
        begin = time.monotonic()
        done, seconds = 0, 0.0
        with self._ranges.open(self._descriptor, offset, size) as stream:
            while count := stream.readinto(buffer):
                seconds += time.monotonic() - begin
                done += count
                yield buffer[:count]
                begin = time.monotonic()
        return done, seconds

    def _feed(self, fd: int) -> None:
        for piece in self.pieces():
            write_all(fd, piece)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        pass


class _Ranges:
    """Ranges of the blobs of one repository, fetched ahead."""

    def __init__(self, client: RegistryClient, repository: Repository) -> None:
        self._client = client
        self._repository = repository
        self._free = threading.Semaphore(SLOTS)
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def open(self, descriptor: Descriptor, offset: int = 0, size: int | None = None) -> BlobStream:
        """Whoever reads it checks the digest."""
        return self._client.open_blob(self._repository, descriptor, offset=offset, size=size, verify=False)

    def distrust(self, descriptor: Descriptor, error: LazarusError) -> bool:
        return self._client.distrust(descriptor.digest, error)

    def pieces(self, descriptor: Descriptor, at: int) -> Generator[memoryview, None, None]:
        """A blob from byte `at` on, in order.

        Who has no range waits for a slot, who has some never does: so everybody goes on.
        """
        stop = threading.Event()
        pending: deque[Future[memoryview]] = deque()
        try:
            while True:
                while at < descriptor.size and len(pending) < CONNECTIONS and self._free.acquire(blocking=not pending):
                    size = min(RANGE, descriptor.size - at)
                    pending.append(self._start(descriptor, at, size, stop))
                    at += size
                if not pending:
                    return
                yield pending[0].result()
                pending.popleft()
                self._free.release()
        finally:
            stop.set()
            wait([future for future in pending if not future.cancel()])
            for _ in pending:
                self._free.release()

    def _start(self, descriptor: Descriptor, at: int, size: int, stop: threading.Event) -> Future[memoryview]:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(SLOTS, thread_name_prefix="range")
            return self._pool.submit(self._range, descriptor, at, size, stop)

    def _range(self, descriptor: Descriptor, at: int, size: int, stop: threading.Event) -> memoryview:
        buffer = memoryview(bytearray(size))
        with self.open(descriptor, at, size) as stream:
            _fill(stream, buffer, stop)
        return buffer

    def close(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _fill(stream: BlobStream, buffer: memoryview, stop: threading.Event | None = None) -> None:
    done = 0
    while done < len(buffer):
        if stop is not None and stop.is_set():
            raise CancelledError("cancelled")
        count = stream.readinto(buffer[done : done + _PIECE])
        if count <= 0:
            raise CorruptError(f"a blob ends after {done} of {len(buffer)} bytes")
        done += count
