"""The index of a volume's artifact: a tree in columns, and which chunks fill its files.

    header      magic, then nine counts (uint64): entries, bytes of names, bytes of targets, xattrs, bytes of xattrs,
                holes, runs of chunks, bytes of labels (JSON), and 0
    columns     of entries, xattrs, holes and runs, each as wide as _COLUMNS says, little-endian, one after the other
    bytes       names, targets, xattrs (name, value, name, value, ...), labels

What an index may be when it is unpacked depends on what it takes (`most_bytes`): 64 MiB are free, some 1.1 million
entries; 2^24 entries take about 1 GB. Who decodes one has its bytes, and as many again.

Entry 0 is the volume's own directory; parents come before what is in them. The same tree has the same bytes, and bytes
that are read are the bytes that the tree has: what could be said in two ways is refused.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from lazarus.errors import FormatError, LimitError, TruncatedError, UnsafeError

if TYPE_CHECKING:
    import numpy

    Array: TypeAlias = numpy.ndarray[Any, numpy.dtype[Any]]

DIRECTORY, FILE, SYMLINK, HARDLINK, CHAR, BLOCK, FIFO = range(7)

MAGIC = b"lazvol\x00\x01"
MAX_PATH = 4095  # bytes; the kernel takes no longer one
MAX_NAME = 255
MAX_VALUE = 1 << 16  # bytes of one xattr
MAX_ENTRIES = 1 << 24
MAX_CHUNKS = 1 << 30  # 4 TiB of 4 KiB each
MAX_BYTES = 1 << 31  # of an index that is unpacked
_RATIO, _RATIO_FREE = 1100, 64 << 20  # as of layers (csrc/tree/lz_ingest.h)
_COUNTS = 9

_COLUMNS = {
    # of each entry
    "parent": "<u4",
    "kind": "u1",
    "mode": "<u2",
    "uid": "<u4",
    "gid": "<u4",
    "mtime": "<i8",
    "size": "<u8",
    "link": "<u4",
    "major": "<u4",
    "minor": "<u4",
    "name_size": "u1",
    "target_size": "<u2",
    "xattrs": "<u2",
    "chunks": "<u8",
    # of each xattr
    "key_size": "u1",
    "value_size": "<u4",
    # of each hole
    "hole_entry": "<u4",
    "hole_offset": "<u8",
    "hole_size": "<u8",
    # of each run
    "run_first": "<u8",
    "run_count": "<u4",
    "run_step": "u1",
}
ENTRY_COLUMNS = tuple(_COLUMNS)[:14]


class Tree:
    """What an index says: columns by name (numpy arrays, `tree["mode"]`), and the bytes that they measure."""

    __slots__ = ("columns", "labels", "names", "targets", "xattrs")

    def __init__(
        self, columns: Mapping[str, Array], names: bytes, targets: bytes, xattrs: bytes, labels: Mapping[str, str]
    ) -> None:
        self.columns = columns
        self.names = names
        self.targets = targets
        self.xattrs = xattrs
        self.labels = labels

    def __getitem__(self, column: str) -> Array:
        return self.columns[column]

    @property
    def entries(self) -> int:
        """How many, with the volume's own directory."""
        return len(self.columns["parent"])


def encode(tree: Tree) -> bytes:
    """The bytes of an index; what is in the tree is taken as it is. `LimitError` for more than could be read again."""
    import numpy

    if tree.entries > MAX_ENTRIES or total(tree["run_count"]) > MAX_CHUNKS:
        raise LimitError(f"{tree.entries} entries, {total(tree['run_count'])} chunks: more than an index may have")

    labels = json.dumps(dict(sorted(tree.labels.items())), separators=(",", ":")).encode() if tree.labels else b""
    counts = (
        tree.entries,
        len(tree.names),
        len(tree.targets),
        len(tree["key_size"]),
        len(tree.xattrs),
        len(tree["hole_entry"]),
        len(tree["run_first"]),
        len(labels),
        0,
    )
    parts = [MAGIC, numpy.array(counts, "<u8").tobytes()]
    parts += [numpy.ascontiguousarray(tree[name], kind).tobytes() for name, kind in _COLUMNS.items()]
    return b"".join((*parts, tree.names, tree.targets, tree.xattrs, labels))


def decode(data: bytes | memoryview, what: str) -> Tree:
    """A tree that can be made as it is, but for what `check_chunks` says. `what` names the index in errors.

    Raises `FormatError`, `TruncatedError`, `LimitError`, or `UnsafeError` for names that are none.
    """
    import numpy

    view = memoryview(data)
    start = len(MAGIC) + 8 * _COUNTS
    if view[: len(MAGIC)] != MAGIC[: len(view)]:
        raise FormatError(f"{what}: not the index of a volume, or of a later version")
    if len(view) < start:
        raise TruncatedError(f"{what}: ends inside of its header")
    counts = [int(count) for count in numpy.frombuffer(view[len(MAGIC) : start], "<u8")]
    entries, names, targets, xattrs, xattr_bytes, holes, runs, labels, zero = counts
    if max(counts) > MAX_BYTES or entries > MAX_ENTRIES:
        raise LimitError(f"{what}: {max(counts)} of something, more than {MAX_BYTES}, or {entries} entries")
    if zero or not entries:
        raise FormatError(f"{what}: no entries, or a header of another version")
    many = dict.fromkeys(ENTRY_COLUMNS, entries) | dict.fromkeys(("key_size", "value_size"), xattrs)
    many |= dict.fromkeys(("hole_entry", "hole_offset", "hole_size"), holes)
    many |= dict.fromkeys(("run_first", "run_count", "run_step"), runs)
    columns: dict[str, Array] = {}
    for name, kind in _COLUMNS.items():
        size = many[name] * numpy.dtype(kind).itemsize
        if start + size > len(view):
            raise TruncatedError(f"{what}: ends inside of its column {name}")
        columns[name] = numpy.frombuffer(view[start : start + size], kind)
        start += size
    texts = []
    for size in (names, targets, xattr_bytes, labels):
        texts.append(bytes(view[start : start + size]))
        start += size
    if start != len(view):
        raise TruncatedError(f"{what}: {len(view)} bytes, its header says {start}")
    tree = Tree(columns, texts[0], texts[1], texts[2], _labels(texts[3], what))
    _check_columns(tree, what)
    _check_holes_and_runs(tree, what)
    _check_paths(tree, what)
    return tree


def _labels(data: bytes, what: str) -> Mapping[str, str]:
    if not data:
        return {}
    from lazarus.oci.strict_json import load_object

    labels = load_object(data, f"{what}, labels")
    if not all(isinstance(value, str) for value in labels.values()) or not labels:
        raise FormatError(f"{what}: labels are not an object of strings")
    if json.dumps(dict(sorted(labels.items())), separators=(",", ":")).encode() != data:
        raise FormatError(f"{what}: labels are not written as they should be")
    return labels


def most_bytes(stored: int) -> int:
    """What an index that takes so many bytes in zstd may be when it is unpacked."""
    return min(MAX_BYTES, _RATIO_FREE + _RATIO * stored)


def total(values: Array) -> int:
    """The sum of numbers of up to 64 bits, whatever they are."""
    import numpy

    wide = values.astype("u8")
    low = int(numpy.bitwise_and(wide, 0xFFFFFFFF).sum(dtype="u8"))
    return (int(numpy.right_shift(wide, 32).sum(dtype="u8")) << 32) + low


def _check_columns(tree: Tree, what: str) -> None:
    """Each value fits its entry's kind, and says nothing where there is nothing to say."""
    import numpy

    def expect(good: Any, text: str) -> None:
        if not numpy.all(good):
            entry = int(numpy.argmin(numpy.broadcast_to(good, tree.entries)))
            raise FormatError(f"{what}: entry {entry}: {text}")

    kind, number = tree["kind"], numpy.arange(tree.entries)
    regular, symlink, hardlink = kind == FILE, kind == SYMLINK, kind == HARDLINK
    expect(kind <= FIFO, "of no known kind")
    if kind[0] != DIRECTORY or tree["parent"][0] or tree["name_size"][0]:
        raise FormatError(f"{what}: entry 0 is not a root directory")
    expect((tree["parent"] < number) | (number == 0), "comes before its parent")
    expect(kind[tree["parent"]] == DIRECTORY, "its parent is not a directory")
    expect(tree["mode"] <= 0o7777, "its mode is none")
    # -1 asks chown to leave it as it is: root's
    expect((tree["uid"] < 2**32 - 1) & (tree["gid"] < 2**32 - 1), "its owner is none")
    expect(regular | (tree["size"] == 0), "a size, but no file")
    expect(tree["size"] < 1 << 63, "its size is none")
    expect(regular | (tree["chunks"] == 0), "chunks, but no file")
    expect(symlink == (tree["target_size"] > 0), "a target and a symlink go together")
    expect(tree["target_size"] <= MAX_PATH, "its target is too long")
    expect((kind == CHAR) | (kind == BLOCK) | ((tree["major"] == 0) & (tree["minor"] == 0)), "a number of no device")
    expect((tree["major"] < 1 << 12) & (tree["minor"] < 1 << 20), "its device number is none")
    expect(hardlink | (tree["link"] == 0), "a link of no hard link")
    expect(~hardlink | (tree["link"] < number), "a hard link to what comes after it")
    expect(~hardlink | ~numpy.isin(kind[tree["link"] % tree.entries], (DIRECTORY, HARDLINK)), "a link to no file")
    blank = (tree["mode"] == 0) & (tree["uid"] == 0) & (tree["gid"] == 0) & (tree["mtime"] == 0)
    expect(~hardlink | (blank & (tree["xattrs"] == 0)), "a hard link with attributes of its own")
    for of, column, size in (("names", "name_size", tree.names), ("targets", "target_size", tree.targets)):
        if total(tree[column]) != len(size):
            raise FormatError(f"{what}: {len(size)} bytes of {of}, its entries have {total(tree[column])}")
    if b"\0" in tree.targets:
        raise UnsafeError(f"{what}: a symlink's target with a NUL byte")
    if total(tree["xattrs"]) != len(tree["key_size"]):
        raise FormatError(f"{what}: {len(tree['key_size'])} xattrs, its entries have {total(tree['xattrs'])}")
    if total(tree["key_size"]) + total(tree["value_size"]) != len(tree.xattrs):
        raise FormatError(f"{what}: {len(tree.xattrs)} bytes of xattrs, which have other sizes")
    if not (numpy.all(tree["key_size"] > 0) and numpy.all(tree["value_size"] <= MAX_VALUE)):
        raise FormatError(f"{what}: an xattr without name, or of more than {MAX_VALUE} bytes")


def _check_holes_and_runs(tree: Tree, what: str) -> None:
    import numpy

    entry, offset, size = tree["hole_entry"], tree["hole_offset"], tree["hole_size"]
    if len(entry):
        limit = 1 << 63
        if not (numpy.all(entry < tree.entries) and numpy.all(offset < limit) and numpy.all(size < limit)):
            raise FormatError(f"{what}: a hole of no file")
        same = entry[1:] == entry[:-1]
        if not (numpy.all(tree["kind"][entry] == FILE) and numpy.all(offset + size <= tree["size"][entry])):
            raise FormatError(f"{what}: a hole of no file, or beyond its end")
        ordered = numpy.where(same, offset[1:] > (offset + size)[:-1], entry[1:] > entry[:-1])
        if not (numpy.all(ordered) and numpy.all(size > 0)):
            raise FormatError(f"{what}: holes out of order")
    first, count = tree["run_first"], tree["run_count"]
    chunks = total(count)
    if chunks != total(tree["chunks"]):
        raise FormatError(f"{what}: {chunks} chunks, its files have {total(tree['chunks'])}")
    if chunks > MAX_CHUNKS:
        raise LimitError(f"{what}: {chunks} chunks, more than {MAX_CHUNKS}")
    step = tree["run_step"]
    last = first + (count - 1).astype("u8") * step
    apart = (first[1:] != last[:-1]) & ((step[1:] == 0) | (step[:-1] == 0) | (first[1:] != last[:-1] + 1))
    good = (count > 0) & (first < 1 << 40) & ((step == 1) | ((step == 0) & (count > 1)))
    if not (numpy.all(good) and numpy.all(apart)):
        raise FormatError(f"{what}: runs of chunks that are none, or one run in two parts")


def _check_paths(tree: Tree, what: str) -> None:
    """Names are components, no directory has one twice, and no path is longer than the kernel takes."""
    if b"\0" in tree.names or b"/" in tree.names:
        raise UnsafeError(f"{what}: a name with a slash or a NUL byte")
    parents = array("I", tree["parent"].tobytes())
    lengths = array("H", bytes(2 * tree.entries))
    hashes = array("q", bytes(8 * tree.entries))  # 8 bytes an entry: the names themselves in a set would take 200
    for entry, (parent, name) in enumerate(zip(parents, names(tree), strict=True)):
        if entry == 0:
            continue
        if name in (b"", b".", b".."):
            raise UnsafeError(f"{what}: entry {entry}: {name!r} is not a name")
        length = lengths[parent] + 1 + len(name)
        if length > MAX_PATH + 1:
            raise LimitError(f"{what}: entry {entry}: a path of more than {MAX_PATH} bytes")
        lengths[entry] = length
        hashes[entry] = hash((parent, name))
    _check_twice(tree, hashes, what)


def _check_twice(tree: Tree, hashes: array[int], what: str) -> None:
    """No name is there twice in one directory: of equal hashes the names themselves are compared."""
    import numpy

    known = numpy.frombuffer(hashes, "i8")
    ordered = numpy.sort(known[1:])  # the root has no name
    alike = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(alike):
        return
    ends = tree["name_size"].cumsum(dtype="u8")
    seen: set[tuple[int, bytes]] = set()
    for entry in (numpy.flatnonzero(numpy.isin(known[1:], alike)) + 1).tolist():
        end = int(ends[entry])
        found = int(tree["parent"][entry]), tree.names[end - int(tree["name_size"][entry]) : end]
        if found in seen:
            raise FormatError(f"{what}: entry {entry}: {path(tree, entry)!r:.200} is there twice")
        seen.add(found)


def names(tree: Tree) -> Iterator[bytes]:
    """The name of each entry."""
    start = 0
    for size in tree["name_size"].tobytes():
        yield tree.names[start : start + size]
        start += size


def path(tree: Tree, entry: int) -> str:
    """Of one entry, for messages; costs a pass over all names."""
    starts = tree["name_size"].cumsum(dtype="u8")
    parts: list[bytes] = []
    while entry:
        end = int(starts[entry])
        parts.append(tree.names[end - int(tree["name_size"][entry]) : end])
        entry = int(tree["parent"][entry])
    return b"/".join(reversed(parts)).decode("utf-8", "replace")
