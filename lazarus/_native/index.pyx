"""A layer's index or a stack's merged one, mapped into memory (csrc/bytes/lz_index.h), and the merge of several."""

import mmap
import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

from lazarus._native.check cimport check, lz_detail, lz_sys_linux
from lazarus._native.entry import Entry

_KINDS = (None, "directory", "file", "symlink", "char", "block", "fifo", "socket", "whiteout")  # enum lz_kind


cdef class Index:
    """An index file, checked in whole when it is opened (O(entries), about 1 ms for 17,000). Index files never change.

    What it gives out are copies, so it may be closed at any time; asked after that, it raises ValueError. The two
    views, `entries_buffer` and `inline_buffer`, keep the mapping alive for themselves.
    """

    def __init__(self, path):
        """Opens a path, or an open descriptor (which stays the caller's). FormatError, CorruptError or OSError."""
        cdef lz_detail detail
        cdef int rc
        detail.text[0] = 0
        given = isinstance(path, int)
        name = None if given else os.fspath(path)
        self.close()
        fd = path if given else os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size == 0:  # which mmap() refuses
                check(lz_index_open(NULL, 0, &self.index, &detail), &detail, name)
            self.mapping = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        finally:
            if not given:
                os.close(fd)
        PyObject_GetBuffer(self.mapping, &self.buffer, PyBUF_SIMPLE)
        with nogil:
            rc = lz_index_open(self.buffer.buf, <uint64_t> self.buffer.len, &self.index, &detail)
        if rc < 0:
            self.close()
        check(rc, &detail, name)

    def close(self):
        """Gives the mapping back; a second call is harmless."""
        self.index.entries = NULL
        self.mapping = None
        PyBuffer_Release(&self.buffer)

    def __dealloc__(self):
        PyBuffer_Release(&self.buffer)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    cdef const lz_index *open(self) except NULL:
        if self.index.entries == NULL:
            raise ValueError("the index is closed")
        return &self.index

    cdef const lz_entry *at(self, int64_t number) except NULL:
        if not 0 <= number < self.open().entry_count:
            raise IndexError(f"entry {number} of {self.index.entry_count}")
        return &self.index.entries[number]

    def __len__(self):
        return self.open().entry_count

    @property
    def entry_count(self):
        """Entries, the root included."""
        return self.open().entry_count

    @property
    def layers(self):
        """The 32 raw bytes of each layer's diff ID, lowest first (a layer's own index has one row of zeros)."""
        return [(<const uint8_t *> self.index.layers[i])[:32] for i in range(self.open().layer_count)]

    def find(self, bytes path not None):
        """Entry number of an exact path without a leading slash (b"" is the root), or -1. O(1)."""
        return max(lz_index_find(self.open(), path, len(path)), -1)

    def entry(self, int64_t number):
        """One entry, decoded; IndexError when there is no such number."""
        cdef const lz_entry *e = self.at(number)
        cdef uint32_t n = <uint32_t> number, cursor = 0
        cdef lz_xattr xattr
        xattrs = {}
        while lz_index_next_xattr(&self.index, n, &cursor, &xattr) == 1:
            xattrs[xattr.name[:xattr.name_size]] = xattr.value[:xattr.value_size]
        target = lz_index_target(&self.index, n)[:e.size] if e.kind == LZ_KIND_SYMLINK else None
        time = <object> e.mtime * 1000000000 + e.mtime_nsec  # a Python number: 64 bits of seconds are too many
        return Entry(n, lz_index_path(&self.index, n)[:e.path_size], _KINDS[e.kind], e.mode, e.uid, e.gid, e.size, time,
                     (<const uint8_t *> e.digest)[:32], target, xattrs, e.major, e.minor, e.link, e.link_count, e.layer,
                     e.flags, e.data_offset, e.parent)

    def walk(self):
        """Every entry in directory order: a directory before its children, which lie together, sorted by name."""
        for number in range(self.open().entry_count):
            yield self.entry(number)

    def __iter__(self):
        return self.walk()

    def children(self, int64_t number):
        """The entry numbers of a directory's children, a range sorted by name."""
        cdef const lz_entry *e = self.at(number)
        return range(e.first_child, e.first_child + e.child_count)

    def objects_bytes(self):
        """The object table as it lies in the file: 40 bytes a row (SHA-256, size as little-endian 64 bits)."""
        return (<const uint8_t *> self.open().objects)[:self.index.object_count * sizeof(lz_object_ref)]

    def objects(self):
        """(SHA-256 as 32 bytes, size) of every object that the layer's tar refers to, sorted; none in a merged one."""
        for number in range(self.open().object_count):
            self.open()
            yield (<const uint8_t *> self.index.objects[number].digest)[:32], self.index.objects[number].size

    @property
    def entries_buffer(self):
        """The raw entries, 128 bytes each, read-only and without a copy; see entry.ENTRY_FIELDS."""
        start = <const uint8_t *> self.open().entries - <const uint8_t *> self.buffer.buf
        return memoryview(self.mapping)[start:start + self.index.entry_count * sizeof(lz_entry)]

    @property
    def inline_buffer(self):
        """The contents of small files, read-only and without a copy; an entry's begins at its data_offset. Unchecked:
        each entry has its digest."""
        section = self.open().header.inline_data
        return memoryview(self.mapping)[section.offset:section.offset + section.size]


def hash_path(bytes path not None):
    """The `path_hash` of a path: XXH3-64."""
    return lz_path_hash(path, len(path))


def merge(layer_indexes, diff_ids, out, *, bint keep_whiteouts=False):
    """Lays layer indexes (paths, lowest first) over one another and writes the merged index to `out`.

    `diff_ids` are the 32 raw bytes of each. `out` is a path, made with mode 0644, not synced, and removed again on
    failure, or an empty file's descriptor. `keep_whiteouts`: for a union that has something else below. Returns its
    entry count. O(entries of all layers). Raises what `Index` does, LimitError or OSError.
    """
    cdef lz_tree *tree = NULL
    cdef lz_detail detail
    cdef uint32_t count = 0
    cdef int rc = 0, fd
    cdef Index layer
    cdef bytes diff_id
    cdef const uint8_t *raw
    detail.text[0] = 0
    check(lz_tree_new(NULL, &tree), NULL)
    try:
        if keep_whiteouts:
            lz_tree_begin_part(tree)
        else:
            lz_tree_begin_stack(tree)
        for path, diff_id in zip(layer_indexes, diff_ids, strict=True):
            if diff_id is None or len(diff_id) != 32:
                raise ValueError("a diff ID of 32 bytes is needed")
            raw = diff_id
            with Index(path) as layer:
                with nogil:
                    rc = lz_tree_apply(tree, &layer.index, raw, &detail)
            check(rc, &detail, os.fspath(path))
        given = isinstance(out, int)
        fd = out if given else os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            with nogil:
                rc = lz_tree_write(lz_sys_linux(), tree, fd, 0, &count, &detail)
        finally:
            if not given:
                os.close(fd)
        if rc < 0 and not given:
            os.unlink(out)
        check(rc, &detail, None if given else os.fspath(out))
    finally:
        lz_tree_free(tree)
    return count
