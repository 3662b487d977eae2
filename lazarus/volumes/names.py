"""Names of volumes: they become names of directories."""

from __future__ import annotations

import os
import re

from lazarus.errors import FormatError

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}\Z")


def is_name(text: str) -> bool:
    """Can a volume be called so?"""
    return _NAME.match(text) is not None


def check_name(name: str) -> str:
    """Returns it, or raises `FormatError`: docker's rule, [a-zA-Z0-9][a-zA-Z0-9_.-]*, at most 128."""
    if not is_name(name):
        raise FormatError(f"{name!r:.140}: not a volume name (letters, digits, _ . - and not first, at most 128)")
    return name


def random_name() -> str:
    """64 hex digits, as docker gives to a volume without a name."""
    return os.urandom(32).hex()
