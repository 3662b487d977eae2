"""Logging in and out, and where credentials are looked up."""

from __future__ import annotations

import base64
import errno
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cli_helpers import Command
from registry_helpers import PASSWORD, USER, TokenServer, needs_registry, registry

from lazarus.errors import DeniedError, FormatError, NotFoundError, RegistryError
from lazarus.registry.credentials import auth_files, find_credentials, store_credentials
from lazarus.registry.helpers import helper_get
from lazarus.registry.login import logged_in_as, login, logout
from lazarus.registry.settings import Credentials, Settings

US = Credentials(USER, PASSWORD)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody's files but the test's."""
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path


def auths(path: Path, **entries: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {key: {"auth": base64.b64encode(value.encode()).decode()} for key, value in entries.items()}
    path.write_text(json.dumps({"auths": known}))


@needs_registry
@pytest.mark.parametrize("auth", ["basic", "token"])
def test_login_and_logout(home: Path, auth: str) -> None:
    with registry(home, auth=auth) as where:
        with pytest.raises(DeniedError, match=f"{where.host}: login as {USER}"):
            login(where.host, USER, "wrong")
        assert not (home / "run").exists(), "what was refused is not kept"
        place = login(where.host, USER, PASSWORD)
        assert place == str(home / "run/containers/auth.json")
        assert stat.S_IMODE(os.stat(place).st_mode) == 0o600
        entry = json.loads(Path(place).read_text())["auths"][where.host]
        if auth == "token":
            auth_of_docker = base64.b64encode(f"{USER}:".encode()).decode()
            assert entry == {"auth": auth_of_docker, "identitytoken": TokenServer.identity_token}
            assert find_credentials(where.host, "a/b") == Credentials(USER, "", TokenServer.identity_token)
        else:
            assert find_credentials(where.host, "a/b") == US
        assert logged_in_as(where.host) == USER
        from lazarus.registry.client import RegistryClient, Repository

        with RegistryClient() as client, pytest.raises(NotFoundError):
            client.resolve(Repository(where.host, "a"), "v1")  # not denied
        assert logout(where.host) == [place]
        with pytest.raises(NotFoundError, match="not logged in"):
            logout(where.host)


@needs_registry
@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
@pytest.mark.parametrize("auth", ["basic", "token"])
def test_others_are_logged_in_as_well(home: Path, auth: str) -> None:
    with registry(home, auth=auth) as where:
        place = login(where.host, USER, PASSWORD)
        words = ["skopeo", "list-tags", "--tls-verify=false", "--authfile", place, f"docker://{where.host}/a"]
        found = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert "404" in found.stderr, found.stderr  # not denied


@needs_registry
def test_login_where_nobody_is_asked(home: Path) -> None:
    said: list[str] = []
    with registry(home) as where:
        login(where.host, USER, PASSWORD, Settings(auth_file=str(home / "mine.json")), warn=said.append)
    assert "without having been tried" in said[0] and find_credentials(where.host, "", str(home / "mine.json")) == US


@needs_registry
def test_login_makes_the_file_that_is_asked_for(home: Path) -> None:
    lazarus, own = Command(home / "store"), home / "made/own.json"
    with registry(home, auth="basic") as where:
        words = ["login", "-u", USER, "--password-stdin", where.host]
        wrong = lazarus(*words, "--authfile", str(own), stdin=b"wrong")
        assert wrong.code == 125 and "access denied" in wrong.err and not own.exists()
        assert lazarus(*words, "--authfile", str(own), stdin=PASSWORD.encode()).out == "Login Succeeded!\n"
        assert find_credentials(where.host, "a", str(own)) == US
        own.unlink()
        named = lazarus(*words, stdin=PASSWORD.encode(), env={**os.environ, "REGISTRY_AUTH_FILE": str(own)})
        assert named.code == 0 and find_credentials(where.host, "a", str(own)) == US


def test_order_of_the_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [home / "run/containers/auth.json", home / ".config/containers/auth.json", home / ".docker/config.json"]
    (home / ".dockercfg").write_text(json.dumps({"h:1": {"auth": base64.b64encode(b"cfg:p").decode()}}))
    assert find_credentials("h:1", "a") == Credentials("cfg", "p")
    for number, place in reversed(list(enumerate(places))):
        auths(place, **{"h:1": f"u{number}:p"})
        assert find_credentials("h:1", "a") == Credentials(f"u{number}", "p")
    auths(home / "docker/config.json", **{"h:1": "docker:p:with:colons"})
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "docker"))
    assert find_credentials("h:1", "a") == Credentials("docker", "p:with:colons")
    assert str(places[2]) not in [file.path for file in auth_files(None)]
    auths(home / "own.json", **{"h:1": "own:p"})
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / "own.json"))
    assert find_credentials("h:1", "a") == Credentials("own", "p")
    assert find_credentials("h:2", "a") is None
    auths(home / "asked.json", **{"h:1": "asked:p"})
    assert find_credentials("h:1", "a", str(home / "asked.json")) == Credentials("asked", "p")
    with pytest.raises(FileNotFoundError):
        find_credentials("h:1", "a", str(home / "missing.json"))


def test_keys_of_a_part_of_a_host(home: Path) -> None:
    auths(home / "run/containers/auth.json", **{"h": "host:p", "h/a": "a:p", "h/a/b": "ab:p", "other": "other:p"})
    found = {name: find_credentials("h", name) for name in ("", "x", "a", "ax", "a/b", "a/b/c", "a/c")}
    names = {name: value.username if value else "" for name, value in found.items()}
    assert names == {"": "host", "x": "host", "a": "a", "ax": "host", "a/b": "ab", "a/b/c": "ab", "a/c": "a"}
    assert find_credentials("h:5000", "a") is None and find_credentials("host", "a") is None


def test_how_docker_calls_its_own(home: Path) -> None:
    auths(home / ".docker/config.json", **{"https://index.docker.io/v1/": "hub:p", "https://h:5/v2/": "five:p"})
    assert find_credentials("docker.io", "library/debian") == Credentials("hub", "p")
    assert find_credentials("h:5", "x") == Credentials("five", "p")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"auths": 1}',
        '{"auths": {"h": 1}}',
        '{"auths": {"h": {"auth": "?"}}}',
        '{"auths": {"h": {"auth": "bm9jb2xvbg=="}}}',
        '{"credHelpers": {"h": 1}}',
        '{"credHelpers": {"h": "../x"}}',
    ],
)
def test_a_file_that_is_none_is_named(home: Path, text: str) -> None:
    (home / "auth.json").write_text(text)
    with pytest.raises(FormatError) as error:
        find_credentials("h", "a", str(home / "auth.json"))
    assert "\n" not in str(error.value)


def test_a_file_that_may_not_be_read_is_not_replaced(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's, in a directory of ours, after a `sudo docker login`."""
    path = home / "auth.json"
    auths(path, other="u:p")
    before = path.read_bytes()

    def refuse(name: str, *words: object) -> object:
        raise PermissionError(errno.EACCES, "Permission denied", name)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refuse)
        with pytest.raises(PermissionError):
            store_credentials("h", Credentials("new", "p"), str(path))
    assert path.read_bytes() == before


def test_what_else_is_in_a_file_stays(home: Path) -> None:
    path = home / "auth.json"
    path.write_text('{"auths": {"h": {"auth": "dTpw"}, "k": {"auth": "dTpw"}}, "psFormat": "x"}')
    path.chmod(0o644)
    store_credentials("h", Credentials("new", "p"), str(path))
    document = json.loads(path.read_text())
    assert document["psFormat"] == "x" and document["auths"]["k"] == {"auth": "dTpw"}
    assert find_credentials("h", "", str(path)) == Credentials("new", "p")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert logout("h", Settings(auth_file=str(path))) == [str(path)]
    assert list(json.loads(path.read_text())["auths"]) == ["k"]


HELPER = """#!/bin/sh
read -r line
case "$1" in
get) [ -f "$HOME/kept" ] || { echo "credentials not found in native keychain"; exit 1; }
     cat "$HOME/kept" ;;
store) printf '%s' "$line" > "$HOME/kept" ;;
erase) rm "$HOME/kept" ;;
esac
"""


def program(home: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    path = home / "bin" / f"docker-credential-{name}"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}/bin:{os.environ['PATH']}")


@pytest.mark.parametrize("configuration", [{"credHelpers": {"h": "box"}}, {"credsStore": "box"}])
def test_helpers(home: Path, monkeypatch: pytest.MonkeyPatch, configuration: dict[str, object]) -> None:
    program(home, monkeypatch, "box", HELPER)
    path = home / "config.json"
    path.write_text(json.dumps(configuration))
    assert find_credentials("h", "a", str(path)) is None
    assert store_credentials("h", US, str(path)) == "docker-credential-box"
    assert find_credentials("h", "a", str(path)) == US
    assert json.loads(path.read_text()) == configuration, "no password in the file"
    assert logout("h", Settings(auth_file=str(path))) == ["docker-credential-box"]
    store_credentials("h", Credentials("", "", "a token"), str(path))
    assert find_credentials("h", "a", str(path)) == Credentials("", "", "a token")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!/bin/sh\nsleep 3", "no answer in 0.5 seconds"),
        ("#!/bin/sh\ncat /dev/zero", "an answer of more than"),
        ("#!/bin/sh\nprintf 'locked \\033[31m\\n out'; exit 3", r"get failed with exit status 3: locked \[31m out"),
        ("#!/bin/sh\necho '{}'", "without Username and Secret"),
        ("#!/bin/sh\necho no", "not JSON"),
    ],
)
def test_helpers_that_misbehave(home: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    program(home, monkeypatch, "bad", text)
    with pytest.raises((RegistryError, FormatError), match=f"docker-credential-bad.*{said}"):
        helper_get("bad", "h", timeout=0.5)
    with pytest.raises(RegistryError, match="docker-credential-missing: not in PATH"):
        helper_get("missing", "h")


@pytest.mark.parametrize(("user", "password"), [("", "p"), ("a:b", "p"), ("a", "p\n"), ("a\r", "p")])
def test_credentials_that_no_header_can_carry(user: str, password: str) -> None:
    with pytest.raises(FormatError, match="localhost:1: a user's name"):
        login("localhost:1", user, password)


def test_credentials_are_not_shown() -> None:
    shown = f"{US} {US!r} {Settings(credentials=US)!r} {[US]}"
    assert PASSWORD not in shown and USER in shown
