"""Requests as the verbs make them: to the right address, as the right user, tried again when that helps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from urllib3.util import Url, parse_url

from lazarus.errors import CancelledError, LazarusError, NotFoundError, RegistryError
from lazarus.registry.addresses import Origin
from lazarus.registry.auth import Authenticator, Peer
from lazarus.registry.credentials import find_credentials
from lazarus.registry.http import Http, NoTlsError, Request, Response, UnreachableError, error_of
from lazarus.registry.mirrors import Endpoint, Mirrors
from lazarus.registry.retries import TransientError
from lazarus.registry.settings import Credentials, Repository, Settings, is_loopback, server_of
from lazarus.registry.tls import TlsContexts
from lazarus.terms import Digest

T = TypeVar("T")


class Call(NamedTuple):
    """One request of a verb. `path` is under the repository ("manifests/v1"), or an address that the registry gave."""

    method: str
    path: str | Url
    what: str
    scopes: tuple[str, ...] = ()
    headers: Mapping[str, str] = {}
    body: Any = None
    expect: tuple[int, ...] = (200,)
    patience: float = 0.0


class Session:
    """All that is remembered between requests: connections, tokens, who speaks TLS. Thread-safe."""

    def __init__(self, settings: Settings, warn: Callable[[str], None]) -> None:
        self.settings = settings
        self._tls = TlsContexts(settings.ca_directory)
        self.http = Http(settings, self._tls, warn)
        self.auth = Authenticator(self.http, self._credentials_of)
        self._mirrors = Mirrors(settings.registries_conf)
        self._warn = warn
        self._lock = threading.Lock()
        self._probing: dict[str, threading.Lock] = {}
        self._bases: dict[tuple[str, bool], Url] = {}
        self._credentials: dict[tuple[str, str], Credentials | None] = {}
        self._named: set[str] = set()
        self._dead: set[str] = set()
        self._senders: dict[Digest, set[str]] = {}

    # -- where --

    def peer(self, endpoint: Endpoint) -> Peer:
        """Whom an endpoint is; finds out whether its registry speaks TLS, once."""
        host = endpoint.repository.host
        insecure = self.settings.tls_verify is False or (endpoint.insecure and self.settings.tls_verify is None)
        with self._lock:
            probing = self._probing.setdefault(host, threading.Lock())
        with probing:
            base = self._bases.get((host, insecure))
            if base is None:
                base = self._bases[(host, insecure)] = self._find_base(host, insecure)
        return Peer(base, host, endpoint.repository.name, insecure, endpoint.mirror)

    def _find_base(self, host: str, insecure: bool) -> Url:
        secure = parse_url(f"https://{server_of(host)}")
        origin = Origin.of(secure)
        self._tls.add_registry(origin.host, origin.port)
        if not insecure and (self.settings.tls_verify is True or not is_loopback(host)):
            return secure
        plain = parse_url(f"http://{server_of(host)}")
        try:
            if is_loopback(host):
                self.http.greet(origin, host)
            else:
                self._probe(secure, host, insecure)
            return secure
        except NoTlsError:
            return plain
        except UnreachableError:
            if secure.port is not None:
                raise
        except TransientError:
            pass  # some servers just hang up when somebody speaks TLS
        try:
            self._probe(plain, host, insecure)
            return plain
        except (TransientError, RegistryError):
            return secure  # the next request says what is wrong

    def _probe(self, base: Url, host: str, insecure: bool) -> None:
        with self.http.fetch(Request("GET", base._replace(path="/v2/"), f"{host}: /v2/", insecure=insecure)):
            pass

    def reading(
        self,
        repository: Repository,
        *,
        by_digest: bool,
        action: Callable[[Endpoint], T],
        after: tuple[Endpoint, LazarusError] | None = None,
        mirrors: bool = True,
    ) -> T:
        """The result of `action` at the first mirror that has it, or at the registry itself. What a mirror does wrong
        is a warning; one that cannot be reached is not asked again. `after`: one that began well and then did wrong;
        those behind it are asked, and nobody behind the last one. `mirrors` off: only the registry itself, for whoever
        is going to write there."""
        endpoints = self._mirrors.endpoints(repository, writing=not mirrors, by_digest=by_digest)
        if after is not None:
            endpoints = endpoints[endpoints.index(after[0]) + 1 :]
            if not endpoints:
                raise after[1]
            self._give_up(*after)
        self._named.add(repository.host)
        for endpoint in endpoints[:-1]:
            if endpoint.repository.host in self._dead:
                continue
            try:
                return action(endpoint)
            except CancelledError:
                raise
            except NotFoundError:
                continue
            except LazarusError as error:
                self._give_up(endpoint, error)
        return action(endpoints[-1])

    def sends(self, digest: Digest, endpoint: Endpoint) -> None:
        """Remembers who sends some of a blob."""
        if endpoint.mirror:
            with self._lock:
                self._senders.setdefault(digest, set()).add(endpoint.repository.host)

    def distrust(self, digest: Digest, error: LazarusError) -> bool:
        """See `RegistryClient.distrust`."""
        with self._lock:
            mirrors = self._senders.pop(digest, set())
            self._dead |= mirrors
        for host in sorted(mirrors):
            self._warn(f"mirror {host}: {error}")
        return bool(mirrors)

    def _give_up(self, mirror: Endpoint, error: LazarusError) -> None:
        if isinstance(error, RegistryError) and error.status == 0:
            self._dead.add(mirror.repository.host)
        self._warn(f"mirror {error}")

    def writing(self, repository: Repository) -> Endpoint:
        """Where a repository is written to."""
        self._named.add(repository.host)
        return self._mirrors.endpoints(repository, writing=True)[0]

    def whole_host(self, host: str) -> Endpoint:
        """A registry itself, for logging in."""
        self._named.add(host)
        return Endpoint(Repository(host, ""), self._mirrors.is_insecure(host))

    # -- who --

    def _credentials_of(self, host: str, repository: str) -> Credentials | None:
        """Given ones are for hosts that were named, and for no mirror."""
        if self.settings.credentials is not None and host in self._named:
            return self.settings.credentials
        key = (host, repository)
        with self._lock:
            if key in self._credentials:
                return self._credentials[key]
        found = find_credentials(host, repository, self.settings.auth_file)
        with self._lock:
            return self._credentials.setdefault(key, found)

    # -- how --

    def once(self, peer: Peer, call: Call) -> Response:
        """One request and its answer, of a status that was expected. Asks again as whom the registry wants. Raises
        `TransientError` for what may pass."""
        prefix = f"/v2/{peer.repository}/" if peer.repository else "/v2/"
        url = call.path if isinstance(call.path, Url) else peer.base.url.rstrip("/") + prefix + call.path
        parsed = url if isinstance(url, Url) else parse_url(url)
        request = Request(
            call.method, parsed, call.what, call.headers, call.body, peer.insecure, peer.origin, call.patience
        )
        ours = Origin.of(parsed) == peer.origin
        for last in (False, False, True):
            used = self.auth.authorization(peer, call.scopes, call.what) if ours else None
            try:
                response = self.http.fetch(request, used)
            except NoTlsError as error:
                raise RegistryError(f"{error} (is it plain HTTP? then --tls-verify=false)") from error
            if response.status in call.expect:
                return response
            if response.status != 401 or response.redirected or not ours or last:
                break
            if not self.auth.challenged(peer, response, used):
                break
            if isinstance(call.body, Iterator):  # some of it is gone
                response.close()
                raise TransientError(RegistryError(f"{call.what}: the registry wants another token", 401), 0.0)
            response.finish()
        expected = " or ".join(map(str, call.expect))
        raise error_of(response, expected, denied=self._denied(peer, response))

    def request(self, peer: Peer, call: Call, read: Callable[[Response], T]) -> T:
        """What `read` makes of the answer, tried again as often as the settings say; the answer is closed after."""

        def attempt() -> T:
            with self.once(peer, call) as response:
                return read(response)

        return self.http.retrying(attempt, patient=not peer.mirror)

    def _denied(self, peer: Peer, response: Response) -> str:
        if response.status not in (401, 403) or response.redirected:
            return ""
        credentials = self._credentials_of(peer.host, peer.repository)
        if credentials is None:
            return f"and there are no credentials for {peer.host} (lazarus login {peer.host})"
        return f"to {credentials.username or 'the owner of the identity token'}"

    def close(self) -> None:
        self.http.close()
