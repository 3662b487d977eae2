"""Who we are to a registry: the answer to its `WWW-Authenticate`, basic or bearer.

Credentials go to the host that they are kept for, and to the token server that this host names: over HTTPS, or over
plain HTTP when the registry itself is spoken to in plain HTTP and the token server is that host or this machine. A
token goes to the registry that asked for it. Tokens are kept until shortly before they expire, for one realm, service,
scope and user.
"""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from urllib3.exceptions import HTTPError
from urllib3.util import Url, parse_url

from lazarus.errors import DeniedError, FormatError, RegistryError
from lazarus.oci.strict_json import load_object
from lazarus.registry.addresses import Origin, check_address, resolve
from lazarus.registry.challenges import Challenge, parse_challenges
from lazarus.registry.http import Http, Request, Response, error_of
from lazarus.registry.settings import Credentials, is_loopback
from lazarus.registry.words import printable

_MAX_ANSWER = 1 << 20
_MAX_TOKEN = 64 << 10
_LIFETIME = 60.0  # seconds, when a server does not say (docs/spec/auth/token.md)
_CLIENT = "lazarus"
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,1000}\Z")  # RFC 6749, 3.3


class Peer(NamedTuple):
    """Whom we authenticate to: the API's address, and the key of credentials: host and repository as the user says."""

    base: Url
    host: str
    repository: str
    insecure: bool
    mirror: bool = False

    @property
    def origin(self) -> Origin:
        return Origin.of(self.base)


class _Token(NamedTuple):
    text: str
    until: float  # time.monotonic


class Authenticator:
    """Challenges and tokens of all hosts. Thread-safe; one token is fetched once, however many threads want it."""

    def __init__(self, http: Http, credentials_of: Callable[[str, str], Credentials | None]) -> None:
        self._http, self._credentials_of = http, credentials_of
        self._challenges: dict[Origin, Challenge] = {}
        self._tokens: dict[tuple[Any, ...], _Token] = {}
        self._lock = threading.Lock()
        self._fetching: dict[tuple[Any, ...], threading.Lock] = {}

    def authorization(self, peer: Peer, scopes: tuple[str, ...], what: str) -> str | None:
        """The Authorization header for a request, None before this host has asked for one."""
        challenge = self._challenges.get(peer.origin)
        if challenge is None:
            return None
        credentials = self._credentials_of(peer.host, peer.repository)
        if challenge.scheme == "basic":
            if credentials is None:
                raise DeniedError(
                    f"{what}: {peer.host} wants a password, and there is none (lazarus login {peer.host})", 401
                )
            if credentials.identity_token:
                raise DeniedError(f"{what}: a password is wanted, and there is an identity token", 401)
            return _basic(credentials)
        scopes = scopes or _scopes(challenge)
        return f"Bearer {self._token(peer, challenge, credentials, scopes, what)}"

    def challenged(self, peer: Peer, response: Response, used: str | None) -> bool:
        """Takes the challenge of a 401; is there any use in asking again? `used` is what was sent."""
        what = response.request.what
        try:
            challenges = parse_challenges(response.headers.get_all("WWW-Authenticate") or [])
        except FormatError as error:
            raise RegistryError(f"{what}: 401 with {error}", 401) from error
        known = {challenge.scheme: challenge for challenge in reversed(challenges)}
        challenge = known.get("bearer") or known.get("basic")
        if challenge is None:
            return False
        if used is None:
            self._challenges[peer.origin] = challenge
            return True
        if challenge.scheme == "basic" and used.startswith("Basic "):
            return False
        if used.startswith("Bearer "):
            self._forget(used.removeprefix("Bearer "))
        self._challenges[peer.origin] = challenge
        return True

    def identity_token(self, peer: Peer, credentials: Credentials, what: str) -> str | None:
        """Checks credentials with the token server, when there is one, and asks it for an identity token."""
        challenge = self._challenges.get(peer.origin)
        if challenge is None or challenge.scheme != "bearer":
            return None
        scopes = _scopes(challenge)
        document = self._http.retrying(lambda: self._ask(peer, challenge, credentials, scopes, what, login=True))
        token = document.get("refresh_token")
        return token if isinstance(token, str) and token and _fit(token) else None

    def asks(self, peer: Peer) -> bool:
        """Has this host asked who we are?"""
        return peer.origin in self._challenges

    def _forget(self, text: str) -> None:
        with self._lock:
            for key in [key for key, token in self._tokens.items() if token.text == text]:
                del self._tokens[key]

    def _token(
        self, peer: Peer, challenge: Challenge, credentials: Credentials | None, scopes: tuple[str, ...], what: str
    ) -> str:
        words = challenge.parameters
        key = (peer.origin, words.get("realm"), words.get("service"), scopes, credentials and tuple(credentials))
        with self._lock:
            fetching = self._fetching.setdefault(key, threading.Lock())
        with fetching:
            with self._lock:
                token = self._tokens.get(key)
            if token is None or token.until <= time.monotonic():
                begin = time.monotonic()
                document = self._http.retrying(lambda: self._ask(peer, challenge, credentials, scopes, what))
                token = _parse_token(document, begin, what)
                with self._lock:
                    self._tokens[key] = token
        return token.text

    def _ask(
        self,
        peer: Peer,
        challenge: Challenge,
        credentials: Credentials | None,
        scopes: tuple[str, ...],
        what: str,
        *,
        login: bool = False,
    ) -> dict[str, Any]:
        """What the token server answers: GET with a password or without, POST with an identity token (oauth.md)."""
        url = _realm(peer, challenge, what)
        service = challenge.parameters.get("service", "")
        fields = [("service", service)] if service else []
        headers: dict[str, str] = {"Accept": "application/json"}
        authorization = None
        name = f"{what}: token of {printable(url.host or '', 100)}"
        if credentials is not None and credentials.identity_token:
            fields += [("grant_type", "refresh_token"), ("refresh_token", credentials.identity_token)]
            fields += [("client_id", _CLIENT), ("scope", " ".join(scopes))]
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            request = Request("POST", url, name, headers, urlencode(fields).encode(), peer.insecure, peer.origin)
        else:
            fields += [("scope", scope) for scope in scopes]
            if credentials is not None:
                fields.append(("account", credentials.username))
                authorization = _basic(credentials)
            if login:
                fields += [("offline_token", "true"), ("client_id", _CLIENT)]
            query = "&".join(filter(None, [url.query, urlencode(fields, quote_via=quote)]))
            request = Request("GET", url._replace(query=query or None), name, headers, None, peer.insecure, peer.origin)
        with self._answer(request, authorization) as response:
            if response.status != 200:
                user = f" for {credentials.username or 'the identity token'}" if credentials else ""
                raise error_of(response, "200", denied=f"the token server refuses{user}", registry=False)
            response.check_encoding()
            data = response.read(_MAX_ANSWER, self._http.settings.timeout)
        return load_object(data, name)

    def _answer(self, request: Request, authorization: str | None) -> Response:
        """Redirects of a token server are followed on its own host, to which the credentials went, and no further."""
        origin = Origin.of(request.url)
        for _ in range(5):
            response = self._http.send(request, authorization)
            if response.status not in (301, 302, 303, 307, 308):
                return response
            response.finish()
            target = resolve(request.url, response.header("Location"), request.what, request.insecure)
            if Origin.of(target) != origin or (request.method != "GET" and response.status not in (307, 308)):
                shown = printable(target.host or "", 100)
                raise RegistryError(f"{request.what}: the token server leads to {shown}, which is not followed")
            request = request._replace(url=target)
        raise RegistryError(f"{request.what}: the token server redirects endlessly")


def _basic(credentials: Credentials) -> str:
    return "Basic " + base64.b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()


def _scopes(challenge: Challenge) -> tuple[str, ...]:
    """Those that the challenge names: used where we have none of our own."""
    return tuple(scope for scope in challenge.parameters.get("scope", "").split() if _SCOPE.match(scope))[:8]


def _realm(peer: Peer, challenge: Challenge, what: str) -> Url:
    """Where tokens are had, when credentials may go there."""
    text = challenge.parameters.get("realm", "")
    shown = printable(text, 100)
    try:
        url = parse_url(text) if text.isascii() and text.isprintable() and len(text) < 4096 else Url()
    except (HTTPError, ValueError):
        url = Url()
    if url.scheme not in ("http", "https") or not url.host or url.auth is not None:
        raise RegistryError(f"{what}: its token server is {shown!r}, where an https address is expected")
    same_host = (url.host or "").lower() == (peer.base.host or "").lower()
    if url.scheme == "http" and (peer.base.scheme != "http" or not (same_host or is_loopback(url.host))):
        raise RegistryError(f"{what}: its token server is {shown}: credentials do not go there in plain HTTP")
    check_address(peer.base, url, what, peer.insecure)
    return url._replace(fragment=None)


def _parse_token(document: Mapping[str, Any], begin: float, what: str) -> _Token:
    text = document.get("token") or document.get("access_token")
    if not isinstance(text, str) or not text or not _fit(text):
        raise RegistryError(f"{what}: the token server's answer has no token, or one that is none")
    stated = document.get("expires_in")
    known = isinstance(stated, int | float) and 0 < stated < 1e9
    seconds = float(stated) if known and stated is not None else _LIFETIME
    return _Token(text, begin + max(seconds * 0.9 - 5.0, seconds * 0.5))


def _fit(token: str) -> bool:
    """May it stand in a header?"""
    return len(token) <= _MAX_TOKEN and token.isascii() and token.isprintable() and " " not in token


def scope(repository: str, actions: Iterable[str]) -> str:
    """docs/spec/auth/scope.md: `repository:a/b:pull,push`."""
    return f"repository:{repository}:{','.join(actions)}"
