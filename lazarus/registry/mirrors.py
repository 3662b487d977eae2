"""`registries.conf`, version 2: where a repository is really asked for (containers-registries.conf(5)).

The file is --registries-conf's, CONTAINERS_REGISTRIES_CONF's, ~/.config/containers/registries.conf or
/etc/containers/registries.conf, with what `registries.conf.d/*.conf` beside it says later. Of `[[registry]]` tables the
one with the longest `prefix` counts. Short names and aliases of that file are not looked at: names mean here what they
mean to docker.
"""

from __future__ import annotations

import os
import tomllib
from typing import Any, NamedTuple

from lazarus.errors import FormatError, RegistryError
from lazarus.registry.settings import Repository, parse_host

_MAX_FILE = 1 << 20
_MAX_MIRRORS = 32


class Endpoint(NamedTuple):
    """A repository as it is asked for. `repository` is where, `mirror` whether it is not the one that was named."""

    repository: Repository
    insecure: bool = False
    mirror: bool = False
    only: str = "all"  # "digest-only", "tag-only"


class _Rule(NamedTuple):
    prefix: str
    location: str
    insecure: bool
    blocked: bool
    mirrors: tuple[tuple[str, bool, str], ...]  # location, insecure, only


class Mirrors:
    """The rules of the files, read when they are first needed."""

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._rules: dict[str, _Rule] | None = None

    def endpoints(self, repository: Repository, *, writing: bool = False, by_digest: bool = False) -> list[Endpoint]:
        """Where to ask, in this order; the last one is the registry itself. What is written goes there only. Raises
        `RegistryError` for a registry that is blocked."""
        if self._rules is None:
            self._rules = _read_rules(self._path)
        found = self._rule(repository)
        if found is None:
            return [Endpoint(repository)]
        rule, prefix = found
        if rule.blocked:
            raise RegistryError(f"{repository}: registries.conf blocks {rule.prefix}")
        own = Endpoint(_moved(repository, prefix, rule.location or prefix), rule.insecure)
        if writing:
            return [own]
        other = "tag-only" if by_digest else "digest-only"
        mirrors = [
            Endpoint(_moved(repository, prefix, location), insecure, mirror=True)
            for location, insecure, only in rule.mirrors
            if only != other
        ]
        return [*mirrors, own]

    def is_insecure(self, host: str) -> bool:
        """Does a rule for the whole host say so?"""
        if self._rules is None:
            self._rules = _read_rules(self._path)
        rule = self._rules.get(host)
        return rule is not None and rule.insecure and rule.location in ("", host)

    def _rule(self, repository: Repository) -> tuple[_Rule, str] | None:
        """The rule with the longest prefix, and what of the name it matches."""
        assert self._rules is not None
        best: tuple[_Rule, str] | None = None
        for rule in self._rules.values():
            matched = _match(str(repository), rule.prefix)
            if matched is not None and (best is None or len(rule.prefix) > len(best[0].prefix)):
                best = rule, matched
        return best


def _match(name: str, prefix: str) -> str | None:
    """What of the name a prefix stands for: itself, or the host for `*.example.com`."""
    if prefix.startswith("*."):
        host = name.partition("/")[0]
        return host if host.partition(":")[0].endswith(prefix[1:]) else None
    return prefix if name == prefix or (name.startswith(prefix) and name[len(prefix)] in "/:@") else None


def _moved(repository: Repository, prefix: str, location: str) -> Repository:
    name = location.rstrip("/") + str(repository).removeprefix(prefix)
    host, slash, rest = name.partition("/")
    if not slash or not rest:
        raise RegistryError(f"{repository}: registries.conf leads to {name:.100}, which names no repository")
    return Repository(parse_host(host), rest)


def _files(path: str | None) -> list[str]:
    chosen = path or os.environ.get("CONTAINERS_REGISTRIES_CONF")
    if chosen:
        return [chosen]
    for directory in (os.path.expanduser("~/.config/containers"), "/etc/containers"):
        main = os.path.join(directory, "registries.conf")
        more = os.path.join(directory, "registries.conf.d")
        found = [main] if os.path.exists(main) else []
        if os.path.isdir(more):
            found += [os.path.join(more, name) for name in sorted(os.listdir(more)) if name.endswith(".conf")]
        if found:
            return found
    return []


def _read_rules(path: str | None) -> dict[str, _Rule]:
    rules: dict[str, _Rule] = {}
    for file in _files(path):
        with open(file, "rb") as stream:
            data = stream.read(_MAX_FILE + 1)
        if len(data) > _MAX_FILE:
            raise FormatError(f"{file}: more than {_MAX_FILE} bytes")
        try:
            document = tomllib.loads(data.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FormatError(f"{file}: not TOML: {error}") from error
        tables = document.get("registry", [])
        if not isinstance(tables, list):
            raise FormatError(f"{file}: registry is not an array of tables")
        for number, table in enumerate(tables, 1):
            rule = _rule(table, f"{file}, registry {number}")
            rules[rule.prefix] = rule
    return rules


def _rule(table: Any, what: str) -> _Rule:
    if not isinstance(table, dict):
        raise FormatError(f"{what}: not a table")
    location = _location(table, what)
    prefix = table.get("prefix") or location
    if not isinstance(prefix, str) or not prefix:
        raise FormatError(f"{what}: has neither prefix nor location")
    mirrors = table.get("mirror", [])
    if not isinstance(mirrors, list) or len(mirrors) > _MAX_MIRRORS:
        raise FormatError(f"{what}: mirror is not an array of at most {_MAX_MIRRORS} tables")
    by_digest = _flag(table, "mirror-by-digest-only", what)
    found = []
    for number, mirror in enumerate(mirrors, 1):
        name = f"{what}, mirror {number}"
        if not isinstance(mirror, dict) or not _location(mirror, name):
            raise FormatError(f"{name}: has no location")
        only = mirror.get("pull-from-mirror") or "all"
        if only not in ("all", "digest-only", "tag-only"):
            raise FormatError(f"{name}: pull-from-mirror {only!r:.40} where all, digest-only or tag-only is expected")
        found.append((_location(mirror, name), _flag(mirror, "insecure", name), "digest-only" if by_digest else only))
    blocked, insecure = _flag(table, "blocked", what), _flag(table, "insecure", what)
    return _Rule(prefix.rstrip("/"), location, insecure, blocked, tuple(found))


def _location(table: dict[str, Any], what: str) -> str:
    location = table.get("location", "")
    if not isinstance(location, str) or "://" in location:
        raise FormatError(f"{what}: location {location!r:.80} where HOST[:PORT][/NAMESPACE] is expected")
    return location


def _flag(table: dict[str, Any], key: str, what: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise FormatError(f"{what}: {key} is not true or false")
    return value
