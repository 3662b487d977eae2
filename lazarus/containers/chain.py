"""What a container's upper lies on: the chain of its checkpoints, then its image.

An upper says itself which checkpoint it lies on, in an xattr of its root directory that no view of the files shows. A
checkpoint's own upper says the same of the one before. So what a container consists of changes with the one exchange of
names that puts another upper in its place, and no row has to agree with it. Where the size is limited and the upper is
a link into an image (lazarus/content/limited.py), the link has the mark too, and is what is looked at and exchanged.

A checkpoint is called <container ID>/<name> here: its key, which is also its path below `checkpoints/`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from lazarus.errors import CorruptError, LimitError, NotFoundError, UnsupportedError

if TYPE_CHECKING:
    from lazarus.content.paths import StorePaths

BASE = "trusted.overlay.lazarus.base"  # the checkpoint that an upper lies on
AFTER = "trusted.overlay.lazarus.after"  # the last one that was taken of it while its container ran
_OWN, _ESCAPED = "trusted.overlay.", "trusted.overlay.overlay."  # overlayfs' own xattrs, and files' of that name

PASSING = "upper-"  # how names in a limited container's image begin that are looked at by `tidy_linked`
MAX_LENGTH = 490  # the kernel takes 500 lowers (OVL_MAX_STACK); the image, its objects and mount points are some


def mark_of(upper: str, mark: str = BASE) -> str | None:
    """The key in one of its marks; None when it has none. `FileNotFoundError` without such a directory."""
    try:
        return os.fsdecode(os.getxattr(upper, mark, follow_symlinks=False))
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def chain(paths: StorePaths, directory: str) -> tuple[str, ...]:
    """The keys of the checkpoints that the upper of the container in `directory` lies on, the newest first. 2 us each.

    `CorruptError` names one that is gone, as after a power cut; `NotFoundError` when the container is.
    """
    found: list[str] = []
    upper, of = f"{directory}/upper", f"container {os.path.basename(directory)[:12]}"
    while (key := _mark_of_chain(directory, upper, of)) is not None:
        if key in found[-1:]:
            raise CorruptError(f"{of}: checkpoint {spoken(key)}: it lies on itself")
        if len(found) > MAX_LENGTH:
            raise CorruptError(f"{of}: checkpoint {spoken(key)}: {MAX_LENGTH} and more lie on it")
        found.append(key)
        upper = f"{paths.checkpoint(key)}/upper"
        if not os.path.isdir(upper):
            raise CorruptError(f"{of}: checkpoint {spoken(key)}, which its files lie on, is gone")
    return tuple(found)


def _mark_of_chain(directory: str, upper: str, of: str) -> str | None:
    try:
        return mark_of(upper)
    except FileNotFoundError:
        if os.path.isdir(directory):
            raise CorruptError(f"{of}: {upper} is not there: it was not made to the end; start or remove it") from None
        raise NotFoundError(f"{of}: it has been removed") from None


def check_length(name: str, keys: Sequence[str]) -> None:
    """`LimitError` when as many as there can be lie below already: nothing else can lie on them."""
    if len(keys) >= MAX_LENGTH:
        raise LimitError(
            f"container {name}: its files lie on {MAX_LENGTH} checkpoints, the most that there can be;"
            " commit it, and go on in a container of that image"
        )


def uppers(paths: StorePaths, directory: str) -> tuple[str, ...]:
    """The directories of that chain, the newest first."""
    return tuple(f"{paths.checkpoint(key)}/upper" for key in chain(paths, directory))


def spoken(key: str) -> str:
    """A key as a person reads it: short ID@name."""
    container_id, _, name = key.partition("/")
    return f"{container_id[:12]}@{name}"


class RootDirectory(NamedTuple):
    """What an overlay's root shows of its upper: owner, mode, times in ns, xattrs but overlayfs' own."""

    uid: int
    gid: int
    mode: int
    times: tuple[int, int]
    xattrs: tuple[tuple[str, bytes], ...]

    @classmethod
    def of(cls, upper: str) -> RootDirectory:
        """Of an upper that is there, and reached."""
        status = os.stat(upper)
        names = [name for name in os.listxattr(upper) if not name.startswith(_OWN) or name.startswith(_ESCAPED)]
        xattrs = tuple((name, os.getxattr(upper, name)) for name in names)
        times = (status.st_atime_ns, status.st_mtime_ns)
        return cls(status.st_uid, status.st_gid, status.st_mode & 0o7777, times, xattrs)

    def make(self, place: str, base: str | None) -> None:
        """An empty upper that lies on `base`. `UnsupportedError` for a user who may not write overlayfs' xattrs."""
        os.mkdir(place, 0o700)
        try:
            os.chown(place, self.uid, self.gid)
            os.chmod(place, self.mode)
            for name, value in self.xattrs:
                os.setxattr(place, name, value)
            if base is not None:
                os.setxattr(place, BASE, os.fsencode(base))
        except PermissionError as error:
            raise UnsupportedError("checkpoints need root: a container's files carry overlayfs' own marks") from error
        os.utime(place, ns=self.times)


def remember(upper: str, key: str) -> None:
    """Marks an upper, which may be mounted, as one that a checkpoint was taken of."""
    with suppress(OSError):  # it is for looks alone
        os.setxattr(upper, AFTER, os.fsencode(key), follow_symlinks=False)


def make_linked(root: RootDirectory, inside: str, link: str, base: str | None) -> None:
    """An empty upper that lies on `base`, in the image (at `inside`) of a container whose size is limited, and `link`
    as what can take the place of its `upper`. Raises as `RootDirectory.make`."""
    name = f"{PASSING}{os.urandom(8).hex()}"
    root.make(f"{inside}/{name}", base)
    os.symlink(f"limited/{name}", link)
    if base is not None:
        os.setxattr(link, BASE, os.fsencode(base), follow_symlinks=False)


def tidy_linked(directory: str) -> None:
    """Removes uppers in the image that `upper` does not lead to, and maps of their files; the lock is held."""
    from lazarus._native.publish import remove_tree

    kept = os.path.basename(os.readlink(f"{directory}/upper"))
    for name in os.listdir(f"{directory}/limited"):
        if name != kept and (name == "upper" or name.startswith(PASSING)):
            remove_tree(f"{directory}/limited/{name}")
