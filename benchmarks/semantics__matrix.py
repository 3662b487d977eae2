"""What does each way to a root file system promise? Every question is answered by doing it, on each file system."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.contenders import roots
from benchmarks.contenders.semantics import QUESTIONS, fill
from benchmarks.contenders.semantics_layers import ASKED, COUNTS, WHAT, deepest
from benchmarks.contenders.semantics_view import prepared, view_of
from benchmarks.harness.disks import Disk
from benchmarks.harness.results import is_ours, record_missing


class Blocks(roots.ClonelessStack):
    """Block by block whatever the file's size, which differs from the other stack on any file system."""

    def why_not(self, file_system: str) -> str | None:
        return None


# The plain directory first: what all know.
VIEWS = sorted(
    (Blocks if way is roots.ClonelessStack else way for way in roots.EVERYONE), key=lambda way: way is not roots.Plain
)


def test_what_they_promise(benchmark: Any, disk: Disk, quick: bool) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: capabilities and mounts")
    size = (16 if quick else 64) << 20
    lower = disk.path / "lower"
    lower.mkdir()
    fill(lower, size)
    answers: dict[str, dict[str, str]] = {}
    missing: dict[str, str] = {}
    asked: set[str] = set()

    def ask() -> None:
        for number, way in enumerate(VIEWS):
            root = way(disk.path / f"{number:x}", lower)  # short: podman takes 50 bytes of path
            if (why := root.why_not(disk.type)) is not None:
                missing[way.name] = why
                continue
            asked.add(way.name)
            root.place.mkdir()
            try:
                with prepared(root):
                    answers[way.name] = _answers(root, [count for count in COUNTS if count <= 501 or not quick])
            except roots.FAILURES as error:
                missing[way.name] = str(error) or type(error).__name__

    benchmark.pedantic(ask, rounds=1)
    rows = [
        {"what": what, "asked": words, "answers": {view: said[what] for view, said in answers.items()}}
        for what, words in (*((question.what, question.asked) for question in QUESTIONS), (WHAT, ASKED))
    ]
    benchmark.extra_info["disk"] = disk.facts()
    benchmark.extra_info["semantics"] = {"file_system": disk.kind, "views": list(answers), "rows": rows}
    record_missing(benchmark, {f"semantics, {disk.kind}: {name}": why for name, why in missing.items()})
    print(f"\nsemantics on {disk.kind}, a large file has {size >> 20} MiB")
    for line in _table(list(answers), rows):
        print(f"  {line}")
    for name, why in missing.items():
        print(f"  {name}: missing: {why:.100}")
    if broken := {name: why for name, why in missing.items() if is_ours(name) and name in asked}:
        raise RuntimeError(f"of ours: {broken}")


def _answers(root: roots.Root, counts: Sequence[int]) -> dict[str, str]:
    with view_of(root) as view:
        found = {question.what: question.answer(view) for question in QUESTIONS}
    return {**found, WHAT: deepest(root, counts)}


def _table(views: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[str]:
    cells = [["", *views], *([row["what"], *(row["answers"][view] for view in views)] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
