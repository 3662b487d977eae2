"""A layer's index or a stack's merged one, mapped into memory (csrc/bytes/lz_index.h), and the merge of several."""

import mmap
import os
from typing import NamedTuple

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from lazarus._native.check cimport check, lz_detail, lz_sys, lz_sys_linux

cdef extern from "bytes/lz_index.h":
    struct lz_entry:
        uint64_t size, data_offset
        int64_t mtime
        uint8_t digest[32]
        uint32_t mtime_nsec, uid, gid, parent, first_child, child_count, link, link_count, major, minor, layer
        uint16_t path_size, mode
        uint8_t kind, flags
    struct lz_object_ref:
        uint8_t digest[32]
        uint64_t size
    struct lz_xattr:
        const char *name
        size_t name_size
        const uint8_t *value
        size_t value_size
    struct lz_index:
        const lz_entry *entries
        const uint8_t (*layers)[32]
        const lz_object_ref *objects
        uint32_t entry_count, layer_count, object_count
    int lz_index_open(const void *bytes, uint64_t size, lz_index *out, lz_detail *detail) nogil
    uint64_t lz_path_hash(const char *path, size_t size) nogil
    int64_t lz_index_find(const lz_index *index, const char *path, size_t size) nogil
    const char *lz_index_path(const lz_index *index, uint32_t entry) nogil
    const char *lz_index_target(const lz_index *index, uint32_t entry) nogil
    int lz_index_next_xattr(const lz_index *index, uint32_t entry, uint32_t *cursor, lz_xattr *out) nogil

cdef extern from "tree/lz_tree.h":
    struct lz_tree:
        pass
    int lz_tree_new(const void *limits, lz_tree **out) nogil
    void lz_tree_free(lz_tree *tree) nogil
    void lz_tree_begin_stack(lz_tree *tree) nogil
    int lz_tree_apply(lz_tree *tree, const lz_index *layer, const uint8_t *diff_id, lz_detail *detail) nogil
    int lz_tree_write(const lz_sys *sys, lz_tree *tree, int fd, uint64_t inline_size, uint32_t *count,
                      lz_detail *detail) nogil

_KINDS = (None, "directory", "file", "symlink", "char", "block", "fifo", "socket", "whiteout")


class Entry(NamedTuple):
    """One entry, decoded; the fields are those of struct lz_entry, times in nanoseconds."""

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


cdef class Index:
    """An index file, checked when it is opened (O(entries)). Everything it gives out is copied, so it may be closed at any time."""

    cdef lz_index index
    cdef object _map
    cdef const uint8_t[::1] _bytes

    def __init__(self, path):
        """Opens a path, or an open descriptor (which stays the caller's)."""
        cdef lz_detail detail
        cdef int rc
        cdef uint64_t size
        detail.text[0] = 0
        fd = path if isinstance(path, int) else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            check(-10002 if size == 0 else 0, NULL, None if isinstance(path, int) else path)
            self._map = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        finally:
            if not isinstance(path, int):
                os.close(fd)
        self._bytes = self._map
        with nogil:
            rc = lz_index_open(&self._bytes[0], size, &self.index, &detail)
        if rc < 0:
            self.close()
        check(rc, &detail, None if isinstance(path, int) else path)

    def close(self):
        """Unmaps the file. Nothing may be asked afterwards; a second call is harmless."""
        self.index = lz_index(NULL, NULL, NULL, 0, 0, 0)
        self._bytes = None
        if self._map is not None:
            self._map.close()
            self._map = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __len__(self):
        return self.index.entry_count

    @property
    def layers(self):
        """The 32 raw bytes of each layer's diff ID, lowest first (a layer's own index has one row of zeros)."""
        return [(<const uint8_t *> self.index.layers[i])[:32] for i in range(self.index.layer_count)]

    def find(self, bytes path):
        """Entry number of an exact path without a leading slash (b"" is the root), or -1."""
        cdef int64_t found = lz_index_find(&self.index, path, len(path)) if self.index.entry_count else -1
        return -1 if found < 0 else found

    def entry(self, uint32_t number):
        """One entry, decoded; IndexError when there is no such number."""
        if number >= self.index.entry_count:
            raise IndexError(number)
        cdef const lz_entry *e = &self.index.entries[number]
        cdef lz_xattr xattr
        cdef uint32_t cursor = 0
        xattrs = {}
        while lz_index_next_xattr(&self.index, number, &cursor, &xattr) == 1:
            xattrs[xattr.name[:xattr.name_size]] = xattr.value[:xattr.value_size]
        target = lz_index_target(&self.index, number)[:e.size] if e.kind == 3 else None
        return Entry(number, lz_index_path(&self.index, number)[:e.path_size], _KINDS[e.kind], e.mode, e.uid, e.gid, e.size,
                     e.mtime * 1000000000 + e.mtime_nsec, (<const uint8_t *> e.digest)[:32], target, xattrs, e.major, e.minor,
                     e.link, e.link_count, e.layer, e.flags, e.data_offset)

    def __iter__(self):
        """Every entry, in directory order."""
        for number in range(self.index.entry_count):
            yield self.entry(number)

    def children(self, uint32_t number):
        """The entry numbers of a directory's children, a range sorted by name."""
        if number >= self.index.entry_count:
            raise IndexError(number)
        cdef const lz_entry *e = &self.index.entries[number]
        return range(e.first_child, e.first_child + e.child_count)

    def objects_bytes(self):
        """The object table as it lies in the file: 40 bytes a row (SHA-256, size as little-endian 64 bits)."""
        return (<const uint8_t *> self.index.objects)[:self.index.object_count * sizeof(lz_object_ref)]


def merge(layer_indexes, diff_ids, out):
    """Lays layer indexes (paths, lowest first) over one another and writes the merged index to `out`; returns its entry count.

    `diff_ids` are the 32 raw bytes of each. `out` is created, not synced. O(entries of all layers).
    """
    cdef lz_tree *tree = NULL
    cdef lz_detail detail
    cdef uint32_t count = 0
    cdef int rc, fd
    cdef Index layer
    cdef bytes diff_id
    cdef const uint8_t *raw
    detail.text[0] = 0
    check(lz_tree_new(NULL, &tree), NULL)
    try:
        lz_tree_begin_stack(tree)
        for path, diff_id in zip(layer_indexes, diff_ids, strict=True):
            if len(diff_id) != 32:
                raise ValueError("a diff ID of 32 bytes is needed")
            raw = diff_id
            with Index(path) as layer:
                with nogil:
                    rc = lz_tree_apply(tree, &layer.index, raw, &detail)
            check(rc, &detail, path)
        fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            with nogil:
                rc = lz_tree_write(lz_sys_linux(), tree, fd, 0, &count, &detail)
        finally:
            os.close(fd)
        check(rc, &detail, out)
    finally:
        lz_tree_free(tree)
    return count
