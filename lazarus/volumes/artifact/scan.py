"""A directory as a tree and chunks: what a push reads.

Containers may be at work in it meanwhile. Directories are opened below its root each time (openat2), files without
following a symlink, so nothing that somebody puts there leads outside. Mount points are entered by no one: what is
mounted in it is not its own.
"""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from lazarus._native.chunk import ROW_FIELDS, SHA256, Chunker
from lazarus._native.openat2 import open_in_root
from lazarus.errors import LimitError
from lazarus.volumes.artifact import index
from lazarus.volumes.artifact.index import Tree
from lazarus.volumes.artifact.packs import MIN_CHUNK

if TYPE_CHECKING:
    import numpy

    Array: TypeAlias = numpy.ndarray[Any, numpy.dtype[Any]]

AVERAGE = 8 << 10  # of chunks that are cut where the content says
PAGE = 4 << 10
PAGES = 16  # a file of that many whole pages is cut in pages
WINDOW = 8 << 20
_SMALL = 1 << 20  # a file from there on is cut by two threads
_KINDS = {
    stat.S_IFDIR: index.DIRECTORY,
    stat.S_IFREG: index.FILE,
    stat.S_IFLNK: index.SYMLINK,
    stat.S_IFCHR: index.CHAR,
    stat.S_IFBLK: index.BLOCK,
    stat.S_IFIFO: index.FIFO,
}
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
# or it is something else by now, or has lost an xattr, which are told from a name that is gone by nobody
_CHANGED = (*_GONE, errno.EINVAL, errno.ENODATA)

Numbers = Callable[[memoryview, "Array"], "Array"]


class Scanned(NamedTuple):
    """The tree without its runs; the number of each chunk, in order; bytes of data; paths that were left out."""

    columns: Mapping[str, Array]
    names: bytes
    targets: bytes
    xattrs: bytes
    numbers: Array
    size: int
    skipped: tuple[bytes, ...]

    def tree(self, first: Array, count: Array, step: Array, labels: Mapping[str, str]) -> Tree:
        """With the runs that stand for the numbers."""
        columns = {**self.columns, "run_first": first, "run_count": count, "run_step": step}
        return Tree(columns, self.names, self.targets, self.xattrs, labels)


class Cutter:
    """Cuts files into chunks, window after window, while another thread takes those of the window before:
    `take(window, rows)` answers with a number for each."""

    def __init__(self, take: Numbers) -> None:
        self._take = take
        self._pages = Chunker(PAGE, PAGE, PAGE)
        self._content = Chunker(MIN_CHUNK, AVERAGE, AVERAGE * 4)
        self._windows = [bytearray(WINDOW), bytearray(WINDOW)]
        self._held = 0
        self._rows = bytearray()
        self._thread = ThreadPoolExecutor(1)
        self._waiting: Future[Array] | None = None
        self._numbers: list[Array] = []
        self.size = 0

    def extent(self, fd: int, start: int, end: int, pages: bool) -> tuple[int, int]:
        """Cuts what a file has from `start` to `end`: the number of chunks, and where it really ended."""
        chunker, count = self._pages if pages else self._content, 0
        threads = 2 if end - start >= _SMALL else 1
        if self._held > WINDOW - min(end - start, _SMALL):
            self._flush(self._held)
        begin, at, last = self._held, start, False
        while not last:
            view = memoryview(self._windows[0])
            got = _read(fd, view[self._held : min(len(view), self._held + end - at)], at)
            self._held, at = self._held + got, at + got
            last = at >= end or self._held < WINDOW
            covered, rows = chunker.cut(
                view[begin : self._held], base=begin, last=last, digests=SHA256, threads=threads
            )
            self._rows += rows
            count += len(rows) // 64
            begin += covered
            if not last:
                self._flush(begin)
                begin = 0
        self.size += at - start
        return count, at

    def _flush(self, covered: int) -> None:
        """Gives away the window's rows; what lies behind `covered` begins the next window."""
        import numpy

        window, other = self._windows
        self._wait()
        rest = self._held - covered
        other[:rest] = window[covered : self._held]
        rows = numpy.frombuffer(bytes(self._rows), list(ROW_FIELDS))
        self._waiting = self._thread.submit(self._take, memoryview(window), rows)
        self._windows, self._held, self._rows = [other, window], rest, bytearray()

    def _wait(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._numbers.append(waiting.result())

    def finish(self) -> Array:
        """The numbers of all chunks."""
        import numpy

        self._flush(self._held)
        self._wait()
        return numpy.concatenate(self._numbers) if self._numbers else numpy.empty(0, "u8")

    def close(self) -> None:
        """Ends its thread."""
        self._thread.shutdown()


def _read(fd: int, into: memoryview, at: int) -> int:
    done = 0
    while done < len(into) and (got := os.preadv(fd, [into[done:]], at + done)) > 0:
        done += got
    return done


class Scan:
    """One walk over a directory."""

    def __init__(self, root: int, cutter: Cutter, progress: Callable[[int], None] | None = None) -> None:
        self._root = root
        self._cutter = cutter
        self._progress = progress
        self._device = os.fstat(root).st_dev
        codes = {"<u4": "I", "u1": "B", "<u2": "H", "<i8": "q", "<u8": "Q"}
        self._columns = {name: array(codes[kind]) for name, kind in index._COLUMNS.items()}
        self._names, self._targets, self._xattrs = bytearray(), bytearray(), bytearray()
        self._links: dict[tuple[int, int], int] = {}
        self._skipped: list[bytes] = []

    def run(self) -> Scanned:
        """All of it. A file that vanishes meanwhile is left out; `OSError` for one that cannot be read."""
        import numpy

        found = os.fstat(self._root)
        self._entry(0, b"", index.DIRECTORY, found, self._attributes(self._root))
        todo = [(0, b"")]
        while todo:
            parent, path = todo.pop()
            todo += reversed(self._directory(parent, path))
        numbers = self._cutter.finish()
        columns = {
            name: numpy.frombuffer(values, index._COLUMNS[name]) if values else numpy.empty(0, index._COLUMNS[name])
            for name, values in self._columns.items()
            if not name.startswith("run_")
        }
        texts = (bytes(self._names), bytes(self._targets), bytes(self._xattrs))
        return Scanned(columns, *texts, numbers, self._cutter.size, tuple(self._skipped))

    def _directory(self, parent: int, path: bytes) -> list[tuple[int, bytes]]:
        """Adds what is in a directory; the directories among it, to go on with."""
        try:
            fd = open_in_root(self._root, path or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in _GONE:
                return []
            raise
        try:
            if os.fstat(fd).st_dev != self._device:
                return []
            inner = []
            for name in sorted(os.fsencode(name) for name in os.listdir(fd)):
                below = path + b"/" + name if path else name
                if len(below) > index.MAX_PATH:
                    raise LimitError(f"{os.fsdecode(below):.100}...: a path of more than {index.MAX_PATH} bytes")
                before = len(self._columns["parent"])
                try:
                    entry, found = self._look(fd, parent, name, below)
                except OSError as error:
                    if error.errno in _CHANGED and len(self._columns["parent"]) == before:
                        continue
                    error.filename = below
                    raise
                if found is not None and stat.S_ISDIR(found.st_mode):
                    inner.append((entry, below))
            return inner
        finally:
            os.close(fd)

    def _look(self, directory: int, parent: int, name: bytes, path: bytes) -> tuple[int, os.stat_result | None]:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            self._skipped.append(path)
            return 0, None
        if found.st_nlink > 1 and kind != index.DIRECTORY:
            first = self._links.get((found.st_dev, found.st_ino))
            if first is not None:
                return self._entry(parent, name, index.HARDLINK, None, link=first), found
        if kind == index.FILE:
            entry, found = self._file(directory, parent, name)
        elif kind == index.DIRECTORY:
            with _Opened(directory, name, _FLAGS | os.O_DIRECTORY) as fd:
                found = os.fstat(fd)
                entry = self._entry(parent, name, kind, found, self._attributes(fd))
        else:
            attributes = self._attributes(b"/proc/self/fd/%d/%s" % (directory, name))
            target = os.readlink(name, dir_fd=directory) if kind == index.SYMLINK else b""
            entry = self._entry(parent, name, kind, found, attributes, target=target)
        if found.st_nlink > 1 and kind != index.DIRECTORY:
            self._links[found.st_dev, found.st_ino] = entry
        return entry, found

    def _file(self, directory: int, parent: int, name: bytes) -> tuple[int, os.stat_result]:
        """A regular file, as long as it was when it was opened, or shorter."""
        with _Opened(directory, name, _FLAGS) as fd:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))  # something else has its name now
            entry = self._entry(parent, name, index.FILE, found, self._attributes(fd))
            size, chunks, at = found.st_size, 0, 0
            pages = size >= PAGES * PAGE and size % PAGE == 0
            while at < size:
                start, end = _data(fd, at, size)
                if start > at:
                    self._hole(entry, at, start)
                if start >= size:
                    break
                more, at = self._cutter.extent(fd, start, end, pages)
                chunks += more
                if at < end:  # it has been cut short meanwhile
                    size = at
                if self._progress is not None:
                    self._progress(self._cutter.size)
            self._columns["size"][entry] = size
            self._columns["chunks"][entry] = chunks
            return entry, found

    def _hole(self, entry: int, start: int, end: int) -> None:
        """One that begins where the last one ended is one with it: there was data between them, which was punched out
        before it was read. An index has no holes that touch."""
        entries, offsets, sizes = (self._columns[f"hole_{name}"] for name in ("entry", "offset", "size"))
        if entries and entries[-1] == entry and offsets[-1] + sizes[-1] == start:
            sizes[-1] += end - start
            return
        entries.append(entry)
        offsets.append(start)
        sizes.append(end - start)

    def _attributes(self, file: int | bytes) -> list[tuple[bytes, bytes]]:
        follow = isinstance(file, int)
        try:
            names = sorted(os.fsencode(name) for name in os.listxattr(file, follow_symlinks=follow))
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return []
            raise
        return [(name, os.getxattr(file, name, follow_symlinks=follow)) for name in names]

    def _entry(
        self,
        parent: int,
        name: bytes,
        kind: int,
        found: os.stat_result | None,
        attributes: Sequence[tuple[bytes, bytes]] = (),
        *,
        target: bytes = b"",
        link: int = 0,
    ) -> int:
        column = self._columns
        device = found.st_rdev if found is not None and kind in (index.CHAR, index.BLOCK) else 0
        mode, uid, gid, mtime = (
            (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns) if found else (0, 0, 0, 0)
        )
        values = (parent, kind, mode, uid, gid, mtime, 0, link, os.major(device), os.minor(device))
        for key, value in zip(index.ENTRY_COLUMNS, (*values, len(name), len(target), len(attributes), 0), strict=True):
            column[key].append(value)
        self._names += name
        self._targets += target
        for attribute, content in attributes:
            column["key_size"].append(len(attribute))
            column["value_size"].append(len(content))
            self._xattrs += attribute + content
        return len(column["parent"]) - 1


class _Opened:
    """A descriptor as a context manager: contextlib's costs as much again as the call."""

    def __init__(self, directory: int, name: bytes, flags: int) -> None:
        self._fd = os.open(name, flags, dir_fd=directory)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)


def _data(fd: int, at: int, size: int) -> tuple[int, int]:
    """The next bytes of a file that are there: from where to where; (size, size) when a hole is all that follows."""
    try:
        start = os.lseek(fd, at, os.SEEK_DATA)
        return min(start, size), min(os.lseek(fd, start, os.SEEK_HOLE), size)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size, size
        if error.errno == errno.EINVAL:  # a file system that knows nothing of holes
            return at, size
        raise
