"""The kernel driver: an EROFS metadata image under overlayfs, with the objects as data-only lower.

Sources: Documentation/filesystems/overlayfs.rst ("Data-only lower layers", "Metadata only copy up", "redirect_dir") and
erofs.rst of the kernel. Needs Linux 6.7 (`datadir+`); 6.12 mounts images without a loop device, 6.13 takes layers by
descriptor.
"""

from __future__ import annotations

from lazarus.mounts import probe
from lazarus.mounts.driver import Traits
from lazarus.terms import Mount


class KernelDriver:
    """Full kernel speed: one lookup whatever the depth, and pages of objects shared by all containers."""

    name = "kernel"
    traits = Traits(needs_root=True, breaks_hard_links=True, copies_up_whole_files=True)

    def probe(self) -> None:
        """Root, both file systems, data-only lowers, and a way to mount an image file."""
        probe.root()
        probe.file_system("overlay")
        probe.file_system("erofs")
        probe.data_only_lowers()
        probe.image_files()

    def describe(
        self,
        image: str,
        objects: str,
        *,
        upper: str | None = None,
        work: str | None = None,
        lowers: tuple[str, ...] = (),
        volatile: bool = False,
    ) -> Mount:
        """The image as topmost lower, the objects below everything as data, `metacopy` and `redirect_dir` on."""
        return Mount(image=image, lowers=lowers, data=(objects,), upper=upper, work=work, volatile=volatile)
