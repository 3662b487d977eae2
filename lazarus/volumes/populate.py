"""What a new volume begins with: the directory that its first container's image has in the place where it is mounted.

The image is mounted once more, by itself, under an overlay whose upper lies in a lease's staging, and the directory is
copied within that one mount, from the image to a name that only the upper has. So the kernel clones files (FICLONE)
where the file system can, whatever layer they come from, and what arrives in the upper is a plain tree: owners, modes,
xattrs, hard links, symlinks, devices and holes as in the image, and none of overlayfs' marks. It is then on disk, and
takes the place of the volume's empty directory in one rename. Killed before that, a process leaves an empty volume;
between that and the row that says so, one that is not empty, which is not populated again. Where the volume has a limit
and so a file system of its own, the image is copied into that, byte for byte.

Whoever mounts a volume first decides, also with `nocopy` and with a part of it: from then on its directory stays the
same one, for containers have it mounted. Others wait for the volume's lock meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lazarus.content import limited
from lazarus.content.pool_disk import fsync_directory
from lazarus.terms import DiffID, Mount
from lazarus.volumes.trees import Trees, reached

if TYPE_CHECKING:
    from lazarus.content.lease import Lease
    from lazarus.store import Store
    from lazarus.volumes.volume import Volume

# the image has no directory there
_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def settle(volume: Volume, image: tuple[Sequence[DiffID], str] | None, *, durable: bool = True) -> None:
    """A fresh volume is one no more: it gets what the image (its layers, and the path in it) has, if it is empty and
    there is an image. One that is in use already costs a row that is read (10 us).

    Not `durable`: nothing is synced, for it goes with a container that does not survive a power cut either. Raises
    `NotFoundError` (it has been removed), `OSError`, and is as fresh as before then.
    """
    if not volume.fresh:
        return
    with volume.lock(fcntl.LOCK_EX):
        if not volume.fresh:
            return
        if image is not None:
            with reached(volume.store, volume.name) as trees:
                if not os.listdir(trees.data):
                    _populate(volume, trees, *image, durable)
        with volume.store.catalogue.write(durable=durable) as connection:
            connection.execute("UPDATE volumes SET fresh=0 WHERE name=?", (volume.name,))


def _populate(volume: Volume, trees: Trees, diff_ids: Sequence[DiffID], path: str, durable: bool) -> None:
    store = volume.store
    store.content.reserve.check()
    with store.content.lease("volume") as lease:
        copied = _copy(store, lease, trees, diff_ids, path)
        if copied is None:
            return
        if durable:
            with limited.at_limit(f"volume {volume.name}", None):  # what does not fit then is the disk's fault
                trees.sync(lease)
        try:
            _replace(copied, trees.data)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                raise  # else: somebody on the host has put or mounted something there, which is what it begins with
        if durable:
            fsync_directory(os.path.dirname(trees.data))


def _replace(copied: str, empty: str) -> None:
    """Gives a directory the place of an empty one, at once. `OSError` when that is not empty. No directory is renamed
    over a subvolume of btrfs: they are exchanged."""
    from lazarus._native.pool import exchange

    try:
        os.rename(copied, empty)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or os.listdir(empty):
            raise
        exchange(copied, empty)
        if os.listdir(copied):  # put there just then
            exchange(copied, empty)
            raise


def _copy(store: Store, lease: Lease, trees: Trees, diff_ids: Sequence[DiffID], path: str) -> str | None:
    """A copy of a directory of an image in the lease's staging, or in the volume's own file system; None when the image
    has none there."""
    from lazarus._native.clone import make_root
    from lazarus._native.openat2 import open_in_root
    from lazarus._native.pool import copy_tree

    upper = None
    if trees.limit is None:
        upper = lease.new_directory("upper")
        name = f"volume-{lease.id}"  # no image can know it
        copied = f"{upper}/{name}"
    else:
        copied = trees.new(lease, lease.new_directory("volume"))
    with trees.at_limit():
        make_root(copied)
    root = _mounted(store, lease, diff_ids, upper)
    try:
        try:
            source = open_in_root(root, os.fsencode(path), os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in _NOTHING:
                return None
            raise
        try:
            if os.path.samestat(os.fstat(source), os.fstat(root)):
                return None  # a symlink to the root, which nothing is mounted over; and the copy would lie in it
            with trees.at_limit():
                copy_tree(f"/proc/self/fd/{source}", copied if upper is None else f"/proc/self/fd/{root}/{name}")
        finally:
            os.close(source)
    finally:
        os.close(root)
    return copied


def _mounted(store: Store, lease: Lease, diff_ids: Sequence[DiffID], upper: str | None) -> int:
    """A descriptor of the root of the image, over an upper if there is one. The mount has no place in the tree any
    more, and ends with the descriptor, or the process."""
    from lazarus.mounts import attach, detach

    work, merged = lease.new_directory("work"), lease.new_directory("merged")
    stack = store.stacks.open(diff_ids)
    mount = Mount(image=stack.image_path, data=(store.paths.objects,), read_only=True)
    attach(mount if upper is None else mount._replace(upper=upper, work=work, read_only=False), merged)
    try:
        return os.open(merged, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        detach(merged, lazy=True)
