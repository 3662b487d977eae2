"""Where the trees of a volume are: its files, and what they were in each of its snapshots.

    without a limit                             with one, in volumes/<name>/limit.image
    volumes/<name>/data                         data
    snapshots/<name>@<snapshot>/data            snapshots/<snapshot>
    staging/<lease>/...                         staging/<lease>-...

A volume whose size is limited is a file system of its own (lazarus/content/limited.py), and all its trees are in there:
a snapshot shares blocks with it whatever the host's file system is, and counts against the limit with what has become
different since. Its directory in `snapshots` is empty then, and stands for its row. A file `reserve` keeps some room
for going back to one when it is full.

That file system is seen through a descriptor, never in the tree: killed, a process leaves nothing mounted. What it left
in `staging`, and snapshots whose rows are gone or never came, the next one who reaches the volume throws away.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from lazarus.content import limited, readers
from lazarus.content.pool_disk import fsync_directory
from lazarus.errors import FULL, LazarusError, NotFoundError

if TYPE_CHECKING:
    from lazarus.content.lease import Lease
    from lazarus.store import Store


T = TypeVar("T")
_RESERVE = 4 << 20  # bytes: the names of some thousand files


class Trees:
    """What `reached` gives. `data` is the directory with the volume's files; `limit` is in bytes, or None."""

    def __init__(self, store: Store, name: str, root: int) -> None:
        """`root`: a descriptor of its own file system, or -1."""
        self._store = store
        self._name = name
        self._root = root
        self._inside = f"/proc/self/fd/{root}"
        self._made: list[str] = []
        self.limit = limited.limit(store.paths.volume(name)) if root >= 0 else None
        self.data = f"{self._inside}/data" if root >= 0 else f"{store.paths.volume(name)}/data"

    def snapshot(self, name: str) -> str:
        """The directory with the files of a snapshot."""
        if self._root >= 0:
            return f"{self._inside}/snapshots/{name}"
        return f"{self._store.paths.snapshot(self._name, name)}/data"

    def new(self, lease: Lease, directory: str) -> str:
        """Where a new tree can be made, on the file system of `data`; `directory` is one of the lease's, and the tree
        goes with it (`data` in it) where that is there too. What is there at the end is thrown away."""
        if self._root < 0:
            return f"{directory}/data"
        self._made.append(f"{self._inside}/staging/{lease.id}-{os.path.basename(directory)}")
        return self._made[-1]

    def sync(self, lease: Lease) -> None:
        """Has what was made here and in the lease's staging on disk."""
        from lazarus._native.sync import syncfs

        syncfs(lease.fd)
        if self._root >= 0:
            syncfs(self._root)

    def place(self, tree: str, name: str) -> None:
        """In the transaction that inserts a snapshot's row: gives the new tree its place, where it does not have it by
        its directory's name. What has it already was left by somebody who died."""
        if self._root < 0:
            return
        place = self.snapshot(name)
        if os.path.lexists(place):
            os.rename(place, self._rubbish())
        os.rename(tree, place)
        fsync_directory(os.path.dirname(place))

    def usage(self) -> tuple[int, int]:
        """Bytes that are used, and free, where there is a limit."""
        found = os.statvfs(self._root)
        return (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_bavail * found.f_frsize

    def with_room(self, act: Callable[[], T]) -> T:
        """Calls it; where the limit is reached, once more with what is kept free for that."""
        try:
            return act()
        except OSError as error:
            if self._root < 0 or error.errno not in FULL:
                raise
            with suppress(FileNotFoundError):
                os.unlink("reserve", dir_fd=self._root)
            return act()

    @contextmanager
    def at_limit(self) -> Iterator[None]:
        """Around what writes in the volume alone: see `limited.at_limit`."""
        with limited.at_limit(f"volume {self._name}", self.limit):
            yield

    def _rubbish(self) -> str:
        self._made.append(f"{self._inside}/staging/rubbish-{os.urandom(8).hex()}")
        return self._made[-1]

    def _tidy(self) -> None:
        """Moves what no row and no lease names out of the way, under the write lock, for names are given under it."""
        if not self._unnamed():
            return
        with self._store.catalogue.write(durable=False):
            for place in self._unnamed():
                if os.path.dirname(place) == f"{self._inside}/staging":
                    self._made.append(place)
                else:
                    os.rename(place, self._rubbish())

    def _unnamed(self) -> list[str]:
        staged, kept = os.listdir(f"{self._inside}/staging"), os.listdir(f"{self._inside}/snapshots")
        rows = self._store.catalogue.read()
        leases = {row[0] for row in rows.execute("SELECT id FROM leases")} if staged else set()
        names = {row[0] for row in rows.execute("SELECT name FROM snapshots WHERE volume=?", (self._name,))}
        return [f"{self._inside}/staging/{name}" for name in staged if name.partition("-")[0] not in leases] + [
            f"{self._inside}/snapshots/{name}" for name in kept if name not in names
        ]

    def _keep_room(self) -> None:
        """Makes the reserve again, if it is not there, and there is room for it."""
        try:
            reserve = os.open("reserve", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._root)
        except OSError:
            return
        try:
            os.posix_fallocate(reserve, 0, _RESERVE)
        except OSError:
            with suppress(FileNotFoundError):  # somebody has just used it
                os.unlink("reserve", dir_fd=self._root)
        finally:
            os.close(reserve)

    def _throw_away(self) -> None:
        from lazarus._native.publish import remove_tree

        while self._made:
            with suppress(OSError, LazarusError):  # another process does it too; left, it is rubbish to the next one
                remove_tree(self._made.pop())


@contextmanager
def reached(store: Store, name: str) -> Iterator[Trees]:
    """The trees of a volume. The caller holds its lock, or has a lease, so that they stay where they are.

    `NotFoundError` when the volume has been removed; `StoreError` when its size is limited, without root.
    """
    place = store.paths.volume(name)
    if not limited.is_limited(place):
        yield Trees(store, name, -1)
        return
    room = readers.hold(store.paths.volumes)
    root = -1
    try:
        try:
            root = limited.opened(place)
        except FileNotFoundError:
            raise NotFoundError(f"volume {name}: its directory is gone") from None
        trees = Trees(store, name, root)
        with suppress(OSError):  # it is full, or the host is
            trees._tidy()
        trees._throw_away()
        try:
            yield trees
        finally:
            trees._throw_away()
            trees._keep_room()
    finally:
        if root >= 0:
            os.close(root)
        os.close(room)


def make(directory: str, size: int) -> int:
    """The file system of a new volume, in its directory: a descriptor of its root, which the caller closes. Raises as
    `limited.making`. About 50 ms."""
    limited.make_image(directory, size)
    root = limited.opened(directory)
    try:
        for name, mode in (("data", 0o755), ("snapshots", 0o700), ("staging", 0o700)):
            os.mkdir(name, mode, dir_fd=root)
            os.chmod(name, mode, dir_fd=root)  # whatever the umask
    except BaseException:
        os.close(root)
        raise
    return root
