"""The one place that acts on a `Mount` value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazarus._native import mount as native

if TYPE_CHECKING:
    from lazarus.terms import Mount


def attach(mount: Mount, target: str, *, erofs_source: str = "auto", force_paths: bool = False) -> str:
    """Mounts the value at `target`, an existing directory; nothing is mounted when it raises.

    Returns how its EROFS image was mounted: "file", "loop" (kernels before 6.12), or "none" without one.
    `erofs_source` asks for one by name, and the other is not tried then. `force_paths` names the layers by path, as
    is done for kernels before 6.13. About 0.25 ms warm, whatever the number of layers in the image.
    Raises `OSError` with what the kernel said, or `UnsupportedError` with what it lacks.
    """
    return native.mount_stack(
        mount.image,
        mount.lowers,
        mount.data,
        mount.upper,
        mount.work,
        target,
        above=mount.above,
        metacopy=mount.metacopy,
        redirect_dir=mount.redirect_dir,
        volatile=mount.volatile,
        read_only=mount.read_only,
        erofs_source=erofs_source,
        attach_dir=target,
        force_paths=force_paths,
    )


def detach(target: str, *, lazy: bool = False) -> None:
    """Unmounts `target`. `OSError`: EINVAL when nothing is mounted there, EBUSY while it is in use.

    With `lazy` it is gone from the tree at once, and from the kernel when its last user is.
    """
    native.unmount(target, lazy)
