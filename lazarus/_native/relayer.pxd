# The C side of relayer.pyx.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from lazarus._native.check cimport lz_detail, lz_sys
from lazarus._native.index cimport lz_index

cdef extern from "tree/lz_relayer.h":
    struct lz_relayer_layer:
        const lz_index *index
        int recipe_fd
        const uint8_t *take
    struct lz_relayer_plan:
        const lz_relayer_layer *layers
        size_t layer_count
        const lz_index *below
        bint list_parents
        int objects_fd, staging_fd
        int (*step)(void *ctx, uint64_t tar_bytes) noexcept nogil
        void *ctx
    struct lz_relayer_result:
        uint8_t diff_id[32]
        uint64_t tar_size, entry_count, content_size, object_count, inline_bytes
    struct lz_relayer_pattern:
        const char *text
        size_t size
    int lz_relayer_write(const lz_sys *sys, const lz_relayer_plan *plan, lz_relayer_result *result,
                         lz_detail *detail) nogil
    int64_t lz_relayer_match(const lz_index *layer, const lz_relayer_pattern *patterns, size_t count,
                             uint8_t *matched) nogil
    void lz_relayer_take(const lz_index *layer, const uint8_t *matched, bint side, uint8_t *take) nogil

cdef extern from "tree/lz_compare.h":
    struct lz_view_change:
        int change
        uint32_t differs
        int kind
        const char *path
        size_t path_size
        uint64_t old_size, size
    struct lz_compare:
        pass
    int lz_compare_new(const lz_index *before, const lz_index *after, lz_compare **out) nogil
    int lz_compare_next(lz_compare *compare, lz_view_change *out) nogil
    void lz_compare_free(lz_compare *compare) nogil
