"""`cat`, `ls`, `find`, `du`: files of images and containers, without a mount and without privileges."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

from lazarus.cli.options import Mistake, Option, Verb, Word, whole_number
from lazarus.cli.output import FORMAT, complain, plain, print_json
from lazarus.cli.output import size as human_size
from lazarus.errors import LazarusError, NotFoundError

if TYPE_CHECKING:
    from lazarus._native.info import Info
    from lazarus.containers.container import Container
    from lazarus.images.image import Image
    from lazarus.store import Store
    from lazarus.union.layer_stack import LayerStack

_LETTERS = {
    "directory": "d",
    "file": "f",
    "symlink": "l",
    "char": "c",
    "block": "b",
    "fifo": "p",
    "socket": "s",
}


class Place(NamedTuple):
    """A path in an image or a container, and what the user called the two."""

    name: str
    thing: Image | Container
    path: str

    def shown(self, path: bytes) -> str:
        """How a path in it is written in answers: as `SOURCE` of another call."""
        return f"{self.name}:{os.fsdecode(path)}"


def locate(store: Store, text: str) -> Place:
    """CONTAINER:PATH, IMAGE:PATH or just the name of one. A PATH that begins with `/` ends the name, so that
    `debian:app:/etc` is a path in `debian:app`. A container wins over an image of the same name. `NotFoundError`."""
    name, separator, path = text.partition(":/")
    if separator:
        return Place(name, store.find(name), "/" + path)
    try:
        return Place(text, store.find(text), "/")
    except NotFoundError:
        name, separator, path = text.rpartition(":")
        if not separator:
            raise
    return Place(name, store.find(name), "/" + path)


@contextmanager
def _opened(store: Store, text: str) -> Iterator[tuple[Place, LayerStack]]:
    place = locate(store, text)
    with store.stack(place.thing) as stack:
        try:
            yield place, stack
        except OSError as error:  # a path of the tree: say of which
            if error.filename is not None:
                error.filename = place.shown(os.fsencode(error.filename))
            raise


def _each(store: Store, arguments: SimpleNamespace, action: Callable[[Place, LayerStack], None]) -> int:
    """Does it for each target; a failure is said, and the rest goes on. The exit code."""
    code = 0
    for text in arguments.targets:
        try:
            with _opened(store, text) as (place, stack):
                action(place, stack)
        except BrokenPipeError:
            raise
        except (OSError, LazarusError) as error:
            complain(error)
            code = 1
    return code


def _put(text: str, end: str = "\n") -> None:
    """A line with names from an image: as they are in a file or pipe; on a terminal nothing in it may drive that."""
    sys.stdout.write((plain(text) if sys.stdout.isatty() else text) + end)


def cat(store: Store, arguments: SimpleNamespace) -> int:
    """The contents of files, one after the other."""

    def show(place: Place, stack: LayerStack) -> None:
        sys.stdout.flush()
        with stack.open(place.path, "rb", buffering=0) as file:
            buffer = memoryview(bytearray(1 << 20))
            while count := file.readinto(buffer):  # type: ignore[attr-defined]
                sys.stdout.buffer.write(buffer[:count])
        sys.stdout.buffer.flush()

    return _each(store, arguments, show)


# ---- ls ----


def ls(store: Store, arguments: SimpleNamespace) -> int:
    """The names in a directory."""
    rows: list[dict[str, object]] = []
    several = len(arguments.targets) > 1 or arguments.recursive

    def show(place: Place, stack: LayerStack) -> None:
        info = stack.lookup(place.path, follow=not arguments.directory)
        if info is None:
            raise FileNotFoundError(2, os.strerror(2), place.path)
        top = os.fsencode(place.path)
        if arguments.directory or info.kind != "directory":
            _show_names(stack, [(top, top, info)], arguments, rows)
            return
        pending = [top]
        while pending:
            path = pending.pop()
            if several and arguments.format != "json":
                _put(f"{place.shown(path)}:")
            entries = list(stack.scandir(path))
            shown = [entry for entry in entries if arguments.all or not entry.name.startswith(b".")]
            _show_names(stack, [(entry.name, entry.path, entry.info) for entry in shown], arguments, rows)
            if arguments.recursive:
                pending += [entry.path for entry in reversed(entries) if entry.kind == "directory"]

    code = _each(store, arguments, show)
    if arguments.format == "json":
        print_json(rows)
    return code


def _show_names(
    stack: LayerStack,
    names: list[tuple[bytes, bytes, Info]],
    arguments: SimpleNamespace,
    rows: list[dict[str, object]],
) -> None:
    if arguments.format == "json":
        rows += [_row(stack, path, info) for _, path, info in names]
        return
    if not arguments.long:
        for name, _, _ in names:
            _put(os.fsdecode(name))
        return
    lines = [_long(stack, name, path, info, arguments.human) for name, path, info in names]
    widths = [max((len(line[column]) for line in lines), default=0) for column in range(5)]
    for line in lines:
        cells = [line[0], *(cell.rjust(width) for cell, width in zip(line[1:5], widths[1:], strict=True)), *line[5:]]
        _put(" ".join(cells))


def _long(stack: LayerStack, name: bytes, path: bytes, info: Info, human: bool) -> tuple[str, ...]:
    if info.kind in ("char", "block"):
        amount = f"{info.major},{info.minor}"
    else:
        amount = human_size(info.size) if human else str(info.size)
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(info.mtime_ns // 10**9))
    target = f" -> {os.fsdecode(stack.readlink(path))}" if info.kind == "symlink" else ""
    return (
        stat.filemode(info.mode),
        str(info.link_count),
        str(info.uid),
        str(info.gid),
        amount,
        when,
        os.fsdecode(name) + target,
    )


def _row(stack: LayerStack, path: bytes, info: Info) -> dict[str, object]:
    row: dict[str, object] = {
        "path": os.fsdecode(path),
        "kind": info.kind,
        "mode": f"{info.mode & 0o7777:04o}",
        "uid": info.uid,
        "gid": info.gid,
        "size": info.size,
        "mtime": info.mtime_ns / 1e9,
        "links": info.link_count,
        "layer": info.layer + 1,  # as `history` and `image` count them
    }
    if info.digest is not None:
        row["digest"] = f"sha256:{info.digest.hex()}"
    if info.kind == "symlink":
        row["target"] = os.fsdecode(stack.readlink(path))
    return row


# ---- find ----


def find(store: Store, arguments: SimpleNamespace) -> int:
    """The paths below a directory that match everything that is asked."""
    rows: list[dict[str, object]] = []
    pattern = None if arguments.name is None else os.fsencode(arguments.name)
    letters = None if arguments.type is None else arguments.type.split(",")
    unknown = [letter for letter in letters or () if letter not in _LETTERS.values()]
    if unknown:
        raise Mistake(f"--type: {unknown[0]!r} is none of {', '.join(_LETTERS.values())}")
    end = "\0" if arguments.print0 else "\n"

    def wanted(path: bytes, info: Info) -> bool:
        if pattern is not None and not fnmatchcase(path.rstrip(b"/").rpartition(b"/")[2] or b"/", pattern):
            return False
        if letters is not None and _LETTERS.get(info.kind) not in letters:
            return False
        return arguments.layer is None or info.layer + 1 == arguments.layer

    def show(place: Place, stack: LayerStack) -> None:
        if arguments.layer is not None and not 1 <= arguments.layer <= len(stack.layers):
            raise NotFoundError(f"{place.name}: it has layers 1 to {len(stack.layers)}, not {arguments.layer}")
        for path, info in _below(stack, os.fsencode(place.path), arguments.maxdepth):
            if not wanted(path, info):
                continue
            if arguments.format == "json":
                rows.append(_row(stack, path, info))
            elif end == "\0":
                sys.stdout.write(os.fsdecode(path) + end)
            else:
                _put(os.fsdecode(path))

    code = _each(store, arguments, show)
    if arguments.format == "json":
        print_json(rows)
    return code


def _below(stack: LayerStack, top: bytes, depth: int | None) -> Iterator[tuple[bytes, Info]]:
    """`top` and everything below it, a directory before its children, children by name."""
    info = stack.lookup(top)
    if info is None:
        raise FileNotFoundError(2, os.strerror(2), top)
    pending = [iter([(top, info)])]
    while pending:
        step = next(pending[-1], None)
        if step is None:
            pending.pop()
            continue
        yield step
        if step[1].kind == "directory" and (depth is None or len(pending) <= depth):
            pending.append(iter([(entry.path, entry.info) for entry in stack.scandir(step[0])]))


# ---- du ----


def du(store: Store, arguments: SimpleNamespace) -> int:
    """How many bytes files hold. A file with several names counts once."""
    rows: list[dict[str, object]] = []

    def put(place: Place, path: bytes, total: int) -> None:
        if arguments.format == "json":
            rows.append({"path": os.fsdecode(path), "bytes": total})
            return
        exact = str(total if arguments.bytes else (total + 1023) // 1024)
        amount = human_size(total) if arguments.human else exact
        _put(f"{amount}\t{place.shown(path)}")

    def show(place: Place, stack: LayerStack) -> None:
        deepest = 0 if arguments.summarize else arguments.max_depth
        seen: set[tuple[int, int]] = set()
        # the directories that the walk is in, and the bytes found in each so far
        paths: list[bytes] = []
        totals: list[int] = []

        def leave(depth: int) -> None:
            while len(paths) > depth:
                path, total = paths.pop(), totals.pop()
                if totals:
                    totals[-1] += total
                if deepest is None or len(paths) <= deepest:
                    put(place, path, total)

        top = os.fsencode(place.path).rstrip(b"/") or b"/"
        base = 0 if top == b"/" else top.count(b"/")
        for path, info in _below(stack, top, None):
            depth = 0 if path == top else path.count(b"/") - base
            leave(depth)
            if info.kind == "directory":
                paths.append(path)
                totals.append(0)
                continue
            identity = (info.device, info.number)
            amount = 0 if info.link_count > 1 and identity in seen else info.size
            seen.add(identity)
            if totals:
                totals[-1] += amount
            if not totals or (arguments.all and (deepest is None or depth <= deepest)):
                put(place, path, amount)
        leave(0)

    code = _each(store, arguments, show)
    if arguments.format == "json":
        print_json(rows)
    return code


_TARGETS = Word("targets", "TARGET", "CONTAINER:PATH or IMAGE:PATH, as in debian:app:/etc; without PATH the root", "+")
_HUMAN = Option(("-h", "-H", "--human-readable"), "human", "sizes as 1.23MB")
_DETAILS = "Nothing is mounted and no privilege is needed. A volume of a container is not seen."

VERBS = {
    verb.name: verb
    for verb in (
        Verb("cat", "print files of images and containers", cat, (_TARGETS,), (), _DETAILS),
        Verb(
            "ls",
            "list directories of images and containers",
            ls,
            (_TARGETS,),
            (
                Option(("-a", "--all"), "all", "names that begin with . too"),
                Option(("-l", "--long"), "long", "type, mode, links, owner, group, size, time (UTC), name"),
                Option(("-d", "--directory"), "directory", "the directories themselves, not what is in them"),
                Option(("-R", "--recursive"), "recursive", "everything below too"),
                _HUMAN,
                FORMAT,
            ),
            _DETAILS,
        ),
        Verb(
            "find",
            "list paths of images and containers that match",
            find,
            (_TARGETS,),
            (
                Option(("--name",), "name", "the last component matches a shell pattern", "PATTERN"),
                Option(("--type",), "type", "f, d, l, c, b, p, s, or several with commas", "TYPE"),
                Option(("--maxdepth",), "maxdepth", "go so many directories down", "N", kind=whole_number),
                Option(
                    ("--layer",),
                    "layer",
                    "comes from this layer (1 is the lowest)",
                    "N",
                    kind=whole_number,
                ),
                Option(("--print0",), "print0", "a NUL after each path, not a line feed"),
                FORMAT,
            ),
            _DETAILS,
        ),
        Verb(
            "du",
            "sum up sizes of files of images and containers",
            du,
            (_TARGETS,),
            (
                Option(("-s", "--summarize"), "summarize", "only the total of each TARGET"),
                Option(("-a", "--all"), "all", "files too, not only directories"),
                Option(("-d", "--max-depth"), "max_depth", "only so many directories down", "N", kind=whole_number),
                Option(("-b", "--bytes"), "bytes", "in bytes (default: in KiB, rounded up)"),
                _HUMAN,
                FORMAT,
            ),
            f"Sizes are those of the contents, whatever they take on disk. {_DETAILS}",
        ),
    )
}
