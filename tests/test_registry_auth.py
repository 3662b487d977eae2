"""Credentials go where they belong and nowhere else; who a server is, is checked before anything is said."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_helpers import Command
from registry_helpers import certificates, self_signed
from registry_server import Answer, Asked, Server, digest_of, reply

from lazarus.errors import CancelledError, DeniedError, FormatError, LazarusError, LimitError, RegistryError
from lazarus.oci import media
from lazarus.oci.documents import write_manifest
from lazarus.registry.addresses import Origin, proxy_for
from lazarus.registry.client import Credentials, RegistryClient, Repository, Settings
from lazarus.registry.settings import is_loopback, parse_host
from lazarus.terms import Descriptor, Digest

DATA = b"some bytes" * 1000
BLOB = Descriptor("application/octet-stream", Digest(digest_of(DATA)), len(DATA))
MANIFEST = write_manifest(Descriptor(media.OCI_CONFIG, BLOB.digest, 5), [])
US = Credentials("user", "s3cret")
BASIC = "Basic " + base64.b64encode(b"user:s3cret").decode()
FAST = Settings(retries=1, timeout=10, backoff=0.001, longest_pause=0.05, auth_file="/dev/null", credentials=US)


def filled(server: Server) -> Server:
    server.blobs[BLOB.digest] = DATA
    server.manifests["v1"] = (media.OCI_MANIFEST, MANIFEST)
    return server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield filled(running)


@pytest.fixture
def other() -> Iterator[Server]:
    """What the first one leads to."""
    with Server() as running:
        yield filled(running)


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with certificates for a server, and `trust`, with those of its authority."""
    directory = tmp_path_factory.mktemp("certificates")
    made = certificates(directory)
    (directory / "trust").mkdir()
    shutil.copy(made.ca, directory / "trust")
    return directory


@pytest.fixture
def secure(certified: Path) -> Iterator[Server]:
    with Server(certified) as running:
        yield filled(running)


@pytest.fixture
def client() -> Iterator[RegistryClient]:
    with RegistryClient(FAST) as made:
        yield made


Script = Callable[[Asked], Answer]


def leads(part: str, where: Server, status: int = 307) -> Script:
    """A script: a redirect for what has `part` in its path."""
    return lambda asked: reply(status, Location=where.url + asked.target) if part in asked.target else None


def wants(challenge: str, good: Callable[[str], bool], then: Script | None = None) -> Script:
    """A script: 401 with a challenge, unless the Authorization is a good one."""

    def script(asked: Asked) -> Answer:
        if not good(asked.headers.get("authorization", "")):
            return reply(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', WWW_Authenticate=challenge)
        return then(asked) if then else None

    return script


def basic(then: Script | None = None) -> Script:
    return wants('Basic realm="x"', lambda text: text == BASIC, then)


def manifest(client: RegistryClient, server: Server) -> bytes:
    return client.resolve(Repository(server.host, "a"), "v1")[1]


def blob(client: RegistryClient, server: Server) -> bytes:
    buffer = bytearray(len(DATA) + 1)
    with client.open_blob(Repository(server.host, "a"), BLOB) as stream:
        return bytes(buffer[: stream.readinto(buffer)])


# -- redirects --


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_elsewhere_carries_nothing(
    client: RegistryClient, server: Server, other: Server, status: int
) -> None:
    server.script = basic(
        lambda asked: reply(status, Location=other.url + asked.target) if "blobs" in asked.target else None
    )
    assert manifest(client, server) == MANIFEST and blob(client, server) == DATA
    [seen] = other.asked
    assert not {"authorization", "cookie", "proxy-authorization"} & set(seen.headers)


def test_nor_does_one_back(client: RegistryClient, server: Server, other: Server) -> None:
    """What another host leads back to is asked without credentials: it chose the address."""
    server.script = basic(lambda asked: reply(307, Location=other.url + "/x") if "blobs" in asked.target else None)
    other.script = lambda asked: reply(307, Location=f"{server.url}/v2/a/manifests/v1")
    assert manifest(client, server) == MANIFEST
    with pytest.raises(DeniedError):
        blob(client, server)
    assert "authorization" not in server.asked[-1].headers


def test_one_on_the_same_host_is_still_us(client: RegistryClient, server: Server) -> None:
    server.script = basic(lambda asked: reply(307, Location="../manifests/v1") if "moved" in asked.target else None)
    assert client.resolve(Repository(server.host, "a"), "moved")[1] == MANIFEST


def test_endless_redirects(client: RegistryClient, server: Server) -> None:
    server.script = lambda asked: reply(302, Location=asked.target + "x") if "manifests" in asked.target else None
    with pytest.raises(RegistryError, match="more than 10 redirects"):
        manifest(client, server)
    assert len(server.seen("GET", "manifests")) == 11


@pytest.mark.parametrize(
    ("location", "text"),
    [
        ("http://registry.example/x", "leads to plain HTTP, http://registry.example"),
        ("//registry.example/x", "leads to plain HTTP"),
        ("file:///etc/passwd", "leads to file:///etc/passwd"),
        ("ftp://127.0.0.1/x", "leads to ftp:"),
        ("http://user:password@127.0.0.1:9/x", "where an http or https address is expected"),
        ("", "a Location that is not one"),
        ("http://[::1", "a Location that is not one"),
        ("http://127.0.0.1:99999/", "a Location that is not one"),
        ("/x\x1b[31m", r"a Location that is not one: /x \[31m"),
        ("/" + "x" * 20_000, "a Location that is not one"),
    ],
)
def test_redirects_that_are_none(client: RegistryClient, server: Server, location: str, text: str) -> None:
    server.script = lambda asked: reply(302, Location=location) if "manifests" in asked.target else None
    with pytest.raises(RegistryError, match=text) as error:
        manifest(client, server)
    assert str(error.value).isprintable() and len(str(error.value)) < 300


@pytest.mark.filterwarnings("ignore:Unverified HTTPS")
def test_from_https_to_http_is_refused(secure: Server, other: Server, certified: Path) -> None:
    secure.script = basic(
        lambda asked: reply(307, Location=other.url + asked.target) if "blobs" in asked.target else None
    )
    settings = FAST._replace(ca_directory=str(certified / "trust"))
    with RegistryClient(settings) as client:
        assert manifest(client, secure) == MANIFEST
        with pytest.raises(RegistryError, match="leads from HTTPS to plain HTTP"):
            blob(client, secure)
        assert not other.asked
        with pytest.raises(RegistryError, match="leads from HTTPS to plain HTTP"):
            secure.script = lambda asked: reply(202, Location=other.url + "/upload") if asked.method == "POST" else None
            client.upload_blob(Repository(secure.host, "a"), None, [DATA])
    with RegistryClient(settings._replace(tls_verify=False)) as careless:
        secure.script = basic(
            lambda asked: reply(307, Location=other.url + asked.target) if "blobs" in asked.target else None
        )
        assert blob(careless, secure) == DATA, "the user asked for it"
        assert "authorization" not in other.asked[-1].headers


def test_from_elsewhere_to_this_machine_is_refused() -> None:
    from urllib3.util import parse_url

    from lazarus.registry.addresses import resolve

    base = parse_url("https://registry.example/v2/")
    for location in (
        "https://127.0.0.1/x",
        "https://localhost:1/",
        "https://[::1]/",
        "http://127.8.8.8/",
        "https://a.localhost/",
        "https://127.1/",
        "https://0x7f000001/",
        "https://2130706433/",
        "https://0.0.0.0/",
        "https://[::ffff:127.0.0.1]/",
    ):
        for insecure in (False, True):
            with pytest.raises(RegistryError, match="which is this machine"):
                resolve(base, location, "x", insecure)
    assert resolve(base, "https://storage.example/x?a=%2f#f", "x", False).url == "https://storage.example/x?a=%2F"


# -- 401 --


@pytest.mark.parametrize(
    ("challenge", "text"),
    [
        ('Basic realm="x"', "access denied, to user"),
        ("", "access denied"),
        ("Negotiate", "access denied"),
        ('Basic realm="x', "WWW-Authenticate that is not one"),
        ('Bearer realm="a",realm="b"', "says realm twice"),
        ("Bearer", "its token server is '', where an https address is expected"),
        ('Bearer realm="file:///etc/passwd"', "its token server is 'file:"),
        ('Bearer realm="http://registry.example/token"', "credentials do not go there in plain HTTP"),
        ('Bearer realm="http://user:pw@127.0.0.1/token"', "where an https address is expected"),
        ('Bearer realm="//127.0.0.1/token"', "where an https address is expected"),
        ('Basic realm="' + "x" * 20_000 + '"', "a WWW-Authenticate of"),
    ],
)
def test_endless_401(client: RegistryClient, server: Server, challenge: str, text: str) -> None:
    answer = reply(401, b"\x1b[31mno", WWW_Authenticate=challenge)
    server.script = lambda asked: answer if "manifests" in asked.target else None
    with pytest.raises(RegistryError, match=text) as error:
        manifest(client, server)
    assert str(error.value).isprintable()
    assert len(server.seen("GET", "manifests")) <= 3


def test_endless_401_with_tokens(client: RegistryClient, server: Server, other: Server) -> None:
    server.script = lambda asked: reply(401, WWW_Authenticate=f'Bearer realm="{other.url}/t",service="s"')
    other.script = lambda asked: reply(200, b'{"token":"abc"}')
    with pytest.raises(DeniedError, match="access denied, to user"):
        manifest(client, server)
    assert len(server.seen("GET", "manifests")) == 3 and len(other.asked) == 2


def bearer(server: Server, token_server: Server, token: str = "abc", **more: str) -> Callable[[Asked], Answer]:
    words = "".join(f',{name}="{value}"' for name, value in {"service": "the registry", **more}.items())
    return wants(f'Bearer realm="{token_server.url}/token"{words}', lambda text: text == f"Bearer {token}")


def test_what_a_token_server_is_asked(client: RegistryClient, server: Server, other: Server) -> None:
    server.script = bearer(server, other)
    other.script = lambda asked: reply(200, b'{"access_token":"abc","expires_in":300}')
    assert manifest(client, server) == MANIFEST and blob(client, server) == DATA
    [asked] = other.asked
    assert (asked.method, asked.path, asked.headers["authorization"]) == ("GET", "/token", BASIC)
    assert asked.query == {"service": ["the registry"], "scope": ["repository:a:pull"], "account": ["user"]}
    assert all(seen.headers.get("authorization") != BASIC for seen in server.asked), "the registry sees tokens only"
    client.upload_blob(Repository(server.host, "a"), None, [b"x"])
    assert other.asked[-1].query["scope"] == ["repository:a:pull,push"]


def test_identity_tokens_are_posted(server: Server, other: Server) -> None:
    server.script = bearer(server, other)
    other.script = lambda asked: reply(200, b'{"access_token":"abc"}')
    with RegistryClient(FAST._replace(credentials=Credentials("", "", "ID"))) as client:
        assert manifest(client, server) == MANIFEST
    [asked] = other.asked
    assert asked.method == "POST" and asked.query == {} and "authorization" not in asked.headers
    assert b"refresh_token=ID" in asked.body and b"grant_type=refresh_token" in asked.body


def test_without_credentials_a_token_is_asked_for_all_the_same(server: Server, other: Server) -> None:
    server.script = bearer(server, other)
    other.script = lambda asked: reply(200, b'{"token":"abc"}')
    with RegistryClient(FAST._replace(credentials=None)) as client:
        assert manifest(client, server) == MANIFEST
    assert "authorization" not in other.asked[0].headers and "account" not in other.asked[0].query


def test_tokens_are_renewed(client: RegistryClient, server: Server, other: Server) -> None:
    """Before they expire, and when the registry takes one no more."""
    tokens = iter(f"t{number}" for number in range(9))
    current = [""]

    def grant(asked: Asked) -> Answer:
        current[0] = next(tokens)
        return reply(200, json.dumps({"token": current[0], "expires_in": 0.2}).encode())

    other.script = grant
    server.script = wants(f'Bearer realm="{other.url}/t"', lambda text: text == f"Bearer {current[0]}")
    assert manifest(client, server) == MANIFEST
    time.sleep(0.25)
    assert manifest(client, server) == MANIFEST
    assert len(other.asked) == 2 and len(server.seen("GET", "manifests")) == 3
    current[0] = "revoked"
    assert manifest(client, server) == MANIFEST and len(other.asked) == 3


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (reply(200, b" " * 2_000_000), LimitError, "more than 1048576"),
        (reply(200, b"no"), FormatError, "not JSON"),
        (reply(200, b"[" * 1000), LimitError, "nested|deep"),
        (reply(200, b"{}"), RegistryError, "has no token"),
        (reply(200, b'{"token":"a\\r\\nX: y"}'), RegistryError, "has no token, or one that is none"),
        (reply(200, b'{"token":"' + b"x" * 70_000 + b'"}'), RegistryError, "has no token, or one that is none"),
        (reply(200, b'{"token":["a"]}'), RegistryError, "has no token"),
        (reply(200, b'{"token":"a","token":"b"}'), FormatError, "duplicate key"),
        (reply(200, b"{}", Content_Encoding="gzip"), RegistryError, "Content-Encoding gzip"),
        (reply(401, b'{"errors":[{"message":"\x1b[31mbad"}]}'), DeniedError, "the token server refuses for user"),
        (reply(403), DeniedError, "the token server refuses"),
        (reply(404), RegistryError, "404 Not Found, expected 200"),
        (reply(503), RegistryError, "503 Service Unavailable, expected 200"),
        (reply(302, Location="/token"), RegistryError, "redirects endlessly"),
        (reply(302, Location="http://127.0.0.1:1/t"), RegistryError, "leads to 127.0.0.1, which is not followed"),
        (reply(302, Location="https://registry.example/t"), RegistryError, "leads to registry.example, which is not"),
    ],
)  # fmt: skip
def test_token_servers_that_misbehave(
    client: RegistryClient, server: Server, other: Server, answer: Answer, kind: type[LazarusError], text: str
) -> None:
    server.script = bearer(server, other)
    other.script = lambda asked: answer
    with pytest.raises(kind, match=text) as error:
        manifest(client, server)
    assert str(error.value).startswith(f"{server.host}/a: manifest v1: ") and str(error.value).isprintable()
    assert client.__class__.has_blob is not None
    with pytest.raises(kind):
        client.has_blob(Repository(server.host, "a"), BLOB.digest)


def test_a_token_server_in_plain_http_for_a_registry_in_https(secure: Server, other: Server, certified: Path) -> None:
    secure.script = bearer(secure, other)
    with (
        RegistryClient(FAST._replace(ca_directory=str(certified / "trust"))) as client,
        pytest.raises(RegistryError, match="credentials do not go there in plain HTTP"),
    ):
        manifest(client, secure)
    assert not other.asked


def test_a_token_server_moves_on_its_own_host(client: RegistryClient, server: Server, other: Server) -> None:
    server.script = bearer(server, other)
    moved = reply(307, Location="/new")
    other.script = lambda asked: moved if asked.path == "/token" else reply(200, b'{"token":"abc"}')
    assert manifest(client, server) == MANIFEST
    assert other.asked[-1].headers["authorization"] == BASIC


# -- whose credentials --


def keep(path: Path, **entries: str) -> Settings:
    known = {host: {"auth": base64.b64encode(text.encode()).decode()} for host, text in entries.items()}
    path.write_text(json.dumps({"auths": known}))
    return FAST._replace(credentials=None, auth_file=str(path))


def test_each_host_gets_its_own(server: Server, other: Server, tmp_path: Path) -> None:
    seen: list[str] = []

    def script(asked: Asked) -> Answer:
        seen.append(asked.headers.get("authorization", ""))
        return reply(401, WWW_Authenticate='Basic realm="x"')

    server.script = basic()
    other.script = script
    with RegistryClient(keep(tmp_path / "auth.json", **{server.host: "user:s3cret"})) as client:
        assert manifest(client, server) == MANIFEST
        with pytest.raises(DeniedError, match=rf"there is none \(lazarus login {other.host}\)"):
            manifest(client, other)
        assert set(seen) == {""}


def test_given_credentials_are_not_for_mirrors(server: Server, other: Server, tmp_path: Path) -> None:
    (tmp_path / "registries.conf").write_text(
        f'[[registry]]\nlocation = "{server.host}"\n[[registry.mirror]]\nlocation = "{other.host}/cache"\n'
    )
    server.script = basic()
    other.script = lambda asked: reply(401, WWW_Authenticate='Basic realm="x"')
    said: list[str] = []
    with RegistryClient(FAST._replace(registries_conf=str(tmp_path / "registries.conf")), warn=said.append) as client:
        assert manifest(client, server) == MANIFEST
    assert other.seen("GET", "cache/a/manifests/v1") and all(
        "authorization" not in seen.headers for seen in other.asked
    )
    assert said[0].startswith(f"mirror {other.host}/cache/a: manifest v1: ")


def test_one_password_is_not_for_two_registries(server: Server, other: Server, tmp_path: Path) -> None:
    """Which of them it is for has to be said: each would be told it when it asks."""
    run = Command(tmp_path / "store")
    server.script = other.script = basic()
    here, there = f"docker://{server.host}/a:v1", f"docker://{other.host}/a:v1"
    done = run("copy", "--creds", "user:s3cret", here, there)
    assert done.code == 125 and f"for {server.host} (--src-creds) or for {other.host} (--dest-creds)?" in done.err
    assert not server.asked and not other.asked
    run("copy", "--dest-creds", "user:s3cret", here, there, env={"REGISTRY_AUTH_FILE": "/dev/null"})
    assert server.asked and not any("authorization" in asked.headers for asked in server.asked)
    run("copy", "--creds", "user:s3cret", here, here.replace("/a:", "/b:"))
    assert server.asked[-1].headers["authorization"] == BASIC, "there is but one"


def test_an_upload_elsewhere_carries_nothing(client: RegistryClient, server: Server, other: Server) -> None:
    place = reply(202, Location=f"{other.url}/v2/a/blobs/uploads/u?x=y")
    server.script = basic(lambda asked: place if asked.method == "POST" else None)
    other.uploads["u"] = bytearray()
    assert client.upload_blob(Repository(server.host, "a"), BLOB, [DATA]) == BLOB.digest
    assert other.asked and all("authorization" not in seen.headers for seen in other.asked)
    assert server.asked[-1].headers["authorization"] == BASIC


# -- TLS --


@pytest.mark.filterwarnings("ignore:Unverified HTTPS")  # pytest undoes the filter that wire.py sets
def test_who_is_not_trusted(
    secure: Server, server: Server, certified: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RegistryClient(FAST) as client, pytest.raises(RegistryError, match=r": its certificate is not trusted"):
        manifest(client, secure)
    assert not secure.asked
    with RegistryClient(FAST._replace(tls_verify=False)) as careless:
        assert manifest(careless, secure) == MANIFEST and manifest(careless, server) == MANIFEST
    monkeypatch.setenv("SSL_CERT_FILE", str(certified / "ca.crt"))
    with RegistryClient(FAST._replace(tls_verify=True)) as strict:
        assert manifest(strict, secure) == MANIFEST
        with pytest.raises(RegistryError, match=r"TLS failed.*--tls-verify=false"):
            manifest(strict, server)
    assert not [seen for seen in server.asked if seen.headers.get("authorization")]


def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    made = certificates(tmp_path, "DNS:registry.example")
    (tmp_path / "trust").mkdir()
    shutil.copy(made.ca, tmp_path / "trust")
    with (
        Server(tmp_path) as wrong,
        RegistryClient(FAST._replace(ca_directory=str(tmp_path / "trust"))) as client,
        pytest.raises(RegistryError, match=r"certificate is not trusted: .*mismatch"),
    ):
        manifest(client, wrong)


def test_directories_of_certificates(
    secure: Server, certified: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a host count for it, and on the way that it sends us, but for no other host."""
    monkeypatch.setenv("HOME", str(tmp_path))
    directory = tmp_path / ".config/containers/certs.d" / secure.host
    directory.mkdir(parents=True)
    shutil.copy(certified / "ca.crt", directory / "authority.crt")
    with Server(certified) as storage, RegistryClient(FAST) as client:
        filled(storage)
        assert manifest(client, secure) == MANIFEST
        secure.script = leads("blobs", storage)
        assert blob(client, secure) == DATA
        with pytest.raises(RegistryError, match="certificate is not trusted"):
            manifest(client, storage)
    (directory / "authority.crt").write_text("nonsense")
    with RegistryClient(FAST) as client, pytest.raises(FormatError, match=r"authority\.crt: not a certificate"):
        manifest(client, secure)


def test_our_certificate_is_shown_to_its_host_alone(certified: Path, tmp_path: Path) -> None:
    self_signed(tmp_path / "client.cert", tmp_path / "client.key", "a client of the tests")
    shutil.copy(certified / "ca.crt", tmp_path)
    with Server(certified) as picky, Server(certified) as storage:
        for one in (picky, storage):
            filled(one).require_client_certificate(tmp_path / "client.cert")
        with RegistryClient(FAST._replace(ca_directory=str(tmp_path))) as client:
            assert manifest(client, picky) == MANIFEST
            picky.script = leads("blobs", storage)
            with pytest.raises(RegistryError):
                blob(client, picky)
        assert not storage.asked
        settings = FAST._replace(ca_directory=str(certified / "trust"))
        with RegistryClient(settings) as client, pytest.raises(RegistryError):
            manifest(client, picky)
        (tmp_path / "client.key").unlink()
        with (
            RegistryClient(FAST._replace(ca_directory=str(tmp_path))) as client,
            pytest.raises(FormatError, match=r"client\.cert: a certificate of ours without its key, .*client\.key"),
        ):
            manifest(client, picky)


# -- mirrors and proxies --


def test_mirrors(server: Server, other: Server, tmp_path: Path) -> None:
    conf = tmp_path / "registries.conf"
    with Server() as gone:
        pass
    conf.write_text(
        f"""
        [[registry]]
        prefix = "registry.example/team"
        location = "{server.host}"
        [[registry.mirror]]
        location = "{gone.host}"
        [[registry.mirror]]
        location = "{other.host}/mirrored"
        pull-from-mirror = "digest-only"
        [[registry]]
        prefix = "*.blocked.example"
        blocked = true
        [[registry]]
        prefix = "registry.example"
        blocked = true
        """
    )
    said: list[str] = []
    with RegistryClient(FAST._replace(registries_conf=str(conf)), warn=said.append) as client:
        repository = Repository("registry.example", "team/a")
        assert client.resolve(repository, "v1")[1] == MANIFEST and not other.asked
        with client.open_blob(repository, BLOB) as stream:
            assert stream.readinto(bytearray(10)) == 10
        assert other.seen("GET", f"/v2/mirrored/a/blobs/{BLOB.digest}") and not server.seen("GET", "blobs")
        assert len(said) == 1 and said[0].startswith(f"mirror {gone.host}: "), "it is asked once"
        client.upload_blob(repository, None, [b"y"])
        assert server.seen("PUT") and not other.seen("PUT")
        for host in ("a.blocked.example", "registry.example"):
            with pytest.raises(RegistryError, match="blocks"):
                client.resolve(Repository(host, "x"), "v1")


MIRROR = '[[registry]]\nprefix="x"\n[[registry.mirror]]\n'


@pytest.mark.parametrize(
    "text",
    [
        "[[registry]",
        "registry = 1",
        "[[registry]]\n",
        '[[registry]]\nlocation = "http://x"',
        '[[registry]]\nprefix="x"\nblocked=1',
        MIRROR,
        MIRROR + 'location="y"\npull-from-mirror="z"',
    ],
)
def test_a_registries_conf_that_is_none(server: Server, tmp_path: Path, text: str) -> None:
    conf = tmp_path / "registries.conf"
    conf.write_text(text)
    with (
        RegistryClient(FAST._replace(registries_conf=str(conf))) as client,
        pytest.raises(FormatError, match=str(conf)),
    ):
        manifest(client, server)


def test_a_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for the other host's TLS first, and has none; loopback addresses are never asked for through it."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:pw@{server.host}")
    monkeypatch.setenv("HTTP_PROXY", f"http://me:pw@{server.host}")
    server.script = lambda asked: reply(502) if asked.method == "CONNECT" else None
    with RegistryClient(FAST._replace(tls_verify=False)) as client:
        assert client.resolve(Repository("registry.example", "a"), "v1")[1] == MANIFEST
        connect, last = server.seen("CONNECT")[0], server.asked[-1]
        assert connect.target == "registry.example:443"
        assert last.target == "http://registry.example/v2/a/manifests/v1"
        expected = "Basic " + base64.b64encode(b"me:pw").decode()
        assert last.headers["proxy-authorization"] == expected
        assert manifest(client, server) == MANIFEST and not server.asked[-1].target.startswith("http")
    with RegistryClient(FAST) as careful, pytest.raises(RegistryError, match=r"502"):
        careful.resolve(Repository("registry.example", "a"), "v1")


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("", "a.example", False),
        ("*", "a.example", True),
        ("a.example", "a.example", True),
        ("example", "a.example", True),
        (".example", "a.example", True),
        ("*.example", "a.example", True),
        ("xample", "a.example", False),
        ("a.example:443", "a.example", True),
        ("a.example:80", "a.example", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("x, 10.1.2.3", "10.1.2.3", True),
        ("", "127.0.0.1", True),
        ("", "localhost", True),
        ("fd00::/8", "[fd00::1]", True),
    ],
)
def test_no_proxy(monkeypatch: pytest.MonkeyPatch, no_proxy: str, host: str, direct: bool) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert proxy_for(Origin("https", host, 443)) == (None if direct else "http://proxy.example:3128")


def test_hosts() -> None:
    for text in ("localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000", "[::1]", "a.localhost", "0"):
        assert is_loopback(parse_host(text)), text
    for text in ("registry.example", "127.0.0.1.example", "localhost.example:1", "10.0.0.1", "[fd00::1]:1", "fa.ce"):
        assert not is_loopback(parse_host(text)), text
    for text in ("", "a b", "a:0", "a:99999", "http://a", "a/b", "a@b", "-a", "[::1", "a\n"):
        with pytest.raises(FormatError):
            parse_host(text)


def test_after_cancel_nothing_is_sent(server: Server) -> None:
    with RegistryClient(FAST) as client:
        client.cancel()
        with pytest.raises(CancelledError):
            manifest(client, server)
    assert not server.asked
