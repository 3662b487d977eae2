"""`lazarus pool`: the real command, what it prints, and one line for whatever is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cli_helpers import Command
from pool_helpers import SIZE, check, fill, reboot, root
from store_helpers import let_others_in

from lazarus.cli import main
from lazarus.cli.options import Mistake
from lazarus.cli.pool import _bytes
from lazarus.content import pool as pool_module

pytestmark = pytest.mark.root
__all__ = ["root"]


@pytest.fixture
def lazarus(root: Path) -> Command:
    return Command(root)


def test_the_whole_life(lazarus: Command) -> None:
    fill(lazarus.root)
    assert "Reflink: yes" in lazarus.ok("pool", "create", "320M")
    found = json.loads(lazarus.ok("pool", "status", "--format", "json"))
    assert found["size"] == found["image_size"] == 320 << 20 and found["reflink"] and found["missing"] == 0
    assert found["mounted"] == f"{lazarus.root}/pool/mount" and found["path"] == f"{lazarus.root}/pool/image"
    reboot(lazarus.root)
    assert "pooled" in lazarus.ok("images")
    assert "Size: 419MB" in lazarus.ok("pool", "grow", "0.39063G")
    check(lazarus.root, pool=True)
    assert lazarus.ok("pool", "destroy") == ""
    check(lazarus.root, pool=False)
    lazarus.ok("pool", "create", "320M")
    lazarus.ok("pool", "destroy", "--force")
    assert lazarus.ok("images", "-q") == lazarus.ok("ps", "-aq") == ""


def test_mistakes_are_one_line(lazarus: Command) -> None:
    for words, code, line in (
        (("status",), 1, f"lazarus: {lazarus.root}: this store has no pool"),
        (("grow", "1G"), 1, f"lazarus: {lazarus.root}: this store has no pool"),
        (("destroy",), 1, f"lazarus: {lazarus.root}: this store has no pool"),
        (("create", "1M"), 1, "lazarus: pool size 1048576: XFS takes 314572800 bytes (300 MiB) at least"),
        (("create", "4000000T"), 1, f"the file system of {lazarus.root} has room for"),
        (("create", "9999999T"), 2, "SIZE '9999999T': not between 0 and 2^63 bytes"),
        (("create", "lots"), 2, "SIZE 'lots': not a number with K, M, G, T or nothing behind it"),
        (("create",), 2, "SIZE"),
        ((), 2, "WORD is one of create, status, grow, destroy"),
        (("drain",), 2, "pool goes with create, status, grow, destroy"),
    ):
        result = lazarus("pool", *words)
        assert result.code == code and line in result.err, (words, result)
    assert lazarus("pool", "--help").code == lazarus("pool", "create", "--help").code == 0
    assert os.listdir(lazarus.root) == [] or not os.path.lexists(f"{lazarus.root}/pool")


def test_sizes() -> None:
    for text, count in (
        ("0", 0),
        ("1024", 1024),
        ("1k", 1 << 10),
        ("1.5G", 3 << 29),
        ("2TiB", 2 << 40),
        ("3mb", 3 << 20),
    ):
        assert _bytes(text) == count
    for text in ("", "G", "1X", "-1", "1 G", "inf", "nan", "1e30T", "0x10", "1GG", "1_0"):
        with pytest.raises(Mistake):
            _bytes(text)


def test_a_host_that_others_filled_is_warned_of(
    lazarus: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", lazarus.root, "pool", "create", str(SIZE)]) == 0
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(pool_module, "free_bytes", lambda _: 1 << 20)
    assert main(["--root", lazarus.root, "pool", "status", "--format", "json"]) == 0
    said = capfd.readouterr()
    found = json.loads(said.out)
    assert found["missing"] == SIZE - found["allocated"] - (1 << 20)
    assert said.err.count("\n") == 1 and "of the host, which has 1.05MB free" in said.err


def test_without_root(tmp_path: Path) -> None:
    """What another user may not do is said, not tried."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    let_others_in(tmp_path)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv is not installed (Debian: util-linux)")
    words = Command(home / "store").words("pool", "create", "1G")
    done = subprocess.run(
        [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", *words], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == f"lazarus: {home}/store: a pool needs root: it is a mounted file system\n"
