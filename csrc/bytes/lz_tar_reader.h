/* lz_tar_reader.h - the inside of the tar reader: its state, and what lz_tar_read.c asks of lz_tar_block.c (bytes from
 * the source, one header block) and lz_tar_sparse.c (sparse maps).
 *
 * A pointer to a block lies in the source's chunk: it is good until more bytes are asked for.
 */
#ifndef LZ_TAR_READER_H
#define LZ_TAR_READER_H

#include "lz_tar.h"
#include "lz_tar_pax.h"

/* Where a header keeps its fields: POSIX ustar, and GNU tar's and star's where they differ. */
enum {
    LZ_TAR_NAME_AT = 0,
    LZ_TAR_MODE_AT = 100,
    LZ_TAR_UID_AT = 108,
    LZ_TAR_GID_AT = 116,
    LZ_TAR_SIZE_AT = 124,
    LZ_TAR_MTIME_AT = 136,
    LZ_TAR_CHECKSUM_AT = 148,
    LZ_TAR_TYPE_AT = 156,
    LZ_TAR_LINK_AT = 157,
    LZ_TAR_MAGIC_AT = 257,
    LZ_TAR_MAJOR_AT = 329,
    LZ_TAR_MINOR_AT = 337,
    LZ_TAR_PREFIX_AT = 345,
    LZ_TAR_GNU_SPARSE_AT = 386,
    LZ_TAR_GNU_EXTENDED_AT = 482,
    LZ_TAR_GNU_REALSIZE_AT = 483,
    LZ_TAR_STAR_TRAILER_AT = 508,
    LZ_TAR_NAME_SIZE = 100, /* of name and link */
};

struct lz_tar_reader {
    struct lz_tar_source source;
    const uint8_t *chunk; /* what is left of the source's current chunk */
    size_t chunk_size;
    uint64_t offset;       /* bytes consumed */
    uint64_t entry_offset; /* where the current entry's first header is */
    uint64_t content_left, padding_left;
    size_t max_header, header_used;
    uint8_t block[LZ_TAR_BLOCK];                 /* a header that straddles chunks */
    struct lz_buf global, name, link, path, map; /* all are used again for the next entry */
    bool has_name, has_link;                     /* GNU 'L' and 'K' for the coming entry */
    struct lz_pax pax;
    bool ended;
    int failed; /* the code of the first error */
};

/* ---- bytes from the source ---- */

/* Makes sure that there is a chunk: 1, or 0 at the end of the stream. */
int lz_tar_fill(struct lz_tar_reader *reader);

/* Consumes up to `want` bytes of the chunk as literals; *data is what was consumed. 1, or 0 at the end of the stream.
 */
int lz_tar_take_literal(struct lz_tar_reader *reader, uint64_t want, const uint8_t **data, size_t *size);
int lz_tar_skip_literal(struct lz_tar_reader *reader, uint64_t size, const char *where, struct lz_detail *detail);

/* The next 512 bytes, without a copy where the chunk has them all: 1, or 0 when the stream ends before the first. */
int lz_tar_next_block(struct lz_tar_reader *reader, const uint8_t **block, struct lz_detail *detail);

/* `size` bytes and their padding, appended to `out`; counted against max_header. */
int lz_tar_read_meta(struct lz_tar_reader *reader, uint64_t size, struct lz_buf *out, struct lz_detail *detail);

/* LZ_E_TRUNCATED, and says where. */
int lz_tar_truncated(const struct lz_tar_reader *reader, const char *where, struct lz_detail *detail);

/* ---- one header block ---- */

bool lz_tar_is_zero(const uint8_t *block);
bool lz_tar_checksum_matches(const uint8_t *block);

/* A numeric field; LZ_E_FORMAT and a detail that calls it `what`, when it is malformed or not in 0..max. */
int lz_tar_field(const struct lz_tar_reader *reader, const uint8_t *block, size_t at, size_t size, const char *what,
                 int64_t *out, struct lz_detail *detail);
int lz_tar_unsigned_field(const struct lz_tar_reader *reader, const uint8_t *block, size_t at, size_t size,
                          const char *what, uint64_t max, uint64_t *out, struct lz_detail *detail);

/* The header's own name and link into reader->path and reader->link, each with a NUL. */
int lz_tar_header_name(struct lz_tar_reader *reader, const uint8_t *block);
int lz_tar_header_link(struct lz_tar_reader *reader, const uint8_t *block);

/* What the type byte of an entry means; LZ_E_FORMAT for what must not be taken for a file. */
int lz_tar_entry_type(const struct lz_tar_reader *reader, uint8_t type, enum lz_tar_type *out,
                      struct lz_detail *detail);

/* ---- sparse maps ---- */

/* The map of an 'S' header and of the blocks that follow it, into reader->pax. `block` is not looked at after the
 * first of them. */
int lz_tar_read_gnu_map(struct lz_tar_reader *reader, const uint8_t *block, struct lz_detail *detail);

/* Once the map is known (format 1.0: reads it from the head of the content): checks it against the sizes and puts it
 * into the entry. */
int lz_tar_finish_sparse(struct lz_tar_reader *reader, struct lz_tar_entry *entry, struct lz_detail *detail);

#endif
