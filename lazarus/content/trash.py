"""Removing what a process left that was killed at the wrong moment: something may still be mounted in it."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from lazarus._native import mount as mounts
from lazarus._native.publish import remove_tree


def remove(path: str) -> int:
    """As `remove_tree`, which never goes into a mount (EBUSY): unmounts first what is mounted in it. The bytes on disk
    that it gave back."""
    try:
        return remove_tree(path)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    unmount_below(path)
    return remove_tree(path)


def unmount_below(path: str) -> None:
    """Unmounts what is mounted below a directory, the innermost first; who still uses it keeps it. Reads the mount
    table: 20 us and more, the longer that is."""
    with suppress(OSError):
        for point in reversed(mounted_below(path)):
            mounts.unmount(point, lazy=True)


def mounted_below(path: str) -> list[str]:
    """The mount points below a directory, the outermost first."""
    top = os.fsencode(os.path.realpath(path) + "/")
    with open("/proc/self/mountinfo", "rb") as file:
        points = [_plain(line.split(b" ", 5)[4]) for line in file]
    return [os.fsdecode(point) for point in points if point.startswith(top)]


def _plain(text: bytes) -> bytes:
    """Space, tabulator, newline and backslash are octal there."""
    for code in (b"040", b"011", b"012", b"134"):
        text = text.replace(b"\\" + code, bytes([int(code, 8)]))
    return text
