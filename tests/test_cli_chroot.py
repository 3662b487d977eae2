"""Containers in a chroot: to a plain directory, where no runtime works by itself, and to a mount point, where an exec
would end up outside."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cli_helpers import Command, Result
from container_helpers import IMAGE

from lazarus.store import Store

pytest_plugins = ("container_fixtures",)
pytestmark = pytest.mark.root

# $0: an empty directory. Mounts are shared, so that what is done in one namespace could be seen in another.
CHROOT = """
if [ $2 = mounted ]; then mount --bind $0 $0; fi
for path in /*; do
    if [ -L $path ]; then cp -P $path $0$path
    elif [ -d $path ]; then mkdir $0$path; mount --rbind $path $0$path
    fi
done
exec chroot $0 sh -ec "$1"
"""


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    (tmp_path / "plain").mkdir()
    return tmp_path / "plain"


def in_chroot(plain: Path, script: str, runtime: str, kind: str, propagation: str) -> Result:
    """Runs a shell script there, in a mount namespace that ends with it."""
    words = ["unshare", "--mount", "--propagation", propagation, "sh", "-ec", CHROOT, str(plain), script, kind]
    environment = {**os.environ, "LAZARUS_RUNTIME": runtime}
    done = subprocess.run(words, capture_output=True, env=environment, timeout=60)
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(("kind", "propagation"), [("plain", "shared"), ("mounted", "shared"), ("mounted", "private")])
@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_a_life_in_a_chroot(store: Store, plain: Path, runtime: str, kind: str, propagation: str) -> None:
    if shutil.which(runtime, path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip(f"{runtime} is not installed")
    lazarus = " ".join(map(str, Command(store.paths.root).words()))
    script = f"""
        before=$(cat /proc/self/mountinfo)
        {lazarus} run --rm {IMAGE} sh -c 'ls -d /etc/hostname; exit 7' || echo $?
        {lazarus} run -d --name c {IMAGE} sleep 60 > /dev/null
        {lazarus} exec c sh -c 'ls -d /work /data || true; readlink /proc/self/root'
        {lazarus} rm -f c
        test "$before" = "$(cat /proc/self/mountinfo)" && echo as before
    """
    result = in_chroot(plain, script, runtime, kind, propagation)
    assert result.out.split("\n") == ["/etc/hostname", "7", "/data", "/", "c", "as before", ""], result
