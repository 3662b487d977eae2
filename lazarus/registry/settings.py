"""Who is asked for what, and with which settings: values, without I/O."""

from __future__ import annotations

import re
from typing import NamedTuple, Self

from lazarus.errors import FormatError
from lazarus.oci.references import Reference

DEFAULT_HOST = "docker.io"
_DEFAULT_SERVER = "registry-1.docker.io"  # where docker.io's registry is, by docker's convention
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?\Z")


class Credentials(NamedTuple):
    """A user's name and password, or an identity token (then the name does not matter). Never shown by `repr`."""

    username: str = ""
    password: str = ""
    identity_token: str = ""

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, ...)"


class Settings(NamedTuple):
    """How registries are spoken to.

    `tls_verify` None: certificates are verified, and plain HTTP is spoken to loopback addresses only, where HTTPS is
    not. True: never plain HTTP. False: certificates are not verified, and plain HTTP is spoken where HTTPS is not.
    `credentials` are for the registry that a repository names, not for its mirrors. Times are in seconds: `timeout`
    bounds a connection, the head of an answer, and 64 KiB of a body; a pause before a retry is `backoff` times a power
    of two, at random, or what the server asks for, up to `longest_pause`. `retries` are for what a server does wrong,
    `away` for one that was there and is not.
    """

    tls_verify: bool | None = None
    ca_directory: str | None = None
    auth_file: str | None = None
    credentials: Credentials | None = None
    registries_conf: str | None = None
    retries: int = 3
    away: int = 12
    timeout: float = 60.0
    backoff: float = 0.5
    longest_pause: float = 60.0


class Repository(NamedTuple):
    """A repository of a registry: `host` is "docker.io", "localhost:5000" or "[::1]:5000", `name` "library/debian"."""

    host: str
    name: str

    @classmethod
    def of(cls, reference: Reference) -> Self:
        """The repository that a reference is in. Names without a host are docker.io's, as docker has it; of those,
        names without a slash are in `library/`."""
        host, name = DEFAULT_HOST, reference.name
        if reference.host:
            name = name.removeprefix(f"{reference.host}/")
            host = DEFAULT_HOST if reference.host == "index.docker.io" else reference.host
        if host == DEFAULT_HOST and "/" not in name:
            name = f"library/{name}"
        return cls(parse_host(host), name)

    def __str__(self) -> str:
        return f"{self.host}/{self.name}"


def parse_host(text: str) -> str:
    """A registry's host, with its port: "localhost:5000". Raises `FormatError`."""
    port = text.rpartition(":")[2] if re.search(r":[0-9]+\Z", text) else "1"
    if _HOST.match(text) is None or len(text) > 255 or not 0 < int(port) < 65536:
        raise FormatError(f"not the host of a registry: {text!r:.200} (expected HOST or HOST:PORT)")
    return text.lower()


def server_of(host: str) -> str:
    """Where a registry's API is: the host itself, but for docker.io."""
    return _DEFAULT_SERVER if host == DEFAULT_HOST else host


def is_loopback(host: str) -> bool:
    """Does this host (with or without a port) name this machine by a loopback address, in any spelling that the system
    takes for one ("127.1", "0x7f000001", "0"), or as `localhost`?"""
    import ipaddress
    import socket

    name = host.rpartition(":")[0] if re.search(r"(?:\]|\A[^:]*):[0-9]+\Z", host) else host
    name = name.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        if re.fullmatch(r"[0-9a-fx.]+", name) is None:
            return False
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(name))
        except OSError:
            return False
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return address.is_loopback or address.is_unspecified
