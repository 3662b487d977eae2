"""How a container comes to life and goes again: one class a way, all of the same image.

Each prepares once what its containers share, then gives one a whole life at a time: prepare (create it, make its
directories or its snapshot), mount, first exec (until `true` has ended), stop (unmount and remove). What is one command
says only how long the whole took. As it is all thrown away, who can say so is told: nothing is synced when an overlay
is unmounted (`volatile`, which podman's --rm implies).
"""

from __future__ import annotations

import abc
import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import lazarus
from benchmarks.contenders import peers
from benchmarks.contenders.bundles import call_runtime, write_bundle
from benchmarks.harness.results import OURS
from benchmarks.images.synthetic import REFERENCE, TRUE, Synthetic
from lazarus.mounts import attach, detach
from lazarus.runtime.crun import Runtime
from lazarus.terms import Mount

PHASES = ("prepare", "mount", "first exec", "stop")
LIMIT = 60  # seconds, for any command; and for a load that can be foreseen
FORESEES = 16  # layers: a load of fewer says more about the command than about layers
_loads: dict[str, float] = {}  # by way: seconds a layer, in the last load of as many


class Life:
    """Seconds of each phase, in which nothing overlaps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What is inside counts."""
        begun = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begun


def quietly(*command: str, env: dict[str, str] | None = None) -> None:
    """Runs it to its end; `RuntimeError` with the last line that it wrote. A file takes that, because what stays in the
    background would hold a pipe open."""
    with tempfile.TemporaryFile() as said:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=env, timeout=LIMIT, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{Path(command[0]).name}: not done after {LIMIT} s") from error
        if done.returncode != 0:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines() or [f"exit {done.returncode}"]
            raise RuntimeError(f"{Path(command[0]).name}: {lines[-1]}")


class Way(abc.ABC):
    """One way. `place` is a directory of its own, on the file system that the image lies on."""

    name: ClassVar[str]
    tool: ClassVar[str] = ""  # that it cannot do without
    quick_depth: ClassVar[int] = 500  # the deepest image that the quick set has time for

    def __init__(self, place: Path, image: Synthetic) -> None:
        self.place, self.image = place, image

    def why_not(self, file_system: str) -> str | None:
        """Why it cannot be asked on such a file system; None when it can."""
        if self.tool and shutil.which(self.tool) is None:
            return f"{self.tool} is not installed"
        return None

    def prepare(self) -> None:  # noqa: B027 - some need nothing
        """What is done once. `RuntimeError` says what failed."""

    @abc.abstractmethod
    def start(self, name: str) -> dict[str, float]:
        """The whole life of one container; seconds by phase, or of the "whole". Several threads may do it at once."""

    def close(self) -> None:  # noqa: B027 - most have nothing
        """Undoes `prepare()`."""


class _Rooted(Way):
    """A root file system that is made here, in which chroot and exec start the program: no namespaces, no cgroup."""

    mounts: ClassVar[bool] = True

    def start(self, name: str) -> dict[str, float]:
        home, life = self.place / name, Life()
        try:
            with life.phase("prepare"):
                self.make(home)
            if self.mounts:
                with life.phase("mount"):
                    self.mount(home)
            with life.phase("first exec"):
                self.execute(home)
        finally:
            with life.phase("stop"):
                self.drop(home)
        return life.seconds

    @abc.abstractmethod
    def make(self, home: Path) -> None:
        """Its directories."""

    def mount(self, home: Path) -> None:
        """At `home/merged`."""
        raise NotImplementedError

    def execute(self, home: Path) -> None:
        """Runs the program to its end."""
        command = [str(self.image.enter), f"{home}/merged", TRUE]
        _, status = os.waitpid(os.posix_spawn(command[0], command, {}), 0)
        if status != 0:
            raise RuntimeError(f"{TRUE}: wait status {status}")

    @abc.abstractmethod
    def drop(self, home: Path) -> None:
        """Undoes `make()` and `mount()`, also when they failed half-way."""


class KernelOverlay(_Rooted):
    """The kernel's overlayfs over one directory a layer, by the system calls alone."""

    name = "kernel overlayfs"

    def prepare(self) -> None:
        self.lowers = tuple(map(str, reversed(self.image.layers)))

    def make(self, home: Path) -> None:
        for directory in (home, home / "upper", home / "work", home / "merged"):
            directory.mkdir()

    def mount(self, home: Path) -> None:
        attach(
            Mount(lowers=self.lowers, upper=f"{home}/upper", work=f"{home}/work", metacopy=False, redirect_dir=False,
                  volatile=True),
            f"{home}/merged",
        )  # fmt: skip

    def drop(self, home: Path) -> None:
        if (home / "merged").is_mount():
            detach(f"{home}/merged")
        shutil.rmtree(home, ignore_errors=True)


class FuseOverlay(KernelOverlay):
    """The overlay in user space that rootless podman uses."""

    name = tool = "fuse-overlayfs"

    def mount(self, home: Path) -> None:
        lowers = ":".join(self.lowers)
        quietly("fuse-overlayfs", "-o", f"volatile,lowerdir={lowers},upperdir={home}/upper,workdir={home}/work",
                f"{home}/merged")  # fmt: skip


class Crun(KernelOverlay):
    """The runtime alone over such an overlay, with the bundle that Lazarus would give it: what is below `lazarus`."""

    tool = "crun"
    name = "crun alone"

    def prepare(self) -> None:
        super().prepare()
        self.runtime = Runtime(shutil.which(self.tool))

    def make(self, home: Path) -> None:
        super().make(home)
        write_bundle(home, self.runtime, TRUE)

    def execute(self, home: Path) -> None:
        call_runtime(self.runtime, home, "run", "--bundle", str(home))


class Runc(Crun):
    """The same with the other runtime."""

    tool = "runc"
    name = "runc alone"


class BtrfsSnapshot(_Rooted):
    """A writable snapshot of a btrfs subvolume."""

    name = "btrfs snapshot"
    tool = "btrfs"
    mounts = False

    def why_not(self, file_system: str) -> str | None:
        return super().why_not(file_system) if file_system == "btrfs" else f"no snapshots on {file_system}"

    def prepare(self) -> None:
        quietly("btrfs", "subvolume", "create", f"{self.place}/base")
        quietly("cp", "-a", "--reflink=auto", f"{self.image.whole}/.", f"{self.place}/base/")

    def make(self, home: Path) -> None:
        home.mkdir()
        quietly("btrfs", "subvolume", "snapshot", f"{self.place}/base", f"{home}/merged")

    def drop(self, home: Path) -> None:
        if (home / "merged").exists():
            quietly("btrfs", "subvolume", "delete", f"{home}/merged")
        shutil.rmtree(home, ignore_errors=True)


class Copy(_Rooted):
    """`cp -a --reflink=auto` of the whole tree: what somebody without any of this does."""

    name = "cp -a --reflink=auto"
    mounts = False

    def make(self, home: Path) -> None:
        home.mkdir()
        quietly("cp", "-a", "--reflink=auto", str(self.image.whole), f"{home}/merged")

    def drop(self, home: Path) -> None:
        shutil.rmtree(home, ignore_errors=True)


class Api(Way):
    """Lazarus in this process."""

    name = OURS

    def prepare(self) -> None:
        self.store = lazarus.Store(self.place / "store")
        (self.loaded,) = self.store.images.load(self.image.archive)
        self.null = os.open(os.devnull, os.O_WRONLY)

    def start(self, name: str) -> dict[str, float]:
        life = Life()
        with life.phase("prepare"):
            container = self.store.containers.create(self.loaded, command=[TRUE], name=name, ephemeral=True)
        try:
            with life.phase("mount"):
                container.mount()
            with life.phase("first exec"):
                code = container.start(attach=True, stdout=self.null, stderr=self.null)
            if code != 0:
                raise RuntimeError(f"{TRUE}: exit {code}")
        finally:
            with life.phase("stop"):
                container.remove(force=True)
        return life.seconds

    def close(self) -> None:
        self.store.close()
        os.close(self.null)


class _Commands(Way):
    """A command line, seen from outside."""

    def start(self, name: str) -> dict[str, float]:
        life = Life()
        with life.phase("whole"):
            quietly(*self.command(name))
        return life.seconds

    @abc.abstractmethod
    def command(self, name: str) -> list[str]:
        """The words that run one container to its end and remove it."""


class Cli(_Commands):
    """Lazarus from a shell."""

    name = f"{OURS} run --rm"

    def prepare(self) -> None:
        self.lazarus = [peers.LAZARUS, "--root", str(self.place / "store")]
        quietly(*self.lazarus, "load", "-q", "-i", str(self.image.archive))

    def command(self, name: str) -> list[str]:
        return [*self.lazarus, "run", "--rm", "--network", "none", "--name", name, REFERENCE, TRUE]


class _Loading(Way):
    """A peer with a store of its own, whose load takes a while for each layer: what is foreseen to take longer than
    `LIMIT` is not tried."""

    def why_not(self, file_system: str) -> str | None:
        foreseen = _loads.get(self.name, 0) * self.image.depth
        if foreseen > LIMIT:
            return f"to load {self.image.depth} layers would take {foreseen:.0f} s or more"
        return super().why_not(file_system)

    def load(self, *command: str, env: dict[str, str] | None = None) -> None:
        """Runs the command that loads the image."""
        begun = time.perf_counter()
        quietly(*command, env=env)
        if self.image.depth >= FORESEES:
            _loads[self.name] = (time.perf_counter() - begun) / self.image.depth


class Podman(_Commands, _Loading):
    """podman with a private store. The quick set asks it in start__run_true.py."""

    name = tool = "podman"
    quick_depth = 0

    def prepare(self) -> None:
        self.podman = peers.podman(self.place)
        self.load(*self.podman, "load", "-q", "-i", str(self.image.archive))

    def command(self, name: str) -> list[str]:
        return [*self.podman, "run", "--rm", "--network", "none", *peers.LIMITS, "--name", name, REFERENCE, TRUE]

    def close(self) -> None:
        peers.forget_podman(self.place)


class Containerd(_Commands, _Loading):
    """`ctr run` with a containerd that is up."""

    name = tool = "ctr"
    quick_depth = 1

    def prepare(self) -> None:
        self.ctr = peers.containerd(self.place)
        self.load(*self.ctr, "images", "import", str(self.image.archive))

    def command(self, name: str) -> list[str]:
        return [*self.ctr, "run", "--rm", REFERENCE, name, TRUE]

    def close(self) -> None:
        peers.clean_up(self.place)


class Udocker(_Loading):
    """udocker with PRoot: it unpacks every layer for each container, and mounts nothing."""

    name = "udocker"
    tool = "proot"
    quick_depth = 0

    def why_not(self, file_system: str) -> str | None:
        if shutil.which("udocker") is None and importlib.util.find_spec("udocker") is None:
            return "udocker is not installed"
        return super().why_not(file_system)

    def prepare(self) -> None:
        found = shutil.which("udocker")
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.udocker = [*([found] if found else [sys.executable, "-m", "udocker.maincmd"]), "--allow-root"]
        # An empty tarball's name: PRoot is the machine's own, and nothing is to be downloaded.
        self.env = {**os.environ, "UDOCKER_DIR": f"{self.place}/store", "UDOCKER_TARBALL": "",
                    "UDOCKER_USE_PROOT_EXECUTABLE": shutil.which("proot") or ""}  # fmt: skip
        self.load(*self.udocker, "load", "-i", str(self.image.archive), env=self.env)

    def start(self, name: str) -> dict[str, float]:
        life = Life()
        with life.phase("prepare"):
            quietly(*self.udocker, "create", f"--name={name}", REFERENCE, env=self.env)
        with life.phase("first exec"):
            quietly(*self.udocker, "run", name, TRUE, env=self.env)
        with life.phase("stop"):
            quietly(*self.udocker, "rm", name, env=self.env)
        return life.seconds


EVERYONE: tuple[type[Way], ...] = (
    Api, Cli, KernelOverlay, Crun, Runc, FuseOverlay, BtrfsSnapshot, Copy, Podman, Containerd, Udocker,
)  # fmt: skip
