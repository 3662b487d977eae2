"""Packs: chunks one after the other, and their table at the end. Made here, and found again by their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from lazarus._native import frame
from lazarus.errors import CorruptError, FormatError, LimitError
from lazarus.oci.layout import sha256
from lazarus.terms import Descriptor, Digest

if TYPE_CHECKING:
    import numpy

    Array: TypeAlias = numpy.ndarray[Any, numpy.dtype[Any]]

PACK = "application/vnd.lazarus.volume.pack.v1"
CHUNKS_KEY = "vnd.lazarus.volume.pack.chunks"
TABLE_KEY = "vnd.lazarus.volume.pack.table"

#: What a row of a table is.
ROW = [("sha256", "V32"), ("length", "<u4"), ("stored", "<u4")]
ROW_SIZE = 40
MIN_CHUNK, MAX_CHUNK = 2 << 10, 1 << 20  # the last of a file, or before a hole, may be smaller
MAX_PACK_CHUNKS = 1 << 20
MAX_PACK = 128 << 20  # bytes of one: three times what a push makes, of small chunks, and what a pull keeps meanwhile

#: In all packs of an artifact: 1 TiB in pages. A pull has 12 bytes of each in memory at most, so 3 GiB.
MAX_PACKED_CHUNKS = 1 << 28

SIZE = 16 << 20  # stored bytes of a pack; 16 MiB a descriptor of 400 bytes make a manifest of 4 MiB for 160 GiB
#: Of zstd. In pieces of 4 KiB libraries, text and a database shrink to 0.37, 0.33 and 0.33 at 140 to 190 MB/s a core;
#: level 3 makes 0.36, 0.33 and 0.34 of them, level 6 0.36, 0.31 and 0.33 at a third of the speed.
LEVEL = 1
_PENDING = 1 << 16


class Pack(NamedTuple):
    """A pack that is there: its descriptor, and its table (a row for each chunk)."""

    descriptor: Descriptor
    rows: Array


def chunk_count(descriptor: Descriptor, what: str) -> int:
    """How many chunks a pack says that it has."""
    count = descriptor.annotations.get(CHUNKS_KEY, "")
    if descriptor.media_type != PACK or not (count.isascii() and count.isdigit() and len(count) < 9):
        raise FormatError(f"{what}: media type {descriptor.media_type:.100}, {count!r:.20} chunks: not a pack")
    chunks = int(count)
    if not 0 < chunks <= MAX_PACK_CHUNKS:
        raise LimitError(f"{what}: {chunks} chunks, expected 1 to {MAX_PACK_CHUNKS}")
    if ROW_SIZE * chunks > descriptor.size:
        raise FormatError(f"{what}: {descriptor.size} bytes, fewer than the table of its {chunks} chunks")
    return chunks


def read_table(descriptor: Descriptor, part: Callable[[int, int], bytes], what: str) -> Array:
    """The table of a pack, checked against its descriptor; `part(offset, size)` gives bytes of the pack. `what` names
    it in errors. `CorruptError` for other bytes than the descriptor speaks of."""
    import numpy

    size = ROW_SIZE * chunk_count(descriptor, what)
    data = part(descriptor.size - size, size)
    found = sha256(data)
    if found != descriptor.annotations.get(TABLE_KEY):
        raise CorruptError(f"{what}: its table has digest {found}, its descriptor says otherwise")
    rows = numpy.frombuffer(data, numpy.dtype(ROW))
    length, stored = rows["length"], rows["stored"]
    good = (length > 0) & (length <= MAX_CHUNK) & (stored > 0) & (stored <= length)
    if not numpy.all(good) or int(stored.sum(dtype="u8")) != descriptor.size - size:
        raise FormatError(f"{what}: its table speaks of other chunks than it has")
    return rows


class Known:
    """Chunks by digest, each with its number. 16 bytes a chunk beside the digests themselves.

    Looked up by the first 8 bytes of a digest, then compared in full; of two chunks that begin alike only the first is
    found, and the other is sent once more.
    """

    def __init__(self) -> None:
        import numpy

        self._digests = numpy.empty(0, "V32")
        self._keys = numpy.empty(0, "u8")  # sorted
        self._numbers = numpy.empty(0, "u8")  # of the digests that the keys are of
        self._pending: dict[bytes, int] = {}
        self.count = 0

    def add_all(self, digests: Array) -> None:
        """The next numbers, for these digests (V32)."""
        import numpy

        self._digests = numpy.concatenate((self._digests, digests))
        self.count = len(self._digests)
        keys = numpy.ascontiguousarray(self._digests).view("u8").reshape(-1, 4)[:, 0]
        order = numpy.argsort(keys, kind="stable")
        self._keys, self._numbers = keys[order], order.astype("u8")
        self._pending = {}

    def find(self, digests: Array) -> tuple[Array, Array]:
        """The number of each of `digests`, and which are new: those get the next numbers, and are known then."""
        import numpy

        numbers = numpy.zeros(len(digests), "u8")
        found = numpy.zeros(len(digests), bool)
        if len(self._keys):
            keys = numpy.ascontiguousarray(digests).view("u8").reshape(-1, 4)[:, 0]
            at = numpy.minimum(numpy.searchsorted(self._keys, keys), len(self._keys) - 1)
            candidates = self._numbers[at]
            found = self._digests[candidates] == digests
            numbers[found] = candidates[found]
        fresh = []
        pending = self._pending
        where = numpy.flatnonzero(~found)
        for position, digest in zip(where.tolist(), digests[where].tolist(), strict=True):
            number = pending.get(digest)
            if number is None:
                number = pending[digest] = self.count
                self.count += 1
                fresh.append(position)
            numbers[position] = number
        if len(pending) > max(_PENDING, len(self._digests) // 8):
            self.add_all(numpy.frombuffer(b"".join(pending), "V32"))
        return numbers, numpy.array(fresh, "i8")


class PackWriter:
    """Chunks that come are compressed and put in packs; `emit(descriptor, data)` gets each pack that is full.

    Two threads compress, a third one hashes and writes; that has one pack at a time, and another one is filled.
    """

    def __init__(self, emit: Callable[[Descriptor, memoryview], None], size: int = SIZE, level: int = LEVEL) -> None:
        self._emit = emit
        self._size = size
        self._level = level
        self._body = bytearray()
        self._rows: list[bytes] = []
        self._count = 0
        self._pool = ThreadPoolExecutor(2)
        self._thread = ThreadPoolExecutor(1)
        self._waiting: Future[None] | None = None
        self.packs: list[Descriptor] = []

    def add(self, window: memoryview, rows: Array) -> None:
        """Chunks of `window`: rows with offset, length and sha256."""
        import numpy

        if not len(rows):
            return
        half = len(rows) // 2 if len(rows) > 64 else len(rows)
        parts = [part for part in (rows[:half], rows[half:]) if len(part)]
        for part, (data, stored) in zip(parts, self._pool.map(lambda p: self._compress(window, p), parts), strict=True):
            table = numpy.empty(len(part), ROW)
            table["sha256"] = numpy.ascontiguousarray(part["sha256"]).view("V32").reshape(-1)
            table["length"], table["stored"] = part["length"], stored
            self.add_stored(data, table)

    def _compress(self, window: memoryview, rows: Array) -> tuple[memoryview, Array]:
        import numpy

        lengths = rows["length"].astype("u4")
        stored = numpy.empty(len(rows), "u4")
        out = bytearray(int(lengths.sum(dtype="u8")))
        used = frame.compress(window, rows["offset"].astype("u8"), lengths, out, stored, level=self._level)
        return memoryview(out)[:used], stored

    def add_stored(self, data: memoryview, table: Array) -> None:
        """Chunks as they are stored, one after the other, and their rows."""
        import numpy

        ends = table["stored"].cumsum(dtype="u8")
        first = start = 0
        while first < len(table):
            room = max(self._size - len(self._body), 1) + start
            last = min(int(numpy.searchsorted(ends, room)) + 1, first + MAX_PACK_CHUNKS - self._count, len(table))
            end = int(ends[last - 1])
            self._body += data[start:end]
            self._rows.append(table[first:last].tobytes())
            self._count += last - first
            first, start = last, end
            if len(self._body) >= self._size or self._count >= MAX_PACK_CHUNKS:
                self._close()

    def _close(self) -> None:
        """Has the pack hashed and written, while the next one is filled."""
        self._wait()
        self._waiting = self._thread.submit(self._write, self._body, b"".join(self._rows), self._count)
        self._body, self._rows, self._count = bytearray(), [], 0

    def _write(self, body: bytearray, table: bytes, count: int) -> None:
        body += table
        annotations = {CHUNKS_KEY: str(count), TABLE_KEY: str(sha256(table))}
        digest = Digest("sha256:" + hashlib.sha256(body).hexdigest())
        descriptor = Descriptor(PACK, digest, len(body), None, annotations)
        self._emit(descriptor, memoryview(body))
        self.packs.append(descriptor)

    def _wait(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.result()

    def finish(self) -> None:
        """The last pack, if there is anything in it; all are written when this returns."""
        if self._count:
            self._close()
        self._wait()

    def close(self) -> None:
        """Ends its threads."""
        self._pool.shutdown()
        self._thread.shutdown()


def starts(counts: Sequence[int]) -> Array:
    """The number of the first chunk of each pack, and one more: how many there are."""
    import numpy

    return numpy.concatenate((numpy.zeros(1, "u8"), numpy.cumsum(numpy.array(counts, "u8"), dtype="u8")))


def runs(numbers: Array) -> tuple[Array, Array, Array]:
    """First, count and step of each run: numbers that follow one another (step 1), or one that is repeated (step 0).

    A number that is repeated is a run by itself, so there is one way to say it. A run has at most 2^32 - 1.
    """
    import numpy

    if not len(numbers):
        return numpy.empty(0, "u8"), numpy.empty(0, "u4"), numpy.empty(0, "u1")
    heads = numpy.flatnonzero(numpy.concatenate(([True], numpy.diff(numbers) != 0)))
    repeats = numpy.diff(numpy.append(heads, len(numbers)))
    values, alone = numbers[heads], repeats == 1
    begins = numpy.concatenate(([True], ~(alone[1:] & alone[:-1] & (values[1:] == values[:-1] + 1))))
    starts = numpy.flatnonzero(begins)
    count = numpy.add.reduceat(repeats, starts)
    return values[starts], count.astype("u4"), alone[starts].astype("u1")


def batches(rows: Array, wanted: Array, size: int) -> Iterator[Array]:
    """`wanted` (numbers of rows, ascending) in parts of at most about `size` bytes, expanded, and as they are stored
    with all that lies between them."""
    import numpy

    at = 0
    weight = rows["length"][wanted].cumsum(dtype="u8")
    ends = rows["stored"].cumsum(dtype="u8")[wanted]
    while at < len(wanted):
        before = int(weight[at - 1]) if at else 0
        begin = int(ends[at]) - int(rows["stored"][wanted[at]])
        end = int(numpy.searchsorted(weight, before + size, side="right"))
        end = max(min(end, int(numpy.searchsorted(ends, begin + size, side="right"))), at + 1)
        yield wanted[at:end]
        at = end
