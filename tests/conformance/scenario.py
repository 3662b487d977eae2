"""The sentence that pack is held to: what a container sees over a lower, its layer laid on that lower gives again.

A scenario is a lower directory and a list of changes. It mounts a real overlay, applies the changes there and to a
plain copy of the lower, packs the upper, and applies that layer to another copy of the lower by the oracle's rules.
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from lazarus import terms
from lazarus._native import erofs, index, ingest, mount, pack

from . import overlay
from .changes import Change, errno_of
from .oci_apply import apply_layer
from .trees import Tree, differences, read_tree

LONG_AGO = 1_000_000_000_123_456_789  # when everything in a lower was last changed, in nanoseconds


class Stored(NamedTuple):
    """A directory as a store has it: its index (here one layer is the whole stack) and the objects."""

    index: str
    objects: str


class Outcome(NamedTuple):
    """What became of a scenario. `errnos` are (in the overlay, in the plain copy) for each change."""

    before: Tree
    merged: Tree
    plain: Tree
    applied: Tree
    diff: list[terms.Change]
    names: list[bytes]
    errnos: list[tuple[int, int]]


def copy_tree(source: Path, target: Path, *, links: bool = True) -> None:
    """`cp -a`: owners, times, xattrs, holes, and hard links unless they are not wanted."""
    options = [] if links else ["--no-preserve=links"]
    subprocess.run(["cp", "-a", "--sparse=auto", *options, str(source), str(target)], check=True)


def age(root: Path) -> None:
    """Sets every time of a tree to LONG_AGO."""
    for directory, names, files in os.walk(os.fsencode(root), topdown=False):
        for name in [*names, *files]:
            os.utime(os.path.join(directory, name), ns=(LONG_AGO, LONG_AGO), follow_symlinks=False)
    os.utime(root, ns=(LONG_AGO, LONG_AGO))


def store(lower: Path, place: Path) -> Stored:
    """Brings a directory into index and objects, as an image's only layer."""
    place.mkdir()
    tar = place / "lower.tar"
    source = os.open(lower, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with open(tar, "wb") as file:
            pack.pack_tree(source, file.fileno())
    finally:
        os.close(source)
    return store_layer(tar, place, "base")


def store_layer(tar: Path, place: Path, name: str) -> Stored:
    """Ingests a layer's tar; its objects join those of the place."""
    staged, objects, layer = place / "staged", place / "objects", place / name
    for directory in (staged, objects, layer):
        directory.mkdir(exist_ok=True)
    with open(tar, "rb") as file:
        ingest.ingest(file.fileno(), offset=0, staging=layer, staged_objects=staged, objects=objects)
    for entry in os.listdir(staged):
        (objects / entry[:2]).mkdir(exist_ok=True)
        os.replace(staged / entry, objects / entry[:2] / entry[2:])
    tar.unlink()
    return Stored(str(layer / "index"), str(objects))


def run(
    place: Path,
    build: Callable[[Path], None],
    changes: Sequence[Change],
    *,
    options: str = overlay.DEFAULT_OPTIONS,
    max_mtime: int | None = None,
) -> Outcome:
    """Plays a scenario in the empty directory `place`. Needs root."""
    lower, plain, applied = place / "lower", place / "plain", place / "applied"
    lower.mkdir()
    build(lower)
    age(lower)
    copy_tree(lower, plain, links=False)  # copy-up breaks a hard link of the lower (index=off)
    copy_tree(lower, applied)
    stored = store(lower, place / "store")
    for name in ("upper", "work", "merged"):
        (place / name).mkdir()
    same_root(lower, place / "upper")

    def inside() -> tuple[Tree, Tree, list[tuple[int, int]]]:
        merged = str(place / "merged")
        overlay.mount_overlay(str(lower), str(place / "upper"), str(place / "work"), merged, options)
        errnos = [(errno_of(change, merged), errno_of(change, plain)) for change in changes]
        return read_tree(merged), read_tree(plain), errnos

    merged, plain_tree, errnos = overlay.in_mount_namespace(inside)
    layer = place / "layer.tar"
    with open(layer, "wb") as out:
        size = pack.pack_upper(
            place / "upper", stored.index, [stored.index], stored.objects, out.fileno(), max_mtime=max_mtime
        )
    assert size == layer.stat().st_size
    before = read_tree(applied)
    names = apply_layer(str(applied), str(layer))
    return Outcome(
        before, merged, plain_tree, read_tree(applied), pack.diff(place / "upper", stored.index), names, errnos
    )


def run_chain(place: Path, build: Callable[[Path], None], generations: Sequence[Sequence[Change]]) -> list[Outcome]:
    """The same over what a store really mounts (EROFS metadata over objects), and each generation on top of the layers
    of those before it. Also checks that a stack shows, before anything is changed, what its layers applied give."""
    lower, plain, applied = place / "lower", place / "plain", place / "applied"
    lower.mkdir()
    build(lower)
    age(lower)
    copy_tree(lower, plain, links=False)
    copy_tree(lower, applied)
    stored = store(lower, place / "store")
    indexes, outcomes = [stored.index], []
    for number, changes in enumerate(generations):
        ground = place / str(number)
        for name in ("upper", "work", "merged"):
            (ground / name).mkdir(parents=True)
        same_root(applied, ground / "upper")
        stack, image, layer = ground / "stack", ground / "image", ground / "layer.tar"
        index.merge(indexes, [bytes([i + 1]) * 32 for i in range(len(indexes))], stack)
        erofs.write_erofs(stack, indexes, image)
        shown, merged, plain_tree, errnos = overlay.in_mount_namespace(
            functools.partial(_play_on_image, ground, stored.objects, plain, changes)
        )
        before = read_tree(applied)
        assert differences(before, shown) == []
        with open(layer, "wb") as out:
            pack.pack_upper(ground / "upper", stack, indexes, stored.objects, out.fileno())
        names = apply_layer(str(applied), str(layer))
        found = pack.diff(ground / "upper", stack)
        outcomes.append(Outcome(before, merged, plain_tree, read_tree(applied), found, names, errnos))
        indexes.append(store_layer(layer, place / "store", f"layer{number}").index)
    return outcomes


def _play_on_image(
    ground: Path, objects: str, plain: Path, changes: Sequence[Change]
) -> tuple[Tree, Tree, Tree, list[tuple[int, int]]]:
    merged = str(ground / "merged")
    mount.mount_stack(ground / "image", [], [objects], ground / "upper", ground / "work", merged)
    shown = read_tree(merged)
    errnos = [(errno_of(change, merged), errno_of(change, plain)) for change in changes]
    return shown, read_tree(merged), read_tree(plain), errnos


def same_root(lower: Path, upper: Path) -> None:
    """A container's upper begins with the attributes of the stack's root."""
    info = lower.stat()
    os.chown(upper, info.st_uid, info.st_gid)
    os.chmod(upper, info.st_mode & 0o7777)
    for name in os.listxattr(lower):
        os.setxattr(upper, name, os.getxattr(lower, name))
    os.utime(upper, ns=(info.st_mtime_ns, info.st_mtime_ns))


def seen_as(outcome: Outcome) -> Tree:
    """The merged tree as a layer can say it: a hard link of the lower whose names were partly moved (and so written
    into the layer) and partly left alone becomes two."""
    written = set(outcome.names)
    return {
        path: node._replace(links=frozenset(other for other in node.links if (other in written) == (path in written)))
        for path, node in outcome.merged.items()
    }


def expected_diff(before: Tree, now: Tree) -> tuple[set[bytes], set[bytes], set[bytes]]:
    """Added, certainly changed, and deleted (only the top of what is gone, as a deletion takes everything with it)."""
    added = now.keys() - before.keys()
    gone = before.keys() - now.keys()
    deleted = {path for path in gone if os.path.dirname(path) in now and now[os.path.dirname(path)].kind == "directory"}
    none = frozenset[bytes]()  # a file whose other name went is not itself changed
    changed = {
        path
        for path in before.keys() & now.keys()
        if path and before[path]._replace(links=none) != now[path]._replace(links=none)
    }
    return {b"/" + p for p in added}, {b"/" + p for p in changed}, {b"/" + p for p in deleted}


def check_diff(outcome: Outcome) -> None:
    """Every difference between what was and what is there is reported as what it is; and nothing that is not there."""
    added, changed, deleted = expected_diff(outcome.before, outcome.merged)
    found = {kind: {change.path for change in outcome.diff if change.change == kind} for kind in "ACD"}
    sockets = {change.path for change in outcome.diff if change.kind == "socket"}
    assert found["A"] - sockets == added
    assert found["D"] == deleted - sockets
    assert found["C"] >= changed
    assert found["C"] - sockets <= {b"/" + path for path in outcome.before.keys() & outcome.merged.keys()}
    assert len(outcome.diff) == sum(map(len, found.values()))
    for change in outcome.diff:
        if change.change != "D" and change.kind != "socket":
            node = outcome.merged[change.path[1:]]
            assert change.kind == node.kind
            was = outcome.before.get(change.path[1:])
            if change.change == "C" and was is not None and node.kind == "file" and not change.content:
                assert was.content == node.content
