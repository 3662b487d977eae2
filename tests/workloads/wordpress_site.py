"""A browser for WordPress: installs it, logs in and uploads a picture, by the requests that a browser would send."""

from __future__ import annotations

import http.cookiejar
import json
import random
import re
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import zlib
from typing import Any

USER, PASSWORD = "admin", "correct horse battery staple"


class Site:
    """One instance, at a port of this host."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), cookies)

    def get(self, path: str) -> bytes:
        """What it serves there. Raises `HTTPError`."""
        return self._open(urllib.request.Request(self.base + path))

    def post(self, path: str, fields: dict[str, str], file: tuple[str, str, bytes] | None = None) -> bytes:
        """A form, and with a file (name of the field, of the file, and what is in it) one in several parts."""
        if file is None:
            return self._open(urllib.request.Request(self.base + path, urllib.parse.urlencode(fields).encode()))
        boundary = uuid.uuid4().hex
        parts = [f'Content-Disposition: form-data; name="{key}"\r\n\r\n{fields[key]}'.encode() for key in fields]
        field, name, data = file
        head = f'Content-Disposition: form-data; name="{field}"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n'
        parts.append(head.encode() + data)
        body = (
            b"".join(f"--{boundary}\r\n".encode() + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()
        )
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return self._open(urllib.request.Request(self.base + path, body, headers))

    def wait(self, seconds: float = 30) -> None:
        """Until it answers."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.get("/wp-includes/version.php")
                return
            except (urllib.error.URLError, ConnectionError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def install(self) -> None:
        """The form of a new site."""
        fields = {
            "weblog_title": "Lazarus", "user_name": USER, "admin_password": PASSWORD, "admin_password2": PASSWORD,
            "admin_email": "admin@example.org", "blog_public": "0", "language": "", "Submit": "Install",
        }  # fmt: skip
        said = self.post("/wp-admin/install.php?step=2", fields)
        assert b"Success!" in said, said[-500:]

    def log_in(self) -> None:
        """Cookies are kept from here on."""
        self.get("/wp-login.php")
        self.post("/wp-login.php", {"log": USER, "pwd": PASSWORD, "testcookie": "1", "wp-submit": "Log In"})
        assert b"wp-admin-bar" in self.get("/wp-admin/"), "not logged in"

    def upload(self, name: str, data: bytes) -> str:
        """Puts a picture into the media library; the path at which it is served."""
        page = self.get("/wp-admin/media-new.php").decode()
        nonce = re.search(r'name="_wpnonce" value="([0-9a-f]+)"', page)
        assert nonce is not None, page[-500:]
        fields = {"name": name, "action": "upload-attachment", "_wpnonce": nonce[1]}
        said: dict[str, Any] = json.loads(self.post("/wp-admin/async-upload.php", fields, ("async-upload", name, data)))
        assert said["success"], said
        return urllib.parse.urlsplit(said["data"]["url"]).path

    def media(self) -> list[str]:
        """The paths of what is in the media library."""
        found = json.loads(self.get("/?rest_route=/wp/v2/media"))
        return sorted(urllib.parse.urlsplit(one["source_url"]).path for one in found)

    def _open(self, request: urllib.request.Request) -> bytes:
        with self._opener.open(request, timeout=30) as answer:
            data: bytes = answer.read()
            return data


def picture(seed: int, side: int = 400) -> bytes:
    """A PNG of noise, 480 kB."""
    noise = random.Random(seed)
    rows = b"".join(b"\0" + noise.randbytes(3 * side) for _ in range(side))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
