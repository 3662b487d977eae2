"""`volume snapshot`, `snapshots`, `rollback`, `clone`, `diff` and `forget`: what a volume was."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

from lazarus.cli.options import Mistake, Option, Verb, Word, whole_number
from lazarus.cli.output import FORMAT, age, plural, print_json, print_table, size

if TYPE_CHECKING:
    from lazarus.store import Store
    from lazarus.volumes.snapshot import Cost
    from lazarus.volumes.volume import Volume


def snapshot(store: Store, arguments: SimpleNamespace) -> int:
    """Prints VOLUME@NAME; what it cost goes to standard error."""
    before, after = (None if text is None else ["/bin/sh", "-c", text] for text in (arguments.before, arguments.after))
    volume = store.volumes.get(arguments.volume)
    found = volume.snapshot(
        arguments.name,
        before=before,
        after=after,
        hook_timeout=arguments.hook_timeout,
        freeze=not arguments.no_freeze,
    )
    _say_cost(volume, found.cost)
    print(found)
    return 0


def snapshots(store: Store, arguments: SimpleNamespace) -> int:
    """Those of one volume, or of all, the oldest first."""
    volumes = store.volumes.list() if arguments.volume is None else [store.volumes.get(arguments.volume)]
    found = [snapshot for volume in volumes for snapshot in volume.snapshots]
    if arguments.quiet:
        for snapshot in found:
            print(snapshot)
    elif arguments.format == "json":
        print_json([snapshot.inspect() for snapshot in found])
    else:
        rows = [
            (str(one), age(one.created), str(one.cost.entries), size(one.cost.shared), size(one.cost.copied))
            for one in found
        ]
        print_table(("SNAPSHOT", "CREATED", "ENTRIES", "SHARED", "COPIED"), rows)
    return 0


def rollback(store: Store, arguments: SimpleNamespace) -> int:
    """Prints the snapshot that the volume is now; what it cost goes to standard error."""
    words = [arguments.volume] if arguments.name is None else [f"{arguments.volume}@{arguments.name}"]
    volume, name = _split(store, words[0])
    if name is None:
        raise Mistake("which snapshot? VOLUME@NAME, or VOLUME NAME")
    _say_cost(volume, volume.rollback(name, keep=arguments.keep))
    print(f"{volume.name}@{name}")
    return 0


def clone(store: Store, arguments: SimpleNamespace) -> int:
    """Prints the name of the new volume; what it cost goes to standard error."""
    labels = {name: value for name, _, value in (label.partition("=") for label in arguments.labels)}
    volume, name = _split(store, arguments.volume)
    made = volume.clone(arguments.new, snapshot=name, labels=labels, freeze=not arguments.no_freeze)
    _say_cost(made.volume, made.cost)
    print(made.volume.name)
    return 0


def diff(store: Store, arguments: SimpleNamespace) -> int:
    """Lines `A /path`, `C /path (what differs)`, `D /path`."""
    volume, before = _split(store, arguments.before)
    other, after = (volume, None) if arguments.after is None else _split(store, arguments.after)
    if before is None:
        raise Mistake(f"which snapshot of {volume.name}? VOLUME@NAME comes first")
    if other.name != volume.name:
        raise Mistake(f"{volume.name} and {other.name} are two volumes; a snapshot is compared with its own volume")
    changes = volume.diff(before, after, checksum=arguments.checksum)
    if arguments.format == "json":
        print_json([{**change._asdict(), "path": os.fsdecode(change.path)} for change in changes])
        return 0
    sys.stdout.flush()
    for change in changes:
        differs = f" ({', '.join(change.differs)})" if change.differs else ""
        sys.stdout.buffer.write(b"%s %s%s\n" % (change.change.encode(), change.path, differs.encode()))
    return 0


def forget(store: Store, arguments: SimpleNamespace) -> int:
    """A line for each snapshot: keep, and why; or remove."""
    from lazarus.volumes.retention import Policy

    counts = {name: getattr(arguments, name) for name in Policy._fields}
    policy = Policy(**counts)
    if not any(counts.values()):
        raise Mistake("say what to keep: without that every snapshot would go")
    decisions = store.volumes.get(arguments.volume).forget(policy, dry_run=arguments.dry_run)
    if arguments.format == "json":
        print_json([{**found.snapshot.inspect(), "Reasons": list(found.reasons)} for found in decisions])
        return 0
    if not decisions:
        sys.stderr.write(f"volume {arguments.volume}: it has no snapshots\n")
        return 0
    gone = "would remove" if arguments.dry_run else "removed"
    rows = [(str(found.snapshot), "keep" if found.reasons else gone, ", ".join(found.reasons)) for found in decisions]
    print_table(("SNAPSHOT", "", "WHY"), rows)
    return 0


def _split(store: Store, text: str) -> tuple[Volume, str | None]:
    from lazarus.volumes.names import split_snapshot

    volume, name = split_snapshot(text)
    return store.volumes.get(volume), name


def _say_cost(volume: Volume, cost: Cost) -> None:
    """A volume with a limit is a file system of its own: a clone of it is a copy in a pool, too."""
    text = f"{plural(cost.entries, 'entry').replace('entrys', 'entries')}: {size(cost.shared)} shared"
    text += f", {size(cost.copied)} copied"
    if cost.copied and volume.limit is None and not volume.store.pool.exists:
        text += "; in a pool they would be shared (lazarus pool create)"
    sys.stdout.flush()
    sys.stderr.write(f"{text}\n")


def _keep(text: str) -> int:
    from lazarus.volumes.retention import UNLIMITED

    return UNLIMITED if text == "unlimited" else whole_number(text)


_keep.__name__ = "number, or unlimited"


def _span(text: str) -> str:
    from lazarus.volumes.retention import is_span

    if text and not is_span(text):
        raise ValueError(text)
    return text


_span.__name__ = "span of time, as in 2y5m7d3h"


def _seconds(text: str) -> float:
    found = float(text)
    if not 0 < found < 1e9:
        raise ValueError(text)
    return found


_seconds.__name__ = "time in seconds"

_VOLUME = Word("volume", "VOLUME", "name of a volume")
_NO_FREEZE = Option(("--no-freeze",), "no_freeze", "let running containers go on: files may come torn")


def _kept(what: str, text: str) -> Option:
    return Option((f"--keep-{what}",), what, text, "N", default=0, kind=_keep)


VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "volume snapshot",
            "keep what a volume is now, under a name",
            snapshot,
            (_VOLUME, Word("name", "NAME", "of the snapshot (default: the time, as in 20261126T170000.000Z)", "?")),
            (
                Option(("--pre-hook",), "before", "run this first; when it fails, nothing is taken", "COMMAND"),
                Option(("--post-hook",), "after", "run this last, whatever happened", "COMMAND"),
                Option(
                    ("--hook-timeout",),
                    "hook_timeout",
                    "how long each of them may take (60)",
                    "SECONDS",
                    default=60.0,
                    kind=_seconds,
                ),
                _NO_FREEZE,
            ),
            "Running containers that name it stand still meanwhile. Each file is cloned where the file system can (XFS,"
            " btrfs, a pool), else copied. Hooks are shell commands on this host, with VOLUME, SNAPSHOT, PHASE (before,"
            " after), OUTCOME (taken, failed), ERROR in their environment. SIGTERM ends it in order, as Ctrl-C does.",
        ),
        Verb(
            "volume snapshots",
            "list snapshots, the oldest first",
            snapshots,
            (Word("volume", "VOLUME", "name of a volume (default: all)", "?"),),
            (Option(("-q", "--quiet"), "quiet", "print names only"), FORMAT),
            "volume rm VOLUME@NAME removes one; volume inspect VOLUME@NAME prints all about it.",
        ),
        Verb(
            "volume rollback",
            "make a volume what it was in a snapshot",
            rollback,
            (
                Word("volume", "VOLUME@NAME", "a snapshot; or the volume, and then"),
                Word("name", "NAME", "the name of the snapshot", "?"),
            ),
            (Option(("--keep",), "keep", "first keep what it is now as a snapshot", "NAME"),),
            "No container may run on it. The snapshot stays.",
        ),
        Verb(
            "volume clone",
            "make a new volume of one, or of a snapshot",
            clone,
            (
                Word("volume", "VOLUME[@NAME]", "a volume as it is now, or a snapshot of it"),
                Word("new", "NEW", "name of the new volume"),
            ),
            (
                Option(("--label", "-l"), "labels", "a label besides those of VOLUME", "NAME[=VALUE]", many=True),
                _NO_FREEZE,
            ),
        ),
        Verb(
            "volume diff",
            "show what became of each path of a volume since a snapshot",
            diff,
            (
                Word("before", "VOLUME@NAME", "a snapshot"),
                Word("after", "VOLUME[@NAME]", "a later one (default: the volume as it is now)", "?"),
            ),
            (
                Option(("-c", "--checksum"), "checksum", "read files of one size and one modification time, too"),
                FORMAT,
            ),
            "A: added, C: changed (and what of it), D: deleted.",
        ),
        Verb(
            "volume forget",
            "remove the snapshots of a volume that a policy does not keep",
            forget,
            (_VOLUME,),
            (
                _kept("last", "keep the N newest; N may be unlimited, everywhere"),
                _kept("hourly", "of the N newest hours with a snapshot keep the newest of each"),
                _kept("daily", "likewise for days"),
                _kept("weekly", "likewise for weeks"),
                _kept("monthly", "likewise for months"),
                _kept("yearly", "likewise for years"),
                Option(
                    ("--keep-within",),
                    "within",
                    "keep all that are not older than that before the newest, as in 2y5m7d3h",
                    "TIME",
                    default="",
                    kind=_span,
                ),
                Option(("-n", "--dry-run"), "dry_run", "change nothing, only say what would go and what stays"),
                FORMAT,
            ),
            "A snapshot stays when any of the rules wants it. A rule that has not used up its number also keeps the"
            " oldest. Days and hours are those of this machine's time zone.",
        ),
    )
}
