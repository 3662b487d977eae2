"""pull from a registry: only what is missing, verified while it streams, whoever kills whom; and from a bad one."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import images_made as made
import pytest
from cli_helpers import Command
from made_registry import Answer, MadeRegistry, serving
from registry_helpers import needs_registry, registry

from lazarus.content import lease
from lazarus.errors import (
    CorruptError,
    FormatError,
    LazarusError,
    LimitError,
    NotFoundError,
    RegistryError,
    UnsupportedError,
)
from lazarus.images import pull, remote
from lazarus.registry.settings import Settings
from lazarus.store import Store
from lazarus.terms import Descriptor, Digest, ProgressEvent

BASE = made.base_tar()
APP = made.layer({"app": os.urandom(20_000), "small": b"x"})
LARGE = made.layer({f"large/{number}": os.urandom(1 << 20) for number in range(3)})
QUICK = Settings(retries=1, backoff=0.01, timeout=1.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


def image_of(*tars: bytes, **more: object) -> made.Made:
    source = made.Made()
    source.image(tars, **more)  # type: ignore[arg-type]
    return source


def two_platforms(*, docker: bool = False) -> tuple[made.Made, str]:
    """An image for amd64 and one for arm64, and the digest of an index of both."""
    source = image_of(BASE, docker=docker)
    source.image([BASE, APP], None, architecture="arm64", docker=docker)
    kind = f"{made.DOCKER}distribution.manifest.list.v2+json" if docker else f"{made.OCI}index.v1+json"
    entries = [
        {**entry, "platform": {"os": "linux", "architecture": name}, "annotations": {}}
        for entry, name in zip(source.entries, ("amd64", "arm64"), strict=True)
    ]
    document = {"schemaVersion": 2, "mediaType": kind, "manifests": entries}
    return source, made.sha256(source.put(json.dumps(document).encode()))


def blob_of(tar: bytes) -> str:
    return made.sha256(made.gzip.compress(tar, mtime=0))


def layers(store: Store) -> set[str]:
    return {row[0] for row in store.catalogue.read().execute("SELECT diff_id FROM layers")}


def actions(events: list[ProgressEvent]) -> dict[str, str]:
    """The last thing that was done with each layer."""
    return {event.name: event.action for event in events if event.name}


# -- only what is missing --


def test_a_pull_and_the_next_ones(store: Store) -> None:
    source = image_of(BASE, APP)
    with serving(source) as server:
        [image] = store.images.pull(f"{server.host}/team/app:1")
        assert image.names == (f"{server.host}/team/app:1",) == image.loaded_names
        assert (image.digest, image.diff_ids) == (source.entries[0]["digest"], (made.sha256(BASE), made.sha256(APP)))
        assert {server.count(blob_of(tar)) for tar in (BASE, APP)} == {1}
        events: list[ProgressEvent] = []
        assert store.images.pull(f"docker://{server.host}/team/app:1", progress=events.append)[0].digest == image.digest
        assert {server.count(blob_of(tar)) for tar in (BASE, APP)} == {1}
        assert set(actions(events).values()) == {"exists"}
        server.blobs.clear()
    assert list(store.check()) == []


def test_a_new_version_costs_its_new_layer(store: Store) -> None:
    source = image_of(BASE, APP)
    new = source.image([BASE, LARGE], "made:2")
    with serving(source, old=source.entries[0]["digest"], new=new["digest"]) as server:
        store.images.pull(f"{server.host}/a:old")
        store.images.pull(f"{server.host}/a:new")
        assert [server.count(blob_of(tar)) for tar in (BASE, APP, LARGE)] == [1, 1, 1]


def test_who_was_faster_is_seen_under_the_claim(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may have fetched a layer between our look and our claim, which then nobody has."""
    with serving(image_of(BASE)) as server:
        claim = pull.claim

        def late(*words: Any) -> Any:
            monkeypatch.setattr(pull, "claim", claim)
            with Store(store.paths.root) as other:
                other.images.pull(f"{server.host}/a:1")
            return claim(*words)

        monkeypatch.setattr(pull, "claim", late)
        store.images.pull(f"{server.host}/a:1")
        assert server.count(blob_of(BASE)) == 1


def test_by_digest_and_under_another_name(store: Store) -> None:
    source = image_of(BASE)
    digest = source.entries[0]["digest"]
    with serving(source) as server:
        image = store.images.pull(f"{server.host}/a@{digest}")[0]
        assert (image.names, image.all_names) == ((), (f"{server.host}/a@{digest}",))
        assert store.images.pull(f"{server.host}/a:1", reference="here:2")[0].names == ("here:2",)
        with pytest.raises(NotFoundError):
            store.images.pull(f"{server.host}/a:none")


def test_a_pull_by_digest_gives_a_name(store: Store, tmp_path: Path) -> None:
    """So that a prune leaves it, and it is found by what it was pulled by: also where that is an index."""
    source, index = two_platforms()
    amd, arm = source.entries
    run = Command(store.paths.root)
    with serving(source, index=index, amd=amd["digest"]) as server:
        repository = f"{server.host}/a"
        for digest in (amd["digest"], index):
            name = f"{repository}@{digest}"
            image = run.ok("pull", "-q", "--platform=linux/amd64", name)
            run.ok("system", "prune", "-f")
            for wanted in (repository, name):
                assert run.ok("images", "-q", wanted) == image[7:19]
            assert run.ok("images", repository).splitlines()[1].split()[:2] == [repository, "<none>"]
            assert store.images.get(name).digest == amd["digest"]
            assert json.loads(run.ok("inspect", name))[0]["RepoDigests"] == [name]
            run.ok("tag", name, "mine:1")
            run.ok("save", "-q", "-o", str(tmp_path / "saved.tar"), name)
            assert run.ok("rmi", name) == f"Untagged: {name}"
            assert run.ok("rmi", "mine:1").splitlines() == ["Untagged: mine:1", f"Deleted: {image}"]
        run.ok("pull", "-q", "--all-platforms", f"{repository}@{index}")
        assert {name for image in store.images.list() for name in image.all_names} == {
            f"{repository}@{index}",
            f"{repository}@{arm['digest']}",
        }


def test_the_config_comes_first(store: Store) -> None:
    """A layer that is known by another digest is here all the same."""
    packed = image_of(BASE, compress=True)
    plain = image_of(BASE, compress=False)
    with serving(packed) as server:
        store.images.pull(f"{server.host}/a:1")
    with serving(plain) as server:
        store.images.pull(f"{server.host}/b:1")
        assert server.count(made.sha256(BASE)) == 0


@pytest.mark.parametrize("docker", [False, True])
def test_of_an_index_one_platform_or_all(store: Store, docker: bool) -> None:
    source, index = two_platforms(docker=docker)
    amd, arm = source.entries
    kind = f"{made.OCI}index.v1+json"
    document = {"schemaVersion": 2, "mediaType": kind, "manifests": [made.descriptor(kind, source.blobs[index])]}
    nested = source.put(json.dumps(document).encode())
    with serving(source, all=index, nested=made.sha256(nested)) as server:
        assert store.images.pull(f"{server.host}/a:all", platform="arm64")[0].digest == arm["digest"]
        found = store.images.pull(f"{server.host}/a:all", platform="amd64", all_platforms=True)
        assert [image.digest for image in found] == [amd["digest"], arm["digest"]]
        assert found[1].names == (f"{server.host}/a:all", f"{server.host}/a:all-linux-arm64")[1:]
        with pytest.raises(NotFoundError, match="no image for platform linux/s390x; there are: linux/amd64, linux/arm"):
            store.images.pull(f"{server.host}/a:all", platform="s390x")
        if not docker:
            found = store.images.pull(f"{server.host}/a:nested", platform="arm64", all_platforms=True)
            assert {image.digest for image in found} == {amd["digest"], arm["digest"]}


def test_a_registry_that_sends_parts_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers behind one name need not be alike: what has come is not sent down the pipe again."""
    monkeypatch.setattr(remote, "FIRST", 1000)
    monkeypatch.setattr(remote, "RANGE", 500)
    monkeypatch.setattr(remote, "FAST", 1e18)
    data = os.urandom(5000)
    asked: list[tuple[int, int | None]] = []

    class Ranges:
        def open(self, descriptor: Descriptor, offset: int, size: int | None) -> io.BytesIO:
            asked.append((offset, size))
            return io.BytesIO(data[offset:][:size])

        def pieces(self, descriptor: Descriptor, at: int) -> Iterator[memoryview]:
            yield memoryview(data)[at : at + 500]
            raise UnsupportedError("the registry does not send parts of blobs")

    descriptor = Descriptor("application/octet-stream", Digest(made.sha256(data)), len(data))
    blob = remote.RemoteBlob(Ranges(), descriptor)  # type: ignore[arg-type]
    assert b"".join(map(bytes, blob.pieces())) == data
    assert asked == [(0, 1000), (1500, None)]


def test_documents_are_bounded_in_sum(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MAX_DOCUMENTS", 6000)
    source = image_of(BASE)
    for number in range(20):
        source.image([BASE], None, architecture="arm64", config={"Labels": {"number": str(number)}})
    entries = [
        {**entry, "platform": {"os": "linux", "architecture": "arm64"}, "annotations": {}} for entry in source.entries
    ]
    kind = f"{made.OCI}index.v1+json"
    index = source.put(json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode())
    with (
        serving(source, all=made.sha256(index)) as server,
        pytest.raises(LimitError, match="with it more than 6000 bytes of manifests and configs"),
    ):
        store.images.pull(f"{server.host}/a:all", all_platforms=True)


def test_schema_1_is_refused_in_one_line(store: Store) -> None:
    source = image_of(BASE)
    kind = f"{made.DOCKER}distribution.manifest.v1+prettyjws"
    old = source.put(json.dumps({"schemaVersion": 1, "mediaType": kind, "fsLayers": []}).encode())
    with serving(source, old=made.sha256(old)) as server, pytest.raises(UnsupportedError, match="schema 1") as caught:
        store.images.pull(f"{server.host}/a:old")
    assert "\n" not in str(caught.value)


# -- ranges --


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is too slow for one connection."""
    monkeypatch.setattr(remote, "FIRST", 200_000)
    monkeypatch.setattr(remote, "RANGE", 200_000)
    monkeypatch.setattr(remote, "FAST", float("inf"))


@pytest.mark.usefixtures("small_ranges")
def test_a_large_blob_comes_in_ranges(store: Store) -> None:
    with serving(image_of(BASE, LARGE)) as server:
        [image] = store.images.pull(f"{server.host}/a:1")
        parts = sorted(asked[3] for asked in server.asked if asked[2] == blob_of(LARGE))
        assert len(parts) == -(-len(server.blobs[blob_of(LARGE)]) // 200_000) and all(parts)
        assert server.count(blob_of(BASE)) == 1
    assert image.diff_ids[1] == made.sha256(LARGE)


@pytest.mark.usefixtures("small_ranges")
def test_by_one_connection_where_that_is_fast(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FAST", 0.0)
    with serving(image_of(LARGE)) as server:
        [image] = store.images.pull(f"{server.host}/a:1")
        size = len(server.blobs[blob_of(LARGE)])
        parts = [asked[3] for asked in server.asked if asked[2] == blob_of(LARGE)]
        assert parts == ["bytes=0-199999", f"bytes=200000-{size - 1}"]
    assert image.diff_ids == (made.sha256(LARGE),)


@pytest.mark.usefixtures("small_ranges")
def test_a_registry_that_sends_no_parts(store: Store) -> None:
    def whole(answer: Answer, data: bytes) -> None:
        answer.give(data)

    with serving(image_of(BASE, LARGE)) as server:
        server.trouble[blob_of(LARGE)] = whole
        [image] = store.images.pull(f"{server.host}/a:1")
        assert server.count(blob_of(LARGE)) == 2
    assert image.diff_ids[1] == made.sha256(LARGE)


@pytest.mark.usefixtures("small_ranges")
def test_never_more_than_a_few_ranges_are_in_memory(store: Store) -> None:
    """Six large layers, three at once, and never more than four ranges of them at a time."""
    tars = [made.layer({f"{name}": os.urandom(1 << 20)}) for name in range(6)]
    now, most = 0, 0
    lock = threading.Lock()

    def counted(answer: Answer, data: bytes) -> None:
        nonlocal now, most
        ahead = not answer.headers["Range"].startswith("bytes=0-")
        with lock:
            now += ahead
            most = max(most, now)
        time.sleep(0.005)
        with lock:
            now -= ahead
        answer.give_part(data)

    with serving(image_of(*tars)) as server:
        server.trouble = {blob_of(tar): counted for tar in tars}
        [image] = store.images.pull(f"{server.host}/a:1")
    assert len(image.diff_ids) == 6 and 2 <= most <= remote.SLOTS


# -- a bad registry --


def cut(after: int, times: list[int]) -> Callable[[Answer, bytes], None]:
    """Resets the first connections in the middle; `times` counts them."""

    def trouble(answer: Answer, data: bytes) -> None:
        times.append(1)
        if len(times) > 2:
            answer.give_part(data)
            return
        answer.begin(len(data))
        answer.wfile.write(data[:after])
        answer.reset()

    return trouble


def test_a_broken_connection_goes_on_where_it_broke(store: Store) -> None:
    with serving(image_of(BASE, APP)) as server:
        times: list[int] = []
        server.trouble[blob_of(APP)] = cut(7000, times)
        store.images.pull(f"{server.host}/a:1", registry=QUICK._replace(retries=3))
        ranges = [asked[3] for asked in server.asked if asked[2] == blob_of(APP)]
        assert ranges[0] == "" and all(part.startswith("bytes=7000-") for part in ranges[1:]) and len(times) == 3


def flipped(answer: Answer, data: bytes) -> None:
    answer.give(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])


def shorter(answer: Answer, data: bytes) -> None:
    answer.give(data[:-1])


def longer(answer: Answer, data: bytes) -> None:
    answer.give(data + b"x")


def another_layer(answer: Answer, _: bytes) -> None:
    answer.give(made.gzip.compress(LARGE, mtime=0))


def always_reset(answer: Answer, data: bytes) -> None:
    answer.begin(len(data))
    answer.wfile.write(data[: len(data) // 2])
    answer.reset()


def failing(answer: Answer, _: bytes) -> None:
    answer.give(b"", status=500)


@pytest.mark.parametrize("trouble", [flipped, shorter, longer, another_layer, always_reset, failing])
def test_a_bad_layer_is_an_error_and_the_good_one_stays(store: Store, trouble: Callable[[Answer, bytes], None]) -> None:
    with serving(image_of(BASE, APP)) as server:
        server.trouble[blob_of(APP)] = trouble
        with pytest.raises(LazarusError) as caught:
            store.images.pull(f"{server.host}/a:1", registry=QUICK)
        assert isinstance(caught.value, CorruptError | FormatError | RegistryError) and "\n" not in str(caught.value)
        assert blob_of(APP)[7:19] in str(caught.value)
        assert store.images.list() == [] and layers(store) <= {made.sha256(BASE)}
        assert os.listdir(store.paths.staging) == []
        had, asked = layers(store), server.count(blob_of(BASE))
        server.trouble.clear()
        store.images.pull(f"{server.host}/a:1")
        assert server.count(blob_of(BASE)) == asked + (0 if had else 1)
    assert list(store.check()) == []


def test_a_config_of_other_layers(store: Store) -> None:
    config = {"rootfs": {"type": "layers", "diff_ids": [made.sha256(APP)]}}
    with serving(image_of(BASE, config=config)) as server:
        with pytest.raises(CorruptError, match="config says"):
            store.images.pull(f"{server.host}/a:1")
        assert layers(store) == set()


def test_a_registry_that_hangs(store: Store) -> None:
    end = threading.Event()

    def hang(answer: Answer, data: bytes) -> None:
        answer.begin(len(data))
        answer.wfile.write(data[:100])
        end.wait(30)

    with serving(image_of(BASE, APP)) as server:
        server.trouble[blob_of(APP)] = hang
        begin = time.monotonic()
        with pytest.raises(RegistryError):
            store.images.pull(f"{server.host}/a:1", registry=QUICK._replace(timeout=0.2, retries=0))
        assert time.monotonic() - begin < 20
        end.set()
    assert layers(store) <= {made.sha256(BASE)} and store.images.list() == []


# -- processes --


class Gate:
    """Holds a blob back: `arrived` when it is asked for, sent when it is `open`."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self.open = threading.Event()

    def __call__(self, answer: Answer, data: bytes) -> None:
        self.arrived.set()
        if self.open.wait(60):
            answer.give_part(data)


def running(run: Command, server: MadeRegistry, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        run.words("pull", *words, f"{server.host}/a:1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited for 30 seconds")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_pull_that_is_ended_goes_on_with_what_is_missing(tmp_path: Path, how: signal.Signals) -> None:
    run = Command(tmp_path / "store")
    gate = Gate()
    with serving(image_of(BASE, LARGE, APP)) as server:
        server.trouble[blob_of(LARGE)] = gate
        process = running(run, server)
        with Store(tmp_path / "store") as store:
            until(lambda: gate.arrived.is_set() and layers(store) == {made.sha256(BASE), made.sha256(APP)})
            assert store.images.list() == [] and store.layers.find_by_blob(blob_of(BASE)) is not None  # type: ignore[arg-type]
        process.send_signal(how)
        _, err = process.communicate(timeout=30)
        assert process.returncode == (-9 if how == signal.SIGKILL else 130), err
        assert how == signal.SIGKILL or err == "lazarus: interrupted\n"
        server.trouble.clear()
        gate.open.set()
        run.ok("pull", f"{server.host}/a:1")
        assert [server.count(blob_of(tar)) for tar in (BASE, LARGE, APP)] == [1, 2, 1]
    with Store(tmp_path / "store") as store:
        assert list(store.check()) == []


def test_a_prune_takes_nothing_from_a_pull_that_runs(store: Store) -> None:
    """Neither what it has published, nor what it found here and nobody else needs."""
    gate = Gate()
    with serving(image_of(BASE, LARGE, APP)) as server:
        store.images.pull(f"{server.host}/a:1")
        with store.catalogue.write() as connection:
            connection.execute("DELETE FROM images")
            connection.execute("DELETE FROM layers WHERE diff_id<>?", (made.sha256(BASE),))
        server.trouble[blob_of(APP)] = gate
        process = running(Command(store.paths.root), server)
        until(lambda: gate.arrived.is_set() and layers(store) == {made.sha256(BASE), made.sha256(LARGE)})
        for _ in range(3):
            store.prune()
        assert layers(store) == {made.sha256(BASE), made.sha256(LARGE)}
        gate.open.set()
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert [server.count(blob_of(tar)) for tar in (BASE, LARGE, APP)] == [1, 2, 2]
    [image] = store.images.list()
    assert image.id == out.strip()
    store.prune()
    assert len(image.layers) == 3 and list(store.check()) == []


def test_what_a_failed_pull_left_goes_with_a_prune(store: Store) -> None:
    with serving(image_of(BASE, APP)) as server:
        until_base = threading.Event()

        def late(answer: Answer, data: bytes) -> None:
            until_base.wait(20)
            answer.give(b"", status=404)

        server.trouble[blob_of(APP)] = late

        def progress(event: ProgressEvent) -> None:
            if event.action == "done":
                until_base.set()

        with pytest.raises(NotFoundError):
            store.images.pull(f"{server.host}/a:1", progress=progress)
    assert layers(store) == {made.sha256(BASE)}
    assert store.prune().layers == 1 and layers(store) == set()


def test_eight_processes_download_each_blob_once(tmp_path: Path) -> None:
    tars = [made.layer({f"{number}": os.urandom(300_000)}) for number in range(4)]
    Store(tmp_path / "store").close()
    run = Command(tmp_path / "store")
    with serving(image_of(*tars)) as server:
        gate = Gate()
        server.trouble[blob_of(tars[0])] = gate
        processes = [running(run, server) for _ in range(8)]
        until(lambda: sum(kind == "manifests" for _, kind, _, _ in server.asked) == 8)
        gate.open.set()
        for process in processes:
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0 and out.startswith("sha256:"), err
        assert [server.count(blob_of(tar)) for tar in tars] == [1, 1, 1, 1]


def test_who_waits_says_for_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that is stopped keeps its claim, and only the user can make it go on."""
    monkeypatch.setattr(pull, "SAID_AFTER", 0.0)
    run = Command(tmp_path / "store")
    with serving(image_of(BASE)) as server, Store(tmp_path / "store") as store:
        gate = Gate()
        server.trouble[blob_of(BASE)] = gate
        first = running(run, server)
        gate.arrived.wait(20)
        first.send_signal(signal.SIGSTOP)
        until(lambda: lease.is_stopped(first.pid))

        def progress(event: ProgressEvent) -> None:
            if caplog.records:
                gate.open.set()
                first.send_signal(signal.SIGCONT)

        store.images.pull(f"{server.host}/a:1", progress=progress)
        assert first.wait(20) == 0 and server.count(blob_of(BASE)) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"layer {blob_of(BASE)}: waiting for process {first.pid} (it is stopped), which fetches it"
    ]


# -- a real one --


@needs_registry
@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_what_skopeo_pushed(store: Store, tmp_path: Path, form: str) -> None:
    layout = image_of(BASE, APP, name="made:1").directory(tmp_path / "layout")
    with registry(tmp_path) as where:
        target = f"docker://{where.host}/made:1"
        words = ["skopeo", "--insecure-policy", "copy", "-q", "-f", form, "--dest-tls-verify=false"]
        subprocess.run([*words, f"oci:{layout}:made:1", target], check=True)
        [image] = store.images.pull(target)
        assert image.diff_ids == (made.sha256(BASE), made.sha256(APP))
        assert ("docker" in image.manifest.media_type) == (form == "v2s2")


@needs_registry
def test_with_tls_and_a_password(tmp_path: Path) -> None:
    from registry_helpers import PASSWORD, USER

    layout = image_of(BASE, name="made:1").directory(tmp_path / "layout")
    run = Command(tmp_path / "store")
    with registry(tmp_path, tls=True, auth="basic", address="localhost") as where:
        assert where.ca is not None
        certificates = tmp_path / "certificates"
        certificates.mkdir()
        (certificates / "ca.crt").write_bytes(where.ca.read_bytes())
        options = ("--cert-dir", str(certificates), "--creds", f"{USER}:{PASSWORD}")
        digest = run.ok("copy", f"oci:{layout}:made:1", f"docker://{where.host}/a:1", *options)
        assert run.ok("pull", *options, "-q", f"{where.host}/a:1").startswith("sha256:")
        assert digest in run.ok("images", "--format", "json")
        for words in (options[:2], (*options[:3], f"{USER}:wrong"), options[2:]):
            result = run("pull", *words, f"{where.host}/a:1")
            assert (result.code, result.out, result.err.count("\n")) == (125, "", 1), result
        assert run("pull", "--creds", "nobody", "x").code == 125
        options = (*options[:2], "--authfile", str(tmp_path / "auth.json"))
        assert run("login", *options, "-u", USER, "--password-stdin", where.host, stdin=b"wrong\n").code == 125
        assert run("login", "--get-login", "--authfile", str(tmp_path / "auth.json"), where.host).code == 125
        (tmp_path / "auth.json").write_text("{}")
        said = run.ok("login", *options, "-u", USER, "--password-stdin", where.host, stdin=f"{PASSWORD}\n".encode())
        assert said == "Login Succeeded!" and run.ok("login", *options, "--get-login", where.host) == USER
        assert run.ok("push", *options, f"{where.host}/a:1", f"{where.host}/b:1") == digest
        assert where.host in run.ok("logout", *options[2:], where.host)
        for words in (
            ("logout", *options[2:], where.host),
            ("login", *options, where.host),
            ("push", *options, "a", "b"),
        ):
            result = run(*words)
            assert result.code == 125 and "Traceback" not in result.err, result
