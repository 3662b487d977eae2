"""Output directories: whole or not there, on disk before they have their name; what a killed writer left is removed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lazarus.errors import ConflictError
from lazarus.whole_directory import whole_directory
from lazarus.whole_file import whole_file

WRITER = """import os, signal, sys
from lazarus.whole_directory import whole_directory
with whole_directory(sys.argv[1]) as directory:
    open(f"{directory}/half", "w").close()
    print("there", flush=True)
    signal.pause()
"""


def write(path: Path) -> None:
    with whole_directory(str(path)) as directory:
        Path(directory, "below").mkdir()
        Path(directory, "below/file").write_bytes(b"new")


def test_it_has_the_mode_of_what_it_replaces(tmp_path: Path) -> None:
    path = tmp_path / ("\N{EURO SIGN}" * 85)  # 255 bytes, which is all that there may be
    path.mkdir(mode=0o700)
    write(path)
    assert path.stat().st_mode & 0o777 == 0o700 and (path / "below/file").read_bytes() == b"new"


def test_it_appears_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("out", "empty"):
        with whole_directory(str(tmp_path / name)) as directory:
            Path(directory, "file").write_bytes(b"new")
            assert not (tmp_path / name / "file").exists()
        assert (tmp_path / name / "file").read_bytes() == b"new"
        with pytest.raises(ConflictError, match=f"{name}: exists and is not an empty directory"):
            write(tmp_path / name)
    (tmp_path / "file").touch()
    with pytest.raises(ConflictError):
        write(tmp_path / "file")
    assert sorted(os.listdir(tmp_path)) == ["empty", "file", "out"]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), whole_directory(str(tmp_path / "out")) as directory:
        Path(directory, "file").touch()
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    for path in (str(tmp_path / "none" / "out"), ""):
        with pytest.raises(FileNotFoundError) as missing, whole_directory(path):
            pass
        assert missing.value.filename == path
    with pytest.raises(OSError, match="not empty") as taken, whole_directory(str(tmp_path / "out")):
        (tmp_path / "out" / "theirs").mkdir(parents=True)
    assert taken.value.filename == str(tmp_path / "out") and os.listdir(tmp_path) == ["out"]


def test_all_is_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, rename = os.fsync, os.rename

    def noted_sync(fd: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{fd}").rpartition(".partial")[2] or "/")
        sync(fd)

    def noted_rename(source: str, target: str) -> None:
        done.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "rename", noted_rename)
    write(tmp_path / "out")
    assert done == ["/below/file", "/below", "/", "rename", str(tmp_path)]


def test_what_a_killed_writer_left_goes_and_what_a_live_one_writes_stays(tmp_path: Path) -> None:
    def start() -> subprocess.Popen[str]:
        writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "out"], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None and writer.stdout.readline() == "there\n"
        return writer

    with start() as killed:
        killed.send_signal(signal.SIGKILL)
    [stale] = os.listdir(tmp_path)
    others = ["out.0123.partial", "out2.0123456789ab.partial", "out.0123456789ab.partial2", "0123456789ab.partial"]
    for other in others:
        (tmp_path / other).mkdir()
    (tmp_path / "out.0123456789ac.partial").symlink_to(others[0])
    (tmp_path / "out.0123456789ad.partial").touch()
    with start() as live:
        [partial] = {*os.listdir(tmp_path)} - {*others, "out.0123456789ac.partial", "out.0123456789ad.partial"}
        assert partial != stale
        write(tmp_path / "out")
        assert (tmp_path / partial / "half").exists()
        live.send_signal(signal.SIGKILL)
    assert (tmp_path / "out/below/file").read_bytes() == b"new" and len(os.listdir(tmp_path)) == 8


def test_a_name_that_cannot_be_made_durable_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so; nothing is removed."""
    sync = os.fsync

    def fails(fd: int) -> None:
        if os.path.samestat(os.fstat(fd), os.stat(tmp_path)):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(fd)

    monkeypatch.setattr(os, "fsync", fails)
    for write_it in (write, write_file):
        path = tmp_path / write_it.__name__
        with pytest.raises(OSError, match="it is there and whole, but a power cut may take its name: Input") as failed:
            write_it(path)
        assert (failed.value.errno, failed.value.filename) == (errno.EIO, str(path))
    assert (tmp_path / "write/below/file").read_bytes() == b"new" == (tmp_path / "write_file").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["write", "write_file"]


def write_file(path: Path) -> None:
    with whole_file(str(path)) as fd:
        os.write(fd, b"new")
