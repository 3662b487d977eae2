"""`login`, `logout`."""

from __future__ import annotations

import sys
from types import SimpleNamespace

from lazarus.cli.options import Mistake, Option, Verb, Word
from lazarus.cli.output import complain
from lazarus.cli.registry_options import registry_options, settings
from lazarus.errors import LazarusError


def login(_: None, arguments: SimpleNamespace) -> int:
    """Tries a name and a password at a registry, and keeps them where docker and podman look, too."""
    from lazarus.registry.login import logged_in_as
    from lazarus.registry.login import login as log_in

    found = settings(arguments)
    if arguments.get_login:
        known = logged_in_as(arguments.registry, found)
        if known is None:
            raise LazarusError(f"{arguments.registry}: not logged in")
        print(known)
        return 0
    user, password = _who(arguments)
    warn = lambda text: complain(LazarusError(text))  # noqa: E731
    log_in(arguments.registry, user, password, found, warn=warn)
    print("Login Succeeded!")
    return 0


def _who(arguments: SimpleNamespace) -> tuple[str, str]:
    """From the options, or asked for on a terminal."""
    if arguments.password is not None and arguments.password_stdin:
        raise Mistake("--password and --password-stdin are two ways to say the same")
    if arguments.password_stdin and arguments.username is None:
        raise Mistake("--password-stdin needs --username")
    user, password = arguments.username, arguments.password
    if arguments.password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    if (user is None or password is None) and not sys.stdin.isatty():
        raise Mistake("--username and --password or --password-stdin are needed where there is no terminal")
    if user is None:
        sys.stderr.write("Username: ")
        sys.stderr.flush()
        user = sys.stdin.readline().strip()
    if password is None:
        from getpass import getpass

        password = getpass()
    return user, password


def logout(_: None, arguments: SimpleNamespace) -> int:
    """Forgets the credentials for a registry."""
    from lazarus.registry.login import logout as log_out

    for place in log_out(arguments.registry, settings(arguments)):
        print(f"Removed login credentials for {arguments.registry} from {place}")
    return 0


_REGISTRY = Word("registry", "REGISTRY", "its host, with a port: docker.io, localhost:5000")
_OPTIONS = [option for option in registry_options() if option.dest != "creds"]
_AUTH_FILE = next(option for option in _OPTIONS if option.dest == "authfile")

VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "login",
            "try a name and a password at a registry, and keep them where docker and podman look, too",
            login,
            (_REGISTRY,),
            (
                Option(("-u", "--username"), "username", "who (default: asked for)", "NAME"),
                Option(("-p", "--password"), "password", "seen by everybody who lists processes", "PASSWORD"),
                Option(("--password-stdin",), "password_stdin", "the password is the first line of standard input"),
                Option(("--get-login",), "get_login", "only print who is logged in"),
                *_OPTIONS,
            ),
            needs_store=False,
            engine_code=125,
        ),
        Verb(
            "logout",
            "forget the credentials for a registry",
            logout,
            (_REGISTRY,),
            (_AUTH_FILE,),
            needs_store=False,
            engine_code=125,
        ),
    )
}
