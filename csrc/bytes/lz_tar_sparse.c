#include <string.h>

#include "lz_tar_reader.h"

static int bad_map(const struct lz_tar_reader *reader, const char *why, struct lz_detail *detail)
{
    return lz_fail(detail, LZ_E_FORMAT, "tar: entry at byte %llu: sparse map: %s",
                   (unsigned long long)reader->entry_offset, why);
}

static int add_extent(struct lz_tar_reader *reader, uint64_t offset, uint64_t size, struct lz_detail *detail)
{
    int rc = lz_pax_add_extent(&reader->pax, offset, size, detail);
    if (rc == LZ_E_FORMAT)
        lz_fail_within(detail, rc, "tar: entry at byte %llu", (unsigned long long)reader->entry_offset);
    return rc;
}

static int gnu_segments(struct lz_tar_reader *reader, const uint8_t *at, size_t count, struct lz_detail *detail)
{
    for (size_t i = 0; i < count; i++, at += 24) {
        int64_t offset = 0, size = 0;
        if (at[0] == 0)
            return 0;
        if (lz_tar_number(at, 12, &offset) != 0 || lz_tar_number(at + 12, 12, &size) != 0 || offset < 0 || size < 0)
            return bad_map(reader, "malformed number", detail);
        int rc = add_extent(reader, (uint64_t)offset, (uint64_t)size, detail);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* The old GNU format: four segments in the header, 21 in each block that follows. */
int lz_tar_read_gnu_map(struct lz_tar_reader *reader, const uint8_t *block, struct lz_detail *detail)
{
    uint64_t real_size = 0;
    if (memcmp(block + LZ_TAR_MAGIC_AT, "ustar  ", 8) != 0) /* in other formats the prefix lies there */
        return lz_fail(detail, LZ_E_FORMAT, "tar: entry at byte %llu: type 'S' in a header that is not GNU tar's",
                       (unsigned long long)reader->entry_offset);
    reader->pax.extent_count = 0;
    reader->pax.sparse_in_data = false;
    int rc =
        lz_tar_unsigned_field(reader, block, LZ_TAR_GNU_REALSIZE_AT, 12, "real size", INT64_MAX, &real_size, detail);
    if (rc == 0)
        rc = gnu_segments(reader, block + LZ_TAR_GNU_SPARSE_AT, 4, detail);
    bool more = block[LZ_TAR_GNU_EXTENDED_AT] != 0;
    while (rc == 0 && more) {
        const uint8_t *extension;
        rc = lz_tar_next_block(reader, &extension, detail);
        if (rc <= 0)
            return rc < 0 ? rc : lz_tar_truncated(reader, "a sparse map", detail);
        reader->header_used += LZ_TAR_BLOCK;
        if (reader->header_used > reader->max_header)
            return lz_fail(detail, LZ_E_LIMIT, "tar: entry at byte %llu: sparse map of more than %zu bytes",
                           (unsigned long long)reader->entry_offset, reader->max_header);
        more = extension[504] != 0;
        rc = gnu_segments(reader, extension, 21, detail);
    }
    reader->pax.sparse = true;
    reader->pax.has_real_size = true;
    reader->pax.real_size = real_size;
    return rc;
}

/* One decimal line of a 1.0 map; reads another block when the line is not complete. */
static int map_line(struct lz_tar_reader *reader, struct lz_buf *text, size_t *at, uint64_t *left, uint64_t *out,
                    struct lz_detail *detail)
{
    for (;;) {
        const uint8_t *from = text->size > *at ? text->data + *at : NULL; /* no block has been read yet */
        const uint8_t *end = from != NULL ? memchr(from, '\n', text->size - *at) : NULL;
        if (end != NULL) {
            if (lz_tar_decimal((const char *)from, (size_t)(end - from), out) != 0)
                return bad_map(reader, "not a number", detail);
            *at = (size_t)(end - text->data) + 1;
            return 0;
        }
        if (*left < LZ_TAR_BLOCK || text->size - *at > 32)
            return bad_map(reader, "does not end", detail);
        int rc = lz_tar_read_meta(reader, LZ_TAR_BLOCK, text, detail);
        if (rc != 0)
            return rc;
        *left -= LZ_TAR_BLOCK;
    }
}

/* Format 1.0: the map is the first blocks of the content. `*stored` loses what the map takes. */
static int map_in_data(struct lz_tar_reader *reader, uint64_t *stored, struct lz_detail *detail)
{
    struct lz_buf *text = &reader->map;
    text->size = 0;
    size_t at = 0;
    uint64_t count = 0;
    reader->pax.extent_count = 0;
    int rc = map_line(reader, text, &at, stored, &count, detail);
    for (uint64_t i = 0; rc == 0 && i < count; i++) {
        uint64_t offset = 0, size = 0;
        rc = map_line(reader, text, &at, stored, &offset, detail);
        if (rc == 0)
            rc = map_line(reader, text, &at, stored, &size, detail);
        if (rc == 0)
            rc = add_extent(reader, offset, size, detail);
    }
    return rc;
}

int lz_tar_finish_sparse(struct lz_tar_reader *reader, struct lz_tar_entry *entry, struct lz_detail *detail)
{
    static const struct lz_tar_extent all_hole; /* sparse, with no segment: still not NULL */
    struct lz_pax *pax = &reader->pax;
    int rc = pax->sparse_in_data ? map_in_data(reader, &entry->stored_size, detail) : 0;
    if (rc != 0)
        return rc;
    uint64_t sum = 0, end = 0;
    for (size_t i = 0; i < pax->extent_count; i++) {
        sum += pax->extents[i].size; /* segments do not overlap and end below 2^63 */
        end = pax->extents[i].offset + pax->extents[i].size;
    }
    if (!pax->has_real_size || end > pax->real_size || sum != entry->stored_size)
        return lz_fail(
            detail, LZ_E_FORMAT,
            "tar: '%s' at byte %llu: sparse map: %llu bytes up to %llu do not fit a file of %llu with %llu stored",
            entry->path, (unsigned long long)reader->entry_offset, (unsigned long long)sum, (unsigned long long)end,
            (unsigned long long)pax->real_size, (unsigned long long)entry->stored_size);
    entry->size = pax->real_size;
    entry->extents = pax->extent_count > 0 ? pax->extents : &all_hole;
    entry->extent_count = pax->extent_count;
    return 0;
}
