"""An fsspec file system over images and containers: `lazarus://IMAGE-OR-CONTAINER/path`.

    fsspec.open("lazarus://debian:app/etc/passwd")    # in the store that the command line uses, too
    fsspec.filesystem("lazarus", target="c1", root="/srv/lazarus")
    LayerFileSystem(stack=stack)                      # any LayerStack

A name with slashes is given as `target=`, or in a URL with %2F for each. Images are read-only (EROFS); what is written
to a container is a change of that container. Paths that are not UTF-8 come with surrogate escapes, as os.fsdecode() has
them.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from datetime import UTC, datetime
from shutil import SameFileError
from threading import Lock
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, unquote
from weakref import finalize

from fsspec import AbstractFileSystem

from lazarus.union.file import StackFile

if TYPE_CHECKING:
    from lazarus._native.info import Info
    from lazarus.union.layer_stack import LayerStack

_PIECE = 1 << 30  # bytes: between two of them a copy can be interrupted
_TYPES = {"directory": "directory", "file": "file", "symlink": "link"}


class LayerFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """The files of one image, container or `LayerStack`.

    Not cached by fsspec, for it holds descriptors: they are given back with `close()`, or with the object.
    """

    protocol = "lazarus"
    root_marker = "/"
    cachable = False

    def __init__(
        self,
        target: str | None = None,
        root: str | os.PathLike[str] | None = None,
        *,
        stack: LayerStack | None = None,
        auto_mkdir: bool = False,
        **options: Any,
    ) -> None:
        """Opens the container or image `target` of the store at `root` (default: as `lazarus.Store()`), or uses
        `stack`, which stays the caller's. `auto_mkdir`: writing a file makes its missing directories.

        Raises `NotFoundError`; `ValueError` unless exactly one of `target` and `stack` is given.
        """
        super().__init__(**options)
        if (target is None) == (stack is None):
            raise ValueError("one of target (an image or a container) and stack is needed")
        self.auto_mkdir = auto_mkdir
        self.target = target
        self._finalizer: finalize[Any, Any] | None = None
        self._lock = Lock()
        if stack is not None:
            self.stack = stack
            return
        from lazarus.store import Store

        store = Store(root)
        try:
            self.stack = store.stack(target or "")
        except BaseException:
            store.close()
            raise
        self._store = store
        self._finalizer = finalize(self, _close, self.stack, store)

    def _writable(self) -> LayerStack:
        """The stack, opened anew for writing when it has to be: as long as one is, its container cannot be started."""
        with self._lock:
            if self._finalizer is None or not self.stack.read_only:
                return self.stack
            stack = self._store.stack(self.target or "", writable=True)
            self._finalizer.detach()
            self.stack = stack  # another thread may still read the one before; it goes with its last reference
            self._finalizer = finalize(self, _close, stack, self._store)
            return stack

    def close(self) -> None:
        """Gives back what it opened. Open files go on."""
        if self._finalizer is not None:
            self._finalizer()

    @property
    def fsid(self) -> str:
        """Two file systems of the same target have the same."""
        return f"lazarus-{self.target or id(self.stack)}"

    # -- paths --

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        text = os.fsdecode(path)
        for prefix in ("lazarus://", "lazarus::"):
            if text.startswith(prefix):
                text = "/" + text.removeprefix(prefix).partition("/")[2]
                break
        return "/" + text.strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        name = path.removeprefix("lazarus://").partition("/")[0]
        return {"target": unquote(name)} if path.startswith("lazarus://") and name else {}

    def unstrip_protocol(self, name: str) -> str:
        """The URL of a path; without a target only the path can be said."""
        return f"lazarus://{quote(self.target or '', safe=':@')}{self._strip_protocol(name)}"

    # -- looking --

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """name, size, type (directory, file, link, other), mode, uid, gid, mtime, nlink, ino, layer; `sha256` of a file
        that no one has changed; of a symlink: destination, and size and type of what it leads to."""
        path = self._strip_protocol(path)
        found = self.stack.lookup(os.fsencode(path))
        if found is None:
            raise FileNotFoundError(2, os.strerror(2), path)
        return self._row(path, found)

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """The directory's children; of a file, the file."""
        path = self._strip_protocol(path)
        info = self.info(path)
        if info["type"] != "directory":
            rows = [info]
        else:
            base = "" if path == "/" else path
            rows = [
                self._row(f"{base}/{os.fsdecode(entry.name)}", entry.info)
                for entry in self.stack.scandir(os.fsencode(path))
            ]
        return rows if detail else [row["name"] for row in rows]

    def _row(self, path: str, found: Info) -> dict[str, Any]:
        row: dict[str, Any] = {
            "name": path,
            "size": found.size if found.kind == "file" else 0,
            "type": _TYPES.get(found.kind, "other"),
            "created": found.ctime_ns / 1e9,
            "islink": found.kind == "symlink",
            "mode": found.mode,
            "uid": found.uid,
            "gid": found.gid,
            "mtime": found.mtime_ns / 1e9,
            "ino": found.number,
            "nlink": found.link_count,
            "layer": found.layer,
        }
        if found.digest is not None:
            row["sha256"] = found.digest.hex()
        if found.kind == "symlink":
            row["destination"] = os.fsdecode(self.stack.readlink(os.fsencode(path)))
            try:
                leads_to = self.stack.lookup(os.fsencode(path), follow=True)
            except OSError:  # a loop
                leads_to = None
            if leads_to is not None:
                row["size"] = leads_to.size if leads_to.kind == "file" else 0
                row["type"] = _TYPES.get(leads_to.kind, "other")
        return row

    def created(self, path: str) -> datetime:
        """When its attributes last changed: there is no birth time in a layer."""
        return datetime.fromtimestamp(self.info(path)["created"], tz=UTC)

    def modified(self, path: str) -> datetime:
        """When its content last changed."""
        return datetime.fromtimestamp(self.info(path)["mtime"], tz=UTC)

    def lexists(self, path: str, **options: Any) -> bool:
        """Is there such a name, be it a symlink to nowhere?"""
        return self.stack.lookup(os.fsencode(self._strip_protocol(path))) is not None

    # -- files --

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> IO[bytes] | StackFile:
        path = self._strip_protocol(path)
        if self.auto_mkdir and mode[0] in "wax":
            self.makedirs(self._parent(path), exist_ok=True)
        reading = mode in ("r", "rb")
        stack = self.stack if reading else self._writable()
        if autocommit or reading:
            file: IO[bytes] = stack.open(os.fsencode(path), mode)
            return file
        return PendingFile(stack, os.fsencode(path), mode)

    def touch(self, path: str, truncate: bool = True, **options: Any) -> None:
        """Makes an empty file, or sets the times of one; `truncate` empties it."""
        path = self._strip_protocol(path)
        with self._open(path, "wb" if truncate else "ab"):
            pass
        self._writable().utime(os.fsencode(path))

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        """Copies a file (a clone where the file system can), or makes the directory."""
        path1, path2 = self._strip_protocol(path1), self._strip_protocol(path2)
        if self.isdir(path1):
            self.makedirs(path2, exist_ok=True)
            return
        if self.auto_mkdir:
            self.makedirs(self._parent(path2), exist_ok=True)
        stack = self._writable()
        places = [stack.lookup(os.fsencode(path), follow=True) for path in (path1, path2)]
        if all(places) and len({(place.device, place.number) for place in places if place is not None}) == 1:
            raise SameFileError(f"{path1} and {path2} are the same file")
        with (
            stack.open(os.fsencode(path1), "rb", buffering=0) as source,
            stack.open(os.fsencode(path2), "wb", buffering=0) as target,
        ):
            offset = 0
            while count := source.copy_range(offset, target, offset, _PIECE):  # type: ignore[attr-defined]
                offset += count

    # -- names --

    def mkdir(self, path: str, create_parents: bool = True, **options: Any) -> None:
        """Makes a directory, and those above it."""
        path = self._strip_protocol(path)
        if self.lexists(path):
            raise FileExistsError(17, os.strerror(17), path)
        if create_parents:
            self.makedirs(self._parent(path), exist_ok=True)
        self._writable().mkdir(os.fsencode(path))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Makes a directory and those above it."""
        path = self._strip_protocol(path)
        if self.exists(path):
            if exist_ok and self.isdir(path):
                return
            raise FileExistsError(17, os.strerror(17), path)
        self.makedirs(self._parent(path), exist_ok=True)
        self._writable().mkdir(os.fsencode(path))

    def rmdir(self, path: str) -> None:
        """Removes an empty directory."""
        self._writable().rmdir(os.fsencode(self._strip_protocol(path)))

    def rm_file(self, path: str) -> None:
        """Removes a name that is no directory."""
        self._writable().unlink(os.fsencode(self._strip_protocol(path)))

    _rm = rm_file

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Removes files, and with `recursive` directories. Symlinks are removed, not followed."""
        if isinstance(path, str) and not any(letter in path for letter in "*?["):
            self._remove(os.fsencode(self._strip_protocol(path)), recursive)
            return
        for one in reversed(self.expand_path(path, recursive=recursive, maxdepth=maxdepth)):
            self._remove(os.fsencode(one), recursive)

    def _remove(self, path: bytes, recursive: bool) -> None:
        found = self.stack.lookup(path)
        if found is None:
            raise FileNotFoundError(2, os.strerror(2), os.fsdecode(path))
        if found.kind != "directory":
            self._writable().unlink(path)
            return
        if recursive:
            for entry in self.stack.scandir(path):
                self._remove(entry.path, True)
        self._writable().rmdir(path)

    def mv(self, path1: str, path2: str, recursive: bool = False, maxdepth: int | None = None, **options: Any) -> None:
        """Renames, of directories too: nothing is copied but names."""
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if self.isdir(target):
            target = f"{target.rstrip('/')}/{source.rpartition('/')[2]}"
        self._writable().rename(os.fsencode(source), os.fsencode(target))

    mv_file = mv

    def chmod(self, path: str, mode: int) -> None:
        """As os.chmod()."""
        self._writable().chmod(os.fsencode(self._strip_protocol(path)), stat.S_IMODE(mode))

    def link(self, src: str, dst: str, **options: Any) -> None:
        """A further name for a file."""
        self._writable().link(os.fsencode(self._strip_protocol(src)), os.fsencode(self._strip_protocol(dst)))

    def symlink(self, src: str, dst: str, **options: Any) -> None:
        """A symlink `dst` that says `src`."""
        self._writable().symlink(os.fsencode(src), os.fsencode(self._strip_protocol(dst)))


class PendingFile(StackFile):
    """Has no name that others know until `commit()`; `discard()` forgets it. For mode "wb" alone."""

    def __init__(self, stack: LayerStack, path: bytes, mode: str) -> None:
        """EEXIST never comes of it: the name beside is random. `ValueError` for another mode."""
        if mode not in ("w", "wb"):
            raise ValueError(f"mode {mode!r} in a transaction: only wb can be undone")
        self._stack = stack
        self._path = path
        head, _, tail = path.rpartition(b"/")
        self._pending = b"%s/.%s.%s.pending" % (head, tail[:50], os.urandom(6).hex().encode())
        super().__init__(stack, self._pending, os.O_WRONLY | os.O_CREAT | os.O_EXCL)

    def commit(self) -> None:
        """Gives it its name; what had it is replaced, and leaves it its owner and mode."""
        self.close()
        before = self._stack.lookup(self._path)
        if before is not None and before.kind == "file":
            with suppress(PermissionError):  # only root may give a file away
                self._stack.chown(self._pending, before.uid, before.gid)
            self._stack.chmod(self._pending, stat.S_IMODE(before.mode))
        self._stack.rename(self._pending, self._path)

    def discard(self) -> None:
        """Removes it."""
        self.close()
        self._stack.unlink(self._pending)


def _close(stack: LayerStack, store: Any) -> None:
    stack.close()
    store.close()
