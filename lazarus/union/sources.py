"""What a stack is made of, opened: layers of stores, merged where they follow one another, and host directories."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

from lazarus.errors import ConflictError, NotFoundError
from lazarus.layers.layer import Layer
from lazarus.layers.stack import merged_index

if TYPE_CHECKING:
    from lazarus._native.index import Index

    Branch = tuple[Index, Sequence[int], int] | tuple[int, bool]


class HasLayers(Protocol):
    """An image: whatever has layers, lowest first."""

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers, lowest first."""


Source = Layer | HasLayers | str | bytes | os.PathLike[str]


def flatten(sources: Iterable[Source]) -> list[Layer | str]:
    """Layers and directories (absolute paths), lowest first; an image is all its layers."""
    if isinstance(sources, str | bytes | os.PathLike):
        raise TypeError("sources: a list of layers, images or directories is needed, not one path")
    flat: list[Layer | str] = []
    for source in sources:
        if isinstance(source, Layer):
            flat.append(source)
        elif isinstance(source, str | bytes | os.PathLike):
            flat.append(directory_of(source, "lower"))
        elif isinstance(layers := getattr(source, "layers", None), Sequence):
            flat += layers
        else:
            raise TypeError(f"a layer, an image or a directory is needed, not {type(source).__name__}")
    return flat


def directory_of(path: str | bytes | os.PathLike[str], role: str) -> str:
    """Its real path. `NotFoundError` when it is no directory."""
    text = os.fsdecode(path)
    if not os.path.isdir(text):
        problem = "not a directory" if os.path.lexists(text) else "does not exist"
        raise NotFoundError(f"layer stack: {role} {text}: {problem}")
    return os.path.realpath(text)


def check_apart(directories: Iterable[tuple[str, str]]) -> None:
    """(path, role) of directories of which none may be another or lie in it: what is written would change a lower."""
    ordered = sorted((path.rstrip("/") + "/", role) for path, role in directories)
    around: list[tuple[str, str]] = []  # those that the next may lie in: what lies in a directory follows it
    for inner, inner_role in ordered:
        while around and not inner.startswith(around[-1][0]):
            around.pop()
        for outer, outer_role in reversed(around):
            if {"upper", "work"} & {outer_role, inner_role}:
                relation = "are the same directory" if inner == outer else "overlap"
                raise ConflictError(f"layer stack: {outer_role} {outer[:-1]} and {inner_role} {inner[:-1]} {relation}")
        around.append((inner, inner_role))


def one_of_each_store(sources: Iterable[Layer | str]) -> Iterable[Layer]:
    """A layer of every store that they are from."""
    return {source.objects_path: source for source in sources if isinstance(source, Layer)}.values()


def open_branches(sources: Sequence[Layer | str], marks: bool) -> list[Branch]:
    """The branches of a native union, the top one first; the caller owns the descriptors in them.

    Layers of one store that follow one another become one index, which keeps its whiteouts if something lies below it.
    """
    branches: list[Branch] = []
    try:
        for store, group in groupby(sources, lambda source: source.objects_path if isinstance(source, Layer) else ""):
            members = list(group)
            layers = [source for source in members if isinstance(source, Layer)]
            if layers:
                branches.insert(0, _open_layers(layers, store, bool(branches)))
            for path in members[len(layers) :]:
                branches.insert(0, (os.open(str(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), marks))
    except BaseException:
        close_branches(branches)
        raise
    return branches


def _open_layers(layers: Sequence[Layer], objects: str, below: bool) -> Branch:
    index = merged_index(layers, keep_whiteouts=below)
    fds = [os.open(objects, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
    try:
        for layer in layers:
            fds.append(os.open(layer.index_path, os.O_RDONLY | os.O_CLOEXEC))
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return index, fds[1:], fds[0]


def close_branches(branches: Iterable[Branch]) -> None:
    """Closes the descriptors of branches that no union took."""
    for branch in branches:
        for fd in (*branch[1], branch[2]) if len(branch) == 3 else (branch[0],):
            os.close(fd)


def work_directory(upper: str, work: str | bytes | os.PathLike[str] | None) -> str:
    """The one given, else `upper` + ".work", which is made when it is missing."""
    if work is None:
        work = upper + ".work"
        with suppress(FileExistsError):
            os.mkdir(work, 0o700)
    return directory_of(work, "work")


def lacks_trusted(directory: str) -> bool:
    """May trusted.* xattrs not be written there? They need CAP_SYS_ADMIN in the host's own user namespace."""
    try:
        os.setxattr(directory, "trusted.overlay.lazarus.probe", b"")
        os.removexattr(directory, "trusted.overlay.lazarus.probe")
    except OSError:
        return True
    return False
