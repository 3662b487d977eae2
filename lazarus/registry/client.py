"""The verbs of the OCI distribution specification (v1.1), each a method.

    with RegistryClient() as client:
        repository = Repository.of(parse_reference("localhost:5000/debian"))
        descriptor, manifest = client.resolve(repository, "latest")
        with client.open_blob(repository, layer) as blob:
            blob.copy_to(fd)

Errors: `NotFoundError` for what a registry does not have, `DeniedError`, `CorruptError` for other bytes than were
asked for, `FormatError` for documents, `LimitError`, and `RegistryError` for everything else a server or the way to it
did wrong. Each is one line that begins with the registry and the object.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from lazarus.errors import CorruptError, FormatError, LazarusError, LimitError, NotFoundError
from lazarus.oci.references import DEFAULT_TAG
from lazarus.oci.strict_json import MAX_SIZE
from lazarus.registry.settings import Credentials, Repository, Settings
from lazarus.terms import Descriptor, Digest

if TYPE_CHECKING:
    from lazarus.registry.blob import BlobStream
    from lazarus.registry.mirrors import Endpoint
    from lazarus.registry.session import Session

__all__ = ["Credentials", "RegistryClient", "Repository", "Settings"]

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")


class RegistryClient:
    """A context manager, for all registries at once and for many threads; it pools connections. `warn` is called with
    what a registry has to say, and with mirrors that fail."""

    def __init__(self, settings: Settings | None = None, *, warn: Callable[[str], None] | None = None) -> None:
        from lazarus.registry.session import Session

        self.settings = settings or Settings()
        said: set[str] = set()

        def once(text: str) -> None:
            if warn is not None and text not in said and len(said) < 100:
                said.add(text)
                warn(text)

        self._session: Session = Session(self.settings, once)

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the idle connections."""
        self._session.close()

    def cancel(self) -> None:
        """From another thread: what is under way, and what is asked later, ends with `CancelledError`."""
        self._session.http.cancel()

    # -- reading --

    def resolve(
        self, repository: Repository, tag_or_digest: str = DEFAULT_TAG, *, mirrors: bool = True
    ) -> tuple[Descriptor, bytes]:
        """The manifest or image index of a name, and its bytes: at most 4 MiB, and those that were asked for. With
        `mirrors` off as the registry itself has it: what is going to be written there, or removed, must not go by a
        mirror that is behind."""
        from lazarus.registry.manifests import ACCEPT, read_manifest

        expected = _digest(tag_or_digest)

        def ask(endpoint: Endpoint) -> tuple[Descriptor, bytes]:
            call = self._call("GET", endpoint, f"manifests/{tag_or_digest}", f"manifest {tag_or_digest}", "pull")
            call = call._replace(headers={"Accept": ACCEPT})
            return self._session.request(
                self._session.peer(endpoint),
                call,
                lambda response: read_manifest(response, expected, self.settings.timeout),
            )

        return self._session.reading(repository, by_digest=expected is not None, action=ask, mirrors=mirrors)

    def manifest(self, repository: Repository, descriptor: Descriptor, *, mirrors: bool = True) -> bytes:
        """The manifest or image index that a descriptor names: its bytes, its size, its media type."""
        if descriptor.size > MAX_SIZE:
            raise LimitError(
                f"{repository}: manifest {descriptor.digest}: {descriptor.size} bytes, more than {MAX_SIZE}"
            )
        found, data = self.resolve(repository, descriptor.digest, mirrors=mirrors)
        if (found.size, found.media_type) != (descriptor.size, descriptor.media_type):
            raise CorruptError(
                f"{repository}: manifest {descriptor.digest}: {found.size} bytes of {found.media_type}, its descriptor"
                f" says {descriptor.size} of {descriptor.media_type:.100}"
            )
        return data

    def open_blob(
        self,
        repository: Repository,
        descriptor: Descriptor,
        *,
        offset: int = 0,
        size: int | None = None,
        verify: bool = True,
        mirrors: bool = True,
    ) -> BlobStream:
        """The bytes of a blob, or a part of them. All of it is compared with its digest at its end; with `verify` off
        not, for callers that hash it themselves. `mirrors` as in `resolve`. Raises `UnsupportedError` when a registry
        does not send parts."""
        from lazarus.registry.blob import BlobSource, BlobStream

        rest = descriptor.size - offset
        if offset < 0 or rest < 0 or not 0 <= (rest if size is None else size) <= rest:
            raise ValueError(f"bytes {offset} and {size} more of a blob of {descriptor.size}")

        length = rest if size is None else size
        stream = BlobStream(self._session.http, descriptor, offset, length, verify=verify)

        def start(endpoint: Endpoint) -> None:
            what = f"blob {descriptor.digest}"
            call = self._call("GET", endpoint, f"blobs/{descriptor.digest}", what, "pull", expect=(200, 206, 416))
            peer = self._session.peer(endpoint)

            def request(part: str | None) -> Any:
                return self._session.once(peer, call._replace(headers={"Range": part} if part else {}))

            def following(error: LazarusError) -> None:
                after = (endpoint, error)
                self._session.reading(repository, by_digest=True, action=start, after=after, mirrors=mirrors)

            stream.start(BlobSource(call.what, request, following, patient=not endpoint.mirror))
            self._session.sends(descriptor.digest, endpoint)

        self._session.reading(repository, by_digest=True, action=start, mirrors=mirrors)
        return stream

    def distrust(self, digest: Digest, error: LazarusError) -> bool:
        """Bytes that `open_blob` gave were not the blob's, as whoever hashed them has found out: the mirrors that sent
        some of it are not asked any more, for anything, and a warning says why. False when it was the registry alone.
        """
        return self._session.distrust(digest, error)

    def has_blob(self, repository: Repository, digest: Digest) -> bool:
        """Is the blob in this repository itself? Mirrors are not asked: this is for pushing."""
        endpoint = self._session.writing(repository)
        call = self._call("HEAD", endpoint, f"blobs/{digest}", f"blob {digest}", "pull")
        try:
            return self._session.request(self._session.peer(endpoint), call, lambda response: response.status == 200)
        except NotFoundError:
            return False

    def has_manifest(self, repository: Repository, tag_or_digest: str) -> Descriptor | None:
        """What a registry says that a name is, without the document; None when it has none. Of a registry that does not
        say enough, the document is fetched."""
        from lazarus.registry.manifests import ACCEPT, describe

        expected = _digest(tag_or_digest)
        endpoint = self._session.writing(repository)
        call = self._call("HEAD", endpoint, f"manifests/{tag_or_digest}", f"manifest {tag_or_digest}", "pull")
        call = call._replace(headers={"Accept": ACCEPT})
        try:
            found = self._session.request(
                self._session.peer(endpoint), call, lambda response: describe(response, expected)
            )
            return found or self.resolve(repository, tag_or_digest, mirrors=False)[0]
        except NotFoundError:
            return None

    def tags(self, repository: Repository) -> Iterator[str]:
        """The names of a repository, in the registry's order, page by page."""
        from lazarus.registry.listing import tags

        endpoint = self._session.writing(repository)
        return tags(self._session, endpoint, self._call("GET", endpoint, "tags/list?n=1000", "tags", "pull"))

    def referrers(self, repository: Repository, digest: Digest, artifact_type: str | None = None) -> list[Descriptor]:
        """What refers to a manifest, by its `subject`: signatures, bills of material. `artifact_type`: only those."""
        from lazarus.registry.referrers import referrers

        endpoint = self._session.writing(repository)
        call = self._call("GET", endpoint, f"referrers/{digest}", f"referrers of {digest}", "pull")
        return referrers(self, self._session, repository, endpoint, call, digest, artifact_type)

    # -- writing --

    def mount_blob(self, repository: Repository, digest: Digest, source: Repository) -> bool:
        """Takes a blob over from another repository of the same registry; False when the registry does not do that."""
        from lazarus.registry.upload import mount

        if source.host != repository.host or source == repository:
            return False
        endpoint, other = self._session.writing(repository), self._session.writing(source)
        if other.repository.host != endpoint.repository.host:
            return False
        call = self._call("POST", endpoint, "blobs/uploads/", f"blob {digest}", "pull,push")
        return mount(self._session, endpoint, call, digest, other.repository.name)

    def upload_blob(
        self,
        repository: Repository,
        descriptor: Descriptor | None,
        chunks: Iterable[bytes | memoryview],
        *,
        rewind: Callable[[], Iterable[bytes | memoryview]] | None = None,
    ) -> Digest:
        """Sends a blob, from its first byte; returns its digest, which may be known only then (`descriptor` None).

        After a failure the registry is asked how much it has. With `rewind`, which gives the chunks once more, the blob
        is sent in one go and sent on from there; without, in pieces of 8 MiB, of which one is held in memory.
        """
        from lazarus.registry.upload import upload

        endpoint = self._session.writing(repository)
        name = f"blob {descriptor.digest}" if descriptor else "blob"
        call = self._call("POST", endpoint, "blobs/uploads/", name, "pull,push", expect=(202,))
        return upload(self._session, endpoint, call, descriptor, chunks, rewind)

    def put_manifest(self, repository: Repository, tag_or_digest: str, media_type: str, data: bytes) -> Digest:
        """Stores a manifest or image index under a name. One with a `subject` is entered into the list of referrers
        where the registry does not keep that itself."""
        from lazarus.registry.referrers import after_put
        from lazarus.registry.upload import put_manifest

        _digest(tag_or_digest)
        endpoint = self._session.writing(repository)
        call = self._call(
            "PUT", endpoint, f"manifests/{tag_or_digest}", f"manifest {tag_or_digest}", "pull,push", expect=(201,)
        )
        digest, listed = put_manifest(self._session, endpoint, call, tag_or_digest, media_type, data)
        if not listed:
            after_put(self, repository, Descriptor(media_type, digest, len(data)), data)
        return digest

    def delete_manifest(self, repository: Repository, tag_or_digest: str) -> None:
        """Removes a manifest by its digest (with all its tags) or, where a registry can do that, only a tag."""
        _digest(tag_or_digest)
        endpoint = self._session.writing(repository)
        call = self._call(
            "DELETE",
            endpoint,
            f"manifests/{tag_or_digest}",
            f"manifest {tag_or_digest}",
            "delete",
            expect=(202, 200, 204),
        )
        self._session.request(self._session.peer(endpoint), call, lambda response: None)

    @staticmethod
    def _call(
        method: str, endpoint: Endpoint, path: str, name: str, actions: str, expect: tuple[int, ...] = (200,)
    ) -> Any:
        from lazarus.registry.session import Call

        repository = endpoint.repository
        return Call(method, path, f"{repository}: {name}", (f"repository:{repository.name}:{actions}",), expect=expect)


def _digest(tag_or_digest: str) -> Digest | None:
    """None for a tag. It becomes a part of an address: raises `FormatError` for anything else."""
    if ":" in tag_or_digest:
        return Digest(tag_or_digest)
    if _TAG.match(tag_or_digest) is None:
        raise FormatError(f"not a tag: {tag_or_digest!r:.200}")
    return None
