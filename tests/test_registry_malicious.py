"""Registries that hang, lie, send too much, too little or wrong bytes: one line, in bounds, and on we go."""

from __future__ import annotations

import gzip
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from registry_server import CLOSE, RESET, Answer, Asked, Server, chunked, digest_of, reply

from lazarus.errors import (
    CancelledError,
    CorruptError,
    DeniedError,
    FormatError,
    LazarusError,
    LimitError,
    NotFoundError,
    RegistryError,
    UnsupportedError,
)
from lazarus.oci import media
from lazarus.oci.documents import write_index, write_manifest
from lazarus.oci.strict_json import dumps
from lazarus.registry import listing, referrers
from lazarus.registry.client import RegistryClient, Repository, Settings
from lazarus.terms import Descriptor, Digest

FAST = Settings(retries=2, timeout=10, backoff=0.001, longest_pause=0.05, auth_file="/dev/null")
DATA = bytes(range(256)) * 1200  # 300 KiB
BLOB = Descriptor("application/octet-stream", Digest(digest_of(DATA)), len(DATA))
MANIFEST = write_manifest(Descriptor(media.OCI_CONFIG, BLOB.digest, 5), [])
DIGEST = Digest(digest_of(MANIFEST))


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        running.blobs[BLOB.digest] = DATA
        for name in ("v1", DIGEST):
            running.manifests[name] = (media.OCI_MANIFEST, MANIFEST)
        yield running


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def client(said: list[str]) -> Iterator[RegistryClient]:
    with RegistryClient(FAST, warn=said.append) as made:
        yield made


@pytest.fixture
def hasty(request: pytest.FixtureRequest, client: RegistryClient) -> Iterator[RegistryClient]:
    """A client with a short timeout, where that is what is tested: a loaded machine is slow, too."""
    if "no answer in time" not in request.getfixturevalue("text"):
        yield client
        return
    with RegistryClient(FAST._replace(timeout=0.4)) as made:
        yield made


def blob(client: RegistryClient, server: Server, descriptor: Descriptor = BLOB, **part: int) -> bytes:
    whole, buffer = bytearray(), bytearray(50_000)
    with client.open_blob(Repository(server.host, "a"), descriptor, **part) as stream:
        while count := stream.readinto(buffer):
            whole += buffer[:count]
    return bytes(whole)


def only(part: str, answer: Callable[[Asked], Answer]) -> Callable[[Asked], Answer]:
    """A script for the requests with `part` in their path; the first ones, to find out who speaks TLS, are answered."""
    return lambda asked: answer(asked) if part in asked.target else None


def in_turn(*answers: Answer) -> Callable[[Asked], Answer]:
    """One after the other, then the honest one."""
    left = list(answers)
    return lambda asked: left.pop(0) if left else None


def one_line(error: pytest.ExceptionInfo[LazarusError], server: Server) -> str:
    text = str(error.value)
    assert text.startswith(f"{server.host}/a: ") and text.isascii() and text.isprintable() and len(text) < 600, text
    return text


# -- manifests --

HEADERS = {"Content-Type": media.OCI_MANIFEST}
INDEX = write_index([Descriptor(media.OCI_MANIFEST, DIGEST, len(MANIFEST))])
ENDLESS = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[chunked(b" " * 65536, end=b"")] * 100, CLOSE]
BOTH = MANIFEST[:-1] + b',"manifests":[]}'


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (reply(200, b" " * 5_000_000, HEADERS), LimitError, "5000000 bytes, more than 4194304"),
        (ENDLESS, LimitError, "more than 4194304 bytes"),
        ([b"HTTP/1.0 200 OK\r\n\r\n", *[b" " * 65536] * 100, CLOSE], LimitError, "more than 4194304 bytes"),
        (reply(200, MANIFEST + b" ", HEADERS), CorruptError, "its bytes are sha256:"),
        (reply(200, INDEX, {"Content-Type": media.OCI_INDEX}), CorruptError, "its bytes are sha256:"),
        (
            reply(200, MANIFEST, HEADERS, Docker_Content_Digest=BLOB.digest),
            CorruptError,
            "Docker-Content-Digest says sha256",
        ),
        (
            reply(200, MANIFEST, HEADERS, Docker_Content_Digest="sha512:" + "0" * 128),
            CorruptError,
            "the bytes are sha512:",
        ),
        (reply(200, MANIFEST, Content_Type=media.DOCKER_MANIFEST), FormatError, "the document says"),
        (reply(200, MANIFEST, Content_Type=media.OCI_INDEX), FormatError, "the document says"),
        (reply(200, MANIFEST, Content_Type="text/html"), FormatError, "Content-Type text/html where"),
        (reply(200, MANIFEST, Content_Type="a\x1b[2Jb"), FormatError, r"Content-Type a \[2jb where"),
        (reply(200, MANIFEST, Content_Type=media.DOCKER_MANIFEST.replace("v2", "v1")), UnsupportedError, "schema 1"),
        (reply(200, gzip.compress(MANIFEST), HEADERS, Content_Encoding="gzip"), RegistryError, "Content-Encoding gzip"),
        (reply(200, b"", HEADERS), CorruptError, "its bytes are"),
        (reply(204), RegistryError, "204 No Content, expected 200"),
        (reply(206, MANIFEST, HEADERS), RegistryError, "206 Partial Content, expected 200"),
        (reply(304), RegistryError, "304 Not Modified, expected 200"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", RegistryError, "more than 100 headers"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, RegistryError, "65536 bytes"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, LimitError, "more than an answer may have"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", RegistryError, "SSH-2.0"),
        ([CLOSE], RegistryError, "closed connection without response"),
        ([RESET], RegistryError, "Connection reset by peer"),
        ([9.0], RegistryError, "no answer in time"),
        ([b"HTTP/1.1 200 OK\r\n", *[0.05, b"X: y\r\n"] * 100], RegistryError, "no answer in time"),
        ([reply(200, MANIFEST, HEADERS)[:-9], 9.0], RegistryError, "no answer in time"),
        ([reply(200, MANIFEST, HEADERS)[:-9], *[0.05, b"x"] * 99], RegistryError, "no answer in time|416"),
        ([reply(200, MANIFEST, HEADERS)[:-9], CLOSE], RegistryError, "ends 9 bytes early"),
    ],
)
def test_manifests(hasty: RegistryClient, server: Server, answer: Answer, kind: type[LazarusError], text: str) -> None:
    server.script = only("manifests", lambda asked: answer)
    with pytest.raises(kind, match=text) as error:
        hasty.resolve(Repository(server.host, "a"), DIGEST)
    assert f": manifest {DIGEST}: " in one_line(error, server)
    assert len(server.seen("GET", "manifests")) <= FAST.retries + 1
    server.script = lambda asked: None
    assert hasty.resolve(Repository(server.host, "a"), DIGEST)[1] == MANIFEST, "and the client goes on"


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a?b", "a b", "x" * 129, "sha256:1", "sha512:" + "0" * 128, "a\n"])
def test_what_is_no_name(client: RegistryClient, server: Server, name: str) -> None:
    for action in (client.resolve, client.has_manifest, client.delete_manifest):
        with pytest.raises(FormatError):
            action(Repository(server.host, "a"), name)
    assert not server.asked


def test_a_manifest_that_is_two_things(client: RegistryClient, server: Server) -> None:
    for headers in ({}, {"Content-Type": "text/plain"}, HEADERS, {"Content-Type": media.OCI_INDEX}):
        server.script = only("manifests", lambda asked, headers=headers: reply(200, BOTH, headers))  # type: ignore[misc]
        with pytest.raises(FormatError):
            client.resolve(Repository(server.host, "a"), "v1")


def test_an_index_that_names_itself(client: RegistryClient, server: Server) -> None:
    """It cannot, by its digest; a server that gives it for whatever it names is found out."""
    itself = write_index([Descriptor(media.OCI_INDEX, Digest("sha256:" + "5" * 64), len(INDEX))])
    server.script = only("manifests", lambda asked: reply(200, itself, {"Content-Type": media.OCI_INDEX}))
    _, data = client.resolve(Repository(server.host, "a"), "v1")
    with pytest.raises(CorruptError, match=f"manifest sha256:5555.*its bytes are {digest_of(itself)}"):
        client.manifest(
            Repository(server.host, "a"), Descriptor(media.OCI_INDEX, Digest("sha256:" + "5" * 64), len(data))
        )


def test_a_descriptor_of_another_size_or_type(client: RegistryClient, server: Server) -> None:
    right = Descriptor(media.OCI_MANIFEST, DIGEST, len(MANIFEST))
    assert client.manifest(Repository(server.host, "a"), right) == MANIFEST
    for wrong in (right._replace(size=right.size + 1), right._replace(media_type=media.OCI_INDEX)):
        with pytest.raises(CorruptError, match="its descriptor says"):
            client.manifest(Repository(server.host, "a"), wrong)
    with pytest.raises(LimitError):
        client.manifest(Repository(server.host, "a"), right._replace(size=5 << 20))


@pytest.mark.parametrize("kind", ["", "application/json; charset=utf-8", "text/plain"])
def test_vague_content_types(client: RegistryClient, server: Server, kind: str) -> None:
    server.script = only("manifests", lambda asked: reply(200, MANIFEST, Content_Type=kind))
    assert client.resolve(Repository(server.host, "a"), "v1")[0].media_type == media.OCI_MANIFEST


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({"Docker-Content-Digest": BLOB.digest, **HEADERS, "Content-Length": "9"}, CorruptError),
        ({"Docker-Content-Digest": "sha256:1", **HEADERS, "Content-Length": "9"}, RegistryError),
        ({"Docker-Content-Digest": DIGEST, "Content-Type": "text/html", "Content-Length": "9"}, FormatError),
        ({"Docker-Content-Digest": DIGEST, **HEADERS, "Content-Length": "99999999"}, LimitError),
    ],
)
def test_what_head_says(
    client: RegistryClient, server: Server, headers: dict[str, str], kind: type[LazarusError]
) -> None:
    server.script = lambda asked: reply(200, headers=headers) if asked.method == "HEAD" else None
    with pytest.raises(kind):
        client.has_manifest(Repository(server.host, "a"), DIGEST)
    server.script = lambda asked: reply(200) if asked.method == "HEAD" else None
    found = client.has_manifest(Repository(server.host, "a"), "v1")
    assert found is not None and found.digest == DIGEST, "of one that says nothing the document is fetched"


# -- blobs --


def cut(at: int, how: str = RESET) -> Callable[[Asked], Answer]:
    """Breaks every connection after some bytes of body."""

    def answer(asked: Asked) -> Answer:
        part = asked.headers.get("range", "bytes=0-")
        begin = int(part.removeprefix("bytes=").split("-")[0])
        fields = {"Content-Range": f"bytes {begin}-{len(DATA) - 1}/{len(DATA)}"} if begin else {}
        whole = reply(206 if begin else 200, DATA[begin:], fields)
        head = len(whole) - (len(DATA) - begin)
        return [whole[: head + at], 0.02, how]

    return answer


@pytest.mark.parametrize("how", [RESET, CLOSE])
def test_a_broken_blob_goes_on(client: RegistryClient, server: Server, how: str) -> None:
    server.script = only("blobs", cut(120_000, how))
    assert blob(client, server) == DATA
    begins = [asked.headers.get("range", "bytes=0-")[6:].split("-")[0] for asked in server.seen("GET", "blobs")]
    assert begins == (["0", "120000", "240000"] if how == CLOSE else ["0", "100000", "200000"]), (
        "by the buffer's 50,000"
    )


def test_a_server_that_gives_a_byte_each_time(client: RegistryClient, server: Server) -> None:
    server.script = only("blobs", cut(1))
    with pytest.raises(LazarusError) as error:
        blob(client, server)
    one_line(error, server)
    assert len(server.seen("GET", "blobs")) == FAST.retries + 1


def test_a_server_that_does_not_know_range(client: RegistryClient, server: Server) -> None:
    whole = reply(200, DATA)
    server.script = only("blobs", in_turn([whole[:200_000], RESET], whole))
    assert blob(client, server) == DATA, "what is known already is skipped"
    server.script = only("blobs", lambda asked: whole)
    assert blob(client, server, offset=1000) == DATA[1000:]
    with pytest.raises(UnsupportedError, match="does not send parts"):
        blob(client, server, offset=1000, size=10)
    assert blob(client, server) == DATA


PART = DATA[1000:2000]
CHUNKED = {"Transfer_Encoding": "chunked", "Content_Length": ""}


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (reply(206, PART, Content_Range=f"bytes 1001-2000/{len(DATA)}"), CorruptError, "bytes 1001 to 2001"),
        (reply(206, PART, Content_Range=f"bytes 1000-2000/{len(DATA)}"), CorruptError, "bytes 1000 to 2001"),
        (reply(206, PART, Content_Range="bytes 1000-1999/99999999"), CorruptError, "of 99999999"),
        (reply(206, PART, Content_Range="bytes 1000-1999"), RegistryError, "Content-Range that is not one"),
        (reply(206, PART), RegistryError, "Content-Range that is not one"),
        (reply(206, PART, Content_Range="bytes 1999-1000/*"), RegistryError, "Content-Range that cannot be"),
        (reply(206, PART, Content_Type="multipart/byteranges; boundary=x"), RegistryError, "Content-Range"),
        (reply(206, PART + b"x", Content_Range="bytes 1000-1999/*"), CorruptError, "1001 bytes for the range"),
        (reply(416, Content_Range="bytes */10"), RegistryError, r"416 for bytes 1000 to 2000 .*\(bytes \*/10\)"),
        (
            reply(206, PART[:500], Content_Range="bytes 1000-1999/*", Content_Length="1000"),
            RegistryError,
            "no answer in time",
        ),
    ],
)
def test_parts(hasty: RegistryClient, server: Server, answer: Answer, kind: type[LazarusError], text: str) -> None:
    server.script = only("blobs", lambda asked: answer)
    with pytest.raises(kind, match=text) as error:
        blob(hasty, server, offset=1000, size=1000)
    assert f": blob {BLOB.digest}: " in one_line(error, server)


def test_a_part_that_comes_in_parts(client: RegistryClient, server: Server) -> None:
    def half(asked: Asked) -> Answer:
        begin, end = map(int, asked.headers["range"].removeprefix("bytes=").split("-"))
        last = begin + (end - begin) // 2
        return reply(206, DATA[begin : last + 1], Content_Range=f"bytes {begin}-{last}/{len(DATA)}")

    server.script = only("blobs", in_turn(None))
    server.script = only("blobs", half)
    with RegistryClient(FAST._replace(retries=20)) as patient:
        assert blob(patient, server, offset=1000, size=1000) == PART


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (reply(200, DATA[:-1]), CorruptError, f"{len(DATA) - 1} bytes, its descriptor says"),
        (reply(200, DATA + b"x"), CorruptError, f"{len(DATA) + 1} bytes, its descriptor says"),
        (
            reply(200, chunked(DATA, b"x"), Transfer_Encoding="chunked", Content_Length=""),
            CorruptError,
            "more than the",
        ),
        (
            reply(200, chunked(DATA[:-5]), Transfer_Encoding="chunked", Content_Length=""),
            LazarusError,
            "ends after|bytes",
        ),
        ([b"HTTP/1.0 200 OK\r\n\r\n" + DATA + b"x", CLOSE], CorruptError, "more than the"),
        ([b"HTTP/1.0 200 OK\r\n\r\n" + DATA[:-1], CLOSE], LazarusError, "ends after|bytes"),
        (reply(200, DATA[:-1] + b"\0"), CorruptError, "its bytes are sha256:"),
        (reply(206, DATA, Content_Range=f"bytes 0-{len(DATA) - 1}/{len(DATA)}"), RegistryError, "206"),
        (reply(200, gzip.compress(DATA), Content_Encoding="gzip"), RegistryError, "Content-Encoding gzip"),
        (reply(200, Content_Length="-5"), RegistryError, "no answer in time"),
        (reply(200, b"5\r\nhello\r\nzz\r\n", **CHUNKED), RegistryError, "its chunks are malformed"),
        ([reply(200, DATA)[:-9], *[0.05, b"x"] * 99], LazarusError, "no answer in time|416"),
        (reply(404, b""), NotFoundError, "does not have it"),
        (reply(200, b"", Content_Length="0"), CorruptError, "0 bytes, its descriptor says"),
    ],
)
def test_blobs(hasty: RegistryClient, server: Server, answer: Answer, kind: type[LazarusError], text: str) -> None:
    server.script = only("blobs", lambda asked: answer if "range" not in asked.headers else reply(416))
    with pytest.raises(kind, match=text) as error:
        blob(hasty, server)
    assert f": blob {BLOB.digest}: " in one_line(error, server)
    server.script = lambda asked: None
    assert blob(hasty, server) == DATA


def test_endless_trailers_after_a_blob(client: RegistryClient, server: Server) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(DATA, end=b"0\r\n")
    server.script = only("blobs", lambda asked: [head, *[b"X: y\r\n" * 10_000] * 100, CLOSE])
    with pytest.raises(LimitError, match="more than an answer may have") as error:
        blob(client, server)
    one_line(error, server)


def test_memory_is_bounded(client: RegistryClient, server: Server) -> None:
    server.script = only("manifests", lambda asked: ENDLESS)
    tracemalloc.start()
    try:
        with pytest.raises(LimitError):
            client.resolve(Repository(server.host, "a"), "v1")
        assert tracemalloc.get_traced_memory()[1] < 24 << 20, "the server's pieces are some of it"
    finally:
        tracemalloc.stop()


# -- again, and when --


@pytest.mark.parametrize(
    ("status", "after"),
    [
        (408, ""),
        (429, "0"),
        (500, "1"),
        (502, "99999999"),
        (503, "Wed, 21 Oct 2015 07:28:00 GMT"),
        (504, "soon"),
        (429, "-1"),
        (429, "9" * 30),
        (429, "Wed, 21 Oct 99999 07:28:00 GMT"),
    ],
)
def test_what_may_pass_is_tried_again(client: RegistryClient, server: Server, status: int, after: str) -> None:
    server.script = only("manifests", in_turn(reply(status, Retry_After=after), [RESET]))
    begin = time.monotonic()
    assert client.resolve(Repository(server.host, "a"), "v1")[1] == MANIFEST
    assert len(server.seen("GET", "manifests")) == 3 and time.monotonic() - begin < 5, "longest_pause cuts it"


def test_retry_after_is_honoured(server: Server) -> None:
    server.script = only("manifests", in_turn(reply(429, Retry_After="1")))
    with RegistryClient(FAST._replace(longest_pause=5)) as client:
        begin = time.monotonic()
        client.resolve(Repository(server.host, "a"), "v1")
        assert time.monotonic() - begin >= 1


def test_retry_after_is_told_when_it_was_too_long(client: RegistryClient, server: Server) -> None:
    server.script = only("manifests", lambda asked: reply(429, Retry_After="86400"))
    with pytest.raises(RegistryError, match=r"429 Too Many Requests, expected 200 \(Retry-After: 86400\)") as error:
        client.resolve(Repository(server.host, "a"), "v1")
    one_line(error, server)


@pytest.mark.parametrize(("status", "times"), [(500, 3), (429, 3), (400, 1), (404, 1), (403, 1), (501, 1), (999, 1)])
def test_how_often(client: RegistryClient, server: Server, status: int, times: int) -> None:
    server.script = only("manifests", lambda asked: reply(status))
    with pytest.raises(LazarusError) as error:
        client.resolve(Repository(server.host, "a"), "v1")
    one_line(error, server)
    assert len(server.seen("GET", "manifests")) == times


def test_nobody_listens(client: RegistryClient) -> None:
    with Server() as gone:
        pass
    with pytest.raises(RegistryError, match="Connection refused"):
        client.resolve(Repository(gone.host, "a"), "v1")


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"errors":[{"code":"X","message":"a\\u001b[31mred\\nline\\u202e"}]}', r": X a \[31mred line$"),
        (b'{"errors":[{"code":"X","message":"' + b"y" * 10_000 + b'"}]}', r"y\.\.\.$"),
        (b'{"errors":[' + b'{"code":"X","message":"m"},' * 500 + b"{}]}", ": X m$"),
        (b'{"errors":7}', r': {"errors":7}$'),
        (b"[" * 60_000, r"\.\.\.$"),
        (b"<html><script>", "expected 200$"),
        (b"\x1b]0;title\x07plain", r": \]0;title plain$"),
        (b"x" * 10_000_000, "expected 200$"),
        (b"", "expected 200$"),
        ("größer".encode(), ": gr er$"),
    ],
)
def test_words_of_a_server_are_one_short_line(client: RegistryClient, server: Server, body: bytes, shown: str) -> None:
    server.script = only("manifests", lambda asked: reply(400, body))
    with pytest.raises(RegistryError, match=shown) as error:
        client.resolve(Repository(server.host, "a"), "v1")
    one_line(error, server)


def test_warnings_are_shown_once(client: RegistryClient, server: Server, said: list[str]) -> None:
    head = {"Warning": '299 - "old\x1b[31m \\"thing\\""', **HEADERS}
    server.script = only("manifests", lambda asked: reply(200, MANIFEST, head))
    for _ in range(3):
        client.resolve(Repository(server.host, "a"), "v1")
    assert said == [f'{server.host}/a: manifest v1: the registry warns: old [31m \\"thing\\"']
    server.script = only("manifests", lambda asked: reply(200, MANIFEST, {**HEADERS, "Warning": "199 - x"}))
    client.resolve(Repository(server.host, "a"), "v1")
    assert len(said) == 1


@pytest.mark.parametrize("part", ["manifests", "blobs"])
def test_cancel_ends_what_waits(server: Server, part: str) -> None:
    begin = reply(200, DATA)[:-100]
    server.script = only(part, lambda asked: [begin, 20.0])
    with RegistryClient(FAST._replace(timeout=20)) as client:
        threading.Timer(0.2, client.cancel).start()
        started = time.monotonic()
        with pytest.raises(CancelledError):
            blob(client, server) if part == "blobs" else client.resolve(Repository(server.host, "a"), "v1")
        assert time.monotonic() - started < 5
        with pytest.raises(CancelledError):
            client.has_blob(Repository(server.host, "a"), BLOB.digest)


# -- lists --


def test_pages_of_tags(client: RegistryClient, server: Server) -> None:
    def page(asked: Asked) -> Answer:
        last = int(asked.query.get("last", ["0"])[0])
        link = {"Link": f'</v2/a/tags/list?n=2&last={last + 2}>; rel="next"'} if last < 6 else {}
        return reply(200, b'{"tags":["t%d","t%d"]}' % (last, last + 1), link)

    server.script = only("tags", page)
    assert list(client.tags(Repository(server.host, "a"))) == [f"t{number}" for number in range(8)]
    server.script = only("tags", lambda asked: reply(200, b'{"tags":null}'))
    assert list(client.tags(Repository(server.host, "a"))) == []


@pytest.mark.parametrize(
    ("link", "body", "text"),
    [
        ('</v2/a/tags/list?n=1>; rel="next"', b'{"tags":[]}', "round in a circle"),
        ('<http://127.0.0.1:1/v2/a/tags/list>; rel="next"', b'{"tags":[]}', "on another host"),
        ('<https://registry.example/v2/>; rel="next"', b'{"tags":[]}', "on another host"),
        ('<http://registry.example/v2/>; rel="next"', b'{"tags":[]}', "plain HTTP"),
        ("</v2/", b'{"tags":[]}', "Link that is not one"),
        ("", b'{"tags":["a\\u001b[31m"]}', "is not a tag"),
        ("", b'{"tags":[1]}', "is not a tag"),
        ("", b'{"tags":{}}', "not a list"),
        ("", b"[]", "an array where an object is expected"),
        ("", b'{"tags":[],"tags":[]}', "duplicate key"),
        ("", b" " * 5_000_000, "more than 4194304"),
    ],
)
def test_lists_that_are_none(client: RegistryClient, server: Server, link: str, body: bytes, text: str) -> None:
    server.script = only("tags", lambda asked: reply(200, body, Link=link))
    with pytest.raises(LazarusError, match=text) as error:
        list(client.tags(Repository(server.host, "a")))
    one_line(error, server)


def test_endless_pages(client: RegistryClient, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_PAGES", 5)
    numbers = iter(range(1000))
    server.script = only(
        "tags", lambda asked: reply(200, b'{"tags":["x"]}', Link=f'</v2/a/tags/list?last={next(numbers)}>; rel="next"')
    )
    with pytest.raises(LimitError, match="more than 5 pages"):
        list(client.tags(Repository(server.host, "a")))
    assert len(server.seen("GET", "tags")) == 5


def test_endless_tags(client: RegistryClient, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_TAGS", 3)
    server.script = only("tags", lambda asked: reply(200, b'{"tags":["a","b","c","d"]}'))
    with pytest.raises(LimitError, match="tags: more than 3"):
        list(client.tags(Repository(server.host, "a")))


def test_endless_referrers(client: RegistryClient, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few of them, of many bytes each: all are kept."""
    monkeypatch.setattr(referrers, "MAX_BYTES", 5_000_000)
    entry = {"mediaType": media.OCI_MANIFEST, "digest": BLOB.digest, "size": 5, "annotations": {"x": "y" * 900_000}}
    page = dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [entry]})
    numbers = iter(range(1000))
    server.script = only(
        "referrers", lambda asked: reply(200, page, Link=f'</v2/a/referrers/x?last={next(numbers)}>; rel="next"')
    )
    with pytest.raises(LimitError, match=f"referrers of {DIGEST}: more than 5000000 bytes"):
        client.referrers(Repository(server.host, "a"), DIGEST)
    assert len(server.seen("GET", "referrers")) == 6


def test_denied_says_who(client: RegistryClient, server: Server) -> None:
    server.script = only("manifests", lambda asked: reply(403))
    with pytest.raises(DeniedError, match="there are no credentials for"):
        client.resolve(Repository(server.host, "a"), "v1")
