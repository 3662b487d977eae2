"""One HTTP request, the way registries need it: redirects that carry no credentials elsewhere, retries, bounds.

A server is never trusted: what it answers is bounded in size and time, where it redirects to is checked, and what it
says in an error is cut to a line of printable ASCII. What may pass is said to be transient (`TransientError`), and
`Http.retrying` tries again.
"""

from __future__ import annotations

import errno
import http.client
import json
import re
import socket
import ssl
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from urllib3 import Timeout, exceptions
from urllib3.exceptions import HTTPError
from urllib3.util import Url

from lazarus.errors import (
    CancelledError,
    CorruptError,
    DeniedError,
    LazarusError,
    LimitError,
    NotFoundError,
    RegistryError,
)
from lazarus.registry.addresses import Origin, proxy_for, resolve
from lazarus.registry.retries import Retries, TransientError
from lazarus.registry.settings import Settings
from lazarus.registry.wire import BoundedResponse, Connections
from lazarus.registry.words import printable, retry_after, why

if TYPE_CHECKING:
    from lazarus.registry.tls import TlsContexts

T = TypeVar("T")
MAX_REDIRECTS = 10
_MAX_ERROR = 64 << 10
_MAX_HOSTS = 32  # with open connections
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_AWAY = frozenset({502, 503, 504})  # as a proxy says it, whose registry is
_NO_WAY = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN)
_USER_AGENT = "lazarus"


class UnreachableError(RegistryError):
    """Nobody listens there, or nobody knows the host."""


class NoTlsError(Exception):
    """The server does not speak TLS."""


class Request(NamedTuple):
    """What is asked; `what` names it in errors ("localhost:5000/a: manifest v1")."""

    method: str
    url: Url
    what: str
    headers: Mapping[str, str] = {}
    body: Any = None
    insecure: bool = False
    registry: Origin | None = None  # on whose behalf, when that is another host: its authorities are trusted
    patience: float = 0.0  # seconds for the head of the answer; 0: the settings' timeout


class Response:
    """An answer whose body is still to be read; a context manager. `redirected`: it comes from another origin; `known`:
    which gave answers before that were no errors of its own."""

    def __init__(self, inner: Any, request: Request, redirected: bool, known: bool) -> None:
        self._inner, self.request, self.redirected, self.known = inner, request, redirected, known
        self._raw: BoundedResponse = inner._original_response
        self.status: int = inner.status
        self.headers = self._raw.headers

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def header(self, name: str) -> str:
        """The first header of that name, or ""."""
        value = self.headers.get(name)
        return str(value).strip() if value is not None else ""

    @property
    def length(self) -> int | None:
        """What Content-Length says, None without one."""
        return self._raw.length

    def check_encoding(self) -> None:
        """Bytes that were to come as they are must not come compressed: their digest would be another."""
        encoding = self.header("Content-Encoding").lower()
        if encoding not in ("", "identity"):
            self.close()
            raise RegistryError(
                f"{self.request.what}: Content-Encoding {printable(encoding, 40)} where none was asked for"
            )

    def expect(self, size: int, patience: float) -> None:
        """How many bytes of body may come, frames of chunks apart, and how long 64 KiB of them may take."""
        self._raw.reader.renew(patience, 8 * size + (1 << 20), renewing=True)

    def readinto(self, buffer: memoryview) -> int:
        """The next bytes of the body, 0 at its end. Raises `TransientError` when the connection breaks."""
        try:
            count = self._raw.readinto(buffer)
            if count == 0 and self._raw.length:
                raise ConnectionError(f"it ends {self._raw.length} bytes early")
            return count
        except LimitError as error:
            self.close()
            raise LimitError(f"{self.request.what}: {error}") from error
        except (OSError, http.client.HTTPException, HTTPError, ValueError) as error:
            self.close()
            malformed = isinstance(error, ValueError | http.client.IncompleteRead)
            text = "its chunks are malformed, or end early" if malformed else why(error)
            raise TransientError(RegistryError(f"{self.request.what}: {text}")) from error

    def read(self, limit: int, patience: float) -> bytes:
        """The whole body, at most `limit` bytes, or `LimitError`."""
        if (self._raw.length or 0) > limit:
            length = self._raw.length
            self.close()
            raise LimitError(f"{self.request.what}: {length} bytes, more than {limit}")
        self._raw.reader.renew(patience, 8 * limit + (1 << 20), renewing=False)
        whole = bytearray()
        buffer = memoryview(bytearray(64 << 10))
        while count := self.readinto(buffer):
            whole += buffer[:count]
            if len(whole) > limit:
                self.close()
                raise LimitError(f"{self.request.what}: more than {limit} bytes")
        return bytes(whole)

    def finish(self) -> None:
        """Done with it: the connection is used again when little is left of the body."""
        if not self._raw.isclosed():
            try:
                if self._raw.length is None or self._raw.length > _MAX_ERROR:
                    return self.close()
                self._raw.reader.renew(1.0, _MAX_ERROR, renewing=False)
                while self._raw.read(8 << 10):
                    pass
            except (OSError, http.client.HTTPException, ValueError, LimitError):
                return self.close()
            self._raw.close()
        self._inner.release_conn()
        return None

    def close(self) -> None:
        """Done with it, and with its connection."""
        self._inner.close()
        self._inner.release_conn()


class Http:
    """Connections to every host, and what is done with each answer. Thread-safe."""

    def __init__(self, settings: Settings, tls: TlsContexts, warn: Callable[[str], None]) -> None:
        self.settings = settings
        self._tls, self._warn = tls, warn
        self._connections = Connections()
        self._managers: OrderedDict[tuple[Origin, bool, Origin], Any] = OrderedDict()
        self._lock = threading.Lock()
        self._answered: dict[Origin, bool] = {}  # value: and ever without an error of its own
        self._cancelled = threading.Event()

    def fetch(self, request: Request, authorization: str | None = None) -> Response:
        """One request, with its redirects (of GET and HEAD only); any status. `authorization` goes to the origin of the
        request and nowhere else. Raises `TransientError`, `RegistryError`, `NoTlsError`."""
        origin = Origin.of(request.url)
        for _ in range(MAX_REDIRECTS + 1):
            response = self.send(request, authorization, Origin.of(request.url) != origin)
            if response.status not in (301, 302, 303, 307, 308) or request.method not in ("GET", "HEAD"):
                return response
            location = response.header("Location")
            response.finish()
            target = resolve(request.url, location, request.what, request.insecure)
            if Origin.of(target) != origin:
                authorization = None  # and it stays so when a later one leads back
            request = request._replace(url=target, registry=request.registry or origin)
        raise RegistryError(f"{request.what}: more than {MAX_REDIRECTS} redirects")

    def greet(self, origin: Origin, what: str) -> None:
        """Finds out whether a server speaks TLS, without a request and without loading certificates. Raises as `fetch`
        does: `NoTlsError` when it does not."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.check_cancelled()
        try:
            with (
                socket.create_connection(
                    (origin.host.strip("[]"), origin.port), min(self.settings.timeout, 10.0)
                ) as sock,
                context.wrap_socket(sock),
            ):
                pass
        except OSError as error:
            raise self._failure(error, origin, what) from error

    def retrying(self, action: Callable[[], T], *, patient: bool = True) -> T:
        """The result of `action`, called again with growing pauses while it raises `TransientError`."""
        retries = self.retries(patient=patient)
        while True:
            try:
                return action()
            except TransientError as error:
                retries.after(error)

    def retries(self, *, patient: bool = True) -> Retries:
        """For one request or one blob: see there."""
        return Retries(self.settings, self._pause, self._warn, patient=patient)

    def _pause(self, seconds: float) -> None:
        """`CancelledError` ends it."""
        self._cancelled.wait(seconds)
        self.check_cancelled()

    def check_cancelled(self) -> None:
        """Raises `CancelledError` after `cancel`."""
        if self._cancelled.is_set():
            raise CancelledError("cancelled")

    def cancel(self) -> None:
        """Ends what is under way in other threads, with `CancelledError` there."""
        self._cancelled.set()
        self._connections.shut_down()

    def close(self) -> None:
        with self._lock:
            while self._managers:
                self._managers.popitem()[1].clear()

    def send(self, request: Request, authorization: str | None, redirected: bool = False) -> Response:
        self.check_cancelled()
        origin, what = Origin.of(request.url), request.what
        headers = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity", **request.headers}
        if authorization is not None:
            headers["Authorization"] = authorization
        patience = request.patience or self.settings.timeout
        try:
            inner = self._manager(origin, request.insecure, request.registry or origin).urlopen(
                request.method,
                request.url.url,
                headers=headers,
                body=request.body,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
                timeout=Timeout(connect=min(self.settings.timeout, 30.0), read=patience),
            )
        except (HTTPError, OSError, http.client.HTTPException, ValueError) as error:
            self.check_cancelled()
            raise self._failure(error, origin, what, request, redirected) from error
        except LimitError as error:
            raise LimitError(f"{what}: {error}") from error
        known = self._answered.get(origin, False)
        self._answered[origin] = known or inner.status < 500
        response = Response(inner, request, redirected, known)
        if not redirected:
            self._show_warnings(response)
        return response

    def _failure(
        self, error: Exception, origin: Origin, what: str, request: Request | None = None, redirected: bool = False
    ) -> Exception:
        """What a request without an answer means: something final, or something that may pass. A host that answered
        before is there: it may be starting again. One that a registry leads to is, too, sooner or later."""
        final = RegistryError(f"{what}: {why(error)}")
        known, away = origin in self._answered, False
        sent = request is not None and request.body is not None  # then it hung up on what it does not want, perhaps
        cause: BaseException | None = error
        for _ in range(5):
            if isinstance(cause, ssl.SSLCertVerificationError | ssl.CertificateError):
                return final
            if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
                return NoTlsError(str(final))
            if isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN and not (known or redirected):
                return UnreachableError(str(final))
            if isinstance(cause, ConnectionRefusedError) and not (known or redirected):
                return UnreachableError(str(final))
            away = away or isinstance(cause, ConnectionRefusedError | socket.gaierror)
            away = away or (isinstance(cause, ConnectionError) and not sent)
            away = away or (isinstance(cause, OSError) and cause.errno in _NO_WAY)
            cause = cause.__cause__ or cause.__context__ if cause is not None else None
        if isinstance(error, ValueError | exceptions.LocationValueError):
            return final
        return TransientError(final, away=away and known)

    def _manager(self, origin: Origin, insecure: bool, registry: Origin) -> Any:
        """The connections to one origin, with its certificates."""
        key = (origin, insecure, registry)
        with self._lock:
            if key in self._managers:
                self._managers.move_to_end(key)
                return self._managers[key]
        options: dict[str, Any] = {"num_pools": 1, "maxsize": 16}
        if origin.scheme == "https":
            options["ssl_context"] = self._tls.context(origin.host, origin.port, insecure, registry[1:])
        manager = self._connections.manager(proxy_for(origin), **options)
        with self._lock:
            self._managers.setdefault(key, manager)
            while len(self._managers) > _MAX_HOSTS:
                self._managers.popitem(last=False)
            return self._managers.get(key, manager)

    def _show_warnings(self, response: Response) -> None:
        """distribution-spec, "Warnings": `Warning: 299 - "text"`."""
        for value in (response.headers.get_all("Warning") or [])[:8]:
            found = re.match(r'299 - "((?:[^"\\]|\\.){1,256})"', str(value))
            if found:
                self._warn(f"{response.request.what}: the registry warns: {printable(found[1], 256)}")


_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")


def error_of(response: Response, expected: str, *, denied: str = "", registry: bool = True) -> Exception:
    """The exception for an answer whose status is none of those that were expected; closes it. `denied` says more of a
    401 or 403; a 404 means that a registry does not have something, when it is one."""
    what, status = response.request.what, response.status
    words = _server_words(response)
    line = f"{what}: {status} {printable(http.client.responses.get(status, ''), 40)}".rstrip()
    after = response.header("Retry-After")
    line += f", expected {expected}" + (f" (Retry-After: {printable(after, 40)})" if after else "")
    line += f": {words}" if words else ""
    if status == 404 and registry:
        return NotFoundError(f"{what}: the registry does not have it" + (f" ({words})" if words else ""))
    if status in (401, 403):
        return DeniedError(
            f"{what}: access denied" + (f", {denied}" if denied else "") + (f": {words}" if words else ""), status
        )
    error = RegistryError(line, status)
    if status not in _TRANSIENT:
        return error
    away = response.known and status in _AWAY and response.request.body is None
    return TransientError(error, retry_after(after), away=away)


def _server_words(response: Response) -> str:
    """What an error's body says (distribution-spec, "Error Codes"), as one short line."""
    try:
        data = response.read(_MAX_ERROR, 5.0)
    except (LazarusError, TransientError):
        response.close()
        return ""
    response.finish()
    try:
        errors = json.loads(data)["errors"]
        texts = [f"{item.get('code', '')} {item.get('message', '')}".strip() for item in errors[:3]]
        return printable("; ".join(dict.fromkeys(texts)), 200)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        text = data[:400].decode("ascii", "replace")
        return "" if "<" in text else printable(text, 120)


def check_digest_header(response: Response, computed: Callable[[str], str], what: str) -> None:
    """`CorruptError` when Docker-Content-Digest says another digest than `computed(algorithm)`."""
    stated = response.header("Docker-Content-Digest")
    algorithm = stated.partition(":")[0]
    if stated and algorithm in ("sha256", "sha512") and stated != computed(algorithm):
        shown = printable(stated, 80)
        raise CorruptError(f"{what}: Docker-Content-Digest says {shown}, the bytes are {computed(algorithm)}")
