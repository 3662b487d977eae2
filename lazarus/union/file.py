"""A file of a stack as Python's io module knows files."""

from __future__ import annotations

import errno
import io
import os
import threading
from typing import IO, TYPE_CHECKING, Any, Never

from lazarus._native.union_file import Handle
from lazarus.union.entries import stat_result

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from lazarus._native.info import Info
    from lazarus._native.union import Union
    from lazarus._native.union_read import Path


class StackFile(io.RawIOBase):
    """An open file of a stack, unbuffered. What io.FileIO has, but for a descriptor: `fileno()` is unsupported.

    It may be used by several threads; each read and write at the current position is one step. Closing the stack
    leaves it open. Further: `pread`, `pwrite`, `sync`, `punch_hole`, `copy_range`, `stat`, `info`, and
    `seek(offset, os.SEEK_DATA | os.SEEK_HOLE)`.
    """

    def __init__(self, union: Union, path: Path, flags: int, permissions: int = 0o644) -> None:
        """`flags` are those of os.open(); `permissions` a new file's, without a umask."""
        super().__init__()
        access = flags & os.O_ACCMODE
        self._readable = access != os.O_WRONLY
        self._writable = access != os.O_RDONLY
        self._appending = bool(flags & os.O_APPEND)
        self._lock = threading.Lock()
        self._position = 0
        self._handle = Handle(union, path, flags, permissions)
        info = self._handle.stat()
        if info.kind == "directory":  # which open(2) lets be read-only
            self.close()
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if self._appending:
            self._position = info.size

    @property
    def name(self) -> str | bytes:
        """The path it was opened by."""
        return self._handle.path

    @property
    def mode(self) -> str:
        """As io.FileIO's."""
        if self._appending:
            return "ab+" if self._readable else "ab"
        if not self._writable:
            return "rb"
        return "rb+" if self._readable else "wb"

    def close(self) -> None:
        """Closes it; calls of other threads that run end as they would. A second call is harmless."""
        if not self.closed:
            try:
                super().close()
            finally:
                self._handle.close()

    def readable(self) -> bool:
        """Was it opened for reading?"""
        self._check_open()
        return self._readable

    def writable(self) -> bool:
        """Was it opened for writing?"""
        self._check_open()
        return self._writable

    def seekable(self) -> bool:
        """Always."""
        self._check_open()
        return True

    def fileno(self) -> Never:
        """Unsupported: its bytes may lie in several files."""
        raise io.UnsupportedOperation("a file of a layer stack has no descriptor of its own")

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Reads at the position; 0 at the end."""
        self._check_readable()
        with self._lock:
            count = self._handle.read_into(buffer, self._position)
            self._position += count
            return count

    def readall(self) -> bytes:
        """Everything from the position on."""
        self._check_readable()
        with self._lock:
            parts = bytearray()
            size = max(self._handle.stat().size - self._position, 0)
            while True:
                piece = bytearray(size + 1)  # the end is seen in the same call
                count = self._handle.read_into(piece, self._position)
                self._position += count
                parts += memoryview(piece)[:count]
                if count == 0:
                    return bytes(parts)
                size = io.DEFAULT_BUFFER_SIZE if count > size else 0

    def write(self, data: ReadableBuffer, /) -> int:
        """Writes at the position, or at the end when it was opened for appending."""
        self._check_writable()
        with self._lock:
            count = self._handle.write(data, self._position)
            if self._appending and count > 0:
                self._position = self._handle.stat().size
            else:
                self._position += count
            return count

    def pread(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes at `offset`; the position stays."""
        self._check_readable()
        out = bytearray(size)
        return bytes(memoryview(out)[: self._handle.read_into(out, offset)])

    def pwrite(self, data: ReadableBuffer, offset: int) -> int:
        """Writes at `offset`; the position stays."""
        self._check_writable()
        return self._handle.write(data, offset)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Moves the position. With os.SEEK_DATA and os.SEEK_HOLE to the next data or hole from `offset` on."""
        self._check_open()
        with self._lock:
            if whence in (os.SEEK_DATA, os.SEEK_HOLE):
                position = self._handle.seek(offset, whence)
            elif whence in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
                base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
                position = (self._handle.stat().size if base is None else base) + offset
            else:
                raise ValueError(f"whence {whence!r}: not one of os.SEEK_*")
            if position < 0:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self.name)
            self._position = position
            return position

    def tell(self) -> int:
        """The position."""
        self._check_open()
        return self._position

    def truncate(self, size: int | None = None, /) -> int:
        """Sets the size (None: to the position); the position stays."""
        self._check_writable()
        size = self._position if size is None else size
        if size < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self.name)
        self._handle.truncate(size)
        return size

    def sync(self) -> None:
        """fdatasync: what was written so far survives a power cut."""
        self._check_open()
        self._handle.sync()

    def punch_hole(self, offset: int, size: int) -> None:
        """Makes a range read as zeros and gives its blocks back; the size stays."""
        self._check_writable()
        self._handle.punch_hole(offset, size)

    def copy_range(self, offset: int, target: StackFile, target_offset: int, size: int) -> int:
        """copy_file_range() into another file of a stack; a clone where the file system can. The number of bytes."""
        self._check_readable()
        target._check_writable()
        return self._handle.copy_range(offset, target._handle, target_offset, size)

    def info(self) -> Info:
        """What it is now, as `LayerStack.lookup` gives it."""
        self._check_open()
        return self._handle.stat()

    def stat(self) -> os.stat_result:
        """As os.fstat()."""
        return stat_result(self.info())

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _check_readable(self) -> None:
        if not self.readable():
            raise io.UnsupportedOperation("not readable")

    def _check_writable(self) -> None:
        if not self.writable():
            raise io.UnsupportedOperation("not writable")

    def __repr__(self) -> str:
        return f"<StackFile {self._handle.path!r} {'closed' if self.closed else self.mode}>"


_FLAGS = {"r": 0, "w": os.O_CREAT | os.O_TRUNC, "a": os.O_CREAT | os.O_APPEND, "x": os.O_CREAT | os.O_EXCL}


def open_file(
    union: Union,
    path: Path,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    permissions: int,
) -> IO[Any]:
    """What the builtin open() does, in a stack. See `LayerStack.open`."""
    kinds = [letter for letter in mode if letter in _FLAGS]
    if len(kinds) != 1 or len(set(mode)) != len(mode) or not set(mode) <= set("rwaxbt+") or {"b", "t"} <= set(mode):
        raise ValueError(f"invalid mode: {mode!r}")
    binary = "b" in mode
    if binary and (encoding is not None or errors is not None or newline is not None):
        raise ValueError("binary mode takes no encoding, errors or newline")
    if buffering == 0 and not binary:
        raise ValueError("can't have unbuffered text I/O")
    access = os.O_RDWR if "+" in mode else os.O_RDONLY if kinds[0] == "r" else os.O_WRONLY
    raw = StackFile(union, path, access | _FLAGS[kinds[0]], permissions)
    if buffering == 0:
        return raw  # type: ignore[return-value]
    try:
        size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        if "+" in mode:
            buffered: Any = io.BufferedRandom(raw, size)
        elif raw.writable():
            buffered = io.BufferedWriter(raw, size)
        else:
            buffered = io.BufferedReader(raw, size)
        if binary:
            return buffered  # type: ignore[no-any-return]
        text = io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)
        text.mode = mode  # type: ignore[misc]
        return text
    except BaseException:
        raw.close()
        raise
