"""How containers stay alive: one class a way, all of the same image, each with a process that sleeps (`pause`).

They are those of starts.py, which begin and end a container in two calls in place of one life.
"""

from __future__ import annotations

import abc
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, TypeVar

from benchmarks.contenders import peers, starts
from benchmarks.contenders.bundles import call_runtime, write_bundle
from benchmarks.contenders.starts import quietly
from benchmarks.harness.results import OURS
from benchmarks.images.synthetic import PAUSE, REFERENCE
from lazarus.mounts import detach

Thing = TypeVar("Thing")
WORKER = str(Path(__file__).with_name("alive_worker.py"))


class Alive(starts.Way):
    """One way to keep containers."""

    most: ClassVar[int] = 1000  # that there is a point in asking for

    @abc.abstractmethod
    def begin(self, name: str) -> float:
        """Starts one; the seconds until its process ran."""

    def begin_together(self, names: Sequence[str]) -> float:
        """Starts them all at once, each from a thread; the seconds until all their processes ran."""
        begun = time.perf_counter()
        with ThreadPoolExecutor(len(names)) as threads:
            list(threads.map(self.begin, names))
        return time.perf_counter() - begun

    @abc.abstractmethod
    def end(self, names: Sequence[str]) -> None:
        """Kills and removes them; also one whose begin() failed."""


class Cli(starts.Cli, Alive):
    """Lazarus from a shell; a supervisor stays with each."""

    name = f"{OURS} run -d"

    def begin(self, name: str) -> float:
        return timed(*self.lazarus, "run", "-d", "--network", "none", "--name", name, REFERENCE, PAUSE)

    def end(self, names: Sequence[str]) -> None:
        in_pieces(names, *self.lazarus, "rm", "--force")


class Api(Cli):
    """Lazarus' API in a process that does nothing else."""

    name = OURS

    def prepare(self) -> None:
        super().prepare()
        command = [sys.executable, WORKER, f"{self.place}/store", REFERENCE, PAUSE]
        self.worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def begin(self, name: str) -> float:
        return self._ask(f"begin {name}")

    def begin_together(self, names: Sequence[str]) -> float:
        return self._ask(f"begin {' '.join(names)}")

    def end(self, names: Sequence[str]) -> None:
        each(names, lambda name: self._ask(f"end {name}"))

    def _ask(self, question: str) -> float:
        assert self.worker.stdin is not None and self.worker.stdout is not None
        self.worker.stdin.write(f"{question}\n")
        self.worker.stdin.flush()
        answer = self.worker.stdout.readline().strip()
        if not answer or answer.startswith("error"):
            raise RuntimeError(answer or "the worker has ended")
        return float(answer)

    def close(self) -> None:
        self.worker.communicate()  # the end of its input is its end


class KernelOverlay(starts.KernelOverlay, Alive):
    """A mount and a process in a chroot, by the system calls alone."""

    def begin(self, name: str) -> float:
        home, begun = self.place / name, time.perf_counter()
        self.make(home)
        if self.mounts:
            self.mount(home)
        command = [str(self.image.enter), f"{home}/merged", PAUSE]
        pid = os.posix_spawn(command[0], command, {})
        took = time.perf_counter() - begun
        (home / "pid").write_text(str(pid))
        return took

    def end(self, names: Sequence[str]) -> None:
        each(names, self._end)

    def _end(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            pid = int((self.place / name / "pid").read_text())
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.drop(self.place / name)


class Copy(starts.Copy, KernelOverlay):
    """A copy of the whole tree, and a process in a chroot."""

    most = 10


class Crun(starts.Crun, Alive):
    """The runtime alone over such an overlay; nobody supervises the process."""

    def begin(self, name: str) -> float:
        home, begun = self.place / name, time.perf_counter()
        starts.KernelOverlay.make(self, home)
        write_bundle(home, self.runtime, PAUSE)
        self.mount(home)
        call_runtime(self.runtime, home, "run", "--detach", "--pid-file", f"{home}/pid", "--bundle", str(home))
        return time.perf_counter() - begun

    def end(self, names: Sequence[str]) -> None:
        each(names, self._end)

    def _end(self, name: str) -> None:
        home = self.place / name
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pidfd = os.pidfd_open(int((home / "pid").read_text()))
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [])
            os.close(pidfd)
        with contextlib.suppress(RuntimeError):
            call_runtime(self.runtime, home, "delete", "--force")
        if (home / "merged").is_mount():
            detach(f"{home}/merged", lazy=True)  # the rest of the process's mount namespace goes a little later
        shutil.rmtree(home, ignore_errors=True)


class Podman(starts.Podman, Alive):
    """podman with a private store; a conmon stays with each."""

    def begin(self, name: str) -> float:
        options = ["--network", "none", *peers.LIMITS, "--name", name]
        return timed(*self.podman, "run", "-d", *options, REFERENCE, PAUSE)

    def end(self, names: Sequence[str]) -> None:
        in_pieces(names, *self.podman, "rm", "--force", "--ignore", "--time", "0")


class Containerd(starts.Containerd, Alive):
    """`ctr run -d` with a containerd that is up; a shim stays with each."""

    def begin(self, name: str) -> float:
        return timed(*self.ctr, "run", "-d", REFERENCE, name, PAUSE)

    def end(self, names: Sequence[str]) -> None:
        in_pieces(names, *self.ctr, "tasks", "rm", "--force")
        in_pieces(names, *self.ctr, "containers", "rm")


class Udocker(starts.Udocker, Alive):
    """udocker, whose PRoot and Python stay with each; it unpacks every layer for each."""

    most = 10

    def begin(self, name: str) -> float:
        begun = time.perf_counter()
        quietly(*self.udocker, "create", f"--name={name}", REFERENCE, env=self.env)
        null = subprocess.DEVNULL
        command = [*self.udocker, "run", name, PAUSE]
        process = subprocess.Popen(command, env=self.env, stdin=null, stdout=null, stderr=null)
        self.running[name] = process
        while not any(_command(pid) == Path(PAUSE).name for pid in _descendants(process.pid)):
            if process.poll() is not None:
                raise RuntimeError(f"{self.name} run: exit {process.returncode}")
            time.sleep(0.002)
        return time.perf_counter() - begun

    def end(self, names: Sequence[str]) -> None:
        each(names, self._end)

    def _end(self, name: str) -> None:
        if (process := self.running.pop(name, None)) is not None:
            for pid in reversed([process.pid, *_descendants(process.pid)]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        quietly(*self.udocker, "rm", name, env=self.env)


def _descendants(pid: int) -> list[int]:
    """Children, and theirs, as far as they can be seen."""
    with contextlib.suppress(OSError):
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [one for child in children for one in (child, *_descendants(child))]
    return []


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def timed(*command: str) -> float:
    """Seconds of a command."""
    begun = time.perf_counter()
    quietly(*command)
    return time.perf_counter() - begun


def in_pieces(names: Sequence[str], *command: str) -> None:
    """One command for many names, but so few that it is sure to be done in time."""
    each(range(0, len(names), 20), lambda first: quietly(*command, *names[first : first + 20]))


def each(things: Iterable[Thing], end: Callable[[Thing], object]) -> None:
    """Ends one after the other. One that cannot be ended does not keep the others; the first error is raised then."""
    errors: list[Exception] = []
    for thing in things:
        try:
            end(thing)
        except (RuntimeError, OSError) as error:
            errors.append(error)
    if errors:
        raise errors[0]


EVERYONE: tuple[type[Alive], ...] = (Api, Cli, KernelOverlay, Crun, Copy, Podman, Containerd, Udocker)
