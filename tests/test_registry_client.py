"""The registry client against Debian's docker-registry: plain HTTP and TLS, with authentication and without."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_helpers import PASSWORD, USER, Registry, needs_registry, registry

from lazarus.errors import CorruptError, DeniedError, NotFoundError, RegistryError
from lazarus.oci import media
from lazarus.oci.documents import descriptor_json, write_index, write_manifest
from lazarus.oci.references import parse_reference
from lazarus.oci.strict_json import dumps
from lazarus.registry.client import Credentials, RegistryClient, Repository, Settings
from lazarus.terms import Descriptor, Digest

pytestmark = needs_registry
CONFIG = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
US = Credentials(USER, PASSWORD)


def described(data: bytes, media_type: str = "application/octet-stream") -> Descriptor:
    return Descriptor(media_type, Digest(f"sha256:{hashlib.sha256(data).hexdigest()}"), len(data))


def read(client: RegistryClient, repository: Repository, blob: Descriptor, **part: int) -> bytes:
    whole, buffer = bytearray(), bytearray(100_000)
    with client.open_blob(repository, blob, **part) as stream:
        while count := stream.readinto(buffer):
            whole += buffer[:count]
    return bytes(whole)


@pytest.fixture(
    scope="module",
    params=[(False, None), (False, "token"), (True, None), (True, "basic"), (True, "token")],
    ids=lambda kind: f"{'https' if kind[0] else 'http'}-{kind[1]}",
)
def where(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    tls, auth = request.param
    with registry(tmp_path_factory.mktemp("registry"), tls=tls, auth=auth) as running:
        yield running


@pytest.fixture(scope="module")
def settings(where: Registry, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    directory = tmp_path_factory.mktemp("certificates")
    if where.ca is not None:
        shutil.copy(where.ca, directory)
    return Settings(ca_directory=str(directory), credentials=US, auth_file=os.devnull)


@pytest.fixture
def client(settings: Settings) -> Iterator[RegistryClient]:
    def warn(text: str) -> None:
        raise AssertionError(text)

    with RegistryClient(settings, warn=warn) as made:
        yield made


def test_what_is_pushed_comes_back(client: RegistryClient, where: Registry) -> None:
    repository = Repository(where.host, "team/app")
    with pytest.raises(NotFoundError, match=rf"^{where.host}/team/app: manifest v1: "):
        client.resolve(repository, "v1")
    small, large = b"small", os.urandom(9 << 20)
    layers = [described(small, media.OCI_LAYER), described(large, media.OCI_LAYER)]
    assert not client.has_blob(repository, layers[0].digest)
    assert client.upload_blob(repository, layers[0], [small]) == layers[0].digest
    assert client.has_blob(repository, layers[0].digest)
    pieces = [memoryview(large)[begin : begin + 70_000] for begin in range(0, len(large), 70_000)]
    assert client.upload_blob(repository, None, pieces) == layers[1].digest
    config = described(CONFIG, media.OCI_CONFIG)
    client.upload_blob(repository, config, [CONFIG])

    manifest = write_manifest(config, layers)
    digest = client.put_manifest(repository, "v1", media.OCI_MANIFEST, manifest)
    descriptor, data = client.resolve(repository, "v1")
    assert (data, descriptor) == (manifest, described(manifest, media.OCI_MANIFEST)) and digest == descriptor.digest
    assert client.resolve(repository, digest) == (descriptor, manifest)
    assert client.manifest(repository, descriptor) == manifest
    assert client.has_manifest(repository, "v1") == descriptor
    assert client.has_manifest(repository, "v2") is None
    assert read(client, repository, layers[1]) == large
    assert read(client, repository, layers[1], offset=3, size=1_000_000) == large[3:1_000_003]
    assert read(client, repository, layers[1], offset=len(large) - 5) == large[-5:]
    assert read(client, repository, layers[1], offset=len(large)) == b""

    index = write_index([descriptor])
    client.put_manifest(repository, "v2", media.OCI_INDEX, index)
    assert client.resolve(repository, "v2")[0].media_type == media.OCI_INDEX
    assert sorted(client.tags(repository)) == ["v1", "v2"]
    client.delete_manifest(repository, descriptor.digest)
    assert client.has_manifest(repository, "v1") is None


def test_upload_in_one_go(client: RegistryClient, where: Registry) -> None:
    """With `rewind`: of known size and digest, of known nothing, and of another digest than was said."""
    repository = Repository(where.host, "streams")
    for size in (1, 9 << 20):
        for known in (True, False):
            data = os.urandom(size)
            pieces = [data[begin : begin + 100_000] for begin in range(0, len(data), 100_000)]
            stated = described(data) if known else None
            assert (
                client.upload_blob(repository, stated, pieces, rewind=lambda pieces=pieces: pieces)
                == described(data).digest
            )  # type: ignore[misc]
            assert where.blob(described(data).digest).read_bytes() == data
    wrong = described(b"x" * (9 << 20))
    with pytest.raises((RegistryError, CorruptError), match="streams: blob sha256:"):
        client.upload_blob(repository, wrong, [data], rewind=lambda: [data])
    assert not client.has_blob(repository, wrong.digest)
    assert client.upload_blob(repository, None, []) == described(b"").digest


def test_mount_takes_a_blob_over(client: RegistryClient, where: Registry) -> None:
    data = os.urandom(1000)
    source, target = Repository(where.host, "mounts/a"), Repository(where.host, "mounts/b")
    client.upload_blob(source, described(data), [data])
    assert not client.has_blob(target, described(data).digest)
    assert client.mount_blob(target, described(data).digest, source)
    assert client.has_blob(target, described(data).digest)
    assert not client.mount_blob(target, described(b"nobody has it").digest, source)
    assert not client.mount_blob(target, described(data).digest, Repository("localhost:1", "mounts/a"))


def test_referrers_by_the_tag(client: RegistryClient, where: Registry) -> None:
    """docker-registry 2.8 has no API for them: the index under the tag is made and read."""
    repository = Repository(where.host, "signed")
    config = described(CONFIG, media.OCI_CONFIG)
    client.upload_blob(repository, config, [CONFIG])
    manifest = write_manifest(config, [])
    subject = described(manifest, media.OCI_MANIFEST)
    client.put_manifest(repository, "v1", media.OCI_MANIFEST, manifest)
    assert client.referrers(repository, subject.digest) == []
    made = []
    for kind in ("application/vnd.example.signature", "application/vnd.example.sbom"):
        document = {
            "schemaVersion": 2,
            "mediaType": media.OCI_MANIFEST,
            "artifactType": kind,
            "config": descriptor_json(config),
            "layers": [],
            "subject": descriptor_json(subject),
        }
        made.append(
            client.put_manifest(repository, described(dumps(document)).digest, media.OCI_MANIFEST, dumps(document))
        )
    assert [entry.digest for entry in client.referrers(repository, subject.digest)] == made
    assert [entry.digest for entry in client.referrers(repository, subject.digest, kind)] == made[1:]


def test_many_threads_use_one_client(client: RegistryClient, where: Registry) -> None:
    repository = Repository(where.host, "threads")
    blobs = [os.urandom(300_000 + number) for number in range(6)]
    failures: list[BaseException] = []

    def work(data: bytes) -> None:
        try:
            client.upload_blob(repository, described(data), [data])
            for _ in range(3):
                assert read(client, repository, described(data)) == data
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(data,)) for data in blobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    if where.token_server is not None:
        asked = [scopes for scopes in where.token_server.asked if any("threads" in scope for scope in scopes)]
        assert len(asked) <= 2, "a token is fetched once for all threads: one to push with, one to pull with"


def test_skopeo_reads_it(client: RegistryClient, where: Registry, settings: Settings) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed")
    repository = Repository(where.host, "skopeo")
    config = described(CONFIG, media.OCI_CONFIG)
    client.upload_blob(repository, config, [CONFIG])
    manifest = write_manifest(config, [])
    client.put_manifest(repository, "v1", media.OCI_MANIFEST, manifest)
    words = ["--creds", f"{USER}:{PASSWORD}", "--cert-dir", str(settings.ca_directory)]
    words += [] if where.ca else ["--tls-verify=false"]
    shown = subprocess.run(
        ["skopeo", "inspect", "--raw", *words, f"docker://{where.host}/skopeo:v1"], check=True, capture_output=True
    )
    assert shown.stdout == manifest


def test_a_damaged_blob_is_found(client: RegistryClient, where: Registry) -> None:
    repository = Repository(where.host, "damaged")
    data = os.urandom(200_000)
    blob = described(data)
    client.upload_blob(repository, blob, [data])
    where.blob(blob.digest).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorruptError, match=f"damaged: blob {blob.digest}: its bytes are sha256:"):
        read(client, repository, blob)
    assert len(read(client, repository, blob, offset=1)) == len(data) - 1, "of a part nobody knows the digest"


def test_a_registry_that_is_started_again(tmp_path: Path) -> None:
    """Killed in the middle of a blob and there again: the blob goes on where it was."""
    data = os.urandom(32 << 20)
    buffer, whole = memoryview(bytearray(1 << 20)), bytearray()
    with RegistryClient(Settings(auth_file=os.devnull)) as client:
        with registry(tmp_path) as first:
            repository = Repository(first.host, "a")
            client.upload_blob(repository, described(data), [data])
            stream = client.open_blob(repository, described(data))
            whole += buffer[: stream.readinto(buffer)]
        with registry(tmp_path, port=int(first.host.rpartition(":")[2])) as again, stream:
            while count := stream.readinto(buffer):
                whole += buffer[:count]
            assert '" 206 ' in again.log.read_text(), "the rest was asked for"
    assert whole == data


def test_who_has_no_password(where: Registry, settings: Settings, tmp_path: Path) -> None:
    with RegistryClient(settings._replace(credentials=None)) as anonymous:
        repository = Repository(where.host, "closed")
        if "auth" not in (where.storage.parent / "config.yml").read_text():
            with pytest.raises(NotFoundError):
                anonymous.resolve(repository, "v1")
            return
        with pytest.raises(DeniedError, match=rf"^{where.host}/closed: manifest v1: .*lazarus login"):
            anonymous.resolve(repository, "v1")
    with (
        RegistryClient(settings._replace(credentials=Credentials(USER, "wrong"))) as mistaken,
        pytest.raises(DeniedError, match="closed: manifest v1"),
    ):
        mistaken.resolve(repository, "v1")


def test_repositories_of_names() -> None:
    meant = {
        "debian": "docker.io/library/debian",
        "docker.io/debian": "docker.io/library/debian",
        "index.docker.io/library/debian": "docker.io/library/debian",
        "team/app:1": "docker.io/team/app",
        "localhost/app": "localhost/app",
        "localhost:5000/a/b": "localhost:5000/a/b",
        "registry.example/x": "registry.example/x",
        "[::1]:5000/x": "[::1]:5000/x",
    }
    assert {text: str(Repository.of(parse_reference(text))) for text in meant} == meant


def test_urllib3_is_imported_by_who_needs_it() -> None:
    code = "import sys, lazarus.cli, lazarus.cli.run, lazarus.registry.client; sys.exit('urllib3' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
