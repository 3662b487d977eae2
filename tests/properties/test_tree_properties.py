"""Layers and their merge against a plain dictionary: any sequence of adds, links, whiteouts and opaque marks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazarus.errors import FormatError, UnsafeError

native = pytest.importorskip("lazarus._native.index")
tree = pytest.importorskip("lazarus._native.tree")

# ---- the model: a layer is {path: Node} and a set of hidden paths; it knows nothing of order, hashes or numbers ----


class Node(NamedTuple):
    """`tag` is the uid, which tells nodes apart (None: an implicit directory); names of one file have one `group`."""

    kind: str
    tag: int | None
    group: object = None


Layer = dict[bytes, Node]
ROOT = Node("directory", None)


def parents(path: bytes) -> list[bytes]:
    """Every directory above, the root first."""
    parts = path.split(b"/")
    return [b"/".join(parts[:n]) for n in range(len(parts))] if path else []


def below(nodes: Layer, path: bytes) -> list[bytes]:
    """Every path below a directory."""
    return [other for other in nodes if other != path and path in parents(other)]


class Model:
    """One layer, entry by entry."""

    def __init__(self) -> None:
        self.nodes: Layer = {b"": ROOT}
        self.whiteouts: set[bytes] = set()  # lower names that are gone
        self.opaque: set[bytes] = set()  # lower directories whose children are gone

    def enter(self, path: bytes) -> None:
        for parent in parents(path):
            if self.nodes.setdefault(parent, ROOT).kind != "directory":
                raise UnsafeError

    def put(self, path: bytes, node: Node) -> None:
        self.enter(path)
        if node.kind != "directory":
            for gone in below(self.nodes, path):
                del self.nodes[gone]
                # a mark below what is no directory any more has nothing to speak of
            self.whiteouts -= {mark for mark in self.whiteouts if path in parents(mark)}
            self.opaque -= {mark for mark in self.opaque if path in parents(mark)}
        self.nodes[path] = node

    def link(self, path: bytes, target: bytes) -> None:
        node = self.nodes.get(target)
        if node is None or node.kind == "directory" or path == b"":
            raise FormatError
        self.enter(path)
        if path == target:
            return
        if node.group is None:
            node = self.nodes[target] = node._replace(group=object())
        self.put(path, node)

    def whiteout(self, path: bytes) -> None:
        if path == b"":
            raise FormatError
        self.enter(path)
        self.whiteouts.add(path)

    def make_opaque(self, path: bytes) -> None:
        self.enter(path)
        if self.nodes.setdefault(path, ROOT).kind != "directory":
            raise UnsafeError
        self.opaque.add(path)


def lay(lower: Layer, layer: Model) -> Layer:
    """The rules between layers (OCI image-spec, layer.md), one at a time."""
    result = dict(lower)

    def remove(path: bytes) -> None:
        for gone in below(result, path):
            del result[gone]
        result.pop(path, None)

    for path in layer.whiteouts:
        remove(path)
    for path in layer.opaque:
        for gone in below(result, path):
            del result[gone]
    for path, node in layer.nodes.items():
        if node.kind != "directory" or (path in result and result[path].kind != "directory"):
            remove(path)
    for path, node in layer.nodes.items():
        if node.tag is None and path in result:
            continue  # implicit: the lower's attributes
        result[path] = node
    return result


# ---- what is compared ----

Seen = dict[bytes, tuple[str, int, frozenset[bytes]]]


def of_model(nodes: Layer) -> Seen:
    groups: dict[object, set[bytes]] = {}
    for path, node in nodes.items():
        groups.setdefault(node.group or path, set()).add(path)
    return {path: (n.kind, n.tag or 0, frozenset(groups[n.group or path])) for path, n in nodes.items()}


def of_index(path: Path) -> Seen:
    with native.Index(path) as index:
        entries = list(index)
        for entry in entries:
            assert index.find(entry.path) == entry.number
            assert entry.kind == "directory" or entry.link_count == sum(other.link == entry.link for other in entries)
            assert entry.link <= entry.number
            children = [entries[number] for number in index.children(entry.number)]
            assert [child.path for child in children] == sorted(child.path for child in children)
            if entry.kind == "directory":
                assert entry.link_count == 2 + sum(child.kind == "directory" for child in children)
        return {
            e.path: (e.kind, e.uid, frozenset(other.path for other in entries if other.link == e.link)) for e in entries
        }


# ---- random layers ----

# a handful of names, so that things meet
paths = st.sampled_from([b"a", b"a/b", b"a/b/c", b"a/c", b"b", b""])
steps = st.one_of(
    st.tuples(st.just("file"), paths),
    st.tuples(st.just("directory"), paths),
    st.tuples(st.just("symlink"), paths),
    st.tuples(st.just("link"), paths, paths),
    st.tuples(st.just("whiteout"), paths),
    st.tuples(st.just("opaque"), paths),
)


def run(step: tuple[str, ...], tag: int, builder: tree.TreeBuilder, model: Model) -> None:
    """One step on both; what one refuses the other must refuse alike."""
    raised: list[type[Exception] | None] = [None, None]
    verb, path = step[0], step[1]
    for number, side in enumerate((builder, model)):
        try:
            if verb == "link":
                side.link(path, step[2])
            elif verb == "whiteout":
                side.whiteout(path)
            elif verb == "opaque":
                builder.opaque(path) if side is builder else model.make_opaque(path)
            elif path == b"" and verb != "directory":
                raise FormatError
            elif side is builder:
                builder.add(path, verb, uid=tag, target=b"x" if verb == "symlink" else None)
            else:
                model.put(path, Node(verb, tag))
        except (FormatError, UnsafeError) as error:
            raised[number] = type(error)
    assert raised[0] == raised[1], step


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(steps, min_size=1, max_size=8), min_size=2, max_size=4), st.integers(0, 7))
def test_merge_is_what_a_dictionary_says(layers: list[list[tuple[str, ...]]], cuts: int) -> None:
    """The stack at once, and in parts (bit i of `cuts`: one ends after layer i) that keep their marks."""
    expected: Layer = {b"": ROOT}
    with tempfile.TemporaryDirectory() as name:
        root, written, tag = Path(name), [], 0
        for number, layer in enumerate(layers):
            builder, model = tree.TreeBuilder(), Model()
            for step in layer:
                tag += 1
                run(step, tag, builder, model)
            written.append(root / str(number))
            builder.write(written[-1])
            expected = lay(expected, model)
        out = root / "merged"
        native.merge(written, [bytes([n]) * 32 for n in range(len(layers))], out)
        assert of_index(out) == of_model(expected)

        parts, first = [], 0
        for end in [*(n + 1 for n in range(len(layers) - 1) if cuts >> n & 1), len(layers)]:
            parts.append(root / f"part{first}")
            chunk = written[first:end]
            native.merge(chunk, [bytes([n]) * 32 for n in range(len(chunk))], parts[-1], keep_whiteouts=True)
            first = end
        native.merge(parts, [bytes([n]) * 32 for n in range(len(parts))], out)
        assert of_index(out) == of_model(expected)
