"""Logging in and out: credentials that the registry has taken are kept where docker and podman read them."""

from __future__ import annotations

from collections.abc import Callable

from lazarus.errors import FormatError, NotFoundError
from lazarus.registry.credentials import erase_credentials, find_credentials, store_credentials
from lazarus.registry.settings import Credentials, Settings, parse_host


def login(
    host: str,
    username: str,
    password: str,
    settings: Settings | None = None,
    *,
    warn: Callable[[str], None] | None = None,
) -> str:
    """Tries credentials at a registry's `/v2/`, then keeps them, or the identity token that its token server gives for
    them. Returns where: a file, or the name of a helper. Raises `DeniedError` when they are refused."""
    from lazarus.registry.session import Call, Session

    host = parse_host(host)
    if not username or ":" in username or not (username + password).isprintable():
        raise FormatError(f"{host}: a user's name without colons and a password are expected, both printable")
    credentials = Credentials(username, password)
    settings = (settings or Settings())._replace(credentials=credentials)
    say = warn or (lambda text: None)
    session = Session(settings, say)
    try:
        peer = session.peer(session.whole_host(host))
        what = f"{host}: login as {username}"
        session.request(peer, Call("GET", "", what), lambda response: None)
        if not session.auth.asks(peer):
            say(f"{host}: asks nobody for a password; this one is kept without having been tried")
        token = session.auth.identity_token(peer, credentials, what)
    finally:
        session.close()
    return store_credentials(host, Credentials(username, "", token) if token else credentials, settings.auth_file)


def logout(host: str, settings: Settings | None = None) -> list[str]:
    """Forgets the credentials for a host; returns where they were. Raises `NotFoundError` when there were none."""
    host = parse_host(host)
    places = erase_credentials(host, settings.auth_file if settings else None)
    if not places:
        raise NotFoundError(f"{host}: not logged in")
    return places


def logged_in_as(host: str, settings: Settings | None = None) -> str | None:
    """The name under which we are known to a host; None when we are not, "<token>" for an identity token with
    no name beside it."""
    found = find_credentials(parse_host(host), "", settings.auth_file if settings else None)
    return None if found is None else found.username or "<token>"
