"""Directories with everything in them that a volume may hold, and what there is to see of them."""

from __future__ import annotations

import os
import random
import socket
import stat
import struct
from pathlib import Path
from typing import Any

CAPABILITY = bytes.fromhex("0100000200240000000000000000000000000000")[:20]  # cap_net_raw and others, version 2
# user::rw-, user:1234:r--, group::r--, mask::r--, other::---
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permission, who)
    for tag, permission, who in (
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 4, 1234),
        (0x04, 4, 0xFFFFFFFF),
        (0x10, 4, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    )
)


def fill(place: Path, *, as_root: bool) -> None:
    """Makes the tree: nothing in it is left out but `socket`."""
    noise = random.Random(7)
    (place / "deep/er").mkdir(parents=True)
    (place / "deep/er/text").write_bytes(b"so it goes\n" * 5000)
    (place / "deep/noise").write_bytes(noise.randbytes(300_001))
    (place / "deep/pages").write_bytes(noise.randbytes(4096) * 10 + noise.randbytes(4096 * 90))
    (place / "empty").touch()
    (place / "one").write_bytes(b"1")
    os.link(place / "deep/noise", place / "same")
    os.link(place / "deep/noise", place / "deep/er/same too")
    os.symlink("../nowhere", place / "deep/link")
    os.link(place / "deep/link", place / "link too", follow_symlinks=False)
    os.mkfifo(place / "fifo", 0o640)
    with open(place / "holes", "wb") as file:
        file.truncate(5 << 20)
        for at in (0, 1 << 20, (3 << 20) - 4096):
            file.seek(at)
            file.write(noise.randbytes(70_000))
    with open(place / "only hole", "wb") as file:
        file.truncate(3 << 30)
    os.makedirs(bytes(place) + b"/not \xff utf-8/\xc3\x28")
    Path(os.fsdecode(bytes(place) + b"/not \xff utf-8/new\nline \x1b[31m")).write_bytes(b"odd")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "socket"))
    os.setxattr(place / "one", "user.note", b"\0\xff" * 100)
    os.setxattr(place / "deep", "user.empty", b"")
    os.setxattr(place / "one", "system.posix_acl_access", ACL)
    (place / "closed").mkdir()
    (place / "closed/in").write_bytes(b"in")
    if as_root:
        os.mknod(place / "char", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.mknod(place / "block", stat.S_IFBLK | 0o660, os.makedev(259, 1 << 18))
        os.setxattr(place / "deep/er/text", "security.capability", CAPABILITY)
        os.setxattr(place / "deep/link", "trusted.note", b"on a symlink", follow_symlinks=False)
        os.chown(place / "deep/er", 1234, 4_000_000_000)
        os.chown(place / "link too", 7, 8, follow_symlinks=False)
        os.chmod(place / "deep/er/text", 0o4711)
    os.chmod(place / "closed", 0o3000)
    for number, path in enumerate(sorted(place.rglob("*"), reverse=True)):
        when = (number - 20) * 1_000_000_000 * 86_400 * 300 + number  # some before 1970
        os.utime(path, ns=(when, when), follow_symlinks=False)
    os.utime(place, ns=(-1, -1))


def look(place: Path) -> dict[bytes, Any]:
    """All there is to see, by path. `socket` is left out; of files that are one, each has the names of all."""
    found: dict[bytes, Any] = {}
    links: dict[int, list[bytes]] = {}
    root = os.fsencode(place)
    todo = [root]
    while todo:
        path = todo.pop()
        status = os.lstat(path)
        if stat.S_ISSOCK(status.st_mode):
            continue
        name = path[len(root) :]
        names = sorted(os.listxattr(path, follow_symlinks=False))
        what: list[Any] = [status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_rdev]
        what += [{key: os.getxattr(path, key, follow_symlinks=False) for key in names}]
        if stat.S_ISDIR(status.st_mode):
            todo += [path + b"/" + inner for inner in os.listdir(path)]
        elif stat.S_ISLNK(status.st_mode):
            what.append(os.readlink(path))
        elif stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                what += [status.st_size, file.read(8 << 20)]
        if not stat.S_ISDIR(status.st_mode):
            what.append(links.setdefault(status.st_ino, []))
            what[-1].append(name)
            what[-1].sort()
        found[name] = what
    return found


def allocated(place: Path) -> int:
    """Bytes on disk of all files."""
    return sum(os.lstat(path).st_blocks * 512 for path in place.rglob("*"))
