"""One list of changes played on many trees at once, and the trees compared after each step.

    ground = lay(place, store, [generation, ...])          # layers as directories (overlayfs' format) and in a store
    with side_by_side(ground, play_place, KINDS) as trees:
        trees.step(rename("/usr/lib", "/srv/lib"))            # AssertionError: who differs, at which step, in what

A subject is a `LayerStack` over some mix of the layers, a kernel overlay over their directories, or a plain directory.
What a subject is allowed to do otherwise, its `Traits` declare. Needs root, and a mount namespace of the caller's own.
"""

from __future__ import annotations

import io
import os
import reprlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from union_helpers import layers_of

import lazarus
from lazarus._native import erofs, index, mount, pack
from lazarus.layers.layer import Layer
from lazarus.store import Store
from lazarus.union.file import StackFile

from . import changes, overlay, scenario, stack
from .trees import Node, Tree, differences, read_tree

NOW = -1  # a time after the beginning: two trees are changed at two moments
_THIS_CENTURY = 1_700_000_000 * 10**9  # layers and explicit times lie before


class Ground(NamedTuple):
    """What all subjects start from; layers lowest first. `merged` is the tree they show, as a plain directory; `index`
    and `image` are the layers' merged index, and the EROFS image of it."""

    directories: list[Path]
    layers: list[Layer]
    merged: Path
    index: Path
    image: Path


class Traits(NamedTuple):
    """How a subject may differ from a plain directory. `keeps_links`: False: copy-up breaks the hard links of a lower
    (its oracle has none there). `keeps_times`: False: a file whose attributes came up before gets the time at which it
    is opened for writing."""

    keeps_links: bool = True
    keeps_times: bool = True


class Subject(Protocol):
    """A tree that changes can be played on."""

    traits: Traits

    def play(self, change: changes.Change) -> int:
        """0 or an errno."""

    def open(self, path: str, flags: int) -> io.RawIOBase:
        """An open file. It must be closed first."""

    def read(self) -> Tree:
        """Everything that can be told apart, sockets too."""

    def close(self) -> None:
        """Lets go of mounts and stacks; the upper stays."""


@contextmanager
def inside(root: Path) -> Iterator[None]:
    """With `root` as the process' root and without a umask: an absolute symlink leads where it does in the tree."""
    fds = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in ("/", ".")]
    umask = os.umask(0)
    try:
        os.chroot(root)
        os.chdir("/")
        yield
    finally:
        os.fchdir(fds[0])
        os.chroot(".")
        os.fchdir(fds[1])
        os.umask(umask)
        for fd in fds:
            os.close(fd)


def open_inside(root: Path, path: str, flags: int) -> io.RawIOBase:
    """open(2) in a tree."""
    with inside(root):
        fd = os.open(path, flags)
    return io.FileIO(fd, "r" if flags & os.O_ACCMODE == os.O_RDONLY else "r+")


class Plain:
    """A copy of the merged tree; with `links` False every name is a file of its own."""

    def __init__(self, ground: Ground, place: Path, *, links: bool = True) -> None:
        self.traits = Traits(keeps_links=links)
        self.root = place / "tree"
        place.mkdir()
        scenario.copy_tree(ground.merged, self.root, links=links)

    def play(self, change: changes.Change) -> int:
        with inside(self.root):
            return changes.errno_of(change, "/")

    def open(self, path: str, flags: int) -> io.RawIOBase:
        return open_inside(self.root, path, flags)

    def read(self) -> Tree:
        return read_tree(str(self.root), sockets=True)

    def close(self) -> None:
        pass


class Kernel:
    """overlayfs: over the directories, or (`image`) over what a store mounts for these layers. `upper`: of somebody
    before; else new."""

    traits = Traits(keeps_links=False, keeps_times=False)

    def __init__(self, ground: Ground, place: Path, *, upper: Path | None = None, image: bool = False) -> None:
        place.mkdir(exist_ok=True)
        self.upper, self.root = upper or new_upper(ground, place), place / "mount"
        work = place / "work"
        for path in (work, self.root):
            path.mkdir()
        if image:
            mount.mount_stack(ground.image, [], [ground.layers[0].objects_path], self.upper, work, self.root)
        else:
            lowers = ":".join(str(path) for path in reversed(ground.directories))
            overlay.mount_overlay(lowers, str(self.upper), str(work), str(self.root))
        closing = ExitStack()  # a second close does nothing
        closing.callback(overlay.unmount, str(self.root))
        self.unmount = closing.close

    def play(self, change: changes.Change) -> int:
        with inside(self.root):
            return changes.errno_of(change, "/")

    def open(self, path: str, flags: int) -> io.RawIOBase:
        return open_inside(self.root, path, flags)

    def read(self) -> Tree:
        return without_lower_links(self.read_links(), self.upper)

    def read_links(self) -> Tree:
        """The tree with all hard links that it shows."""
        return read_tree(str(self.root), sockets=True)

    def close(self) -> None:
        self.unmount()


def without_lower_links(tree: Tree, upper: Path) -> Tree:
    """A group of names that only a lower links is none to the kernel: it falls apart when one of them is written."""
    mine = {path for path in tree if os.path.lexists(os.path.join(os.fsencode(upper), path))}
    return {
        path: node._replace(links=node.links & mine if path in mine else node.links & {path})
        for path, node in tree.items()
    }


class Stacked:
    """A `LayerStack` over `sources`; `options` are its own. `upper`: of somebody before; else new."""

    traits = Traits()

    def __init__(
        self, ground: Ground, place: Path, sources: Sequence[Any], *, upper: Path | None = None, **options: Any
    ) -> None:
        place.mkdir(exist_ok=True)
        self.upper, self.work = upper or new_upper(ground, place), place / "work"
        self.work.mkdir(exist_ok=True)
        self.sources, self.options = sources, options
        self.stack = lazarus.LayerStack(sources, upper=self.upper, work=self.work, **options)

    def reopen(self) -> None:
        """Nothing but what is on disk goes on."""
        self.stack.close()
        self.stack = lazarus.LayerStack(self.sources, upper=self.upper, work=self.work, **self.options)

    def play(self, change: changes.Change) -> int:
        return stack.errno_of(change, self.stack)

    def open(self, path: str, flags: int) -> io.RawIOBase:
        return StackFile(self.stack, path, flags)

    def read(self) -> Tree:
        return stack.read_stack(self.stack, sockets=True)

    def close(self) -> None:
        self.stack.close()


class Paired(Stacked):
    """Two stacks with one upper, which take turns: what one has written the other one finds."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.other = lazarus.LayerStack(self.sources, upper=self.upper, work=self.work, **self.options)

    def play(self, change: changes.Change) -> int:
        self.stack, self.other = self.other, self.stack
        return super().play(change)

    def close(self) -> None:
        super().close()
        self.other.close()


def sources_of(ground: Ground, mix: str) -> list[Layer | Path]:
    """`mix` says of each layer, lowest first, whether it comes from the store (s) or is a directory (d); the last
    letter goes for the rest."""
    letters = mix + mix[-1] * len(ground.layers)
    return [
        layer if letter == "s" else directory
        for letter, layer, directory in zip(letters, ground.layers, ground.directories, strict=False)
    ]


class Trees:
    """The subjects of one play. The first two are the oracles: with and without the hard links of the lowers."""

    def __init__(self, subjects: dict[str, Subject]) -> None:
        self.subjects = subjects
        self.agree = False
        self.oracles: dict[bool, Tree] = {}
        self.played: list[tuple[changes.Change, int]] = []
        self.compare()

    def step(self, change: changes.Change, expected: int | None = None) -> None:
        """Plays it on all, each of which must say `expected`, or what its oracle says."""
        self.agree = False
        said: dict[bool, int] = {}
        for name, subject in self.subjects.items():
            error = subject.play(change)
            wanted = said.setdefault(subject.traits.keeps_links, error if expected is None else expected)
            assert error == wanted, f"{name}: {_say(error)}, not {_say(wanted)}, of {_show(change)}{self._so_far()}"
        self.played.append((change, said[True]))
        self.compare()

    def compare(self) -> None:
        """Every subject shows what its oracle shows."""
        self.agree, self.oracles = False, {}
        for name, subject in self.subjects.items():
            tree = timeless(subject.read())
            oracle = self.oracles.setdefault(subject.traits.keeps_links, tree)
            if not subject.traits.keeps_times:
                tree = {path: _as_old(node, oracle.get(path)) for path, node in tree.items()}
            lines = differences(tree, oracle)
            assert not lines, "\n".join([f"{name} | oracle", *lines]) + self._so_far()
        self.agree = True

    def _so_far(self) -> str:
        return "".join(f"\n    {_show(change)}: {_say(error)}" for change, error in self.played)


def _as_old(node: Node, wanted: Node | None) -> Node:
    late = wanted is not None and node.kind == "file" and node.mtime_ns == NOW
    return node._replace(mtime_ns=wanted.mtime_ns) if late and wanted is not None else node


def _show(change: changes.Change) -> str:
    assert isinstance(change, tuple)
    return f"{type(change).__name__}({', '.join(map(reprlib.repr, change))})"


def _say(error: int) -> str:
    return os.strerror(error) if error > 0 else "success" if error == 0 else "failure without errno"


def timeless(tree: Tree) -> Tree:
    """What was changed meanwhile has the time NOW; all else keeps its time, to the nanosecond."""
    return {path: node._replace(mtime_ns=NOW) if node.mtime_ns > _THIS_CENTURY else node for path, node in tree.items()}


Maker = Callable[[Ground, Path], Subject]


@contextmanager
def side_by_side(ground: Ground, place: Path, makers: dict[str, Maker]) -> Iterator[Trees]:
    """Opens the two oracles and the subjects, each in a directory of its own in `place`; closes those that are left."""
    with ExitStack() as closing:
        subjects: dict[str, Subject] = {}
        plain: dict[str, Maker] = {"plain": Plain, "plain without links": lambda *a: Plain(*a, links=False)}
        for name, make in (plain | makers).items():
            subjects[name] = make(ground, place / name.replace(" ", "-"))
            closing.callback(subjects[name].close)
        yield Trees(subjects)


def new_upper(ground: Ground, place: Path) -> Path:
    """A container's upper: empty, with the root's attributes."""
    upper = place / "upper"
    upper.mkdir()
    scenario.same_root(ground.merged, upper)
    return upper


def lay(place: Path, store: Store, generations: Sequence[Callable[[Path], None]]) -> Ground:
    """Each generation changes a mount of those before it (the first a new directory): a layer, both as overlayfs wrote
    it and as it was packed into the store. Everything in it is aged."""
    directories: list[Path] = []
    tars: list[bytes] = []
    for number, generation in enumerate(generations):
        directory, work, target = (place / f"{name}{number}" for name in ("layer", "work", "mount"))
        for path in (directory, work, target):
            path.mkdir()
        if not directories:
            generation(directory)
        else:
            scenario.same_root(directories[-1], directory)
            lowers = ":".join(str(path) for path in reversed(directories))
            with _mounted(lowers, directory, work, target):
                generation(target)
        scenario.age(directory)
        tars.append(_pack(place, directory, store, tars))
        directories.append(directory)
    layers = layers_of(store, tars)
    ground = Ground(directories, list(layers), place / "merged", place / "index", place / "image")
    merge(layers, ground.index)
    erofs.write_erofs(ground.index, [layer.index_path for layer in layers], ground.image)
    upper = place / "upper"
    upper.mkdir()
    scenario.same_root(directories[-1], upper)
    kernel = Kernel(ground, place / "kernel", upper=upper)
    try:
        scenario.copy_tree(kernel.root, ground.merged)
    finally:
        kernel.close()
    return ground


@contextmanager
def _mounted(lowers: str, upper: Path, work: Path, target: Path) -> Iterator[None]:
    overlay.mount_overlay(lowers, str(upper), str(work), str(target))
    try:
        yield
    finally:
        overlay.unmount(str(target))


def _pack(place: Path, directory: Path, store: Store, below: Sequence[bytes]) -> bytes:
    out = place / "layer.tar"
    with open(out, "wb") as file:
        if below:
            layers = layers_of(store, below)
            merge(layers, place / "index")
            pack_upper(directory, layers, place / "index", file.fileno())
        else:
            source = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            pack.pack_tree(source, file.fileno())
            os.close(source)
    return out.read_bytes()


def merge(layers: Sequence[Layer], out: Path) -> None:
    """The index of layers of a store."""
    index.merge([layer.index_path for layer in layers], [layer.diff_id.raw for layer in layers], out)


def pack_upper(upper: Path, layers: Sequence[Layer], merged: Path, out_fd: int, *, user_xattr: bool = False) -> None:
    """The layer of an upper over layers of a store, whose index is `merged`."""
    paths = [layer.index_path for layer in layers]
    pack.pack_upper(upper, str(merged), paths, layers[0].objects_path, out_fd, user_xattr=user_xattr)
