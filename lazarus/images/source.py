"""Where images come from: a directory, an archive, a compressed archive, a stream, made seekable, or a registry."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Protocol

from lazarus.errors import FormatError, LazarusError, TruncatedError
from lazarus.images.plan import OneImage
from lazarus.oci.docker_archive import check_is_readable
from lazarus.oci.layout import MARKER, ArchiveFiles, Layout, open_layout
from lazarus.oci.outer_tar import OuterTar
from lazarus.terms import Limits

if TYPE_CHECKING:
    from lazarus.oci.transports import Place
    from lazarus.registry.client import RegistryClient

Source = str | bytes | os.PathLike[str] | os.PathLike[bytes] | IO[bytes]
_MAGICS = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")

# The defaults that layers have, too (csrc/tree/lz_ingest.h).
_MAX_SIZE = 1 << 40
_MAX_RATIO = 1100
_RATIO_FREE = 64 << 20  # bytes that the ratio does not look at


class Scratch(Protocol):
    """Where there is room for what has to be spooled: a lease."""

    def new_path(self, prefix: str, /) -> str: ...


def open_source(source: Source, lease: Scratch, closing: ExitStack, limits: Limits | None = None) -> Layout | OuterTar:
    """An OCI layout, or the table of a docker-archive. What it opens is closed by `closing`; streams and compressed
    archives are spooled into the lease's staging first, within `limits` (a bomb may as well lie around the image)."""
    if not hasattr(source, "read") and source != "-" and os.path.isdir(source):
        return closing.enter_context(open_layout(os.fsdecode(source)))
    fd, what = open_file(source, closing)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        fd = _spool(fd, lease, closing)
    if os.fstat(fd).st_size == 0:
        raise TruncatedError(f"{what}: empty: not an archive")
    if os.pread(fd, 4, 0).startswith(_MAGICS):
        fd = _decompress(fd, what, lease, closing, limits or Limits())
    tar = OuterTar(fd, what)
    if MARKER in tar:
        return closing.enter_context(Layout(ArchiveFiles(tar)))
    check_is_readable(tar)
    return tar


def open_place(
    place: Place,
    lease: Scratch,
    closing: ExitStack,
    limits: Limits | None = None,
    *,
    client: RegistryClient | None = None,
    name: str | None = None,
) -> Layout | OuterTar | OneImage:
    """What is at a place, with `client` in a registry. As `open_source`, but it must be what the place says that it is.
    An image that has no name there gets `name`, and one of a registry, without it, what it was asked for by."""
    given = () if name is None else (name,)
    if place.kind == "docker":
        from lazarus.images.remote import RegistryImages

        assert client is not None
        reference = place.reference
        found = closing.enter_context(RegistryImages(client, reference))
        return OneImage(found, found.root(reference), given or (reference.tagged if reference.tag else str(reference),))
    if place.kind == "dir":
        from lazarus.oci.dir_image import open_dir

        image = closing.enter_context(open_dir(place.path))
        return OneImage(image, image.root(), given)
    if place.kind == "oci":
        return closing.enter_context(open_layout(place.path))
    source = open_source(place.path, lease, closing, limits)
    if isinstance(source, Layout) != (place.kind == "oci-archive"):
        kind = "an image layout" if isinstance(source, Layout) else "a docker-archive"
        raise FormatError(f"{place.path}: {kind}, not what {place.kind}: says")
    return source


def most_bytes(packed: int, limits: Limits) -> int:
    """What so many compressed bytes may become: more is a bomb."""
    return min(max(_RATIO_FREE, packed * (limits.max_ratio or _MAX_RATIO)), limits.max_tar_size or _MAX_SIZE)


def open_file(source: Source, closing: ExitStack) -> tuple[int, str]:
    """A descriptor for reading and the name it has in errors; "-" is standard input, files stay the caller's."""
    if source == "-":
        return sys.stdin.fileno(), "standard input"
    if not isinstance(source, str | bytes | os.PathLike):
        name = getattr(source, "name", "stream")
        return source.fileno(), name if isinstance(name, str) else "stream"
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    closing.callback(os.close, fd)
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fsdecode(source))
    return fd, os.fsdecode(source)


def _temporary(lease: Scratch, closing: ExitStack) -> int:
    path = lease.new_path("spool")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    closing.callback(os.close, fd)
    os.unlink(path)
    return fd


def _spool(stream: int, lease: Scratch, closing: ExitStack) -> int:
    fd = _temporary(lease, closing)
    with open(stream, "rb", closefd=False) as reader, open(fd, "wb", closefd=False) as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
    return fd


def _decompress(packed: int, what: str, lease: Scratch, closing: ExitStack, limits: Limits) -> int:
    from lazarus._native.stream import decompress

    fd = _temporary(lease, closing)
    os.lseek(packed, 0, os.SEEK_SET)
    try:
        decompress(packed, fd, max_size=most_bytes(os.fstat(packed).st_size, limits))
    except LazarusError as error:
        raise type(error)(f"{what}: {error}") from error
    return fd
