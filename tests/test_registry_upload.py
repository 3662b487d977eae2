"""Sending blobs to registries that break off, forget, lie about what they have, or send us elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from registry_server import RESET, Answer, Asked, Server, digest_of, reply

from lazarus.errors import (
    CorruptError,
    DeniedError,
    FormatError,
    LazarusError,
    LimitError,
    NotFoundError,
    RegistryError,
)
from lazarus.oci import media
from lazarus.oci.documents import write_manifest
from lazarus.registry import upload
from lazarus.registry.client import RegistryClient, Repository, Settings
from lazarus.terms import Descriptor, Digest

FAST = Settings(retries=2, timeout=10, backoff=0.001, longest_pause=0.05, auth_file="/dev/null")
DATA = bytes(range(256)) * 40
BLOB = Descriptor("application/octet-stream", Digest(digest_of(DATA)), len(DATA))
CHUNKS = [DATA[begin : begin + 1000] for begin in range(0, len(DATA), 1000)]
MANIFEST = write_manifest(Descriptor(media.OCI_CONFIG, BLOB.digest, 5), [])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def client() -> Iterator[RegistryClient]:
    with RegistryClient(FAST) as made:
        yield made


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 4,096 bytes, so that DATA is three of them."""
    monkeypatch.setattr(upload, "PIECE", 4096)


Send = Callable[[RegistryClient, Server], Digest]


def pieces(client: RegistryClient, server: Server) -> Digest:
    return client.upload_blob(Repository(server.host, "a"), None, iter(CHUNKS))


def stream(client: RegistryClient, server: Server) -> Digest:
    return client.upload_blob(Repository(server.host, "a"), None, iter(CHUNKS), rewind=lambda: CHUNKS)


def known(client: RegistryClient, server: Server) -> Digest:
    return client.upload_blob(Repository(server.host, "a"), BLOB, iter(CHUNKS), rewind=lambda: CHUNKS)


WAYS = pytest.mark.parametrize("send", [pieces, stream, known])


def patches(*answers: Callable[[Asked], Answer] | None) -> Callable[[Asked], Answer]:
    """A script for the first PATCH requests, one after the other; None: honest."""
    left = list(answers)

    def script(asked: Asked) -> Answer:
        if asked.method != "PATCH" or not left:
            return None
        answer = left.pop(0)
        return answer(asked) if answer else None

    return script


def taken(server: Server, count: int, answer: Answer) -> Callable[[Asked], Answer]:
    """The registry keeps some bytes of what was sent and then answers, or breaks off."""

    def act(asked: Asked) -> Answer:
        server.uploads[asked.path.rpartition("/")[2]] += asked.body[:count]
        return answer

    return act


@WAYS
def test_an_honest_registry(client: RegistryClient, server: Server, send: Send) -> None:
    assert send(client, server) == BLOB.digest and server.blobs[BLOB.digest] == DATA
    sent = [asked for asked in server.asked if asked.method == "PATCH"]
    assert len(sent) == (3 if send is pieces else 1)
    if send is pieces:
        assert [asked.headers["content-range"] for asked in sent] == ["0-4095", "4096-8191", "8192-10239"]
    assert not server.uploads, "and nothing is left open"


@WAYS
@pytest.mark.parametrize("count", [0, 1, 2, 1500, 4096])
@pytest.mark.parametrize("answer", [[RESET], reply(416), reply(503), reply(500, Retry_After="0")], ids=range(4))
def test_it_goes_on_where_the_registry_is(
    client: RegistryClient, server: Server, send: Send, count: int, answer: Answer
) -> None:
    """docker-registry says 0-0 of no byte and of one: then the upload begins anew. The blob is whole all the same."""
    server.script = patches(taken(server, count, answer))
    assert send(client, server) == BLOB.digest
    assert server.blobs[BLOB.digest] == DATA


@pytest.mark.parametrize("answer", [None, [RESET], reply(500), reply(503)], ids=range(4))
@pytest.mark.parametrize("count", [0, 1, 50])
def test_a_small_one_is_put_at_once(client: RegistryClient, server: Server, answer: Answer, count: int) -> None:
    small = b"x" * 100
    left = [answer]

    def script(asked: Asked) -> Answer:
        if asked.method != "PUT" or not left or left.pop() is None:
            return None
        server.uploads[asked.path.rpartition("/")[2]] += asked.body[:count]  # and no more of it came
        return answer

    server.script = script
    assert client.upload_blob(Repository(server.host, "a"), None, [small]) == digest_of(small)
    assert server.blobs == {digest_of(small): small}
    assert len(server.seen("PATCH")) == (0 if answer is None else 1)


def test_an_empty_one(client: RegistryClient, server: Server) -> None:
    for rewind in (None, lambda: [b""]):
        assert client.upload_blob(Repository(server.host, "a"), None, [b""], rewind=rewind) == digest_of(b"")


def test_in_the_middle_of_pieces(client: RegistryClient, server: Server) -> None:
    server.script = patches(None, taken(server, 100, [RESET]), taken(server, 50, reply(416)))
    assert pieces(client, server) == BLOB.digest and server.blobs[BLOB.digest] == DATA
    ranges = [asked.headers["content-range"] for asked in server.seen("PATCH")]
    assert ranges == ["0-4095", "4096-8191", "4196-8191", "4246-8191", "8192-10239"]


@WAYS
def test_one_that_forgets(client: RegistryClient, server: Server, send: Send) -> None:
    def forget(asked: Asked) -> Answer:
        server.uploads.clear()
        return reply(500)

    server.script = patches(forget)
    if send is pieces:  # the first piece is still there
        assert send(client, server) == BLOB.digest
        server.script = patches(None, forget)
        with pytest.raises(RegistryError, match="the registry has 0 bytes, 4096 to 8192 were sent"):
            send(client, server)
    else:
        assert send(client, server) == BLOB.digest
    assert server.blobs[BLOB.digest] == DATA


@WAYS
@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (reply(202, Location="/u", Range="0-999999"), RegistryError, "the registry has 1000000 bytes"),
        (reply(202, Location="/u", Range="5-9"), RegistryError, "a Range that is not one"),
        (reply(202, Location="/u", Range="0-" + "9" * 30), RegistryError, "a Range that is not one"),
        (reply(202, Location="/u", Range="x\x1b[31m"), RegistryError, "a Range that is not one"),
        (reply(202, Range="0-4095"), RegistryError, "a Location that is not one"),
        (reply(202, Location="file:///x", Range="0-4095"), RegistryError, "an http or https address is expected"),
        (reply(202, Location="http://registry.example/u"), RegistryError, "plain HTTP"),
        (reply(413, b'{"errors":[{"code":"SIZE_INVALID"}]}'), RegistryError, "413 .*SIZE_INVALID"),
        (reply(403), DeniedError, "access denied"),
        (reply(307, Location="/elsewhere"), RegistryError, "307 Temporary Redirect, expected"),
    ],
    ids=range(10),
)
def test_answers_to_pieces(
    client: RegistryClient, server: Server, send: Send, answer: Answer, kind: type[LazarusError], text: str
) -> None:
    server.script = lambda asked: answer if asked.method == "PATCH" else None
    with pytest.raises(kind, match=text) as error:
        send(client, server)
    assert str(error.value).startswith(f"{server.host}/a: blob") and str(error.value).isprintable()
    assert len(server.seen("PATCH")) <= 3 and not server.seen("PUT")
    assert server.seen("DELETE"), "the upload is not left open"


@WAYS
@pytest.mark.parametrize("answer", [[RESET], reply(416), reply(500)], ids=range(3))
def test_one_that_never_takes_a_byte(client: RegistryClient, server: Server, send: Send, answer: Answer) -> None:
    server.script = lambda asked: answer if asked.method == "PATCH" else None
    with pytest.raises(RegistryError):
        send(client, server)
    assert len(server.seen("PATCH")) == FAST.retries + 1


@WAYS
@pytest.mark.parametrize("stated", ["0-0", "0-1", "0-4000"])
def test_one_that_takes_a_little_and_says_so_for_ever(
    client: RegistryClient, server: Server, send: Send, stated: str
) -> None:
    def script(asked: Asked) -> Answer:
        if asked.method not in ("PATCH", "GET") or len(server.seen("PATCH")) > 100:
            return None
        return reply(202 if asked.method == "PATCH" else 204, Location="/v2/a/blobs/uploads/u1", Range=stated)

    server.script = script
    with pytest.raises(RegistryError, match=r"the registry (took|has) [0-9]+ "):
        send(client, server)
    assert len(server.seen("PATCH")) <= FAST.retries + 2


@WAYS
def test_one_that_says_that_it_has_more_than_there_is(client: RegistryClient, server: Server, send: Send) -> None:
    """When it is asked after a failure: nothing of a negative length is sent then."""

    def script(asked: Asked) -> Answer:
        if asked.method == "PATCH":
            return [RESET]
        return reply(204, Location=asked.target, Range="0-999999") if asked.method == "GET" and asked.query else None

    server.script = script
    with pytest.raises(RegistryError, match="the registry has 1000000 bytes"):
        send(client, server)
    assert not any(asked.headers.get("content-length", "0").startswith("-") for asked in server.asked)


@pytest.mark.parametrize("query", ["", "?_state=abc%3D&x=1"])
@pytest.mark.parametrize("place", ["u9", "/v2/a/blobs/uploads/u9", "SERVER/v2/a/blobs/uploads/u9"])
def test_where_uploads_are(client: RegistryClient, server: Server, place: str, query: str) -> None:
    """Addresses may be absolute or relative, and their queries come back."""
    server.uploads["u9"] = bytearray()
    opened = reply(202, Location=place.replace("SERVER", server.url) + query)
    server.script = lambda asked: opened if asked.method == "POST" else None
    assert known(client, server) == BLOB.digest
    [patch], [put] = server.seen("PATCH"), server.seen("PUT")
    assert patch.target == "/v2/a/blobs/uploads/u9" + query and put.query["digest"] == [BLOB.digest]


def test_least_size_of_a_piece(client: RegistryClient, server: Server) -> None:
    def script(asked: Asked) -> Answer:
        honest = server.honest(asked)
        return honest.replace(b"\r\n", b"\r\nOCI-Chunk-Min-Length: 6000\r\n", 1) if asked.method == "POST" else honest

    server.script = script
    assert pieces(client, server) == BLOB.digest
    assert [len(asked.body) for asked in server.seen("PATCH")] == [6000, 4240]
    server.script = lambda asked: reply(202, Location="/u", OCI_Chunk_Min_Length="999999999")
    with pytest.raises(RegistryError, match="pieces of 999999999 bytes"):
        pieces(client, server)


def test_a_lost_answer_to_the_end(client: RegistryClient, server: Server) -> None:
    def script(asked: Asked) -> Answer:
        if asked.method == "PUT" and not server.blobs:
            server.honest(asked)
            return [RESET]
        return None

    server.script = script
    assert pieces(client, server) == BLOB.digest


def test_ends_that_are_none(client: RegistryClient, server: Server) -> None:
    server.script = lambda asked: (
        reply(201, Docker_Content_Digest="sha256:" + "0" * 64) if asked.method == "PUT" else None
    )
    with pytest.raises(CorruptError, match="Docker-Content-Digest says sha256:000"):
        pieces(client, server)
    server.script = lambda asked: reply(404) if asked.method == "PUT" else None
    with pytest.raises(NotFoundError):
        pieces(client, server)


def test_what_is_not_what_it_should_be(client: RegistryClient, server: Server) -> None:
    repository = Repository(server.host, "a")
    with pytest.raises(CorruptError, match=f"{len(DATA)} bytes to send, its descriptor says {len(DATA) + 1}"):
        client.upload_blob(repository, BLOB._replace(size=len(DATA) + 1), CHUNKS)
    other = Digest("sha256:" + "0" * 64)
    with pytest.raises(RegistryError, match="DIGEST_INVALID not these bytes"):
        client.upload_blob(repository, BLOB._replace(digest=other), CHUNKS)
    with pytest.raises(CorruptError, match="its bytes are"):
        client.put_manifest(repository, other, media.OCI_MANIFEST, MANIFEST)
    with pytest.raises(FormatError):
        client.put_manifest(repository, "v1", media.OCI_INDEX, MANIFEST)
    with pytest.raises(LimitError):
        client.put_manifest(repository, "v1", media.OCI_MANIFEST, b" " * (5 << 20))
    assert not server.seen("PUT", "manifests") and not server.blobs


def test_a_source_that_fails_leaves_no_upload(client: RegistryClient, server: Server) -> None:
    def broken() -> Iterator[bytes]:
        yield DATA
        raise OSError("the disk is gone")

    for send in (
        lambda: client.upload_blob(Repository(server.host, "a"), None, broken()),
        lambda: client.upload_blob(Repository(server.host, "a"), None, broken(), rewind=broken),
    ):
        with pytest.raises(OSError, match="the disk is gone"):
            send()
    assert not server.uploads and not server.seen("PUT")


def test_mounts(client: RegistryClient, server: Server) -> None:
    target, source = Repository(server.host, "a"), Repository(server.host, "b")
    assert not client.mount_blob(target, BLOB.digest, source)
    assert not server.uploads, "the upload that was opened instead is ended"
    server.script = lambda asked: reply(201) if asked.method == "POST" else None
    assert client.mount_blob(target, BLOB.digest, source)
    assert server.asked[-1].query == {"mount": [BLOB.digest], "from": ["b"]}
    server.script = lambda asked: (
        reply(201, Docker_Content_Digest="sha256:" + "0" * 64) if asked.method == "POST" else None
    )
    with pytest.raises(CorruptError):
        client.mount_blob(target, BLOB.digest, source)


def test_manifests_are_put(client: RegistryClient, server: Server) -> None:
    assert client.put_manifest(Repository(server.host, "a"), "v1", media.OCI_MANIFEST, MANIFEST) == digest_of(MANIFEST)
    assert server.manifests["v1"] == (media.OCI_MANIFEST, MANIFEST)
    server.script = lambda asked: reply(201, Docker_Content_Digest="sha256:" + "0" * 64)
    with pytest.raises(CorruptError, match="manifest v1: Docker-Content-Digest says"):
        client.put_manifest(Repository(server.host, "a"), "v1", media.OCI_MANIFEST, MANIFEST)


def test_referrers_by_the_api(client: RegistryClient, server: Server) -> None:
    from lazarus.oci.strict_json import dumps

    entry = {"mediaType": media.OCI_MANIFEST, "digest": BLOB.digest, "size": 5, "artifactType": "x"}
    index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [entry]}
    server.script = lambda asked: reply(200, dumps(index), Content_Type=media.OCI_INDEX)
    subject = Digest(digest_of(MANIFEST))
    [found] = client.referrers(Repository(server.host, "a"), subject)
    assert found.digest == BLOB.digest and server.asked[-1].path == f"/v2/a/referrers/{subject}"
    assert client.referrers(Repository(server.host, "a"), subject, "y") == []
    for wrong in (b"{}", b'{"schemaVersion":2,"manifests":[1]}', MANIFEST):
        server.script = lambda asked, wrong=wrong: reply(200, wrong)  # type: ignore[misc]
        with pytest.raises(FormatError):
            client.referrers(Repository(server.host, "a"), subject)
