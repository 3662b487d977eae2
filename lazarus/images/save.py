"""save: to an OCI archive, an OCI layout directory or a docker-archive."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, NamedTuple

from lazarus.errors import CorruptError, FormatError
from lazarus.oci import media
from lazarus.oci.docker_archive import write_docker_index
from lazarus.oci.documents import write_index, write_manifest
from lazarus.oci.writers import ArchiveWriter, DirectoryWriter, Writer, put
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


def save(store: Store, images: Sequence[Named], target: Target, form: str, progress: Progress | None) -> None:
    """See `Images.save`."""
    if form not in FORMATS:
        raise FormatError(f"format {form!r:.40}: not one of {', '.join(FORMATS)}")
    if not isinstance(target, str | os.PathLike):
        if form == "oci-dir":
            raise FormatError("format oci-dir needs a directory, not a stream")
        target.flush()
        _write(store, images, ArchiveWriter(target.fileno()), form, progress)
        return
    path = os.fspath(target)
    if form == "oci-dir":
        _to_directory(store, images, path, progress)
        return
    with whole_file(path) as fd:
        _write(store, images, ArchiveWriter(fd), form, progress)


def _to_directory(store: Store, images: Sequence[Named], path: str, progress: Progress | None) -> None:
    with whole_directory(path) as directory:
        _write(store, images, DirectoryWriter(directory), "oci-dir", progress)


def _write(store: Store, images: Sequence[Named], writer: Writer, form: str, progress: Progress | None) -> None:
    saver = _Saver(store, writer, progress)
    if form == "docker-archive":
        saver.docker(images)
    else:
        saver.oci(images)
    writer.finish()


class _Saver:
    def __init__(self, store: Store, writer: Writer, progress: Progress | None) -> None:
        self.store = store
        self.writer = writer
        self.progress = progress
        self.written: set[str] = set()

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
        config = Descriptor(media.OCI_CONFIG, image.id, len(image.config_bytes))
        return write_manifest(config, descriptors), media.OCI_MANIFEST

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
