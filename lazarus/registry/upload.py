"""Sending blobs and manifests (distribution-spec, "Push").

A blob is opened by POST, sent by PATCH and closed by PUT with its digest; a small one is sent by PUT alone. When a
PATCH fails, the registry is asked what it has (GET of the upload), and sending goes on from there. Where an upload goes
is the registry's to say: to another host it goes without credentials, and never from HTTPS to plain HTTP.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from urllib3.util import Url

from lazarus.errors import CorruptError, FormatError, LazarusError, LimitError, NotFoundError, RegistryError
from lazarus.oci.strict_json import MAX_SIZE
from lazarus.registry.addresses import resolve
from lazarus.registry.auth import Peer
from lazarus.registry.challenges import parse_upload_range
from lazarus.registry.http import Response, check_digest_header
from lazarus.registry.manifests import digest_of, media_type_of
from lazarus.registry.mirrors import Endpoint
from lazarus.registry.retries import TransientError
from lazarus.registry.session import Call, Session
from lazarus.terms import Descriptor, Digest

if TYPE_CHECKING:
    from hashlib import _Hash

PIECE = 8 << 20
MAX_PIECE = 64 << 20  # the most that a registry may want to have at once (OCI-Chunk-Min-Length)
_EARNS = 1 << 20
_SLICE = 256 << 10
_COMMIT_PATIENCE = 10  # times the timeout: a registry may read a blob again before it takes it

Chunk = bytes | memoryview


def mount(session: Session, endpoint: Endpoint, call: Call, digest: Digest, source: str) -> bool:
    """POST with `mount` and `from`. 202 instead of 201 is an upload that nobody needs: it is ended."""
    peer = session.peer(endpoint)
    call = call._replace(
        path=f"{call.path}?mount={digest}&from={source}",
        scopes=(*call.scopes, f"repository:{source}:pull"),
        expect=(201, 202),
        what=f"{call.what}, mount from {source}",
    )

    def read(response: Response) -> bool:
        if response.status == 202:
            location = resolve(response.request.url, response.header("Location"), call.what, peer.insecure)
            _abandon(session, peer, location, call)
            return False
        check_digest_header(response, lambda algorithm: digest if algorithm == "sha256" else "", call.what)
        return True

    return session.request(peer, call, read)


def put_manifest(
    session: Session, endpoint: Endpoint, call: Call, name: str, media_type: str, data: bytes
) -> tuple[Digest, bool]:
    """Its digest, and whether the registry has entered it into its list of referrers, or it has no subject."""
    if len(data) > MAX_SIZE:
        raise LimitError(f"{call.what}: {len(data)} bytes, more than {MAX_SIZE}")
    digest = Digest(digest_of(data))
    if ":" in name and name != digest:
        raise CorruptError(f"{call.what}: its bytes are {digest}")
    media_type_of(data, media_type, call.what)

    def read(response: Response) -> bool:
        check_digest_header(response, lambda algorithm: digest_of(data, algorithm), call.what)
        return bool(response.header("OCI-Subject")) or b'"subject"' not in data

    call = call._replace(headers={"Content-Type": media_type}, body=data)
    return digest, session.request(session.peer(endpoint), call, read)


def upload(
    session: Session,
    endpoint: Endpoint,
    call: Call,
    descriptor: Descriptor | None,
    chunks: Iterable[Chunk],
    rewind: Callable[[], Iterable[Chunk]] | None,
) -> Digest:
    """See `RegistryClient.upload_blob`."""
    return _Upload(session, endpoint, call, descriptor).run(chunks, rewind)


class _Slices:
    """Bytes that are sent a little at a time: the timeout is for each of these, so that slow lines get through."""

    def __init__(self, data: Chunk) -> None:
        self._view = memoryview(data).cast("B")

    def __iter__(self) -> Iterator[memoryview]:
        for begin in range(0, len(self._view), _SLICE):
            yield self._view[begin : begin + _SLICE]


class _Source:
    """The chunks in order, counted and hashed as they are first seen."""

    def __init__(self, chunks: Iterable[Chunk], hasher: _Hash | None) -> None:
        self._chunks = iter(chunks)
        self._hash = hasher
        self.position = 0
        self.ended = False
        self.error: Exception | None = None  # the chunks' own, which is not the connection's

    def __iter__(self) -> Iterator[Chunk]:
        while True:
            try:
                chunk = next(self._chunks, None)
            except Exception as error:
                self.error = error
                raise
            if chunk is None:
                break
            if len(chunk):
                self.position += len(chunk)
                if self._hash is not None:
                    self._hash.update(chunk)
                yield chunk
        self.ended = True


class _Upload:
    """One blob on its way. `offset`: how much of it the registry has for certain."""

    def __init__(self, session: Session, endpoint: Endpoint, call: Call, descriptor: Descriptor | None) -> None:
        self._session, self._descriptor = session, descriptor
        self._peer = session.peer(endpoint)
        self._start, self._what = call, call.what
        self._location: Url | None = None
        self._least = 0
        self._offset = 0
        self._retries = session.http.retries()
        self._total = -1  # not known yet
        self._taken = False

    def run(self, chunks: Iterable[Chunk], rewind: Callable[[], Iterable[Chunk]] | None) -> Digest:
        self._open()
        try:
            hasher = None if self._descriptor is not None else hashlib.sha256()
            if rewind is None or (self._descriptor is not None and self._descriptor.size <= PIECE):
                self._send_pieces(_Source(chunks, hasher), hasher)
            else:
                hasher = self._send_stream(chunks, rewind)
            digest = self._digest(hasher)
            if not self._taken:
                self._commit(digest)
            return digest
        except BaseException:
            if self._location is not None:
                _abandon(self._session, self._peer, self._location, self._start)
            raise

    def _digest(self, hasher: _Hash | None) -> Digest:
        """Of what was sent, when it is as long as it was to be."""
        if self._descriptor is None:
            assert hasher is not None
            return Digest(f"sha256:{hasher.hexdigest()}")
        if self._total != self._descriptor.size:
            size = self._descriptor.size
            raise CorruptError(f"{self._what}: {self._total} bytes to send, its descriptor says {size}")
        return self._descriptor.digest

    # -- in pieces --

    def _send_pieces(self, source: _Source, hasher: _Hash | None) -> None:
        """Each piece is in memory until the registry has it."""
        size = max(PIECE, self._least)
        piece = bytearray()
        begin = 0
        for chunk in source:
            view = memoryview(chunk).cast("B")
            while len(view):
                part = view[: size - len(piece)]
                piece += part
                view = view[len(part) :]
                if len(piece) == size:
                    self._send_piece(bytes(piece), begin)
                    begin += size
                    piece.clear()
        self._total = source.position
        if self._offset == 0 and self._total <= PIECE:
            self._taken = self._put_whole(bytes(piece), self._digest(hasher))
        if piece and not self._taken:
            self._send_piece(bytes(piece), begin)

    def _put_whole(self, data: bytes, digest: Digest) -> bool:
        """A small blob in one PUT; False when that failed in a way that sending it in pieces may get over."""
        try:
            with self._session.once(self._peer, self._closing(digest, data)) as response:
                check_digest_header(response, lambda algorithm: digest if algorithm == "sha256" else "", self._what)
        except TransientError as error:
            self._failed(error)
            return False
        self._location = None
        return True

    def _send_piece(self, piece: bytes, begin: int) -> None:
        """Bytes `begin` and on, of which the registry may have the first ones."""
        end = begin + len(piece)
        while self._offset < end:
            rest = piece[self._offset - begin :]
            self._patch(_Slices(rest), len(rest))
            if not begin <= self._offset <= end:
                raise RegistryError(f"{self._what}: the registry has {self._offset} bytes, {begin} to {end} were sent")

    # -- in one go --

    def _send_stream(self, chunks: Iterable[Chunk], rewind: Callable[[], Iterable[Chunk]]) -> _Hash | None:
        """From where the registry is, with the chunks from their beginning each time something fails."""
        size = self._descriptor.size if self._descriptor is not None else None
        hasher = None if size is not None else hashlib.sha256()
        source = _Source(chunks, hasher)
        while True:
            begin = self._offset
            if size is not None and begin > size:
                raise RegistryError(f"{self._what}: the registry has {begin} bytes, {size} are to be sent")
            self._patch(_from(source, begin), None if size is None else size - begin, source)
            if source.ended and source.position == 0 and self._offset <= 1:
                self._offset = 0  # "0-0" may mean nothing
            if source.ended and self._offset == source.position:
                self._total = source.position
                return hasher
            if source.ended and self._offset > source.position:
                raise RegistryError(f"{self._what}: the registry has {self._offset} bytes, {source.position} were sent")
            hasher = None if size is not None else hashlib.sha256()
            source = _Source(rewind(), hasher)

    # -- requests --

    def _open(self) -> None:
        def read(response: Response) -> None:
            least = response.header("OCI-Chunk-Min-Length")
            self._least = int(least) if least.isdecimal() and len(least) < 12 else 0
            if self._least > MAX_PIECE:
                raise RegistryError(
                    f"{self._what}: the registry wants pieces of {self._least} bytes, more than {MAX_PIECE}"
                )
            self._follow(response)

        self._session.request(self._peer, self._start, read)
        self._offset = 0

    def _follow(self, response: Response) -> None:
        """The address for the next request."""
        self._location = resolve(response.request.url, response.header("Location"), self._what, self._peer.insecure)

    def _patch(self, body: Iterable[Chunk], size: int | None, source: _Source | None = None) -> None:
        """Sends from `offset` on; afterwards `offset` is what the registry has, be it less."""
        headers = {"Content-Type": "application/octet-stream"}
        if size is not None:
            headers |= {"Content-Length": str(size), "Content-Range": f"{self._offset}-{self._offset + size - 1}"}
        begin = self._offset
        try:
            with self._session.once(self._peer, self._call("PATCH", headers, body, (202, 201, 204, 416))) as response:
                if response.status == 416:
                    raise TransientError(
                        RegistryError(f"{self._what}: the registry wants other bytes than the next", 416), 0.0
                    )
                self._follow(response)
                stated = response.header("Range")
                self._offset = self._range(stated) if stated else begin + (size or 0)
                if not stated and size is None:
                    self._ask_status()
            sent = source.position if source is not None else begin + (size or 0)
            if self._offset < sent and self._offset - begin < _EARNS:  # it could do so for ever
                raise TransientError(RegistryError(f"{self._what}: the registry took {self._offset} of {sent} bytes"))
        except TransientError as error:
            if source is not None and source.error is not None:
                raise source.error from error
            self._failed(error)
        if self._offset - begin >= _EARNS:
            self._retries.forget()

    def _failed(self, error: TransientError) -> None:
        """Waits, and finds out what the registry has; the last time it is an error."""
        self._retries.after(error)
        self._session.http.retrying(self._ask_status)

    def _ask_status(self) -> None:
        """How much the registry has (204 with a Range); an upload that it has forgotten begins anew."""
        try:
            with self._session.once(self._peer, self._call("GET", {}, None, (204, 200, 202))) as response:
                if response.header("Location"):
                    self._follow(response)
                stated = response.header("Range")
                # distribution says 0-0 of nothing and of one byte; a new upload is of nothing for certain
                known = self._range(stated) if stated else 0
        except NotFoundError:
            known = 0
        if known <= 1:
            self._open()
        else:
            self._offset = known

    def _range(self, stated: str) -> int:
        try:
            return parse_upload_range(stated)
        except FormatError as error:
            raise RegistryError(f"{self._what}: {error}") from error

    def _commit(self, digest: Digest) -> None:
        """PUT. When its answer was lost the blob may be there all the same."""
        call = self._closing(digest, b"")
        tried = []

        def attempt() -> None:
            try:
                tried.append(1)
                with self._session.once(self._peer, call) as response:
                    check_digest_header(response, lambda algorithm: digest if algorithm == "sha256" else "", self._what)
            except NotFoundError:
                if len(tried) == 1 or not self._has(digest):
                    raise

        self._session.http.retrying(attempt)
        self._location = None

    def _closing(self, digest: Digest, data: bytes) -> Call:
        """The last request of an upload."""
        assert self._location is not None
        query = "&".join(filter(None, [self._location.query, f"digest={digest}"]))
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(data))}
        call = self._call("PUT", headers, _Slices(data), (201, 202, 204))
        patience = self._session.settings.timeout * _COMMIT_PATIENCE
        return call._replace(path=self._location._replace(query=query), patience=patience)

    def _has(self, digest: Digest) -> bool:
        head = self._start._replace(method="HEAD", path=f"blobs/{digest}", expect=(200,))
        with self._session.once(self._peer, head):
            return True

    def _call(
        self, method: str, headers: dict[str, str], body: Iterable[Chunk] | None, expect: tuple[int, ...]
    ) -> Call:
        assert self._location is not None
        return Call(method, self._location, self._what, self._start.scopes, headers, body, expect)


def _from(source: _Source, begin: int) -> Iterator[Chunk]:
    """The chunks from byte `begin` of the source on."""
    for chunk in source:
        end = source.position
        if end > begin:
            view = memoryview(chunk).cast("B")
            yield from _Slices(view[max(0, begin - (end - len(view))) :])


def _abandon(session: Session, peer: Peer, location: Url, call: Call) -> None:
    """Tells the registry that nobody will end an upload; whether it listens does not matter."""
    try:
        with session.once(peer, Call("DELETE", location, call.what, call.scopes, expect=(204, 200, 202))):
            pass
    except (LazarusError, TransientError):
        pass
