"""Where credentials are: docker's and podman's files and helpers, looked up in their order, and written as they do.

    given (--creds), then
    the one file of --authfile or REGISTRY_AUTH_FILE, or, without them, the first that knows the host of
    $DOCKER_CONFIG/config.json                      (where that is set, instead of ~/.docker/config.json)
    $XDG_RUNTIME_DIR/containers/auth.json, or /run/containers/UID/auth.json
    ~/.config/containers/auth.json, ~/.docker/config.json, ~/.dockercfg

In a file `credHelpers` of the host come first, then `credsStore`, then `auths`, whose keys may name a part of a host
("localhost:5000/team/project", the longest first). Files that are written have mode 0600 and appear whole.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from lazarus.errors import FormatError
from lazarus.oci.strict_json import load_object
from lazarus.registry.helpers import helper_erase, helper_get, helper_store, server_url
from lazarus.registry.settings import DEFAULT_HOST, Credentials
from lazarus.whole_file import whole_file

_MAX_FILE = 1 << 20
_DOCKER_NAMES = ("index.docker.io", "registry-1.docker.io", "registry.hub.docker.com")


class AuthFile(NamedTuple):
    """One place for credentials; `bare`: it is all `auths`, as ~/.dockercfg was. `asked`: the user named it."""

    path: str
    bare: bool = False
    asked: bool = False


def auth_files(auth_file: str | None, environment: Mapping[str, str] = os.environ) -> list[AuthFile]:
    """The files that are looked at, first to last."""
    if auth_file:
        return [AuthFile(auth_file, asked=True)]
    if environment.get("REGISTRY_AUTH_FILE"):
        return [AuthFile(environment["REGISTRY_AUTH_FILE"], asked=True)]
    home = environment.get("HOME") or os.path.expanduser("~")
    configuration = environment.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    runtime = environment.get("XDG_RUNTIME_DIR")
    docker = environment.get("DOCKER_CONFIG")
    files = [
        os.path.join(runtime, "containers/auth.json") if runtime else f"/run/containers/{os.getuid()}/auth.json",
        os.path.join(configuration, "containers/auth.json"),
    ]
    files.insert(0 if docker else 2, os.path.join(docker or os.path.join(home, ".docker"), "config.json"))
    return [*map(AuthFile, files), AuthFile(os.path.join(home, ".dockercfg"), bare=True)]


def find_credentials(host: str, repository: str, auth_file: str | None = None) -> Credentials | None:
    """What the files and helpers have for `host/repository`; None: nothing, so that we are anonymous."""
    for file in auth_files(auth_file):
        document = _read(file)
        if document is not None:
            found = _in_document(document, file, host, repository)
            if found is not None:
                return found
    return None


def _in_document(document: dict[str, Any], file: AuthFile, host: str, repository: str) -> Credentials | None:
    helper = _helper(document, file, host)
    if helper is not None:
        found = helper_get(helper, host)
        if found is not None:
            return found
    auths = document if file.bare else _object(document, "auths", file)
    known: dict[str, Any] = {}
    for key, value in auths.items():
        known.setdefault(_normal(key), value)
    parts = repository.split("/") if repository else []
    for length in range(len(parts), -1, -1):
        entry = known.get("/".join([host, *parts[:length]]))
        if entry is not None:
            found = _decode(entry, f"{file.path}: credentials for {host}")
            if found is not None:
                return found
    return None


def _helper(document: dict[str, Any], file: AuthFile, host: str) -> str | None:
    if file.bare:
        return None
    for key, name in _object(document, "credHelpers", file).items():
        if _normal(key) == host:
            return _string(name, "credHelpers", file)
    store = document.get("credsStore")
    return _string(store, "credsStore", file) if store else None


def _normal(key: str) -> str:
    """A key of `auths` as HOST or HOST/NAMESPACE. Docker's old ones are addresses, of which only the host counts."""
    rest = key.partition("://")[2]
    host, slash, path = (rest or key).partition("/")
    host = host.lower()
    if host in _DOCKER_NAMES:
        host = DEFAULT_HOST
    if rest or path in ("v1/", "v2/", "v1", "v2", ""):
        return host
    return f"{host}{slash}{path.rstrip('/')}"


def _decode(entry: Any, what: str) -> Credentials | None:
    if not isinstance(entry, dict):
        raise FormatError(f"{what}: not an object")
    token = entry.get("identitytoken")
    if not isinstance(token, str):
        token = ""
    auth, user, password = entry.get("auth"), entry.get("username"), entry.get("password")
    if isinstance(auth, str) and auth:
        try:
            user, colon, password = base64.b64decode(auth, validate=True).decode().rstrip("\0").partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise FormatError(f"{what}: auth is not base64 of USER:PASSWORD") from error
        if not colon:
            raise FormatError(f"{what}: auth is not base64 of USER:PASSWORD")
    if token:
        return Credentials(user if isinstance(user, str) else "", "", token)
    if isinstance(user, str) and user and isinstance(password, str):
        return Credentials(user, password)
    return None  # {}: a helper has it, or had


def _read(file: AuthFile) -> dict[str, Any] | None:
    """The document, None where there is none. A file that the user named must be there."""
    try:
        with open(file.path, "rb") as stream:
            data = stream.read(_MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        if file.asked:
            raise
        return None
    if len(data) > _MAX_FILE:
        raise FormatError(f"{file.path}: more than {_MAX_FILE} bytes, not a file of credentials")
    return load_object(data, file.path) if data.strip() else {}


def _object(document: dict[str, Any], key: str, file: AuthFile) -> dict[str, Any]:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FormatError(f"{file.path}: {key} is not an object")
    return value


def _string(value: Any, key: str, file: AuthFile) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{file.path}: {key} is not the name of a credential helper")
    return value


# -- login and logout --


def store_credentials(host: str, credentials: Credentials, auth_file: str | None = None) -> str:
    """Keeps them for a host, in the helper that the file names for it or in the file, which is made when it is missing.
    Returns where: a path, or the name of a program."""
    path = auth_files(auth_file)[0].path
    with _changing(path) as document:
        file = AuthFile(path)
        helper = _helper(document, file, host)
        if helper is not None:
            helper_store(helper, host, credentials)
            return f"docker-credential-{helper}"
        auths = _object(document, "auths", file)
        _forget(auths, host)
        key = server_url(host) if os.path.basename(path) == "config.json" else host
        text = f"{credentials.username}:{credentials.password}"
        auths[key] = {"auth": base64.b64encode(text.encode()).decode()}
        if credentials.identity_token:  # podman reads it beside an `auth`, in which docker leaves out the password
            auths[key]["identitytoken"] = credentials.identity_token
        document["auths"] = auths
    return path


def erase_credentials(host: str, auth_file: str | None = None) -> list[str]:
    """Forgets a host everywhere it is known; returns where it was."""
    places = []
    for file in auth_files(auth_file):
        document = _read(file._replace(asked=False))
        if document is None or file.bare:
            continue
        helper = _helper(document, file, host)
        if helper is not None and helper_get(helper, host) is not None and helper_erase(helper, host):
            places.append(f"docker-credential-{helper}")
        if any(_normal(key) == host for key in _object(document, "auths", file)):
            with _changing(file.path) as changed:
                _forget(_object(changed, "auths", file), host)
            places.append(file.path)
    return places


def _forget(auths: dict[str, Any], host: str) -> None:
    for key in [key for key in auths if _normal(key) == host]:
        del auths[key]


@contextmanager
def _changing(path: str) -> Iterator[dict[str, Any]]:
    """A file's document, written when it was changed. Others who do this wait."""
    directory = os.path.dirname(os.path.realpath(path))
    os.makedirs(directory, mode=0o700, exist_ok=True)
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        # One that is there and cannot be read, as another user's, must not be replaced: it may hold other passwords.
        document = (_read(AuthFile(path, asked=True)) if os.path.exists(path) else None) or {}
        before = json.dumps(document)
        yield document
        if json.dumps(document) != before:
            with whole_file(path) as fd:
                os.fchmod(fd, 0o600)
                data = json.dumps(document, indent="\t").encode() + b"\n"
                while data:
                    data = data[os.write(fd, data) :]
    finally:
        os.close(lock)
