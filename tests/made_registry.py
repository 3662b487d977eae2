"""A registry on loopback, in this process, that serves images made by `images_made`, counts what it is asked for, and
does wrong what a test wants it to: for what a real one never does."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import images_made as made

#: What a blob's request gets in place of an answer: it may write to the handler, and return.
Trouble = Callable[["Answer", bytes], None]


class Answer(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes
    server: MadeRegistry

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        kind, _, name = self.path.rpartition("/")
        kind = kind.rpartition("/")[2]
        with self.server.lock:
            self.server.asked.append((self.command, kind, name, self.headers["Range"] or ""))
        if self.path == "/v2/":
            self.give(b"{}")
        elif kind == "manifests":
            self._manifest(name)
        elif kind == "blobs" and name in self.server.blobs:
            self._blob(name)
        else:
            self.give(b'{"errors": [{"code": "NAME_UNKNOWN", "message": "unknown"}]}', status=404)

    def _manifest(self, name: str) -> None:
        name = self.server.tags.get(name, name)
        data = self.server.blobs.get(name)
        if data is None:
            self.give(b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "unknown"}]}', status=404)
            return
        kind = json.loads(data).get("mediaType", f"{made.OCI}index.v1+json")
        self.give(data, {"Content-Type": kind, "Docker-Content-Digest": made.sha256(data)})

    def _blob(self, digest: str) -> None:
        data = self.server.blobs[digest]
        trouble = self.server.trouble.get(digest)
        if trouble is not None:
            trouble(self, data)
        else:
            self.give_part(data)

    def give_part(self, data: bytes) -> None:
        """All of it, or the Range that was asked for."""
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        if not found:
            self.give(data)
            return
        first, last = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
        self.give(data[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, 206)

    def give(self, data: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        """A whole answer."""
        self.begin(len(data), headers, status)
        if self.command != "HEAD":
            self.wfile.write(data)

    def begin(self, size: int, headers: dict[str, str] | None = None, status: int = 200) -> None:
        """The head of an answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(size), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def reset(self) -> None:
        """Ends the connection as a crash does."""
        self.close_connection = True
        self.wfile.flush()
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass


class MadeRegistry(ThreadingHTTPServer):
    """`tags` are names of manifests; `trouble` is what happens to a blob; `asked` has (method, "blobs" or "manifests",
    name, Range) of each request."""

    daemon_threads = True

    def __init__(self, source: made.Made, tags: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.blobs = source.blobs
        self.tags = tags
        self.trouble: dict[str, Trouble] = {}
        self.asked: list[tuple[str, str, str, str]] = []
        self.lock = threading.Lock()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def count(self, digest: str) -> int:
        """How often a blob was asked for."""
        with self.lock:
            return sum(method == "GET" and name == digest for method, _, name, _ in self.asked)

    def handle_error(self, *_: Any) -> None:
        """Clients that go away are what is tested."""


@contextmanager
def serving(source: made.Made, **tags: str) -> Iterator[MadeRegistry]:
    """Runs one. Without `tags`, "1" is the only image of `source`."""
    with MadeRegistry(source, tags or {"1": source.entries[0]["digest"]}) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
