"""Programs that keep passwords: `docker-credential-NAME get|store|erase`, as docker's credential helpers speak.

What they are asked is on standard input, what they answer on standard output; "credentials not found" there, with an
exit status, is an answer too. One that hangs is ended.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import time
from contextlib import suppress

from lazarus.errors import FormatError, RegistryError
from lazarus.oci.strict_json import load_object
from lazarus.registry.settings import DEFAULT_HOST, Credentials

TIMEOUT = 60.0  # seconds; some ask their user
_MAX_ANSWER = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_DOCKER_KEY = "https://index.docker.io/v1/"  # what docker calls docker.io in its files
_NOT_FOUND = ("credentials not found in native keychain", "no credentials server url", "no credentials username")


def helper_get(name: str, host: str, timeout: float = TIMEOUT) -> Credentials | None:
    """What a helper has for a host, None when it has nothing. Raises `RegistryError`."""
    answer = _run(name, "get", server_url(host).encode(), timeout)
    if answer is None:
        return None
    what = f"docker-credential-{name} for {host}"
    document = load_object(answer, what)
    user, secret = document.get("Username"), document.get("Secret")
    if not isinstance(user, str) or not isinstance(secret, str):
        raise FormatError(f"{what}: an answer without Username and Secret")
    return Credentials("", "", secret) if user == "<token>" else Credentials(user, secret)


def helper_store(name: str, host: str, credentials: Credentials, timeout: float = TIMEOUT) -> None:
    """Gives a helper credentials to keep."""
    user = "<token>" if credentials.identity_token else credentials.username
    secret = credentials.identity_token or credentials.password
    document = {"ServerURL": server_url(host), "Username": user, "Secret": secret}
    _run(name, "store", json.dumps(document).encode(), timeout)


def helper_erase(name: str, host: str, timeout: float = TIMEOUT) -> bool:
    """Makes a helper forget a host; False when it knew nothing of it."""
    return _run(name, "erase", server_url(host).encode(), timeout) is not None


def server_url(host: str) -> str:
    """What docker's files and helpers call a host."""
    return _DOCKER_KEY if host == DEFAULT_HOST else host


def _run(name: str, verb: str, data: bytes, timeout: float) -> bytes | None:
    """Its answer; None: not found."""
    if _NAME.match(name) is None:
        raise FormatError(f"not the name of a credential helper: {name!r:.80}")
    program = shutil.which(f"docker-credential-{name}")
    if program is None:
        raise RegistryError(f"docker-credential-{name}: not in PATH, but named as a credential helper")
    deadline = time.monotonic() + timeout
    answer = b""
    with subprocess.Popen(
        [program, verb], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(data)
                process.stdin.close()
            while True:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                    raise RegistryError(f"docker-credential-{name}: no answer in {timeout:g} seconds")
                piece = os.read(process.stdout.fileno(), 64 << 10)
                answer += piece
                if len(answer) > _MAX_ANSWER:
                    raise RegistryError(f"docker-credential-{name}: an answer of more than {_MAX_ANSWER} bytes")
                if not piece:
                    break
            code = process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired as error:
            raise RegistryError(f"docker-credential-{name}: does not end in {timeout:g} seconds") from error
        finally:
            process.kill()
    if code == 0:
        return answer
    words = answer.decode("utf-8", "replace").strip()
    if any(text in words.lower() for text in _NOT_FOUND):
        return None
    shown = " ".join("".join(c if c.isascii() and c.isprintable() else " " for c in words[:200]).split())
    raise RegistryError(f"docker-credential-{name}: {verb} failed with exit status {code}: {shown}")
