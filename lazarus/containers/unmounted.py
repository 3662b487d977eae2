"""A mounted container whose upper is exchanged for another one: unmounted for that moment, and mounted again."""

from __future__ import annotations

import os
from _thread import start_new_thread
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from lazarus._native import mount as native
from lazarus._native.pool import exchange
from lazarus._native.publish import remove_tree
from lazarus.containers import rootfs
from lazarus.content.lease import boot_id
from lazarus.errors import LazarusError

if TYPE_CHECKING:
    from lazarus.containers.container import Container
    from lazarus.containers.settings import Settings
    from lazarus.store import Store


def _mark(directory: str) -> str:
    return f"{directory}/unmounted"


def mount_again(store: Store, directory: str, settings: Settings) -> None:
    """What a killed process owes to a container that was mounted; its lock is held. 2 us when there is nothing. After a
    reboot nothing is mounted, nor owed. What cannot be mounted any more is found out by who wants it mounted."""
    try:
        boot = os.readlink(_mark(directory))
        os.unlink(_mark(directory))
    except OSError:
        return
    with suppress(OSError, LazarusError):
        if boot == boot_id() and not rootfs.is_mounted(f"{directory}/merged"):
            rootfs.mount(store, directory, settings)


class Unmounted:
    """While it lasts the container is not mounted, and then it is again if it was. `ConflictError` in use.

    Who is the last to let go of an overlay waits until its upper's file system has written everything back. Here that
    is a thread of ours: the old overlay lives on for a moment, and has the old work directory for itself. Nobody can
    write through it; the kernel's log may say all the same that a lower is another mount's upper. `rubbish` is removed
    before that, so that it is not written first. Killed meanwhile, the next one who opens the store does it.

    What was done inside is done, so on a full disk what the way back takes comes from the reserve. Killed before the
    container is mounted again, a link is left that says so, and whoever holds its lock next does it (`mount_again`).
    """

    def __init__(self, container: Container) -> None:
        self._container = container
        self._was = rootfs.is_mounted(container.rootfs)
        self._mark = _mark(container.directory)
        self._held = -1
        self.rubbish: list[str] = []

    def __enter__(self) -> Self:
        settings = self._container.settings
        if self._was and not settings.ephemeral and settings.size is None:  # its work directory stays in its image
            self._held = native.hold(self._container.rootfs)
        try:
            if self._was:
                with suppress(OSError):  # a full disk
                    os.symlink(boot_id(), self._mark)
                rootfs.unmount(self._container.directory)
        except BaseException:
            self._unmark()
            self._let_go()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        container, work = self._container, ""
        try:
            if self._held >= 0:
                work = self._another_work()
            if self._was:
                with_room = container.store.content.reserve.with_room
                with_room(lambda: rootfs.mount(container.store, container.directory, container.settings))
                self._unmark()
        finally:
            if self._held >= 0 or self.rubbish:
                try:
                    start_new_thread(self._finish, (work,))
                except RuntimeError:  # no more can be had
                    self._finish(work)

    def _another_work(self) -> str:
        """Puts an empty work directory in place of the one that the old overlay has, which goes to the trash: where.
        When there can be none ("") that overlay is waited for, and its own serves again."""
        directory, paths = self._container.directory, self._container.store.paths
        trash, new = f"{paths.trash}/work-{os.urandom(8).hex()}", f"{directory}/work.new"
        try:
            remove_tree(new)
            os.mkdir(new, 0o755)
            exchange(new, f"{directory}/work")
        except (OSError, LazarusError):
            self._let_go()
            return ""
        with suppress(OSError):
            os.rename(new, trash)
            return trash
        return new

    def _finish(self, work: str) -> None:
        for path in self.rubbish:
            with suppress(OSError, LazarusError):
                remove_tree(path)
        self._let_go()
        with suppress(OSError, LazarusError):
            if work:
                remove_tree(work)

    def _unmark(self) -> None:
        with suppress(OSError):
            os.unlink(self._mark)

    def _let_go(self) -> None:
        if self._held >= 0:
            os.close(self._held)
            self._held = -1
