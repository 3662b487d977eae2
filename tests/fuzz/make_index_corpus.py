"""Writes corpus/lz_index/: small index files whose names say what they are; `should-fail-*` must be refused.

    python3 tests/fuzz/make_index_corpus.py            writes the files
    python3 tests/fuzz/make_index_corpus.py --check    exit status 1 when the files are not what it would write

The layout is put together here from the comment in csrc/bytes/lz_index.h, and not by the writer in csrc/tree: most of
these files it would not write. Checksums are right, except where the name says otherwise.
"""

from __future__ import annotations

import hashlib
import stat
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import xxhash

CORPUS = Path(__file__).parent / "corpus" / "lz_index"
HEADER, INLINE = 512, 4096
DIRECTORY, FILE, SYMLINK, CHAR, BLOCK, FIFO, SOCKET, WHITEOUT = range(1, 9)
FORMATS = (0, stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, 0)
OPAQUE, IMPLICIT, IN_INDEX, OBJECT = 1, 2, 4, 8
SELF, OTHER = bytes(32), bytes(range(32))


@dataclass(frozen=True)
class Entry:
    """One entry; what is None follows from the others."""

    path: bytes
    kind: int = FILE
    content: bytes = b""  # or a symlink's target
    flags: int | None = None
    size: int | None = None
    data_offset: int | None = None
    parent: int | None = None
    first_child: int | None = None
    child_count: int | None = None
    link: int | None = None
    link_count: int | None = None
    name_size: int | None = None
    mode: int | None = None
    mtime_nsec: int = 123
    xattrs: bytes = b""
    xattr_offset: int | None = None
    device: tuple[int, int] = (0, 0)
    layer: int = 0


@dataclass(frozen=True)
class Index:
    """A whole file; `patch` changes the bytes before the checksums are set, `late` after."""

    entries: tuple[Entry, ...]
    layers: tuple[bytes, ...] = (SELF,)
    objects: tuple[bytes, ...] = ()
    slots: tuple[int, ...] | None = None
    header: dict[str, tuple[int, int]] = field(default_factory=dict)
    patch: Callable[[bytearray], None] = lambda data: None
    late: Callable[[bytearray], None] = lambda data: None


def xattr(name: bytes, value: bytes, name_size: int | None = None, value_size: int | None = None) -> bytes:
    """One record, padded to four bytes."""
    sizes = (
        len(value) if value_size is None else value_size,
        len(name) if name_size is None else name_size,
    )
    data = struct.pack("<IHH", *sizes, 0) + name + value
    return data + bytes(-len(data) % 4)


def pack(index: Index) -> bytes:
    """The bytes of an index."""
    numbers = {entry.path: number for number, entry in reversed(list(enumerate(index.entries)))}
    parents = [numbers[entry.path.rpartition(b"/")[0]] for entry in index.entries]
    inline, strings, xattrs, table = bytearray(), bytearray(), bytearray(), bytearray()
    for number, entry in enumerate(index.entries):
        children = [n for n, parent in enumerate(parents) if n > 0 and parent == number]
        content_flag = IN_INDEX if entry.kind == FILE and entry.content else 0
        data_offset = len(inline)
        path_offset = len(strings)
        strings += entry.path + b"\0"
        if entry.kind == SYMLINK:
            data_offset = len(strings)
            strings += entry.content + b"\0"
        elif entry.flags is None:
            inline += entry.content
        name_size = len(entry.path.rpartition(b"/")[2])
        table += struct.pack(
            "<QQqQ32s14I3H2B",
            xxhash.xxh3_64_intdigest(entry.path),
            len(entry.content) if entry.size is None else entry.size,
            1_000_000_000,
            data_offset if entry.data_offset is None else entry.data_offset,
            hashlib.sha256(entry.content).digest() if entry.kind == FILE else b"",
            entry.mtime_nsec,
            1000,
            100,
            parents[number] if entry.parent is None else entry.parent,
            (children[0] if children else 0) if entry.first_child is None else entry.first_child,
            len(children) if entry.child_count is None else entry.child_count,
            number if entry.link is None else entry.link,
            1 if entry.link_count is None else entry.link_count,
            path_offset,
            len(xattrs) if entry.xattr_offset is None else entry.xattr_offset,
            len(entry.xattrs),
            *entry.device,
            entry.layer,
            len(entry.path),
            name_size if entry.name_size is None else entry.name_size,
            FORMATS[entry.kind] | (0 if entry.kind == WHITEOUT else 0o644) if entry.mode is None else entry.mode,
            entry.kind,
            content_flag if entry.flags is None else entry.flags,
        )
        xattrs += entry.xattrs
    sections = {
        "inline": bytes(inline),
        "entries": bytes(table),
        "slots": slots_of(index),
        "strings": bytes(strings),
        "xattrs": bytes(xattrs),
        "layers": b"".join(index.layers),
        "objects": b"".join(index.objects),
    }
    return assemble(index, sections)


def slots_of(index: Index) -> bytes:
    """The hash table: twice as many slots as entries, and so many more that they are a power of two."""
    if index.slots is not None:
        return b"".join(struct.pack("<II", 0, number) for number in index.slots)
    count = 2
    while count < 2 * len(index.entries):
        count *= 2
    slots = [(0, 0)] * count
    for number, entry in enumerate(index.entries):
        hashed = xxhash.xxh3_64_intdigest(entry.path)
        at = hashed % count
        while slots[at] != (0, 0):
            at = (at + 1) % count
        slots[at] = (hashed >> 32, number + 1)
    return b"".join(struct.pack("<II", *slot) for slot in slots)


def assemble(index: Index, sections: dict[str, bytes]) -> bytes:
    """Header, inline data, table, checksums."""
    data = bytearray(INLINE)
    places: dict[str, tuple[int, int]] = {}
    for name, section in sections.items():
        places[name] = (len(data), len(section))
        data += section + bytes(-len(section) % 8)
    table_at = places["entries"][0]
    places |= index.header
    ranges = b"".join(struct.pack("<QQ", *places[name]) for name in sections)
    struct.pack_into("<8sIIQ", data, 0, b"LZINDEX\x01", 1, len(index.entries), len(data))
    data[24 : 24 + len(ranges)] = ranges
    index.patch(data)
    struct.pack_into("<Q", data, 24 + len(ranges), xxhash.xxh3_64_intdigest(bytes(data[table_at:])))
    struct.pack_into("<Q", data, HEADER - 8, xxhash.xxh3_64_intdigest(bytes(data[: HEADER - 8])))
    index.late(data)
    return bytes(data)


ROOT = Entry(b"", DIRECTORY)
TREE = (
    ROOT,
    Entry(b"a", content=b"hello"),
    Entry(b"d", DIRECTORY),
    Entry(b"link", SYMLINK, b"d/x"),
    Entry(b"d/x"),
    Entry(b"d/y", content=b"yes"),
)


def tree(**changes: Entry) -> tuple[Entry, ...]:
    """TREE with some entries replaced: `_2=...` is entry 2."""
    return tuple(changes.get(f"_{number}", entry) for number, entry in enumerate(TREE))


def bytes_at(offset: int, value: bytes) -> Callable[[bytearray], None]:
    """A change of some bytes."""

    def change(data: bytearray) -> None:
        data[offset : offset + len(value)] = value

    return change


def object_ref(first: int, size: int) -> bytes:
    """An object of the table."""
    return bytes([first]) * 32 + struct.pack("<Q", size)


def good() -> dict[str, Index]:
    """Indexes that must open."""
    many = tuple(Entry(b"%03d" % number, FIFO) for number in range(20))
    kinds = (
        ROOT,
        Entry(b"block", BLOCK, device=(8, 17)),
        Entry(b"char", CHAR, device=(1, 3)),
        Entry(b"dir", DIRECTORY, flags=OPAQUE),
        Entry(b"fifo", FIFO),
        Entry(b"file", content=b"content"),
        Entry(b"gone", WHITEOUT),
        Entry(b"made", DIRECTORY, flags=IMPLICIT),
        Entry(b"socket", SOCKET),
        Entry(b"soft", SYMLINK, b"../away"),
    )
    two = (xattr(b"user.a", b"1"), xattr(b"user.b", b"\0" * 5))
    return {
        "stack-of-no-layers": Index((ROOT,), layers=()),
        "root-alone": Index((ROOT,)),
        "every-kind": Index(kinds),
        "tree": Index(TREE),
        "many-children": Index((ROOT, *many)),
        "long-name": Index((ROOT, Entry(b"n" * 255))),
        "name-of-odd-bytes": Index((ROOT, Entry(b"\x01\xff\n "))),
        "hard-links": Index(
            (
                ROOT,
                Entry(b"a", content=b"x", link_count=3),
                Entry(b"b", content=b"x", link=1, link_count=3),
                Entry(b"c", content=b"x", link=1, link_count=3),
            )
        ),
        "objects": Index(
            (ROOT, Entry(b"big", flags=OBJECT, size=1 << 40)), objects=(object_ref(1, 1 << 40), object_ref(2, 0))
        ),
        "xattrs": Index((ROOT, Entry(b"a", xattrs=b"".join(two)), Entry(b"b", xattrs=xattr(b"user.c", b"")))),
        "stack-of-two-layers": Index(
            (ROOT, Entry(b"a", flags=IN_INDEX, size=99, layer=1), Entry(b"b", flags=IN_INDEX, size=1 << 30)),
            layers=(OTHER, OTHER[::-1]),
        ),
    }


def bad_headers() -> dict[str, Index]:
    """Indexes whose header is refused."""
    base = Index(TREE)
    return {
        "magic": replace(base, late=bytes_at(7, b"\2")),
        "magic-of-a-big-endian-host": replace(base, late=lambda data: data.__setitem__(slice(0, 8), data[7::-1])),
        "version-2": replace(base, late=bytes_at(8, b"\2")),
        "header-checksum": replace(base, late=bytes_at(400, b"\1")),
        "table-checksum": replace(base, late=lambda data: data.__setitem__(-1, data[-1] ^ 1)),
        "cut": replace(base, late=lambda data: data.__delitem__(slice(-8, None))),
        "cut-in-the-header": replace(base, late=lambda data: data.__delitem__(slice(100, None))),
        "bytes-after-the-end": replace(base, late=lambda data: data.extend(bytes(8))),
        "no-entries": replace(base, patch=bytes_at(12, bytes(4)), header={"entries": (INLINE + 8, 0)}),
        "more-entries-than-table": replace(base, patch=bytes_at(12, struct.pack("<I", 7))),
        "section-past-the-end": replace(base, header={"strings": (INLINE + 8, 1 << 20)}),
        "section-wraps": replace(base, header={"strings": ((1 << 64) - 8, 16)}),
        "section-before-the-table": replace(base, header={"strings": (HEADER, 64)}),
        "section-not-aligned": replace(base, header={"layers": (INLINE + 12, 32)}),
        "section-of-half-an-item": replace(base, header={"layers": (INLINE + 8, 33)}),
        "entries-in-the-header": replace(base, header={"entries": (64, 6 * 128)}),
        "inline-data-over-the-table": replace(base, header={"inline": (INLINE, 64)}),
        "slots-none": replace(base, slots=()),
        "slots-no-power-of-two": replace(base, slots=(1, 2, 3, 4, 5, 6, 0, 0, 0)),
        "slots-all-used": replace(base, slots=(1, 2, 3, 4, 5, 6, 6, 6)),
        "slots-one-missing": replace(base, slots=(1, 2, 3, 4, 5, 0, 0, 0)),
        "slots-outside": replace(base, slots=(1, 2, 3, 4, 5, 7, 0, 0)),
        "objects-not-sorted": replace(base, objects=(object_ref(2, 1), object_ref(1, 1))),
        "objects-twice": replace(base, objects=(object_ref(1, 1), object_ref(1, 1))),
    }


def bad_entries() -> dict[str, Index]:
    """Indexes whose entries are refused."""
    x, y = TREE[4], TREE[5]
    entries = {
        "root-is-a-file": (Entry(b"", child_count=0),),
        "root-has-a-parent": (replace(ROOT, parent=1), Entry(b"a")),
        "mode-of-no-kind": tree(_1=replace(TREE[1], mode=0o644)),
        "time-of-a-second-and-more": tree(_1=replace(TREE[1], mtime_nsec=1_000_000_000)),
        "mode-of-another-kind": tree(_1=replace(TREE[1], mode=stat.S_IFDIR | 0o755)),
        "file-opaque": tree(_4=replace(x, flags=OPAQUE)),
        "file-inline-and-object": tree(_5=replace(y, flags=IN_INDEX | OBJECT)),
        "file-without-content": tree(_5=replace(y, flags=0)),
        "file-past-the-inline-data": tree(_5=replace(y, data_offset=6)),
        "file-offset-wraps": tree(_5=replace(y, data_offset=(1 << 64) - 1)),
        "symlink-past-the-strings": tree(_3=replace(TREE[3], data_offset=1 << 40)),
        "symlink-longer-than-its-text": tree(_3=replace(TREE[3], size=4)),
        "symlink-too-long": tree(_3=replace(TREE[3], content=b"t" * 4096)),
        "layer-outside": tree(_1=replace(TREE[1], layer=1)),
        "name-of-dots": tree(_4=Entry(b"d/..")),
        "name-empty": tree(_4=replace(x, name_size=0)),
        "name-not-all-of-it": tree(_4=Entry(b"d/xx", name_size=1)),
        "name-too-long": (ROOT, Entry(b"n" * 256)),
        "name-twice": tree(_5=x),
        "names-not-sorted": tree(_4=y, _5=x),
        "parent-is-itself": tree(_4=replace(x, parent=4)),
        "parent-is-later": tree(_4=replace(x, parent=5)),
        "parent-is-a-file": tree(_4=replace(x, parent=1)),
        "parent-of-another-name": tree(_4=replace(x, parent=0)),
        "children-outside": tree(_2=replace(TREE[2], child_count=3)),
        "children-before-it": tree(_2=replace(TREE[2], first_child=1)),
        "children-of-a-file": tree(_1=replace(TREE[1], first_child=4, child_count=1)),
        "children-of-two-parents": tree(_0=replace(ROOT, child_count=5)),
        "link-to-a-later-entry": tree(_4=replace(x, link=5)),
        "link-to-another-kind": tree(_4=replace(x, link=3)),
        "link-of-a-directory": tree(_2=replace(TREE[2], link=0)),
        "link-count-zero": tree(_4=replace(x, link_count=0)),
        "link-counts-differ": (ROOT, Entry(b"a", link_count=2), Entry(b"b", link=1, link_count=3)),
        "xattr-name-empty": tree(_4=replace(x, xattrs=xattr(b"", b"value"))),
        "xattr-name-too-long": tree(_4=replace(x, xattrs=xattr(b"n" * 256, b""))),
        "xattr-value-too-long": tree(_4=replace(x, xattrs=xattr(b"n", b"v" * 65537))),
        "xattr-past-its-entry": tree(_4=replace(x, xattrs=xattr(b"n", b"", value_size=100))),
        "xattr-cut": tree(_4=replace(x, xattrs=xattr(b"n", b"")[:4])),
        "xattr-not-aligned": tree(_4=replace(x, xattrs=xattr(b"n", b""), xattr_offset=2)),
        "xattr-outside": tree(_4=replace(x, xattrs=xattr(b"n", b""), xattr_offset=1 << 31)),
    }
    return {name: Index(value) for name, value in entries.items()}


def corpus() -> dict[str, bytes]:
    """Every index by its file name."""
    bad = {f"should-fail-{name}": pack(index) for name, index in (bad_headers() | bad_entries()).items()}
    return {name: pack(index) for name, index in good().items()} | bad | {"should-fail-empty": b""}


def main(arguments: list[str]) -> int:
    """Writes the corpus, or compares it with what lies there."""
    files = corpus()
    if arguments == ["--check"]:
        found = {path.name: path.read_bytes() for path in CORPUS.iterdir()}
        for name in sorted(files.keys() | found.keys()):
            if files.get(name) != found.get(name):
                print(f"corpus/lz_index/{name}: not what this script writes", file=sys.stderr)
        return int(files != found)
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (CORPUS / name).write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
