"""A container's root file system: mounting it, and what has to exist in it before a process can start.

Paths of the container are resolved with openat2 below its root, never by the host.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from lazarus._native.openat2 import open_in_root
from lazarus.containers import chain
from lazarus.containers.settings import Settings
from lazarus.errors import ConflictError, ContainerRuntimeError, UnsupportedError
from lazarus.runtime.bundle import Bind
from lazarus.runtime.forking import no_copies
from lazarus.terms import Mount

if TYPE_CHECKING:
    from lazarus.store import Store

_ALWAYS = ("/proc", "/sys", "/dev")


def is_mounted(target: str) -> bool:
    """Is something mounted there? An overlay is always a device of its own."""
    try:
        return os.stat(target).st_dev != os.stat(os.path.dirname(target)).st_dev
    except FileNotFoundError:
        return False


def describe(store: Store, directory: str, settings: Settings) -> Mount:
    """The container's root file system as a value; builds the stack's index and image when they are not there."""
    stack = store.stacks.open(settings.diff_ids)
    init = f"{directory}/init"
    return Mount(
        above=chain.uppers(store.paths, directory),
        image=stack.image_path,
        lowers=(init,) if os.path.isdir(init) else (),
        data=(store.paths.objects,),
        upper=f"{directory}/upper",
        work=f"{directory}/work",
        volatile=settings.ephemeral,
    )


def mount(store: Store, directory: str, settings: Settings) -> str:
    """Mounts it at `merged` and returns that path."""
    from lazarus.mounts import attach

    target = f"{directory}/merged"
    if os.path.isdir(f"{directory}/union"):  # somebody has changed it without a mount
        from lazarus.containers.stack import hand_over

        hand_over(store, directory, settings)
    if settings.ephemeral:
        _forget_volatile(directory)
    try:
        attach(describe(store, directory, settings), target)
    except (OSError, UnsupportedError) as error:
        from lazarus.mounts.kernel import KernelDriver

        try:
            KernelDriver().probe()  # says which part of the whole this machine or user lacks, if that is why
        except UnsupportedError as lacking:
            raise (needs_root(str(lacking)) if isinstance(error, PermissionError) else lacking) from error
        raise
    return target


def needs_root(why: str) -> UnsupportedError:
    """The error for a user who may not do what a container takes."""
    return UnsupportedError(
        f"containers need root: {why}; without it work load, save, import, images, inspect, history, tag and rmi"
    )


def unmount(directory: str, *, lazy: bool = False) -> None:
    """Unmounts it. `ConflictError` while files in it are open, but for the copies of descriptors that a child has which
    another thread is just starting."""
    from lazarus.mounts import detach

    target = f"{directory}/merged"
    try:
        try:
            detach(target, lazy=lazy)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            with no_copies():
                detach(target, lazy=lazy)
    except OSError as error:
        if error.errno == errno.EBUSY:
            name = os.path.basename(directory)[:12]
            raise ConflictError(f"container {name}: its root file system is in use by another process") from error
        raise


def _forget_volatile(directory: str) -> None:
    """overlayfs marks a volatile upper so that nobody trusts it after a crash; this one is not meant to survive one."""
    mark = f"{directory}/work/work/incompat"
    if os.path.isdir(mark):
        from lazarus._native.publish import remove_tree

        remove_tree(mark)


def add_mount_points(store: Store, directory: str, settings: Settings) -> None:
    """Gives a mounted root file system the mount points that it lacks, in the `init` layer below all others.

    What cannot be made there (its parent is a symlink in the image) is left to the runtime, which makes it in `upper`.
    """
    wanted = [(path, True) for path in _ALWAYS]
    wanted += [(f"/etc/{name}", False) for name in _etc_names(settings)]
    wanted += [(bind.target, os.path.isdir(bind.source)) for bind in settings.binds if os.path.exists(bind.source)]
    files = {bind.target for bind in settings.binds}
    wanted += [(target, True) for target in settings.targets if target not in files]
    root = os.open(f"{directory}/merged", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        missing = [
            (path, is_directory)
            for path, is_directory in wanted
            if not _exists(root, path) and not _below(path, settings.targets) and _parents_are_plain(root, path)
        ]
    finally:
        os.close(root)
    if not missing:
        return
    unmount(directory)
    _own_init(directory)
    modes = {mount.target: 0o1777 if mount.mode is None else mount.mode for mount in settings.tmpfs}
    for path, is_directory in missing:
        place = f"{directory}/init{path}"
        os.makedirs(place if is_directory else os.path.dirname(place), 0o755, exist_ok=True)
        if path in modes:  # runc gives a tmpfs the mode of its mount point
            os.chmod(place, modes[path])
        if not is_directory:
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    mount(store, directory, settings)


def _own_init(directory: str) -> None:
    """A fork's mount points are a checkpoint's, and others have them too: from here on they are its own."""
    init = f"{directory}/init"
    if not os.path.islink(init):
        return
    from lazarus._native.publish import remove_tree

    new = f"{directory}/init.new"
    remove_tree(new)
    if os.path.isdir(init):
        copy_init(init, new)
    os.unlink(init)
    if os.path.isdir(new):
        os.rename(new, init)


def copy_init(source: str, target: str) -> None:
    """A layer of mount points again: directories with their modes, and empty files."""
    os.mkdir(target, 0o755)
    for place, directories, files in os.walk(source):
        there = target + place[len(source) :]
        for name in directories:
            os.mkdir(f"{there}/{name}", 0o755)
            os.chmod(f"{there}/{name}", os.lstat(f"{place}/{name}").st_mode & 0o7777)
        for name in files:
            os.close(os.open(f"{there}/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _exists(root: int, path: str) -> bool:
    try:
        os.close(open_in_root(root, os.fsencode(path), os.O_PATH))
    except OSError:
        return False
    return True


def _below(path: str, targets: tuple[str, ...]) -> bool:
    return any(path.startswith(f"{target}/") for target in targets)


def _parents_are_plain(root: int, path: str) -> bool:
    """Do the parents that exist lead there without a symlink?"""
    parts = path.strip("/").split("/")
    for count in range(1, len(parts) + 1):
        try:
            fd = open_in_root(root, os.fsencode("/" + "/".join(parts[:count])), os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            return True  # from here on nothing is there
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                return False
        finally:
            os.close(fd)
    return True


def make_directory(root: int, path: str) -> None:
    """`mkdir -p` inside a root file system, following its symlinks inside it: a WorkingDir that the image lacks."""
    try:
        os.close(open_in_root(root, os.fsencode(path), os.O_PATH | os.O_DIRECTORY))
        return
    except FileNotFoundError:
        pass
    except NotADirectoryError as error:
        raise ContainerRuntimeError(f"{path}: not a directory in the container", 126) from error
    parts = path.strip("/").split("/")
    for count in range(len(parts)):
        parent = open_in_root(root, os.fsencode("/" + "/".join(parts[:count])), os.O_PATH | os.O_DIRECTORY)
        try:
            os.mkdir(parts[count], 0o755, dir_fd=parent)
        except FileExistsError:
            pass
        finally:
            os.close(parent)


def _etc_names(settings: Settings) -> list[str]:
    """The files of /etc that are the container's own, but for those that a volume covers."""
    names = ["hostname", "hosts", *(["resolv.conf"] if settings.network == "host" else [])]
    return [name for name in names if f"/etc/{name}" not in settings.targets]


def etc_files(directory: str, container_id: str, settings: Settings) -> tuple[Bind, ...]:
    """Writes what goes over /etc/hostname, /etc/hosts and, on the host's network, /etc/resolv.conf."""
    shared = settings.network == "host"
    hostname = hostname_of(container_id, settings)
    hosts = _host_file("/etc/hosts") if shared else ""
    hosts = hosts or "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    if hostname not in hosts.split():
        hosts += f"127.0.1.1\t{hostname}\n" if shared else f"127.0.0.1\t{hostname}\n"
    contents = {"hostname": hostname + "\n", "hosts": hosts}
    if shared and (resolver := _host_file("/etc/resolv.conf")):
        contents["resolv.conf"] = resolver
    binds = []
    for name in _etc_names(settings):
        if name not in contents:
            continue
        path = f"{directory}/bundle/{name}"
        if not os.path.exists(path):  # a second start keeps what the container wrote into it
            with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(contents[name])
        binds.append(Bind(path, f"/etc/{name}"))
    return tuple(binds)


def hostname_of(container_id: str, settings: Settings) -> str:
    """The one asked for, else the host's on the host's network, else the short ID."""
    return settings.hostname or (os.uname().nodename if settings.network == "host" else container_id[:12])


def _host_file(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(1 << 20)
    except OSError:
        return ""
