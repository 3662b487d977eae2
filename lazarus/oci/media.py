"""Media types: what each one is. OCI image-spec media-types.md, and Docker's image manifest version 2, schema 2."""

from __future__ import annotations

from lazarus.errors import FormatError, UnsupportedError

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})

# media type -> compression of the tar in it
LAYERS = {
    OCI_LAYER: "none",
    OCI_LAYER + "+gzip": "gzip",
    OCI_LAYER + "+zstd": "zstd",
    DOCKER_LAYER: "none",
    DOCKER_LAYER + ".gzip": "gzip",
    DOCKER_LAYER + ".zstd": "zstd",
}
_FOREIGN = ("application/vnd.oci.image.layer.nondistributable.", "application/vnd.docker.image.rootfs.foreign.")
_SUFFIXES = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}


def is_layer(media_type: str) -> bool:
    """Is it a layer of any kind, also of those that Lazarus cannot read?"""
    return media_type.startswith((OCI_LAYER, DOCKER_LAYER, *_FOREIGN))


def is_foreign(media_type: str) -> bool:
    """Is it a layer whose bytes are not where the image is (non-distributable)?"""
    return media_type.startswith(_FOREIGN)


def layer_compression(media_type: str, what: str) -> str:
    """ "none", "gzip" or "zstd". `what` names the layer in the error."""
    compression = LAYERS.get(media_type)
    if compression is not None:
        return compression
    if media_type.startswith(_FOREIGN):
        raise UnsupportedError(
            f"{what}: a foreign (non-distributable) layer, {media_type}: its bytes are not in the image"
        )
    if is_layer(media_type):
        raise UnsupportedError(f"{what}: layer of media type {media_type}: known are tar, tar+gzip and tar+zstd")
    if media_type in CONFIGS or media_type in MANIFESTS or media_type in INDEXES:
        raise FormatError(f"{what}: a layer of media type {media_type}, which is no layer")
    raise UnsupportedError(f"{what}: media type {media_type!r:.100} is no container image layer (an artifact?)")


def layer_media_type(compression: str) -> str:
    """The OCI media type of a layer with this compression."""
    return OCI_LAYER + _SUFFIXES[compression]
