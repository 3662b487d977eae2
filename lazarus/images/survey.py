"""Every content of some layers, read once, cut in many ways, and the different chunks counted (for dedup.py).

Threads take contents from one list, those of large files first: a batch of small ones, or one large file, which is read
through a window. Each cuts what it has read for every size and kind, and hands over digests and lengths as numpy rows.
Of those the different ones are told from the rest now and then, so memory is a matter of how many are different: 20
bytes each, and as much again three times over while they are sorted; and of the windows, one a thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy

from lazarus._native.chunk import ROW_FIELDS, XXH3, Chunker
from lazarus._native.entry import ENTRY_FIELDS
from lazarus.errors import CorruptError
from lazarus.terms import Digest, Progress, ProgressEvent

if TYPE_CHECKING:
    from lazarus.layers.layer import Layer

    Rows = numpy.ndarray[Any, numpy.dtype[Any]]

Kind = tuple[str, int]  # "chunk" or "block", and its size

_FILE, _INLINE = 2, 4  # enum lz_kind, enum lz_flag
_CONTENT = numpy.dtype([("digest", "u1", 32), ("size", "<u8"), ("offset", "<u8"), ("layer", "<u4"), ("inline", "?")])
_ROW = numpy.dtype(list(ROW_FIELDS))
_WINDOW = 8 << 20  # bytes that a thread reads before it cuts them
_BATCH = 1024  # small files in it, at most
_MERGE = 1 << 20  # rows that are gathered before they are looked at


class LayerFiles:
    """The regular files of a layer that are not empty: how many contents (`count`), and how many `bytes`. Somebody else
    keeps its objects where they are."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        with layer.index() as index:
            self.inline = index.inline_buffer
            entries = numpy.frombuffer(index.entries_buffer, numpy.dtype(list(ENTRY_FIELDS)))
        first = entries["link"] == numpy.arange(len(entries))  # of its hard links
        self._files = entries[(entries["kind"] == _FILE) & (entries["size"] > 0) & first]
        self.count = len(self._files)
        self.bytes = int(self._files["size"].sum())

    def contents(self, number: int) -> Rows:
        """Where each content is; this layer is the one of that number."""
        rows = numpy.empty(self.count, _CONTENT)
        rows["digest"], rows["size"], rows["layer"] = self._files["digest"], self._files["size"], number
        rows["offset"], rows["inline"] = self._files["data_offset"], (self._files["flags"] & _INLINE) != 0
        return rows


def different(layers: Sequence[LayerFiles]) -> Rows:
    """The contents of these layers, each once."""
    none = numpy.empty(0, _CONTENT)
    rows = numpy.concatenate([none, *(layer.contents(number) for number, layer in enumerate(layers))])
    return rows[_first_of_each(numpy.ascontiguousarray(rows["digest"]).view("<u8"))]


def _first_of_each(words: Rows) -> Rows:
    """The numbers of rows (of 64-bit words) such that each different one is there once."""
    order = numpy.argsort(words[:, 0])
    equal = _equal_to_the_next(words[order])
    if (words[order[1:], 0] == words[order[:-1], 0])[~equal].any():  # equal in their first word, and not in the others
        order = numpy.lexsort(words.T)
        equal = _equal_to_the_next(words[order])
    keep = numpy.ones(len(order), bool)
    keep[1:] = ~equal
    found: Rows = order[keep]
    return found


def _equal_to_the_next(words: Rows) -> Rows:
    equal: Rows = (words[1:] == words[:-1]).all(axis=1)
    return equal


class Counted:
    """Chunks of one kind: how many there were, and how many are different. Safe from several threads."""

    def __init__(self) -> None:
        self.uses = 0
        self.whole = 0  # files that are one chunk
        self._lock = threading.Lock()
        self._words = [numpy.empty((0, 2), numpy.uint64)]
        self._lengths = [numpy.empty(0, numpy.uint32)]
        self._waiting = 0

    def add(self, rows: Rows, whole: int) -> None:
        """Rows of a Chunker; `whole` of them are all of their file."""
        words = numpy.ascontiguousarray(rows["xxh3"]).view("<u8")
        lengths = rows["length"].astype(numpy.uint32)  # at most 64 MiB: see LARGEST
        with self._lock:
            self.uses += len(rows)
            self.whole += whole
            self._words.append(words)
            self._lengths.append(lengths)
            self._waiting += len(rows)
            if self._waiting > max(_MERGE, len(self._lengths[0])):
                self._merge()

    def _merge(self) -> None:
        words, lengths = numpy.concatenate(self._words), numpy.concatenate(self._lengths)
        self._words, self._lengths, self._waiting = [], [], 0
        first = _first_of_each(words)
        self._words, self._lengths = [words[first]], [lengths[first]]

    def result(self) -> tuple[int, int]:
        """How many different ones, and their bytes."""
        with self._lock:
            self._merge()
            return len(self._lengths[0]), int(self._lengths[0].sum(dtype=numpy.uint64))


def kinds(sizes: Sequence[int], key: bytes | None) -> dict[Kind, Chunker]:
    """A chunker for each size, and one for blocks of it; limits of a chunk as in `lazarus.chunks.cut`."""
    chunks = {("chunk", size): Chunker(size // 4, size, size * 4, key) for size in sizes}
    return chunks | {("block", size): Chunker(size, size, size) for size in sizes}


class _Work(NamedTuple):
    """Contents that one thread reads in one go, all inline ones of a layer or all objects."""

    contents: Rows
    inline: bool


class Survey:
    """Contents, read once and cut by all chunkers; after `run()` the result is in `counts`."""

    def __init__(
        self, layers: Sequence[LayerFiles], contents: Rows, chunkers: Mapping[Kind, Chunker], progress: Progress | None
    ) -> None:
        self.counts = {kind: Counted() for kind in chunkers}
        self._layers = layers
        self._chunkers = chunkers
        self._window = _WINDOW + max(4 * size for _, size in chunkers) if chunkers else 0
        self._work = _shares(contents)
        self._lock = threading.Lock()
        self._stopped = False
        self._progress = progress
        self._done, self._total = 0, int(contents["size"].sum())

    def run(self, threads: int) -> None:
        """`CorruptError` for an object that is missing, or not of its size; OSError. An interrupt waits for no more
        than the windows that are being cut."""
        with ThreadPoolExecutor(threads) as pool:
            running = [pool.submit(self._take) for _ in range(threads if self._chunkers else 0)]
            try:
                for one in running:
                    one.result()
            finally:
                self._stopped = True

    def _take(self) -> None:
        try:
            window = memoryview(bytearray(self._window))
            while not self._stopped:
                with self._lock:
                    work = next(self._work, None)
                if work is None:
                    return
                if work.inline:
                    self._inline(work.contents)
                elif len(work.contents) == 1 and int(work.contents["size"][0]) > _WINDOW:
                    self._large(work.contents[0], window)
                else:
                    self._small(work.contents, window)
        except BaseException:
            self._stopped = True
            raise

    def _tell(self, count: int) -> None:
        if self._progress is not None:
            with self._lock:
                self._done += count
                self._progress(ProgressEvent("read", "contents", self._done, self._total))

    # -- one thread's work --

    def _inline(self, contents: Rows) -> None:
        self._pieces(self._layers[contents["layer"][0]].inline, contents["offset"], contents["size"])

    def _small(self, contents: Rows, window: memoryview) -> None:
        """One after the other into the window."""
        ends = numpy.cumsum(contents["size"])
        begins = ends - contents["size"]
        for content, begin, end in zip(contents, begins.tolist(), ends.tolist(), strict=True):
            fd = self._open(content)
            try:
                self._read(fd, window[begin:end], 0, content)
            finally:
                os.close(fd)
        self._pieces(window, begins, contents["size"])

    def _pieces(self, data: memoryview, offsets: Rows, sizes: Rows) -> None:
        pieces = numpy.stack([offsets, sizes], axis=1)
        for kind, chunker in self._chunkers.items():
            rows = numpy.frombuffer(chunker.cut_pieces(data, pieces, digests=XXH3), _ROW)
            first = rows[numpy.searchsorted(rows["offset"], offsets)]
            self.counts[kind].add(rows, int((first["length"] == sizes).sum()))
        self._tell(int(sizes.sum()))

    def _large(self, content: Rows, window: memoryview) -> None:
        """Through the window; what a chunker leaves at its end is still there the next time."""
        size = int(content["size"])
        done = dict.fromkeys(self._chunkers, 0)  # bytes of the file that have been cut
        begin = end = 0  # the part of it that is in the window
        fd = self._open(content)
        try:
            while end < size and not self._stopped:
                more = min(size - end, len(window) - (end - begin))
                self._read(fd, window[end - begin : end - begin + more], end, content)
                end += more
                for kind, chunker in self._chunkers.items():
                    part = window[done[kind] - begin : end - begin]
                    covered, found = chunker.cut(part, base=done[kind], last=end == size, digests=XXH3)
                    rows = numpy.frombuffer(found, _ROW)
                    self.counts[kind].add(rows, int(covered == size and len(rows) == 1))
                    done[kind] += covered
                keep = min(done.values())
                window[: end - keep] = window[keep - begin : end - begin]
                begin = keep
                self._tell(more)
        finally:
            os.close(fd)

    def _open(self, content: Rows) -> int:
        digest = Digest.from_bytes(content["digest"].tobytes())
        path = f"{self._layers[int(content['layer'])].layer.objects_path}/{digest.hex[:2]}/{digest.hex[2:]}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise CorruptError(f"object {digest}: missing; loading its image again brings it back") from None
        found = os.fstat(fd).st_size
        if found != content["size"]:
            os.close(fd)
            raise CorruptError(f"object {digest}: {found} bytes, expected {content['size']}")
        return fd

    def _read(self, fd: int, into: memoryview, offset: int, content: Rows) -> None:
        while len(into) > 0:
            got = os.preadv(fd, [into], offset)
            if got == 0:
                digest = Digest.from_bytes(content["digest"].tobytes())
                raise CorruptError(f"object {digest}: {offset} bytes, expected {content['size']}")
            into, offset = into[got:], offset + got


def _shares(contents: Rows) -> Iterator[_Work]:
    """What one thread takes at a time: large objects, then many small ones, then inline contents, in the order in which
    they lie."""
    objects = contents[~contents["inline"]]
    objects = objects[numpy.argsort(objects["size"])[::-1]]
    first = int((objects["size"] > _WINDOW).sum())
    for number in range(first):
        yield _Work(objects[number : number + 1], False)
    ends = numpy.cumsum(objects["size"])
    while first < len(objects):
        before = int(ends[first]) - int(objects["size"][first])
        last = min(int(numpy.searchsorted(ends, before + _WINDOW, side="right")), first + _BATCH)
        yield _Work(objects[first:last], False)
        first = last
    inline = contents[contents["inline"]]
    for layer in numpy.unique(inline["layer"]):
        of_one = inline[inline["layer"] == layer]
        of_one = of_one[numpy.argsort(of_one["offset"])]
        for begin in range(0, len(of_one), 16 * _BATCH):
            yield _Work(of_one[begin : begin + 16 * _BATCH], True)
