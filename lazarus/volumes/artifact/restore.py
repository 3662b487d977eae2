"""A tree and its chunks as a directory: what a pull makes, in a staging directory that nobody else sees.

First everything is made, empty; then files are filled, pack after pack, each chunk checked; then owners, modes, xattrs
and times are set, those of a directory after all that is in it. Directories are opened below the root each time
(openat2), everything else is made and changed by name in its directory and never through a symlink.
"""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

from lazarus._native import frame
from lazarus._native.openat2 import open_in_root
from lazarus.errors import CorruptError, FormatError, UnsafeError
from lazarus.volumes.artifact import index, packs
from lazarus.volumes.artifact.index import Tree
from lazarus.volumes.artifact.places import Places, Slice

if TYPE_CHECKING:
    import numpy

    from lazarus.oci.layout import BlobSource

    Array: TypeAlias = numpy.ndarray[Any, numpy.dtype[Any]]

_BATCH = 8 << 20  # bytes of chunks that are expanded at once
_MAKERS = {index.CHAR: stat.S_IFCHR, index.BLOCK: stat.S_IFBLK, index.FIFO: stat.S_IFIFO}


class Restore:
    """A tree below `root`, an empty directory. `keep_owner` needs root. A list of a column's numbers
    would take 40 bytes for each entry: what is read all the time is an array, the rest is read from the column."""

    def __init__(self, root: int, tree: Tree, what: str, *, keep_owner: bool) -> None:
        self._root = root
        self._tree = tree
        self._what = what
        self._keep_owner = keep_owner
        self._parents = _numbers(tree["parent"], "I")
        self._name_ends = _numbers(tree["name_size"].cumsum(dtype="u8"), "Q")
        self._name_sizes = tree["name_size"].tobytes()
        self._kinds = tree["kind"].tobytes()
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

    def _name(self, entry: int) -> bytes:
        end = self._name_ends[entry]
        return self._tree.names[end - self._name_sizes[entry] : end]

    def _path(self, entry: int) -> bytes:
        """Put together each time: of a million files far down, paths would take gigabytes."""
        parts: list[bytes] = []
        while entry:
            parts.append(self._name(entry))
            entry = self._parents[entry]
        return b"/".join(reversed(parts)) or b"."

    def _descend(self, path: bytes, flags: int) -> int:
        return open_in_root(self._root, path, flags | os.O_NOFOLLOW)

    def make(self) -> None:
        """Everything, empty. `UnsafeError` for a device when the caller is not root."""
        tree = self._tree
        target = 0
        for entry in range(1, tree.entries):
            directory, name, kind = self._in(entry), self._name(entry), self._kinds[entry]
            try:
                if kind == index.DIRECTORY:
                    os.mkdir(name, 0o700, dir_fd=directory)
                elif kind == index.FILE:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                    fd = os.open(name, flags, 0o600, dir_fd=directory)
                    try:
                        os.ftruncate(fd, int(tree["size"][entry]))
                    finally:
                        os.close(fd)
                elif kind == index.SYMLINK:
                    before, target = target, target + int(tree["target_size"][entry])
                    os.symlink(tree.targets[before:target], name, dir_fd=directory)
                elif kind == index.HARDLINK:
                    self._link(int(tree["link"][entry]), directory, name)
                else:
                    device = os.makedev(int(tree["major"][entry]), int(tree["minor"][entry]))
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
            os.link(self._name(to), name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(source)

    def _text(self, entry: int) -> str:
        return self._path(entry).decode("utf-8", "replace")

    def _named(self, error: OSError, entry: int) -> OSError:
        return OSError(error.errno, error.strerror, self._text(entry))

    # -- contents --

    def fill(
        self,
        where: Places,
        runs: Array,
        rows: Array,
        source: BlobSource,
        name: str,
        first: int,
        done: Callable[[int], None],
    ) -> None:
        """Writes the chunks of one pack in all their places. `rows`: its table; its first chunk has the number `first`;
        `runs`: those that have some of them.

        `CorruptError` for a chunk that is not what the table says. At most 24 MiB of chunks are in memory,
        and as many of their places as `places.SLICE`.
        """
        import numpy

        wanted = where.wanted(runs, first, first + len(rows))
        sweep = where.sweep(runs)
        stored_at = numpy.cumsum(rows["stored"], dtype="u8") - rows["stored"]
        previous: tuple[Array, bytearray] | None = None

        def put(part: Array, out: bytearray) -> None:
            begin, end = first + int(part[0]), first + int(part[-1]) + 1
            places = where.slices(sweep.meet(begin, end), begin, end)
            self._put(places, part + first, rows["length"][part], out, done)

        with ThreadPoolExecutor(1) as pool:
            for part in packs.batches(rows, wanted, _BATCH):
                expanding = pool.submit(self._expand, rows, source, name, part, stored_at)
                if previous is not None:
                    put(*previous)
                out, bad = expanding.result()
                if bad >= 0:
                    path = self._text(where.entry(runs, first + bad))
                    raise CorruptError(f"{self._what}: {path}: chunk {bad} of {name} is not what its table says")
                previous = part, out
        if previous is not None:
            put(*previous)

    def _expand(
        self, rows: Array, source: BlobSource, name: str, part: Array, stored_at: Array
    ) -> tuple[bytearray, int]:
        """The chunks of a batch, one after the other, and -1 or the first that is not what its row says."""
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
        return out, int(part[bad]) if bad >= 0 else -1

    def _put(
        self, places: Iterable[Slice], chunks: Array, lengths: Array, out: bytearray, done: Callable[[int], None]
    ) -> None:
        """Writes a batch, the chunks `chunks` (numbers, ascending), to all its places, which come by position."""
        import numpy

        edges = numpy.zeros(len(lengths) + 1, "u8")
        numpy.cumsum(lengths, dtype="u8", out=edges[1:])
        view, fd, opened = memoryview(out), -1, -1
        try:
            for some in places:
                at = numpy.searchsorted(chunks, some.numbers.astype(chunks.dtype))
                for entry, offset, begin, stop in _writes(some, edges[at], edges[at + 1]):
                    if entry != opened:
                        if fd >= 0:
                            os.close(fd)
                        fd, opened = -1, entry
                        fd = self._descend(self._path(entry), os.O_WRONLY)
                    while begin < stop:
                        written = os.pwrite(fd, view[begin:stop], offset)
                        begin, offset = begin + written, offset + written
                done(int((edges[at + 1] - edges[at]).sum(dtype="u8")))
        except OSError as error:
            raise self._named(error, max(opened, 0)) from None
        finally:
            if fd >= 0:
                os.close(fd)

    # -- attributes --

    def finish(self) -> None:
        """Owners, modes, xattrs and times."""
        tree = self._tree
        attributes = self._attributes()
        first = len(tree["key_size"])
        for entry in range(tree.entries - 1, -1, -1):
            kind = self._kinds[entry]
            if kind == index.HARDLINK:
                continue  # it has none
            count = int(tree["xattrs"][entry])
            first -= count
            uid, gid, mode, mtime = (int(tree[column][entry]) for column in ("uid", "gid", "mode", "mtime"))
            try:
                self._attribute(entry, kind, uid, gid, mode, attributes(first, count), mtime)
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
            directory, name = self._in(entry), self._name(entry)
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


def _numbers(column: Array, code: str) -> array[int]:
    """A column as an array whose items are Python's numbers; `code` is its type's."""
    return array(code, column.tobytes())


def _writes(places: Slice, begins: Array, ends: Array) -> Iterator[tuple[int, int, int, int]]:
    """Entry, offset, and from where to where in the batch: what lies side by side in both is written at once."""
    import numpy

    _, entries, offsets = places
    sizes = ends - begins
    apart = (entries[1:] != entries[:-1]) | (offsets[1:] != offsets[:-1] + sizes[:-1]) | (begins[1:] != ends[:-1])
    heads = numpy.concatenate(([0], numpy.flatnonzero(apart) + 1))
    tails = numpy.append(heads[1:], len(entries)) - 1
    return zip(
        entries[heads].tolist(), offsets[heads].tolist(), begins[heads].tolist(), ends[tails].tolist(), strict=True
    )
