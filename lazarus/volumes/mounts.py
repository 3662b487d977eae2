"""What is mounted into a container, as values. How it is written is in spelling.py."""

from __future__ import annotations

from typing import NamedTuple

from lazarus.runtime.bundle import Bind, Tmpfs

__all__ = ["AnyMount", "Bind", "Tmpfs", "VolumeMount"]


class VolumeMount(NamedTuple):
    """A volume in a container. `name` None: a new one without a name, which goes with the container (`anonymous`).

    `nocopy`: it is not populated from the image. `subpath`: only this directory of it is mounted.
    """

    name: str | None
    target: str
    read_only: bool = False
    nocopy: bool = False
    subpath: str = ""
    anonymous: bool = False


AnyMount = Bind | VolumeMount | Tmpfs
