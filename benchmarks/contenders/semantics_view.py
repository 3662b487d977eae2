"""A root file system as semantics.py asks it, through a mount or through a `LayerStack`, and the tools of its probes.

Where a question takes further processes, this file is those, too. They do what lines of their input say:

usage: echo "write|lock|append PATH" | python -m benchmarks.contenders.semantics_view directory ROOT
       echo "write|lock|append PATH" | python -m benchmarks.contenders.semantics_view stack LOWER UPPER WORK RUNG
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import select
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.contenders.workloads import BLOCK, Directory, sync

if TYPE_CHECKING:
    from benchmarks.contenders.roots import Root

NEW = b"new "
RECORD, RECORDS = 64, 200  # bytes, and how many a process appends


class Mounted(Directory):
    """A directory that something has mounted, by system calls alone."""

    def rename(self, source: str, target: str) -> None:
        os.rename(self.root + source, self.root + target)

    def getxattr(self, path: str, attribute: str) -> bytes:
        """As os.getxattr()."""
        return os.getxattr(self.root + path, attribute)


class Other:
    """Another process that has the same root open, a stack as one of its own."""

    def __init__(self, target: Sequence[str]) -> None:
        command = [sys.executable, "-m", "benchmarks.contenders.semantics_view", *target]
        here = Path(__file__).parents[2]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=here)
        self.pid = self._process.pid

    def begin(self, verb: str, path: str) -> None:
        """Lets it do something."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{verb} {path}\n".encode())
        self._process.stdin.flush()

    def end(self) -> str:
        """What it says of that. `RuntimeError` when it fails, or says nothing for a minute."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], 60)
        done, _, said = (
            self._process.stdout.readline().decode().strip().partition(" ") if ready else ("", "", "silence")
        )
        if done != "done":
            raise RuntimeError(said or f"it ended with {self._process.wait()}")
        return said

    def do(self, verb: str, path: str) -> str:
        """Both."""
        self.begin(verb, path)
        return self.end()

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()


class View(NamedTuple):
    """A root that has been made. `tree` is a `Mounted` or a `LayerStack`; `others` are two further processes that see
    it; `written` are the directories of the host that its changes go to."""

    tree: Any
    others: Sequence[Other]
    written: Sequence[Path]

    @property
    def in_process(self) -> bool:
        """Has it no path that the kernel knows?"""
        return not isinstance(self.tree, Mounted)


@contextlib.contextmanager
def prepared(root: Root) -> Iterator[None]:
    """What is done once for a root, and undone. Whoever takes the lower as a tar gets its holes as such."""
    before = os.environ.get("TAR_OPTIONS")
    os.environ["TAR_OPTIONS"] = "--sparse"
    try:
        root.prepare()
    finally:
        del os.environ["TAR_OPTIONS"]
        if before is not None:
            os.environ["TAR_OPTIONS"] = before
    try:
        yield
    finally:
        root.close()


@contextlib.contextmanager
def view_of(root: Root) -> Iterator[View]:
    """Makes a root, and drops it."""
    try:
        root.make()
        around = root.path.parent
        written = [path for path in (around / "upper", around / "diff", around / "work") if path.is_dir()]
        with opened(root.target) as tree, contextlib.ExitStack() as closing:
            others = [Other(root.target) for _ in range(2)]
            for other in others:
                closing.callback(other.close)
            yield View(tree, others, written or [root.path])
    finally:
        root.drop()


@contextlib.contextmanager
def opened(target: Sequence[str]) -> Iterator[Any]:
    """The tree that the words name. A stack over an upper that another one has is a stack of its own."""
    kind, *places = target
    if kind == "stack":
        import lazarus

        lower, upper, work, rung = places
        with lazarus.LayerStack([lower], upper=upper, work=work, rung=rung) as stack:
            yield stack
    else:
        yield Mounted(places[0])


def read(tree: Any, path: str, size: int) -> bytes:
    """The first bytes."""
    with tree.open(path, "rb", 0) as file:
        return bytes(file.read(size))


def write(tree: Any, path: str) -> None:
    """The first block, down to the disk: what is kept in memory is not allocated yet."""
    with tree.open(path, "r+b", 0) as file:
        file.write(NEW * (BLOCK // len(NEW)))
        sync(file)


def record(who: int, number: int) -> bytes:
    """One that `append` appends."""
    return f"{who} {number}".encode().ljust(RECORD - 1, b".") + b"\n"


def allocated(directories: Sequence[Path], *, shared: bool = True) -> int:
    """Bytes of their files that are allocated; with `shared` False only what no other file shares."""
    total = 0
    for directory in directories:
        for path, _, names in os.walk(directory):
            for name in names:
                found = os.lstat(f"{path}/{name}")
                if stat.S_ISREG(found.st_mode):
                    blocks = found.st_blocks * 512
                    total += blocks if shared else _unshared(f"{path}/{name}", blocks)
    return total


def _unshared(path: str, otherwise: int) -> int:
    """Bytes of the extents that FIEMAP (linux/fiemap.h) does not call shared; `otherwise` where there is no FIEMAP."""
    room, flush, is_last, is_shared = 1024, 1, 0x1, 0x2000
    total, start = 0, 0
    with open(path, "rb", 0) as file:
        while True:
            found = array.array("B", struct.pack("=QQIIII", start, 2**64 - 1 - start, flush, 0, room, 0))
            found.extend(bytes(56 * room))
            try:
                fcntl.ioctl(file, 0xC020660B, found)
            except OSError as error:
                if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY):
                    return otherwise
                raise
            (count,) = struct.unpack_from("=I", found, 20)
            flags = is_last
            for number in range(count):
                logical, _, length, _, _, flags = struct.unpack_from("=QQQQQI", found, 32 + 56 * number)
                total += 0 if flags & is_shared else length
                start = logical + length
            if flags & is_last:
                return total


def main(target: list[str]) -> None:
    """Until the input ends."""
    with opened(target) as tree:
        for line in sys.stdin:
            verb, path = line.split()
            try:
                print("done", *VERBS[verb](tree, path), flush=True)
            except Exception as error:
                print("failed", " ".join(f"{type(error).__name__}: {error}".split()), flush=True)


def _write(tree: Any, path: str) -> Iterator[str]:
    write(tree, path)
    yield from ()


def _lock(tree: Any, path: str) -> Iterator[str]:
    """The kinds of lock that it does not get."""
    with tree.open(path, "r+b", 0) as file:
        for name, lock in (("flock", fcntl.flock), ("fcntl", fcntl.lockf)):
            try:
                lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield name


def _append(tree: Any, path: str) -> Iterator[str]:
    with tree.open(path, "ab", 0) as file:
        for number in range(RECORDS):
            file.write(record(os.getpid(), number))
    yield from ()


VERBS: dict[str, Callable[[Any, str], Iterator[str]]] = {"write": _write, "lock": _lock, "append": _append}

if __name__ == "__main__":
    main(sys.argv[1:])
