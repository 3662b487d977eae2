"""How much is there: counts and sizes for `system df`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from lazarus._native.publish import sweep_objects

if TYPE_CHECKING:
    from lazarus.content.content import ContentStore


class Usage(NamedTuple):
    """Files below a directory: how many, their logical bytes, and the bytes on disk of everything."""

    files: int
    bytes: int
    allocated: int


def disk_usage(path: str) -> Usage:
    """Of a file or a tree, without crossing into other file systems (mounted containers); hard links count once. The
    subvolumes of btrfs, which have a device each, count."""
    top = os.lstat(path)
    if not _is_directory(top):
        return Usage(1, top.st_size, top.st_blocks * 512)
    files = logical = 0
    allocated = top.st_blocks * 512
    devices = {top.st_dev}
    seen: set[tuple[int, int]] = set()
    pending = [os.fsencode(path)]  # names in a container's upper directory are any bytes
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError:
            continue  # removed meanwhile
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if status.st_dev not in devices and _is_subvolume(entry.path, status):
                devices.add(status.st_dev)
            file = (status.st_dev, status.st_ino)
            if status.st_dev not in devices or (status.st_nlink > 1 and file in seen):
                continue
            allocated += status.st_blocks * 512
            if _is_directory(status):
                pending.append(entry.path)
                continue
            if status.st_nlink > 1:
                seen.add(file)
            files += 1
            logical += status.st_size
    return Usage(files, logical, allocated)


def _is_directory(status: os.stat_result) -> bool:
    return status.st_mode & 0o170000 == 0o040000


def _is_subvolume(path: bytes, status: os.stat_result) -> bool:
    """Is the top of another device a subvolume (BTRFS_FIRST_FREE_OBJECTID is the inode of each), or mounted there?"""
    if status.st_ino != 256:
        return False
    with open("/proc/self/mountinfo", "rb") as file:
        places = {line.split(b" ")[4] for line in file}
    escaped = os.path.realpath(path)
    for byte in b"\\ \t\n":
        escaped = escaped.replace(bytes((byte,)), b"\\%03o" % byte)
    return escaped not in places


def usage(content: ContentStore) -> dict[str, Any]:
    """See `ContentStore.usage`."""
    from lazarus.content.collect import collect

    paths = content.paths
    count, logical, allocated = sweep_objects(paths.objects, None, b"")
    rooms = {"objects": {"count": count, "bytes": logical, "allocated": allocated}}
    kept = ("blobs", "layers", "stacks", "containers", "checkpoints", "volumes", "snapshots")
    for name in (*kept, "staging", "trash", "reserve"):
        found = []
        for directory in _places(content, name):
            entries = os.listdir(directory) if os.path.isdir(directory) else []  # the reserve may be missing
            found += [
                disk_usage(f"{directory}/{entry}") for entry in entries if os.path.lexists(f"{directory}/{entry}")
            ]
        rooms[name] = {
            "count": len(found),
            "bytes": sum(part.bytes for part in found),
            "allocated": sum(part.allocated for part in found),
        }
    rooms["total"] = {key: sum(room[key] for room in rooms.values()) for key in ("count", "bytes", "allocated")}
    return {**rooms, "reclaimable": collect(content, dry_run=True, rows=None).bytes}


def _places(content: ContentStore, room: str) -> list[str]:
    """The directories whose entries are things of that room."""
    if room == "reserve":
        return content.reserve.places()
    place: str = getattr(content.paths, room)
    return [f"{place}/{name}" for name in os.listdir(place)] if room == "checkpoints" else [place]
