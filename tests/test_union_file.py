"""Open files of a stack: what io.RawIOBase promises, against a plain file that undergoes the same."""

from __future__ import annotations

import errno
import io
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from union_helpers import APP, BASE, BIG, layers_of, tar

import lazarus
from lazarus.layers.layer import Layer
from lazarus.union.file import StackFile

LARGE = random.Random(3).randbytes(200_000)


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Layer]]:
    with lazarus.Store(tmp_path_factory.mktemp("file") / "store") as store:
        yield list(layers_of(store, [BASE, APP, tar(("f", "large", LARGE))]))


@pytest.fixture(params=["auto", "blocks", "read-write"])
def stack(request: pytest.FixtureRequest, layers: list[Layer], tmp_path: Path) -> Iterator[lazarus.LayerStack]:
    (tmp_path / "upper").mkdir()
    with lazarus.LayerStack(layers, upper=tmp_path / "upper", rung=request.param) as opened:
        yield opened


@pytest.fixture
def plain(tmp_path: Path) -> Callable[[str], str]:
    """The same files, outside."""
    (tmp_path / "plain").mkdir()
    for name, content in (("large", LARGE), ("env", BIG), ("passwd", b"root\nbob\n")):
        (tmp_path / "plain" / name).write_bytes(content)
    return lambda name: str(tmp_path / "plain" / os.path.basename(name))


def test_reading(stack: lazarus.LayerStack) -> None:
    with stack.open("/large", "rb", buffering=0) as file:
        assert isinstance(file, StackFile) and isinstance(file, io.RawIOBase)
        assert (file.readable(), file.writable(), file.seekable(), file.isatty()) == (True, False, True, False)
        assert (file.name, file.mode, file.tell()) == ("/large", "rb", 0)
        assert file.read(10) == LARGE[:10] and file.tell() == 10
        assert file.read() == LARGE[10:] and file.read() == b"" and file.read(1) == b""
        assert file.seek(-5, os.SEEK_END) == len(LARGE) - 5 and file.readall() == LARGE[-5:]
        assert file.seek(3) == 3 and file.seek(4, os.SEEK_CUR) == 7
        buffer = bytearray(20)
        assert file.readinto(memoryview(buffer)[:5]) == 5 and buffer[:5] == LARGE[7:12]
        assert file.pread(4, 100) == LARGE[100:104] and file.tell() == 12
        assert file.seek(len(LARGE) + 100) == len(LARGE) + 100 and file.read(5) == b""
        assert file.stat().st_size == file.info().size == len(LARGE)
        for wrong in (
            lambda: file.write(b"x"), lambda: file.truncate(0), lambda: file.punch_hole(0, 1), file.fileno
        ):  # fmt: skip
            with pytest.raises(io.UnsupportedOperation):
                wrong()
        with pytest.raises(OSError, match="Invalid") as caught:
            file.seek(-1)
        assert caught.value.errno == errno.EINVAL
        with pytest.raises(ValueError, match="whence"):
            file.seek(0, 17)
    assert file.closed
    for closed in (file.read, file.tell, file.readable, file.info, lambda: file.readinto(buffer)):
        with pytest.raises(ValueError, match="closed"):
            closed()
    file.close()


SCRIPTS: list[Callable[[Any], object]] = [
    lambda file: (file.write(b"begin"), file.seek(0), file.read(20)),
    lambda file: (file.seek(10_000), file.write(b"y" * 9000), file.seek(9_990), file.read(9_100), file.tell()),
    lambda file: (file.seek(0, 2), file.write(b"tail"), file.truncate(), file.seek(-8, 2), file.read()),
    lambda file: (file.truncate(100), file.seek(0), file.read(), file.truncate(9000), file.seek(0), file.read()),
    lambda file: (file.seek(300_000), file.write(b"far"), file.seek(150_000), file.read()),
    lambda file: (file.readlines()[:3], file.seek(0), file.readline(), file.tell(), file.write(b"mid"), file.tell()),
    lambda file: (file.seek(4095), file.write(b"ab"), file.flush(), file.seek(4090), file.read(10)),
]


@pytest.mark.parametrize("name", ["/large", "/usr/bin/env", "etc/passwd"])
@pytest.mark.parametrize("mode", ["r+b", "w+b", "a+b"])
@pytest.mark.parametrize("buffering", [0, io.DEFAULT_BUFFER_SIZE, 700])  # by default open() asks the disk for a size
def test_the_same_as_a_plain_file(
    stack: lazarus.LayerStack, plain: Callable[[str], str], name: str, mode: str, buffering: int
) -> None:
    with stack.open(name, mode, buffering) as ours, open(plain(name), mode, buffering) as theirs:
        for number, script in enumerate(SCRIPTS):
            assert script(ours) == script(theirs), number
    with stack.open(name, "rb") as ours, open(plain(name), "rb") as theirs:
        assert ours.read() == theirs.read()
    stack.settle()
    assert stack.upper is not None
    assert Path(stack.upper, name.strip("/")).read_bytes() == Path(plain(name)).read_bytes()


def test_text(stack: lazarus.LayerStack) -> None:
    with stack.open("/etc/../text", "w", encoding="utf-8") as file:
        assert file.mode == "w"
        file.write("zeile eins\nzwei ä\n")
    with stack.open("text", "a", encoding="utf-8") as file:
        print("drei", file=file)
    with stack.open(b"text", encoding="utf-8", newline="\n") as file:
        assert list(file) == ["zeile eins\n", "zwei ä\n", "drei\n"]
    with stack.open("text", "r+", encoding="ascii", errors="replace", buffering=1) as file:
        assert file.readline() == "zeile eins\n" and "\ufffd" in file.readline()
    assert stack.stat("text").st_mode & 0o7777 == 0o644
    stack.open("mine", "xb", permissions=0o600).close()
    assert stack.stat("mine").st_mode & 0o7777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("r+w",), ValueError), (("",), ValueError), (("rr",), ValueError), (("rbt",), ValueError),
        (("q",), ValueError), (("rb", -1, "utf-8"), ValueError), (("r", 0), ValueError),
    ],
)  # fmt: skip
def test_modes_that_are_none(stack: lazarus.LayerStack, arguments: tuple[Any, ...], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        stack.open("etc/passwd", *arguments)
    with pytest.raises(kind):
        open(os.devnull, *arguments)


@pytest.mark.parametrize(
    ("path", "mode", "number"),
    [
        ("nothing", "r", errno.ENOENT), ("etc", "r", errno.EISDIR), ("etc", "w", errno.EISDIR),
        ("etc/passwd/x", "r", errno.ENOTDIR), ("etc/passwd/", "r", errno.ENOTDIR), ("loop", "r", errno.ELOOP),
        ("no/dir/file", "w", errno.ENOENT), ("etc/passwd", "x", errno.EEXIST), ("n" * 256, "w", errno.ENAMETOOLONG),
        (b"a\0b", "w", errno.EINVAL),
    ],
)  # fmt: skip
def test_what_cannot_be_opened(stack: lazarus.LayerStack, path: str | bytes, mode: str, number: int) -> None:
    with pytest.raises(OSError, match=r".") as caught:
        stack.open(path, mode)
    assert (caught.value.errno, caught.value.filename) == (number, path)


def test_without_an_upper(layers: list[Layer]) -> None:
    with lazarus.LayerStack(layers) as stack:
        for mode in ("r+", "w", "a"):
            with pytest.raises(OSError, match=r".") as caught:
                stack.open("etc/passwd", mode)
            assert caught.value.errno == errno.EROFS
        for change in (
            lambda: stack.mkdir("x"), lambda: stack.unlink("etc/passwd"), lambda: stack.chmod("etc", 0o700),
            lambda: stack.rename("etc", "etc2"), lambda: stack.truncate("etc/passwd", 0),
            lambda: stack.symlink("a", "b"), lambda: stack.setxattr("etc", "user.a", b""),
        ):  # fmt: skip
            with pytest.raises(OSError, match=r".") as caught:
                change()
            assert caught.value.errno == errno.EROFS


def test_a_missing_object_is_named(tmp_path: Path) -> None:
    with lazarus.Store(tmp_path / "store") as store, lazarus.LayerStack(layers_of(store, [BASE])) as stack:
        info = stack.lookup("usr/bin/env")
        assert info is not None and info.digest is not None
        name = info.digest.hex()
        os.unlink(f"{store.paths.objects}/{name[:2]}/{name[2:]}")
        with pytest.raises(OSError, match=name) as caught:
            stack.open("usr/bin/env", "rb")
        assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "usr/bin/env")
        assert stack.open("etc/passwd").read() == "root\n"


def test_files_outlive_their_stack(layers: list[Layer], tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / "upper").mkdir()
    stack = lazarus.LayerStack(layers, upper=tmp_path / "upper")
    reading, writing = stack.open("/large", "rb", 0), stack.open("/large", "r+b", 0)
    stack.close()
    writing.write(b"new")
    assert reading.read(6) == b"new" + LARGE[3:6]  # the one descriptor sees what the other writes
    writing.sync()
    writing.close()
    assert reading.pread(3, 1000) == LARGE[1000:1003]
    reading.close()
    assert len(os.listdir("/proc/self/fd")) == before, "descriptors leaked"


def test_holes_and_ranges(stack: lazarus.LayerStack) -> None:
    with stack.open("holes", "w+b", 0) as file, stack.open("/large", "r+b", 0) as large:
        file.truncate(1 << 20)
        file.pwrite(b"data" * 1024, 512 * 1024)
        assert file.tell() == 0
        start = file.seek(0, os.SEEK_DATA)
        assert 0 < start <= 512 * 1024 and file.pread(8, 512 * 1024) == b"datadata"
        assert file.seek(start, os.SEEK_HOLE) <= 1 << 20
        with pytest.raises(OSError, match=r".") as caught:
            file.seek(1 << 21, os.SEEK_DATA)
        assert caught.value.errno == errno.ENXIO
        large.punch_hole(1000, 50_000)
        assert large.stat().st_size == len(LARGE)
        assert large.pread(51_000, 500) == LARGE[500:1000] + bytes(50_000) + LARGE[51_000:51_500]
        assert large.copy_range(100_000, file, 7, 20_000) == 20_000
        assert file.pread(20_007, 0) == bytes(7) + LARGE[100_000:120_000]
        with pytest.raises(io.UnsupportedOperation), stack.open("/large", "rb", 0) as reader:
            large.copy_range(0, reader, 0, 1)


def test_reader_sees_the_copy(stack: lazarus.LayerStack) -> None:
    """Opened before the copy-up, read after it: one file, as on a local file system."""
    with stack.open("/large", "rb", 0) as reader:
        assert reader.pread(3, 0) == LARGE[:3]
        with stack.open("/large", "r+b", 0) as writer:
            writer.write(b"abc")
            assert reader.pread(4, 0) == b"abc" + LARGE[3:4]


def test_threads_write_beside_one_another(stack: lazarus.LayerStack) -> None:
    with stack.open("/large", "r+b", 0) as file:

        def write(number: int) -> None:
            for offset in range(number * 100, len(LARGE), 400):
                file.pwrite(bytes([number]) * 100, offset)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    expected = b"".join(bytes([number]) * 100 for number in range(4)) * (len(LARGE) // 400)
    with stack.open("/large", "rb") as file:
        assert file.read() == expected


def test_append_of_two_handles(stack: lazarus.LayerStack) -> None:
    with stack.open("log", "ab", 0) as one, stack.open("log", "ab", 0) as two:
        assert (one.mode, one.readable()) == ("ab", False)
        for _ in range(3):
            one.write(b"1\n")
            two.write(b"22\n")
        assert (one.tell(), two.tell()) == (12, 15)
    assert stack.open("log").read() == "1\n22\n" * 3
    with stack.open("log", "a+b", 0) as file:
        file.seek(3)
        assert (file.write(b""), file.tell()) == (0, 3)  # as io.FileIO


_CLOSED_MEANWHILE = """
import sys, threading
import lazarus
from lazarus._native import union_read
sys.setswitchinterval(1e-6)
failed = []
for _ in range(20):
    stack = lazarus.LayerStack([sys.argv[1]])
    file = stack.open("f0", "rb", buffering=0)
    def look(action):
        try:
            while True:
                action()
        except ValueError:
            pass
        except BaseException as error:
            failed.append(error)
    def check(infos):
        assert {info.layer for info in infos} == {0}, infos
    actions = (lambda: check([stack.lookup("f0")]), lambda: check([info for _, info in union_read.scan(stack, "/")]),
               lambda: check([union_read.stat(stack, "f0")]), lambda: check([file.info()]))
    threads = [threading.Thread(target=look, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    stack.close()
    file.close()
    for thread in threads:
        thread.join()
sys.exit(f"{failed[0]!r:.300}" if failed else 0)
"""


def test_answers_outlive_a_stack_that_another_thread_closes(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"f{number}").write_bytes(b"x")
    environ = {**os.environ, "MALLOC_PERTURB_": "165"}  # what was freed reads as rubbish
    subprocess.run([sys.executable, "-c", _CLOSED_MEANWHILE, str(tmp_path)], env=environ, check=True, timeout=60)


_IN_A_CYCLE = """
import gc, os, sys
import lazarus
from lazarus._native.union_file import Handle
for _ in range(20):
    cycle = []
    cycle += [Handle(lazarus.LayerStack([sys.argv[1]]), "f", os.O_RDONLY), cycle]
    del cycle
    gc.collect()
"""


def test_a_handle_in_a_reference_cycle_keeps_its_stack(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    subprocess.run([sys.executable, "-c", _IN_A_CYCLE, str(tmp_path)], check=True, timeout=60)
