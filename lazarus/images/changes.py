"""`--change`: Dockerfile instructions on an image's config (docker commit, docker import)."""

from __future__ import annotations

import json
import shlex
from typing import Any

from lazarus.errors import FormatError

_SHELL = ["/bin/sh", "-c"]


def apply(config: dict[str, Any], changes: tuple[str, ...]) -> dict[str, Any]:
    """A new config with every instruction applied in order. `FormatError` names the one that cannot be read."""
    result = {key: _copy(value) for key, value in config.items()}
    for change in changes:
        word, _, rest = change.strip().partition(" ")
        handler = _HANDLERS.get(word.upper())
        if handler is None:
            raise FormatError(f"change {change!r:.100}: unknown instruction (known: {', '.join(sorted(_HANDLERS))})")
        rest = rest.strip()
        if not rest and word.upper() not in ("CMD", "ENTRYPOINT"):
            raise FormatError(f"change {change!r:.100}: nothing after {word.upper()}")
        try:
            handler(result, rest)
        except ValueError as error:
            raise FormatError(f"change {change!r:.100}: {error}") from error
    return result


def _copy(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else list(value) if isinstance(value, list) else value


def _array(text: str) -> list[str] | None:
    """A JSON array of strings, or None when the text is no array."""
    if not text.startswith("["):
        return None
    value = json.loads(text)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("not an array of strings")
    return value


def _command(config: dict[str, Any], key: str, text: str) -> None:
    array = _array(text)
    config[key] = array if array is not None else [*_SHELL, text] if text else []


def _pairs(text: str) -> list[tuple[str, str]]:
    """`A=1 B="two words"`, or the old form `A one value`."""
    words = shlex.split(text)
    if words and "=" not in words[0]:
        name, _, value = text.partition(" ")
        return [(name, value.strip())]
    if not all("=" in word for word in words):
        raise ValueError("expected NAME=VALUE")
    return [(name, value) for name, _, value in (word.partition("=") for word in words)]


def _env(config: dict[str, Any], text: str) -> None:
    values = dict(entry.partition("=")[::2] for entry in config.get("Env") or [])
    values.update(_pairs(text))
    config["Env"] = [f"{name}={value}" for name, value in values.items()]


def _label(config: dict[str, Any], text: str) -> None:
    config["Labels"] = {**(config.get("Labels") or {}), **dict(_pairs(text))}


def _expose(config: dict[str, Any], text: str) -> None:
    ports = dict(config.get("ExposedPorts") or {})
    for word in text.split():
        number, _, protocol = word.partition("/")
        if not number.isdigit() or not 0 < int(number) < 65536 or protocol not in ("", "tcp", "udp", "sctp"):
            raise ValueError(f"{word!r} is not a port")
        ports[f"{number}/{protocol or 'tcp'}"] = {}
    config["ExposedPorts"] = ports


def _volume(config: dict[str, Any], text: str) -> None:
    names = _array(text)
    config["Volumes"] = {**(config.get("Volumes") or {}), **{name: {} for name in names or text.split()}}


def _onbuild(config: dict[str, Any], text: str) -> None:
    config["OnBuild"] = [*(config.get("OnBuild") or []), text]


def _set(key: str) -> Any:
    def handler(config: dict[str, Any], text: str) -> None:
        config[key] = text

    return handler


_HANDLERS = {
    "CMD": lambda config, text: _command(config, "Cmd", text),
    "ENTRYPOINT": lambda config, text: _command(config, "Entrypoint", text),
    "ENV": _env,
    "EXPOSE": _expose,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _set("StopSignal"),
    "USER": _set("User"),
    "VOLUME": _volume,
    "WORKDIR": _set("WorkingDir"),
}
