"""A tree and its chunks as a directory: what a pull makes, in a staging directory that nobody else sees.

First everything is made, empty; then files are filled, pack after pack, each chunk checked; then owners, modes, xattrs
and times are set, those of a directory after all that is in it. Directories are opened below the root each time
(openat2), everything else is made and changed by name in its directory and never through a symlink.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from lazarus._native import frame
from lazarus._native.openat2 import open_in_root
from lazarus.errors import CorruptError, FormatError, LimitError, UnsafeError
from lazarus.volumes.artifact import index, packs
from lazarus.volumes.artifact.index import Tree

if TYPE_CHECKING:
    import numpy

    from lazarus.oci.layout import BlobSource

    Array: TypeAlias = numpy.ndarray[Any, numpy.dtype[Any]]

_BATCH = 8 << 20  # bytes of chunks that are expanded at once
_MAKERS = {index.CHAR: stat.S_IFCHR, index.BLOCK: stat.S_IFBLK, index.FIFO: stat.S_IFIFO}


class Places(NamedTuple):
    """For each place of a chunk, by its number: that, which entry it is in, and where in that."""

    numbers: Array
    entries: Array
    offsets: Array


def data_size(tree: Tree, lengths: Array, what: str) -> int:
    """Bytes of all chunks in all places. `lengths`: of all chunks of all packs. `FormatError` for chunks that are in no
    pack, `LimitError` when there are so many small ones that no push has cut them."""
    import numpy

    first, count, step = tree["run_first"], tree["run_count"], tree["run_step"]
    end = first + numpy.where(step == 1, count, 1)
    if len(end) and int(end.max()) > len(lengths):
        raise FormatError(f"{what}: speaks of chunk {int(end.max())}, its packs have {len(lengths)}")
    edges = numpy.concatenate((numpy.zeros(1, "u8"), numpy.cumsum(lengths, dtype="u8")))
    size = index.total((edges[end] - edges[first]) * numpy.where(step == 1, 1, count))
    chunks = index.total(count)
    if chunks > size // packs.MIN_CHUNK + int((tree["kind"] == index.FILE).sum()) + len(tree["hole_entry"]):
        raise LimitError(f"{what}: {chunks} chunks of {size} bytes, more than files of that size are cut in")
    return size


def places(tree: Tree, lengths: Array, what: str) -> Places:
    """Where each chunk goes, for a tree that has passed `data_size`: 28 bytes a chunk, and three times that meanwhile.
    `FormatError` when chunks and holes do not fill the files exactly."""
    import numpy

    numbers = packs.expand_runs(tree["run_first"], tree["run_count"], tree["run_step"])
    sizes = lengths[numbers].astype("u8")
    ends = numpy.cumsum(sizes, dtype="u8")  # in the data of all files, one after the other, without holes
    begins = ends - sizes
    chunks = tree["chunks"]
    last = numpy.cumsum(chunks, dtype="u8")
    edges = numpy.concatenate((numpy.zeros(1, "u8"), ends))
    start = edges[last - chunks]  # of each entry's data
    data = edges[last] - start
    hole_entry, hole_size = tree["hole_entry"], tree["hole_size"]
    before = numpy.concatenate((numpy.zeros(1, "u8"), numpy.cumsum(hole_size, dtype="u8")))
    hole_first = numpy.searchsorted(hole_entry, numpy.arange(tree.entries))
    hole_end = numpy.searchsorted(hole_entry, numpy.arange(tree.entries), side="right")
    wrong = data + (before[hole_end] - before[hole_first]) != tree["size"]
    if wrong.any():
        entry = int(numpy.argmax(wrong))
        found = int(data[entry])
        raise FormatError(
            f"{what}: {index.path(tree, entry)}: {found} bytes of chunks, its size is {tree['size'][entry]}"
        )
    # where a hole lies in that data: nowhere inside of a chunk
    spots = tree["hole_offset"] - (before[:-1] - before[hole_first[hole_entry]]) + start[hole_entry]
    if len(spots) and not numpy.all(edges[numpy.minimum(numpy.searchsorted(edges, spots), len(edges) - 1)] == spots):
        raise FormatError(f"{what}: a hole inside of a chunk")
    entries = numpy.repeat(numpy.arange(tree.entries, dtype="u4"), chunks.astype("i8"))
    skipped = before[numpy.searchsorted(spots, begins, side="right")] - before[hole_first[entries]]
    offsets = begins - start[entries] + skipped
    order = numpy.argsort(numbers, kind="stable")
    return Places(numbers[order], entries[order], offsets[order])


class Restore:
    """A tree below `root`, an empty directory. `keep_owner` needs root."""

    def __init__(self, root: int, tree: Tree, what: str, *, keep_owner: bool) -> None:
        self._root = root
        self._tree = tree
        self._what = what
        self._keep_owner = keep_owner
        self._parents: list[int] = tree["parent"].tolist()
        self._names = list(index.names(tree))
        self._kinds: list[int] = tree["kind"].tolist()
        self._directory = -1
        self._open = -1  # which entry `_directory` is

    def close(self) -> None:
        """The directory that was used last."""
        if self._directory >= 0:
            os.close(self._directory)
        self._directory = self._open = -1

    def _in(self, entry: int) -> int:
        """The directory that an entry lies in."""
        parent = self._parents[entry]
        if parent != self._open:
            self.close()
            self._directory = self._descend(self._path(parent), os.O_RDONLY | os.O_DIRECTORY)
            self._open = parent
        return self._directory

    def _path(self, entry: int) -> bytes:
        """Put together each time: of a million files far down, paths would take gigabytes."""
        parts: list[bytes] = []
        while entry:
            parts.append(self._names[entry])
            entry = self._parents[entry]
        return b"/".join(reversed(parts)) or b"."

    def _descend(self, path: bytes, flags: int) -> int:
        return open_in_root(self._root, path, flags | os.O_NOFOLLOW)

    def make(self) -> None:
        """Everything, empty. `UnsafeError` for a device when the caller is not root."""
        tree = self._tree
        sizes, links = tree["size"].tolist(), tree["link"].tolist()
        major, minor = tree["major"].tolist(), tree["minor"].tolist()
        target_ends = tree["target_size"].cumsum(dtype="u8").tolist()
        for entry in range(1, tree.entries):
            directory, name, kind = self._in(entry), self._names[entry], self._kinds[entry]
            try:
                if kind == index.DIRECTORY:
                    os.mkdir(name, 0o700, dir_fd=directory)
                elif kind == index.FILE:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                    fd = os.open(name, flags, 0o600, dir_fd=directory)
                    try:
                        os.ftruncate(fd, sizes[entry])
                    finally:
                        os.close(fd)
                elif kind == index.SYMLINK:
                    end, size = target_ends[entry], int(tree["target_size"][entry])
                    os.symlink(tree.targets[end - size : end], name, dir_fd=directory)
                elif kind == index.HARDLINK:
                    self._link(links[entry], directory, name)
                else:
                    device = os.makedev(major[entry], minor[entry])
                    os.mknod(name, 0o600 | _MAKERS[kind], device, dir_fd=directory)
            except OSError as error:
                if error.errno == errno.EPERM and kind in (index.CHAR, index.BLOCK):
                    raise UnsafeError(
                        f"{self._what}: {self._text(entry)}: a device, which only root can make"
                    ) from error
                raise self._named(error, entry) from None

    def _link(self, to: int, directory: int, name: bytes) -> None:
        source = self._descend(self._path(self._parents[to]), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.link(self._names[to], name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(source)

    def _text(self, entry: int) -> str:
        return self._path(entry).decode("utf-8", "replace")

    def _named(self, error: OSError, entry: int) -> OSError:
        return OSError(error.errno, error.strerror, self._text(entry))

    # -- contents --

    def fill(
        self, where: Places, rows: Array, source: BlobSource, name: str, first: int, done: Callable[[int], None]
    ) -> None:
        """Writes the chunks of one pack in all their places. `rows`: its table; its first chunk has the number `first`.

        `CorruptError` for a chunk that is not what the table says. At most 24 MiB of chunks are in memory.
        """
        import numpy

        used, end = (int(at) for at in numpy.searchsorted(where.numbers, (first, first + len(rows))))
        if used == end:
            return
        wanted = numpy.unique(where.numbers[used:end] - first).astype("i8")
        stored_at = numpy.cumsum(rows["stored"], dtype="u8") - rows["stored"]
        previous: tuple[Array, tuple[bytearray, Array]] | None = None
        with ThreadPoolExecutor(1) as pool:
            for part in packs.batches(rows, wanted, _BATCH):
                expanding = pool.submit(self._expand, where, rows, source, name, first, part, stored_at)
                if previous is not None:
                    used = self._put(where, used, first, *previous, done)
                previous = (part, expanding.result())
        if previous is not None:
            self._put(where, used, first, *previous, done)

    def _expand(
        self, where: Places, rows: Array, source: BlobSource, name: str, first: int, part: Array, stored_at: Array
    ) -> tuple[bytearray, Array]:
        import numpy

        chosen = rows[part]
        begin, last = int(stored_at[part[0]]), int(part[-1])
        end = int(stored_at[last]) + int(rows["stored"][last])
        data = bytearray(end - begin)
        if os.preadv(source.fd, [data], source.offset + begin) != len(data):
            raise CorruptError(f"{self._what}: {name} ends before its chunks")
        lengths = numpy.ascontiguousarray(chosen["length"])
        out = bytearray(int(lengths.sum(dtype="u8")))
        digests = numpy.ascontiguousarray(chosen["sha256"]).view("u1")
        stored = numpy.ascontiguousarray(chosen["stored"])
        bad = frame.expand(data, stored_at[part] - begin, stored, lengths, digests, out)
        if bad >= 0:
            number = int(part[bad])
            entry = int(where.entries[numpy.searchsorted(where.numbers, first + number)])
            raise CorruptError(
                f"{self._what}: {self._text(entry)}: chunk {number} of {name} is not what its table says"
            )
        return out, numpy.concatenate((numpy.zeros(1, "u8"), numpy.cumsum(lengths, dtype="u8")))

    def _put(
        self,
        where: Places,
        used: int,
        first: int,
        part: Array,
        expanded: tuple[bytearray, Array],
        done: Callable[[int], None],
    ) -> int:
        """Writes a batch to all its places; those that lie side by side in both, at once. Places are used in order."""
        import numpy

        out, edges = expanded
        end = int(numpy.searchsorted(where.numbers, first + int(part[-1]), side="right"))
        mine = slice(used, end)
        at = numpy.searchsorted(part, (where.numbers[mine] - first).astype("i8"))
        source, limits = edges[at], edges[at + 1]
        by_entry = numpy.lexsort((where.offsets[mine], where.entries[mine]))
        entries, offsets = where.entries[mine][by_entry], where.offsets[mine][by_entry]
        source, limits = source[by_entry], limits[by_entry]
        sizes = limits - source
        apart = (entries[1:] != entries[:-1]) | (offsets[1:] != offsets[:-1] + sizes[:-1]) | (source[1:] != limits[:-1])
        heads = numpy.concatenate(([0], numpy.flatnonzero(apart) + 1))
        tails = numpy.append(heads[1:], end - used) - 1
        view, fd, opened = memoryview(out), -1, -1
        try:
            for entry, offset, begin, stop in zip(
                entries[heads].tolist(), offsets[heads].tolist(), source[heads].tolist(), limits[tails].tolist(),
                strict=True,
            ):  # fmt: skip
                if entry != opened:
                    if fd >= 0:
                        os.close(fd)
                    fd, opened = -1, entry
                    fd = self._descend(self._path(entry), os.O_WRONLY)
                while begin < stop:
                    written = os.pwrite(fd, view[begin:stop], offset)
                    begin, offset = begin + written, offset + written
        except OSError as error:
            raise self._named(error, max(opened, 0)) from None
        finally:
            if fd >= 0:
                os.close(fd)
        done(int(sizes.sum(dtype="u8")))
        return end

    # -- attributes --

    def finish(self) -> None:
        """Owners, modes, xattrs and times."""
        tree = self._tree
        uid, gid = tree["uid"].tolist(), tree["gid"].tolist()
        modes, mtimes = tree["mode"].tolist(), tree["mtime"].tolist()
        attributes = self._attributes()
        first = tree["xattrs"].cumsum(dtype="u8") - tree["xattrs"]
        for entry in range(tree.entries - 1, -1, -1):
            kind = self._kinds[entry]
            if kind == index.HARDLINK:
                continue
            try:
                mine = attributes(int(first[entry]), int(tree["xattrs"][entry]))
                self._attribute(entry, kind, uid[entry], gid[entry], modes[entry], mine, mtimes[entry])
            except OSError as error:
                raise self._named(error, entry) from None

    def _attributes(self) -> Callable[[int, int], list[tuple[bytes, bytes]]]:
        """A function for some xattrs that follow one another: the number of the first, and how many."""
        tree = self._tree
        sizes = tree["key_size"].astype("u8") + tree["value_size"]
        begins = sizes.cumsum(dtype="u8") - sizes

        def some(first: int, count: int) -> list[tuple[bytes, bytes]]:
            mine: list[tuple[bytes, bytes]] = []
            for number in range(first, first + count):
                at, key_size, value_size = (
                    int(size[number]) for size in (begins, tree["key_size"], tree["value_size"])
                )
                key = tree.xattrs[at : at + key_size]
                if b"\0" in key:
                    raise FormatError(f"{self._what}: an xattr's name with a NUL byte")
                if mine and key <= mine[-1][0]:
                    raise FormatError(f"{self._what}: xattrs of one entry that are not in order, or there twice")
                mine.append((key, tree.xattrs[at + key_size : at + key_size + value_size]))
            return mine

        return some

    def _attribute(
        self, entry: int, kind: int, uid: int, gid: int, mode: int, attributes: list[tuple[bytes, bytes]], mtime: int
    ) -> None:
        """One entry's, by name in its directory: nothing but what was made here is there."""
        if entry == 0:
            directory, name, place = self._root, b".", b"/proc/self/fd/%d" % self._root
        else:
            directory, name = self._in(entry), self._names[entry]
            place = b"/proc/self/fd/%d/%s" % (directory, name)
        symlink = kind == index.SYMLINK
        if self._keep_owner:
            os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
        else:
            mode &= 0o1777  # set-ID bits would be the caller's
        if not symlink:
            os.chmod(name, mode, dir_fd=directory)
        for key, value in attributes:
            if not self._keep_owner and key.startswith((b"security.", b"trusted.")):
                continue  # only root can set them
            os.setxattr(place, key, value, follow_symlinks=entry == 0)
        os.utime(name, ns=(mtime, mtime), dir_fd=directory, follow_symlinks=False)
