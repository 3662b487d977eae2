#include <string.h>

#include "lz_tar_reader.h"

/* ---- bytes from the source ---- */

/* Makes sure that there is a chunk: 1, or 0 at the end of the stream. */
int lz_tar_fill(struct lz_tar_reader *reader)
{
    while (reader->chunk_size == 0) {
        int rc = reader->source.next(reader->source.ctx, &reader->chunk, &reader->chunk_size);
        if (rc <= 0)
            return rc;
    }
    return 1;
}

/* Consumes up to `want` bytes of the chunk as literals; *data is what was consumed. 1, or 0 at the end of the stream.
 */
int lz_tar_take_literal(struct lz_tar_reader *reader, uint64_t want, const uint8_t **data, size_t *size)
{
    int rc = lz_tar_fill(reader);
    if (rc <= 0)
        return rc;
    size_t now = reader->chunk_size < want ? reader->chunk_size : (size_t)want;
    *data = reader->chunk;
    *size = now;
    reader->chunk += now;
    reader->chunk_size -= now;
    reader->offset += now;
    rc = reader->source.literal != NULL ? reader->source.literal(reader->source.ctx, *data, now) : 0;
    return rc < 0 ? rc : 1;
}

int lz_tar_truncated(const struct lz_tar_reader *reader, const char *where, struct lz_detail *detail)
{
    return lz_fail(detail, LZ_E_TRUNCATED, "tar ends inside %s, at byte %llu: entry at byte %llu", where,
                   (unsigned long long)reader->offset, (unsigned long long)reader->entry_offset);
}

int lz_tar_skip_literal(struct lz_tar_reader *reader, uint64_t size, const char *where, struct lz_detail *detail)
{
    while (size > 0) {
        const uint8_t *data;
        size_t now;
        int rc = lz_tar_take_literal(reader, size, &data, &now);
        if (rc <= 0)
            return rc < 0 ? rc : lz_tar_truncated(reader, where, detail);
        size -= now;
    }
    return 0;
}

/* The next 512 bytes, without a copy where the chunk has them all: 1, or 0 when the stream ends before the first. */
int lz_tar_next_block(struct lz_tar_reader *reader, const uint8_t **block, struct lz_detail *detail)
{
    size_t have = 0;
    while (have < LZ_TAR_BLOCK) {
        const uint8_t *data;
        size_t now;
        int rc = lz_tar_take_literal(reader, LZ_TAR_BLOCK - have, &data, &now);
        if (rc < 0)
            return rc;
        if (rc == 0)
            return have == 0 ? 0 : lz_tar_truncated(reader, "a header", detail);
        if (now == LZ_TAR_BLOCK) {
            *block = data;
            return 1;
        }
        memcpy(reader->block + have, data, now);
        have += now;
    }
    *block = reader->block;
    return 1;
}

/* `size` bytes and their padding, appended to `out`. */
int lz_tar_read_meta(struct lz_tar_reader *reader, uint64_t size, struct lz_buf *out, struct lz_detail *detail)
{
    if (size > reader->max_header - reader->header_used)
        return lz_fail(detail, LZ_E_LIMIT, "tar: headers of the entry at byte %llu take more than %zu bytes",
                       (unsigned long long)reader->entry_offset, reader->max_header);
    reader->header_used += (size_t)size;
    for (uint64_t left = size; left > 0;) {
        const uint8_t *data;
        size_t now;
        int rc = lz_tar_take_literal(reader, left, &data, &now);
        if (rc <= 0)
            return rc < 0 ? rc : lz_tar_truncated(reader, "an extended header", detail);
        rc = lz_buf_append(out, data, now);
        if (rc != 0)
            return rc;
        left -= now;
    }
    return lz_tar_skip_literal(reader, lz_tar_pad(size), "an extended header", detail);
}

/* ---- one header block ---- */

bool lz_tar_is_zero(const uint8_t *block)
{
    for (size_t i = 0; i < LZ_TAR_BLOCK; i++)
        if (block[i] != 0)
            return false;
    return true;
}

/* The sum of all bytes with the checksum field as spaces; old tars summed signed bytes, so both are right. Plain loops
 * in 32 bits, which compilers turn into vectors: this is most of what an entry costs. */
bool lz_tar_checksum_matches(const uint8_t *block)
{
    int64_t stated = 0;
    uint32_t plain = 8 * ' ', high = 0; /* a byte of 128 or more is 256 less when signed */
    if (lz_tar_number(block + LZ_TAR_CHECKSUM_AT, 8, &stated) != 0)
        return false;
    for (size_t i = 0; i < LZ_TAR_BLOCK; i++)
        plain += block[i];
    for (size_t i = LZ_TAR_CHECKSUM_AT; i < LZ_TAR_CHECKSUM_AT + 8; i++)
        plain -= block[i];
    if (stated == plain)
        return true;
    for (size_t i = 0; i < LZ_TAR_BLOCK; i++)
        if (i < LZ_TAR_CHECKSUM_AT || i >= LZ_TAR_CHECKSUM_AT + 8)
            high += block[i] >> 7;
    return stated == (int64_t)plain - 256 * (int64_t)high;
}

int lz_tar_field(const struct lz_tar_reader *reader, const uint8_t *block, size_t at, size_t size, const char *what,
                 int64_t *out, struct lz_detail *detail)
{
    if (lz_tar_number(block + at, size, out) == 0)
        return 0;
    return lz_fail(detail, LZ_E_FORMAT, "tar: entry at byte %llu: malformed %s",
                   (unsigned long long)reader->entry_offset, what);
}

int lz_tar_unsigned_field(const struct lz_tar_reader *reader, const uint8_t *block, size_t at, size_t size,
                          const char *what, uint64_t max, uint64_t *out, struct lz_detail *detail)
{
    int64_t value = 0;
    int rc = lz_tar_field(reader, block, at, size, what, &value, detail);
    if (rc == 0 && (value < 0 || (uint64_t)value > max))
        rc = lz_fail(detail, LZ_E_FORMAT, "tar: entry at byte %llu: %s %lld is out of range",
                     (unsigned long long)reader->entry_offset, what, (long long)value);
    if (rc == 0)
        *out = (uint64_t)value;
    return rc;
}

static size_t text_length(const uint8_t *text, size_t size)
{
    const uint8_t *end = memchr(text, 0, size);
    return end != NULL ? (size_t)(end - text) : size;
}

/* The name of a header itself: prefix, slash, name. POSIX has a prefix of 155 bytes, star of 131, GNU and v7 none. */
int lz_tar_header_name(struct lz_tar_reader *reader, const uint8_t *block)
{
    size_t prefix = 0;
    if (memcmp(block + LZ_TAR_MAGIC_AT, "ustar\0", 6) == 0)
        prefix =
            text_length(block + LZ_TAR_PREFIX_AT, memcmp(block + LZ_TAR_STAR_TRAILER_AT, "tar", 4) == 0 ? 131 : 155);
    reader->path.size = 0;
    int rc = lz_buf_append(&reader->path, block + LZ_TAR_PREFIX_AT, prefix);
    if (rc == 0 && prefix > 0)
        rc = lz_buf_append(&reader->path, "/", 1);
    if (rc == 0)
        rc =
            lz_buf_append(&reader->path, block + LZ_TAR_NAME_AT, text_length(block + LZ_TAR_NAME_AT, LZ_TAR_NAME_SIZE));
    return rc != 0 ? rc : lz_buf_append_zeros(&reader->path, 1);
}

int lz_tar_header_link(struct lz_tar_reader *reader, const uint8_t *block)
{
    const uint8_t *link = block + LZ_TAR_LINK_AT;
    reader->link.size = 0;
    int rc = lz_buf_append(&reader->link, link, text_length(link, LZ_TAR_NAME_SIZE));
    return rc != 0 ? rc : lz_buf_append_zeros(&reader->link, 1);
}

/* POSIX reserves 'A' to 'Z' for vendors, and what is not known of them is a regular file. Some are known, and are no
 * files: D (GNU's list of a directory), M (the rest of a file of another volume), N (GNU's names before 'L'), A and E
 * (Solaris: ACLs and attributes of the coming entry). */
int lz_tar_entry_type(const struct lz_tar_reader *reader, uint8_t type, enum lz_tar_type *out, struct lz_detail *detail)
{
    switch (type) {
    case 0:
    case '0':
    case '7': /* contiguous: a file to everyone since */
    case 'S': /* GNU sparse */
        *out = LZ_TAR_FILE;
        return 0;
    case '1':
        *out = LZ_TAR_HARDLINK;
        return 0;
    case '2':
        *out = LZ_TAR_SYMLINK;
        return 0;
    case '3':
        *out = LZ_TAR_CHAR;
        return 0;
    case '4':
        *out = LZ_TAR_BLOCK_DEVICE;
        return 0;
    case '5':
        *out = LZ_TAR_DIRECTORY;
        return 0;
    case '6':
        *out = LZ_TAR_FIFO;
        return 0;
    default:
        if (type >= 'A' && type <= 'Z' && strchr("DMNAE", type) == NULL) {
            *out = LZ_TAR_FILE;
            return 0;
        }
        return lz_fail(detail, LZ_E_FORMAT, "tar: entry '%s' at byte %llu: unknown type 0x%02x",
                       (const char *)reader->path.data, (unsigned long long)reader->entry_offset, type);
    }
}
