"""What the views promise is what they do: the probes of benchmarks/contenders/semantics.py, with the answers expected.

An answer that changes is a promise that changes: README.md, ARCHITECTURE.md and csrc/tree/lz_union.h say them, and the
kernel's Documentation/filesystems/overlayfs.rst what a mount does.
"""

from __future__ import annotations

import errno
import fcntl
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.contenders import roots, semantics_layers
from benchmarks.contenders.semantics import NO_LOCKS, NO_MAPPING, QUESTIONS, fill, guarded
from benchmarks.contenders.semantics_view import prepared, view_of
from benchmarks.semantics__matrix import Blocks

pytestmark = pytest.mark.root
SIZE = 16 << 20  # what a stack copies up block by block where nothing can clone
FICLONE = 0x40049409

NATIVE = dict.fromkeys((question.what for question in QUESTIONS), "yes") | {"copy-up of a large file": "copies nothing"}
# overlayfs.rst, "Non-standard behavior": a mapping from before stays what it was, and without index=on links break.
KERNEL = NATIVE | {
    "hard links survive copy-up": "no (link counts 1 and 2)",
    "a mapping sees later writes": "no",
    "copy-up of a large file": "copies 16 MiB",
}
# lz_union.h: links survive, a reader sees what is written, a directory is renamed; numbers tell files apart "as long as
# nothing is changed". A file has no descriptor (lazarus/union/file.py).
STACK = NATIVE | {
    "inode number survives copy-up": "no (st_ino)",
    "O_TMPFILE and linkat": "no (ENOTSUP)",
    "copy-up of a large file": "copies 8 KiB",  # the block, and its map
    "shared mapping": NO_MAPPING,
    "a mapping sees later writes": NO_MAPPING,
    "locks between processes": NO_LOCKS,
    "locks from before copy-up": NO_LOCKS,
}
EXPECTED: dict[type[roots.Root], dict[str, str]] = {
    roots.Plain: NATIVE,
    roots.KernelOverlay: KERNEL,
    roots.Container: KERNEL,
    roots.BlockStack: STACK,
    Blocks: STACK,
}
LAYERS = {
    roots.Plain: "n/a (no layers)",
    roots.KernelOverlay: "500 (501: EINVAL)",  # OVL_MAX_STACK
    roots.Container: "501 or more",
    roots.BlockStack: "501 or more",
    Blocks: "501 or more",
}


@pytest.fixture(params=EXPECTED, ids=lambda way: way.name)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[roots.Root]:
    """A way to a root file system, prepared over what the probes want to find."""
    lower = tmp_path / "lower"
    lower.mkdir()
    fill(lower, SIZE)
    made: roots.Root = request.param(tmp_path / "place", lower)
    made.place.mkdir()
    with prepared(made):
        yield made


def test_what_they_promise(root: roots.Root, tmp_path: Path) -> None:
    expected = dict(EXPECTED[type(root)])
    if type(root) not in (roots.Plain, Blocks) and _clones(tmp_path):
        expected["copy-up of a large file"] = "copies 4 KiB"
    with view_of(root) as view:
        assert {question.what: question.answer(view) for question in QUESTIONS} == expected


def test_how_many_layers(root: roots.Root) -> None:
    assert semantics_layers.deepest(root, [500, 501]) == LAYERS[type(root)]


def test_every_question_says_what_it_asks() -> None:
    for question in QUESTIONS:
        assert question.asked.endswith(".") and "\n" not in question.asked


def test_an_error_is_an_answer() -> None:
    def probe() -> str:
        raise OSError(errno.EXDEV, "not here")

    assert guarded(probe) == "no (EXDEV)" and guarded(lambda: {}["x"]) == "no ('x')"  # type: ignore[misc]
    assert guarded(lambda: io.BytesIO().fileno() and "", "none") == "none"


def _clones(place: Path) -> bool:
    """Can files there share blocks?"""
    with open(place / "one", "w+b") as one, open(place / "two", "wb") as two:
        one.write(bytes(4096))
        one.flush()
        try:
            fcntl.ioctl(two, FICLONE, one.fileno())
        except OSError:
            return False
    return True
