"""Registries and mirrors that go away in the middle: how long they are waited for, and who is asked then."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import images_made as made
import pytest
from made_registry import serving
from registry_helpers import needs_registry, registry
from registry_server import CLOSE, RESET, Answer, Asked, Server, digest_of, reply

from lazarus.errors import CorruptError, LazarusError, RegistryError
from lazarus.images.copy import copy_image
from lazarus.oci.transports import parse_place
from lazarus.registry.client import RegistryClient, Repository, Settings
from lazarus.registry.http import Http
from lazarus.registry.retries import Retries, TransientError
from lazarus.store import Store
from lazarus.terms import Descriptor, Digest

FAST = Settings(retries=1, timeout=10, backoff=0.001, longest_pause=0.05, auth_file="/dev/null")
DATA = os.urandom(400_000)
BLOB = Descriptor("application/octet-stream", Digest(digest_of(DATA)), len(DATA))
INDEX, MANIFEST = f"{made.OCI}index.v1+json", f"{made.OCI}manifest.v1+json"
AWAY = TransientError(RegistryError("nobody listens"), away=True)
WRONG = TransientError(RegistryError("500"))


def pauses(*errors: TransientError, patient: bool = True) -> list[float]:
    """All of them, when these errors come one after the other, the last one for ever."""
    waited: list[float] = []
    retries = Retries(Settings(), waited.append, lambda text: None, patient=patient)
    left = list(errors)
    with pytest.raises(RegistryError):
        while len(waited) < 100:
            retries.after(left.pop(0) if len(left) > 1 else left[0])
    return waited


def test_how_long_a_server_is_waited_for() -> None:
    """A restart takes seconds; what a server says again and again it means."""
    assert 15 < sum(pauses(AWAY)) < 45 and max(pauses(AWAY)) <= 4
    assert len(pauses(WRONG)) == 3 and sum(pauses(WRONG)) < 4
    assert len(pauses(AWAY, patient=False)) == 3, "there is somebody else to ask"
    assert len(pauses(AWAY, WRONG)) == 4 and len(pauses(WRONG, AWAY)) == 13
    assert pauses(TransientError(RegistryError("429"), 20.0)) == [20.0] * 3


def test_long_pauses_that_a_server_asks_for_are_told_and_cut() -> None:
    waited: list[float] = []
    said: list[str] = []
    retries = Retries(Settings(), waited.append, said.append)
    for pause in (4.0, 30.0, 1e6):
        retries.after(TransientError(RegistryError("h: 429"), pause))
    assert waited == [4.0, 30.0, 60.0] and said == ["h: 429; again in 30 s", "h: 429; again in 60 s"]


def test_not_longer_than_a_minute_however_slowly_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(range(0, 10_000, 25))
    monkeypatch.setattr("lazarus.registry.retries.time.monotonic", lambda: next(moments))
    assert len(pauses(AWAY)) == 3


class Outage:
    """A registry that is not there for some pauses of ours, and then is again, on the same port."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tries: int, back: Callable[[], object]) -> None:
        self.pauses = 0
        pause = Http._pause

        def wait(http: Http, seconds: float) -> None:
            self.pauses += 1
            if self.pauses == tries:
                back()
            pause(http, seconds)

        monkeypatch.setattr(Http, "_pause", wait)


@needs_registry
def test_a_registry_that_is_restarted_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is pulled, and of what is pushed: distribution forgets its uploads, whose addresses it signs."""
    data = os.urandom(24 << 20)
    blob = Descriptor("application/octet-stream", Digest(digest_of(data)), len(data))
    first = registry(tmp_path)
    where = first.__enter__()
    stack = []

    def back() -> None:
        again = registry(tmp_path, storage=where.storage, port=int(where.host.rpartition(":")[2]))
        again.__enter__()
        stack.append(again)

    def down() -> None:
        first.__exit__(None, None, None)
        outage.pauses = 0

    try:
        with RegistryClient(FAST) as client:
            outage = Outage(monkeypatch, 6, back)
            repository = Repository(where.host, "a")
            client.upload_blob(repository, blob, [data])
            whole, buffer = bytearray(), bytearray(1 << 20)
            with client.open_blob(repository, blob) as stream:
                while count := stream.readinto(buffer):
                    whole += buffer[:count]
                    if len(whole) == count:
                        down()
            assert whole == data and outage.pauses >= 6
            first = stack.pop()

            other = data[::-1]
            times = []

            def pieces() -> list[bytes]:
                times.append(1)
                return [other[begin : begin + (1 << 20)] for begin in range(0, len(other), 1 << 20)]

            def with_an_outage():  # type: ignore[no-untyped-def]
                for number, piece in enumerate(pieces()):
                    if number == 9:
                        down()
                    yield piece

            digest = client.upload_blob(
                repository, blob._replace(digest=Digest(digest_of(other))), with_an_outage(), rewind=pieces
            )
            assert client.has_blob(repository, digest) and outage.pauses >= 6 and len(times) >= 2
    finally:
        for running in (first, *stack):
            running.__exit__(None, None, None)


def test_a_proxy_whose_registry_is_away() -> None:
    """502 to 504 mean it only of one that was there."""
    with Server() as server, RegistryClient(FAST) as client:
        server.blobs[BLOB.digest] = DATA
        repository = Repository(server.host, "a")
        server.script = lambda asked: reply(503) if "blobs" in asked.target else None
        with pytest.raises(RegistryError, match="503"):
            client.open_blob(repository, BLOB)
        assert len(server.seen("GET", "blobs")) == FAST.retries + 1
        assert list(client.tags(repository)) == []
        left = [503, 502, 504] * 3
        server.script = lambda asked: reply(left.pop()) if left and "blobs" in asked.target else None
        assert client.open_blob(repository, BLOB).readinto(bytearray(10)) == 10 and not left


# -- mirrors --


def cut(at: int, *then: Answer) -> Callable[[Asked], Answer]:
    """Gives `at` bytes of a blob and resets; later it answers otherwise."""
    answers: list[Answer] = [[reply(200, DATA)[: at - len(DATA)], CLOSE], *then]
    return lambda asked: (answers.pop(0) if len(answers) > 1 else answers[0]) if "blobs" in asked.target else None


@pytest.mark.parametrize(
    "then",
    [
        reply(500),
        reply(404),
        reply(403),
        [RESET],
        reply(416, Content_Range="bytes */10"),
        reply(206, DATA[:10], Content_Range=f"bytes 0-9/{len(DATA)}"),
        reply(200, DATA + b"x"),
        reply(302, Location="http://127.0.0.1:1/x"),
        [b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", CLOSE],
    ],
    ids=["500", "404", "403", "reset", "416", "other bytes", "a byte more", "elsewhere", "no end"],
)
def test_the_registry_goes_on_where_its_mirror_ends(tmp_path: Path, then: Answer) -> None:
    with Server() as mirror, Server() as server:
        server.blobs[BLOB.digest] = DATA
        mirror.script = cut(150_000, then)
        client, said = mirrored(tmp_path, server, mirror)
        with client, client.open_blob(Repository(server.host, "a"), BLOB) as stream:
            assert read(stream) == DATA
        [asked] = server.seen("GET", "blobs")
        begin = re.fullmatch(r"bytes=(\d+)-399999", asked.headers["range"])
        assert begin and 100_000 <= int(begin[1]) <= 150_000, "by the buffer's 50,000"
        assert len(said) == 1 and said[0].startswith(f"mirror {mirror.host}/a: blob ")


def test_both_of_them_end(tmp_path: Path) -> None:
    with Server() as mirror, Server() as server:
        mirror.script, server.script = cut(150_000, reply(404)), lambda asked: reply(404)
        client, _ = mirrored(tmp_path, server, mirror)
        with (
            client,
            client.open_blob(Repository(server.host, "a"), BLOB) as stream,
            pytest.raises(LazarusError, match=f"{server.host}/a: blob .*does not have it"),
        ):
            read(stream)


def test_a_mirror_that_mixes_wrong_bytes_in(tmp_path: Path) -> None:
    """The digest is that of all bytes, whoever sent them."""
    with Server() as mirror, Server() as server:
        server.blobs[BLOB.digest] = DATA
        wrong = [reply(200, b"x" + DATA[1:])[:-200_000], CLOSE]
        mirror.script = lambda asked: wrong if "blobs" in asked.target else None
        client, _ = mirrored(tmp_path, server, mirror, retries=0)
        with (
            client,
            client.open_blob(Repository(server.host, "a"), BLOB) as stream,
            pytest.raises(CorruptError, match="its bytes are sha256:"),
        ):
            read(stream)


@pytest.mark.parametrize("what", ["layer", "config"])
def test_after_a_mirror_with_other_bytes_the_registry_is_asked(tmp_path: Path, what: str) -> None:
    """Whole, well-formed, and wrong: that shows at the end, where the mirror has given all that there is."""
    tars = [made.layer({f"{name}/{number}": os.urandom(60_000) for number in range(3)}) for name in "ab"]
    source = made.Made()
    source.image(tars)
    manifest = json.loads(source.blobs[source.entries[0]["digest"]])
    wrong = manifest["config"]["digest"] if what == "config" else manifest["layers"][0]["digest"]
    with serving(source) as server, serving(source) as mirror, Store(tmp_path / "store") as store:
        data = source.blobs[wrong]
        other = data.replace(b"amd64", b"arm64") if what == "config" else data[:-9] + bytes(9)
        assert other != data
        mirror.trouble[wrong] = lambda answer, _: answer.give_part(other)
        conf = tmp_path / "registries.conf"
        conf.write_text(f'[[registry]]\nlocation = "{server.host}"\n[[registry.mirror]]\nlocation = "{mirror.host}"\n')
        settings = FAST._replace(registries_conf=str(conf))
        [image] = store.images.pull(f"{server.host}/a:1", registry=settings)
        assert image.digest == source.entries[0]["digest"] and list(store.check()) == []
        assert (mirror.count(wrong), server.count(wrong)) == (1, 1)

        copied = copy_image(
            parse_place(f"docker://{server.host}/a:1"), parse_place(f"oci:{tmp_path}/there"), registry=settings
        )
        assert copied.digest == image.digest and (mirror.count(wrong), server.count(wrong)) == (2, 2)
        with pytest.raises(LazarusError, match=wrong):
            copy_image(
                parse_place(f"docker://{server.host}/a:1"), parse_place(f"oci-archive:{tmp_path}/a"), registry=settings
            )
        mirror.asked.clear()
        server.asked.clear()

        store.images.remove(f"{server.host}/a:1")
        store.prune()
        server.trouble[wrong] = mirror.trouble[wrong]
        with pytest.raises(LazarusError, match=wrong):
            store.images.pull(f"{server.host}/a:1", registry=settings)
        assert (mirror.count(wrong), server.count(wrong)) == (1, 1)


@pytest.mark.parametrize("what", ["index", "table", "pack", "end"])
def test_after_a_mirror_with_other_bytes_a_volume_is_pulled_all_the_same(tmp_path: Path, what: str) -> None:
    """Whatever of it the mirror has wrong, the registry has it right; nobody is asked twice for the same bytes."""
    with Server() as mirror, Server() as server, Store(tmp_path / "store") as store:
        volume = store.volumes.create("db")
        Path(volume.path, "data").write_bytes(os.urandom(300_000))
        volume.push(f"docker://{server.host}/db:1")
        mirror.blobs, mirror.manifests = dict(server.blobs), dict(server.manifests)
        tree, pack = (layer["digest"] for layer in json.loads(server.manifests["1"][1])["layers"])
        wrong = bytearray(server.blobs[tree if what == "index" else pack])
        wrong[10 if what in ("index", "pack") else -10] ^= 1
        mirror.blobs[tree if what == "index" else pack] = bytes(wrong)
        if what == "end":  # a table that is right when it is asked for, in a pack that is wrong at its end
            mirror.script = lambda asked: honest_part(asked, pack, server.blobs[pack])
        client, said = mirrored(tmp_path, server, mirror)
        seen = []
        pulled = store.volumes.pull(
            f"docker://{server.host}/db:1", "new", registry=client.settings, progress=seen.append
        )
        client.close()
        assert Path(pulled.volume.path, "data").read_bytes() == Path(volume.path, "data").read_bytes()
        assert seen[-1].done == pulled.size == 300_000
        assert pulled.read == len(server.blobs[tree]) + len(server.blobs[pack])
        asked = len(mirror.seen("GET", "blobs")), len(server.seen("GET", "blobs"))
        assert asked == {"index": (1, 3), "table": (2, 2), "pack": (3, 1), "end": (3, 1)}[what], said

        server.blobs = mirror.blobs
        server.script = mirror.script
        with pytest.raises(CorruptError):
            store.volumes.pull(f"docker://{server.host}/db:1", "newer", registry=client.settings)
        assert store.volumes.find("newer") is None and os.listdir(store.paths.staging) == []


def honest_part(asked: Asked, digest: str, data: bytes) -> bytes | None:
    """The right bytes to whoever asks for a part of a blob."""
    part = re.match(r"bytes=(\d+)-(\d+)\Z", asked.headers.get("range", ""))
    if part is None or digest not in asked.target:
        return None
    begin, end = int(part[1]), int(part[2]) + 1
    return reply(206, data[begin:end], Content_Range=f"bytes {begin}-{end - 1}/{len(data)}")


def test_what_is_written_or_removed_does_not_go_by_a_mirror(tmp_path: Path) -> None:
    """A mirror may be behind: its digest of a tag is another image, its packs and referrers are not the registry's."""
    old, new = (
        json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
        for entries in ([], [made.descriptor(MANIFEST, b"x")])
    )
    with Server() as mirror, Server() as server, Store(tmp_path / "store") as store:
        mirror.manifests["1"], server.manifests["1"] = (INDEX, old), (INDEX, new)
        server.script = lambda asked: reply(200) if asked.method == "HEAD" and "manifests" in asked.target else None
        client, _ = mirrored(tmp_path, server, mirror)
        with client:
            repository = Repository(server.host, "a")
            assert client.resolve(repository, "1")[1] == old
            found = client.has_manifest(repository, "1")
            assert found is not None and found.digest == digest_of(new)

            subject = made.descriptor(MANIFEST, b"subject")
            tag = subject["digest"].replace(":", "-")
            mirror.manifests[tag], server.manifests[tag] = (INDEX, old), (INDEX, new)
            config = made.descriptor(f"{made.OCI}config.v1+json", b"{}")
            signature = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [], "subject": subject}
            client.put_manifest(repository, "s", MANIFEST, json.dumps(signature).encode())
            assert len(json.loads(server.manifests[tag][1])["manifests"]) == 2

        server.script = lambda asked: None
        volume = store.volumes.create("db")
        Path(volume.path, "data").write_bytes(os.urandom(300_000))
        volume.push(f"docker://{mirror.host}/db:1")
        volume.push(f"docker://{server.host}/db:1", registry=client.settings)
        manifest = json.loads(server.manifests["1"][1])
        assert {layer["digest"] for layer in manifest["layers"]} <= set(server.blobs)


def mirrored(tmp_path: Path, server: Server, mirror: Server, retries: int = 1) -> tuple[RegistryClient, list[str]]:
    conf = tmp_path / "registries.conf"
    conf.write_text(f'[[registry]]\nlocation = "{server.host}"\n[[registry.mirror]]\nlocation = "{mirror.host}"\n')
    said: list[str] = []
    return RegistryClient(FAST._replace(registries_conf=str(conf), retries=retries), warn=said.append), said


def read(stream: object) -> bytes:
    whole, buffer = bytearray(), bytearray(50_000)
    while count := stream.readinto(buffer):  # type: ignore[attr-defined]
        whole += buffer[:count]
    return bytes(whole)
