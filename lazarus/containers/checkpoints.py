"""Checkpoints of a container: its writable layer, frozen, and the container goes on. Files alone, no process memory.

checkpoints/<container ID>/<name>/
    upper               what was the container's upper, in overlayfs' own format; nobody writes it any more
    checkpoint.json     when it was taken, and after which one
    init                mount points that the image lacks, for forks (see lazarus.containers); not in all

**While the container is stopped** nothing is copied: an empty upper that lies on the new checkpoint (see chain.py) is
made in the checkpoint's place, and the two uppers exchange names. Killed before that one step, nothing has happened: an
upper that lies on itself is such a beginning. Killed after it, all has. A container that was mounted by hand is
unmounted for it and mounted again; by who has to do with it next, if need be (see unmounted.py).

**While it runs** its processes are frozen, its upper is copied (cloned where the file system can), and they go on in
their own: that keeps what is in the copy too, and lies on what it lay on. Volumes are no part of it, nor is what is
mounted. **Of a container whose size is limited** the upper cannot leave its image, so it is copied as well, to the last
byte; what it is copied to does not count against the limit.

A checkpoint is as durable as what the container writes: not synced, unless that is asked for.

**Rollback** puts an empty upper on a checkpoint in the container's place, by an exchange too. **A checkpoint stays** as
long as its container is there, or any container's files lie on it; then it is rubbish, which goes with the container
that was the last, or with a prune. All of this happens under the container's lock, and what puts one upper on another
holds the room of containers, so that whoever removes checkpoints sees nothing half-way.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, NamedTuple

from lazarus._native.pool import exchange
from lazarus._native.publish import remove_tree
from lazarus.containers import chain
from lazarus.containers.names import is_name
from lazarus.containers.state import Lock, Room
from lazarus.containers.unmounted import Unmounted
from lazarus.errors import ConflictError, FormatError, NotFoundError

if TYPE_CHECKING:
    from lazarus.containers.container import Container
    from lazarus.content.paths import StorePaths
    from lazarus.store import Store


class Checkpoint(NamedTuple):
    """One of them. `container_id` is that of the container that it was taken of, `created` in seconds since 1970;
    `parent` is the key (container ID/name) of the one that this container stood on, None when that was its image."""

    container_id: str
    name: str
    created: float
    parent: str | None

    @property
    def key(self) -> str:
        """Container ID/name."""
        return f"{self.container_id}/{self.name}"


# -- which there are --


def check_name(name: str) -> str:
    """Returns it, or raises `FormatError`: the rule for containers' names."""
    if not is_name(name):
        raise FormatError(f"{name!r:.140}: not a checkpoint name (letters, digits, _ . - and not first, at most 128)")
    return name


def read(paths: StorePaths, key: str) -> Checkpoint | None:
    """The checkpoint of that key; None when there is none, or it has only begun to be one."""
    place = paths.checkpoint(key)
    try:
        if chain.mark_of(f"{place}/upper") == key:
            return None
    except (FileNotFoundError, NotADirectoryError):
        return None
    container_id, _, name = key.partition("/")
    try:
        with open(f"{place}/checkpoint.json", "rb") as file:
            fields = json.loads(file.read())
        return Checkpoint(container_id, name, float(fields["created"]), fields["parent"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # a power cut may have torn it: its files are there
        return Checkpoint(container_id, name, os.stat(place).st_mtime, chain.mark_of(f"{place}/upper"))


def own(paths: StorePaths, container_id: str) -> list[Checkpoint]:
    """Those that were taken of a container, the oldest first."""
    with suppress(FileNotFoundError):
        names = [name for name in os.listdir(f"{paths.checkpoints}/{container_id}") if not name.startswith(".")]
        found = [read(paths, f"{container_id}/{name}") for name in names]
        return sorted((one for one in found if one is not None), key=lambda one: (one.created, one.name))
    return []


def listed(container: Container) -> list[Checkpoint]:
    """See `Container.checkpoints`."""
    paths = container.store.paths
    _check_there(container)
    found = {one.key: one for one in own(paths, container.id)}
    pending = [*chain.chain(paths, container.directory), *(one.parent for one in found.values())]
    while pending:
        key = pending.pop()
        if key is not None and key not in found and (one := read(paths, key)) is not None:
            found[key] = one
            pending.append(one.parent)
    return sorted(found.values(), key=lambda one: (one.created, one.key))


def standing(container: Container) -> str | None:
    """The key of the checkpoint that the container went on from; None: of none, from its image."""
    upper = f"{container.directory}/upper"
    return chain.mark_of(upper, chain.AFTER) or chain.mark_of(upper)


def find(container: Container, checkpoint: str | Checkpoint) -> Checkpoint:
    """By its name: one of the container's own, else the nearest that its files lie on, else the newest that it comes
    from. `NotFoundError`, also for a value that is none of these."""
    paths = container.store.paths
    if not isinstance(checkpoint, str):
        if checkpoint.key in {one.key for one in listed(container)}:
            return checkpoint
        raise NotFoundError(f"container {container.name}: it does not come from {chain.spoken(checkpoint.key)}")
    _check_there(container)
    keys = [f"{container.id}/{checkpoint}"] if is_name(checkpoint) else []
    keys += [key for key in chain.chain(paths, container.directory) if key.endswith(f"/{checkpoint}")]
    for key in keys:
        if (one := read(paths, key)) is not None:
            return one
    for one in reversed(listed(container)):
        if one.name == checkpoint:
            return one
    raise NotFoundError(f"container {container.name}: it has no checkpoint {checkpoint!r:.140}")


def _check_there(container: Container) -> None:
    if not os.path.isdir(container.directory):
        raise NotFoundError(f"container {container.name}: it has been removed")


# -- taking one --


def take(container: Container, name: str | None, sync: bool) -> Checkpoint:
    """See `Container.checkpoint`."""
    if name is not None:
        check_name(name)
    container.store.content.reserve.check()
    with Room(container.store.paths.containers), Lock(container.directory):
        return take_now(container, name, sync)


def take_now(container: Container, name: str | None = None, sync: bool = False) -> Checkpoint:
    """take(); the room and the lock are held."""
    paths = container.store.paths
    running = container._execution.settled().status == "running"
    home = f"{paths.checkpoints}/{container.id}"
    with suppress(FileExistsError):
        os.mkdir(home, 0o700)
    tidy(paths, container.id)
    if name is None:
        numbers = (int(taken) for taken in os.listdir(home) if taken.isdecimal() and len(taken) < 10)
        name = str(1 + max(numbers, default=0))
    elif os.path.lexists(f"{home}/{name}"):
        raise ConflictError(f"container {container.name}: it has a checkpoint {name} already")
    if not running:
        chain.check_length(container.name, chain.chain(paths, container.directory))
    one = Checkpoint(container.id, name, time.time(), standing(container))
    begun = f"{home}/.{name}"
    os.mkdir(begun, 0o700)
    try:
        with open(f"{begun}/checkpoint.json", "w", encoding="utf-8") as file:
            file.write(json.dumps({"created": one.created, "parent": one.parent}))
        copied = running or container.settings.size is not None
        (_copy if copied else _exchange)(container, one, begun, sync)
    except BaseException:
        with suppress(OSError):
            remove_tree(begun)
            tidy(paths, container.id)
        raise
    return one


def _exchange(container: Container, one: Checkpoint, begun: str, sync: bool) -> None:
    """Of a container that does not run."""
    store, upper = container.store, f"{container.directory}/upper"
    place = store.paths.checkpoint(one.key)
    _make_whole(container)
    chain.RootDirectory.of(upper).make(f"{begun}/upper", one.key)
    if sync:
        _sync(container.directory)
    with Unmounted(container):
        os.rename(begun, place)
        exchange(f"{place}/upper", upper)
    if sync:
        _sync(container.directory)


def _make_whole(container: Container) -> None:
    """What somebody has changed without a mount."""
    from lazarus.containers.stack import hand_over

    if os.path.isdir(f"{container.directory}/union"):
        hand_over(container.store, container.directory, container.settings)


def _copy(container: Container, one: Checkpoint, begun: str, sync: bool) -> None:
    """Of a container that runs, or whose size is limited."""
    from lazarus._native.pool import copy_tree
    from lazarus.containers.freeze import frozen

    upper = f"{container.directory}/upper"
    os.mkdir(f"{begun}/upper", 0o700)
    if container._execution.settled().status == "running":
        still: AbstractContextManager[object] = frozen([container])
    else:
        _make_whole(container)
        still = Unmounted(container)
    with still:
        copy_tree(upper, f"{begun}/upper")
    if sync:
        _sync(container.directory)
    os.rename(begun, container.store.paths.checkpoint(one.key))
    chain.remember(upper, one.key)
    if sync:
        _sync(container.directory)


def _sync(directory: str) -> None:
    from lazarus.content.publish import sync_file_system

    sync_file_system(f"{directory}/.")


# -- going back --


def rollback(container: Container, checkpoint: str | Checkpoint) -> None:
    """See `Container.rollback`. On a full disk it takes what little it needs from the reserve."""
    container.store.content.reserve.with_room(lambda: _roll_back(container, checkpoint))


def _roll_back(container: Container, checkpoint: str | Checkpoint) -> None:
    store = container.store
    trash = f"{store.paths.trash}/rollback-{os.urandom(8).hex()}"
    with Room(store.paths.containers), Lock(container.directory), store.content.lease("rollback") as lease:
        if container._execution.settled().status == "running":
            raise ConflictError(f"container {container.name}: it is running; stop it first")
        one = find(container, checkpoint)
        chain.check_length(container.name, chain.chain(store.paths, store.paths.checkpoint(one.key)))
        if os.path.isdir(f"{container.directory}/union"):
            from lazarus.containers.stack import check_free

            check_free(container.directory)
        fresh, root = lease.new_path("upper"), chain.RootDirectory.of(f"{store.paths.checkpoint(one.key)}/upper")
        limited, blocks = container.settings.size is not None, lease.new_path("blocks")
        if limited:
            chain.tidy_linked(container.directory)
            chain.make_linked(root, f"{container.directory}/limited", fresh, one.key)
            blocks = f"{container.directory}/limited/{chain.PASSING}blocks"
        else:
            root.make(fresh, one.key)
        with Unmounted(container) as unmounted:
            exchange(fresh, f"{container.directory}/upper")
            with suppress(FileNotFoundError):  # maps of files that are gone
                os.rename(f"{container.directory}/union/blocks", blocks)
            if limited:
                chain.tidy_linked(container.directory)
            with suppress(OSError):  # a full disk: it goes with the lease
                os.rename(fresh, trash)
                unmounted.rubbish.append(trash)


# -- the end of them --


def remove(container: Container, name: str) -> None:
    """Removes one of its own checkpoints that nothing lies on. `NotFoundError`, `ConflictError`."""
    paths = container.store.paths
    with Room(paths.containers, alone=True), Lock(container.directory):
        one = read(paths, f"{container.id}/{name}") if is_name(name) else None
        if one is None:
            raise NotFoundError(f"container {container.name}: it has no checkpoint {name!r:.140} of its own")
        for upper, what in all_uppers(container.store):
            if lies_on(upper) == one.key:
                raise ConflictError(f"checkpoint {container.name}@{name}: {what} lies on it")
        trash = _throw(paths, one.key)
    remove_tree(trash)


def sweep(store: Store, gone: Collection[str] = (), dry_run: bool = False) -> int:
    """Removes checkpoints that no container needs, as if those in `gone` were not there; the bytes on disk that this
    gave back, or with `dry_run` would give.

    Nobody makes containers or checkpoints meanwhile, nor rolls back: whose files lie on what is settled. 3 us for each
    container and checkpoint.
    """
    from lazarus.content.usage import disk_usage

    paths, freed = store.paths, 0
    if not os.listdir(paths.checkpoints):
        return 0
    thrown = []
    with Room(paths.containers, alone=True):
        rows = {row[0] for row in store.catalogue.read().execute("SELECT id FROM containers")} - set(gone)
        needed = _needed(paths, rows, gone)
        for owner in os.listdir(paths.checkpoints):
            home = f"{paths.checkpoints}/{owner}"
            for name in os.listdir(home) if owner not in rows else ():
                key = f"{owner}/{name}"
                if key in needed:
                    continue
                if dry_run:
                    freed += disk_usage(paths.checkpoint(key)).allocated
                else:
                    thrown.append(_throw(paths, key))
            if owner not in rows and not dry_run:
                with suppress(OSError):  # some are needed
                    os.rmdir(home)
    return freed + sum(map(remove_tree, thrown))


def sweep_after(store: Store, container_id: str, lay_on: Iterable[str]) -> None:
    """sweep() where the end of this container, whose files lay on these, may have left something."""
    row = store.catalogue.read().execute
    owners = {key.partition("/")[0] for key in lay_on} - {container_id}
    if os.path.isdir(f"{store.paths.checkpoints}/{container_id}") or any(
        row("SELECT 1 FROM containers WHERE id = ?", (owner,)).fetchone() is None for owner in owners
    ):
        sweep(store)


def tidy(paths: StorePaths, container_id: str) -> None:
    """Removes what a process that was killed had only begun; the lock of the container is held."""
    home = f"{paths.checkpoints}/{container_id}"
    for name in os.listdir(home):
        if name.startswith(".") or read(paths, f"{container_id}/{name}") is None:
            remove_tree(f"{home}/{name}")


def all_uppers(store: Store) -> Iterator[tuple[str, str]]:
    """Every container's and every checkpoint's, and what to call it."""
    paths, names = store.paths, dict(store.catalogue.read().execute("SELECT id, name FROM containers").fetchall())
    for owner in os.listdir(paths.containers):
        yield f"{paths.container(owner)}/upper", f"container {names.get(owner, owner[:12])}"
    for owner in os.listdir(paths.checkpoints):
        for name in os.listdir(f"{paths.checkpoints}/{owner}"):
            what = f"checkpoint {names.get(owner, owner[:12])}@{name}"
            yield f"{paths.checkpoint(f'{owner}/{name}')}/upper", what


def lies_on(upper: str) -> str | None:
    """The key of the checkpoint that an upper lies on; None for none, and for what is no upper any more."""
    try:
        return chain.mark_of(upper)
    except (FileNotFoundError, NotADirectoryError):  # it has just been removed, or is not whole
        return None


def _needed(paths: StorePaths, rows: Collection[str], gone: Collection[str]) -> set[str]:
    """Keys of the checkpoints that containers lie on, and of what the checkpoints of those with a row lie on. A
    directory without a row counts: it goes first."""
    homes = [owner for owner in os.listdir(paths.checkpoints) if owner in rows]
    pending = [f"{paths.container(name)}/upper" for name in os.listdir(paths.containers) if name not in gone]
    for owner in homes:
        pending += [f"{paths.checkpoints}/{owner}/{name}/upper" for name in os.listdir(f"{paths.checkpoints}/{owner}")]
    needed: set[str] = set()
    while pending:
        key = lies_on(pending.pop())
        if key is not None and key not in needed:
            needed.add(key)
            pending.append(f"{paths.checkpoint(key)}/upper")
    return needed


def _throw(paths: StorePaths, key: str) -> str:
    """Moves it to the trash, and says where."""
    trash = f"{paths.trash}/checkpoint-{os.urandom(8).hex()}"
    os.rename(paths.checkpoint(key), trash)
    return trash
