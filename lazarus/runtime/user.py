"""Who a container's process runs as: `User` of an image config, resolved in the container's own files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from lazarus._native.openat2 import open_in_root
from lazarus.errors import ContainerRuntimeError

_LARGEST_FILE = 4 << 20
_LARGEST_ID = 2**32 - 2  # -1 means "unchanged" to the kernel


class User(NamedTuple):
    """Numeric identity of a process; `groups` are the supplementary ones, `home` comes from passwd ("/" without)."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


def resolve_user(root_fd: int, text: str) -> User:
    """`""`, `name`, `uid`, `name:group`, `uid:gid` in any mix, as the OCI image-spec (config.md, "User") reads them.

    Without a group the user's primary group and memberships count; with one, only that one. A number need not be
    listed. Raises `ContainerRuntimeError` for a name that is not. `root_fd` is the container's root directory.
    """
    name, _, group = text.partition(":")
    name = name or "0"
    number = _number(name)
    uid, gid, home, login = number, 0, "/", ""
    for row in _rows(root_fd, b"/etc/passwd", 6):
        if row[0] == name or (number is not None and row[2] == str(number)):
            uid, gid, home, login = _field(row[2], name), _field(row[3], name), row[5] or "/", row[0]
            break
    if uid is None:
        raise ContainerRuntimeError(f"user {name}: not in the container's /etc/passwd", 126)
    if group:
        return User(uid, _group(root_fd, group), (), home)
    groups = (
        _field(row[2], row[0])
        for row in _rows(root_fd, b"/etc/group", 4)
        if login and login in row[3].split(",") and _number(row[2]) is not None
    )
    return User(uid, gid, tuple(sorted(set(groups))), home)


def _group(root_fd: int, text: str) -> int:
    number = _number(text)
    if number is not None:
        return number
    for row in _rows(root_fd, b"/etc/group", 3):
        if row[0] == text:
            return _field(row[2], text)
    raise ContainerRuntimeError(f"group {text}: not in the container's /etc/group", 126)


def _number(text: str) -> int | None:
    """An id in decimal, else None. Raises for a number that no id can be."""
    if not (text.isascii() and text.isdigit()):
        return None
    if len(text) > 10 or int(text) > _LARGEST_ID:
        raise ContainerRuntimeError(f"user or group {text:.40}: not a valid id", 126)
    return int(text)


def _field(text: str, name: str) -> int:
    number = _number(text)
    if number is None:
        raise ContainerRuntimeError(f"{name}: the container's files give {text!r:.40} as its id", 126)
    return number


def _rows(root_fd: int, path: bytes, columns: int) -> Iterator[list[str]]:
    """The lines of a passwd-like file that have enough columns; nothing when it is missing or not a regular file."""
    try:
        fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return
        data = b""
        while len(data) < _LARGEST_FILE and (piece := os.read(fd, 1 << 16)):
            data += piece
    finally:
        os.close(fd)
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        row = line.strip().split(":")
        if len(row) >= columns:
            yield row
