"""docker-archive: what `docker save` and `podman save` write. A manifest.json names configs, layers and tags.

Layer members may be symlinks to one another (`<id>/layer.tar -> ../<diff ID>.tar`); they are resolved inside the
archive.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from lazarus.errors import CorruptError, FormatError, UnsupportedError
from lazarus.oci.documents import ImageConfig, parse_config
from lazarus.oci.layout import BlobSource, sha256
from lazarus.oci.outer_tar import OuterTar
from lazarus.oci.references import parse_tag
from lazarus.oci.strict_json import MAX_SIZE, dumps, kind, loads
from lazarus.oci.writers import Writer, put
from lazarus.terms import DiffID, Digest

MANIFEST = "manifest.json"
REPOSITORIES = "repositories"
_CONFIG_NAME = re.compile(r"(?:blobs/sha256/([0-9a-f]{64})|([0-9a-f]{64})\.json)\Z")


class ArchivedImage(NamedTuple):
    """One entry of manifest.json. `layers` are named by their members, lowest first; names are `name:tag`."""

    config: bytes
    config_digest: Digest
    parsed: ImageConfig
    names: tuple[str, ...]
    layers: tuple[tuple[str, BlobSource], ...]


def read_images(tar: OuterTar) -> Iterator[ArchivedImage]:
    """Every image of the archive. Layers are only looked up; their diff IDs are the config's, unproven."""
    what = f"{tar.what}: {MANIFEST}"
    entries = loads(tar.read(tar.file(MANIFEST), MAX_SIZE), what)
    if not isinstance(entries, list) or not entries:
        raise FormatError(f"{what}: {kind(entries)} where an array of images is expected")
    for number, entry in enumerate(entries, 1):
        yield _image(tar, entry, f"{what}, image {number}")


def _image(tar: OuterTar, entry: Any, what: str) -> ArchivedImage:
    if not isinstance(entry, dict):
        raise FormatError(f"{what}: {kind(entry)} where an object is expected")
    name = entry.get("Config")
    if not isinstance(name, str):
        raise FormatError(f"{what}: no Config")
    config = tar.read(tar.file(name), MAX_SIZE)
    digest = sha256(config)
    stated = _CONFIG_NAME.match(name)
    if stated and digest.hex not in stated.groups():
        raise CorruptError(f"{what}: config {name!r} has digest {digest}")
    parsed = parse_config(config, f"{what}, config {name!r:.200}")
    layers = _names(entry, "Layers", what)
    if len(layers) != len(parsed.diff_ids):
        raise FormatError(f"{what}: {len(layers)} layers, its config has {len(parsed.diff_ids)} diff IDs")
    return ArchivedImage(
        config, digest, parsed, _tags(entry, what), tuple((layer, _source(tar, layer)) for layer in layers)
    )


def _source(tar: OuterTar, name: str) -> BlobSource:
    member = tar.file(name)
    return BlobSource(tar.fd, member.offset, member.size)


def _tags(entry: dict[str, Any], what: str) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(parse_tag(tag).tagged for tag in _names(entry, "RepoTags", what)))
    except FormatError as error:
        raise FormatError(f"{what}, RepoTags: {error}") from error


def _names(entry: dict[str, Any], key: str, what: str) -> list[str]:
    value = entry.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise FormatError(f"{what}: {key} is not an array of strings")
    return value


def write_docker_index(writer: Writer, images: Iterable[tuple[str, Sequence[str], Sequence[DiffID]]]) -> None:
    """manifest.json and repositories, as podman writes them: of each image its config's member, its names (`name:tag`),
    and its layers, whose members are `<diff ID>.tar`."""
    entries = []
    repositories: dict[str, dict[str, str]] = {}
    for config, names, diff_ids in images:
        layers = [f"{diff_id.hex}.tar" for diff_id in diff_ids]
        entries.append({"Config": config, "RepoTags": list(names), "Layers": layers})
        for name in names:
            repository, _, tag = name.rpartition(":")
            repositories.setdefault(repository, {})[tag] = diff_ids[-1].hex if diff_ids else ""
    put(writer, MANIFEST, dumps(entries))
    put(writer, REPOSITORIES, dumps(repositories))


def check_is_readable(tar: OuterTar) -> None:
    """`UnsupportedError` for what Docker wrote before 1.10, `FormatError` for an archive that holds no image."""
    if MANIFEST in tar:
        return
    if REPOSITORIES in tar:
        raise UnsupportedError(f"{tar.what}: a Docker archive without manifest.json (from before Docker 1.10)")
    raise FormatError(f"{tar.what}: neither an OCI archive (oci-layout) nor a Docker archive (manifest.json)")
