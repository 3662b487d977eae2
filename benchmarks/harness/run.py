"""Runs a choice of benchmarks so that nothing is left behind, however the run ends.

pytest runs in a mount namespace and a PID namespace of its own: when it, or this process, is killed, so is everything
that it has started, and its mounts and loop devices are gone with their last user. A janitor outside removes the files.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
QUESTIONS = HERE.parent
QUICK = (
    "accounting__write_amplification",
    "chunk__throughput",
    "copyup__first_write",
    "lookup__depth",
    "semantics__matrix",
    "start__cold_and_warm",
    "start__mounted_rootfs",
    "start__run_true",
)

INTERRUPTED = 130  # an exit code, as a shell has it

# What runtimes and shims keep in /run, by names that are not the run's, is in memory of the run's own.
ALONE = """
for state in /run/containerd /run/crun /run/runc; do
    mkdir -p "$state" && mount -t tmpfs -o mode=711 tmpfs "$state"
done
"$@"
exit $?
"""


def questions() -> list[str]:
    """The names of all, which are their files'."""
    return sorted(path.stem for path in QUESTIONS.glob("[a-z]*__*.py"))


def chosen(names: Sequence[str], quick: bool) -> list[str]:
    """The ones that are meant: a name, or the part before its `__`. `ValueError` for one that fits none."""
    known = questions()
    if not names:
        return [name for name in known if name in QUICK] if quick else known
    found: list[str] = []
    for name in names:
        fitting = [one for one in known if name in (one, one.partition("__")[0])]
        if not fitting:
            raise ValueError(f"no benchmark is called {name}; there are {', '.join(known)}")
        found += [one for one in fitting if one not in found]
    return found


def run(names: Sequence[str], options: Sequence[str], directory: Path, output: Path) -> tuple[int, bool]:
    """Runs them with files below `directory`, and writes pytest-benchmark's JSON to `output`. pytest's exit code or
    `INTERRUPTED`, and whether anything was measured and written."""
    # As the mount table names it, short (podman takes 50 bytes of path), and a name that containerd takes, too.
    scratch = str(directory.resolve() / f"bench-{secrets.token_hex(4)}")
    os.mkdir(scratch, 0o700)
    read_end, write_end = os.pipe()
    janitor = subprocess.Popen(
        [sys.executable, "-I", "-S", str(HERE / "janitor.py"), str(read_end), scratch],
        stdin=subprocess.DEVNULL,
        pass_fds=[read_end],
        start_new_session=True,
    )
    os.close(read_end)
    try:
        partial = f"{scratch}/result.json"
        pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-s", "-rsfE", "--tb=short", *options]
        pytest += [f"--benchmark-json={partial}", *(str(QUESTIONS / f"{name}.py") for name in names)]
        words = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
        environment = {**os.environ, "LAZARUS_BENCH_SCRATCH": scratch, "LAZARUS_BENCH_COMMAND": words}
        environment["TMPDIR"] = scratch  # podman unpacks archives there
        code = _to_its_end(subprocess.Popen([*_alone(), *pytest], env=environment, cwd=QUESTIONS.parent))
        measured = os.path.exists(partial) and os.path.getsize(partial) > 0
        if measured:
            shutil.copyfile(partial, output)
        return code, measured
    finally:
        os.close(write_end)
        janitor.wait()


def _to_its_end(asking: subprocess.Popen[bytes]) -> int:
    """Its exit code. A terminal interrupts pytest as well, which then writes what it has: that is waited for, until
    somebody interrupts again."""
    with asking:
        try:
            return asking.wait()
        except KeyboardInterrupt:
            asking.wait()
            return INTERRUPTED
        finally:
            if asking.poll() is None:
                asking.kill()


def _alone() -> list[str]:
    """The words before a command that end it with this process, and its mounts and children with it. Who may not make
    namespaces, as in many a container, cannot mount anything either."""
    dying = ("setpriv", "--pdeathsig", "KILL")
    alone = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc")
    if os.geteuid() != 0 or subprocess.run([*alone, "true"], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        return [*dying]
    # A shell is its process 1, because it takes leave of the dead whoever their parent was.
    return [*dying, *alone, "sh", "-c", ALONE, "sh"]
