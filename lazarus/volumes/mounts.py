"""What is mounted into a container, as values. How it is written is in spelling.py."""

from __future__ import annotations

from typing import NamedTuple

from lazarus.runtime.bundle import Bind, Tmpfs

__all__ = ["AnyMount", "Bind", "ImageMount", "Tmpfs", "VolumeMount"]


class VolumeMount(NamedTuple):
    """A volume in a container. `name` None: a new one without a name, which goes with the container (`anonymous`).

    `nocopy`: it is not populated from the image. `subpath`: only this directory of it is mounted. `size`: a new one
    takes at most so many bytes, and one that is there has that limit; None: as it is. `snapshot`: what it was in this
    one, read-only; the snapshot stays as long as the container.
    """

    name: str | None
    target: str
    read_only: bool = False
    nocopy: bool = False
    subpath: str = ""
    anonymous: bool = False
    size: int | None = None
    snapshot: str = ""

    @property
    def source(self) -> str:
        """As it is written: VOLUME or VOLUME@SNAPSHOT."""
        return f"{self.name}@{self.snapshot}" if self.snapshot else self.name or ""


class ImageMount(NamedTuple):
    """An image's files in a container. `writable`: over an upper of their own, which is the container's, stays over its
    runs and can be committed; else read-only. `subpath`: only this directory of it is mounted.

    `part`: the ID of the container's part that holds the upper, once the container is made.
    """

    source: str
    target: str
    writable: bool = False
    subpath: str = ""
    part: str = ""


AnyMount = Bind | VolumeMount | ImageMount | Tmpfs
