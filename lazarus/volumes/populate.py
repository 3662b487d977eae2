"""What a new volume begins with: the directory that its first container's image has in the place where it is mounted.

The image is mounted once more, by itself, under an overlay whose upper lies in a lease's staging, and the directory is
copied within that one mount, from the image to a name that only the upper has. So the kernel clones files (FICLONE)
where the file system can, whatever layer they come from, and what arrives in the upper is a plain tree: owners, modes,
xattrs, hard links, symlinks, devices and holes as in the image, and none of overlayfs' marks. It is then on disk, and
takes the place of the volume's empty directory in one rename. Killed before that, a process leaves an empty volume;
between that and the row that says so, one that is not empty, which is not populated again.

Whoever mounts a volume first decides, also with `nocopy` and with a part of it: from then on its directory stays the
same one, for containers have it mounted. Others wait for the volume's lock meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lazarus.content.pool_disk import fsync_directory
from lazarus.terms import DiffID, Mount

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
        if image is not None and not os.listdir(volume.path):
            _populate(volume, *image, durable)
        with volume.store.catalogue.write(durable=durable) as connection:
            connection.execute("UPDATE volumes SET fresh=0 WHERE name=?", (volume.name,))


def _populate(volume: Volume, diff_ids: Sequence[DiffID], path: str, durable: bool) -> None:
    store = volume.store
    store.content.reserve.check()
    with store.content.lease("volume") as lease:
        copied = _copy(store, lease, diff_ids, path)
        if copied is None:
            return
        if durable:
            from lazarus._native.sync import syncfs

            syncfs(lease.fd)
        try:
            os.rename(copied, volume.path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                raise  # else: somebody on the host has put or mounted something there, which is what it begins with
        if durable:
            fsync_directory(volume.directory)


def _copy(store: Store, lease: Lease, diff_ids: Sequence[DiffID], path: str) -> str | None:
    """A copy of a directory of an image in the lease's staging; None when the image has none there."""
    from lazarus._native.openat2 import open_in_root
    from lazarus._native.pool import copy_tree

    upper = lease.new_directory("upper")
    name = f"volume-{lease.id}"  # no image can know it
    os.mkdir(f"{upper}/{name}", 0o700)
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
            copy_tree(f"/proc/self/fd/{source}", f"/proc/self/fd/{root}/{name}")
        finally:
            os.close(source)
    finally:
        os.close(root)
    return f"{upper}/{name}"


def _mounted(store: Store, lease: Lease, diff_ids: Sequence[DiffID], upper: str) -> int:
    """A descriptor of the root of the image over an upper. The mount has no place in the tree any more, and ends with
    the descriptor, or the process."""
    from lazarus.mounts import attach, detach

    work, merged = lease.new_directory("work"), lease.new_directory("merged")
    stack = store.stacks.open(diff_ids)
    attach(Mount(image=stack.image_path, data=(store.paths.objects,), upper=upper, work=work), merged)
    try:
        return os.open(merged, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        detach(merged, lazy=True)
