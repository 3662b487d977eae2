"""Images mounted in a container. What is written into one goes to an upper of its own, a *part* of the container.

A part is a container's row and directory without a process: it keeps the image from being removed, is mounted by the
same driver, and its changes are listed and committed in the same way. It is made with its container, in one
transaction, goes with it (its row by the foreign key, its directory as rubbish if need be), and has no name that
anybody could call it by: it is told by its place, `mount="/data"`.

For a start it is mounted at its own `merged`, which is what the runtime binds into the container, and unmounted as soon
as the container has been set up: from then on only the container has it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from lazarus.containers.shown import Row
from lazarus.errors import ContainerRuntimeError, NotFoundError
from lazarus.runtime.bundle import Bind
from lazarus.terms import Mount

if TYPE_CHECKING:
    from lazarus.containers.container import Container
    from lazarus.containers.settings import Settings
    from lazarus.images import Image
    from lazarus.store import Store
    from lazarus.volumes.mounts import ImageMount


class NewPart(NamedTuple):
    """A part that is to be made."""

    part_id: str
    image: Image
    settings: Settings

    def row(self, container_id: str, created: float) -> Row:
        """Its row, as a part of that container. Nobody calls it by its name."""
        name = f"{container_id}/{self.part_id}"
        return Row(self.part_id, name, self.image.digest, self.image.chain_id, created, self.settings, container_id)


def plan(store: Store, settings: Settings) -> tuple[Settings, tuple[NewPart, ...]]:
    """The settings with an ID for each image that is mounted, and the parts to make. `NotFoundError` (image)."""
    parts = [_new_part(store, settings, mount) for mount in settings.images]
    images = (mount._replace(part=part.part_id) for mount, part in zip(settings.images, parts, strict=True))
    return settings._replace(images=tuple(images)), tuple(parts)


def _new_part(store: Store, settings: Settings, mount: ImageMount) -> NewPart:
    image = store.images.get(mount.source)
    own = settings._replace(
        **dict.fromkeys(("args", "image_env", "env", "binds", "volumes", "images", "tmpfs"), ()),  # type: ignore[arg-type]
        image=mount.source,
        image_id=image.id,
        diff_ids=tuple(image.diff_ids),
        labels={},
        read_only=not mount.writable,
        size=None,
        auto_remove=False,
    )
    return NewPart(os.urandom(32).hex(), image, own)


def find(container: Container, target: str) -> Container:
    """The part that is mounted there. `NotFoundError` names the places that there are."""
    store, images = container.store, container.settings.images
    wanted = os.path.normpath("/" + target.lstrip("/"))
    for mount in images:
        if mount.target == wanted and mount.writable:
            return store.containers.part(mount.part)
    places = ", ".join(mount.target for mount in images if mount.writable) or "none"
    raise NotFoundError(f"container {container.name}: no image is mounted writable at {target:.200} ({places} is)")


def prepare(store: Store, settings: Settings) -> Iterator[Bind]:
    """Mounts the parts of a container that starts; its lock is held, and release() follows. `NotFoundError`,
    `ContainerRuntimeError` for a directory that the image does not have, `OSError`."""
    for mount in settings.images:
        directory = store.paths.container(mount.part)
        merged = f"{directory}/merged"
        if not os.path.isdir(merged):
            raise NotFoundError(f"mount at {mount.target}: its directory is gone")
        _mount(store, directory, store.containers.part(mount.part).settings, mount.writable)
        yield Bind(_show(directory, mount) if mount.subpath else merged, mount.target, not mount.writable)


def _mount(store: Store, directory: str, settings: Settings, writable: bool) -> None:
    from lazarus.containers import rootfs

    if writable:
        rootfs.mount(store, directory, settings)
        return
    from lazarus.mounts import attach

    stack = store.stacks.open(settings.diff_ids)
    attach(Mount(image=stack.image_path, data=(store.paths.objects,), read_only=True), f"{directory}/merged")


def _show(directory: str, mount: ImageMount) -> str:
    """Its subpath, resolved inside the image, at a mount point of ours: see shown.py."""
    from lazarus._native.mount import bind
    from lazarus._native.openat2 import open_in_root

    place = f"{directory}/shown"
    root = os.open(f"{directory}/merged", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            part = open_in_root(root, os.fsencode(mount.subpath), os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            raise ContainerRuntimeError(f"image {mount.source}: {mount.subpath}: {error.strerror}") from error
        try:
            with suppress(FileExistsError):
                os.mkdir(place, 0o700)
            bind(f"/proc/self/fd/{part}", place)
        finally:
            os.close(part)
    finally:
        os.close(root)
    return place


def release(store: Store, settings: Settings) -> None:
    """Unmounts what prepare() has mounted; the container keeps it."""
    from lazarus._native import mount as native

    for mount in settings.images:
        directory = store.paths.container(mount.part)
        for place in (f"{directory}/shown", f"{directory}/merged"):
            with suppress(OSError):
                while os.path.isdir(place) and native.is_mount(place):
                    native.unmount(place, lazy=True)
