"""What the upper of a stack changes, where its lowers are not one merged index (there lz_diff knows).

The view is compared with the view of the lowers alone, name by name, along the upper's own directories: the cost
follows the change. Only below a directory that was replaced or renamed are both views walked whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

from lazarus._native import union_read
from lazarus._native.openat2 import open_in_root
from lazarus._native.union import Union
from lazarus.layers.layer import Layer
from lazarus.terms import Change
from lazarus.union.sources import open_branches

if TYPE_CHECKING:
    from lazarus._native.index import Index
    from lazarus._native.info import Info
    from lazarus.union.layer_stack import LayerStack

    _Step = tuple[bytes, Info | None, Info | None, bool]


def diff(stack: LayerStack) -> Iterator[Change]:
    """See `LayerStack.diff`."""
    if stack.upper is None:
        return
    if stack._index is not None:
        yield from _by_marks(stack, stack.upper, stack._index)
        return
    prefix = "user.overlay." if stack.user_xattr else "trusted.overlay."
    with ExitStack() as ending:
        before = Union(open_branches(stack.layers, stack.marks))
        ending.callback(before.close)
        upper = os.open(stack.upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        ending.callback(os.close, upper)
        yield from changes(stack, before, upper, prefix)


def _by_marks(stack: LayerStack, upper: str, index: Index) -> list[Change]:
    from lazarus._native.pack import diff as native_diff

    maps = f"{stack.work}/blocks"
    layers = [layer for layer in stack.layers if isinstance(layer, Layer)]
    if not os.path.isdir(maps) or not layers:
        return native_diff(upper, index, user_xattr=stack.user_xattr)
    paths, objects = [layer.index_path for layer in layers], layers[0].objects_path
    return native_diff(upper, index, paths, objects, maps=maps, user_xattr=stack.user_xattr)


def changes(now: Union, before: Union, upper: int, prefix: str) -> Iterator[Change]:
    """A directory before its children, children by name, as `lazarus._native.pack.diff` has them. `upper` is an open
    directory, `prefix` that of its marks, "user.overlay." or "trusted.overlay."."""
    pending: list[Iterator[_Step]] = [_names(now, before, upper, b"", False)]
    while pending:
        step = next(pending[-1], None)
        if step is None:
            pending.pop()
            continue
        path, new, old, whole = step
        if new is None:
            if old is not None:
                yield Change("D", path, old.kind)
            continue
        marks, target = _marks(upper, path, prefix)
        moved = whole if target is None else target != path  # moved away and back, it lies over its own lowers again
        size = new.size if new.kind == "file" else 0
        if old is None:
            yield Change("A", path, new.kind, True, size)
        else:
            in_place = "metacopy" in marks and new.data_layer != new.layer and not moved
            yield Change("C", path, new.kind, not (new.kind == "directory" or in_place), size)
        if new.kind == "directory":
            same = before if old is not None and old.kind == "directory" else None
            pending.append(_names(now, same, upper, path, moved or "opaque" in marks))


def _names(now: Union, before: Union | None, upper: int, path: bytes, whole: bool) -> Iterator[_Step]:
    """What may have changed in a directory: what the upper holds of it, or (`whole`) everything in both views. `before`
    is None when no such directory was there: a symlink of its name must not lead to another."""
    if whole:
        names = {name for union in (now, before) if union is not None for name, _ in union_read.scan(union, path)}
    else:
        directory = open_in_root(upper, path or b"/", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            names = {os.fsencode(name) for name in os.listdir(directory)}
        finally:
            os.close(directory)
    for name in sorted(names):
        below = path + b"/" + name
        yield below, _info(now, below), None if before is None else _info(before, below), whole


def _info(union: Union, path: bytes) -> Info | None:
    try:
        return union_read.stat(union, path, follow=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _marks(upper: int, path: bytes, prefix: str) -> tuple[set[str], bytes | None]:
    """overlay's marks on a file or directory of the upper, without their prefix (none when it is not there), and the
    path that its redirect leads to."""
    try:
        file = open_in_root(upper, path, os.O_PATH | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return set(), None
    try:
        name = f"/proc/self/fd/{file}"  # leads to what was opened, also when that is a symlink
        marks = {mark.removeprefix(prefix) for mark in os.listxattr(name)}
        if "redirect" not in marks:
            return marks, None
        target = os.getxattr(name, prefix + "redirect")
    finally:
        os.close(file)
    if not target.startswith(b"/"):  # a name in the same directory, which may itself have been moved
        return marks, None if target == os.path.basename(path) else os.path.join(os.path.dirname(path), target)
    return marks, target
