"""Pack and diff over a real kernel overlay: every way in which an upper says that something changed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from conformance import scenario
from conformance.changes import (
    Change,
    apply_all,
    chmod,
    chown,
    exchange,
    link,
    mkdir,
    mknod,
    patch,
    removexattr,
    rename,
    rmdir,
    rmtree,
    setxattr,
    symlink,
    touch_open,
    truncate,
    unlink,
    utime,
    write,
)
from conformance.trees import Tree, differences

pytestmark = pytest.mark.root

LARGE = bytes(range(256)) * 400  # over the inline limit: an object
# What getxattr gives for `setfacl -m u:7:r`, mode rw-r--r--: version 2, then (tag, permissions, id) of 8 bytes each
ACL = bytes.fromhex("02000000 01000600ffffffff 02000400070000 00 04000400ffffffff 10000400ffffffff 20000400ffffffff")
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # version 2: cap_net_bind_service=ep


def build_lower(root: Path) -> None:
    """A little of everything."""
    apply_all(
        [
            mkdir("/etc"),
            write("/etc/passwd", b"root:x:0:0\n"),
            write("/etc/hosts", b"127.0.0.1 localhost\n"),
            symlink("passwd", "/etc/who"),
            mkdir("/usr"),
            mkdir("/usr/lib"),
            write("/usr/lib/large", LARGE),
            write("/usr/lib/small", b"small"),
            write("/usr/lib/empty", b""),
            link("/usr/lib/large", "/usr/lib/large.1"),
            link("/usr/lib/large", "/usr/large.2"),
            symlink("lib/large", "/usr/shortcut"),
            mkdir("/usr/lib/deep"),
            mkdir("/usr/lib/deep/er"),
            write("/usr/lib/deep/er/file", b"deep"),
            write("/usr/lib/deep/other", b"other"),
            mkdir("/srv", 0o1777),
            write("/srv/app.txt", b"app"),
            setxattr("/srv/app.txt", "user.note", b"\x00binary\n\xff"),
            mkdir("/empty"),
            mkdir("/tmp"),
            mknod("/tmp/pipe", stat.S_IFIFO | 0o640),
            mknod("/tmp/null", stat.S_IFCHR | 0o666, os.makedev(1, 3)),
            write("/tmp/owned", b"owned"),
            chown("/tmp/owned", 1000, 65534),
            write(b"/tmp/\xff\xfe name", b"not UTF-8"),
            write("/tmp/sparse", b"x"),
            patch("/tmp/sparse", 1 << 20, b"end"),
        ],
        root,
    )


SCENARIOS: dict[str, list[Change]] = {
    "nothing": [],
    "new, changed, deleted": [
        write("/etc/new", b"new"),
        write("/etc/hosts", b"other"),
        unlink("/etc/passwd"),
        mkdir("/etc/d"),
        write("/etc/d/x", LARGE),
        rmtree("/usr/lib"),
        write("/etc/gone", b"g"),
        unlink("/etc/gone"),
    ],
    "opened for writing only": [touch_open("/usr/lib/small"), touch_open("/etc/passwd")],
    "deleted and made again": [
        rmtree("/usr/lib"),
        mkdir("/usr/lib", 0o700),
        write("/usr/lib/small", b"again"),
        mkdir("/usr/lib/deep"),
        rmdir("/empty"),
        mkdir("/empty"),
        write("/empty/x", b"x"),
    ],
    "file to directory and back": [
        unlink("/etc/passwd"),
        mkdir("/etc/passwd"),
        write("/etc/passwd/x", b"x"),
        rmtree("/usr/lib"),
        write("/usr/lib", b"file now"),
        unlink("/usr/shortcut"),
        mkdir("/usr/shortcut"),
        rmdir("/empty"),
        symlink("etc", "/empty"),
    ],
    "directory renamed, same parent": [rename("/usr/lib", "/usr/lib64")],
    "directory renamed, other parent": [rename("/usr/lib", "/srv/lib"), rename("/srv", "/usr/srv")],
    "renamed, then changed inside": [
        rename("/usr/lib", "/usr/l"),
        unlink("/usr/l/small"),
        write("/usr/l/new", b"new"),
        chmod("/usr/l/large", 0o600),
        patch("/usr/l/deep/other", 2, b"XX"),
        rmtree("/usr/l/deep/er"),
        chown("/usr/l/deep", 5, 6),
    ],
    "renamed twice, and nested": [
        rename("/usr/lib/deep", "/usr/lib/d"),
        rename("/usr/lib", "/usr/a"),
        rename("/usr/a", "/usr/b"),
        rename("/usr/b/d/er", "/usr/b/er"),
        rename("/usr/b/d", "/deep"),
        rename("/usr", "/opt"),
    ],
    "renamed away and back": [rename("/usr/lib", "/x"), write("/x/new", b"n"), rename("/x", "/usr/lib")],
    "renamed over a deleted name": [
        rmtree("/srv"),
        rename("/usr/lib", "/srv"),
        rename("/usr", "/etc/usr"),
        mkdir("/usr"),
        write("/usr/large.2", b"not the old one"),
        unlink("/etc/passwd"),
        rename("/etc/usr", "/etc/passwd"),
    ],
    "renamed over an empty directory": [rename("/usr/lib/deep", "/empty"), unlink("/empty/other")],
    "out of a renamed directory": [
        rename("/usr/lib", "/lib"),
        rename("/lib/deep", "/deep"),
        rename("/lib/large", "/large"),
        rename("/lib/small", "/etc/small"),
        write("/deep/other", b"now"),
        mkdir("/usr/lib"),
        rename("/deep/er", "/usr/lib/er"),
    ],
    "directories exchanged": [exchange("/usr/lib", "/srv"), unlink("/srv/small"), write("/usr/lib/app.txt", b"2")],
    "file and directory exchanged": [exchange("/usr/lib", "/etc/passwd")],
    "attributes only": [
        chmod("/usr/lib/large", 0o4755),
        chown("/usr/lib/small", 7, 8),
        utime("/etc/passwd", 1_234_567_890_987_654_321),
        setxattr("/etc/hosts", "user.a", b"1"),
        removexattr("/srv/app.txt", "user.note"),
        chown("/etc/who", 9, 9),
        utime("/usr/shortcut", 5),
        chmod("/srv", 0o700),
        chmod("/tmp/pipe", 0o600),
        chmod("/usr/lib/empty", 0o600),
    ],
    "attributes, then renamed": [
        chmod("/usr/lib/large", 0o700),
        rename("/usr/lib/large", "/usr/lib/huge"),
        chmod("/usr/lib/small", 0o600),
        rename("/usr/lib/small", "/small"),
        rename("/usr/lib/deep/other", "/usr/lib/o"),
        rename("/usr/lib/o", "/o"),
        rename("/etc", "/conf"),
        rename("/conf/hosts", "/conf/h"),
        rename("/usr/lib/huge", "/conf/huge"),
    ],
    "attributes, then data": [
        chmod("/usr/lib/large", 0o700),
        patch("/usr/lib/large", 10, b"now"),
        truncate("/etc/hosts", 3),
    ],
    "hard links": [
        write("/one", LARGE),
        link("/one", "/two"),
        mkdir("/d"),
        link("/one", "/d/three"),
        link("/etc/passwd", "/etc/passwd.bak"),
        link("/usr/lib/small", "/linked"),
        chmod("/linked", 0o640),
        symlink("x", "/s1"),
        link("/s1", "/s2"),
        mknod("/p1", stat.S_IFIFO | 0o600),
        link("/p1", "/d/p2"),
        link("/tmp/null", "/d/null"),
    ],
    "metacopy linked and renamed": [
        chmod("/usr/lib/small", 0o600),
        link("/usr/lib/small", "/usr/second"),
        rename("/usr/second", "/usr/lib/deep/third"),
        rename("/usr/lib/small", "/usr/lib/first"),
        rename("/usr/lib/deep", "/deep"),
    ],
    "links inside a renamed directory": [
        rename("/usr", "/sys"),
        chmod("/sys/lib/large", 0o600),
    ],
    "xattrs": [
        write("/bin", b"\x7fELF"),
        setxattr("/bin", "security.capability", CAPABILITY),
        # overlayfs refuses an ACL on a file that only a lower without ACL support (EROFS) has: copied up first
        chmod("/etc/hosts", 0o640),
        setxattr("/etc/hosts", "system.posix_acl_access", ACL),
        setxattr("/srv", "user.long", b"v" * 3000),
        setxattr("/srv", "trusted.mine", b"\x00\x01"),
        chmod("/etc", 0o750),
        setxattr("/etc", "system.posix_acl_default", ACL),
    ],
    "escaped xattrs": [
        setxattr("/etc/hosts", "trusted.overlay.opaque", b"y"),
        mkdir("/inner"),
        setxattr("/inner", "trusted.overlay.redirect", b"/etc"),
        setxattr("/etc", "user.overlay.opaque", b"y"),
    ],
    "sparse": [
        write("/hole", b""),
        truncate("/hole", 3 << 20),
        write("/holes", b"begin"),
        patch("/holes", 1 << 20, b"middle" * 5000),
        truncate("/holes", (5 << 20) + 17),
        rename("/tmp/sparse", "/srv/sparse"),
        write("/tail", b"x" * 8192),
        patch("/tail", 1 << 19, b"y"),
    ],
    "devices, fifos, sockets": [
        mknod("/c", stat.S_IFCHR | 0o620, os.makedev(5, 1)),
        mknod("/b", stat.S_IFBLK | 0o660, os.makedev(259, 70000)),
        mknod("/f", stat.S_IFIFO | 0o600),
        mknod("/s", stat.S_IFSOCK | 0o600),
        unlink("/etc/hosts"),
        mknod("/etc/hosts", stat.S_IFSOCK | 0o600),
    ],
    "names": [
        write(b"/\xff\xfe\x80", b"x"),
        rename(b"/tmp/\xff\xfe name", b"/etc/\xfc"),
        mkdir("/" + "d" * 255),
        write("/" + "d" * 255 + "/" + "f" * 255, b"long"),
        symlink("t" * 300, "/long target"),
        write("/new\nline", b"x"),
        write("/-rf *", b"x"),
        unlink("/usr/lib/deep/other"),
        write("/usr/lib/deep.", b"sorts between"),
    ],
    "root": [chmod("/", 0o711), chown("/", 3, 4), setxattr("/", "user.root", b"r")],
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_layer_gives_what_the_container_saw(name: str, tmp_path: Path) -> None:
    outcome = scenario.run(tmp_path, build_lower, SCENARIOS[name])
    assert outcome.errnos == [(0, 0)] * len(outcome.errnos)
    assert differences(scenario.seen_as(outcome), outcome.applied) == []
    assert differences(_comparable(outcome.plain), _comparable(outcome.merged)) == []
    scenario.check_diff(outcome)
    assert len(outcome.names) == len(set(outcome.names))


@pytest.mark.parametrize("name", ["attributes, then renamed", "hard links", "links inside a renamed directory"])
def test_without_metacopy(name: str, tmp_path: Path) -> None:
    options = "redirect_dir=on,metacopy=off,index=off"
    outcome = scenario.run(tmp_path, build_lower, SCENARIOS[name], options=options)
    assert differences(scenario.seen_as(outcome), outcome.applied) == []
    scenario.check_diff(outcome)


@pytest.mark.parametrize("name", SCENARIOS)
def test_on_a_stack_of_a_store(name: str, tmp_path: Path) -> None:
    """The lower is what a container really has; a second container then starts from the first one's layer."""
    again: list[Change] = [write("/etc/second", b"2"), chmod("/tmp/owned", 0o600), rename("/tmp", "/var")]
    outcomes = scenario.run_chain(tmp_path, build_lower, [SCENARIOS[name], again])
    for outcome in outcomes:
        assert [overlay for overlay, _ in outcome.errnos] == [plain for _, plain in outcome.errnos]
        assert differences(scenario.seen_as(outcome), outcome.applied) == []
        assert differences(_comparable(outcome.plain), _comparable(outcome.merged)) == []
        scenario.check_diff(outcome)


def _comparable(tree: Tree) -> Tree:
    """The same changes made at two moments, on a lower with and without hard links."""
    return {path: node._replace(mtime_ns=0, links=frozenset()) for path, node in tree.items()}
