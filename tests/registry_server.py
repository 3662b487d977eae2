"""A registry that does what a test says: honest by itself, and wrong in one way at a time.

    with Server() as server:
        server.blobs[digest] = data                       # it serves them, and takes uploads
        server.script = lambda asked: reply(500)          # instead of an answer; None: the honest one
        ...
        assert server.asked[-1].headers["authorization"]  # what it saw

A script returns the bytes of an answer, or pieces: bytes that are sent, seconds that pass, RESET. All servers listen on
127.0.0.1; each one's port makes it another host to the client.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from http.client import responses
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from registry_helpers import certificates

RESET = "reset"
CLOSE = "close"
Answer = bytes | Iterable[bytes | float | str] | None


class Asked(NamedTuple):
    """A request; names of headers in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query)


def reply(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, **more: str) -> bytes:
    """An answer with Content-Length, unless a header says otherwise; in keywords `_` stands for `-`."""
    fields = {"Content-Length": str(len(body)), **(headers or {}), **{k.replace("_", "-"): v for k, v in more.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value != "")
    return f"HTTP/1.1 {status} {responses.get(status, 'Odd')}\r\n{lines}\r\n".encode("latin-1") + body


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """A body in chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Server:
    """One of them, in threads, until the end of the `with`."""

    def __init__(self, tls: Path | None = None) -> None:
        """`tls` is the directory of its certificates (registry_helpers.certificates)."""
        self.asked: list[Asked] = []
        self.failures: list[BaseException] = []
        self.script: Callable[[Asked], Answer] = lambda asked: None
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.uploads: dict[str, bytearray] = {}
        self._context: ssl.SSLContext | None = None
        if tls is not None:
            self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._context.load_cert_chain(*certificates(tls)[1:])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._end = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"

    def __enter__(self) -> Server:
        self._threads[0].start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._end.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._open):
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        if kind is None:
            assert not self.failures, self.failures

    def require_client_certificate(self, ca: Path) -> None:
        assert self._context is not None
        self._context.load_verify_locations(ca)
        self._context.verify_mode = ssl.CERT_REQUIRED

    def seen(self, method: str, part: str = "") -> list[Asked]:
        """The requests so far with this method and this in their path."""
        return [asked for asked in self.asked if asked.method == method and part in asked.target]

    # -- connections --

    def _accept(self) -> None:
        while not self._end.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        self._open.add(sock)
        try:
            sock.settimeout(10)
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
                self._open.add(sock)
            with sock, sock.makefile("rb") as stream:
                while not self._end.is_set():
                    asked = _read_request(stream)
                    if asked is None:
                        sock.sendall(reply(400, Connection="close"))  # as Go answers a TLS handshake
                        return
                    self.asked.append(asked)
                    answer = self.script(asked)
                    if not self._send(sock, self.honest(asked) if answer is None else answer):
                        return
        except OSError:
            pass
        except BaseException as error:
            self.failures.append(error)
        finally:
            self._open.discard(sock)

    def _send(self, sock: socket.socket, answer: Answer) -> bool:
        """Does the connection go on?"""
        for piece in [answer] if isinstance(answer, bytes) else answer or ():
            if isinstance(piece, float):
                if self._end.wait(piece):
                    return False
            elif piece == RESET:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            elif piece == CLOSE:
                return False
            else:
                assert isinstance(piece, bytes)
                sock.sendall(piece)
        return True

    # -- what an honest registry does --

    def honest(self, asked: Asked) -> bytes:
        found = re.match(r"/v2/(?:(.+)/(manifests|blobs|tags|referrers)/(.+))?\Z", asked.path)
        if found is None:
            return reply(404, b'{"errors":[{"code":"NAME_UNKNOWN"}]}')
        kind, name = found[2], found[3]
        if kind is None:
            return reply(200, b"{}")
        if kind == "manifests":
            return self._manifest(asked, name)
        if kind == "tags":
            return reply(
                200,
                json.dumps(
                    {"name": found[1], "tags": sorted(name for name in self.manifests if ":" not in name)}
                ).encode(),
            )
        if kind == "blobs" and name.startswith("uploads/"):
            return self._upload(asked, name.removeprefix("uploads/"))
        if kind == "blobs" and name in self.blobs:
            return self._blob(asked, self.blobs[name])
        return reply(404, b'{"errors":[{"code":"UNKNOWN","message":"not here"}]}')

    def _manifest(self, asked: Asked, name: str) -> bytes:
        if asked.method == "PUT":
            self.manifests[name] = self.manifests[digest_of(asked.body)] = (asked.headers["content-type"], asked.body)
            return reply(201, Docker_Content_Digest=digest_of(asked.body))
        if name not in self.manifests:
            return reply(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
        media_type, data = self.manifests[name]
        answer = reply(200, data, Content_Type=media_type, Docker_Content_Digest=digest_of(data))
        return answer[: -len(data)] if asked.method == "HEAD" else answer

    def _blob(self, asked: Asked, data: bytes) -> bytes:
        part = re.match(r"bytes=(\d+)-(\d+)\Z", asked.headers.get("range", ""))
        if asked.method == "HEAD":
            return reply(200, Content_Length=str(len(data)))
        if part is None:
            return reply(200, data)
        begin, end = int(part[1]), int(part[2]) + 1
        return reply(206, data[begin:end], Content_Range=f"bytes {begin}-{end - 1}/{len(data)}")

    def _upload(self, asked: Asked, name: str) -> bytes:
        location = re.sub(r"/uploads/.*", "/uploads/", asked.path)
        if asked.method == "POST":
            name = f"u{len(self.uploads)}"
            self.uploads[name] = bytearray()
            return reply(202, Location=f"{location}{name}?state=0")
        if name not in self.uploads:
            return reply(404, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}')
        had = self.uploads[name]
        stated = re.match(r"(\d+)-(\d+)\Z", asked.headers.get("content-range", ""))
        if asked.method == "PATCH" and stated and int(stated[1]) != len(had):
            return reply(416)
        if asked.method in ("PATCH", "PUT"):
            had += asked.body
        place = {"Location": f"{location}{name}?state={len(had)}", "Range": f"0-{max(len(had) - 1, 0)}"}
        if asked.method == "PUT":
            [digest] = asked.query["digest"]
            del self.uploads[name]
            if digest_of(bytes(had)) != digest:
                return reply(400, b'{"errors":[{"code":"DIGEST_INVALID","message":"not these bytes"}]}')
            self.blobs[digest] = bytes(had)
            return reply(201, Docker_Content_Digest=digest)
        if asked.method == "DELETE":
            del self.uploads[name]
            return reply(204, headers={"Content-Length": ""})
        return reply(202 if asked.method == "PATCH" else 204, headers=place)


def _read_request(stream: Any) -> Asked | None:
    line = stream.readline(65536).decode("latin-1")
    if line == "":
        raise ConnectionError("no more requests")
    words = re.match(r"([A-Z]+) (\S+) HTTP/1\.[01]\r\n\Z", line)
    if words is None:
        return None
    method, target = words[1], words[2]
    headers: dict[str, str] = {}
    while (line := stream.readline(65536).decode("latin-1").strip()) != "":
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = b""
    if headers.get("transfer-encoding") == "chunked":
        while size := int(stream.readline() or b"0", 16):
            body += stream.read(size)
            stream.readline()
        stream.readline()
    elif "content-length" in headers:
        body = stream.read(int(headers["content-length"]))
        if len(body) < int(headers["content-length"]):
            return None
    return Asked(method, target, headers, body)
