"""What is done to the layers of union_ground.py, step by step, with the errno of each step that is refused.

The ideas are those of overlayfs' unionmount-testsuite: each operation on each type, on what only a lower has, what is
merged, what is new, what was moved, what is hidden, and then once more on what came of it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence

from .changes import (
    Change,
    append,
    chmod,
    chown,
    exchange,
    link,
    look,
    mkdir,
    mknod,
    open_with,
    patch,
    punch,
    removexattr,
    rename,
    rename_new,
    rmdir,
    rmtree,
    setxattr,
    setxattr_if,
    symlink,
    touch_open,
    truncate,
    unlink,
    utime,
    write,
)
from .union_ground import LARGE

Step = Change | tuple[Change, int]
LONG = "n" * 255
LONG_AGO = 1_234_567_890_987_654_321


def steps_of(steps: Sequence[Step]) -> Iterator[tuple[Change, int]]:
    """Each with what is expected: without an errno, success."""
    for step in steps:
        yield step if type(step) is tuple else (step, 0)  # type: ignore[misc] # a change is a tuple of its own type


def refused(number: int, *changes: Change) -> list[Step]:
    """Each fails with this errno."""
    return [(change, number) for change in changes]


def opened(path: str, flags: int, number: int = 0) -> Step:
    """open(2), expected to say `number`."""
    return (open_with(path, flags), number)


SCENARIOS: dict[str, Sequence[Step]] = {
    "what is missing": [
        *refused(errno.ENOENT, unlink("/union/no"), rmdir("/union/no"), truncate("/union/no", 0)),
        *refused(errno.ENOENT, chmod("/union/no", 0), chown("/union/no", 1, 1), utime("/union/no", 1)),
        *refused(errno.ENOENT, rename("/union/no", "/union/x"), rename_new("/union/no", "/etc/hosts")),
        *refused(errno.ENOENT, exchange("/union/no", "/etc/hosts"), exchange("/etc/hosts", "/union/no")),
        *refused(errno.ENOENT, link("/union/no", "/union/x"), link("/etc/hosts", "/union/no/x")),
        *refused(errno.ENOENT, mkdir("/union/no/x"), write("/union/no/x", b""), symlink("x", "/union/no/x")),
        *refused(errno.ENOENT, mknod("/union/no/x", stat.S_IFIFO), touch_open("/union/no"), look("/union/no")),
        *refused(errno.ENOENT, look("/etc/extra"), look("/union/dir/gone"), look("/union/first"), look("/usr/library")),
        *refused(errno.ENOENT, setxattr("/union/no", "user.a", b""), removexattr("/union/no", "user.a")),
        *refused(errno.ENOENT, unlink("/union/dir/gone"), rmdir("/union/second"), chmod("/union/opaque/low", 0)),
        *refused(errno.ENODATA, removexattr("/etc/hosts", "user.a"), removexattr("/srv", "user.a")),
        *refused(errno.ENODATA, setxattr_if("/etc/hosts", "user.a", b"1", os.XATTR_REPLACE)),
        *refused(errno.EEXIST, setxattr_if("/srv/app.txt", "user.note", b"1", os.XATTR_CREATE)),
    ],
    "what is in the way": [
        *refused(errno.EEXIST, mkdir("/etc"), mkdir("/etc/hosts"), mkdir("/union/loop"), mkdir("/union/dangling")),
        *refused(errno.EEXIST, symlink("x", "/etc"), symlink("x", "/etc/hosts"), symlink("x", "/union/loop")),
        *refused(errno.EEXIST, mknod("/etc/hosts", stat.S_IFIFO), mknod("/union/dir", stat.S_IFREG | 0o600)),
        *refused(errno.EEXIST, link("/etc/hosts", "/etc/passwd"), link("/etc/hosts", "/etc"), link("/etc/hosts", "/")),
        *refused(errno.EEXIST, link("/etc/hosts", "/etc/hosts"), link("/etc/hosts", "/union/dangling")),
        *refused(errno.EEXIST, rename_new("/etc/hosts", "/etc/passwd"), rename_new("/union/dir", "/etc/hosts")),
        *refused(errno.EEXIST, rename_new("/etc/hosts", "/etc/hosts"), rename_new("/union/dir", "/empty")),
        *refused(errno.ENOTDIR, look("/etc/hosts/x"), mkdir("/etc/hosts/x"), unlink("/etc/hosts/x")),
        *refused(errno.ENOTDIR, rmdir("/etc/hosts"), rmdir("/union/loop"), rmdir("/union/to dir"), rmdir("/tmp/pipe")),
        *refused(
            errno.ENOTDIR, rename("/etc/hosts/x", "/x"), rename("/etc", "/union/turned"), link("/etc/hosts/", "/x")
        ),
        *refused(errno.ENOTDIR, look("/etc/hosts", "listdir"), rename("/etc", "/union/loop")),
        *refused(errno.EISDIR, unlink("/union/dir"), unlink("/union/turn"), write("/etc", b""), truncate("/etc", 0)),
        *refused(errno.EISDIR, touch_open("/union/opaque"), rename("/etc/hosts", "/empty"), append("/union", b"")),
        *refused(errno.EISDIR, rename("/etc/hosts", "/union/dir"), rename("/union/loop", "/union/hollow")),
        *refused(errno.EPERM, link("/etc", "/x"), link("/union/dir", "/union/x")),
        *refused(errno.ENOTEMPTY, rmdir("/etc"), rmdir("/union/dir"), rmdir("/union/turn"), rmdir("/union/moved/sub")),
        *refused(errno.ENOTEMPTY, rename("/empty", "/etc"), rename("/union/opaque", "/union/dir")),
        *refused(errno.EINVAL, look("/etc/hosts", "readlink"), look("/etc", "readlink"), truncate("/tmp/pipe", 0)),
        *refused(
            errno.EINVAL, rename("/union", "/union/x"), rename("/union", "/union/dir/x"), rename("/usr", "/usr/lib/a")
        ),
        *refused(errno.EINVAL, exchange("/union", "/union/dir"), exchange("/union/dir", "/union")),
        *refused(errno.ENOTEMPTY, rename("/union/dir", "/union"), rename("/usr/lib/deep/er", "/usr")),
        *refused(errno.EPERM, setxattr("/union/loop", "user.a", b"1"), setxattr("/tmp/pipe", "user.a", b"1")),
        *refused(errno.EOPNOTSUPP, setxattr("/etc/hosts", "nothing.a", b"1")),
    ],
    "names": [
        *refused(errno.ENAMETOOLONG, mkdir("/" + LONG + "n"), write("/etc/" + LONG + "n", b""), look("/" + LONG + "n")),
        *refused(errno.ENAMETOOLONG, rename("/etc/hosts", "/" + LONG + "n"), unlink("/" + LONG + "n")),
        *refused(errno.ENAMETOOLONG, symlink("x", "/etc/" + LONG + "n"), symlink("t" * 4096, "/etc/t")),
        *refused(errno.ENAMETOOLONG, look("/etc" * 1024), link("/etc/hosts", "/" + LONG + "n")),
        mkdir("/" + LONG),
        write(f"/{LONG}/{LONG}", b"long"),
        rename(f"/{LONG}/{LONG}", f"/etc/{LONG}"),
        rename("/usr/lib", f"/{LONG}/{LONG}"),
        link(f"/{LONG}/{LONG}/small", f"/{LONG}/{LONG}/{LONG}"),
        symlink("t" * 4095, "/etc/t"),
        rename(b"/tmp/\xff\xfe name", b"/tmp/\xfe\n"),
        *refused(errno.ENOENT, symlink("", "/tmp/y")),
    ],
    "slashes and dots": [
        mkdir("/union/new/"),
        *refused(errno.EEXIST, mkdir("/union/new/."), mkdir("/"), mkdir("/union/dir/..")),
        *refused(errno.ENOENT, mkdir("/union/no/."), mkdir("/union/dangling/."), truncate("/union/no/", 0)),
        *refused(errno.EISDIR, write("/union/no/", b""), write("/union/new/", b"")),
        *refused(errno.EINVAL, rmdir("/union/new/.")),
        *refused(errno.ENOTEMPTY, rmdir("/union/new/..")),
        *refused(errno.EBUSY, rmdir("/"), rename("/union/new/.", "/x"), rename("/union/new", "/union/dir/.")),
        *refused(errno.EBUSY, rename("/union/new/..", "/x"), rename("/", "/x"), rename("/union/new", "/")),
        *refused(errno.EISDIR, unlink("/"), unlink("/union/new/."), unlink("/union/dir/"), unlink("/union/new/..")),
        *refused(
            errno.ENOTDIR, unlink("/etc/hosts/"), rename("/etc/hosts/", "/x"), look("/etc/hosts/"), look("/etc/hosts/.")
        ),
        *refused(errno.ENOTDIR, rename("/etc/hosts", "/x/"), unlink("/union/to dir/"), truncate("/etc/hosts/", 0)),
        *refused(errno.ENOTDIR, rmdir("/union/to dir/"), chmod("/etc/hosts/", 0o600), rename("/union/to dir/", "/x")),
        *refused(errno.ENOENT, symlink("x", "/union/x/"), link("/etc/hosts", "/x/"), mknod("/x/", stat.S_IFIFO)),
        *refused(errno.EEXIST, mkdir("/union/to be made/"), symlink("x", "/etc/"), link("/etc/hosts", "/etc/")),
        rename("/union/new/", "/union/newer/"),
        rename("/union/newer", "/union/./new/"),
        chmod("/union//dir/.", 0o711),
        chmod("/union/to dir/", 0o755),
        rmdir("/union/hollow/"),
        rmdir("/union/new//"),
        look("/../../etc/./hosts"),
    ],
    "symlinks": [
        *refused(
            errno.ELOOP, look("/union/loop"), look("/union/loop/x"), write("/union/loop", b""), mkdir("/union/loop/x")
        ),
        *refused(errno.ELOOP, chmod("/union/loop", 0), truncate("/union/loop2", 0)),
        *refused(errno.ENOENT, look("/union/dangling"), chmod("/union/dangling", 0), truncate("/union/dangling", 0)),
        look("/union/loop", "lstat"),
        look("/union/loop", "readlink"),
        write("/union/dangling", b"made through the symlink"),
        write("/union/to be made", b"made where an absolute one leads"),
        append("/union/absolute", b"more\n"),
        patch("/union/up", 3, b"..."),
        write("/union/to dir/new", b"new"),
        mkdir("/union/to lib/made"),
        rename("/union/to dir/low", "/union/to lib/low"),
        rename("/union/to dir", "/union/moved link"),
        link("/union/moved link", "/union/linked link"),
        chown("/union/loop", 5, 6),
        utime("/union/absolute", LONG_AGO),
        unlink("/union/up"),
        symlink("hosts", "/etc/link"),
        link("/etc/link", "/etc/link2"),
        rename("/etc/link", "/etc/link2"),
        chmod("/etc/link2", 0o600),
        rename("/union/loop", "/union/loop2"),
        exchange("/union/loop2", "/union/dir"),
        look("/union/dir", "readlink"),
        look("/union/loop2", "listdir"),
    ],
    "open": [
        *(opened("/etc/hosts", flags) for flags in (os.O_RDONLY, os.O_CREAT, os.O_RDONLY | os.O_NOFOLLOW, os.O_APPEND)),
        *(opened("/union/dir", flags) for flags in (os.O_RDONLY, os.O_DIRECTORY, os.O_DIRECTORY | os.O_NOFOLLOW)),
        *(opened("/union/dir", flags, errno.EISDIR) for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC)),
        *(opened(f"/etc/{name}", os.O_CREAT | os.O_EXCL, errno.EEXIST) for name in ("hosts", "who")),
        opened("/etc/", os.O_CREAT | os.O_EXCL, errno.EISDIR),
        opened("/union", os.O_CREAT | os.O_EXCL, errno.EEXIST),
        opened("/union/dangling", os.O_CREAT | os.O_EXCL, errno.EEXIST),
        *(
            opened("/etc/hosts", os.O_DIRECTORY | flags, errno.ENOTDIR)
            for flags in (os.O_RDONLY, os.O_WRONLY, os.O_TRUNC)
        ),
        *(opened("/etc/who", os.O_NOFOLLOW | flags, errno.ELOOP) for flags in (os.O_RDONLY, os.O_WRONLY, os.O_CREAT)),
        opened("/union/to dir", os.O_DIRECTORY | os.O_NOFOLLOW, errno.ENOTDIR),
        opened("/union/to dir/", os.O_DIRECTORY | os.O_NOFOLLOW),
        opened("/union/to dir", os.O_DIRECTORY),
        opened("/union/loop", os.O_RDONLY, errno.ELOOP),
        opened("/union/no", os.O_RDONLY, errno.ENOENT),
        opened("/union/no", os.O_WRONLY | os.O_TRUNC, errno.ENOENT),
        opened("/union/no/", os.O_CREAT, errno.EISDIR),
        opened("/etc/hosts/", os.O_CREAT, errno.EISDIR),
        opened("/etc/hosts/", os.O_RDONLY, errno.ENOTDIR),
        opened("/union/x", os.O_CREAT | os.O_DIRECTORY, errno.EINVAL),
        opened("/union/pipe", os.O_WRONLY | os.O_NONBLOCK, errno.ENXIO),
        mknod("/union/socket", stat.S_IFSOCK | 0o640),
        opened("/union/socket", os.O_RDWR, errno.ENXIO),
        opened("/union/pipe", os.O_DIRECTORY, errno.ENOTDIR),
        open_with("/union/new", os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o640),
        open_with("/union/none", os.O_WRONLY | os.O_CREAT, 0),
        open_with("/union/setid", os.O_WRONLY | os.O_CREAT, 0o6711),
        opened("/union/low", os.O_RDWR | os.O_TRUNC),
        opened("/union/both", os.O_RDONLY | os.O_TRUNC),
        opened("/etc/who", os.O_WRONLY | os.O_TRUNC),
        opened("/union/dangling", os.O_WRONLY | os.O_CREAT),
        opened("/union/dir/gone", os.O_WRONLY | os.O_CREAT | os.O_EXCL),
        opened("/usr/lib/large", os.O_WRONLY | os.O_APPEND),
    ],
    "written, cut, extended, holes": [
        patch("/union/low", 5000, b"in a metacopy of a layer"),
        patch("/union/both", 100_000, b"far behind its end"),
        truncate("/usr/lib/large", 100_000),
        truncate("/usr/lib/large", 300_000),
        patch("/usr/lib/large", 200_000, b"after a hole"),
        punch("/usr/lib/large", 4096, 8192),
        punch("/usr/lib/large", 50_001, 10_001),
        append("/usr/lib/large", b"end"),
        truncate("/tmp/sparse", (1 << 20) + 1),
        punch("/tmp/sparse", 0, 1 << 20),
        utime("/tmp/sparse", LONG_AGO),
        punch("/tmp/sparse", 1 << 30, 4096),
        append("/usr/lib/small", b"er"),
        append("/union/to be made", b"new"),
        append("/union/low", b""),
        truncate("/usr/lib/empty", 3 << 20),
        write("/usr/lib/empty", LARGE * 2),
        truncate("/usr/lib/empty", 0),
        truncate("/union/moved/low", 3),
        truncate("/union/moved/low", 1),
        touch_open("/union/moved/sub/low"),
        punch("/union/moved/sub/middle", 1 << 20, 1 << 20),
        patch("/tmp/owned", 2, b"!!"),
    ],
    "attributes of every type": [
        mknod("/union/socket", stat.S_IFSOCK | 0o640),
        *(
            chmod(path, 0o4751)
            for path in ("/etc/hosts", "/usr/lib/large", "/union/low", "/union/dir", "/union/moved/low")
        ),
        *(
            chmod(path, 0o600)
            for path in ("/tmp/pipe", "/tmp/null", "/union/socket", "/union/absolute", "/union/hollow")
        ),
        *(
            chown(path, 7, 8)
            for path in ("/etc/passwd", "/union/dir/low", "/union/loop", "/union/pipe", "/empty", "/tmp/null")
        ),
        *(chown(path, -1, 9) for path in ("/etc/passwd", "/usr/lib/small", "/union/program")),
        *(utime(path, LONG_AGO) for path in ("/etc", "/union/both", "/union/loop", "/tmp/pipe", "/tmp/sparse", "/")),
        *(setxattr(path, "user.a", b"1") for path in ("/union/both", "/union/moved", "/union/opaque", "/tmp/sparse")),
        *(setxattr(path, "trusted.a", b"1") for path in ("/union/loop", "/tmp/pipe", "/", "/union/turn")),
        setxattr_if("/union/low", "user.of", b"1", os.XATTR_REPLACE),
        removexattr("/union/low", "user.of"),
        removexattr("/srv/app.txt", "user.note"),
        patch("/union/low", 0, b"then written"),
        patch("/union/both", 0, b"then written"),
        chmod("/union/both", 0o444),
        utime("/union/dir", 0),
        utime("/union/dir", 2**32 * 10**8),
    ],
    "set-id bits and capabilities": [
        setxattr("/union/program", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")),
        chown("/union/program", 5, 6),
        chmod("/union/program", 0o6711),
        patch("/union/program", 0, b"root keeps them"),
        setxattr("/union/program", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")),
        truncate("/union/program", 3),
        chmod("/union/dir/low", 0o2664),
        chown("/union/dir/low", 1, 1),
        chmod("/usr/lib/small", 0o6755),
        append("/usr/lib/small", b"x"),
        chmod("/union/dir", 0o6777),
        chown("/union/dir", 1, 1),
    ],
    "sticky and set-group-ID directories": [
        write("/union/group/new", b"x"),
        mkdir("/union/group/dir"),
        mkdir("/union/group/dir/dir", 0o700),
        symlink("x", "/union/group/link"),
        mknod("/union/group/pipe", stat.S_IFIFO | 0o600),
        open_with("/union/group/set", os.O_WRONLY | os.O_CREAT, 0o2775),
        mknod("/union/group/dir/set", stat.S_IFREG | 0o2711),
        mkdir("/union/group/dir/sticky", 0o1777),
        unlink("/union/group/file"),
        write("/union/group/file", b"over a whiteout"),
        unlink("/union/group/file"),
        mkdir("/union/group/file"),
        mkdir("/union/group/file/x"),
        rmtree("/union/group/file"),
        symlink("over", "/union/group/file"),
        write("/union/sticky/new", b"x"),
        mkdir("/union/sticky/dir"),
        write("/srv/new", b""),
        rename("/union/group", "/union/sticky/group"),
        mkdir("/union/sticky/group/again"),
        chmod("/union/sticky/group", 0o755),
        mkdir("/union/sticky/group/not"),
    ],
}
