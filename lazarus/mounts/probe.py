"""What this kernel can do. Each probe returns, or raises `UnsupportedError` with one line that begins with its name.

They ask the kernel, not its version, wherever it can be asked without mounting anything.
"""

from __future__ import annotations

import os

from lazarus._native import mount as native
from lazarus.errors import UnsupportedError


def root() -> None:
    """May this process mount?"""
    try:
        native.supports("tmpfs")
    except PermissionError as error:
        raise UnsupportedError("probe 'root': mounting needs CAP_SYS_ADMIN, as root has it") from error


def file_system(name: str) -> None:
    """Does the kernel have this file system, built in or as a module that it loads?"""
    if not native.supports(name):
        raise UnsupportedError(f"probe '{name}': kernel {os.uname().release} does not have this file system")


def data_only_lowers() -> None:
    """Does overlayfs read the content of a metadata-only file from a layer that holds nothing but content?"""
    if not native.supports("overlay", "datadir+"):
        raise UnsupportedError(
            f"probe 'data-only lowers': overlayfs of kernel {os.uname().release} has none (Linux 6.7 has)"
        )


def image_files() -> None:
    """Is there a way to mount an image that is a file: EROFS itself, or loop devices?"""
    if kernel_version() >= (6, 12) or os.path.exists("/dev/loop-control"):
        return
    raise UnsupportedError(
        f"probe 'image files': kernel {os.uname().release} wants a loop device (Linux 6.12 does not), "
        "and there is no /dev/loop-control"
    )


def kernel_version(release: str | None = None) -> tuple[int, int]:
    """Major and minor number of a kernel release, by default of the running one."""
    major, minor = (release or os.uname().release).split(".")[:2]
    digits = minor[: len(minor) - len(minor.lstrip("0123456789"))]
    return int(major), int(digits or 0)
