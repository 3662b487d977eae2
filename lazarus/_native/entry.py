"""What one row of an index is, decoded and raw (struct lz_entry of csrc/bytes/lz_index.h)."""

from typing import NamedTuple


class Entry(NamedTuple):
    """One entry, decoded. `mode` has its type bits (0 for a whiteout), `flags` are those of enum lz_flag.

    `kind` is "directory", "file", "symlink", "char", "block", "fifo", "socket" or "whiteout". `link` is the number of
    the hard-link group's first name, its own when alone. `data_offset` is where an inline file's content begins in the
    inline section of layer number `layer`. `target` is a symlink's, else None.
    """

    number: int
    path: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    digest: bytes
    target: bytes | None
    xattrs: dict[bytes, bytes]
    major: int
    minor: int
    link: int
    link_count: int
    layer: int
    flags: int
    data_offset: int
    parent: int


#: The raw row, for `numpy.frombuffer(index.entries_buffer, numpy.dtype(list(ENTRY_FIELDS)))`.
ENTRY_FIELDS: tuple[tuple[str, str] | tuple[str, str, tuple[int]], ...] = (
    ("path_hash", "<u8"),
    ("size", "<u8"),
    ("mtime", "<i8"),
    ("data_offset", "<u8"),
    ("digest", "u1", (32,)),
    ("mtime_nsec", "<u4"),
    ("uid", "<u4"),
    ("gid", "<u4"),
    ("parent", "<u4"),
    ("first_child", "<u4"),
    ("child_count", "<u4"),
    ("link", "<u4"),
    ("link_count", "<u4"),
    ("path_offset", "<u4"),
    ("xattr_offset", "<u4"),
    ("xattr_size", "<u4"),
    ("major", "<u4"),
    ("minor", "<u4"),
    ("layer", "<u4"),
    ("path_size", "<u2"),
    ("name_size", "<u2"),
    ("mode", "<u2"),
    ("kind", "u1"),
    ("flags", "u1"),
)
