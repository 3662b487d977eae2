/* lz_chunked_tail.h - what comes after the tar in a zstd:chunked blob: table, tar-split, footer (internal to
 * lz_chunked_write.c). Both streams are compressed as they grow, and kept so. All 0, -ENOMEM or -EIO.
 */
#ifndef LZ_CHUNKED_TAIL_H
#define LZ_CHUNKED_TAIL_H

#include "../base/lz_mem.h"
#include "../bytes/lz_deflate.h"
#include "lz_chunked.h"

struct lz_tail_stream {
    struct lz_deflate *deflate;
    struct lz_buf packed;
    uint64_t plain_size;
};

struct lz_tail {
    struct lz_tail_stream toc, tar_split;
    struct lz_buf line;
    uint64_t position; /* of the next line of tar-split */
};

/* `{0}` may be freed. */
int lz_tail_open(struct lz_tail *tail);
void lz_tail_free(struct lz_tail *tail);

/* Lines of the table: the caller's text, with the commas between entries. */
int lz_tail_toc(struct lz_tail *tail, const void *text, size_t size);

/* Lines of tar-split: bytes of the tar; and a file, of which only the CRC-64 (ISO) is kept: NULL where there is no
 * content. */
int lz_tail_segment(struct lz_tail *tail, const uint8_t *bytes, size_t size);
int lz_tail_file(struct lz_tail *tail, const char *name, size_t name_size, uint64_t size, const uint64_t *crc64);

/* The three skippable frames, for a blob that has `offset` bytes so far, appended to `out`; `result` is told where they
 * are. */
int lz_tail_finish(struct lz_tail *tail, uint64_t offset, struct lz_buf *out, struct lz_chunked_result *result);

#endif
