"""Names, attributes and changes through a LayerStack, and what its diff says of them."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store_helpers import tree
from union_helpers import APP, BASE, BIG, layers_of

import lazarus
from lazarus._native import pack
from lazarus.errors import ConflictError, NotFoundError
from lazarus.layers.layer import Layer
from lazarus.terms import Change


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Layer]]:
    with lazarus.Store(tmp_path_factory.mktemp("stack") / "store") as store:
        yield list(layers_of(store, [BASE, APP]))


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    (tmp_path / "upper").mkdir()
    return tmp_path / "upper"


@pytest.fixture
def stack(layers: list[Layer], upper: Path) -> Iterator[lazarus.LayerStack]:
    with lazarus.LayerStack(layers, upper=upper) as opened:
        yield opened


def lines(changes: Iterator[Change]) -> list[str]:
    return [f"{change.change} {os.fsdecode(change.path)}" for change in changes]


def test_directories(stack: lazarus.LayerStack) -> None:
    names = [b"away", b"bin", b"dangling", b"etc", b"fifo", b"loop", b"loop2", b"null", b"srv", b"usr", b"var"]
    assert stack.listdir() == stack.listdir("/") == stack.listdir(b"usr/..") == names
    assert stack.listdir("bin") == [b"env", b"env2"]
    entries = {entry.name: entry for entry in stack.scandir("/")}
    assert list(entries) == names
    link, etc = entries[b"bin"], entries[b"etc"]
    assert (link.is_symlink(), link.is_dir(), link.is_dir(follow_symlinks=False)) == (True, True, False)
    assert (etc.kind, etc.path, os.fspath(etc), etc.inode()) == ("directory", b"/etc", b"/etc", etc.info.number)
    assert not entries[b"loop"].is_file() and not entries[b"dangling"].is_dir() and entries[b"away"].is_file()
    assert entries[b"away"].stat().st_size == 9 and entries[b"away"].stat(follow_symlinks=False).st_size == 19
    assert etc.stat() == stack.stat("etc") == stack.stat("/etc", follow_symlinks=False)
    assert [(path, [e.name for e in some], [e.name for e in more]) for path, some, more in stack.walk("/usr")] == [
        (b"/usr", [b"bin"], []),
        (b"/usr/bin", [], [b"env", b"env2"]),
    ]
    assert [path for path, _, _ in stack.walk()] == [b"/", b"/etc", b"/srv", b"/usr", b"/usr/bin", b"/var", b"/var/lib"]
    for path, number in (("nothing", errno.ENOENT), ("etc/passwd", errno.ENOTDIR), ("loop", errno.ELOOP)):
        with pytest.raises(OSError, match=r".") as caught:
            stack.scandir(path)
        assert (caught.value.errno, caught.value.filename) == (number, path)


def test_links(stack: lazarus.LayerStack) -> None:
    assert stack.readlink("bin") == b"usr/bin"
    assert (stack.realpath("bin/env"), stack.realpath("/away"), stack.realpath("..")) == (
        b"/usr/bin/env",
        b"/etc/passwd",
        b"/",
    )
    assert stack.realpath("bin/missing") == b"/usr/bin/missing"
    assert stack.exists("away") and not stack.exists("dangling") and not stack.exists("nothing")
    with pytest.raises(OSError, match=r".") as caught:
        stack.readlink("etc")
    assert caught.value.errno == errno.EINVAL


def test_stat_is_a_stat_result(stack: lazarus.LayerStack) -> None:
    info = stack.stat("/usr/bin/env")
    assert isinstance(info, os.stat_result) and stat.S_ISREG(info.st_mode)
    assert (info.st_size, info.st_nlink, info.st_mode & 0o7777) == (len(BIG), 2, 0o4755)
    assert info.st_mtime_ns == info.st_mtime * 10**9 == 1_700_000_000 * 10**9
    assert os.path.samestat(info, stack.stat("bin/env2")) and not os.path.samestat(info, stack.stat("etc"))
    assert stack.stat("null").st_rdev == os.makedev(1, 3)


def test_changes(stack: lazarus.LayerStack, upper: Path) -> None:
    stack.mkdir("home", 0o700)
    stack.mkdir(b"/home/me")
    stack.symlink("../x", "home/link")
    stack.mknod("home/pipe", stat.S_IFIFO | 0o600)
    stack.link("usr/bin/env", "home/env3")
    stack.unlink("etc/passwd")
    stack.rename("usr", "usr2")
    stack.chmod("srv/app", 0o600)
    stack.utime("srv/app", ns=(5, 7 * 10**9 + 1))
    stack.utime("home", (1.5, 2.5))
    stack.truncate("var/lib/new", 1)
    stack.setxattr("srv", "user.name", b"value")
    assert stack.listdir("home") == [b"env3", b"link", b"me", b"pipe"]
    assert stack.stat("home").st_mtime == 2.5 and stack.stat("home").st_mode & 0o7777 == 0o700
    app = stack.stat("srv/app")
    assert (app.st_mode & 0o7777, app.st_atime_ns, app.st_mtime_ns, app.st_size) == (
        0o600,
        5,
        7 * 10**9 + 1,
        2 * len(BIG),
    )
    assert (stack.getxattr("srv", "user.name"), stack.listxattr(b"srv")) == (b"value", [b"user.name"])
    assert stack.open("var/lib/new").read() == "n"
    assert stack.readlink("home/link") == b"../x" and stack.lookup("etc/passwd") is None
    env = [stack.stat(path) for path in ("home/env3", "usr2/bin/env", "usr2/bin/env2")]
    assert os.path.samestat(env[0], env[1]) and os.path.samestat(env[0], env[2]) and env[0].st_nlink == 3
    stats = stack.stats
    assert stats.copyups.get("metacopy", 0) + sum(stats.copyups.values()) > 0 and stats.copyups_other > 0
    stack.removexattr("srv", "user.name")
    with pytest.raises(OSError, match=r".") as caught:
        stack.getxattr("srv", "user.name")
    assert caught.value.errno == errno.ENODATA
    expected = {
        "D /etc/passwd", "C /etc", "A /home", "A /home/env3", "A /home/link", "A /home/me", "A /home/pipe", "C /srv",
        "C /srv/app", "D /usr", "A /usr2", "A /usr2/bin", "A /usr2/bin/env", "A /usr2/bin/env2", "C /var",
        "C /var/lib", "C /var/lib/new",
    }  # fmt: skip
    assert set(lines(stack.diff())) == expected
    assert not any(name.startswith(".") for name in os.listdir(upper))


def test_rename_kinds(stack: lazarus.LayerStack) -> None:
    with pytest.raises(FileExistsError) as caught:
        stack.rename("etc/passwd", "srv/app", replace=False)
    assert (caught.value.filename, caught.value.filename2) == ("etc/passwd", "srv/app")
    stack.rename("etc/passwd", "srv/app", exchange=True)
    assert stack.stat("etc/passwd").st_size == 2 * len(BIG) and stack.stat("srv/app").st_size == 9
    stack.rename("etc/passwd", "srv/app")
    assert stack.lookup("etc/passwd") is None and stack.stat("srv/app").st_size == 2 * len(BIG)


@pytest.mark.parametrize(
    ("change", "number"),
    [
        (lambda stack: stack.mkdir("etc"), errno.EEXIST),
        (lambda stack: stack.mkdir("no/dir"), errno.ENOENT),
        (lambda stack: stack.rmdir("usr"), errno.ENOTEMPTY),
        (lambda stack: stack.rmdir("etc/passwd"), errno.ENOTDIR),
        (lambda stack: stack.unlink("etc"), errno.EISDIR),
        (lambda stack: stack.unlink("nothing"), errno.ENOENT),
        (lambda stack: stack.link("etc", "x"), errno.EPERM),
        (lambda stack: stack.symlink("x", "etc"), errno.EEXIST),
        (lambda stack: stack.rename("etc", "etc/x"), errno.EINVAL),
        (lambda stack: stack.rename("etc/passwd", "usr"), errno.EISDIR),
        (lambda stack: stack.truncate("etc", 0), errno.EISDIR),
        (lambda stack: stack.getxattr("etc", "user.none"), errno.ENODATA),
        (lambda stack: stack.getxattr("etc", b"user.\0"), errno.EINVAL),
        (lambda stack: stack.setxattr("etc", b"user.\0", b""), errno.EINVAL),
        (lambda stack: stack.chmod("dangling", 0), errno.ENOENT),
        (lambda stack: stack.mkdir(b"a\0b"), errno.EINVAL),
        (lambda stack: stack.mkdir("n" * 256), errno.ENAMETOOLONG),
        (lambda stack: stack.chmod("loop", 0), errno.ELOOP),
    ],
)
def test_errors_are_those_of_linux(stack: lazarus.LayerStack, change: Callable[..., None], number: int) -> None:
    with pytest.raises(OSError, match=r".") as caught:
        change(stack)
    assert caught.value.errno == number and caught.value.filename is not None


def test_utime_takes_one_of_two(stack: lazarus.LayerStack) -> None:
    before = time.time_ns()
    stack.utime("etc/passwd")
    assert before <= stack.stat("etc/passwd").st_mtime_ns <= time.time_ns()
    with pytest.raises(ValueError, match="both"):
        stack.utime("etc/passwd", (1, 2), ns=(1, 2))


def test_branches_of_every_kind(layers: list[Layer], upper: Path, tmp_path: Path) -> None:
    """Directories between the layers: a layer's whiteouts still speak of what lies below them."""
    low, high = tmp_path / "low", tmp_path / "high"
    (low / "etc").mkdir(parents=True)
    (low / "var/lib").mkdir(parents=True)
    (low / "etc/gone").write_text("low")
    (low / "etc/low").write_text("low")
    (low / "var/lib/low").write_text("low")
    (high / "srv").mkdir(parents=True)
    (high / "srv/app").write_text("high")
    with lazarus.LayerStack([layers[0], low, layers[1], high], upper=upper) as stack:
        assert stack.layers == (layers[0], str(low), layers[1], str(high))
        assert stack.lookup("etc/gone") is None and stack.listdir("var/lib") == [b"new"]
        paths = ["etc/low", "srv/app", "etc/passwd", "usr/bin/env", "var/lib/low", "new"]
        stack.open("new", "w").close()
        assert stack.layer_of(paths).tolist() == [1, 3, 2, 0, -1, 4]
        with stack.open("srv/app", "a") as file:
            file.write("er")
        stack.unlink("etc/low")
        stack.rename("var/lib", "var/lob")
        assert (high / "srv/app").read_text() == "high" and (low / "etc/low").exists()
        assert lines(stack.diff()) == [
            "C /etc", "D /etc/low", "A /new", "C /srv", "C /srv/app", "C /var", "D /var/lib", "A /var/lob",
            "A /var/lob/new",
        ]  # fmt: skip


def test_diff_is_one_whatever_finds_it(layers: list[Layer], upper: Path, tmp_path: Path) -> None:
    """Over layers alone lz_diff tells, over directories the comparison of both views: they must agree."""
    (tmp_path / "empty").mkdir()
    with lazarus.LayerStack(layers, upper=upper) as stack:
        test_changes(stack, upper)
        stack.rename("usr2/bin", "bin2")
        stack.rmdir("usr2")
        stack.mkdir("usr")
        stack.mkdir("usr/bin")
        stack.unlink("bin")
        stack.mkdir("bin")
        stack.chmod("bin2/env", 0o700)
        stack.unlink("var/lib/new")
        stack.rmdir("var/lib")
        stack.open("var/lib", "w").close()
        by_marks = list(stack.diff())
        assert by_marks == pack.diff(upper, stack._index, user_xattr=stack.user_xattr)
    with lazarus.LayerStack([tmp_path / "empty", *layers], upper=upper) as stack:
        by_views = list(stack.diff())
    assert by_views == by_marks


def test_without_changes(layers: list[Layer], upper: Path) -> None:
    with lazarus.LayerStack(layers) as stack:
        assert list(stack.diff()) == [] and stack.stats == ({}, 0, 0, 0) and stack.upper is None
    with lazarus.LayerStack(layers, upper=upper) as stack:
        assert list(stack.diff()) == [] and stack.settle() == 0
    assert os.listdir(upper) == []


def test_what_is_written_is_there_again(layers: list[Layer], upper: Path) -> None:
    with lazarus.LayerStack(layers, upper=upper, rung="blocks") as stack, stack.open("srv/app", "r+b") as file:
        file.write(b"!")
    with lazarus.LayerStack(layers, upper=upper) as stack:
        info = stack.lookup("srv/app")
        assert info is not None and info.unsettled and info.layer == 2 and info.data_layer == 1
        assert stack.open("srv/app", "rb").read() == b"!" + (BIG + BIG)[1:]
        assert list(stack.diff()) == [
            Change("C", b"/srv", "directory", False, 0), Change("C", b"/srv/app", "file", True, 2 * len(BIG))
        ]  # fmt: skip
        assert stack.settle() == 1
    assert (upper / "srv/app").read_bytes() == b"!" + (BIG + BIG)[1:]


def test_an_unsettled_upper_is_no_lower(layers: list[Layer], upper: Path) -> None:
    """Its blocks alone are not the file: an error, never zeros where the lower's bytes should be."""
    with lazarus.LayerStack(layers, upper=upper, rung="blocks") as stack:
        with stack.open("srv/app", "r+b") as file:
            file.write(b"!")
        user = stack.user_xattr
        with lazarus.LayerStack([*layers, upper], user_xattr=user) as other:
            with pytest.raises(OSError, match="settle") as caught:
                other.open("srv/app")
            assert (caught.value.errno, caught.value.filename) == (errno.EIO, "srv/app")
            stack.settle()
            assert other.open("srv/app", "rb").read(2) == b"!\1"


def test_diff_of_a_directory_that_is_back(layers: list[Layer], upper: Path, tmp_path: Path) -> None:
    """What lies in it, in a directory as in a layer, is no change."""
    (tmp_path / "low/usr/new").mkdir(parents=True)
    (tmp_path / "low/usr/new/file").write_bytes(b"1")
    with lazarus.LayerStack([*layers, tmp_path / "low"], upper=upper) as stack:
        stack.rename("usr", "usr2")
        stack.rename("usr2", "usr")
        assert lines(stack.diff()) == ["C /usr"]
        stack.chmod("usr/new/file", 0o600)
        assert lines(stack.diff()) == ["C /usr", "C /usr/new", "C /usr/new/file"]


def test_owner_out_of_range(stack: lazarus.LayerStack) -> None:
    for uid, gid in ((-2, 0), (0, -2), (1 << 32, 0), (0, 1 << 32)):
        with pytest.raises(OverflowError, match="not an ID"):
            stack.chown("etc/passwd", uid, gid)


def test_nothing_stacked() -> None:
    with lazarus.LayerStack() as stack:
        root = stack.lookup("/")
        assert root is not None
        assert (root.kind, root.layer, root.data_layer, stack.listdir()) == ("directory", -1, -1, [])
        assert stack.layer_of(["/", "/etc"]).tolist() == [-1, -1]


def test_upper_and_work(layers: list[Layer], tmp_path: Path) -> None:
    for name in ("upper/in", "work", "low/upper", "low/a", "low/a.b"):
        (tmp_path / name).mkdir(parents=True)
    for upper, work, sources in (
        ("upper", "upper", []), ("upper", "upper/in", []), ("upper", "work", ["upper"]),
        ("upper", "work", ["upper/in"]), ("low/upper", "work", ["low"]), ("upper", "low/upper", ["low"]),
        ("low/upper", "work", ["low", "low/a", "low/a.b"]),
    ):  # fmt: skip
        with pytest.raises(ConflictError, match=r"same directory|overlap"):
            lazarus.LayerStack(
                [*layers, *(tmp_path / name for name in sources)], upper=tmp_path / upper, work=tmp_path / work
            )
    for upper, work in (("missing", "work"), ("upper", "missing")):
        with pytest.raises(NotFoundError, match="missing"):
            lazarus.LayerStack(layers, upper=tmp_path / upper, work=tmp_path / work)
    lazarus.LayerStack(layers, upper=tmp_path / "upper").close()
    assert (tmp_path / "upper.work").is_dir()


UNPRIVILEGED = """
import os, sys, lazarus
def work(room, archive):
    os.mkdir(room + "/upper")
    with lazarus.Store(room + "/store") as store:
        [image] = store.images.load(archive)
        with image.stack(upper=room + "/upper") as stack:
            print(stack.user_xattr, stack.stat("/etc/motd").st_uid)
            with stack.open("/etc/motd", "a") as file:
                file.write("more")
            stack.rename("/usr", "/usr2")
            stack.unlink("/etc/motd")
            stack.mkdir("/etc/d")
            print(*(f"{c.change} {c.path.decode()}" for c in stack.diff()))
        with image.stack(upper=room + "/upper") as stack:
            print(stack.listdir("/"), stack.listdir("/etc"), len(stack.open("/usr2/lib/large", "rb").read()))
work(sys.argv[1], sys.argv[3])  # as root, which also imports what nobody may not be able to read
os.setgroups([]), os.setgid(65534), os.setuid(65534)
work(sys.argv[2], sys.argv[3])
"""


@pytest.mark.root
def test_without_privileges(tmp_path: Path) -> None:
    """Loaded, read and changed by nobody: no mount, no capability, trusted.* out of reach."""
    from images_made import Made, base_tar

    made = Made()
    made.image([base_tar()])
    archive = made.archive(tmp_path / "image.tar")
    rooms = [tmp_path / "room", tmp_path / "nobody"]
    for room in rooms:
        room.mkdir()
    os.chown(rooms[1], 65534, 65534)
    archive.chmod(0o644)
    for directory in (tmp_path, *tmp_path.parents[:-1]):
        directory.chmod(directory.stat().st_mode | 0o011)
    result = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, *map(str, rooms), str(archive)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    said = ["C /etc A /etc/d D /etc/motd D /usr A /usr2 A /usr2/lib A /usr2/lib/large"]
    said += ["[b'etc', b'usr2'] [b'd'] 18000"]
    assert result.stdout.splitlines() == ["False 0", *said, "True 0", *said]


SHARED = """
import sys, lazarus
with lazarus.Store(sys.argv[1]) as store:
    with store.images.list()[0].stack() as stack:
        entries = stack.entries
        entries["size"].sum()
        smaps = open("/proc/self/smaps").read().split("\\n")
        at = next(i for i, line in enumerate(smaps) if line.endswith("/index") and "/stacks/" in line)
        values = {line.split(":")[0]: int(line.split()[1]) for line in smaps[at + 1:at + 22] if line.endswith(" kB")}
        print(values["Rss"], values["Anonymous"], flush=True)  # dirty it may be: written a moment ago
        sys.stdin.read()
        smaps = open("/proc/self/smaps").read().split("\\n")
        at = next(i for i, line in enumerate(smaps) if line.endswith("/index") and "/stacks/" in line)
        values = {line.split(":")[0]: int(line.split()[1]) for line in smaps[at + 1:at + 22] if line.endswith(" kB")}
        print(values["Pss"], flush=True)
"""


def test_two_processes_share_the_index(tmp_path: Path) -> None:
    from images_made import Made, base_tar

    made = Made()
    made.image([base_tar()])
    with lazarus.Store(tmp_path / "store") as store:
        store.images.load(made.archive(tmp_path / "image.tar"))
        (image,) = store.images.list()
        image.stack().close()  # builds it
    command = [sys.executable, "-c", SHARED, str(tmp_path / "store")]
    with (
        subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as one,
        subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as two,
    ):
        assert one.stdout is not None and two.stdout is not None
        sizes = [[int(word) for word in process.stdout.readline().split()] for process in (one, two)]
        assert sizes[0] == sizes[1] and sizes[0][0] > 0 and sizes[0][1] == 0  # mapped, and nothing of it is our own
        shares = [int(process.communicate("")[0]) for process in (one, two)]
    assert shares[0] < sizes[0][0]  # the first to end counted half of each page


def test_nothing_is_left(layers: list[Layer], upper: Path) -> None:
    before = tree(str(upper.parent)) | {"upper.work"}
    with lazarus.LayerStack(layers, upper=upper) as stack:
        stack.open("x", "w").close()
        stack.unlink("x")
        stack.mkdir("y")
        stack.rmdir("y")
    left = tree(str(upper.parent)) - before
    assert not any(name.startswith("upper/") for name in left), left
