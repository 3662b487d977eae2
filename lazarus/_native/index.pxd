# The C side of index.pyx and tree.pyx.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from lazarus._native.check cimport lz_detail, lz_sys

cdef extern from "bytes/lz_index.h":
    enum lz_kind:
        LZ_KIND_DIRECTORY
        LZ_KIND_FILE
        LZ_KIND_SYMLINK
        LZ_KIND_SOCKET
    enum:
        LZ_FLAG_OBJECT
        LZ_PATH_MAX
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
    struct lz_section:
        uint64_t offset, size
    struct lz_index_header:
        lz_section inline_data
    struct lz_index:
        const lz_index_header *header
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
    struct lz_tree_limits:
        uint64_t max_entries, max_text, max_xattrs
    struct lz_tree_node:
        lz_kind kind
        uint32_t mode, uid, gid, major, minor, mtime_nsec
        int64_t mtime
        uint64_t size
        uint8_t flags
        uint8_t digest[32]
        const char *target
        size_t target_size
        const lz_xattr *xattrs
        size_t xattr_count
    int lz_tree_new(const lz_tree_limits *limits, lz_tree **out) nogil
    void lz_tree_free(lz_tree *tree) nogil
    int lz_path_clean(const char *path, size_t size, char *out, lz_detail *detail) nogil
    int lz_tree_add(lz_tree *tree, const char *path, size_t size, const lz_tree_node *node, lz_detail *detail) nogil
    int lz_tree_link(lz_tree *tree, const char *path, size_t size, const char *target, size_t target_size,
                     lz_detail *detail) nogil
    int lz_tree_whiteout(lz_tree *tree, const char *path, size_t size, lz_detail *detail) nogil
    int lz_tree_opaque(lz_tree *tree, const char *path, size_t size, lz_detail *detail) nogil
    int lz_tree_add_object(lz_tree *tree, const uint8_t *digest, uint64_t size) nogil
    void lz_tree_begin_stack(lz_tree *tree) nogil
    void lz_tree_begin_part(lz_tree *tree) nogil
    int lz_tree_apply(lz_tree *tree, const lz_index *layer, const uint8_t *diff_id, lz_detail *detail) nogil
    int lz_tree_write(const lz_sys *sys, lz_tree *tree, int fd, uint64_t inline_size, uint32_t *count,
                      lz_detail *detail) nogil


cdef class Index:
    cdef object __weakref__
    cdef lz_index index
    cdef object mapping
    cdef Py_buffer buffer
    cdef const lz_index *open(self) except NULL
    cdef const lz_entry *at(self, int64_t number) except NULL
