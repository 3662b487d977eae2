"""Who a container's process runs as."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazarus.errors import ContainerRuntimeError
from lazarus.runtime.user import User, resolve_user

PASSWD = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\nbroken\nodd:x:seven:1::/:\n"
GROUP = "root:x:0:\nbob:x:1000:\nstaff:x:50:bob,root\nwheel:x:10:root\n\nbad:x:nan:bob\n"

Resolve = Callable[[str], User]


@pytest.fixture
def resolve(tmp_path: Path) -> Iterator[Resolve]:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    fd = os.open(tmp_path, os.O_PATH)
    yield lambda text: resolve_user(fd, text)
    os.close(fd)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", User(0, 0, (10, 50), "/root")),
        ("root", User(0, 0, (10, 50), "/root")),
        ("bob", User(1000, 1000, (50,), "/home/bob")),
        ("1000", User(1000, 1000, (50,), "/home/bob")),
        ("bob:staff", User(1000, 50, (), "/home/bob")),
        ("bob:7", User(1000, 7, (), "/home/bob")),
        ("1234", User(1234, 0, (), "/")),
        ("1234:5678", User(1234, 5678, (), "/")),
        (":wheel", User(0, 10, (), "/root")),
        ("4294967294", User(4294967294, 0, (), "/")),
    ],
)
def test_spellings(resolve: Resolve, text: str, expected: User) -> None:
    assert resolve(text) == expected


@pytest.mark.parametrize("text", ["nobody", "bob:nogroup", "odd", "4294967295", "99999999999999999999", "-1", "bob:-1"])
def test_refused(resolve: Resolve, text: str) -> None:
    with pytest.raises(ContainerRuntimeError) as caught:
        resolve(text)
    assert caught.value.exit_code == 126


def test_no_files_at_all(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    assert resolve_user(fd, "") == User(0, 0, (), "/")
    assert resolve_user(fd, "5:6") == User(5, 6, (), "/")
    os.close(fd)


def test_links_stay_inside_and_odd_files_do_not_hang(tmp_path: Path) -> None:
    """/etc/passwd may be a symlink to an absolute path of the container, a FIFO or a directory."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "real").write_text("eve:x:77:78::/eve:/bin/sh\n")
    (tmp_path / "etc/passwd").symlink_to("/../../real")
    os.mkfifo(tmp_path / "etc/group")
    fd = os.open(tmp_path, os.O_PATH)
    assert resolve_user(fd, "eve") == User(77, 78, (), "/eve")
    (tmp_path / "etc/passwd").unlink()
    (tmp_path / "etc/passwd").mkdir()
    with pytest.raises(ContainerRuntimeError):
        resolve_user(fd, "eve")
    os.close(fd)


@given(st.text(st.characters(blacklist_characters="\0")))
def test_any_text_gives_a_user_or_one_error(text: str) -> None:
    fd = os.open("/", os.O_PATH)
    try:
        user = resolve_user(fd, text)
        assert 0 <= user.uid < 2**32 - 1 and 0 <= user.gid < 2**32 - 1
    except ContainerRuntimeError:
        pass
    finally:
        os.close(fd)
