"""`LayerStack`: layers of a store and host directories as one tree, read and changed without a mount."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self

from lazarus._native import union_file, union_names, union_read
from lazarus._native.lookup import ROW_FIELDS, Lookup
from lazarus.errors import UnsupportedError
from lazarus.union.entries import DirEntry, Walk, scan, stat_result, walk
from lazarus.union.file import open_file
from lazarus.union.sources import (
    Source,
    check_apart,
    close_branches,
    directory_of,
    flatten,
    lacks_trusted,
    one_of_each_store,
    open_branches,
    work_directory,
)

if TYPE_CHECKING:
    import numpy

    from lazarus._native.index import Index
    from lazarus._native.union_read import Path
    from lazarus.layers.layer import Layer
    from lazarus.terms import Change

    Paths = Sequence[Path] | bytes | bytearray | memoryview
    Rows = numpy.ndarray[Any, numpy.dtype[Any]]

_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2


class Stats(NamedTuple):
    """What writing has cost since the stack was opened. `copyups` counts files by the rung of the ladder that served,
    `copyups_other` directories, symlinks and devices; bytes are those that callers wrote, and those copied up."""

    copyups: dict[str, int]
    copyups_other: int
    bytes_asked: int
    bytes_copied: int


class LayerStack(Lookup):
    """One tree made of layers, images and host directories, the lowest first, and at most one writable `upper`.

    Paths are bytes, text or path objects, from the root of the stack, with or without a leading slash; symlinks resolve
    inside. Errors are `OSError` with the errno that Linux gives. Any number of threads may use one stack, and any
    number of processes one upper (which no kernel mount may use meanwhile). A context manager. Files that are open when
    it is closed stay open, and keep what they need.

    A layer's number, in `lookup` and elsewhere, is its place in `layers`; the upper's comes last.
    """

    layers: tuple[Layer | str, ...]
    upper: str | None
    work: str | None
    marks: bool
    user_xattr: bool
    read_only: bool
    _index: Index | None  # of a stack whose lowers are layers of one store alone

    def __init__(
        self,
        sources: Iterable[Source] = (),
        *,
        upper: str | bytes | os.PathLike[str] | None = None,
        work: str | bytes | os.PathLike[str] | None = None,
        marks: bool = True,
        user_xattr: bool | None = None,
        rung: str = "auto",
        block_threshold: int = 16 << 20,
        block_size: int = 0,
        read_only: bool = False,
        lock: int = -1,
    ) -> None:
        """Opens it. Nothing is copied, and no directory is read.

        `upper`, a directory, gets the changes, in overlayfs' own format; `work` (default: `upper` + ".work", made when
        missing) must be a directory of its own on the same file system. `marks`: whiteouts and other overlay marks in
        host directories count, as in the kernel's lowers. `user_xattr`: marks are user.overlay.* (default: where
        trusted.overlay.* may not be written). `rung` names how files are copied up, when only one way will do:
        "metacopy", "blocks", "clone", "copy_file_range", "sendfile" or "read-write". Files of `block_threshold` bytes
        and more are copied up block by block (`block_size`, default 4 KiB) where the file system cannot clone.
        `read_only` reads an upper that other stacks may write, also what they have written block by block, and changes
        nothing (EROFS); so does a stack without an upper. A copy of the descriptor `lock` is held until the stack and
        its last file are closed.

        Raises `NotFoundError`, `ConflictError` for directories that cannot go together, `OSError`.
        """
        if rung not in union_read.RUNGS:
            raise ValueError(f"rung {rung!r:.40}: not one of {', '.join(union_read.RUNGS)}")
        flat = flatten(sources)
        top = None if upper is None else directory_of(upper, "upper")
        room = None if top is None else work_directory(top, work)
        if top is not None and room is not None:
            check_apart([(top, "upper"), (room, "work"), *((path, "lower") for path in flat if isinstance(path, str))])
        user = bool(user_xattr)
        upper_fd = work_fd = -1
        with ExitStack() as opened:

            def keep(fd: int) -> int:
                opened.callback(os.close, fd)
                return fd

            also = [keep(layer.hold()) for layer in one_of_each_store(flat)]  # before anything of theirs is opened
            branches = open_branches(flat, marks)
            opened.callback(close_branches, branches)
            if top is not None and room is not None:
                if user_xattr is None:
                    user = lacks_trusted(room)
                upper_fd, work_fd = (
                    keep(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) for path in (top, room)
                )
            if lock >= 0:
                also.append(keep(os.dup(lock)))
            opened.pop_all()  # the native union's from here on, also when it cannot be opened
        super().__init__(
            branches,
            upper_fd,
            work_fd,
            user_xattr=user,
            rung=union_read.RUNGS.index(rung),
            block_threshold=block_threshold,
            block_size=block_size,
            read_only=read_only,
            also=also,
        )
        self.layers = tuple(flat)
        self.upper = top
        self.work = room
        self.marks = marks
        self.user_xattr = user
        self.read_only = read_only or top is None
        self._index = branches[0][0] if len(branches) == 1 and len(branches[0]) == 3 else None

    # -- looking: `lookup` is the native class's --

    def lookup_many(
        self,
        paths: Paths,
        offsets: Rows | None = None,
        *,
        follow: bool = False,
        out: Rows | None = None,
    ) -> Rows:
        """What many names are: a structured array with a row for each path (fields: `ROW_FIELDS`), by one native call.

        `paths` are a sequence of paths, or, faster, one buffer that holds them one after the other, with `offsets`
        (uint64, one more than paths): path i is paths[offsets[i]:offsets[i + 1]]. A name that is missing has layer and
        entry -1, kind and mode 0, and the errno in `error`; nothing is raised for it. `out`, of the right length, is
        filled and returned. Over images alone about 60 ns a path, whatever the number of layers.
        """
        import numpy

        if offsets is None and isinstance(paths, str | bytes | os.PathLike):
            raise TypeError("paths: a sequence of paths is needed, or a buffer and its offsets, not one path")
        ends = None
        if offsets is not None:
            given = numpy.asarray(offsets)
            if given.ndim != 1 or given.size == 0 or given.dtype.kind not in "iu":
                raise ValueError(f"offsets: {given.shape} of {given.dtype}, expected a row of whole numbers")
            ends = numpy.ascontiguousarray(given, numpy.uint64)
        count = len(paths) if ends is None else len(ends) - 1
        rows = numpy.empty(count, _row_type()) if out is None else out
        if rows.dtype != _row_type() or rows.shape != (count,):
            raise ValueError(f"out: {rows.shape} of {rows.dtype}, expected {(count,)} of the dtype of lookup_many()")
        self.lookup_rows(paths, ends, rows, follow=follow)
        return rows

    def layer_of(self, paths: Paths, offsets: Rows | None = None, *, follow: bool = False) -> Rows:
        """The number of the layer that each name comes from, -1 for those that are missing; arguments as above."""
        rows: Rows = self.lookup_many(paths, offsets, follow=follow)["layer"].copy()
        return rows

    @property
    def entries(self) -> Rows:
        """Every entry of a stack that is layers alone (an upper does not count): a read-only structured view of the
        mapped index, without a copy (csrc/bytes/lz_index.h has its fields). It outlives the stack.

        `UnsupportedError` when host directories are among the layers: there is no one table then.
        """
        import numpy

        from lazarus._native.entry import ENTRY_FIELDS

        self._check_open()
        if self._index is None:
            raise UnsupportedError("layer stack: entries: it is not made of layers of one store alone")
        return numpy.frombuffer(self._index.entries_buffer, numpy.dtype(list(ENTRY_FIELDS)))

    def stat(self, path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        """As os.stat()."""
        return stat_result(union_read.stat(self, path, follow=follow_symlinks))

    def exists(self, path: Path) -> bool:
        """Is there such a name, and not only a symlink to nowhere?"""
        return self.lookup(path, follow=True) is not None

    def readlink(self, path: Path) -> bytes:
        """As os.readlink()."""
        return union_read.readlink(self, path)

    def realpath(self, path: Path) -> bytes:
        """The path without symlinks, `.` and `..`; its last component may be missing."""
        return union_read.realpath(self, path)

    def scandir(self, path: Path = b"/") -> Iterator[DirEntry]:
        """The entries of a directory, sorted by name: a snapshot. Attributes come with them."""
        return iter(scan(self, path))

    def listdir(self, path: Path = b"/") -> list[bytes]:
        """The names of a directory, sorted."""
        return [name for name, _ in union_read.scan(self, path)]

    def walk(self, top: Path = b"/") -> Walk:
        """(path, directories, others) of `top` and every directory below it, parents first, all sorted by name; the
        two are lists of DirEntry. Symlinks are not followed."""
        return walk(self, top)

    def listxattr(self, path: Path, *, follow_symlinks: bool = True) -> list[bytes]:
        """The names of the extended attributes."""
        return union_read.listxattr(self, path, follow=follow_symlinks)

    def getxattr(self, path: Path, attribute: str | bytes, *, follow_symlinks: bool = True) -> bytes:
        """One extended attribute."""
        return union_read.getxattr(self, path, attribute, follow=follow_symlinks)

    def open(
        self,
        path: Path,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        *,
        permissions: int = 0o644,
    ) -> IO[Any]:
        """As the builtin open(). `buffering` 0 gives a `StackFile` (io.RawIOBase), which other modes wrap. A new file
        gets `permissions`, without a umask."""
        return open_file(self, path, mode, buffering, encoding, errors, newline, permissions)

    # -- changing: EROFS without an upper --

    def mkdir(self, path: Path, mode: int = 0o755) -> None:
        """As os.mkdir(), without a umask."""
        union_names.mkdir(self, path, mode)

    def mknod(self, path: Path, mode: int = 0o644, device: int = 0) -> None:
        """As os.mknod(), without a umask: a file, FIFO, socket or device, as the type bits of `mode` say."""
        union_names.mknod(self, path, mode, device)

    def symlink(self, target: Path, path: Path) -> None:
        """As os.symlink()."""
        union_names.symlink(self, target, path)

    def link(self, source: Path, target: Path) -> None:
        """As os.link(): a further name. Names that are linked stay linked when they are copied up."""
        union_names.link(self, source, target)

    def unlink(self, path: Path) -> None:
        """As os.unlink()."""
        union_names.unlink(self, path)

    def rmdir(self, path: Path) -> None:
        """As os.rmdir(): ENOTEMPTY as long as any layer shows something in it."""
        union_names.rmdir(self, path)

    def rename(self, source: Path, target: Path, *, replace: bool = True, exchange: bool = False) -> None:
        """As os.rename(), for directories too. `replace` False: EEXIST when the target is there; `exchange`: both
        change places."""
        flags = (0 if replace else _RENAME_NOREPLACE) | (_RENAME_EXCHANGE if exchange else 0)
        union_names.rename(self, source, target, flags)

    def chmod(self, path: Path, mode: int, *, follow_symlinks: bool = True) -> None:
        """As os.chmod(). Of a file in a layer only the attributes are copied up."""
        union_names.chmod(self, path, mode, follow=follow_symlinks)

    def chown(self, path: Path, uid: int, gid: int, *, follow_symlinks: bool = True) -> None:
        """As os.chown(); -1 leaves one as it is."""
        union_names.chown(self, path, uid, gid, follow=follow_symlinks)

    def utime(
        self,
        path: Path,
        times: tuple[float, float] | None = None,
        *,
        ns: tuple[int, int] | None = None,
        follow_symlinks: bool = True,
    ) -> None:
        """As os.utime(): access and modification time in seconds, or in nanoseconds as `ns`; now without either."""
        import time

        if times is not None and ns is not None:
            raise ValueError("times or ns, not both")
        both = ns or (time.time_ns(),) * 2 if times is None else tuple(int(value * 10**9) for value in times)
        atime, mtime = (divmod(value, 10**9) for value in both)
        union_names.utime(self, path, atime, mtime, follow=follow_symlinks)

    def truncate(self, path: Path, length: int) -> None:
        """As os.truncate()."""
        union_names.truncate(self, path, length)

    def setxattr(
        self, path: Path, attribute: str | bytes, value: bytes, flags: int = 0, *, follow_symlinks: bool = True
    ) -> None:
        """As os.setxattr()."""
        union_names.setxattr(self, path, attribute, value, flags, follow=follow_symlinks)

    def removexattr(self, path: Path, attribute: str | bytes, *, follow_symlinks: bool = True) -> None:
        """As os.removexattr()."""
        union_names.setxattr(self, path, attribute, None, follow=follow_symlinks)

    def settle(self, path: Path = b"/") -> int:
        """Makes every block-level file below `path` a whole one, as other readers of the upper need it; how many."""
        return union_file.settle(self, path)

    # -- what has become of it --

    def diff(self) -> Iterator[Change]:
        """What the upper changes: a directory before its children, children by name. Costs what the upper holds."""
        from lazarus.union.changes import diff

        self._check_open()
        return diff(self)

    @property
    def stats(self) -> Stats:
        """What writing has cost so far, in this process."""
        copyups, other, asked, copied = union_read.stats(self)
        counts = {name: count for name, count in zip(union_read.RUNGS, copyups, strict=True) if count}
        return Stats(counts, other, asked, copied)

    def close(self) -> None:
        """Ends it: further calls raise ValueError. Calls that run, and open files, go on. A second call is harmless."""
        super().close()
        self._index = None

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the stack is closed")

    def __repr__(self) -> str:
        return f"<LayerStack of {len(self.layers)}{', ' + self.upper if self.upper else ''}>"


def _row_type() -> numpy.dtype[Any]:
    import numpy

    return numpy.dtype(list(ROW_FIELDS))
