"""What the upper of a stack changes, where its lowers are not one merged index (there lz_diff knows).

The view is compared with the view of the lowers alone, name by name, along the upper's own directories: the cost
follows the change. Only below a directory that was replaced or renamed are both views walked whole.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
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
        yield from changes(stack, before, [upper], len(stack.layers), prefix)


def _by_marks(stack: LayerStack, upper: str, index: Index) -> list[Change]:
    from lazarus._native.pack import diff as native_diff

    maps = f"{stack.work}/blocks"
    layers = [layer for layer in stack.layers if isinstance(layer, Layer)]
    if not os.path.isdir(maps) or not layers:
        return native_diff(upper, index, user_xattr=stack.user_xattr)
    paths, objects = [layer.index_path for layer in layers], layers[0].objects_path
    return native_diff(upper, index, paths, objects, maps=maps, user_xattr=stack.user_xattr)


def changes(now: Union, before: Union, uppers: Sequence[int], first: int, prefix: str) -> Iterator[Change]:
    """What `now` shows and `before` does not, or differently: a directory before its children, children by name, as
    `lazarus._native.pack.diff` has them.

    `uppers` are open directories, the topmost first, which lie in `now` over all that `before` has: only names in them
    are looked at. `first` is the layer number of the lowest of them, `prefix` is that of their marks, "user.overlay."
    or "trusted.overlay.".
    """
    pending: list[tuple[Sequence[int], Iterator[_Step]]] = [(uppers, _names(now, before, uppers, b"", False))]
    while pending:
        above, steps = pending[-1]
        step = next(steps, None)
        if step is None:
            pending.pop()
            continue
        path, new, old, whole = step
        if new is None:
            if old is not None:
                yield Change("D", path, old.kind)
            continue
        if old is not None and whole and new.entry >= 0 and (new.layer, new.entry) == (old.layer, old.entry):
            continue  # moved away in one upper, and back in another
        found = _Found(above, path, prefix, whole)
        size = new.size if new.kind == "file" else 0
        if old is None:
            yield Change("A", path, new.kind, True, size)
        else:
            yield Change("C", path, new.kind, not (new.kind == "directory" or found.keeps_content(new, first)), size)
        if new.kind == "directory":
            same = before if old is not None and old.kind == "directory" else None
            pending.append((found.directories, _names(now, same, found.directories, path, found.whole)))


class _Found:
    """What the uppers have under one path, as far down as it counts."""

    def __init__(self, uppers: Sequence[int], path: bytes, prefix: str, whole: bool) -> None:
        self.directories: list[int] = []  # uppers in which it is a directory that is merged
        self._marks: set[str] | None = None  # of the topmost
        targets, opaque = [], False
        for upper in uppers:
            marks, target, is_directory = _marks(upper, path, prefix)
            if marks is None:
                continue
            self._marks = marks if self._marks is None else self._marks
            targets += [target] if target is not None else []
            opaque = opaque or "opaque" in marks
            if not is_directory and "metacopy" not in marks:
                break
            if is_directory:
                self.directories.append(upper)
            if opaque or (target is not None and target != path):
                break
        # moved away and back, it lies over its own lowers again
        self.moved = any(target != path for target in targets) if targets else whole
        self.whole = self.moved or opaque

    def keeps_content(self, new: Info, first: int) -> bool:
        """Has a file that was there only got other attributes?"""
        return bool(self._marks and "metacopy" in self._marks) and new.data_layer < first and not self.moved


def _names(now: Union, before: Union | None, uppers: Sequence[int], path: bytes, whole: bool) -> Iterator[_Step]:
    """What may have changed in a directory: what the uppers hold of it, or (`whole`) everything in both views. `before`
    is None when no such directory was there: a symlink of its name must not lead to another."""
    names: set[bytes] = set()
    if whole:
        names = {name for union in (now, before) if union is not None for name, _ in union_read.scan(union, path)}
    for upper in () if whole else uppers:
        directory = open_in_root(upper, path or b"/", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            names.update(os.fsencode(name) for name in os.listdir(directory))
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


def _marks(upper: int, path: bytes, prefix: str) -> tuple[set[str] | None, bytes | None, bool]:
    """overlay's marks on a file or directory of the upper, without their prefix (None when it is not there), the path
    that its redirect leads to, and whether it is a directory."""
    try:
        file = open_in_root(upper, path, os.O_PATH | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None, None, False
    try:
        name = f"/proc/self/fd/{file}"  # leads to what was opened, also when that is a symlink
        is_directory = stat.S_ISDIR(os.fstat(file).st_mode)
        marks = {mark.removeprefix(prefix) for mark in os.listxattr(name)}
        if "redirect" not in marks:
            return marks, None, is_directory
        target = os.getxattr(name, prefix + "redirect")
    finally:
        os.close(file)
    if not target.startswith(b"/"):  # a name in the same directory, which may itself have been moved
        same = target == os.path.basename(path)
        return marks, None if same else os.path.join(os.path.dirname(path), target), is_directory
    return marks, target, is_directory
