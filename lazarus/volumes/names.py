"""Names of volumes: they become names of directories."""

from __future__ import annotations

import os
import re

from lazarus.errors import FormatError

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}\Z")
_SNAPSHOT = re.compile(
    r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}\Z"
)  # shorter: it shares the name of a directory with a volume's


def is_name(text: str) -> bool:
    """Can a volume be called so?"""
    return _NAME.match(text) is not None


def check_name(name: str) -> str:
    """Returns it, or raises `FormatError`: docker's rule, [a-zA-Z0-9][a-zA-Z0-9_.-]*, at most 128."""
    if not is_name(name):
        raise FormatError(f"{name!r:.140}: not a volume name (letters, digits, _ . - and not first, at most 128)")
    return name


def check_snapshot_name(name: str) -> str:
    """Returns it, or raises `FormatError`: as a volume's, at most 64."""
    if _SNAPSHOT.match(name) is None:
        raise FormatError(f"{name!r:.140}: not a snapshot name (letters, digits, _ . - and not first, at most 64)")
    return name


def is_source(text: str) -> bool:
    """Can it be mounted: VOLUME or VOLUME@SNAPSHOT?"""
    volume, at, snapshot = text.partition("@")
    return is_name(volume) and (not at or _SNAPSHOT.match(snapshot) is not None)


def split_snapshot(text: str) -> tuple[str, str | None]:
    """`VOLUME` or `VOLUME@SNAPSHOT`: the two names. `FormatError` when something that is no name follows the @."""
    volume, at, snapshot = text.partition("@")
    return volume, check_snapshot_name(snapshot) if at else None


def random_name() -> str:
    """64 hex digits, as docker gives to a volume without a name."""
    return os.urandom(32).hex()
