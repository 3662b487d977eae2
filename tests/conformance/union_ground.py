"""Three layers that hold every way in which a layer speaks of those below it; together they show what the scenarios of
pack start from, and /union.

    /union/dir       merged of three directories, one name of which is hidden
    /union/opaque    hides what the lowest has;  /union/hollow    empty, of two hidden names
    /union/moved     renamed twice, its parts under three names
    /union/turn, turned    a file that became a directory, and the other way round
    /union/low, both    a metacopy; a file written again
"""

from __future__ import annotations

import stat
from pathlib import Path

from .changes import (
    apply_all,
    chmod,
    chown,
    link,
    mkdir,
    mknod,
    patch,
    rename,
    rmdir,
    rmtree,
    setxattr,
    symlink,
    unlink,
    write,
)

LARGE = bytes(range(256)) * 400


def lowest(root: Path) -> None:
    """Much that later layers change."""
    apply_all(
        [
            chmod("/", 0o755),
            mkdir("/etc"),
            write("/etc/passwd", b"root:x:0:0\n"),
            write("/etc/hosts", b"127.0.0.1 localhost\n"),
            write("/etc/extra", b"goes"),
            symlink("passwd", "/etc/who"),
            mkdir("/usr"),
            mkdir("/usr/library"),
            write("/usr/library/large", LARGE),
            write("/usr/library/small", b"small"),
            write("/usr/library/empty", b""),
            mkdir("/usr/library/deep"),
            mkdir("/usr/library/deep/er"),
            write("/usr/library/deep/er/file", b"deep"),
            write("/usr/library/deep/other", b"other"),
            symlink("lib/large", "/usr/shortcut"),
            mkdir("/srv"),
            chmod("/srv", 0o1777),
            write("/srv/app.txt", b"before"),
            mkdir("/empty"),
            write("/empty/not", b"not"),
            mkdir("/union"),
            write("/union/low", b"low" * 2000),
            write("/union/both", b"low"),
            mkdir("/union/dir"),
            write("/union/dir/low", b"low"),
            write("/union/dir/gone", b"gone"),
            mkdir("/union/opaque"),
            write("/union/opaque/low", b"low"),
            mkdir("/union/hollow"),
            write("/union/hollow/a", b"a"),
            write("/union/hollow/b", b"b"),
            mkdir("/union/first"),
            mkdir("/union/first/sub"),
            write("/union/first/sub/low", b"low"),
            write("/union/first/low", b"low"),
            write("/union/first/linked", b"linked"),
            link("/union/first/linked", "/union/first/sub/linked"),
            write("/union/turn", b"file"),
            mkdir("/union/turned"),
            write("/union/turned/low", b"low"),
            mkdir("/union/sticky"),
            chmod("/union/sticky", 0o1777),
            mkdir("/union/group"),
            chown("/union/group", 0, 50),
            chmod("/union/group", 0o2775),
            write("/union/group/file", b"x"),
            symlink("loop2", "/union/loop"),
            symlink("loop", "/union/loop2"),
            symlink("/etc/passwd", "/union/absolute"),
            symlink("nowhere", "/union/dangling"),
            symlink("/union/made", "/union/to be made"),
            symlink("dir", "/union/to dir"),
            symlink("/usr/lib", "/union/to lib"),
            symlink("../../../../etc/hosts", "/union/up"),
            mknod("/union/pipe", stat.S_IFIFO | 0o640),
            write("/union/program", b"\x7fELF"),
            chown("/union/program", 3, 4),
            chmod("/union/program", 0o6755),
        ],
        root,
    )


def middle(root: Path) -> None:
    """Renames, marks, things that become others, hard links."""
    apply_all(
        [
            unlink("/etc/extra"),
            rename("/usr/library", "/usr/lib"),
            link("/usr/lib/large", "/usr/lib/large.1"),
            link("/usr/lib/large", "/usr/large.2"),
            rmtree("/empty"),
            mkdir("/empty"),
            mkdir("/tmp"),
            mknod("/tmp/pipe", stat.S_IFIFO | 0o640),
            mknod("/tmp/null", stat.S_IFCHR | 0o666, 1 << 8 | 3),
            write("/tmp/owned", b"owned"),
            chown("/tmp/owned", 1000, 65534),
            write(b"/tmp/\xff\xfe name", b"not UTF-8"),
            write("/union/both", b"middle" * 1000),
            write("/union/dir/middle", b"middle"),
            unlink("/union/dir/gone"),
            rmtree("/union/opaque"),
            mkdir("/union/opaque"),
            write("/union/opaque/middle", b"middle"),
            unlink("/union/hollow/a"),
            rename("/union/first", "/union/second"),
            write("/union/second/sub/middle", b"middle"),
            unlink("/union/turn"),
            mkdir("/union/turn"),
            write("/union/turn/middle", b"middle"),
            rmtree("/union/turned"),
            write("/union/turned", b"file"),
        ],
        root,
    )


def upmost(root: Path) -> None:
    """Attributes alone, and the last of everything."""
    apply_all(
        [
            write("/srv/app.txt", b"app"),
            setxattr("/srv/app.txt", "user.note", b"\x00binary\n\xff"),
            write("/tmp/sparse", b"x"),
            patch("/tmp/sparse", 1 << 20, b"end"),
            chmod("/union/low", 0o600),
            setxattr("/union/low", "user.of", b"metacopy"),
            write("/union/dir/top", b"top"),
            unlink("/union/hollow/b"),
            mkdir("/union/hollow/c"),
            rmdir("/union/hollow/c"),
            rename("/union/second", "/union/moved"),
            write("/union/moved/top", b"top"),
            chmod("/usr/lib/deep", 0o750),
            chmod("/usr/lib/deep", 0o755),
        ],
        root,
    )


GENERATIONS = [lowest, middle, upmost]
