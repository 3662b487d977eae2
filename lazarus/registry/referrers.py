"""What refers to a manifest (distribution-spec, "Listing Referrers"): the API, or the tag that stands in for it.

Registries without the API answer 404. For them clients keep an image index under the tag `sha256-HEX` themselves, which
two writers at once can make lose an entry; the specification has no remedy for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lazarus.errors import FormatError, LimitError, NotFoundError
from lazarus.oci import media
from lazarus.oci.documents import descriptor_json, parse_descriptor, parse_index
from lazarus.oci.strict_json import dumps, load_object
from lazarus.registry.listing import pages
from lazarus.registry.mirrors import Endpoint
from lazarus.registry.session import Call, Session
from lazarus.registry.settings import Repository
from lazarus.terms import Descriptor, Digest, Json

if TYPE_CHECKING:
    from lazarus.registry.client import RegistryClient

MAX_REFERRERS = 10_000
MAX_BYTES = 16 << 20  # of all pages: their descriptors, with annotations, are all kept


def referrers(
    client: RegistryClient,
    session: Session,
    repository: Repository,
    endpoint: Endpoint,
    call: Call,
    digest: Digest,
    artifact_type: str | None,
) -> list[Descriptor]:
    """Descriptors of all that name this digest as their subject; none is an empty list."""
    found: list[tuple[Descriptor, str]] = []
    try:
        for document in pages(session, session.peer(endpoint), call, limit=MAX_BYTES):
            found += _entries(document, call.what)
            if len(found) > MAX_REFERRERS:
                raise LimitError(f"{call.what}: more than {MAX_REFERRERS}")
    except NotFoundError:
        index = _fallback(client, repository, digest)
        found = _entries(index, call.what) if index is not None else []
    return [descriptor for descriptor, kind in found if artifact_type in (None, kind)]


def after_put(client: RegistryClient, repository: Repository, descriptor: Descriptor, data: bytes) -> None:
    """Enters a manifest with a subject into the index under its tag."""
    document = load_object(data, f"{repository}: manifest {descriptor.digest}")
    if document.get("subject") is None:
        return
    what = f"{repository}: manifest {descriptor.digest}, subject"
    subject = parse_descriptor(document["subject"], what)
    index = _fallback(client, repository, subject.digest) or {"manifests": []}
    entries: list[Json] = list(index["manifests"])
    if any(entry.get("digest") == descriptor.digest for entry in entries):
        return
    entry = descriptor_json(descriptor)
    kind = document.get("artifactType") or (document.get("config") or {}).get("mediaType")
    if kind:
        entry["artifactType"] = kind
    if document.get("annotations"):
        entry["annotations"] = document["annotations"]
    written = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [*entries, entry]}
    client.put_manifest(repository, fallback_tag(subject.digest), media.OCI_INDEX, dumps(written))


def fallback_tag(digest: Digest) -> str:
    """The tag that stands in for the API."""
    return digest.replace(":", "-")


def _fallback(client: RegistryClient, repository: Repository, digest: Digest) -> Json | None:
    try:
        descriptor, data = client.resolve(repository, fallback_tag(digest), mirrors=False)
    except NotFoundError:
        return None
    if descriptor.media_type != media.OCI_INDEX:
        raise FormatError(
            f"{repository}: {fallback_tag(digest)}: {descriptor.media_type} where an image index is expected"
        )
    return parse_index(data, descriptor.media_type, f"{repository}: {fallback_tag(digest)}").raw


def _entries(document: Json, what: str) -> list[tuple[Descriptor, str]]:
    index = parse_index(dumps(document), media.OCI_INDEX, what)
    raw: list[Any] = document["manifests"]
    return [
        (descriptor, str(entry.get("artifactType", ""))) for descriptor, entry in zip(index.manifests, raw, strict=True)
    ]
