"""New containers that go on from a checkpoint of another one.

All of them, or none: their directories are made in a lease's staging, and get their names in the transaction that
inserts their rows. Nothing is copied: each has an empty upper that lies on the checkpoint. A container that has written
nothing since its last checkpoint (or ever) lends what it lies on; any other takes a checkpoint first. Of one whose size
is limited each fork has an image of its own, of that size.

A fork has the settings of its origin: volumes that have a name are shared with it, those without one are new and begin
with what the image has; so do images that are mounted in it. Host names and the files that Lazarus binds over /etc are
its own.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from lazarus._native.publish import remove_tree
from lazarus.containers import chain, checkpoints, parts, rootfs
from lazarus.containers.names import check_name, random_name
from lazarus.containers.shown import Row, insert_made
from lazarus.containers.state import Lock, Room
from lazarus.content import limited
from lazarus.errors import ConflictError, LimitError
from lazarus.mounts import attach, detach
from lazarus.terms import Mount

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lazarus.containers.container import Container
    from lazarus.containers.settings import Settings
    from lazarus.content.lease import Lease
    from lazarus.store import Store

MOST = 10_000  # in one call
_TRIES = 20  # with other random names, when one is taken
_THREADS, _FEW = 4, 8  # at most so many at once, and none for fewer forks each than that

T = TypeVar("T")


class _Origin(NamedTuple):
    """What every fork gets: the checkpoint that it lies on, the attributes of its root directory, and the mount points
    that its image lacks: by a link to those of the checkpoint, or as a copy of its origin's ("": neither)."""

    base: str | None
    root: chain.RootDirectory
    init_link: str
    init_copy: str


def fork(
    container: Container, count: int, checkpoint: str | checkpoints.Checkpoint | None, name: str | None, mount: bool
) -> list[Container]:
    """See `Container.fork`."""
    forks = _fork(container, count, checkpoint, name)
    if mount:
        try:
            _mount_all(container.store, forks)
        except BaseException:
            for one in forks:
                one.remove(force=True, volumes=True)
            raise
    return forks


def _mount_all(store: Store, forks: Sequence[Container]) -> None:
    """The first as any container; then what is the same for all is asked for, and its image mounted, once."""
    first, *others = forks
    first.mount()
    if not others:
        return
    mount = rootfs.describe(store, first.directory, first.settings)
    init = os.path.isdir(f"{first.directory}/init")
    with store.content.lease("mount") as lease:
        image = lease.new_directory("image")
        attach(Mount(image=mount.image, read_only=True), image)

        def mount_one(one: Container) -> None:
            with Lock(one.directory):
                if rootfs.is_mounted(one.rootfs):
                    return
                own = f"{one.directory}/init"
                if init and not os.path.isdir(own):
                    rootfs.copy_init(f"{first.directory}/init", own)
                upper, work = f"{one.directory}/upper", f"{one.directory}/work"
                lowers = (image, *((own,) if init else ()))
                attach(mount._replace(image=None, lowers=lowers, upper=upper, work=work), one.rootfs)

        try:
            _each(others, mount_one)
        finally:
            detach(image, lazy=True)


def _each(things: Sequence[T], act: Callable[[T], object]) -> None:
    """Calls it for each, on some threads where there are many: a mount is 0.3 ms of the kernel's time, and making the
    directories for one as much. When one fails the others end after what they are at; the first error is raised."""
    waiting, errors = iter(things), list[BaseException]()

    def work() -> None:
        for thing in waiting:  # each gets the next one
            if errors:
                return
            try:
                act(thing)
            except BaseException as error:
                errors.append(error)

    started = list[Thread]()
    try:
        for _ in range(min(_cores(), len(things) // _FEW, _THREADS) - 1):
            with suppress(RuntimeError):  # where no more can be had, those that there are do the work
                thread = Thread(target=work)
                thread.start()
                started.append(thread)
        work()
        for thread in started:
            thread.join()
    except BaseException as error:  # a signal
        errors.append(error)
        for thread in started:
            thread.join()
        raise
    if errors:
        raise errors[0]


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _fork(
    container: Container, count: int, checkpoint: str | checkpoints.Checkpoint | None, name: str | None
) -> list[Container]:
    if not 0 < count <= MOST:
        raise LimitError(f"fork of {container.name}: {count} containers; from 1 to {MOST} are made at once")
    if name is not None:
        check_name(name if count == 1 else f"{name}-{count}")
    store = container.store
    with Room(store.paths.containers), Lock(container.directory), store.content.lease("fork") as lease:
        origin = _origin(container, checkpoint)
        made: list[str] = []
        size = container.settings.size
        if size is None:
            _each(range(count), lambda _: made.append(_make(lease, origin, None)))
        else:  # each of them is a file system that is made, mounted and unmounted
            made += [_make(lease, origin, size) for _ in range(count)]
        for tried in range(_TRIES):
            names = _names(name, count)
            try:
                return _insert(container, lease, made, names)
            except ConflictError:
                if name is not None or tried == _TRIES - 1:
                    raise
    raise AssertionError


def _names(prefix: str | None, count: int) -> list[str]:
    if prefix is not None:
        return [prefix] if count == 1 else [f"{prefix}-{number}" for number in range(1, count + 1)]
    found: dict[str, None] = {}
    while len(found) < count:
        found[random_name()] = None
    return list(found)


def _origin(container: Container, checkpoint: str | checkpoints.Checkpoint | None) -> _Origin:
    """Takes a checkpoint where one is needed; the lock is held."""
    paths, upper = container.store.paths, f"{container.directory}/upper"
    if checkpoint is not None:
        key: str | None = checkpoints.find(container, checkpoint).key
        root = chain.RootDirectory.of(f"{paths.checkpoint(key or '')}/upper")
    else:
        root = chain.RootDirectory.of(upper)
        if os.listdir(upper):
            chain.check_length(container.name, chain.chain(paths, container.directory))
            key = checkpoints.take_now(container).key
        else:
            key = chain.mark_of(upper)
    if key is not None:
        chain.check_length(container.name, chain.chain(paths, paths.checkpoint(key)))
    own = f"{container.directory}/init"
    if not os.path.isdir(own):
        return _Origin(key, root, "", "")
    if key is None:
        return _Origin(key, root, "", own)
    _share_init(container, own, key)
    return _Origin(key, root, f"../../checkpoints/{key}/init", "")


def _share_init(container: Container, own: str, key: str) -> None:
    """A copy of the origin's mount points that all forks of a checkpoint have in common, with the checkpoint: making
    directories is what a fork costs most."""
    there = f"{container.store.paths.checkpoint(key)}/init"
    if not os.path.isdir(there):
        new = f"{container.directory}/init.new"
        remove_tree(new)
        rootfs.copy_init(own, new)
        try:
            os.rename(new, there)
        except OSError:
            if not os.path.isdir(there):
                raise
            remove_tree(new)  # another container that lies on it was faster


def _make(lease: Lease, origin: _Origin, size: int | None) -> str:
    """The directory of one fork."""
    place = lease.new_directory("fork")
    if size is None:
        origin.root.make(f"{place}/upper", origin.base)
        os.mkdir(f"{place}/work", 0o755)
    else:
        with limited.making(place, size, ("work", "union")) as inside:
            chain.make_linked(origin.root, inside, f"{place}/upper", origin.base)
    os.mkdir(f"{place}/merged", 0o755)  # the rest comes with a start
    if origin.init_link:
        os.symlink(origin.init_link, f"{place}/init")
    elif origin.init_copy:
        rootfs.copy_init(origin.init_copy, f"{place}/init")
    return place


def _insert(container: Container, lease: Lease, made: Sequence[str], names: Sequence[str]) -> list[Container]:
    store, now = container.store, time.time()
    digests = (container.manifest_digest, container.chain_id)
    rows = [Row(os.urandom(32).hex(), name, *digests, now, _settings(container.settings)) for name in names]
    places = [(directory, store.paths.container(row.id)) for directory, row in zip(made, rows, strict=True)]
    part_rows: list[Row] = []
    for at, row in enumerate(rows if container.settings.images else ()):
        settings, new = parts.plan(store, row.settings)
        rows[at] = row._replace(settings=settings)
        part_rows += [part.row(row.id, now) for part in new]
        places += [(_make_part(store, lease, part), store.paths.container(part.part_id)) for part in new]
    insert_made(store, lease, [*rows, *part_rows], places)
    return [type(container)(store, *row[:6]) for row in rows]


def _make_part(store: Store, lease: Lease, part: parts.NewPart) -> str:
    """The directory for what a fork will change in an image that is mounted in it."""
    place = lease.new_directory("part")
    for name in ("upper", "work", "merged", "bundle"):
        os.mkdir(f"{place}/{name}", 0o755)
    store.stacks.open(part.settings.diff_ids).root.apply(f"{place}/upper")
    return place


def _settings(settings: Settings) -> Settings:
    """Its own, with new volumes in place of those that were made for the origin."""
    if not settings.anonymous:
        return settings
    from lazarus.volumes.names import random_name as volume_name

    volumes = (mount._replace(name=volume_name()) if mount.anonymous else mount for mount in settings.volumes)
    return settings._replace(volumes=tuple(volumes))
