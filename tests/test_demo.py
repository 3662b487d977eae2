"""The demo's way out when something is in its way: one line, nothing mounted, nothing running, nothing kept twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from container_helpers import inside
from small_rootfs import make_rootfs, make_tar, need_runtime

pytestmark = pytest.mark.root
DEMO = str(Path(__file__).resolve().parent.parent / "demo/main_job.py")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In place of Debian: a root file system whose apt-get waits."""
    need_runtime()
    place = tmp_path_factory.mktemp("base")
    root = make_rootfs(place / "root")
    (root / "bin/apt-get").write_text("#!/bin/sh\necho waiting\nexec sleep 60\n")
    (root / "bin/apt-get").chmod(0o755)
    return make_tar(root, place / "debian-base.tar")


@pytest.fixture
def home(base: Path, tmp_path: Path) -> Path:
    os.link(base, tmp_path / base.name)
    return tmp_path


def left_behind(home: Path) -> list[str]:
    """Mounts, and what else than the newest store is there."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(home) in line]
    return mounts + sorted({path.name for path in home.iterdir()} - {"debian-base.tar", "store"})


def test_interrupted_twice(home: Path) -> None:
    for _ in range(2):
        with subprocess.Popen([sys.executable, DEMO, home], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert any(line == b"waiting\n" for line in process.stdout), "the container has started"
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        assert process.returncode == 1 and err == b"demo: interrupted; nothing is left running or mounted\n"
        assert left_behind(home) == [] and inside(home / "store") == []


def test_without_a_runtime(home: Path) -> None:
    environment = {**os.environ, "LAZARUS_RUNTIME": "/nowhere/crun"}
    done = subprocess.run([sys.executable, DEMO, home], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("demo: no container runtime: /nowhere/crun") and left_behind(home) == []


def test_what_does_not_need_root() -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    as_user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", sys.executable]
    if subprocess.run([*as_user, "-c", "import lazarus"], capture_output=True, cwd="/").returncode != 0:
        pytest.skip("another user cannot read this checkout")
    with tempfile.TemporaryDirectory() as place:  # tmp_path is root's alone
        os.chown(place, 1000, 1000)
        done = subprocess.run([*as_user, DEMO, place], capture_output=True, text=True, cwd="/")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("not root: left out are") and "same manifest digest   yes" in done.stdout
