"""The kernel driver: an EROFS metadata image under overlayfs, with the objects as data-only lower.

Sources: Documentation/filesystems/overlayfs.rst ("Data-only lower layers", "Metadata only copy up", "redirect_dir") and
erofs.rst of the kernel. Needs Linux 6.5 (data-only lowers); 6.12 for images without a loop device.
"""

from __future__ import annotations

import os

from lazarus.errors import UnsupportedError
from lazarus.mounts.driver import Traits
from lazarus.terms import Mount


class KernelDriver:
    """Full kernel speed: one lookup whatever the depth, a page cache shared by all containers."""

    name = "kernel"
    traits = Traits(needs_root=True, breaks_hard_links=True, copies_up_whole_files=True)

    def probe(self) -> None:
        """Root, both file systems, and a kernel with data-only lowers."""
        if os.geteuid() != 0:
            raise UnsupportedError("probe 'root': mounting needs CAP_SYS_ADMIN")
        known = _file_systems()
        for file_system in ("overlay", "erofs"):
            if file_system not in known and not _has_module(file_system):
                raise UnsupportedError(f"probe '{file_system}': the kernel does not have this file system")
        if kernel_version() < (6, 5):
            raise UnsupportedError(f"probe 'data-only lowers': needs Linux 6.5, this is {os.uname().release}")

    def describe(
        self, image: str, objects: str, *, upper: str | None = None, work: str | None = None, volatile: bool = False
    ) -> Mount:
        """The image as topmost lower, the objects below it as data, `metacopy` and `redirect_dir` on."""
        return Mount(image=image, data=(objects,), upper=upper, work=work, volatile=volatile)


def kernel_version() -> tuple[int, int]:
    """Major and minor number of the running kernel."""
    major, minor = os.uname().release.split(".")[:2]
    digits = "".join(character for character in minor if character.isdigit())
    return int(major), int(digits or 0)


def _file_systems() -> set[str]:
    with open("/proc/filesystems") as lines:
        return {line.split()[-1] for line in lines if line.strip()}


def _has_module(name: str) -> bool:
    try:
        with open(f"/lib/modules/{os.uname().release}/modules.dep") as lines:
            return any(f"/{name}.ko" in line.partition(":")[0] for line in lines)
    except OSError:
        return False
