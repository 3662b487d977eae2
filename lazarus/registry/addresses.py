"""Where a server may send us: what counts as one host, which redirects are followed, which proxy is used."""

from __future__ import annotations

import ipaddress
import urllib.request
from typing import NamedTuple
from urllib.parse import urljoin

from urllib3.exceptions import HTTPError
from urllib3.util import Url, parse_url

from lazarus.errors import RegistryError
from lazarus.registry.settings import is_loopback
from lazarus.registry.words import printable

_MAX_URL = 16 << 10
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """What credentials belong to."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: Url) -> Origin:
        scheme = url.scheme or ""
        return cls(scheme, (url.host or "").lower().rstrip("."), url.port or _DEFAULT_PORTS.get(scheme, 0))


def resolve(base: Url, location: str, what: str, insecure: bool) -> Url:
    """Where a Location header leads, when we may go there: never from HTTPS to plain HTTP, never to this machine from
    another one, and to plain HTTP elsewhere only when that was asked for."""
    shown = printable(location, 100)
    if not location or len(location) > _MAX_URL or not (location.isascii() and location.isprintable()):
        raise RegistryError(f"{what}: a Location that is not one: {shown}")
    try:
        target = parse_url(urljoin(base.url, location))
    except (HTTPError, ValueError) as error:
        raise RegistryError(f"{what}: a Location that is not one: {shown}") from error
    if target.scheme not in ("http", "https") or not target.host or target.auth is not None:
        raise RegistryError(f"{what}: leads to {shown}, where an http or https address is expected")
    if Origin.of(target) != Origin.of(base):
        check_address(base, target, what, insecure)
    return target._replace(fragment=None)


def check_address(base: Url, target: Url, what: str, insecure: bool) -> None:
    """`RegistryError` when a server at `base` may not send us to `target`."""
    name = printable(str(target._replace(path=None, query=None, fragment=None)), 100)
    here = is_loopback(target.host or "")
    if here and not is_loopback(base.host or ""):
        raise RegistryError(f"{what}: a server elsewhere leads to {name}, which is this machine")
    if target.scheme == "http" and not insecure:
        if base.scheme == "https":
            raise RegistryError(f"{what}: leads from HTTPS to plain HTTP, {name}")
        if not here:
            raise RegistryError(f"{what}: leads to plain HTTP, {name}")


def proxy_for(origin: Origin) -> str | None:
    """The proxy that the environment wants for it (HTTP_PROXY, HTTPS_PROXY, NO_PROXY, in either case)."""
    if is_loopback(origin.host):
        return None
    proxies = urllib.request.getproxies_environment()
    proxy = proxies.get(origin.scheme) or proxies.get("all")
    if not proxy or _bypassed(origin, proxies.get("no", "")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _bypassed(origin: Origin, no_proxy: str) -> bool:
    """NO_PROXY as curl and Go read it: hosts and their domains, with or without a port, addresses, networks, `*`."""
    try:
        address = ipaddress.ip_address(origin.host.strip("[]"))
    except ValueError:
        address = None
    for word in no_proxy.lower().split(","):
        name = word.strip()
        if name == "*":
            return True
        if address is not None and "/" in name:
            try:
                if address in ipaddress.ip_network(name, strict=False):
                    return True
            except ValueError:
                continue
        host, colon, port = name.rpartition(":")
        if colon and port.isdecimal() and ("]" in host or ":" not in host):
            if int(port) != origin.port:
                continue
            name = host
        name = name.strip("[]").removeprefix("*").removeprefix(".")
        if name and (origin.host.strip("[]") == name or (address is None and origin.host.endswith(f".{name}"))):
            return True
    return False
