"""The index of a volume's artifact: what is encoded is decoded, and nothing else is."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazarus.errors import FormatError, LazarusError, LimitError, TruncatedError, UnsafeError
from lazarus.volumes.artifact import index
from lazarus.volumes.artifact.index import DIRECTORY, FILE, HARDLINK, SYMLINK, Tree, decode, encode
from lazarus.volumes.artifact.packs import MIN_CHUNK, runs
from lazarus.volumes.artifact.places import Places, Slice, check_numbers

quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: name not in (b".", b"..") and not set(name) & {0, 47})


class Maker:
    """A tree, entry by entry."""

    def __init__(self) -> None:
        self.rows: list[dict[str, int]] = []
        self.names, self.targets, self.xattrs = b"", b"", b""
        self.keys: list[tuple[int, int]] = []
        self.holes: list[tuple[int, int, int]] = []
        self.numbers: list[int] = []
        self.labels: dict[str, str] = {}
        self.add(0, b"", DIRECTORY, mode=0o755)

    def add(self, parent: int, name: bytes, kind: int, target: bytes = b"", **values: int) -> int:
        row = dict.fromkeys(index.ENTRY_COLUMNS, 0) | {"parent": parent, "kind": kind} | values
        self.rows.append(row | {"name_size": len(name), "target_size": len(target)})
        self.names += name
        self.targets += target
        return len(self.rows) - 1

    def tree(self) -> Tree:
        columns: dict[str, Any] = {key: numpy.array([row[key] for row in self.rows]) for key in index.ENTRY_COLUMNS}
        columns["key_size"], columns["value_size"] = numpy.array(self.keys, "u4").reshape(-1, 2).T
        holes = numpy.array(self.holes, "u8").reshape(-1, 3).T
        columns["hole_entry"], columns["hole_offset"], columns["hole_size"] = holes
        columns["run_first"], columns["run_count"], columns["run_step"] = runs(numpy.array(self.numbers, "u8"))
        return Tree(columns, self.names, self.targets, self.xattrs, self.labels)


@st.composite
def makers(draw: st.DrawFn) -> tuple[Maker, list[int]]:
    """Any tree, and the lengths of the chunks that there are."""
    maker = Maker()
    lengths = draw(st.lists(st.integers(MIN_CHUNK, 5000), min_size=1, max_size=20))
    maker.labels = draw(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2))
    for name in draw(st.lists(NAMES, max_size=15, unique=True)):
        parents = [entry for entry, row in enumerate(maker.rows) if row["kind"] == DIRECTORY]
        files = [entry for entry, row in enumerate(maker.rows) if row["kind"] not in (DIRECTORY, HARDLINK)]
        kind = draw(st.integers(0, 6))
        parent = draw(st.sampled_from(parents))
        if kind == HARDLINK and files:
            maker.add(parent, name, HARDLINK, link=draw(st.sampled_from(files)))
            continue
        kind = FILE if kind == HARDLINK else kind
        values = {
            "mode": draw(st.integers(0, 0o7777)),
            "uid": draw(st.integers(0, 2**32 - 2)),
            "gid": draw(st.integers(0, 2**32 - 2)),
            "mtime": draw(st.integers(-(2**63), 2**63 - 1)),
        }
        if kind in (index.CHAR, index.BLOCK):
            values |= {"major": draw(st.integers(0, 4095)), "minor": draw(st.integers(0, 2**20 - 1))}
        attributes = draw(st.dictionaries(NAMES, st.binary(max_size=9), max_size=2))
        for key, value in attributes.items():
            maker.keys.append((len(key), len(value)))
            maker.xattrs += key + value
        values["xattrs"] = len(attributes)
        entry = maker.add(parent, name, kind, draw(NAMES) if kind == SYMLINK else b"", **values)
        if kind == FILE:
            chosen = draw(st.lists(st.integers(0, len(lengths) - 1), max_size=6))
            size, was_hole = 0, False
            for number in [*chosen, None]:
                if not was_hole and draw(st.booleans()):
                    hole = draw(st.integers(1, 9999))
                    maker.holes.append((entry, size, hole))
                    size += hole
                if number is not None:
                    size += lengths[number]
            maker.rows[entry] |= {"chunks": len(chosen), "size": size}
            maker.numbers += chosen
    return maker, lengths


def placed(tree: Tree, lengths: list[int], pack: int = 7) -> list[Slice]:
    """As a pull asks for them: packs of `pack` chunks, their chunks in batches of three."""
    check_numbers(tree, [len(lengths)] if len(tree["run_first"]) else [], "index")
    where = Places(tree, numpy.array(lengths, "u4"), "index")
    told = []
    for first in range(0, len(lengths), pack):
        end = min(first + pack, len(lengths))
        runs = where.runs(first, end)
        wanted = where.wanted(runs, first, end) + first
        sweep, seen = where.sweep(runs), []
        for batch in (wanted[at : at + 3] for at in range(0, len(wanted), 3)):
            begin, end = int(batch[0]), int(batch[-1]) + 1
            some = list(where.slices(sweep.meet(begin, end), begin, end))
            told += some
            seen += [int(number) for slice in some for number in slice.numbers]
            order = [place for one in some for place in zip(one.entries.tolist(), one.offsets.tolist(), strict=True)]
            assert order == sorted(order)
            assert where.entry(runs, begin) == min(entry for s in some for entry in s.entries[s.numbers == begin])
        assert sorted(set(seen)) == wanted.tolist()
    return told


def expand(tree: Tree) -> list[int]:
    """The numbers that the runs stand for, one after the other."""
    runs = zip(*(tree[f"run_{name}"].tolist() for name in ("first", "count", "step")), strict=True)
    return [first + step * number for first, count, step in runs for number in range(count)]


def same(one: Tree, other: Tree) -> bool:
    return (one.names, one.targets, one.xattrs, one.labels) == (
        other.names,
        other.targets,
        other.xattrs,
        other.labels,
    ) and all(one[name].tolist() == other[name].tolist() for name in other.columns)


@quick
@given(makers(), st.integers(1, 20))
def test_there_and_back(made: tuple[Maker, list[int]], pack: int) -> None:
    maker, lengths = made
    tree = maker.tree()
    data = encode(tree)
    found = decode(data, "index")
    assert same(found, tree) and encode(found) == data
    assert expand(found) == maker.numbers
    told = []
    for some in placed(found, lengths, pack):
        told += zip(some.entries.tolist(), some.offsets.tolist(), some.numbers.tolist(), strict=True)
    assert sorted(told) == expected_places(maker, lengths)


def expected_places(maker: Maker, lengths: list[int]) -> list[tuple[int, int, int]]:
    """The same, one file and chunk after the other."""
    told, numbers = [], iter(maker.numbers)
    for entry, row in enumerate(maker.rows):
        holes = {offset: size for file, offset, size in maker.holes if file == entry}
        at = 0
        for _ in range(row["chunks"]):
            at += holes.get(at, 0)
            number = next(numbers)
            told.append((entry, at, number))
            at += lengths[number]
    return sorted(told)


@quick
@given(makers(), st.data())
def test_other_bytes_are_an_error_or_another_tree(made: tuple[Maker, list[int]], data: st.DataObject) -> None:
    """No two indexes say the same; and whatever the bytes are, nothing but one of our errors comes of them."""
    maker, lengths = made
    good = encode(maker.tree())
    raw = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    raw = raw[: data.draw(st.sampled_from([len(raw), len(raw), data.draw(st.integers(0, len(raw)))]))]
    try:
        tree = decode(bytes(raw), "index")
    except LazarusError as error:
        assert "\n" not in str(error)
        return
    assert encode(tree) == bytes(raw)
    try:
        told = placed(tree, lengths)
    except LazarusError:
        return
    for some in told:
        ends = some.offsets + numpy.array(lengths, "u8")[some.numbers]
        assert (ends <= tree["size"][some.entries]).all()


def broken(change: str) -> Tree:
    """A tree of two directories, a file, a symlink and a hard link, with one thing wrong."""
    maker = Maker()
    directory = maker.add(0, b"dir", DIRECTORY)
    file = maker.add(directory, b"file", FILE, size=10, chunks=1)
    link = maker.add(0, b"link", SYMLINK, b"/etc")
    hard = maker.add(0, b"hard", HARDLINK, link=file)
    maker.numbers = [0]
    if change.startswith("name "):
        name = eval(change[5:])
        maker.add(directory, name, FILE)
    elif change == "below a symlink":
        maker.add(link, b"passwd", FILE)
    elif change == "below a file":
        maker.add(file, b"x", FILE)
    elif change == "twice":
        maker.add(directory, b"file", FILE)
    elif change == "parent after":
        maker.rows[directory]["parent"] = 4
    elif change == "its own parent":
        maker.rows[directory]["parent"] = directory
    elif change == "link to a directory":
        maker.rows[hard]["link"] = directory
    elif change == "link to nothing":
        maker.rows[hard]["link"] = 99
    elif change == "link to itself":
        maker.rows[hard]["link"] = hard
    elif change == "no root":
        maker.rows[0]["kind"] = FILE
    elif change == "a set mode":
        maker.rows[file]["mode"] = 0o10000
    elif change in ("uid", "gid"):
        maker.rows[file][change] = 2**32 - 1
    elif change == "a kind":
        maker.rows[file]["kind"] = 7
    elif change == "size":
        maker.rows[file]["size"] = 11
    elif change == "huge size":
        maker.rows[file]["size"] = 2**63
    elif change == "hole beyond":
        maker.holes = [(file, 5, 2**62)]
    elif change == "hole in a chunk":
        maker.holes, maker.rows[file]["size"] = [(file, 5, 7)], 17
    elif change == "hole of nothing":
        maker.holes, maker.rows[file]["size"] = [(file, 10, 0)], 10
    elif change == "chunk that is not there":
        maker.numbers = [1]
    elif change == "far chunk":
        maker.numbers = [2**39]
    elif change == "too many chunks":
        maker.numbers = [0, 0]
    elif change == "long path":
        deep = 0
        for _ in range(20):
            deep = maker.add(deep, b"x" * 255, DIRECTORY)
    return maker.tree()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        *((f"name {name!r}", UnsafeError) for name in (b"..", b".", b"", b"../x", b"/etc", b"a/b", b"a\0b", b"/")),
        ("below a symlink", FormatError),
        ("below a file", FormatError),
        ("twice", FormatError),
        ("parent after", FormatError),
        ("its own parent", FormatError),
        ("link to a directory", FormatError),
        ("link to nothing", FormatError),
        ("link to itself", FormatError),
        ("no root", FormatError),
        ("a set mode", FormatError),
        ("a kind", FormatError),
        ("uid", FormatError),
        ("gid", FormatError),
        ("size", FormatError),
        ("huge size", FormatError),
        ("hole beyond", FormatError),
        ("hole in a chunk", FormatError),
        ("hole of nothing", FormatError),
        ("chunk that is not there", FormatError),
        ("far chunk", FormatError),
        ("too many chunks", FormatError),
        ("long path", LimitError),
    ],
)
def test_hostile(change: str, error: type[LazarusError]) -> None:
    placed(decode(encode(broken("nothing")), "index"), [10])
    with pytest.raises(error) as raised:
        placed(decode(encode(broken(change)), "index"), [10])
    assert "\n" not in str(raised.value) and str(raised.value).startswith("index: ")


def test_more_chunks_than_files_of_that_size_have() -> None:
    maker = Maker()
    maker.add(0, b"file", FILE, size=5000, chunks=5000)
    maker.numbers = [0, 1] * 2500
    with pytest.raises(LimitError, match="5000 chunks of 5000 bytes"):
        placed(decode(encode(maker.tree()), "index"), [1, 1])


@quick
@given(st.lists(st.integers(0, 4), max_size=30))
def test_runs(numbers: list[int]) -> None:
    first, count, step = runs(numpy.array(numbers, "u8"))
    tree = Tree({"run_first": first, "run_count": count, "run_step": step}, b"", b"", b"", {})
    assert expand(tree) == numbers
    assert len(first) <= len(numbers) and set(step.tolist()) <= {0, 1}
    for one, other in ((4, 5), (7, 7)):  # long ones are one run
        long = numpy.arange(one, one + 10**5, dtype="u8") if other > one else numpy.full(10**5, one, "u8")
        assert [len(column) for column in runs(long)] == [1, 1, 1]


def test_not_an_index() -> None:
    for data, error in ((b"", TruncatedError), (b"laz", TruncatedError), (b"PK\3\4" * 40, FormatError)):
        with pytest.raises(error):
            decode(data, "index")
