"""`checkpoint`, `fork`, `log` and `rollback`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from lazarus.cli.containers import CONTAINER
from lazarus.cli.options import Mistake, Option, Verb, Word, whole_number
from lazarus.cli.output import FORMAT, age, print_json, print_table, short

if TYPE_CHECKING:
    from lazarus.containers.checkpoints import Checkpoint
    from lazarus.store import Store


def checkpoint(store: Store, arguments: SimpleNamespace) -> int:
    """Freezes what a container has written; prints the checkpoint's name."""
    print(store.containers.get(arguments.container).checkpoint(arguments.name, sync=arguments.sync).name)
    return 0


def fork(store: Store, arguments: SimpleNamespace) -> int:
    """New containers that go on from a checkpoint; prints their IDs."""
    name, at, wanted = arguments.place.partition("@")
    if at and not wanted:
        raise Mistake(f"{arguments.place:.200}: not CONTAINER or CONTAINER@CHECKPOINT")
    made = store.containers.get(name).fork(arguments.number, wanted or None, name=arguments.name)
    for one in made:
        print(one.id, flush=True)
    for one in made if arguments.start else ():
        one.start()
    return 0


def rollback(store: Store, arguments: SimpleNamespace) -> int:
    """Puts a container back to a checkpoint; prints what it was called with."""
    name, at, wanted = arguments.place.partition("@")
    if not (at and name and wanted):
        raise Mistake(f"{arguments.place:.200}: not CONTAINER@CHECKPOINT")
    store.containers.get(name).rollback(wanted)
    print(arguments.place)
    return 0


def log(store: Store, arguments: SimpleNamespace) -> int:
    """The checkpoints of a container and those that it comes from, as a tree."""
    from lazarus.containers.checkpoints import standing

    container = store.containers.get(arguments.container)
    found, current = container.checkpoints(), standing(container)
    if arguments.quiet:
        for one in found:
            print(one.name)
    elif arguments.format == "json":
        print_json(
            [
                {
                    "Container": one.container_id,
                    "Name": one.name,
                    "Created": int(one.created),
                    "Parent": one.parent,
                    "Current": one.key == current,
                }
                for one in found
            ]
        )
    else:
        names = {other.id: other.name for other in store.containers.list(all=True)}
        rows = []
        for depth, one in _as_tree(found):
            mark = "*" if one.key == current else " "
            owner = names.get(one.container_id, short(one.container_id))
            rows.append((f"{mark} {'  ' * depth}{one.name}", owner, age(one.created)))
        print_table(("CHECKPOINT", "OF CONTAINER", "CREATED"), rows)
    return 0


def _as_tree(found: list[Checkpoint]) -> list[tuple[int, Checkpoint]]:
    """Each after the one that it was taken after, with how many there are before it on the way."""
    keys = {one.key for one in found}
    ordered: list[tuple[int, Checkpoint]] = []
    pending = [(0, one) for one in reversed(found) if one.parent not in keys]
    while pending:
        depth, one = pending.pop()
        ordered.append((depth, one))
        pending += [(depth + 1, other) for other in reversed(found) if other.parent == one.key]
    return ordered


VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "checkpoint",
            "freeze what a container has written, and go on from there; prints the checkpoint's name",
            checkpoint,
            (CONTAINER, Word("name", "NAME", "name for it (default: the next number)", "?")),
            (Option(("--sync",), "sync", "return when all of it is on disk (else: as what a container writes)"),),
            "The file system only: no processes, no memory (unlike podman's), no volumes.\n"
            "Stopped: nothing is copied. Running: its processes are frozen, and what it has\n"
            "written is copied, or cloned where the file system can.\n"
            "`lazarus rm CONTAINER@NAME` removes one that nothing lies on.",
        ),
        Verb(
            "fork",
            "make new containers that go on from a checkpoint of one; prints their IDs",
            fork,
            (Word("place", "CONTAINER[@CHECKPOINT]", "where they begin (default: where it is now)"),),
            (
                Option(("-n", "--number"), "number", "how many (default: 1)", "N", default=1, kind=whole_number),
                Option(("--name",), "name", "name of the one, or what all their names begin with", "NAME"),
                Option(("--start",), "start", "start them, too, one after the other, in the background"),
            ),
            "All of them, or none. Nothing is copied; without @CHECKPOINT one is taken first where it is\n"
            "needed. They have the settings of CONTAINER, share the volumes that have a name, and get new\n"
            "ones in place of those without. Unless there is --start they wait to be started; one that\n"
            "cannot be is an error, and those before it run.",
        ),
        Verb(
            "log",
            "show the checkpoints of a container, and those that it comes from, as a tree",
            log,
            (CONTAINER,),
            (Option(("-q", "--quiet"), "quiet", "print names only, the oldest first"), FORMAT),
            "* marks the one that it went on from.",
        ),
        Verb(
            "rollback",
            "put a container's files back to a checkpoint; what was written since is lost",
            rollback,
            (Word("place", "CONTAINER@CHECKPOINT", "one of `lazarus log CONTAINER`"),),
            (),
            "It must not run, nor be in use. Volumes stay as they are.",
        ),
    )
}
