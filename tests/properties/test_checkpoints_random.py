"""Whatever a container does between checkpoints, rollbacks and forks, in whichever way: its mount, its stack, a plain
directory that is copied at the same moments, the list of its changes and its commit say the same.

`LAZARUS_CHECKPOINTS_SEEDS` plays other games: numbers, by comma.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from conformance import changes, scenario, stack
from conformance.side_by_side import inside
from conformance.trees import Tree, differences, read_tree
from container_helpers import sh

from lazarus.containers import Container
from lazarus.store import Store

pytest_plugins = ("container_fixtures",)
pytestmark = pytest.mark.root
SEEDS = [int(text) for text in os.environ.get("LAZARUS_CHECKPOINTS_SEEDS", "1,2,3,4").split(",")]
STEPS = 40
INIT = (b"proc", b"sys", b"dev", b"etc/hosts", b"etc/hostname")  # mount points that the image lacks
NAMES = ("a", "b", "c", "home", "data", "data/file", "bin/seq", "home/bob", "etc/group")


@pytest.fixture
def clean(no_checkpoints_left: None, store: Store) -> Store:
    return store


def simple(tree: Tree) -> Tree:
    """Without times, groups of hard links, and mount points."""
    return {path: node._replace(mtime_ns=0, links=frozenset()) for path, node in tree.items() if path not in INIT}


def a_path(dice: random.Random) -> str:
    if dice.random() < 0.4:
        return "/" + dice.choice(NAMES)
    return "/" + "/".join(dice.choice("abc") for _ in range(dice.randint(1, 3)))


def a_change(dice: random.Random) -> changes.Change:
    path, other = a_path(dice), a_path(dice)
    text = dice.choice([b"", b"one", bytes(range(256)) * 40])
    made: list[changes.Change] = [
        changes.write(path, text),
        changes.append(path, b"more"),
        changes.mkdir(path),
        changes.rename(path, other),
        changes.rename(path, other),
        changes.exchange(path, other),
        changes.unlink(path),
        changes.rmdir(path),
        changes.rmtree(path),
        changes.symlink("a/b", path),
        changes.chmod(path, dice.choice([0o700, 0o644, 0o755])),
        changes.chown(path, dice.choice([0, 1000]), 7),
        changes.setxattr(path, "user.mark", dice.choice([b"1", b"2"])),
    ]
    return dice.choice(made)


class Game:
    """A container and its plain double."""

    def __init__(self, store: Store, place: Path, dice: random.Random) -> None:
        self.store, self.place, self.dice = store, place, dice
        self.container: Container = sh(store, ":")
        self.kept: dict[str, Path] = {}
        self.plain = place / "plain"
        scenario.copy_tree(Path(self.container.mount()), self.plain, links=False)
        self.container.unmount()
        for path in INIT:
            if os.path.isdir(gone := os.path.join(os.fsencode(self.plain), path)):
                os.rmdir(gone)
            else:
                os.unlink(gone)
        self.before = simple(read_tree(str(self.plain)))

    def changes(self) -> None:
        """Some, through the kernel or in process."""
        if self.dice.random() < 0.5:
            with self.container.stack() as files:
                for _ in range(self.dice.randint(1, 6)):
                    self._one(lambda change: stack.errno_of(change, files))
            return
        root = Path(self.container.mount())
        for _ in range(self.dice.randint(1, 6)):
            self._one(lambda change: _played(change, root))
        if self.dice.random() < 0.5:
            self.container.unmount()
        else:
            self.checkpoint()
            self.container.unmount()

    def _one(self, play: object) -> None:
        change = a_change(self.dice)
        assert play(change) == _played(change, self.plain), change  # type: ignore[operator]

    def checkpoint(self) -> None:
        name = self.container.checkpoint().key
        self.kept[name] = self.place / f"kept-{len(self.kept)}"
        scenario.copy_tree(self.plain, self.kept[name], links=False)

    def back(self) -> None:
        """To any that there is, in this container or in a fork of it."""
        found = [one for one in self.container.checkpoints() if one.key in self.kept]
        if not found:
            return
        one = self.dice.choice(found)
        if self.dice.random() < 0.5:
            self.container.rollback(one)
        else:
            [self.container] = self.container.fork(checkpoint=one)
        shutil.rmtree(self.plain)
        scenario.copy_tree(self.kept[one.key], self.plain, links=False)

    def fork(self) -> None:
        old = self.container
        [self.container] = old.fork()
        if self.dice.random() < 0.5:
            old.remove()

    def compare(self) -> None:
        """All views."""
        plain = simple(read_tree(str(self.plain)))
        with self.container.stack(read_only=True) as files:
            assert differences(plain, simple(stack.read_stack(files))) == []
        assert differences(plain, simple(read_tree(self.container.mount()))) == []
        self.container.unmount()
        said = {change.path[1:]: change.change for change in self.container.diff()}
        for path in plain.keys() | self.before.keys():
            new, old = plain.get(path), self.before.get(path)
            if old is None:
                assert said.get(path) == "A", path
            elif new is None:
                parent = os.path.dirname(path)
                above = plain.get(parent)
                if above is not None and above.kind == "directory":
                    assert said.get(path) == "D", path
            elif new != old:
                assert path == b"" or said.get(path) == "C", path

    def commit(self) -> None:
        image = self.container.commit()
        with image.stack() as files:
            assert differences(simple(read_tree(str(self.plain))), simple(stack.read_stack(files))) == []


def _played(change: changes.Change, root: Path) -> int:
    with inside(root):
        return changes.errno_of(change, "/")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_game(clean: Store, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    game = Game(clean, tmp_path, dice)
    moves = [game.changes] * 6 + [game.checkpoint] * 2 + [game.back, game.fork]
    for step in range(STEPS):
        move = dice.choice(moves)
        try:
            move()
            if move is not game.changes or step % 5 == 0:
                game.compare()
        except BaseException:
            print(f"seed {seed}, step {step}: {move.__name__}")
            raise
    game.compare()
    game.commit()
