"""References: `name[:tag][@digest]`, in the grammar of distribution's reference package.

No registry is put before a name: `debian:app` stays `debian:app`. Only looking one up tries the long forms, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from lazarus.errors import FormatError
from lazarus.terms import Digest

DEFAULT_TAG = "latest"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN_PART = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?"
_NAME = re.compile(rf"(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_HOST_MARK = re.compile(r"[.:\[A-Z]")  # what makes docker take the first component for a host
MAX_NAME = 255


class Reference(NamedTuple):
    """`tag` is "" when only a digest was given."""

    name: str
    tag: str = DEFAULT_TAG
    digest: Digest | None = None

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def host(self) -> str:
        """The host of its registry, where one is written (`localhost:5000/app`, not `team/app`), or ""."""
        first, slash, _ = self.name.partition("/")
        return first if slash and (first == "localhost" or _HOST_MARK.search(first)) else ""

    @property
    def tagged(self) -> str:
        """`name:tag`, as the catalogue keeps it."""
        return f"{self.name}:{self.tag}"


def parse_reference(text: str) -> Reference:
    """Raises `FormatError`. Without tag and digest the tag is `latest`."""
    rest, at, digest = text.partition("@")
    name, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:  # the colon of a port
        name, colon, tag = rest, "", ""
    if len(name) > MAX_NAME or _NAME.match(name) is None:
        raise FormatError(f"not a reference: {text!r:.200} (expected name[:tag][@digest], the name in lower case)")
    if _HEX.match(name):
        raise FormatError(f"not a reference: {text!r:.200} (64 hex digits are an ID, not a name)")
    if colon and _TAG.match(tag) is None:
        raise FormatError(f"not a reference: {text!r:.200} (the tag is not one)")
    if not colon and not at:
        tag = DEFAULT_TAG
    return Reference(name, tag, Digest(digest) if at else None)


def parse_tag(text: str) -> Reference:
    """A reference that can be given to an image: without a digest."""
    reference = parse_reference(text)
    if reference.digest is not None:
        raise FormatError(f"not a name for an image: {text!r:.200} (a name has no digest)")
    return reference


def spellings(reference: Reference) -> tuple[str, ...]:
    """The names (`name:tag`, or `name@digest` for one without a tag) under which an image that is asked for by
    `reference` may be kept, best first: as written, then with what Docker and Podman put before it, or without."""
    name, end = reference.name, f":{reference.tag}" if reference.tag else f"@{reference.digest}"
    found = [name]
    for prefix in ("docker.io/library/", "docker.io/", "localhost/"):
        if name.startswith(prefix):
            found.append(name.removeprefix(prefix))
            break
    else:
        first = name.partition("/")[0]
        if "/" not in name:
            found += [f"docker.io/library/{name}", f"localhost/{name}"]
        elif "." not in first and ":" not in first:
            found += [f"docker.io/{name}", f"localhost/{name}"]
    return tuple(item + end for item in found)


def meant_by(text: str, names: Iterable[str]) -> tuple[str, ...]:
    """Those of `names` (`name:tag` or `name@digest`) that `text` may stand for when images are listed: in every
    spelling, and with every tag and digest when it has none. None of them when it is no reference."""
    try:
        reference = parse_reference(text)
    except FormatError:
        return ()
    wanted = spellings(reference)
    if reference.digest is not None or text.endswith(f":{reference.tag}"):
        return tuple(name for name in names if name in wanted)
    repositories = {_repository(name) for name in wanted}
    return tuple(name for name in names if _repository(name) in repositories)


def with_tag(names: Iterable[str]) -> tuple[str, ...]:
    """Those that are `name:tag`, not `name@digest`."""
    return tuple(name for name in names if "@" not in name)


def _repository(name: str) -> str:
    """Of `name:tag` or `name@digest`, not parsed: the spelling of a long name may be too long for one."""
    repository, at, _ = name.partition("@")
    return repository if at else name.rpartition(":")[0]
