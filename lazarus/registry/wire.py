"""urllib3's connections, with bounds on what a server may send and how long it may take.

`http.client` bounds each line of a head and their number, but not how often a server says "100 Continue" or how long it
takes for a byte; here every answer is read through a `BoundedReader`. Only modules that speak to a registry import
this one: it imports urllib3.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
import time
import warnings
import weakref
from contextlib import suppress
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from lazarus.errors import LimitError

# Without --tls-verify=false no connection is unverified; with it the user has said so.
warnings.filterwarnings("ignore", category=urllib3.exceptions.InsecureRequestWarning)

MAX_HEAD = 256 << 10  # bytes of status lines and headers, what is buffered of the body included
_BUFFER = 64 << 10
_PROGRESS = 64 << 10  # bytes that must come within the patience


class BoundedReader(io.RawIOBase):
    """Reads a socket, no more than `budget` bytes and not waiting longer than `patience` seconds in all.

    With `renewing` the patience is new after each 64 KiB, so that a body may take as long as it needs when it comes at
    all. Only waiting counts, not the time until somebody reads.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._socket = sock
        self._raw = sock.makefile("rb", buffering=0)
        self.patience = sock.gettimeout() or 60.0
        self.budget = MAX_HEAD
        self.renewing = False
        self._left = self.patience
        self._since = 0

    def readable(self) -> bool:
        return True

    def renew(self, patience: float, budget: int, *, renewing: bool) -> None:
        """Other bounds from here on."""
        self.patience = self._left = patience
        self.budget, self.renewing, self._since = budget, renewing, 0

    def readinto(self, buffer: Any) -> int:
        if self._left <= 0:
            raise TimeoutError(f"less than {_PROGRESS >> 10} KiB came in {self.patience:g} seconds")
        if self.budget < 0:
            raise LimitError("it sends more than an answer may have")
        self._socket.settimeout(self._left)
        begin = time.monotonic()
        count: int = self._raw.readinto(buffer) or 0
        self._left -= time.monotonic() - begin
        self.budget -= count
        if self.renewing:
            self._since += count
            if self._since >= _PROGRESS:
                self._since, self._left = 0, self.patience
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class BoundedResponse(http.client.HTTPResponse):
    """An answer that is read through a `BoundedReader`, `reader`."""

    def __init__(self, sock: socket.socket, *words: Any, **options: Any) -> None:
        super().__init__(sock, *words, **options)
        self.fp.close()
        self.reader = BoundedReader(sock)
        self.fp = io.BufferedReader(self.reader, _BUFFER)


class Connections:
    """Connection pools whose open sockets are known, so that they can be shut down from another thread."""

    def __init__(self) -> None:
        self._live: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._down = False
        self._lock = threading.Lock()
        opened = self._opened

        class Plain(HTTPConnection):
            response_class = BoundedResponse

            def connect(self) -> None:
                super().connect()
                opened(self.sock)

        class Secure(HTTPSConnection):
            response_class = BoundedResponse

            def connect(self) -> None:
                super().connect()
                opened(self.sock)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        self._pools = {"http": PlainPool, "https": SecurePool}

    def manager(self, proxy: str | None, **options: Any) -> urllib3.PoolManager:
        """A pool manager of urllib3, through a proxy when there is one; options are urllib3's."""
        if proxy is None:
            made = urllib3.PoolManager(**options)
        else:
            try:
                parsed = urllib3.util.parse_url(proxy)
            except ValueError:  # it may hold a password
                raise ValueError("the proxy of the environment is not an address") from None
            headers = urllib3.util.make_headers(proxy_basic_auth=_unquoted(parsed.auth)) if parsed.auth else None
            address = parsed._replace(auth=None).url
            made = urllib3.ProxyManager(address, proxy_headers=headers, **options)
        made.pool_classes_by_scheme = self._pools
        return made

    def _opened(self, sock: socket.socket) -> None:
        with self._lock:
            self._live.add(sock)
        if self._down:
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def shut_down(self) -> None:
        """Every read and write that is under way ends with an error, and so does what comes later."""
        self._down = True
        with self._lock:
            live = list(self._live)
        for sock in live:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _unquoted(auth: str) -> str:
    from urllib.parse import unquote

    return unquote(auth)
