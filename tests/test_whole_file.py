"""Output files: whole or not there, whatever ends the writer; errors name the path that the user gave."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import Command

from lazarus.whole_file import whole_file


@pytest.fixture(params=["nameless", "named"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With O_TMPFILE, and on a file system that answers as one without it does."""
    if request.param == "named":
        real = os.open

        def without(path: Any, flags: int, *rest: Any, **names: Any) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            return real(path, flags, *rest, **names)

        monkeypatch.setattr(os, "open", without)
    return str(request.param)


def write(path: Path | str, data: bytes = b"new") -> None:
    with whole_file(str(path)) as fd:
        os.write(fd, data)


def test_it_appears_at_the_end(tmp_path: Path, way: str) -> None:
    with whole_file(str(tmp_path / "out")) as fd:
        os.write(fd, b"new")
        assert len(os.listdir(tmp_path)) == (way == "named") and not (tmp_path / "out").exists()
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out").read_bytes() == b"new"
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.usefixtures("way")
def test_it_replaces(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old, and longer")
    (tmp_path / "out").chmod(0o640)
    (tmp_path / "link").symlink_to("out")
    with (tmp_path / "out").open("rb") as reader:
        write(tmp_path / "link")
        assert reader.read() == b"old, and longer", "who reads the old file goes on to read it"
    assert sorted(os.listdir(tmp_path)) == ["link", "out"] and (tmp_path / "link").is_symlink()
    assert (tmp_path / "out").read_bytes() == b"new" and (tmp_path / "out").stat().st_mode & 0o777 == 0o640


@pytest.mark.usefixtures("way")
def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    for name in ("old", "out"):
        with pytest.raises(KeyboardInterrupt), whole_file(str(tmp_path / name)) as fd:
            os.write(fd, b"new")
            raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["old"] and (tmp_path / "old").read_bytes() == b"old"


def test_a_killed_writer_leaves_nothing(tmp_path: Path) -> None:
    script = "import os, sys; from lazarus.whole_file import whole_file\n"
    script += "with whole_file(sys.argv[1]) as fd: os.write(fd, b'new'); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "out"])
    assert done.returncode == -signal.SIGKILL and os.listdir(tmp_path) == []


@pytest.mark.usefixtures("way")
def test_errors_name_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    for path, code in (
        ("none/out", errno.ENOENT),
        ("file/out", errno.ENOTDIR),
        (str(tmp_path), errno.EISDIR),
        ("new/", errno.EISDIR),
        ("", errno.ENOENT),
        ("x" * 300, errno.ENAMETOOLONG),
        ("/dev/full", errno.ENOSPC),
    ):
        with pytest.raises(OSError) as caught:
            write(path)
        assert (caught.value.errno, caught.value.filename) == (code, path)
    assert os.listdir(tmp_path) == ["file"]


def test_a_pipe_is_written_directly(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()))
    reader.start()
    write(fifo)
    reader.join()
    assert read == [b"new"] and os.listdir(tmp_path) == ["fifo"]


def test_save_speaks_of_the_path_that_was_given(tmp_path: Path) -> None:
    lazarus = Command(tmp_path / "store")
    lazarus.import_something("some:1")
    for words in (["-o", "/nosuch/x"], ["--format", "oci-dir", "-o", "/nosuch/x"]):
        result = lazarus("save", *words, "some:1")
        assert (result.code, result.err) == (1, "lazarus: /nosuch/x: No such file or directory\n")
    lazarus.ok("save", "-o", str(tmp_path / "out.tar"), "some:1")
    assert sorted(os.listdir(tmp_path)) == ["out.tar", "store"]
