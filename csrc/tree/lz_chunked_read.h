/* lz_chunked_read.h - the tar of a zstd:chunked layer out of what a store has, and of parts of the blob.
 *
 * A plan says which ranges of the blob have to be fetched: of files whose SHA-256 is neither an object of the store nor
 * an inline file of one of its layers; and the bytes between files, if there is no tar-split that has the headers. Ranges
 * that are close to each other are one. rebuild() then writes the tar while it reads those ranges, one after the other.
 *
 * Nothing here makes the tar trusted. What is fetched is compared with the digest in the table, so that a failure has a
 * name; but whether all of it is the right tar, its digest alone tells, and the caller has to compare that.
 */
#ifndef LZ_CHUNKED_READ_H
#define LZ_CHUNKED_READ_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"
#include "../bytes/lz_index.h"

#define LZ_CHUNKED_TOC_MAX (64u << 20)       /* bytes of the table, inflated */
#define LZ_CHUNKED_TAR_SPLIT_MAX (64u << 20) /* of the tar-split, as it is in the blob */
#define LZ_CHUNKED_LINE_MAX (32u << 20)      /* of a line of it */

/* What was fetched of the end of a blob; the bytes stay the caller's until the plan is freed. */
struct lz_chunked_tail_bytes {
    const uint8_t *toc;
    size_t toc_size;
    uint64_t toc_plain_size;
    const uint8_t *toc_digest; /* of these bytes, as the manifest says */
    const uint8_t *tar_split;  /* NULL: there is none */
    size_t tar_split_size;
    uint64_t end; /* in the blob, where the frames of the tar end */
};

struct lz_chunked_range {
    uint64_t offset, size; /* in the blob */
};

struct lz_chunked_need {
    uint64_t files, missing;   /* files with content, and those of which none is here */
    uint64_t content, fetched; /* bytes of these, inflated */
    uint64_t wire;             /* bytes of all ranges */
};

struct lz_chunked_plan;

/* `objects_fd` is the store's objects directory, `layers` are indexes of its layers (which stay the caller's, mapped,
 * until the plan is freed). Ranges with up to `gap` bytes between them become one. A tar-split of which the table has no
 * digest is not looked at. 0; LZ_E_CORRUPT (not the digests), LZ_E_FORMAT, LZ_E_LIMIT, LZ_E_UNSUPPORTED; -errno, -ENOMEM.
 * Give back with lz_chunked_plan_free() (NULL is allowed). */
int lz_chunked_plan_new(const struct lz_sys *sys, const struct lz_chunked_tail_bytes *tail, int objects_fd,
                        const struct lz_index *const *layers, size_t layer_count, uint64_t gap,
                        struct lz_chunked_plan **out, struct lz_detail *detail);
void lz_chunked_plan_free(struct lz_chunked_plan *plan);

/* The ranges in ascending order; good as long as the plan. */
const struct lz_chunked_range *lz_chunked_ranges(const struct lz_chunked_plan *plan, size_t *count);
struct lz_chunked_need lz_chunked_need(const struct lz_chunked_plan *plan);

/* Reads the bytes of all ranges, in order, from `wire_fd` and writes the tar to `out_fd`, at most `max_size` bytes
 * (LZ_E_LIMIT). Once for each plan. LZ_E_CORRUPT, which names the file, LZ_E_FORMAT, LZ_E_TRUNCATED, -errno. 1.5 MiB. */
int lz_chunked_rebuild(struct lz_chunked_plan *plan, int wire_fd, int out_fd, uint64_t max_size,
                       struct lz_detail *detail);

#endif
