"""Which certificates a registry is known by, and which one we show it.

Directories as docker and podman have them (containers-certs.d(5)), each host's its own: `*.crt` are authorities,
`NAME.cert` with `NAME.key` a certificate of ours. The system's authorities are trusted too, or those of SSL_CERT_FILE
and SSL_CERT_DIR.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Iterator

from lazarus.errors import FormatError, RegistryError

_SYSTEM = ("/etc/containers/certs.d", "/etc/docker/certs.d")
_MAX_CERTIFICATE = 1 << 20
_MAX_CONTEXTS = 64


class TlsContexts:
    """TLS contexts, made when first needed. Thread-safe.

    `directory` (--cert-dir) is for the registries that are added. The authorities of a registry count on the way that
    it sends us, to its token server and its storage, and for nobody else; a certificate of ours is shown to the host
    that it is for, and to no other.
    """

    def __init__(self, directory: str | None) -> None:
        self._directory = directory
        self._hosts: set[tuple[str, int]] = set()
        self._made: dict[tuple[bool, tuple[str, ...]], ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def add_registry(self, host: str, port: int) -> None:
        """A registry that the user named, or one of its mirrors: --cert-dir is for it."""
        self._hosts.add((host.lower().rstrip("."), port))

    def context(self, host: str, port: int, insecure: bool, registry: tuple[str, int]) -> ssl.SSLContext:
        """The context for one host, to which a registry (perhaps itself) has sent us; `insecure`: its certificate is
        not verified. Hosts with the same files share one: loading the system's authorities takes 20 ms and more."""
        files = tuple(self._files((host, port), registry))
        with self._lock:
            if (insecure, files) not in self._made:
                while len(self._made) >= _MAX_CONTEXTS:
                    del self._made[next(iter(self._made))]
                self._made[insecure, files] = _make(insecure, files)
            return self._made[insecure, files]

    def _files(self, server: tuple[str, int], registry: tuple[str, int]) -> Iterator[str]:
        """Authorities, and certificates of ours that may be shown to the server."""
        for directory, own in self._directories(server, registry):
            for name in sorted(_names(directory)):
                if name.endswith(".crt") or (name.endswith(".cert") and own):
                    yield os.path.join(directory, name)

    def _directories(self, server: tuple[str, int], registry: tuple[str, int]) -> Iterator[tuple[str, bool]]:
        """Where certificates are for this connection, and whether ours there may be shown to the server."""
        for whose in dict.fromkeys((server, registry)):
            for directory in self._directories_of(*whose):
                yield directory, whose == server

    def _directories_of(self, host: str, port: int) -> Iterator[str]:
        if self._directory is not None and (host, port) in self._hosts:
            if not os.path.isdir(self._directory):
                raise RegistryError(f"{self._directory}: not a directory with certificates")
            yield self._directory
        home = os.path.expanduser("~/.config/containers/certs.d")
        name = f"[{host}]" if ":" in host and not host.startswith("[") else host
        for place in (home, *_SYSTEM):
            yield os.path.join(place, f"{name}:{port}")
            if port == 443:
                yield os.path.join(place, name)


def _make(insecure: bool, files: tuple[str, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if insecure else ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for path in files:
        if path.endswith(".cert"):
            key = path.removesuffix(".cert") + ".key"
            if not os.path.exists(key):
                raise FormatError(f"{path}: a certificate of ours without its key, {key}")
            _load(path, lambda path=path, key=key: context.load_cert_chain(path, key, password=_no_password))
        elif not insecure:
            _load(path, lambda path=path: context.load_verify_locations(path))
    return context


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _load(path: str, action: object) -> None:
    try:
        if os.path.getsize(path) > _MAX_CERTIFICATE:
            raise FormatError(f"{path}: more than {_MAX_CERTIFICATE} bytes, not a certificate")
        action()  # type: ignore[operator]
    except ssl.SSLError as error:
        raise FormatError(
            f"{path}: not a certificate in PEM form, or a key that is not its own ({error.reason})"
        ) from error


def _no_password() -> str:
    raise FormatError("a key of a client certificate is encrypted; it must not be")
