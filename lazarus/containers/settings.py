"""What a container was created with: the image's config and the caller's wishes, settled once."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lazarus.errors import FormatError
from lazarus.runtime.bundle import Bind, Tmpfs
from lazarus.terms import DiffID
from lazarus.volumes.mounts import AnyMount, ImageMount, VolumeMount

NETWORKS = ("none", "host")
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?\Z")


class Mounts(NamedTuple):
    """All that is mounted into a container, by kind."""

    binds: tuple[Bind, ...] = ()
    volumes: tuple[VolumeMount, ...] = ()
    images: tuple[ImageMount, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()


class Settings(NamedTuple):
    """Kept as JSON in the catalogue. `image` is what the caller called it, `args` Entrypoint and Cmd joined,
    `image_env` the image's environment and `env` the caller's; `size` is what its upper may take, in bytes."""

    image: str
    image_id: str
    diff_ids: tuple[DiffID, ...]
    args: tuple[str, ...]
    image_env: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = ""
    hostname: str = ""
    network: str = "none"
    binds: tuple[Bind, ...] = ()
    volumes: tuple[VolumeMount, ...] = ()
    images: tuple[ImageMount, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    labels: Mapping[str, str] = {}
    stop_signal: str = "SIGTERM"
    terminal: bool = False
    interactive: bool = False
    read_only: bool = False
    size: int | None = None
    ephemeral: bool = False
    auto_remove: bool = False

    def to_json(self) -> str:
        """One line."""
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """What to_json() made."""
        fields: dict[str, Any] = json.loads(text)
        fields["binds"] = tuple(Bind(*mount) for mount in fields["binds"])
        fields["volumes"] = tuple(VolumeMount(*mount) for mount in fields["volumes"])
        fields["images"] = tuple(ImageMount(*mount) for mount in fields["images"])
        fields["tmpfs"] = tuple(Tmpfs(*mount) for mount in fields["tmpfs"])
        for name in ("args", "image_env", "env"):
            fields[name] = tuple(fields[name])
        fields["diff_ids"] = tuple(DiffID(text) for text in fields["diff_ids"])
        return cls(**fields)

    @property
    def targets(self) -> tuple[str, ...]:
        """The places in the container that something is mounted over."""
        mounts: tuple[AnyMount, ...] = (*self.binds, *self.volumes, *self.images, *self.tmpfs)
        return tuple(mount.target for mount in mounts)

    @property
    def anonymous(self) -> tuple[str, ...]:
        """The volumes that were made for this container alone."""
        return tuple(mount.name for mount in self.volumes if mount.anonymous and mount.name is not None)


def command_line(
    image_config: Mapping[str, Any], command: Iterable[str] | None, entrypoint: str | Iterable[str] | None
) -> tuple[str, ...]:
    """Entrypoint and Cmd as docker joins them: a given entrypoint drops the image's Cmd, a given command is the Cmd."""
    if entrypoint is None:
        first = tuple(image_config.get("Entrypoint") or ())
        rest = tuple(image_config.get("Cmd") or ())
    else:
        first = (entrypoint,) if isinstance(entrypoint, str) else tuple(entrypoint)
        first, rest = tuple(word for word in first if word), ()  # --entrypoint "" takes the image's away
    given = tuple(command) if command is not None else ()
    return check_words((*first, *(given or rest)))


def working_directory(image_config: Mapping[str, Any], own: str | None) -> str:
    """Absolute; an image's relative one starts at `/`. Raises `FormatError` for one that cannot be a path."""
    text = own or image_config.get("WorkingDir") or "/"
    if "\0" in text or (own and not own.startswith("/")):
        raise FormatError(f"working directory {text!r:.200}: not an absolute path")
    check_words((text,))
    return os.path.normpath("/" + text.lstrip("/"))


def check_hostname(text: str) -> str:
    """Returns it, or raises `FormatError`: it goes into files of lines and words, and the kernel takes 64 bytes."""
    if text and _HOSTNAME.match(text) is None:
        raise FormatError(f"hostname {text!r:.80}: not a host name (letters, digits, - _ and ., at most 64)")
    return text


def check_signal(text: str) -> str:
    """Returns it, or raises `FormatError`: better now than when it is to be sent."""
    if text != "SIGTERM":
        from lazarus.containers.signals import signal_number

        signal_number(text)
    return text


def check_environment(env: Iterable[str]) -> tuple[str, ...]:
    """NAME=value each; a bare NAME is taken from this process's environment, and left out when it is not there."""
    settings = []
    for text in env:
        name, separator, _ = text.partition("=")
        if not name or "\0" in text:
            raise FormatError(f"environment {text!r:.100}: not NAME=value")
        if separator:
            settings.append(text)
        elif name in os.environ:
            settings.append(f"{name}={os.environ[name]}")
    return check_words(settings)


def check_words(words: Iterable[str]) -> tuple[str, ...]:
    """Returns them, or raises `FormatError` for one that is not UTF-8: an OCI bundle is JSON, and cannot say it."""
    found = tuple(words)
    for word in found:
        if not word.isascii():
            try:
                word.encode()
            except UnicodeEncodeError:
                raise FormatError(f"{word!r:.100}: not UTF-8, which a container's configuration has to be") from None
    return found


def parse_mounts(image_config: Mapping[str, Any], given: Iterable[str | AnyMount]) -> Mounts:
    """What is mounted: the caller's wishes, and a new volume for each of the image's `Volumes` that they do not cover.

    Volumes without a name get one here. Raises `FormatError`, also for two mounts in one place.
    """
    wishes, image_volumes = tuple(given), image_config.get("Volumes") or ()
    if not wishes and not image_volumes:
        return Mounts()
    from lazarus.volumes.names import random_name  # not on the path of a container without mounts
    from lazarus.volumes.spelling import check_mount, check_target, parse_volume

    found: dict[str, AnyMount] = {}
    for wish in wishes:
        mount = parse_volume(wish) if isinstance(wish, str) else check_mount(wish)
        if mount.target in found:
            raise FormatError(f"{mount.target}: two mounts in one place")
        found[mount.target] = mount
    for text in image_volumes:
        target = check_target(f"the image's volume {text!r:.200}", "/" + text.lstrip("/"))
        found.setdefault(target, VolumeMount(None, target, anonymous=True))
    named = [
        mount._replace(name=random_name()) if isinstance(mount, VolumeMount) and mount.name is None else mount
        for mount in found.values()
    ]
    return Mounts(
        tuple(mount for mount in named if isinstance(mount, Bind)),
        tuple(mount for mount in named if isinstance(mount, VolumeMount)),
        tuple(mount for mount in named if isinstance(mount, ImageMount)),
        tuple(mount for mount in named if isinstance(mount, Tmpfs)),
    )
