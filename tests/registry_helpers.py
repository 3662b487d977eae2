"""Debian's `docker-registry` on loopback, for tests: with TLS or without, and with either kind of authentication.

    with registry(tmp_path) as where:                              # plain HTTP, for everybody
    with registry(tmp_path, tls=True, auth="basic") as where:      # where.ca is the certificate to trust
    with registry(tmp_path, auth="token") as where:                # bearer tokens, from a token server in this process

`where.host` is what stands before the first slash of a reference. Whoever is asked to log in is USER with PASSWORD.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest

USER, PASSWORD = "lazarus", "take up thy bed"
# htpasswd -nbB lazarus 'take up thy bed', of the lowest cost
_HTPASSWD = "lazarus:$2y$04$iinlLDiDnNUeat/pIWsAneupfyGf6ID57gY.A/2Ermsls7ROSvr8u"
_SERVICE, _ISSUER = "registry of the tests", "token server of the tests"

needs_registry = pytest.mark.skipif(shutil.which("docker-registry") is None, reason="docker-registry is not installed")


class Registry(NamedTuple):
    """A registry that runs. `ca` is None without TLS; `storage` is its directory, `log` what it wrote so far."""

    host: str
    storage: Path
    log: Path
    ca: Path | None
    token_server: TokenServer | None

    @property
    def url(self) -> str:
        return f"{'https' if self.ca else 'http'}://{self.host}"

    @property
    def blobs(self) -> set[str]:
        """Digests of what it has, manifests too."""
        place = self.storage / "docker/registry/v2/blobs/sha256"
        return {f"sha256:{path.name}" for path in place.glob("*/*") if (path / "data").exists()}

    def blob(self, digest: str) -> Path:
        """Where it keeps the bytes of one: for tests that damage them."""
        name = digest.removeprefix("sha256:")
        return self.storage / f"docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"


@contextmanager
def registry(
    directory: Path,
    *,
    tls: bool = False,
    auth: str | None = None,
    address: str = "127.0.0.1",
    storage: Path | None = None,
    port: int = 0,
) -> Iterator[Registry]:
    """Runs one in an empty directory until the end of the `with`. `auth` is None, "basic" or "token".

    `address` is what it listens on and is called ("localhost" stands for 127.0.0.1); `storage` may be another's, to go
    on with what that has, and `port` what its was.
    """
    directory = directory / "registry"
    directory.mkdir(parents=True, exist_ok=True)
    storage = storage or directory / "storage"
    configuration: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": False}},
        "storage": {"filesystem": {"rootdirectory": str(storage)}, "delete": {"enabled": True}},
        "http": {"addr": ("127.0.0.1" if address == "localhost" else address) + f":{port}"},
    }
    ca = None
    with ExitStack() as stack:
        token_server = None
        if tls:
            made = certificates(directory)
            ca = made.ca
            configuration["http"] |= {"tls": {"certificate": str(made.certificate), "key": str(made.key)}}  # type: ignore[operator]
        if auth == "basic":
            (directory / "htpasswd").write_text(_HTPASSWD + "\n")
            configuration["auth"] = {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}}
        elif auth == "token":
            token_server = stack.enter_context(running_token_server(directory, tls=tls))
            configuration["auth"] = {
                "token": {
                    "realm": token_server.realm,
                    "service": _SERVICE,
                    "issuer": _ISSUER,
                    "rootcertbundle": str(token_server.certificate),
                }
            }
        (directory / "config.yml").write_text(json.dumps(configuration))  # every JSON document is a YAML document
        log = directory / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["docker-registry", "serve", directory / "config.yml"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
            )
        try:
            port = _port(process, log)
            yield Registry(f"{address}:{port}", storage, log, ca, token_server)
        finally:
            process.kill()
            process.wait()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port that the kernel gave it, from its log."""
    for _ in range(2000):
        found = re.search(r"listening on \S+:(\d+)", log.read_text(errors="replace"))
        if found:
            return int(found[1])
        if process.poll() is not None:
            break
        time.sleep(0.01)
    raise AssertionError(f"docker-registry did not start: {log.read_text(errors='replace')[-1000:]}")


# -- certificates --


class Certificates(NamedTuple):
    """Of a server that is localhost, 127.0.0.1 and ::1, and the authority that signed it."""

    ca: Path
    certificate: Path
    key: Path


def certificates(directory: Path, names: str = "DNS:localhost,IP:127.0.0.1,IP:::1") -> Certificates:
    """Makes them with `openssl`; a second call for one directory gives the same ones."""
    made = Certificates(directory / "ca.crt", directory / "server.crt", directory / "server.key")
    if made.certificate.exists():
        return made
    directory.mkdir(parents=True, exist_ok=True)
    self_signed(made.ca, directory / "ca.key", "an authority of the tests")
    request = directory / "server.csr"
    _openssl("req", "-new", *_KEY, "-keyout", made.key, "-out", request, "-subj", "/CN=a server of the tests")
    extensions = directory / "server.ext"
    extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n")
    signing = ("-CA", made.ca, "-CAkey", directory / "ca.key", "-CAcreateserial", "-days", "30", "-extfile", extensions)
    _openssl("x509", "-req", "-in", request, "-out", made.certificate, *signing)
    return made


def self_signed(certificate: Path, key: Path, name: str, algorithm: tuple[str, ...] | None = None) -> None:
    """A certificate that vouches for itself, with its key: an authority, or one for a client to show."""
    words = ("-x509", "-days", "30", "-subj", f"/CN={name}")
    _openssl("req", *words, *(algorithm or _KEY), "-keyout", key, "-out", certificate)


_KEY = ("-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def _openssl(*words: str | Path, data: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=data, capture_output=True, check=True).stdout


# -- a token server, as distribution's documentation describes it (docs/spec/auth) --


class TokenServer:
    """Answers GET (basic authentication) and POST (refresh token). `asked` are the scopes that were asked for.

    Without credentials it grants nothing, with the right ones everything; `refuse` makes it say 401 to all. An
    identity token is given to whoever logs in with `offline_token`.
    """

    identity_token = "an-identity-token"

    def __init__(self, directory: Path) -> None:
        self.certificate, self._key = directory / "token.crt", directory / "token.key"
        self_signed(self.certificate, self._key, _ISSUER, ("-nodes", "-newkey", "rsa:2048"))
        lines = self.certificate.read_text().split("-----")[2].split()
        self._chain = "".join(lines)
        self.realm = ""
        self.lifetime = 300
        self.refuse = False
        self.asked: list[list[str]] = []

    def token(self, scopes: list[str]) -> str:
        """A signed web token that grants all that is asked for."""
        now = int(time.time())
        access = []
        for scope in scopes:
            kind, rest = scope.split(":", 1)
            name, actions = rest.rsplit(":", 1)
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        claims = {
            "iss": _ISSUER,
            "sub": USER,
            "aud": _SERVICE,
            "exp": now + self.lifetime,
            "nbf": now - 10,
            "iat": now,
            "jti": f"{time.monotonic_ns()}",
            "access": access,
        }
        header = {"typ": "JWT", "alg": "RS256", "x5c": [self._chain]}
        text = f"{_base64(json.dumps(header).encode())}.{_base64(json.dumps(claims).encode())}"
        return f"{text}.{_base64(_openssl('dgst', '-sha256', '-sign', self._key, data=text.encode()))}"

    def answer(self, fields: dict[str, list[str]], authorization: str | None) -> dict[str, object] | None:
        """The document for a request; None: 401."""
        scopes = [scope for words in fields.get("scope", []) for scope in words.split()]
        self.asked.append(scopes)
        known = [f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"]
        trusted = authorization in known or fields.get("refresh_token") == [self.identity_token]
        if self.refuse or (not trusted and (authorization or "refresh_token" in fields)):
            return None
        result: dict[str, object] = {"token": self.token(scopes if trusted else []), "expires_in": self.lifetime}
        if trusted and fields.get("offline_token") == ["true"]:
            result["refresh_token"] = self.identity_token
        return result


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextmanager
def running_token_server(directory: Path, *, tls: bool = False) -> Iterator[TokenServer]:
    """One on loopback, in a thread; `realm` is its address. With TLS it has the certificate of `directory`."""
    server = TokenServer(directory)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(parse_qs(urlsplit(self.path).query))

        def do_POST(self) -> None:
            self._answer(parse_qs(self._body().decode()))

        def _body(self) -> bytes:
            """podman and skopeo send it in chunks."""
            if self.headers["Transfer-Encoding"] != "chunked":
                return self.rfile.read(int(self.headers["Content-Length"]))
            whole = b""
            while size := int(self.rfile.readline(), 16):
                whole += self.rfile.read(size + 2)[:-2]
            return whole

        def _answer(self, fields: dict[str, list[str]]) -> None:
            answer = server.answer(fields, self.headers["Authorization"])
            body = json.dumps(answer or {"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}).encode()
            self.send_response(200 if answer else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.realm = f"{'https' if tls else 'http'}://127.0.0.1:{http.server_address[1]}/token"
        if tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*certificates(directory)[1:])
            http.socket = context.wrap_socket(http.socket, server_side=True)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
