"""usage: workloads.py WORKLOAD COUNT directory PATH
       workloads.py WORKLOAD COUNT stack LOWER UPPER WORK RUNG

What is done in a root file system, in a process of its own, with the clock in it: prints the seconds of each phase and
how many bytes were asked to be written, as JSON. The same code runs in a directory that something has mounted and in
a `LayerStack`.
"""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, Protocol

BLOCK = 4096
PER_DIRECTORY = 500


class Tree(Protocol):
    """What a `LayerStack` and a `Directory` both do; paths are from the root."""

    def open(self, path: str, mode: str, buffering: int) -> IO[Any]: ...
    def mkdir(self, path: str, mode: int = ...) -> None: ...
    def rmdir(self, path: str) -> None: ...
    def unlink(self, path: str) -> None: ...
    def rename(self, source: str, target: str) -> None: ...
    def chmod(self, path: str, mode: int) -> None: ...
    def stat(self, path: str) -> os.stat_result: ...
    def listdir(self, path: str) -> list[Any]: ...


class Directory:
    """A directory of the host, as a container's process sees it."""

    def __init__(self, root: str) -> None:
        self.root = root

    def open(self, path: str, mode: str, buffering: int) -> IO[Any]:
        return open(self.root + path, mode, buffering)

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        os.mkdir(self.root + path, mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(self.root + path)

    def unlink(self, path: str) -> None:
        os.unlink(self.root + path)

    def rename(self, source: str, target: str) -> None:
        """As mv(1) does: what cannot be renamed is copied and removed."""
        try:
            os.rename(self.root + source, self.root + target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            subprocess.run(["mv", self.root + source, self.root + target], check=True)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self.root + path, mode)

    def stat(self, path: str) -> os.stat_result:
        return os.stat(self.root + path)

    def listdir(self, path: str) -> list[Any]:
        return os.listdir(self.root + path)


def sync(file: IO[Any]) -> None:
    """fsync, which a file of a stack has under another name, because it may be several of the host's."""
    if hasattr(file, "sync"):
        file.sync()
    else:
        os.fsync(file.fileno())


class Stopwatch:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.asked = 0
        self._begun = time.perf_counter()

    def start(self) -> None:
        self._begun = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Ends a phase, and begins the next."""
        now = time.perf_counter()
        self.seconds[phase] = now - self._begun
        self._begun = time.perf_counter()


def random_writes(tree: Tree, count: int, clock: Stopwatch) -> None:
    """`count` blocks at random places of /big."""
    random.seed(count)
    size = tree.stat("/big").st_size
    places = [random.randrange(size // BLOCK) * BLOCK for _ in range(count)]
    data = os.urandom(BLOCK)
    clock.start()
    file = tree.open("/big", "r+b", 0)
    file.seek(places[0])
    file.write(data)
    clock.lap("first write")
    for place in places[1:]:
        file.seek(place)
        file.write(data)
    if count > 1:
        clock.lap("the other writes")
    sync(file)
    clock.lap("fsync")
    file.seek(places[-1])
    assert file.read(BLOCK) == data
    file.close()
    clock.asked = count * BLOCK


def append(tree: Tree, count: int, clock: Stopwatch) -> None:
    """`count` blocks at the end of /big, through O_APPEND."""
    data = os.urandom(BLOCK)
    size = tree.stat("/big").st_size
    clock.start()
    with tree.open("/big", "ab", 0) as file:
        for _ in range(count):
            file.write(data)
        clock.lap("append")
        sync(file)
    clock.lap("fsync")
    assert tree.stat("/big").st_size == size + count * BLOCK
    clock.asked = count * BLOCK


def chmod(tree: Tree, count: int, clock: Stopwatch) -> None:
    """Another mode for each of the `count` files of /tree and its directories."""
    clock.start()
    for directory, files in _directories(count):
        tree.chmod(f"/tree/{directory}", 0o711)
        for name in files:
            tree.chmod(f"/tree/{directory}/{name}", 0o640)
    clock.lap("chmod -R")


def rename(tree: Tree, count: int, clock: Stopwatch) -> None:
    """/tree, with `count` files, gets another name."""
    clock.start()
    tree.rename("/tree", "/renamed")
    clock.lap("rename")
    assert len(tree.listdir("/renamed")) == -(-count // PER_DIRECTORY)


def storm(tree: Tree, count: int, clock: Stopwatch) -> None:
    """`count` files in new directories: created, looked at, listed, removed."""
    names = list(_directories(count))
    clock.start()
    tree.mkdir("/storm")
    for directory, files in names:
        tree.mkdir(f"/storm/{directory}")
        for name in files:
            tree.open(f"/storm/{directory}/{name}", "wb", 0).close()
    clock.lap("create")
    for directory, files in names:
        for name in files:
            tree.stat(f"/storm/{directory}/{name}")
    clock.lap("stat")
    found = sum(len(tree.listdir(f"/storm/{directory}")) for directory, _ in names)
    clock.lap("readdir")
    assert found == count
    for directory, files in names:
        for name in files:
            tree.unlink(f"/storm/{directory}/{name}")
        tree.rmdir(f"/storm/{directory}")
    tree.rmdir("/storm")
    clock.lap("unlink")


def remove(tree: Tree, count: int, clock: Stopwatch) -> None:
    """The `count` files of /tree, which are a lower's: listed, looked at, removed."""
    clock.start()
    names = [(directory, tree.listdir(f"/tree/{directory}")) for directory, _ in _directories(count)]
    clock.lap("readdir of a lower")
    paths = [f"/tree/{directory}/{os.fsdecode(name)}" for directory, files in names for name in files]
    for path in paths:
        tree.stat(path)
    clock.lap("stat in a lower")
    for path in paths:
        tree.unlink(path)
    clock.lap("unlink in a lower")
    assert len(paths) == count and tree.listdir("/tree/0") == []


def _directories(count: int) -> Iterator[tuple[str, list[str]]]:
    for first in range(0, count, PER_DIRECTORY):
        number = first // PER_DIRECTORY
        yield str(number), [f"file-{i}" for i in range(first, min(first + PER_DIRECTORY, count))]


def fill(lower: str, count: int) -> None:
    """The /tree that `chmod`, `rename` and `remove` want: `count` files of a hundred bytes."""
    for directory, files in _directories(count):
        os.makedirs(f"{lower}/tree/{directory}")
        for name in files:
            with open(f"{lower}/tree/{directory}/{name}", "wb") as file:
                file.write(name.encode() * 12)


WORKLOADS: dict[str, Callable[[Tree, int, Stopwatch], None]] = {
    work.__name__: work for work in (random_writes, append, chmod, rename, storm, remove)
}


def main(words: list[str]) -> None:
    """One workload."""
    name, count, kind, *places = words
    clock = Stopwatch()
    if kind == "stack":
        import lazarus

        lower, upper, work, rung = places
        with lazarus.LayerStack([lower], upper=upper, work=work, rung=rung) as stack:
            WORKLOADS[name](stack, int(count), clock)  # type: ignore[arg-type]
    else:
        WORKLOADS[name](Directory(places[0]), int(count), clock)
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]  # mv's, too
    cost = {"cpu": sum(one.ru_utime + one.ru_stime for one in used), "peak_kib": _peak_kib()}
    print(json.dumps({"seconds": clock.seconds, "asked": clock.asked, **cost}))


def _peak_kib() -> int:
    """Of this program alone: ru_maxrss begins with that of the process that started it."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main(sys.argv[1:])
