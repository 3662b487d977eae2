"""save: to an OCI archive, an OCI layout directory or a docker-archive.

Layers go as they came, or in the form that is asked for: then one that was not kept in it is compressed into a file of
no name first, because a member of an archive begins with its name, which is its digest, and its size.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, NamedTuple

from lazarus.errors import CorruptError, FormatError
from lazarus.images.build import as_oci
from lazarus.layers.chunked.annotations import CHECKSUM
from lazarus.oci import media
from lazarus.oci.docker_archive import write_docker_index
from lazarus.oci.documents import write_index, write_manifest
from lazarus.oci.writers import ArchiveWriter, DirectoryWriter, Writer, copy_hashed, put, put_file
from lazarus.terms import Descriptor, DiffID, Digest, Progress, ProgressEvent
from lazarus.whole_directory import whole_directory
from lazarus.whole_file import whole_file

if TYPE_CHECKING:
    from lazarus.images.image import Image
    from lazarus.store import Store

FORMATS = ("oci-archive", "oci-dir", "docker-archive")
Target = str | os.PathLike[str] | IO[bytes]
log = logging.getLogger(__name__)


class Named(NamedTuple):
    """An image and the names that it is saved under."""

    image: Image
    names: tuple[str, ...]


def save(
    store: Store,
    images: Sequence[Named],
    target: Target,
    form: str,
    progress: Progress | None,
    compression: str | None = None,
) -> None:
    """See `Images.save`."""
    from lazarus.images.push import FORMATS as COMPRESSIONS

    if form not in FORMATS:
        raise FormatError(f"format {form!r:.40}: not one of {', '.join(FORMATS)}")
    if compression not in (None, *COMPRESSIONS):
        raise FormatError(f"compression {compression!r:.40}: not one of {', '.join(COMPRESSIONS)}")
    if form == "docker-archive" and compression not in (None, "none"):
        raise FormatError(f"format docker-archive has layers that are not compressed, and not {compression}")
    saver = _Saver(store, progress, compression)
    if not isinstance(target, str | os.PathLike):
        if form == "oci-dir":
            raise FormatError("format oci-dir needs a directory, not a stream")
        target.flush()
        saver.save(images, ArchiveWriter(target.fileno()), form, None)
        return
    path = os.fspath(target)
    if form == "oci-dir":
        with whole_directory(path) as directory:
            saver.save(images, DirectoryWriter(directory), form, directory)
        return
    with whole_file(path) as fd:
        saver.save(images, ArchiveWriter(fd), form, os.path.dirname(os.path.realpath(path)))


class _Saver:
    """One save. What is compressed for it lies in files without a name, beside the target, or where temporary files
    do."""

    def __init__(self, store: Store, progress: Progress | None, compression: str | None) -> None:
        self.store = store
        self.progress = progress
        self.compression = compression
        self.written: set[str] = set()
        self.compressed: dict[DiffID, Descriptor] = {}

    def save(self, images: Sequence[Named], writer: Writer, form: str, directory: str | None) -> None:
        """All of it."""
        self.writer = writer
        self.directory = directory
        if form == "docker-archive":
            self.docker(images)
        else:
            self.oci(images)
        writer.finish()

    def oci(self, images: Sequence[Named]) -> None:
        """oci-layout, the blobs, and index.json last."""
        put(self.writer, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        self.writer.directory("blobs")
        self.writer.directory("blobs/sha256")
        entries: list[Descriptor] = []
        for image, names in images:
            manifest, media_type = self._manifest(image)
            digest = _sha256(manifest)
            self._document(digest, manifest)
            self._document(image.id, image.config_bytes)
            base = Descriptor(media_type, digest, len(manifest), image.platform)
            named = [base._replace(annotations={"org.opencontainers.image.ref.name": name}) for name in names]
            entries += named or [base]
        put(self.writer, "index.json", write_index(entries))

    def docker(self, images: Sequence[Named]) -> None:
        """Layers as plain tars, configs, manifest.json and repositories, as podman writes them."""
        entries = []
        for image, names in images:
            for diff_id in image.diff_ids:
                self._tar(diff_id, f"{diff_id.hex}.tar")
            config = f"{image.id.hex}.json"
            if config not in self.written:
                self.written.add(config)
                put(self.writer, config, image.config_bytes)
            entries.append((config, names, image.diff_ids))
        write_docker_index(self.writer, entries)

    def _manifest(self, image: Image) -> tuple[bytes, str]:
        """Writes the layers. The manifest as it came in; or, where a compressed blob was not kept, one of our own
        that has
        those layers uncompressed."""
        layers = list(zip(image.manifest.layers, image.diff_ids, strict=True))
        if self.compression is not None:
            described = [self._in_form(layer, diff_id, self.compression) for layer, diff_id in layers]
            if [layer.digest for layer in described] == [layer.digest for layer in image.manifest.layers]:
                return image.manifest_bytes, image.manifest.media_type
            return self._new_manifest(image, [as_oci(layer) for layer in described])
        lost = [
            layer
            for layer, diff_id in layers
            if layer.digest != diff_id and not self.store.content.has_blob(layer.digest)
        ]
        if not lost:
            for layer, diff_id in layers:
                self._layer(layer, diff_id)
            return image.manifest_bytes, image.manifest.media_type
        log.warning(
            "image %s: %d compressed blobs were not kept; saved uncompressed, under a new manifest", image.id, len(lost)
        )
        descriptors = []
        for layer, diff_id in layers:
            if layer in lost:
                size = self._tar(diff_id, f"blobs/sha256/{diff_id.hex}")
                descriptors.append(Descriptor(media.OCI_LAYER, Digest(diff_id), size))
            else:
                self._layer(layer, diff_id)
                compression = media.layer_compression(layer.media_type, f"layer {layer.digest}")
                descriptors.append(layer._replace(media_type=media.layer_media_type(compression)))
        return self._new_manifest(image, descriptors)

    def _new_manifest(self, image: Image, layers: list[Descriptor]) -> tuple[bytes, str]:
        config = Descriptor(media.OCI_CONFIG, image.id, len(image.config_bytes))
        return write_manifest(config, layers), media.OCI_MANIFEST

    def _in_form(self, layer: Descriptor, diff_id: DiffID, form: str) -> Descriptor:
        """Writes a layer in that form: the blob that was kept, where it is one."""
        from lazarus.images.push import CHUNKED

        kind = "zstd" if form == CHUNKED else form
        if form == "none":
            size = self._tar(diff_id, f"blobs/sha256/{diff_id.hex}")
            return layer if layer.digest == diff_id else Descriptor(media.OCI_LAYER, Digest(diff_id), size)
        if (
            media.layer_compression(layer.media_type, f"layer {layer.digest}") == kind
            and (form != CHUNKED or CHECKSUM in layer.annotations)
            and self.store.content.has_blob(layer.digest)
        ):
            self._layer(layer, diff_id)
            return layer
        if diff_id not in self.compressed:
            self.compressed[diff_id] = self._compress(diff_id, form)._replace(media_type=media.layer_media_type(kind))
        return self.compressed[diff_id]

    def _compress(self, diff_id: DiffID, form: str) -> Descriptor:
        from lazarus.images.push import compress
        from lazarus.union.pipe import pieces_of

        layer = self.store.layers.get(diff_id)
        annotations: dict[str, str] = {}
        self._say("compress", diff_id, layer.tar_size)
        with tempfile.TemporaryFile(dir=self.directory, buffering=0) as file:
            digest, size = copy_hashed(
                file.fileno(), pieces_of(lambda fd: annotations.update(compress(layer, fd, form, 0)))
            )
            name = f"blobs/sha256/{digest.hex}"
            if name not in self.written:
                self.written.add(name)
                put_file(self.writer, name, file.fileno())
        return Descriptor("", digest, size, annotations=annotations)

    def _layer(self, layer: Descriptor, diff_id: DiffID) -> None:
        name = f"blobs/sha256/{layer.digest.hex}"
        if layer.digest == diff_id:
            self._tar(diff_id, name)
        elif name not in self.written:
            self.written.add(name)
            self._say("blob", layer.digest, layer.size)
            self.writer.file(name, layer.size, lambda fd: self._copy(layer.digest, layer.size, fd))

    def _tar(self, diff_id: DiffID, name: str) -> int:
        layer = self.store.layers.get(diff_id)
        if name not in self.written:
            self.written.add(name)
            self._say("tar", diff_id, layer.tar_size)
            self.writer.file(name, layer.tar_size, layer.write_tar)
        return layer.tar_size

    def _document(self, digest: Digest, data: bytes) -> None:
        name = f"blobs/sha256/{digest.hex}"
        if name not in self.written:
            self.written.add(name)
            put(self.writer, name, data)

    def _copy(self, digest: Digest, size: int, out_fd: int) -> int:
        """A blob, hashed while it is copied."""
        import hashlib

        hasher = hashlib.sha256()
        fd = self.store.content.open_blob(digest)
        with open(fd, "rb", buffering=0) as source, open(out_fd, "wb", buffering=0, closefd=False) as out:
            while piece := source.read(1 << 20):
                hasher.update(piece)
                view = memoryview(piece)
                while view:
                    view = view[out.write(view) or 0 :]
        if hasher.hexdigest() != digest.hex:
            raise CorruptError(f"blob {digest}: its bytes have digest sha256:{hasher.hexdigest()}")
        return size

    def _say(self, action: str, name: str, size: int) -> None:
        if self.progress is not None:
            self.progress(ProgressEvent(action, name, 0, size))


def _sha256(data: bytes) -> Digest:
    import hashlib

    return Digest("sha256:" + hashlib.sha256(data).hexdigest())
