"""Where the chunks go: the runs of an index laid out over its files, and expanded a slice at a time.

A run takes 13 bytes of an index and may stand for a billion places. So nothing here is as long as the places are many:
arrays are as long as the runs, the entries and the holes of the index, or as the chunks that the packs have.

A *position* counts the bytes of all files, one after the other, without holes. Runs lie in it in the order in which the
index has them; what is sorted by position is sorted by file, and by offset in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from lazarus.errors import FormatError, LimitError
from lazarus.volumes.artifact import index, packs
from lazarus.volumes.artifact.index import Tree

if TYPE_CHECKING:
    import numpy

    Array: TypeAlias = numpy.ndarray[Any, numpy.dtype[Any]]

SLICE = 1 << 14  # places that are expanded at once: some MiB, with what is worked out of them


class Slice(NamedTuple):
    """Some places, by position: for each the number of its chunk, which entry it is in, and where in that."""

    numbers: Array
    entries: Array
    offsets: Array


class Sweep:
    """Runs that meet ranges of chunk numbers, which are asked for in ascending order.

    All ranges together cost what the runs do, and once more for each range that a run goes on into.
    """

    def __init__(self, runs: Array, first: Array, end: Array) -> None:
        """`runs`: which, in the order of `first`; `first` and `end` (one behind the last number) of each of them."""
        import numpy

        self._runs, self._first, self._end = runs, first, end
        self._open = numpy.empty(0, "i8")
        self._next = 0

    def meet(self, begin: int, end: int) -> Array:
        """Those with a chunk in a range, by position."""
        import numpy

        after = self._next
        self._next = max(after, int(numpy.searchsorted(self._first, end)))
        found = numpy.concatenate((self._open, numpy.arange(after, self._next)))
        self._open = found[self._end[found] > begin]
        met: Array = numpy.sort(self._runs[self._open])
        return met


def check_numbers(tree: Tree, counts: Sequence[int], what: str) -> None:
    """What can be said of the chunks that packs say they have (`counts`), before any table is fetched: `FormatError`
    for runs of chunks that are in no pack, and for packs with no chunk in any run, which no push names."""
    import numpy

    edges = packs.starts(counts)
    order = numpy.argsort(tree["run_first"], kind="stable")
    first, end = tree["run_first"][order], _ends(tree)[order]
    numpy.maximum.accumulate(end, out=end)
    del order
    if len(end) and end[-1] > edges[-1]:
        raise FormatError(f"{what}: speaks of chunk {end[-1]}, its packs have {edges[-1]}")
    before = numpy.searchsorted(first, edges[1:])  # runs that begin before the end of each pack
    used = before > 0
    used[used] = end[before[used] - 1] > edges[:-1][used]
    if not used.all():
        raise FormatError(f"{what}: has no chunk of pack {int(numpy.argmin(used)) + 1} of {len(counts)}")


def _ends(tree: Tree) -> Array:
    """One behind the last number of each run."""
    import numpy

    ends: Array = tree["run_first"] + numpy.where(tree["run_step"] == 1, tree["run_count"], 1).astype("u8")
    return ends


class Places:
    """Of a tree that has passed `check_numbers`, and the lengths of all chunks of all packs. `size` is the bytes of all
    chunks in all places.

    Raises `FormatError` when chunks and holes do not fill the files exactly, `LimitError` when there are so many small
    chunks that no push has cut them. 8 bytes for each chunk of the packs stay in memory, and some 40 for each run, and
    16 for each entry and each hole.
    """

    def __init__(self, tree: Tree, lengths: Array, what: str) -> None:
        import numpy

        self._edges = numpy.zeros(len(lengths) + 1, "u8")  # of the chunks of the packs, one after the other
        numpy.cumsum(lengths, dtype="u8", out=self._edges[1:])
        # numbers of chunks are small now: no packs have 2^32
        self._first, self._count, self._end = (
            tree["run_first"].astype("u4"),
            tree["run_count"],
            _ends(tree).astype("u4"),
        )
        self._repeated = tree["run_step"] == 0
        sizes = self._edges[self._end]
        sizes -= self._edges[self._first]
        sizes *= numpy.where(self._repeated, self._count, 1).astype("u4")
        self._begins = numpy.zeros(len(sizes) + 1, "u8")
        numpy.cumsum(sizes, dtype="u8", out=self._begins[1:])
        del sizes
        self.size, self._begins = int(self._begins[-1]), self._begins[:-1]
        self._check_count(tree, what)
        self._lay_out(tree, what)
        order = numpy.argsort(self._first, kind="stable").astype("u4")
        self._packs = Sweep(order, self._first[order], self._end[order])

    def _check_count(self, tree: Tree, what: str) -> None:
        chunks = index.total(self._count)
        most = self.size // packs.MIN_CHUNK + int((tree["kind"] == index.FILE).sum()) + len(tree["hole_entry"])
        if chunks > most:
            raise LimitError(f"{what}: {chunks} chunks of {self.size} bytes, more than files of that size are cut in")

    def _lay_out(self, tree: Tree, what: str) -> None:
        """Positions of the entries, and of the holes."""
        import numpy

        starts = numpy.zeros(tree.entries + 1, "u8")
        numpy.cumsum(tree["chunks"], dtype="u8", out=starts[1:])
        ends = numpy.cumsum(self._count, dtype="u8")
        for at in range(0, len(starts), SLICE):
            starts[at : at + SLICE] = self._position(starts[at : at + SLICE], ends)
        hole_entry = tree["hole_entry"]
        self._before = numpy.zeros(len(hole_entry) + 1, "u8")  # bytes of holes, in this file and others
        numpy.cumsum(tree["hole_size"], dtype="u8", out=self._before[1:])
        first_hole = numpy.searchsorted(hole_entry, numpy.arange(tree.entries + 1, dtype=hole_entry.dtype))
        self._skipped = self._before[first_hole]
        wrong = numpy.diff(starts) + numpy.diff(self._skipped) != tree["size"]
        if wrong.any():
            entry = int(numpy.argmax(wrong))
            found = int(starts[entry + 1] - starts[entry])
            raise FormatError(
                f"{what}: {index.path(tree, entry)}: {found} bytes of chunks, its size is {tree['size'][entry]}"
            )
        self._starts = starts[:-1]
        self._spots = tree["hole_offset"] - (self._before[:-1] - self._skipped[hole_entry]) + starts[hole_entry]
        if not self._are_edges(self._spots):
            raise FormatError(f"{what}: a hole inside of a chunk")

    def _position(self, ordinals: Array, ends: Array) -> Array:
        """Where chunks begin, by the order in which they are in the files; the last one's end is one, too. `ends`: how
        many there are to the end of each run."""
        import numpy

        if not len(ends):
            return ordinals  # which are 0
        run = numpy.minimum(numpy.searchsorted(ends, ordinals, side="right"), len(ends) - 1)
        position: Array = self._begins[run] + self._into(run, ordinals - (ends[run] - self._count[run]))
        return position

    def _into(self, run: Array, chunk: Array) -> Array:
        """How far into a run its chunk number `chunk` begins."""
        import numpy

        first, repeated = self._first[run], self._repeated[run]
        begin, end = self._edges[first], self._edges[first + numpy.where(repeated, 1, chunk)]
        into: Array = (end - begin) * numpy.where(repeated, chunk, 1)
        return into

    def _are_edges(self, spots: Array) -> bool:
        """Does a chunk begin or end at each of these positions?"""
        import numpy

        if not len(self._first):
            return True  # they are all 0
        run = numpy.searchsorted(self._begins, spots, side="right") - 1
        first, into = self._first[run], spots - self._begins[run]
        edges = self._edges[first] + into
        inside = self._edges[numpy.searchsorted(self._edges, edges) % len(self._edges)] == edges
        length = self._edges[first + 1] - self._edges[first]
        return bool(numpy.all(numpy.where(self._repeated[run], into % length == 0, inside)))

    # -- pack after pack --

    def runs(self, first: int, end: int) -> Array:
        """Those with a chunk in a pack, by position. Packs are asked for in order."""
        return self._packs.meet(first, end)

    def wanted(self, runs: Array, first: int, end: int) -> Array:
        """Which chunks of a pack, counted from its first one, have a place at all."""
        import numpy

        begins = (numpy.maximum(self._first[runs], first) - first).astype("i8")
        ends = (numpy.minimum(self._end[runs], end) - first).astype("i8")
        change = numpy.bincount(begins, minlength=end - first + 1)
        change -= numpy.bincount(ends, minlength=end - first + 1)
        return numpy.flatnonzero(change[:-1].cumsum() > 0)

    def sweep(self, runs: Array) -> Sweep:
        """Over some of the runs."""
        import numpy

        order = runs[numpy.argsort(self._first[runs], kind="stable")]
        return Sweep(order, self._first[order], self._end[order])

    def entry(self, runs: Array, number: int) -> int:
        """The first that a chunk is in."""
        mine = runs[(self._first[runs] <= number) & (self._end[runs] > number)]
        return int(next(self.slices(mine, number, number + 1)).entries[0])

    def slices(self, runs: Array, first: int, end: int) -> Iterator[Slice]:
        """All places of the chunks from `first` to `end`, of runs that have some of them, by position."""
        import numpy

        if not len(runs):
            return
        begins = numpy.maximum(self._first[runs], first)
        counts = numpy.where(self._repeated[runs], self._count[runs], numpy.minimum(self._end[runs], end) - begins)
        ends = numpy.cumsum(counts, dtype="u8")
        done, total = 0, int(ends[-1])
        while done < total:
            place = numpy.arange(done, min(done + SLICE, total), dtype="u8")
            piece = numpy.searchsorted(ends, place, side="right")
            yield self._slice(runs[piece], begins[piece], place - (ends[piece] - counts[piece]))
            done += len(place)

    def _slice(self, run: Array, begin: Array, chunk: Array) -> Slice:
        import numpy

        chunk += begin - self._first[run]  # of the run, not of what it has of the range
        position = self._begins[run] + self._into(run, chunk)
        entry = numpy.searchsorted(self._starts, position, side="right") - 1
        holes = self._before[numpy.searchsorted(self._spots, position, side="right")] - self._skipped[entry]
        number = self._first[run] + numpy.where(self._repeated[run], 0, chunk)
        return Slice(number, entry, position - self._starts[entry] + holes)
