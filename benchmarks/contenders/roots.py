"""How a container gets a writable root file system of its own: one class a way, all over the same lower directory.

Each prepares once what its containers share, then makes and drops roots. The lower and all that is made lie on one
file system, as they do in a store.
"""

from __future__ import annotations

import abc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import lazarus
from benchmarks.contenders import peers
from benchmarks.harness.disks import free_bytes, run
from benchmarks.harness.results import LIMIT, OURS
from lazarus.errors import LazarusError
from lazarus.mounts import detach
from lazarus.mounts.union import union
from lazarus.volumes.mounts import Bind, Tmpfs, VolumeMount

# What a contender may fail with: it is missing then, and the others go on.
FAILURES = (RuntimeError, OSError, ValueError, subprocess.SubprocessError, LazarusError)


class Root(abc.ABC):
    """One way. `place` is a directory of its own beside `lower`."""

    name: ClassVar[str]
    tool: ClassVar[str] = ""  # that it cannot do without
    has_path: ClassVar[bool] = True  # that any program can use; without it there is only Lazarus' API
    needs_root: ClassVar[bool] = True  # mounts
    is_copy: ClassVar[bool] = False  # what the others do at the first write, it does when it is made
    is_served: ClassVar[bool] = False  # by a process of its own, whose CPU and memory are not the workload's

    def __init__(self, place: Path, lower: Path) -> None:
        self.place, self.lower = place, lower

    def why_not(self, file_system: str) -> str | None:
        """Why it cannot be asked on such a file system; None when it can."""
        if self.needs_root and os.geteuid() != 0:
            return "needs root: mounts"
        if self.tool and shutil.which(self.tool) is None:
            return f"{self.tool} is not installed"
        return None

    def prepare(self) -> None:  # noqa: B027 - most need nothing
        """What is done once. `RuntimeError` says what failed."""

    @abc.abstractmethod
    def make(self) -> None:
        """A root that nobody has written to. There is one at a time."""

    @abc.abstractmethod
    def drop(self) -> None:
        """Undoes `make()`, also one that failed half-way."""

    @property
    def path(self) -> Path:
        """Where it is mounted."""
        return self.place / "merged"

    @property
    def target(self) -> Sequence[str]:
        """The words that name it for workloads.py."""
        return ("directory", str(self.path))

    def commit(self) -> None:
        """Keeps what was changed, durably, as this way does it. `NotImplementedError` where it has none."""
        raise NotImplementedError(f"{self.name} has no commit")

    def free(self) -> int:
        """Bytes free where its changes go, with everything written back."""
        os.sync()
        return free_bytes(self.place)

    def close(self) -> None:  # noqa: B027 - most have nothing
        """Undoes `prepare()`."""


class _Overlay(Root):
    """An upper and a work directory, and something that mounts them over the lower."""

    def make(self) -> None:
        for name in ("upper", "work", "merged"):
            (self.place / name).mkdir()
        self.mount()

    @abc.abstractmethod
    def mount(self) -> None: ...

    def drop(self) -> None:
        if self.path.is_mount():
            detach(str(self.path))
        for name in ("upper", "work", "merged"):
            shutil.rmtree(self.place / name, ignore_errors=True)

    def commit(self) -> None:
        tar = self.place / "layer.tar.gz"
        with open(tar, "wb") as out:
            pack = ["sh", "-ec", 'tar -cf - -C "$0" . | gzip', str(self.place / "upper")]
            subprocess.run(pack, stdout=out, check=True, capture_output=False)
            os.fsync(out.fileno())
        tar.unlink()

    @property
    def options(self) -> str:
        """As mount(8) takes them."""
        return f"lowerdir={self.lower},upperdir={self.place}/upper,workdir={self.place}/work"


class KernelOverlay(_Overlay):
    """The kernel's overlayfs over directories."""

    name = "kernel overlayfs"

    def mount(self) -> None:
        union([str(self.lower)], str(self.path), upper=str(self.place / "upper"), work=str(self.place / "work"))


class FuseOverlay(_Overlay):
    """The overlay in user space that rootless podman uses."""

    name = tool = "fuse-overlayfs"
    is_served = True

    def mount(self) -> None:
        run("fuse-overlayfs", "-o", self.options, str(self.path))


class Composefs(_Overlay):
    """composefs: an EROFS image of metadata over a directory of objects, under an overlay."""

    name = "composefs"
    tool = "mkcomposefs"

    def prepare(self) -> None:
        run("mkcomposefs", f"--digest-store={self.place}/objects", str(self.lower), f"{self.place}/image.cfs")

    def mount(self) -> None:
        options = f"basedir={self.place}/objects,upperdir={self.place}/upper,workdir={self.place}/work"
        run("mount.composefs", "-o", options, f"{self.place}/image.cfs", str(self.path))


class BlockStack(_Overlay):
    """Lazarus in process: a `LayerStack` over the lower directory, block by block where nothing can clone."""

    name = OURS
    has_path = needs_root = False
    rung: ClassVar[str] = "auto"

    def mount(self) -> None:
        self.path.rmdir()  # there is no mount

    @property
    def target(self) -> Sequence[str]:
        return ("stack", str(self.lower), f"{self.place}/upper", f"{self.place}/work", self.rung)

    def commit(self) -> None:
        raise NotImplementedError("a stack over a directory has no image to commit to")


class ClonelessStack(BlockStack):
    """The same where the file system could clone, and is not asked to."""

    name = f"{OURS} (blocks)"
    rung = "blocks"

    def why_not(self, file_system: str) -> str | None:
        return None if file_system in ("xfs", "btrfs") else f"the same as {OURS} on {file_system}, which cannot clone"


class Container(Root):
    """A Lazarus container, mounted by the kernel driver."""

    name = f"{OURS} (kernel)"
    on_pool: ClassVar[bool] = False

    def prepare(self) -> None:
        self.store = lazarus.Store(self.place / "store")
        try:
            if self.on_pool:
                size = max(3 << 30, 3 * size_of(self.lower))
                self.store.pool.create(min(size, free_bytes(self.place) * 9 // 10))
            with packed(self.lower) as tar:
                assert tar.stdout is not None
                self.store.images.import_(tar.stdout, "bench:lower", changes=['CMD ["true"]'])
            self.make()  # builds the stack
            self.drop()
        except BaseException:
            self.close()
            raise

    def make(self) -> None:
        self.container = self.store.containers.create("bench:lower")
        self.container.mount()

    def drop(self) -> None:
        if hasattr(self, "container"):
            self.container.remove(force=True)
            del self.container

    @property
    def path(self) -> Path:
        return Path(self.container.rootfs)

    def commit(self) -> None:
        self.container.commit("bench:commit")

    def free(self) -> int:
        os.sync()
        return free_bytes(Path(self.store.paths.containers))

    def close(self) -> None:
        if self.store.pool.exists:
            self.store.pool.destroy(force=True)
        self.store.close()


class PoolContainer(Container):
    """The same in a store on a pool: an XFS image inside the file system under test."""

    name = f"{OURS} (pool)"
    on_pool = True

    def why_not(self, file_system: str) -> str | None:
        if file_system == "tmpfs":
            return "a pool is for disks: its loop device does direct I/O"
        return super().why_not(file_system)


class VolumeContainer(Root):
    """The lower's files in a volume, and a container with this machine's programs that has it mounted."""

    name = f"{OURS} (volume)"
    TARGET: ClassVar[str] = "/var/lib/postgresql"
    PROGRAMS: ClassVar[tuple[str, ...]] = ("/usr", "/etc", str(Path(lazarus.__file__).parent.parent), sys.base_prefix)

    def prepare(self) -> None:
        self.store = lazarus.Store(self.place / "store")
        with tempfile.TemporaryDirectory(dir=self.place) as empty:
            os.chmod(empty, 0o755)  # which the root of its containers has, too
            for name in ("bin", "lib", "lib64", "sbin"):
                if os.path.islink(f"/{name}"):
                    os.symlink(f"usr/{name}", f"{empty}/{name}")
            with packed(Path(empty)) as tar:
                assert tar.stdout is not None
                self.store.images.import_(tar.stdout, "bench:empty")

    def make(self) -> None:
        volume = self.store.volumes.create("db")
        with packed(self.lower) as tar:
            assert tar.stdout is not None
            volume.import_(tar.stdout)

    def drop(self) -> None:
        self.store.volumes.remove("db", missing_ok=True)

    @property
    def path(self) -> Path:
        return Path(self.store.volumes.get("db").path)

    def run(self, command: Sequence[str], volume: str = "db") -> str:
        """What a command prints in a container of its own. `RuntimeError` with the last line that it wrote."""
        programs = [Bind(path, path, read_only=True) for path in dict.fromkeys(self.PROGRAMS)]
        volumes = [*programs, Tmpfs("/tmp"), VolumeMount(volume, self.TARGET)]
        with (
            self.store.containers.create("bench:empty", command=command, volumes=volumes) as container,
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as said,
        ):
            code = container.start(attach=True, stdout=out.fileno(), stderr=said.fileno())
            for file in (out, said):
                file.seek(0)
            if code != 0:
                raise RuntimeError((said.read().strip() or f"exit {code}").splitlines()[-1])
            return out.read()

    def close(self) -> None:
        self.store.close()


class BtrfsSnapshot(Root):
    """A writable snapshot of a btrfs subvolume."""

    name = "btrfs snapshot"
    tool = "btrfs"

    def why_not(self, file_system: str) -> str | None:
        return super().why_not(file_system) if file_system == "btrfs" else f"no snapshots on {file_system}"

    def prepare(self) -> None:
        run("btrfs", "subvolume", "create", f"{self.place}/base")
        run("cp", "-a", "--reflink=auto", f"{self.lower}/.", f"{self.place}/base/")

    def make(self) -> None:
        run("btrfs", "subvolume", "snapshot", f"{self.place}/base", str(self.path))

    def drop(self) -> None:
        for name in ("merged", "commit"):
            if (self.place / name).exists():
                run("btrfs", "subvolume", "delete", "--commit-after", f"{self.place}/{name}")

    def commit(self) -> None:
        run("btrfs", "subvolume", "snapshot", "-r", str(self.path), f"{self.place}/commit")
        run("btrfs", "filesystem", "sync", str(self.place))


class Copy(Root):
    """`cp -a --reflink=auto` of the whole lower: what somebody without any of this does."""

    name = "cp -a --reflink=auto"
    needs_root = False
    is_copy = True
    reflink: ClassVar[str] = "auto"

    def make(self) -> None:
        run("cp", "-a", f"--reflink={self.reflink}", str(self.lower), str(self.path))

    def drop(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class Plain(Copy):
    """A directory of its own that nothing is stacked on and nothing is shared with: what the file system does without
    any of this."""

    name = f"{LIMIT}a plain directory"
    is_copy = False
    reflink = "never"


class Podman(Root):
    """A podman container of a private store, whose root file system `podman mount` mounts. Its commit compresses
    nothing; those of Lazarus and of the overlays here make a gzip layer at level 6."""

    name = tool = "podman"

    def prepare(self) -> None:
        self.command = peers.podman(self.place)
        with packed(self.lower) as tar:
            done = subprocess.run([*self.command, "import", "-q", "-", "bench:lower"], stdin=tar.stdout,
                                  capture_output=True, text=True, check=False)  # fmt: skip
        if done.returncode != 0:
            self.close()
            raise RuntimeError(f"podman import: {done.stderr.strip()[-300:]}")

    def make(self) -> None:
        run(*self.command, "create", "--network", "none", *peers.LIMITS, "--name", "bench", "bench:lower", "true")
        self.mounted = Path(run(*self.command, "mount", "bench"))

    def drop(self) -> None:
        subprocess.run([*self.command, "umount", "bench"], capture_output=True, check=False)
        subprocess.run([*self.command, "rm", "-f", "bench"], capture_output=True, check=False)

    @property
    def path(self) -> Path:
        return self.mounted

    def commit(self) -> None:
        run(*self.command, "commit", "-q", "bench", "bench:commit")

    def close(self) -> None:
        peers.forget_podman(self.place)


def size_of(directory: Path) -> int:
    """Bytes of all files in it."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if not path.is_symlink() and path.is_file())


def lower_with_big(lower: Path, size: int) -> Path:
    """The directory, made with a file /big of `size` random bytes."""
    lower.mkdir()
    with open(lower / "big", "wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
    return lower


def packed(directory: Path) -> subprocess.Popen[bytes]:
    """A directory's tar, as it is written."""
    return subprocess.Popen(["tar", "-cf", "-", "--xattrs", "-C", str(directory), "."], stdout=subprocess.PIPE)


EVERYONE: tuple[type[Root], ...] = (
    BlockStack, ClonelessStack, Container, PoolContainer, KernelOverlay, FuseOverlay, Composefs, BtrfsSnapshot, Copy,
    Podman, Plain,
)  # fmt: skip


def ways(quick: bool) -> tuple[type[Root], ...]:
    """Everyone; in the quick set those that take no image in, which is most of a short question's time."""
    return tuple(way for way in EVERYONE if not quick or way not in (PoolContainer, Composefs, Podman))
