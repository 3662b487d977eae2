"""A registry as a place for volumes: packs are known by their tables, which are read by range."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from lazarus.errors import LazarusError, LimitError, NotFoundError, UnsupportedError
from lazarus.oci import media
from lazarus.oci.layout import BlobSource
from lazarus.oci.strict_json import MAX_SIZE
from lazarus.registry.settings import Repository
from lazarus.terms import Descriptor, Digest
from lazarus.volumes.artifact import manifest, packs
from lazarus.volumes.artifact.packs import Pack

if TYPE_CHECKING:
    import numpy

    from lazarus.oci.transports import Place
    from lazarus.registry.blob import BlobStream
    from lazarus.registry.client import RegistryClient

    Array: TypeAlias = numpy.ndarray[Any, numpy.dtype[Any]]

_TAGS = 16  # of a repository, whose packs are looked at
_CHUNKS = 1 << 22  # in packs of other tags: 16 GiB in pages, of which 400 MB of memory know


class RegistryArtifacts:
    """What `Layout` is to a directory: documents, blobs, and parts of blobs of one repository. Blobs lie in files
    without a name in `directory` (default: the one for temporary files) as long as they are open. `mirrors` off: only
    what the registry itself has."""

    def __init__(
        self, client: RegistryClient, place: Place, directory: str | None = None, *, mirrors: bool = True
    ) -> None:
        self.what = str(place)
        self.client = client
        self.repository = Repository.of(place.reference)
        self._directory = directory
        self._mirrors = mirrors
        self._documents: dict[Digest, bytes] = {}

    def resolve(self, name: str) -> Descriptor:
        """What a tag or digest names."""
        descriptor, data = self.client.resolve(self.repository, name, mirrors=self._mirrors)
        self._documents[descriptor.digest] = data
        return descriptor

    def read(self, descriptor: Descriptor, what: str) -> bytes:
        """A manifest, checked against size and digest."""
        if descriptor.digest in self._documents:
            return self._documents[descriptor.digest]
        if descriptor.size > MAX_SIZE:
            raise LimitError(f"{what}: {descriptor.size} bytes, more than {MAX_SIZE}")
        return self.client.manifest(self.repository, descriptor, mirrors=self._mirrors)

    def blob(self, descriptor: Descriptor, what: str) -> BlobSource:
        """All of a blob; whoever reads it checks the digest."""
        file = tempfile.TemporaryFile(dir=self._directory, buffering=0)
        try:
            with self._open(descriptor, 0, None, verify=False) as stream:
                stream.copy_to(file.fileno())
        except BaseException:
            file.close()
            raise
        return BlobSource(file.fileno(), 0, descriptor.size, lambda _: file.close())

    def part(self, descriptor: Descriptor, offset: int, size: int, what: str) -> bytes:
        """Some bytes of a blob, of which nothing is checked."""
        buffer = bytearray(size)
        try:
            with self._open(descriptor, offset, size) as stream:
                done = 0
                while done < size and (count := stream.readinto(memoryview(buffer)[done:])):
                    done += count
        except UnsupportedError:  # a registry that sends no parts
            with self.blob(descriptor, what) as source:
                return os.pread(source.fd, size, source.offset + offset)
        return bytes(buffer[:done])

    def _open(self, descriptor: Descriptor, offset: int, size: int | None, *, verify: bool = True) -> BlobStream:
        return self.client.open_blob(
            self.repository, descriptor, offset=offset, size=size, verify=verify, mirrors=self._mirrors
        )


class ToRegistry:
    """A destination of a push. The packs of the tag that is pushed come first, then those of others."""

    def __init__(self, client: RegistryClient, place: Place) -> None:
        # a mirror may have packs that the registry has no more: a manifest must not name those
        self._artifacts = RegistryArtifacts(client, place, mirrors=False)
        self._client = client
        self._repository = self._artifacts.repository
        self._name = place.reference.digest or place.reference.tag
        self._manifests: dict[Digest, bytes] = {}
        self.sent = 0

    def packs(self) -> list[Pack]:
        """Those that are there, as far as their size and table tell."""
        found: dict[Digest, Pack] = {}
        chunks = 0
        for name in self._names():
            try:
                entry = self._artifacts.resolve(name)
                what = f"manifest {entry.digest}"
                data = self._artifacts.read(entry, what)
                if entry.media_type != media.OCI_MANIFEST or not manifest.is_volume(data, what):
                    continue
                for pack in manifest.read(data, entry.media_type, what).packs:
                    if pack.digest in found:
                        continue
                    if chunks > _CHUNKS and name != self._name:
                        return list(found.values())
                    found[pack.digest] = Pack(pack, self._table(pack))
                    chunks += len(found[pack.digest].rows)
            except (LazarusError, OSError):
                continue  # somebody else's, gone, or damaged: it has nothing to give
        return list(found.values())

    def _names(self) -> Iterator[str]:
        yield self._name
        try:
            for number, tag in enumerate(self._client.tags(self._repository)):
                if number >= _TAGS:
                    return
                if tag != self._name:
                    yield tag
        except NotFoundError:
            return  # a new repository

    def _table(self, pack: Descriptor) -> Array:
        what = f"pack {pack.digest}"
        return packs.read_table(pack, lambda offset, size: self._artifacts.part(pack, offset, size, what), what)

    def open(self, pack: Pack) -> BlobSource:
        return self._artifacts.blob(pack.descriptor, f"pack {pack.descriptor.digest}")

    def add(self, descriptor: Descriptor, data: bytes | memoryview) -> None:
        if descriptor.media_type == media.OCI_MANIFEST:
            self._manifests[descriptor.digest] = bytes(data)
        elif not self._client.has_blob(self._repository, descriptor.digest):
            self._client.upload_blob(self._repository, descriptor, (data,), rewind=lambda: (data,))
            self.sent += descriptor.size

    def publish(self, descriptor: Descriptor) -> None:
        data = self._manifests[descriptor.digest]
        self._client.put_manifest(self._repository, self._name, descriptor.media_type, data)
        self.sent += len(data)
