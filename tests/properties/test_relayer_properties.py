"""Random layers, squashed and split: the view is that of a plain dictionary, the new layers' tars are read back to the
same index, and what differs between two views is what differs between two dictionaries."""

from __future__ import annotations

import io
import tarfile
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_tree_properties import ROOT, Layer, Model, Node, lay, of_index, of_model, steps

from lazarus.errors import FormatError, UnsafeError

index = pytest.importorskip("lazarus._native.index")
relayer = pytest.importorskip("lazarus._native.relayer")
ingest_module = pytest.importorskip("lazarus._native.ingest")
recipe = pytest.importorskip("lazarus._native.recipe")

layers_of_steps = st.lists(st.lists(steps, min_size=1, max_size=8), min_size=2, max_size=4)
patterns = st.lists(
    st.sampled_from([b"a", b"a/b", b"a/*", b"**/c", b"b", b"?", b"a/**", b"[!a]"]), min_size=1, max_size=2
)


class Written(NamedTuple):
    """A layer on disk."""

    diff_id: bytes
    index: Path
    recipe: Path


class Room:
    """A store's objects and some layers, without the rest of a store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.serial = 0
        self.objects = self.directory("objects")

    def directory(self, name: str) -> Path:
        self.serial += 1
        path = self.root / f"{name}{self.serial}"
        path.mkdir()
        return path

    def ingest(self, tar: bytes) -> Written:
        """A layer from its tar; its objects are published."""
        staging, staged = self.directory("layer"), self.directory("staged")
        source = self.root / "source"
        source.write_bytes(tar)
        with source.open("rb") as file:
            result = ingest_module.ingest(file.fileno(), staging=staging, staged_objects=staged, objects=self.objects)
        for path in staged.iterdir():
            place = self.objects / path.name[:2] / path.name[2:]
            place.parent.mkdir(exist_ok=True)
            path.rename(place)
        return Written(result.diff_id, staging / "index", staging / "recipe")

    def count_objects(self) -> int:
        return sum(1 for _ in self.objects.glob("*/*"))

    def merged(self, layers: list[Written]) -> Path:
        self.serial += 1
        out = self.root / f"merged{self.serial}"
        index.merge([layer.index for layer in layers], [layer.diff_id for layer in layers], out)
        return out

    def check(self, directory: Path, diff_id: bytes) -> Written:
        """The new layer's tar, read back, is the same layer; nothing new was needed for it."""
        made = Written(diff_id, directory / "index", directory / "recipe")
        before = self.count_objects()
        with (self.root / "tar").open("w+b") as tar:
            recipe.replay(made.recipe, made.index, self.objects, tar.fileno())
            tar.seek(0)
            again = self.ingest(tar.read())
        assert again.diff_id == diff_id
        assert again.index.read_bytes() == made.index.read_bytes()
        assert again.recipe.read_bytes() == made.recipe.read_bytes()
        assert self.count_objects() == before
        return made


def content(tag: int) -> bytes:
    """Empty, small enough to lie in an index, or an object."""
    return (b"%d" % tag) * (0, 3, 3000)[tag % 3]


def build(layer: list[tuple[str, ...]], tag: int) -> tuple[bytes, Model, int]:
    """The tar of the steps that a layer can have, and the model of it."""
    out, model = io.BytesIO(), Model()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for verb, *arguments in layer:
            tag += 1
            path = arguments[0]
            info = tarfile.TarInfo((path or b"./").decode())
            info.uid = info.mtime = tag
            info.pax_headers = {"SCHILY.xattr.user.tag": str(tag)} if tag % 5 == 0 else {}
            try:
                if verb == "link":
                    if path == arguments[1]:
                        continue
                    model.link(path, arguments[1])
                    info.type, info.linkname = tarfile.LNKTYPE, arguments[1].decode()
                elif verb == "whiteout":
                    model.whiteout(path)
                    head, _, name = path.decode().rpartition("/")
                    info.name = f"{head}/.wh.{name}" if head else f".wh.{name}"
                elif verb == "opaque":
                    model.make_opaque(path)
                    info.name = f"{path.decode()}/.wh..wh..opq" if path else ".wh..wh..opq"
                elif path == b"" and verb != "directory":
                    continue
                else:
                    model.put(path, Node(verb, tag))
                    info.type = {"file": tarfile.REGTYPE, "directory": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE}[
                        verb
                    ]
                    info.linkname = "x" if verb == "symlink" else ""
            except (FormatError, UnsafeError):
                continue
            data = content(tag) if verb == "file" else b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue(), model, tag


def build_all(room: Room, layers: list[list[tuple[str, ...]]]) -> tuple[list[Written], list[Model]]:
    written, models, tag = [], [], 0
    for layer in layers:
        tar, model, tag = build(layer, tag)
        written.append(room.ingest(tar))
        models.append(model)
    return written, models


def view(models: list[Model]) -> Layer:
    seen: Layer = {b"": ROOT}
    for model in models:
        seen = lay(seen, model)
    return seen


def no_difference(room: Room, left: list[Written], right: list[Written]) -> bool:
    with index.Index(room.merged(left)) as before, index.Index(room.merged(right)) as after:
        return next(iter(relayer.Comparison(before, after)), None) is None


common = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@common
@given(layers_of_steps, st.data())
def test_squash(layers: list[list[tuple[str, ...]]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        room = Room(Path(name))
        written, models = build_all(room, layers)
        first = data.draw(st.integers(0, len(layers) - 1), "first")
        end = data.draw(st.integers(first + 1, len(layers)), "end")
        out = room.directory("new")
        below = index.Index(room.merged(written[:first])) if first else None
        chosen = [(layer.index, layer.recipe) for layer in written[first:end]]
        result = relayer.squash(chosen, room.objects, out, below=below)
        made = room.check(out, result.diff_id)
        new = [*written[:first], made, *written[end:]]
        assert of_index(room.merged(new)) == of_model(view(models))
        assert no_difference(room, written, new)
        with index.Index(made.index) as table:  # only marks that hide something
            under = view(models[:first]) if first else {b"": ROOT}
            assert all(entry.path in under for entry in table if entry.kind == "whiteout")


@common
@given(layers_of_steps, patterns, st.data())
def test_split(layers: list[list[tuple[str, ...]]], globs: list[bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        room = Room(Path(name))
        written, models = build_all(room, layers)
        number = data.draw(st.integers(0, len(layers) - 1), "number")
        with index.Index(written[number].index) as table:
            matched, found = relayer.match(table, globs)
            assert found == sum(matched)
        parts: list[Written] = []
        for side in (False, True):
            out = room.directory("part")
            below = index.Index(room.merged([*written[:number], *parts])) if number or parts else None
            source = (written[number].index, written[number].recipe)
            result = relayer.split(source, matched, side, room.objects, out, below=below)
            parts.append(room.check(out, result.diff_id))
        new = [*written[:number], *parts, *written[number + 1 :]]
        assert of_index(room.merged(new)) == of_model(view(models))
        assert no_difference(room, written, new)


def test_a_comparison_of_several_threads(tmp_path: Path) -> None:
    """Each change goes to one of them, or they are told; the indexes may be closed meanwhile."""
    room = Room(tmp_path)
    deep = [("directory", b"/".join([b"d%d" % top] + [b"x"] * depth)) for top in range(20) for depth in range(40)]
    written, _ = build_all(room, [deep])
    with index.Index(room.merged(written)) as one, index.Index(room.merged([])) as none:
        for _ in range(6):
            comparison, found = relayer.Comparison(none, one), []

            def take(comparison: relayer.Comparison = comparison, found: list[bytes] = found) -> None:
                while True:
                    try:
                        for change in comparison:
                            found.append(change.path)
                        return
                    except ValueError:
                        continue

            threads = [threading.Thread(target=take) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(found) == sorted(change.path for change in relayer.Comparison(none, one))
        comparison = relayer.Comparison(none, one)
    assert len(list(comparison)) == len(found)


@common
@given(layers_of_steps, layers_of_steps)
def test_diff(before: list[list[tuple[str, ...]]], after: list[list[tuple[str, ...]]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        room = Room(Path(name))
        sides = [build_all(room, layers) for layers in (before, after)]
        indexes = [index.Index(room.merged(written)) for written, _ in sides]
        views = [view(models) for _, models in sides]
        changes = list(relayer.Comparison(*indexes))
        back = list(relayer.Comparison(*indexes[::-1]))
    found = {change.path[1:]: change for change in changes}
    assert [c.path for c in changes] == sorted((c.path for c in changes), key=lambda path: path[1:].split(b"/"))
    left, right = views
    assert {path for path, change in found.items() if change.change == "A"} == right.keys() - left.keys()
    assert {path for path, change in found.items() if change.change == "D"} == left.keys() - right.keys()
    for path in left.keys() & right.keys():
        a, b = left[path], right[path]
        differs = set(found[path].differs) if path in found else set()
        assert ("type" in differs) == (a.kind != b.kind)
        assert ("owner" in differs) == ((a.tag or 0) != (b.tag or 0))
        assert ("mtime" in differs) == ((a.tag or 0) != (b.tag or 0))
        same_kind = a.kind == b.kind == "file"
        assert ("content" in differs) == (same_kind and content(a.tag or 0) != content(b.tag or 0))
        assert path not in found or differs
    swap = {"A": "D", "D": "A", "C": "C"}
    assert [(c.path, swap[c.change], c.differs, c.size, c.old_size) for c in back] == [
        (c.path, c.change, c.differs, c.old_size, c.size) for c in changes
    ]
