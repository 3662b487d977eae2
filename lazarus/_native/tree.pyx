"""A layer made by hand, without a tar (csrc/tree/lz_tree.h): for tests, and for what else writes a layer's index."""

import os

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from lazarus._native.check cimport check, lz_detail, lz_sys_linux
from lazarus._native.index cimport (
    LZ_FLAG_OBJECT,
    LZ_KIND_FILE,
    LZ_PATH_MAX,
    lz_kind,
    lz_path_clean,
    lz_tree,
    lz_tree_add,
    lz_tree_add_object,
    lz_tree_free,
    lz_tree_limits,
    lz_tree_link,
    lz_tree_new,
    lz_tree_node,
    lz_tree_opaque,
    lz_tree_whiteout,
    lz_tree_write,
    lz_xattr,
    uint8_t,
    uint32_t,
    uint64_t,
)

_KINDS = {"directory": 1, "file": 2, "symlink": 3, "char": 4, "block": 5, "fifo": 6, "socket": 7}  # enum lz_kind


def clean_path(bytes path not None):
    """A path as an archive spells it in the one form of the index: UnsafeError for `..`, LimitError for a long one."""
    cdef char out[LZ_PATH_MAX + 1]
    cdef lz_detail detail
    detail.text[0] = 0
    cdef int size = lz_path_clean(path, len(path), out, &detail)
    check(size, &detail)
    return out[:size]


cdef class TreeBuilder:
    """Entries and marks in any order that a tar could have them, then one `write`.

    Paths are as archives spell them (`clean_path` is applied). Every call raises UnsafeError for a parent that is no
    directory, FormatError for what cannot stand there, LimitError past `max_entries` (0: 16 Mi).
    """

    cdef lz_tree *tree

    def __cinit__(self, uint64_t max_entries=0):
        cdef lz_tree_limits limits = lz_tree_limits(max_entries, 0, 0)
        check(lz_tree_new(&limits, &self.tree), NULL)

    def __dealloc__(self):
        lz_tree_free(self.tree)

    def add(self, bytes path not None, kind, *, uint32_t mode=0o644, uint32_t uid=0, uint32_t gid=0, mtime_ns=0,
            uint64_t size=0, bytes digest=None, bytes target=None, xattrs=None, uint32_t major=0, uint32_t minor=0):
        """An entry of `kind` ("file", "directory", ...). A file's `digest` (32 bytes) and `size` name an object."""
        cdef lz_tree_node node
        cdef lz_detail detail
        cdef lz_xattr *records = NULL
        cdef Py_ssize_t i
        cdef int rc
        detail.text[0] = 0
        memset(&node, 0, sizeof(node))
        node.kind = <lz_kind> (<int> _KINDS[kind])
        node.mode, node.uid, node.gid, node.major, node.minor, node.size = mode, uid, gid, major, minor, size
        node.mtime, node.mtime_nsec = divmod(mtime_ns, 1000000000)
        if digest is not None:
            if len(digest) != 32:
                raise ValueError("a digest of 32 bytes is needed")
            memcpy(node.digest, <const uint8_t *> digest, 32)
        if node.kind == LZ_KIND_FILE and size > 0:
            node.flags = LZ_FLAG_OBJECT
            check(lz_tree_add_object(self.tree, node.digest, size), NULL)
        if target is not None:
            node.target, node.target_size = <const char *> target, len(target)
        cdef list pairs = sorted((xattrs or {}).items())
        records = <lz_xattr *> malloc((len(pairs) + 1) * sizeof(lz_xattr))
        if records == NULL:
            raise MemoryError
        try:
            for i in range(len(pairs)):
                name, value = <bytes?> pairs[i][0], <bytes?> pairs[i][1]
                records[i].name, records[i].name_size = <const char *> name, len(name)
                records[i].value, records[i].value_size = <const uint8_t *> value, len(value)
            node.xattrs, node.xattr_count = records, len(pairs)
            path = clean_path(path)
            rc = lz_tree_add(self.tree, path, len(path), &node, &detail)
        finally:
            free(records)
        check(rc, &detail)

    def link(self, bytes path not None, bytes target not None):
        """A further name for what `target` is now."""
        cdef lz_detail detail
        detail.text[0] = 0
        path, target = clean_path(path), clean_path(target)
        check(lz_tree_link(self.tree, path, len(path), target, len(target), &detail), &detail)

    def whiteout(self, bytes path not None):
        """Hides `path` of lower layers."""
        cdef lz_detail detail
        detail.text[0] = 0
        path = clean_path(path)
        check(lz_tree_whiteout(self.tree, path, len(path), &detail), &detail)

    def opaque(self, bytes path not None):
        """Hides what lower layers have in the directory `path`."""
        cdef lz_detail detail
        detail.text[0] = 0
        path = clean_path(path)
        check(lz_tree_opaque(self.tree, path, len(path), &detail), &detail)

    def write(self, out):
        """Writes the layer's index to the path `out` (made or replaced, not synced); returns its entry count."""
        cdef lz_detail detail
        cdef uint32_t count = 0
        cdef int rc, fd
        detail.text[0] = 0
        fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            with nogil:
                rc = lz_tree_write(lz_sys_linux(), self.tree, fd, 0, &count, &detail)
        finally:
            os.close(fd)
        check(rc, &detail, os.fspath(out))
        return count
