"""The options that say how a registry is spoken to, as podman and skopeo spell them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lazarus.cli.options import Mistake, Option, truth

if TYPE_CHECKING:
    from lazarus.registry.settings import Settings


def registry_options(prefix: str = "", what: str = "") -> tuple[Option, ...]:
    """How a registry is spoken to. `prefix` is "src-" or "dest-", where there are two."""
    before = prefix.replace("-", "_")
    return (
        Option(
            (f"--{prefix}tls-verify",),
            f"{before}tls_verify",
            f"true: HTTPS only{what}; false: any certificate, and HTTP (default: HTTP to loopback only)",
            "true|false",
            kind=truth,
        ),
        Option(
            (f"--{prefix}cert-dir",),
            f"{before}cert_dir",
            f"*.crt, *.cert and *.key{what} are in DIR, and in /etc/containers/certs.d/HOST",
            "DIR",
        ),
        Option((f"--{prefix}creds",), f"{before}creds", f"user and password{what}", "USER:PASSWORD"),
        Option(
            (f"--{prefix}authfile",),
            f"{before}authfile",
            f"credentials{what} (default: $REGISTRY_AUTH_FILE, then those of docker and podman)",
            "FILE",
        ),
    )


REGISTRY = (
    *registry_options(),
    Option(
        ("--registries-conf",),
        "registries_conf",
        "mirrors (default: /etc/containers/registries.conf and what is beside it)",
        "FILE",
    ),
)


def settings(arguments: SimpleNamespace, prefix: str = "") -> Settings:
    """What the options of `registry_options` ask for; with a prefix, those without it where there is none."""
    from lazarus.registry.settings import Credentials, Settings

    def given(name: str) -> Any:
        value = getattr(arguments, f"{prefix}{name}", None)
        return getattr(arguments, name, None) if value is None else value

    credentials = None
    if given("creds") is not None:
        user, colon, password = given("creds").partition(":")
        if not colon or not user:
            raise Mistake("--creds: expected USER:PASSWORD")
        credentials = Credentials(user, password)
    return Settings(
        tls_verify=given("tls_verify"),
        ca_directory=given("cert_dir"),
        auth_file=given("authfile"),
        credentials=credentials,
        registries_conf=given("registries_conf"),
    )
