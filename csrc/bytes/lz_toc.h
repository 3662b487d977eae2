/* lz_toc.h - the table of contents of a zstd:chunked layer, read strictly (lz_toc_write.h has the format).
 *
 * Only what says where contents lie counts here: sizes, digests, offsets. Names are for messages and nothing else.
 */
#ifndef LZ_TOC_H
#define LZ_TOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "lz_digest.h"
#include "lz_json.h"

/* Of files, and of chunks: 100 bytes of memory each. An entry of a table of 64 MiB that is one needs more text. */
#define LZ_TOC_ENTRIES_MAX (1u << 20)

struct lz_toc_chunk {
    uint64_t offset, end; /* in the blob: whole zstd frames */
    uint64_t size;        /* what they inflate to */
};

/* An entry that is no chunk; `chunk_count` is 0 where it has no content. */
struct lz_toc_file {
    struct lz_json_text name; /* as the text spells it; points into it */
    uint64_t size;            /* of a regular file; else 0 */
    uint8_t digest[LZ_SHA256_SIZE];
    size_t first_chunk, chunk_count;
};

struct lz_toc {
    struct lz_toc_file *files;
    size_t file_count, file_capacity;
    struct lz_toc_chunk *chunks; /* ascending, none overlaps another */
    size_t chunk_count, chunk_capacity;
    bool has_tar_split;
    uint8_t tar_split_digest[LZ_SHA256_SIZE]; /* of its compressed bytes */
};

/* `end`: in the blob, where frames end. `text` must outlive the table. 0; LZ_E_UNSUPPORTED for another version, and for
 * frames that are not in the order of the entries; LZ_E_FORMAT for what is no table (a file without a digest, chunks that
 * do not make up their file, frames that leave the blob), with the entry's name; LZ_E_LIMIT; -ENOMEM. `{0}` is an empty
 * table; free() may follow a failure. */
int lz_toc_parse(const char *text, size_t size, uint64_t end, struct lz_toc *out, struct lz_detail *detail);
void lz_toc_free(struct lz_toc *toc);

/* A line of tar-split: bytes of the tar, in base64; or a file, of that size. 0 or LZ_E_FORMAT. */
struct lz_tar_split_line {
    bool is_file;
    uint64_t size;
    struct lz_json_text payload;
};
int lz_tar_split_parse(const char *text, size_t size, struct lz_tar_split_line *out);

#endif
