"""Lists that come in pages (distribution-spec, "Listing Tags"), bounded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from urllib3.util import Url

from lazarus.errors import FormatError, LimitError, RegistryError
from lazarus.oci.strict_json import load_object
from lazarus.registry.addresses import Origin, resolve
from lazarus.registry.auth import Peer
from lazarus.registry.challenges import next_link
from lazarus.registry.http import Response
from lazarus.registry.mirrors import Endpoint
from lazarus.registry.session import Call, Session

MAX_PAGES = 10_000
MAX_PAGE = 4 << 20
MAX_BYTES = 1 << 30  # of all pages: a million of the longest tags are an eighth of it
MAX_TAGS = 1_000_000  # some 200 MB for whoever keeps them all
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")


def tags(session: Session, endpoint: Endpoint, call: Call) -> Iterator[str]:
    """All tags. Raises `FormatError` for what is no tag: it would be printed; `LimitError` after a million."""
    count = 0
    for document in pages(session, session.peer(endpoint), call):
        names = document.get("tags")
        if names is None:
            continue
        if not isinstance(names, list):
            raise FormatError(f"{call.what}: not a list")
        for name in names:
            if not isinstance(name, str) or _TAG.match(name) is None:
                raise FormatError(f"{call.what}: {str(name)!a:.100} is not a tag")
            count += 1
            if count > MAX_TAGS:
                raise LimitError(f"{call.what}: more than {MAX_TAGS}")
            yield name


def pages(session: Session, peer: Peer, call: Call, *, limit: int = MAX_BYTES) -> Iterator[dict[str, Any]]:
    """The documents of a list, as long as each one links to a next one on the same host that was not seen yet.
    `LimitError` when all of them are more than `limit` bytes."""
    seen: set[bytes] = set()  # hashes: addresses can be long
    came = 0

    def read(response: Response) -> tuple[dict[str, Any], Url | None]:
        nonlocal came
        response.check_encoding()
        data = response.read(MAX_PAGE, session.settings.timeout)
        came += len(data)
        if came > limit:
            raise LimitError(f"{call.what}: more than {limit} bytes")
        document = load_object(data, call.what)
        try:
            link = next_link(response.headers.get_all("Link") or [])
        except FormatError as error:
            raise RegistryError(f"{call.what}: {error}") from error
        return document, None if link is None else resolve(response.request.url, link, call.what, peer.insecure)

    for _ in range(MAX_PAGES):
        document, following = session.request(peer, call, read)
        yield document
        if following is None:
            return
        if Origin.of(following) != peer.origin:
            raise RegistryError(f"{call.what}: the next page is on another host, {following.host:.100}")
        place = hashlib.sha256(following.url.encode()).digest()
        if place in seen:
            raise RegistryError(f"{call.what}: the pages lead round in a circle")
        seen.add(place)
        call = call._replace(path=following)
    raise LimitError(f"{call.what}: more than {MAX_PAGES} pages")
