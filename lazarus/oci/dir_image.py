"""`dir:`, skopeo's directory of one image: `version`, `manifest.json`, and each blob under its hex digits; manifests
that an image index names are `<hex>.manifest.json`. As skopeo 1.x reads and writes it."""

from __future__ import annotations

from lazarus.errors import FormatError, NotFoundError, UnsupportedError
from lazarus.oci import media
from lazarus.oci.layout import BlobFiles, DirectoryFiles, sha256
from lazarus.oci.strict_json import load_object
from lazarus.terms import Descriptor, Digest

VERSION = "version"
VERSION_TEXT = b"Directory Transport Version: 1.1\n"
MANIFEST = "manifest.json"
_VERSIONS = (VERSION_TEXT, b"Directory Transport Version: 1.0\n")


class DirImage(BlobFiles):
    """One image in a directory. A context manager."""

    def __init__(self, files: DirectoryFiles) -> None:
        """Raises `FormatError`, `UnsupportedError` for another version."""
        super().__init__(files)
        try:
            version = self._document(VERSION)
        except NotFoundError:
            version = VERSION_TEXT  # older ones have none
        if version not in _VERSIONS:
            raise UnsupportedError(f"{self.what}: {version[:60]!r} in its file {VERSION}, known is {VERSION_TEXT!r}")

    def root(self) -> Descriptor:
        """What manifest.json is: a manifest or an image index."""
        what = f"{self.what}: {MANIFEST}"
        data = self._document(MANIFEST)
        document = load_object(data, what)
        kind = document.get("mediaType")
        if kind is None:
            kind = media.OCI_INDEX if "manifests" in document else media.OCI_MANIFEST
        if not isinstance(kind, str):
            raise FormatError(f"{what}: mediaType is not a string")
        return Descriptor(kind, sha256(data), len(data))

    def read(self, descriptor: Descriptor, what: str) -> bytes:
        data = self._document(MANIFEST)
        return data if sha256(data) == descriptor.digest else super().read(descriptor, what)

    def _places(self, digest: Digest) -> tuple[str, ...]:
        return (digest.hex, f"{digest.hex}.manifest.json")


def open_dir(path: str) -> DirImage:
    """The image in a directory. Raises `FormatError` when there is none."""
    files = DirectoryFiles(path)
    try:
        image = DirImage(files)
        image.root()
        return image
    except NotFoundError as error:
        files.close()
        raise FormatError(f"{path}: not an image as skopeo's dir: has it: {error}") from error
    except BaseException:
        files.close()
        raise
