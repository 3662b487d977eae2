"""Whatever is done, one step after the other: stacks of every kind, the kernel's overlay and a plain directory agree.

Every run of the suite plays the same games. `LAZARUS_UNION_SEED` plays others: a number, or `random` (the number is
printed, to repeat it); `LAZARUS_UNION_EXAMPLES` and `LAZARUS_UNION_STEPS` make it longer.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance import changes
from conformance.interchange import check_kernels_upper, check_upper
from conformance.side_by_side import (
    Ground,
    Kernel,
    Paired,
    Plain,
    Stacked,
    Trees,
    inside,
    lay,
    side_by_side,
    sources_of,
)
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import lazarus

pytestmark = pytest.mark.root

BLOCK = 4096


class Large(bytes):
    """Seven blocks; a failure shows its name."""

    def __repr__(self) -> str:
        return "LARGE"


LARGE = Large(bytes(range(251)) * 100)
EXAMPLES = int(os.environ.get("LAZARUS_UNION_EXAMPLES", "30"))
STEPS = int(os.environ.get("LAZARUS_UNION_STEPS", "20"))

names = st.sampled_from(["a", "b", "c"])
paths = st.lists(names, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
data = st.sampled_from([b"", b"one", LARGE])
offsets = st.sampled_from([0, 3, BLOCK - 1, BLOCK, 3 * BLOCK + 5, 50_000])
targets = st.sampled_from(["a", "b/c", "../b", "/c/a", "/a", "nowhere"])
flags = st.sampled_from([0, os.O_WRONLY, os.O_RDWR]).flatmap(
    lambda access: st.sampled_from(
        [0, os.O_TRUNC, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_NOFOLLOW, os.O_DIRECTORY]
    ).map(lambda more: access | more)
)
old_times = st.integers(0, 1_600_000_000 * 10**9)

change: st.SearchStrategy[changes.Change] = st.one_of(
    st.builds(changes.write, paths, data),
    st.builds(changes.append, paths, data),
    st.builds(changes.patch, paths, offsets, st.sampled_from([b"patched", b"p" * BLOCK])),
    st.builds(changes.truncate, paths, offsets),
    st.builds(changes.punch, paths, offsets, st.sampled_from([1, BLOCK, 20_000])),
    st.builds(changes.open_with, paths, flags, st.sampled_from([0o644, 0o4755, 0])),
    st.builds(changes.mkdir, paths, st.sampled_from([0o755, 0o700, 0o2775])),
    st.builds(changes.rename, paths, paths),
    st.builds(changes.rename, paths, paths),
    st.builds(changes.rename_new, paths, paths),
    st.builds(changes.exchange, paths, paths),
    st.builds(changes.unlink, paths),
    st.builds(changes.rmdir, paths),
    st.builds(changes.rmtree, paths),
    st.builds(changes.link, paths, paths),
    st.builds(changes.symlink, targets, paths),
    st.builds(changes.chmod, paths, st.sampled_from([0o600, 0o711, 0o4755, 0o2755])),
    st.builds(changes.chown, paths, st.sampled_from([-1, 0, 5]), st.sampled_from([-1, 6])),
    st.builds(changes.utime, paths, old_times),
    st.builds(changes.setxattr, paths, st.sampled_from(["user.k", "trusted.k"]), st.binary(max_size=5)),
    st.builds(changes.removexattr, paths, st.just("user.k")),
    st.builds(changes.mknod, paths, st.sampled_from([stat.S_IFIFO | 0o600, stat.S_IFSOCK | 0o600]), st.just(0)),
    st.builds(changes.look, paths, st.sampled_from(["stat", "listdir", "readlink"])),
)
OPENING = (changes.write, changes.append, changes.patch, changes.punch, changes.open_with, changes.rmtree)


def lowest(root: Path) -> None:
    """Small and deep: most random paths hit something."""
    changes.apply_all(
        [
            *(changes.mkdir(path) for path in ("/a", "/a/b", "/a/c", "/b", "/b/b", "/b/b/c", "/c")),
            changes.write("/a/b/a", LARGE),
            changes.write("/a/b/b", b"small"),
            changes.link("/a/b/b", "/a/b/c"),
            changes.write("/a/c/a", b"a"),
            changes.symlink("a", "/b/c"),
            changes.write("/b/b/a", b""),
            changes.write("/c/a", LARGE),
            changes.write("/c/b", b"below"),
        ],
        root,
    )


def middle(root: Path) -> None:
    """A renamed directory, one that hides, whiteouts, hard links."""
    changes.apply_all(
        [
            changes.rename("/a/b", "/a/a"),
            changes.write("/b/b/c/a", b"beside"),
            changes.rmtree("/c"),
            changes.mkdir("/c"),
            changes.write("/c/c", LARGE[::-1]),
            changes.link("/c/c", "/b/a"),
            changes.unlink("/b/b/a"),
        ],
        root,
    )


def upmost(root: Path) -> None:
    """Attributes alone."""
    changes.apply_all(
        [changes.chmod("/a/a/a", 0o600), changes.setxattr("/a", "user.k", b"v"), changes.write("/b/b/b", b"top")], root
    )


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    place = tmp_path_factory.mktemp("ground")
    with lazarus.Store(place / "store") as store:
        yield lay(place, store, [lowest, middle, upmost])


class UnionMachine(RuleBasedStateMachine):
    """One play. Files that are held open are read after each step: what is written later shows in them too."""

    def __init__(self, ground: Ground) -> None:
        super().__init__()
        self.ground = ground
        self.place = Path(tempfile.mkdtemp(prefix="lazarus-union-"))
        self.held: list[tuple[int, dict[str, io.RawIOBase]]] = []
        self.trees: Trees | None = None

    @initialize(
        mixed=st.sampled_from(["sds", "dsd", "sd", "ds"]),
        rung=st.sampled_from(["auto", "read-write", "sendfile", "copy_file_range"]),
        threshold=st.sampled_from([1, BLOCK, 1 << 30]),
    )
    def begin(self, mixed: str, rung: str, threshold: int) -> None:
        options: dict[str, tuple[str, dict[str, Any]]] = {
            "store": ("s", {"block_threshold": threshold, "block_size": BLOCK}),
            "directories": ("d", {"rung": rung, "block_threshold": threshold}),
            "mixed": (mixed, {"rung": "blocks", "block_size": BLOCK}),
            "two": (mixed, {"rung": rung, "block_threshold": threshold}),
            "user": ("s", {"user_xattr": True, "rung": rung}),
        }
        makers = {
            name: lambda ground, place, kind=Paired if name == "two" else Stacked, mix=mix, more=more: kind(
                ground, place, sources_of(ground, mix), **more
            )
            for name, (mix, more) in options.items()
        }
        self.opened = side_by_side(self.ground, self.place, makers | {"kernel": Kernel})
        self.trees = self.opened.__enter__()

    @rule(change=change)
    def change(self, change: changes.Change) -> None:
        assert self.trees is not None
        if isinstance(change, OPENING) and self._is_pipe(change.path):
            return  # would wait for somebody at the other end
        self.trees.step(change)
        self._check_held()

    @rule(path=paths, flags=st.sampled_from([os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_APPEND]))
    def hold(self, path: str, flags: int) -> None:
        """Opens a file in each tree. For reading not where a handle stays behind: the kernel's does at a copy-up, and a
        stack's when another stack renames the file before."""
        assert self.trees is not None
        node = self.trees.oracles[True].get(os.fsencode(path[1:]))
        if node is None or node.kind != "file" or len(self.held) > 3:
            return
        subjects = self.trees.subjects
        if flags == os.O_RDONLY:
            subjects = {n: s for n, s in subjects.items() if s.traits.keeps_links and not isinstance(s, Paired)}
        self.held.append((flags, {name: subject.open(path, flags) for name, subject in subjects.items()}))
        self.trees.compare()

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 3), offset=offsets, data=data)
    def write_to_held(self, number: int, offset: int, data: bytes) -> None:
        flags, files = self.held[number % len(self.held)]
        if flags == os.O_RDONLY:
            return
        for file in files.values():
            file.seek(offset)
            assert file.write(data) == len(data)
        self._compare()

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 3), size=offsets)
    def truncate_held(self, number: int, size: int) -> None:
        flags, files = self.held[number % len(self.held)]
        if flags == os.O_RDONLY:
            return
        for file in files.values():
            file.truncate(size)
        self._compare()

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 3))
    def let_go(self, number: int) -> None:
        self._close(self.held.pop(number % len(self.held))[1])

    @rule()
    def settle(self) -> None:
        assert self.trees is not None
        for subject in self._stacks().values():
            subject.stack.settle()
        self._compare()

    @rule()
    def reopen(self) -> None:
        assert self.trees is not None
        while self.held:  # another stack's handles know less
            self._close(self.held.pop()[1])
        for subject in self._stacks().values():
            subject.reopen()
        self.trees.compare()

    def teardown(self) -> None:
        try:
            while self.held:
                self._close(self.held.pop()[1])
            if self.trees is not None and self.trees.agree:
                self._end()
        finally:
            if self.trees is not None:
                self.opened.__exit__(None, None, None)
            shutil.rmtree(self.place)

    def _end(self) -> None:
        """What is left on disk says the same to whoever reads it."""
        assert self.trees is not None
        for name, subject in self.trees.subjects.items():
            if isinstance(subject, Stacked):
                check_upper(self.ground, subject, self.place / f"{name}-after")
            elif isinstance(subject, Kernel):
                shown = subject.read()
                subject.close()
                check_kernels_upper(self.ground, subject.upper, shown, "s", self.place / "after-s")
                check_kernels_upper(self.ground, subject.upper, shown, "d", self.place / "after-d")

    def _plain(self) -> Plain:
        assert self.trees is not None
        plain = self.trees.subjects["plain"]
        assert isinstance(plain, Plain)
        return plain

    def _stacks(self) -> dict[str, Stacked]:
        assert self.trees is not None
        return {name: subject for name, subject in self.trees.subjects.items() if isinstance(subject, Stacked)}

    def _is_pipe(self, path: changes.Path) -> bool:
        with inside(self._plain().root):
            try:
                return stat.S_ISFIFO(os.stat(path).st_mode)
            except OSError:
                return False

    def _compare(self) -> None:
        assert self.trees is not None
        self.trees.compare()
        self._check_held()

    def _check_held(self) -> None:
        assert self.trees is not None
        for _, files in self.held:
            wanted: dict[bool, bytes] = {}
            for name, file in files.items():  # the oracles come first
                file.seek(0)
                found = file.readall()
                oracle = wanted.setdefault(self.trees.subjects[name].traits.keeps_links, found)
                assert found == oracle, f"{name}: {file!r}: {len(found)} bytes, or others than {len(oracle)}"
                assert file.seek(0, os.SEEK_END) == len(oracle), name

    @staticmethod
    def _close(files: dict[str, io.RawIOBase]) -> None:
        for file in files.values():
            file.close()


def test_any_changes(ground: Ground) -> None:
    wanted = os.environ.get("LAZARUS_UNION_SEED", "20261126")
    number = random.randrange(1 << 32) if wanted == "random" else int(wanted)
    print(f"LAZARUS_UNION_SEED={number}")
    machine = seed(number)(lambda: UnionMachine(ground))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            print_blob=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
