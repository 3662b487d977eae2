"""Writing into an OCI layout that others read meanwhile: what it holds appears when it is whole.

One process at a time adds to a layout: it holds the directory (flock) from the first look at what is there to the
end. Blobs come under names in `.lazarus-push/`, are synced, and get their own names together; index.json is replaced
last, in one step, and is all that makes them count. Killed at any moment, the layout is what it was, with at most blobs
that nobody names; the next writer removes what is left in `.lazarus-push/`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

from lazarus.errors import NO_ROOM, ConflictError
from lazarus.oci.documents import ImageIndex, descriptor_json, parse_index
from lazarus.oci.layout import INDEX, MARKER, VERSION, Layout, open_layout
from lazarus.oci.strict_json import dumps
from lazarus.oci.writers import write_all, write_hashed
from lazarus.terms import Descriptor, Digest, Json

REF_NAME = "org.opencontainers.image.ref.name"
_BLOBS = "blobs/sha256"
_PARTIAL = ".lazarus-push"
_EMPTY: Json = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}


class LayoutDirectory:
    """A layout that is written to; a context manager. An empty or missing directory becomes a layout.

    `ConflictError` for a directory that is something else, `OSError` with the path for what the kernel refuses.
    Entering waits as long as another process adds to it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1
        self._staged: dict[Digest, str] = {}
        self._layout: Layout | None = None

    def __enter__(self) -> Self:
        with suppress(FileExistsError):
            os.mkdir(self.path)
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            self._begin()
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        from lazarus._native.publish import remove_tree

        if self._layout is not None:
            self._layout.close()
        with suppress(OSError):  # else the next writer does it
            remove_tree(f"{self.path}/{_PARTIAL}")
        os.close(self._fd)

    def _begin(self) -> None:
        from lazarus._native.publish import remove_tree

        there = set(os.listdir(self.path)) - {_PARTIAL}
        if there and MARKER not in there:
            raise ConflictError(f"{self.path}: exists and is neither empty nor an OCI layout")
        partial = f"{self.path}/{_PARTIAL}"
        if os.path.lexists(partial):
            remove_tree(partial)
        os.mkdir(partial, 0o700)
        if not there:
            self._replace(MARKER, b'{"imageLayoutVersion":"' + VERSION.encode() + b'"}')
        os.makedirs(f"{self.path}/{_BLOBS}", exist_ok=True)
        if INDEX not in there:
            self._replace(INDEX, dumps(_EMPTY))
        self._layout = open_layout(self.path)

    @property
    def layout(self) -> Layout:
        """What is there, to read."""
        if self._layout is None:
            raise RuntimeError("not entered")
        return self._layout

    def index(self) -> ImageIndex:
        """index.json as it is now."""
        return parse_index(self.layout.index(), None, f"{self.path}: {INDEX}")

    def add(self, descriptor: Descriptor, data: bytes | memoryview) -> None:
        """A blob, synced; it has no name yet. One of that name is replaced: its bytes may have been lost."""
        name = f"{_PARTIAL}/{descriptor.digest.hex}"
        self._write(name, data)
        self._staged[descriptor.digest] = name

    def add_pieces(self, digest: Digest | None, pieces: Iterable[bytes | memoryview]) -> tuple[Digest, int]:
        """As `add`, for what does not fit into memory: digest and size. `CorruptError` when it has not this digest.
        Safe from several threads."""
        name = f"{_PARTIAL}/{os.urandom(12).hex()}"
        found, size = write_hashed(f"{self.path}/{name}", digest, pieces)
        self._staged[found] = name
        return found, size

    def has(self, descriptor: Descriptor) -> bool:
        """Is there a blob of that name and size?"""
        try:
            return os.stat(f"{self.path}/{_BLOBS}/{descriptor.digest.hex}").st_size == descriptor.size
        except FileNotFoundError:
            return False

    def publish(self, manifest: Descriptor, tag: str, artifact_type: str = "") -> None:
        """The blobs get their names, then index.json names `manifest`; what had this tag (or, for "", none) has it no
        more. Everything is on disk when this returns."""
        document = dict(self.index().raw)
        entries = [entry for entry in document["manifests"] if _tag(entry) != tag]
        entry = descriptor_json(manifest._replace(annotations={REF_NAME: tag} if tag else {}))
        if artifact_type:
            entry["artifactType"] = artifact_type
        document["manifests"] = [*entries, entry]
        data = dumps(document)
        for digest, name in self._staged.items():
            os.rename(f"{self.path}/{name}", f"{self.path}/{_BLOBS}/{digest.hex}")
        self._staged.clear()
        for directory in (_BLOBS, "blobs"):
            _sync(f"{self.path}/{directory}")
        self._replace(INDEX, data)

    def _write(self, name: str, data: bytes | memoryview) -> None:
        path = f"{self.path}/{name}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            write_all(fd, data)
            os.fsync(fd)
        except OSError as error:
            error.filename = self.path if error.errno in NO_ROOM else path
            raise
        finally:
            os.close(fd)

    def _replace(self, name: str, data: bytes) -> None:
        self._write(f"{_PARTIAL}/{name}", data)
        os.rename(f"{self.path}/{_PARTIAL}/{name}", f"{self.path}/{name}")
        _sync(self.path)


def _tag(entry: Json) -> str:
    annotations = entry.get("annotations") or {}
    return str(annotations.get(REF_NAME) or "")


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
