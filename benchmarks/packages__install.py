"""What do three everyday jobs take in a container's root file system: apt-get, pip, and a build with gcc?

Nothing comes from a network: a root file system of Debian has the packages, wheels and sources in it (images/
workshop.py), and each job runs with that as its root, without one. What it has made must work afterwards.
"""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any, NamedTuple

import pytest

from benchmarks.contenders.roots import EVERYONE, Root
from benchmarks.contenders.turns import Done, ask
from benchmarks.harness.disks import Disk
from benchmarks.harness.disks import run as run_here
from benchmarks.images import workshop
from benchmarks.images.rootfs import IMAGES

ROUNDS = 2  # the first is as warm as the second: what a job reads was written just before
WHY_NOT = "a chroot needs a path: only in process"

# Its mounts, and every process that it leaves behind, end with it; there is no network.
ALONE = ("unshare", "--mount", "--propagation", "private", "--net", "--pid", "--fork", "--kill-child")
ENTER = """
mount -t proc proc "$0/proc"
mount --bind /dev "$0/dev"
exec chroot "$0" sh -ec "$1"
"""
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "DEBIAN_FRONTEND": "noninteractive",
    "LC_ALL": "C",
    "HOME": "/root",
}


class Job(NamedTuple):
    """What is run, by phase, and how to see that it has done it."""

    case: str
    phases: dict[str, str]
    check: str

    def __call__(self, root: Root) -> Done:
        seconds = {}
        for phase, words in self.phases.items():
            begun = time.perf_counter()
            self._run(root, words)
            seconds[phase] = time.perf_counter() - begun
        self._run(root, self.check)
        return Done(seconds)

    def _run(self, root: Root, words: str) -> None:
        command = [*ALONE, "sh", "-ec", ENTER, str(root.path), words]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip())[-300:]
            raise RuntimeError(f"{root.name}: {words}: exit {done.returncode}: {said}")


JOBS = {
    "apt": Job(
        f"apt-get install {workshop.PACKAGE}",
        {"wall": f"apt-get install -qq --no-install-recommends --no-download {workshop.PACKAGE}"},
        "git --version",
    ),
    "pip": Job(
        f"pip install {' '.join(workshop.WHEELS)}",
        {
            "wall": "python3 -m pip install -q --no-index --find-links=/srv/wheels --break-system-packages"
            f" {' '.join(workshop.WHEELS)}"
        },
        "python3 -B -c 'import numpy, requests'",
    ),
    "gcc": Job(
        "Lua built by gcc -O1",
        {
            "unpack": "mkdir /srv/source && tar -xf /srv/source.tar --strip-components=1 -C /srv/source",
            "compile": "make -s -C /srv/source/src CFLAGS='-O1 -DLUA_USE_POSIX' SYSLIBS=-ldl lua",
        },
        "test \"$(/srv/source/src/lua -e 'print(6 * 7)')\" = 42",
    ),
}


@pytest.mark.parametrize("name", list(JOBS))
def test_job(benchmark: Any, disk: Disk, name: str, quick: bool) -> None:
    if quick:
        pytest.skip("not in the quick set")
    try:
        archive = workshop.workshop(IMAGES)
    except (OSError, RuntimeError) as error:
        pytest.skip(f"no root file system: {error}")
    lower = disk.path / "lower"
    lower.mkdir()
    run_here("tar", "-xpf", str(archive), "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", str(lower))
    os.sync()
    job = JOBS[name]
    ask(
        benchmark, disk, EVERYONE, job,
        lower=lower, case=job.case, rounds=ROUNDS, commit=True, warm_up=False, needs_path=WHY_NOT,
    )  # fmt: skip
