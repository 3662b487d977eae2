"""The bytes of a blob as they come, resumed where a connection breaks.

How often is bounded: each new MiB earns the retries anew, so that a slow line gets through a large blob and a server
that gives a byte for each connection does not keep us for ever. Where one server does not go on, the next one does:
after a mirror the registry itself, from the byte at which the mirror ended. A blob that comes whole is compared with
its digest, whoever its bytes came from; of a part only the place and the length are known here, and whoever asked for
it has to know what it is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from lazarus.errors import CancelledError, CorruptError, FormatError, LazarusError, RegistryError, UnsupportedError
from lazarus.registry.challenges import parse_content_range
from lazarus.registry.http import Http, Response
from lazarus.registry.retries import TransientError
from lazarus.registry.words import printable
from lazarus.terms import Descriptor

_EARNS = 1 << 20  # bytes that make up for the failures before them
_PIECE = 256 << 10


class BlobSource(NamedTuple):
    """Who is asked for a blob: `ask` with a Range or without (the status is 200, 206 or 416), then `following`, which
    starts the stream again with the next one, or raises what it is given. `patient`: nobody follows."""

    what: str
    ask: Callable[[str | None], Response]
    following: Callable[[LazarusError], object]
    patient: bool


class BlobStream:
    """Bytes `offset` to `offset + size` of a blob, once it was started; a context manager. One thread reads it."""

    def __init__(self, http: Http, descriptor: Descriptor, offset: int, size: int, *, verify: bool) -> None:
        self.size = size
        self._http, self._descriptor, self._offset = http, descriptor, offset
        self._whole = offset == 0 and size == descriptor.size
        self._hash = hashlib.sha256() if verify and self._whole else None
        self._had = 0
        self._earned = 0
        self._ended = False
        self._response: Response | None = None

    def start(self, source: BlobSource) -> None:
        """Asks for what is still to come. Raises what `readinto` does when this one does not send it."""
        self._source, self._what = source, source.what
        self._retries = self._http.retries(patient=source.patient)
        self._retrying(self._open)

    def __enter__(self) -> BlobStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def readinto(self, buffer: Any) -> int:
        """The next bytes, 0 at the end. Raises `CorruptError` (not the descriptor's bytes), `RegistryError`."""
        view = memoryview(buffer).cast("B")
        if self._ended or not len(view):
            return 0
        if self._had == self.size:
            self._retrying(self._end)
            return 0
        count = self._next(view[: min(self.size - self._had, _PIECE)])
        if self._hash is not None:
            self._hash.update(view[:count])
        self._had += count
        self._earned += count
        if self._earned >= _EARNS:
            self._earned = 0
            self._retries.forget()
        if self._had == self.size:
            self._retrying(self._end)
        return count

    def copy_to(self, fd: int) -> int:
        """All of it into a pipe or file; returns how many bytes that were. The GIL is not held while they move."""
        buffer = memoryview(bytearray(min(_PIECE, max(self.size, 1))))
        total = 0
        while count := self.readinto(buffer):
            rest = buffer[:count]
            while rest:
                rest = rest[os.write(fd, rest) :]
            total += count
        return total

    def close(self) -> None:
        """Before the end, too; then the connection is given up."""
        if self._response is not None:
            if self._ended:
                self._response.finish()
            else:
                self._response.close()
            self._response = None

    # -- one connection --

    def _next(self, view: memoryview) -> int:
        """The next bytes, of whoever has them."""
        while True:
            try:
                return int(self._retrying(lambda: self._some(view)))
            except CancelledError:
                raise
            except LazarusError as error:
                self._drop()
                self._source.following(error)

    def _some(self, view: memoryview) -> int:
        if self._response is None:
            self._open()
        assert self._response is not None
        count = self._response.readinto(view)
        if count == 0:
            self._response.close()
            raise TransientError(CorruptError(f"{self._what}: ends after {self._had} bytes, {self.size} are expected"))
        return count

    def _end(self) -> None:
        """All bytes are here: there must be no more of them, and they must be the ones."""
        if self._response is not None and self._response.status == 200 and self._whole:
            more = memoryview(bytearray(1))
            try:
                count = self._response.readinto(more)
            except TransientError:
                count = 0  # the bytes are all here; how the connection ends does not matter
            if count:
                self._response.close()
                raise CorruptError(f"{self._what}: more than the {self.size} bytes that its descriptor says")
        self._ended = True
        self.close()
        if self._hash is not None and f"sha256:{self._hash.hexdigest()}" != self._descriptor.digest:
            raise CorruptError(f"{self._what}: its bytes are sha256:{self._hash.hexdigest()}")

    def _open(self) -> None:
        """Asks for what is still to come."""
        first, end = self._offset + self._had, self._offset + self.size
        ranged = first > 0 or end < self._descriptor.size
        if ranged and first == end:
            return
        response = self._source.ask(f"bytes={first}-{end - 1}" if ranged else None)
        try:
            response.check_encoding()
            if response.status == 206 and ranged:
                skip = self._check_part(response, first, end)
            elif response.status == 200:
                skip = self._check_whole(response, first, ranged)
            else:
                text = printable(response.header("Content-Range"), 60)
                raise RegistryError(
                    f"{self._what}: {response.status} for bytes {first} to {end} of {self._descriptor.size} ({text})",
                    response.status,
                )
            response.expect(self._descriptor.size, self._http.settings.timeout)
            self._skip(response, skip)
        except BaseException:
            response.close()
            raise
        self._response = response

    def _check_part(self, response: Response, first: int, end: int) -> int:
        try:
            begin, stop, total = parse_content_range(response.header("Content-Range"))
        except FormatError as error:
            raise RegistryError(f"{self._what}: 206 with {error}", 206) from error
        if begin != first or stop > end or total not in (None, self._descriptor.size):
            raise CorruptError(
                f"{self._what}: bytes {begin} to {stop} of {total}, {first} to {end} of {self._descriptor.size} asked"
            )
        if response.length not in (None, stop - begin):
            raise CorruptError(f"{self._what}: {response.length} bytes for the range {begin} to {stop}")
        return 0

    def _check_whole(self, response: Response, first: int, ranged: bool) -> int:
        """A server may ignore Range; then what is not wanted of the blob comes, too."""
        if response.length not in (None, self._descriptor.size):
            raise CorruptError(f"{self._what}: {response.length} bytes, its descriptor says {self._descriptor.size}")
        if ranged and self._offset + self.size < self._descriptor.size:
            raise UnsupportedError(f"{self._what}: the registry does not send parts of blobs")
        return first

    def _skip(self, response: Response, count: int) -> None:
        buffer = memoryview(bytearray(min(_PIECE, count)))
        while count:
            came = response.readinto(buffer[:count])
            if came == 0:
                raise TransientError(CorruptError(f"{self._what}: ends early"))
            count -= came

    def _retrying(self, action: Callable[[], Any]) -> Any:
        while True:
            try:
                return action()
            except TransientError as error:
                self._drop()
                self._http.check_cancelled()
                self._retries.after(error)

    def _drop(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None
