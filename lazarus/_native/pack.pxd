# The C side of pack.pyx.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from lazarus._native.check cimport lz_detail, lz_step, lz_sys
from lazarus._native.index cimport lz_index

cdef extern from "base/lz_mem.h":
    struct lz_buf:
        uint8_t *data
        size_t size
    int lz_buf_append(lz_buf *buf, const void *bytes, size_t size) nogil
    void lz_buf_free(lz_buf *buf) nogil
    void *lz_alloc_array(size_t count, size_t size) nogil

cdef extern from "tree/lz_diff.h":
    struct lz_change:
        int change
        int kind
        const char *path
        size_t path_size
        bint content
        uint64_t size
    struct lz_diff_source:
        int upper_fd
        int maps_fd
        bint user_xattr
        const lz_index *lower
        const int *layer_fds
        int objects_fd
    struct lz_pack_options:
        bint clamp_mtime
        int64_t max_mtime
    int lz_diff(const lz_sys *sys, const lz_diff_source *source,
                int (*report)(void *ctx, const lz_change *change) noexcept nogil, void *ctx, lz_detail *detail) nogil
    int lz_pack_upper(const lz_sys *sys, const lz_diff_source *source, const lz_pack_options *options, int out_fd,
                      uint64_t *size, lz_detail *detail) nogil
    int lz_pack_tree(const lz_sys *sys, int source_fd, const char *root_name, bint cross_mounts,
                     const lz_pack_options *options, int out_fd, uint64_t *size, lz_detail *detail) nogil

cdef extern from "tree/lz_unpack.h":
    struct lz_unpack_options:
        bint keep_owner
        bint keep_xattrs
        bint no_replace_directory
    int lz_unpack(const lz_sys *sys, int in_fd, int dir_fd, const lz_unpack_options *options, const lz_step *step,
                  uint64_t *entries, lz_detail *detail) nogil
