"""The words of the field as types. Nothing here does I/O, and nothing here imports another room.

Named tuples and not dataclasses: importing `dataclasses` alone costs as much as starting a container (10 ms).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from lazarus.errors import FormatError

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}\Z")


class Digest(str):
    """`sha256:<64 hex digits>` of bytes as stored. A `str`, so it goes into JSON, SQL and dictionaries as it is."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Raises `FormatError` for anything that is not a SHA-256 digest string."""
        if not isinstance(text, str) or _SHA256.match(text) is None:
            raise FormatError(f"not a {cls.__name__}: {text!r:.100} (expected sha256: and 64 lower-case hex digits)")
        return super().__new__(cls, text)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """From the 32 raw bytes."""
        return cls("sha256:" + raw.hex())

    @property
    def hex(self) -> str:
        """The 64 hex digits."""
        return self[7:]

    @property
    def raw(self) -> bytes:
        """The 32 bytes."""
        return bytes.fromhex(self.hex)


class DiffID(Digest):
    """Digest of a layer's uncompressed tar."""

    __slots__ = ()


class ChainID(Digest):
    """Digest that names a stack of layers (OCI image-spec, config.md, "Layer ChainID")."""

    __slots__ = ()


class Platform(NamedTuple):
    """OCI image index platform."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(NamedTuple):
    """OCI content descriptor (image-spec, descriptor.md)."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = MappingProxyType({})


class Mount(NamedTuple):
    """What a driver wants mounted. Drivers return it; `lazarus.mounts.attach` is the only place that acts on it.

    `image` is an EROFS metadata image; `above` and `lowers` are host directories over and under it, topmost first;
    `data` are data-only lowers. `upper` and `work` are both set (writable) or both None (read-only).
    """

    image: str | None = None
    lowers: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    upper: str | None = None
    work: str | None = None
    metacopy: bool = True
    redirect_dir: bool = True
    volatile: bool = False
    read_only: bool = False
    above: tuple[str, ...] = ()


class Change(NamedTuple):
    """One line of a diff. `change` is "A", "C" or "D"; `path` is bytes with a leading slash.

    `kind` is "directory", "file", "symlink", "char", "block", "fifo" or "socket"; `content` is False when only
    attributes changed; `size` is in bytes.
    """

    change: str
    path: bytes
    kind: str
    content: bool = True
    size: int = 0


class ViewChange(NamedTuple):
    """What became of one path between two views. `change` is "A", "C" or "D"; `path` is bytes with a leading slash.

    `kind` as in `Change`: what is there now, with "D" what was there. `differs` says of a "C" what is not the same:
    "type", "content", "target" (of a symlink), "device", "mode", "owner", "mtime", "xattrs", "links" (which of the
    paths that both views have are one file). Sizes are in bytes, of regular files; else 0.
    """

    change: str
    path: bytes
    kind: str
    differs: tuple[str, ...] = ()
    old_size: int = 0
    size: int = 0


class Limits(NamedTuple):
    """Bounds on what an image may ask for; 0 means the native default (csrc/tree/lz_ingest.h).

    They hold for each layer; max_tar_size and max_ratio also for a compressed archive around the layers.
    """

    max_tar_size: int = 0
    max_ratio: int = 0
    max_file_size: int = 0
    max_entries: int = 0
    inline_limit: int = 0


class ProgressEvent(NamedTuple):
    """One step of a long operation: what is done to which object, and how far it is (bytes; total 0 when unknown)."""

    action: str
    name: str
    done: int
    total: int


Progress = Callable[[ProgressEvent], None]
Json = dict[str, Any]
