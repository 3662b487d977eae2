"""`LayerStack`, kernel overlayfs and a plain directory undergo the same, and show the same after every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from conformance.changes import chmod, touch_open, write
from conformance.interchange import check_kernels_upper, check_upper
from conformance.side_by_side import NOW, Ground, Kernel, Maker, Plain, Stacked, lay, side_by_side, sources_of, timeless
from conformance.union_ground import GENERATIONS
from conformance.union_moves import LINKS, MOVES
from conformance.union_scenarios import SCENARIOS, Step, steps_of
from test_pack_conformance import SCENARIOS as PACKED

import lazarus

pytestmark = pytest.mark.root


def stacked(mix: str, **options: object) -> Maker:
    """A stack whose layers come as `mix` says; see sources_of()."""
    return lambda ground, place: Stacked(ground, place, sources_of(ground, mix), **options)


STACKS: dict[str, Maker] = {
    "store": stacked("s"),
    "directories": stacked("d"),
    "mixed": stacked("dsd", rung="read-write"),
    "blocks": stacked("sds", block_threshold=4096),
}


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    place = tmp_path_factory.mktemp("ground")
    with lazarus.Store(place / "store") as store:
        yield lay(place, store, GENERATIONS)


ALL: dict[str, Sequence[Step]] = {
    **{f"pack: {name}": steps for name, steps in PACKED.items()},
    **SCENARIOS,
    **MOVES,
    **{f"links: {name}": steps for name, steps in LINKS.items()},
}


@pytest.mark.parametrize("name", ALL)
def test_every_step(name: str, ground: Ground, tmp_path: Path) -> None:
    """Step by step; then what is left on disk says the same to whoever reads it."""
    with side_by_side(ground, tmp_path, STACKS | {"kernel": Kernel}) as trees:
        for change, number in steps_of(ALL[name]):
            trees.step(change, number)
        for subject in trees.subjects.values():
            if isinstance(subject, Stacked):
                check_upper(ground, subject, subject.work.parent / "after")
            elif isinstance(subject, Kernel):
                shown = subject.read()
                subject.close()
                for mix in ("s", "d", "sds"):
                    check_kernels_upper(ground, subject.upper, shown, mix, tmp_path / f"after-{mix}")


def test_what_is_declared(ground: Ground, tmp_path: Path) -> None:
    """The kernel breaks the hard links of a lower (index=off), and lets a metacopy's data change its time; a stack does
    neither, whatever its layers are."""
    for name, make in (STACKS | {"kernel": Kernel, "plain": Plain}).items():
        subject = make(ground, tmp_path / name)
        try:
            assert subject.play(write("/usr/large.2", b"written")) == 0
            assert subject.play(chmod("/union/both", 0o600)) == 0
            assert subject.play(touch_open("/union/both")) == 0
            tree = timeless(subject.read())
            assert (tree[b"usr/lib/large"].content == tree[b"usr/large.2"].content) is subject.traits.keeps_links, name
            assert (b"usr/lib/large" in tree[b"usr/large.2"].links) is subject.traits.keeps_links, name
            assert (tree[b"union/both"].mtime_ns != NOW) is subject.traits.keeps_times, name
        finally:
            subject.close()
