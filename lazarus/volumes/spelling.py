"""How mounts are written: `-v` and `--mount`, as docker spells them; and what every mount has to be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from lazarus.errors import FormatError, UnsupportedError
from lazarus.volumes.mounts import AnyMount, Bind, ImageMount, Tmpfs, VolumeMount
from lazarus.volumes.names import is_name, is_source


def parse_volume(text: str) -> AnyMount:
    """`HOST:CONTAINER[:ro|rw]`, `VOLUME:CONTAINER[:ro,nocopy,subpath=DIR]`, `VOLUME@SNAPSHOT:CONTAINER[:subpath=DIR]`
    or `CONTAINER` (a volume without a name).

    A HOST path begins with `/`, `./` or `../`; a relative one is the caller's. Raises `FormatError`.
    """
    what = f"volume {text!r:.200}"
    _check_text(what, text)
    source, separator, rest = text.partition(":")
    if not separator:
        return VolumeMount(None, check_target(what, source), anonymous=True)
    target, _, options = rest.partition(":")
    words = [word for word in options.split(",") if word]
    if source in (".", "..") or source.startswith(("/", "./", "../")):
        kind, known = "bind", {"ro", "rw", "z", "Z"}
    else:
        kind, known = "volume", {"ro", "rw", "z", "Z", "nocopy", "subpath"}
        if not is_source(source):
            raise FormatError(f"{what}: {source!r} is neither a path, as in ./{source}, nor the name of a volume")
    subpaths = [word.partition("=")[2] for word in words if word.startswith("subpath=")]
    names = {"subpath" if word.startswith("subpath=") else word for word in words}
    if names - known or {"ro", "rw"} <= names or ("subpath" in names and len(subpaths) != 1):
        raise FormatError(f"{what}: options {options!r} are not among {', '.join(sorted(known))}, or not together")
    place = check_target(what, target)
    if kind == "bind":
        return Bind(os.path.abspath(source), place, "ro" in names)
    subpath = check_subpath(what, subpaths[0]) if subpaths else ""
    return _volume(what, source, VolumeMount(None, place, "ro" in names, "nocopy" in names, subpath), "rw" in names)


def _volume(what: str, source: str, mount: VolumeMount, writable: bool) -> VolumeMount:
    """That of a volume or a snapshot with this (good) name."""
    name, _, snapshot = source.partition("@")
    if snapshot and (writable or mount.nocopy):
        raise FormatError(f"{what}: a snapshot is mounted read-only, as it is")
    return mount._replace(name=name, snapshot=snapshot, read_only=mount.read_only or bool(snapshot))


# --mount: the key, and what it is called here
_KEYS = {
    "type": "type",
    "source": "source",
    "src": "source",
    "target": "target",
    "dst": "target",
    "destination": "target",
    "readonly": "readonly",
    "ro": "readonly",
    "rw": "writable",
    "readwrite": "writable",
    "volume-nocopy": "nocopy",
    "nocopy": "nocopy",
    "volume-subpath": "subpath",
    "volume-opt": "volume-opt",
    "image-subpath": "subpath",
    "subpath": "subpath",
    "tmpfs-size": "size",
    "tmpfs-mode": "mode",
}
_TAKES = {
    "volume": {"source", "readonly", "nocopy", "subpath", "volume-opt"},
    "bind": {"source", "readonly"},
    "image": {"source", "readonly", "writable", "subpath"},
    "tmpfs": {"readonly", "size", "mode"},
}


def parse_mount(text: str) -> AnyMount:
    """`type=volume|bind|image|tmpfs,source=...,target=...[,readonly]...`; a value with a comma: `"source=a,b"`.

    Raises `FormatError`; `UnsupportedError` for types that docker or podman know and Lazarus does not.
    """
    what = f"mount {text!r:.200}"
    _check_text(what, text)
    found = _fields(what, text)
    kind = found.pop("type", "volume")
    if kind in ("npipe", "cluster", "glob", "devpts", "ramfs"):
        raise UnsupportedError(f"{what}: mounts of type {kind} are not supported; known are {', '.join(_TAKES)}")
    if kind not in _TAKES:
        raise FormatError(f"{what}: type {kind!r:.40} is not one of {', '.join(_TAKES)}")
    target = check_target(what, found.pop("target", ""))
    if wrong := sorted(found.keys() - _TAKES[kind]):
        raise FormatError(f"{what}: {', '.join(wrong)} makes no sense for type {kind}")
    read_only = _truth(what, found.get("readonly", "false"))
    source = found.get("source", "")
    if kind == "tmpfs":
        return Tmpfs(target, _convert(what, found, "size", parse_size), _convert(what, found, "mode", _mode), read_only)
    if kind == "bind":
        if not source:
            raise FormatError(f"{what}: a bind mount needs a source")
        return Bind(os.path.abspath(source), target, read_only)
    if kind == "image":
        return _image(what, found, target)
    if source and not is_source(source):
        raise FormatError(f"{what}: {source!r} is not a volume name; a path of the host needs type=bind")
    subpath = check_subpath(what, found["subpath"]) if "subpath" in found else ""
    if subpath and not source:
        raise FormatError(f"{what}: a new volume has no directories; a subpath needs a source")
    nocopy = _truth(what, found.get("nocopy", "false"))
    size = read_size(f"{what}: volume-opt", [found["volume-opt"]] if "volume-opt" in found else [])
    mount = VolumeMount(None, target, read_only, nocopy, subpath, anonymous=not source, size=size)
    return _volume(what, source, mount, "readonly" in found and not read_only) if source else mount


def _image(what: str, found: dict[str, str], target: str) -> ImageMount:
    writable = _truth(what, found.get("writable", "false"))
    if "readonly" in found and "writable" in found and _truth(what, found["readonly"]) == writable:
        raise FormatError(f"{what}: read-only and rw at once")
    if "writable" not in found and "readonly" in found:
        writable = not _truth(what, found["readonly"])
    subpath = found.get("subpath", "")
    return _checked_image(what, ImageMount(found.get("source", ""), target, writable, subpath))


def _checked_image(what: str, mount: ImageMount) -> ImageMount:
    if not mount.source:
        raise FormatError(f"{what}: a mount of an image needs a source")
    _check_text(what, mount.source)
    subpath = check_subpath(what, mount.subpath.lstrip("/")) if mount.subpath.lstrip("/") else ""
    return mount._replace(subpath=subpath, part="")


def check_mount(mount: AnyMount) -> AnyMount:
    """A typed value by the same rules, or `FormatError`."""
    what = f"mount {mount!r:.200}"
    target = check_target(what, mount.target)
    if isinstance(mount, VolumeMount):
        if mount.name is not None and not is_name(mount.name):
            raise FormatError(f"{what}: {mount.name!r:.140} is not a volume name")
        if mount.snapshot and (mount.name is None or not is_source(mount.source)):
            raise FormatError(f"{what}: {mount.snapshot!r:.140} is not the name of a snapshot of a volume")
        subpath = check_subpath(what, mount.subpath) if mount.subpath else ""
        if subpath and mount.name is None:
            raise FormatError(f"{what}: a new volume has no directories; a subpath needs a name")
        if mount.size is not None and not 0 < mount.size < 2**63:
            raise FormatError(f"{what}: a size that cannot be")
        read_only = mount.read_only or bool(mount.snapshot)
        return mount._replace(target=target, read_only=read_only, subpath=subpath, anonymous=mount.name is None)
    if isinstance(mount, ImageMount):
        return _checked_image(what, mount._replace(target=target))
    if isinstance(mount, Bind):
        _check_text(what, mount.source)
        return mount._replace(source=os.path.abspath(mount.source), target=target)
    if (mount.size is not None and not 0 < mount.size < 2**63) or (
        mount.mode is not None and not 0 <= mount.mode <= 0o7777
    ):
        raise FormatError(f"{what}: a size or mode that cannot be")
    return mount._replace(target=target)


def check_target(what: str, text: str) -> str:
    """An absolute path of the container, without `..`; not its root. `FormatError`."""
    _check_text(what, text)
    if not text:
        raise FormatError(f"{what}: where in the container? a target is missing")
    if not text.startswith("/"):
        raise FormatError(f"{what}: {text!r:.200} is not an absolute path of the container")
    target = os.path.normpath("/" + text.lstrip("/"))
    if target == "/":
        raise FormatError(f"{what}: nothing can be mounted over the container's root")
    return target


def check_subpath(what: str, text: str) -> str:
    """A relative path of a volume without `..`; nothing for the whole of it. `FormatError`."""
    _check_text(what, text)
    if not text or text.startswith("/") or ".." in text.split("/"):
        raise FormatError(f"{what}: subpath {text!r:.200} is not a relative path inside a volume")
    path = os.path.normpath(text)
    return "" if path == "." else path


def _check_text(what: str, text: str) -> None:
    if "\0" in text:
        raise FormatError(f"{what}: a NUL byte in a path")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FormatError(f"{what}: not UTF-8, which a container's configuration has to be") from None


def _fields(what: str, text: str) -> dict[str, str]:
    words = text.split(",")
    if '"' in text:
        import csv

        try:
            rows = list(csv.reader([text], strict=True))
        except csv.Error as error:
            raise FormatError(f"{what}: {error}") from error
        words = rows[0] if rows else []
    found: dict[str, str] = {}
    for word in words:
        key, separator, value = word.partition("=")
        name = _KEYS.get(key.strip().lower())
        if name is None:
            raise FormatError(f"{what}: unknown key {key!r:.40}; known are {', '.join(sorted(_KEYS))}")
        if name in found:
            raise FormatError(f"{what}: {key} is given twice")
        if not separator and name not in ("readonly", "writable", "nocopy"):
            raise FormatError(f"{what}: {key} needs a value")
        found[name] = value if separator else "true"
    return found


def _truth(what: str, text: str) -> bool:
    if text.lower() not in ("true", "1", "false", "0"):
        raise FormatError(f"{what}: {text!r:.40} is neither true nor false")
    return text.lower() in ("true", "1")


def _convert(what: str, found: dict[str, str], key: str, convert: Callable[[str], int]) -> int | None:
    if key not in found:
        return None
    try:
        return convert(found[key])
    except ValueError:
        raise FormatError(f"{what}: tmpfs-{key} {found[key]!r:.40} cannot be") from None


def read_size(what: str, options: Iterable[str]) -> int | None:
    """The limit in bytes that storage options ask for: the last `size=SIZE`, or `o=size=SIZE` as podman has it.
    `FormatError` for others, which begins with `what`."""
    found = None
    for text in options:
        key, _, value = text.removeprefix("o=").partition("=")
        if key != "size":
            raise FormatError(f"{what} {text:.100}: not size=SIZE")
        try:
            found = parse_size(value)
        except ValueError:
            raise FormatError(f"{what} {text:.100}: not a size, as in size=10G") from None
    return found


def parse_size(text: str) -> int:
    """`1048576`, `64k`, `1.5m`, `1G`, `1gb`, `1GiB`: powers of 1024, as docker reads them."""
    number = text.lower().removesuffix("b").removesuffix("i")
    shift = {"k": 10, "m": 20, "g": 30, "t": 40}.get(number[-1:], 0)
    digits = number[:-1] if shift else number
    if not (digits.isascii() and digits.replace(".", "", 1).isdigit()):
        raise ValueError(text)
    count = float(digits) * (1 << shift)
    if not 1 <= count < 2**63:
        raise ValueError(text)
    return int(count)


def _mode(text: str) -> int:
    mode = int(text, 8)
    if not (text.isascii() and text.isdigit() and mode <= 0o7777):
        raise ValueError(text)
    return mode
