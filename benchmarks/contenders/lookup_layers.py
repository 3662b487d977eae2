"""The same entries over any number of layers, as indexes and as directories: for questions about depth."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from lazarus._native.entry import Entry
from lazarus._native.tree import TreeBuilder
from lazarus.layers.layer import Layer
from lazarus.terms import DiffID


def as_layers(entries: Iterable[Entry], count: int, home: Path) -> list[Layer]:
    """Layer indexes that hold the entries in equal runs, in their order; names of one file stay together."""
    ordered = [entry for entry in entries if entry.path]
    builders = [TreeBuilder() for _ in range(count)]
    place: dict[int, tuple[int, bytes]] = {}
    for position, entry in enumerate(ordered):
        number, first = place.setdefault(entry.link, (position * count // len(ordered), entry.path))
        if first != entry.path:
            builders[number].link(entry.path, first)
            continue
        builders[number].add(
            entry.path, entry.kind, mode=entry.mode & 0o7777, uid=entry.uid, gid=entry.gid, mtime_ns=entry.mtime_ns,
            size=entry.size if entry.kind == "file" else 0, digest=entry.digest if entry.kind == "file" else None,
            target=entry.target, xattrs=entry.xattrs, major=entry.major, minor=entry.minor,
        )  # fmt: skip
    return [_write(builder, home, number) for number, builder in enumerate(builders)]


def made_up(count: int) -> Iterable[tuple[bytes, str]]:
    """(path, kind) of `count` things in directories of 100."""
    for number in range(count):
        if number % 100 == 0:
            yield b"srv/data/%04d" % (number // 100), "directory"
        else:
            yield b"srv/data/%04d/a-file-of-usual-name-%06d.conf" % (number // 100, number), "file"


def layer_of(things: Iterable[tuple[bytes, str]], home: Path) -> Layer:
    """One layer of them."""
    builder = TreeBuilder()
    for path, kind in things:
        builder.add(path, kind, digest=hashlib.sha256(path).digest() if kind == "file" else None)
    return _write(builder, home, 0)


def _write(builder: TreeBuilder, home: Path, number: int) -> Layer:
    diff_id = DiffID("sha256:" + hashlib.sha256(f"{home} {number}".encode()).hexdigest())
    directory = home / "layers" / diff_id.hex
    directory.mkdir(parents=True)
    (home / "objects").mkdir(exist_ok=True)
    count = builder.write(directory / "index")
    return Layer(diff_id, str(directory), str(home / "objects"), 0, count, 0)


def as_directories(entries: Iterable[Entry], count: int, home: Path) -> list[Path]:
    """Directories that hold the same names in the same runs, files empty."""
    ordered = [entry for entry in entries if entry.path]
    for position, entry in enumerate(ordered):
        layer = os.fsencode(home / f"{position * count // len(ordered):03}")
        target = layer + b"/" + entry.path
        os.makedirs(target if entry.kind == "directory" else os.path.dirname(target), exist_ok=True)
        if entry.kind == "symlink":
            os.symlink(entry.target or b"", target)
        elif entry.kind != "directory":
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    return [home / f"{number:03}" for number in range(count)]


def deep(count: int, home: Path, put: Callable[[Path, int], None]) -> list[Path]:
    """`count` directories, lowest first, that all have `etc/app` with ten files of their own; `put` adds to each."""
    layers = []
    for number in range(count):
        layer = home / f"{number:03}"
        (layer / "etc/app").mkdir(parents=True)
        for file in range(10):
            (layer / f"etc/app/{number:03}-{file}").touch()
        put(layer, number)
        layers.append(layer)
    return layers
