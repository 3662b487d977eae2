/* lz_chunked_plan.h - the inside of a plan (internal to lz_chunked_plan.c and lz_chunked_rebuild.c). */
#ifndef LZ_CHUNKED_PLAN_H
#define LZ_CHUNKED_PLAN_H

#include "../bytes/lz_toc.h"
#include "lz_chunked_read.h"

/* Where a file's content is. */
enum lz_chunked_place { LZ_CHUNKED_IN_BLOB = 0, LZ_CHUNKED_IN_OBJECT, LZ_CHUNKED_IN_LAYER };

struct lz_chunked_found {
    enum lz_chunked_place place;
    uint32_t layer;  /* number */
    uint64_t offset; /* in its inline data */
};

struct lz_chunked_plan {
    const struct lz_sys *sys;
    struct lz_chunked_tail_bytes tail;
    int objects_fd;
    const struct lz_index *const *layers;
    size_t layer_count;
    char *text; /* of the table */
    struct lz_toc toc;
    bool has_tar_split;
    struct lz_chunked_found *found; /* for each file of the table */
    struct lz_chunked_range *ranges;
    size_t range_count, range_capacity;
    struct lz_chunked_need need;
};

/* "ab/cdef..." of a digest, with a NUL. */
void lz_chunked_object_path(const uint8_t digest[LZ_SHA256_SIZE], char path[LZ_SHA256_HEX_SIZE + 2]);

#endif
