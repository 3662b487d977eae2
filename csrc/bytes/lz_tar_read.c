#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lz_tar.h"
#include "lz_tar_pax.h"

/* Where a header keeps its fields: POSIX ustar, and GNU tar's where it differs. */
enum {
    NAME_AT = 0,
    MODE_AT = 100,
    UID_AT = 108,
    GID_AT = 116,
    SIZE_AT = 124,
    MTIME_AT = 136,
    CHECKSUM_AT = 148,
    TYPE_AT = 156,
    LINK_AT = 157,
    MAGIC_AT = 257,
    MAJOR_AT = 329,
    MINOR_AT = 337,
    PREFIX_AT = 345,
    GNU_SPARSE_AT = 386,
    GNU_EXTENDED_AT = 482,
    GNU_REALSIZE_AT = 483,
    STAR_TRAILER_AT = 508,
};

#define DEFAULT_MAX_HEADER (8u << 20)

struct lz_tar_reader {
    struct lz_tar_source source;
    const uint8_t *chunk; /* what is left of the source's current chunk */
    size_t chunk_size;
    uint64_t offset;       /* bytes consumed */
    uint64_t entry_offset; /* where the current entry's first header is */
    uint64_t content_left, padding_left;
    size_t max_header, header_used;
    uint8_t block[LZ_TAR_BLOCK]; /* a header that straddles chunks */
    struct lz_buf global, name, link, path;
    bool has_name, has_link; /* GNU 'L' and 'K' for the coming entry */
    struct lz_pax pax;
    bool ended;
};

int lz_tar_reader_new(const struct lz_tar_source *source, size_t max_header, struct lz_tar_reader **out)
{
    struct lz_tar_reader *reader = calloc(1, sizeof *reader);
    if (reader == NULL)
        return -ENOMEM;
    reader->source = *source;
    reader->max_header = max_header != 0 ? max_header : DEFAULT_MAX_HEADER;
    *out = reader;
    return 0;
}

void lz_tar_reader_free(struct lz_tar_reader *reader)
{
    if (reader == NULL)
        return;
    lz_buf_free(&reader->global);
    lz_buf_free(&reader->name);
    lz_buf_free(&reader->link);
    lz_buf_free(&reader->path);
    lz_pax_free(&reader->pax);
    free(reader);
}

uint64_t lz_tar_offset(const struct lz_tar_reader *reader)
{
    return reader->offset;
}

/* ---- bytes from the source ---- */

/* Makes sure that there is a chunk: 1, or 0 at the end of the stream. */
static int fill(struct lz_tar_reader *reader)
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
static int take_literal(struct lz_tar_reader *reader, uint64_t want, const uint8_t **data, size_t *size)
{
    int rc = fill(reader);
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

static int truncated(const struct lz_tar_reader *reader, const char *where, struct lz_detail *detail)
{
    return lz_fail(detail, LZ_E_TRUNCATED, "tar ends inside %s, at byte %llu", where,
                   (unsigned long long)reader->offset);
}

static int skip_literal(struct lz_tar_reader *reader, uint64_t size, const char *where, struct lz_detail *detail)
{
    while (size > 0) {
        const uint8_t *data;
        size_t now;
        int rc = take_literal(reader, size, &data, &now);
        if (rc <= 0)
            return rc < 0 ? rc : truncated(reader, where, detail);
        size -= now;
    }
    return 0;
}

/* The next 512 bytes, without a copy where the chunk has them all: 1, or 0 when the stream ends before the first. */
static int next_block(struct lz_tar_reader *reader, const uint8_t **block, struct lz_detail *detail)
{
    size_t have = 0;
    while (have < LZ_TAR_BLOCK) {
        const uint8_t *data;
        size_t now;
        int rc = take_literal(reader, LZ_TAR_BLOCK - have, &data, &now);
        if (rc < 0)
            return rc;
        if (rc == 0)
            return have == 0 ? 0 : truncated(reader, "a header", detail);
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
static int read_meta(struct lz_tar_reader *reader, uint64_t size, struct lz_buf *out, struct lz_detail *detail)
{
    if (size > reader->max_header - reader->header_used)
        return lz_fail(detail, LZ_E_LIMIT, "tar: headers of the entry at byte %llu take more than %zu bytes",
                       (unsigned long long)reader->entry_offset, reader->max_header);
    reader->header_used += (size_t)size;
    for (uint64_t left = size; left > 0;) {
        const uint8_t *data;
        size_t now;
        int rc = take_literal(reader, left, &data, &now);
        if (rc <= 0)
            return rc < 0 ? rc : truncated(reader, "an extended header", detail);
        rc = lz_buf_append(out, data, now);
        if (rc != 0)
            return rc;
        left -= now;
    }
    return skip_literal(reader, lz_tar_pad(size), "an extended header", detail);
}

/* ---- one header block ---- */

static bool is_zero(const uint8_t *block)
{
    for (size_t i = 0; i < LZ_TAR_BLOCK; i++)
        if (block[i] != 0)
            return false;
    return true;
}

/* The sum of all bytes with the checksum field as spaces; old tars summed signed bytes, so both are right. */
static bool checksum_matches(const uint8_t *block)
{
    int64_t stated = 0, plain = 0, as_signed = 0;
    if (lz_tar_number(block + CHECKSUM_AT, 8, &stated) != 0)
        return false;
    for (size_t i = 0; i < LZ_TAR_BLOCK; i++) {
        uint8_t byte = i >= CHECKSUM_AT && i < CHECKSUM_AT + 8 ? ' ' : block[i];
        plain += byte;
        as_signed += (int8_t)byte;
    }
    return stated == plain || stated == as_signed;
}

static int field(const struct lz_tar_reader *reader, const uint8_t *block, size_t at, size_t size, const char *what,
                 int64_t *out, struct lz_detail *detail)
{
    if (lz_tar_number(block + at, size, out) == 0)
        return 0;
    return lz_fail(detail, LZ_E_FORMAT, "tar: entry at byte %llu: malformed %s",
                   (unsigned long long)reader->entry_offset, what);
}

static int unsigned_field(const struct lz_tar_reader *reader, const uint8_t *block, size_t at, size_t size,
                          const char *what, uint64_t max, uint64_t *out, struct lz_detail *detail)
{
    int64_t value = 0;
    int rc = field(reader, block, at, size, what, &value, detail);
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
static int header_name(struct lz_tar_reader *reader, const uint8_t *block)
{
    size_t prefix = 0;
    if (memcmp(block + MAGIC_AT, "ustar\0", 6) == 0)
        prefix = text_length(block + PREFIX_AT, memcmp(block + STAR_TRAILER_AT, "tar", 4) == 0 ? 131 : 155);
    reader->path.size = 0;
    int rc = lz_buf_append(&reader->path, block + PREFIX_AT, prefix);
    if (rc == 0 && prefix > 0)
        rc = lz_buf_append(&reader->path, "/", 1);
    if (rc == 0)
        rc = lz_buf_append(&reader->path, block + NAME_AT, text_length(block + NAME_AT, 100));
    return rc != 0 ? rc : lz_buf_append_zeros(&reader->path, 1);
}

static int map_type(struct lz_tar_reader *reader, uint8_t type, enum lz_tar_type *out, struct lz_detail *detail)
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
        return lz_fail(detail, LZ_E_FORMAT, "tar: entry '%s' at byte %llu: unknown type 0x%02x",
                       (const char *)reader->path.data, (unsigned long long)reader->entry_offset, type);
    }
}

/* ---- sparse ---- */

static int gnu_segments(struct lz_tar_reader *reader, const uint8_t *at, size_t count, struct lz_detail *detail)
{
    for (size_t i = 0; i < count; i++, at += 24) {
        int64_t offset = 0, size = 0;
        if (at[0] == 0)
            return 0;
        if (lz_tar_number(at, 12, &offset) != 0 || lz_tar_number(at + 12, 12, &size) != 0 || offset < 0 || size < 0)
            return lz_fail(detail, LZ_E_FORMAT, "sparse map: malformed number");
        int rc = lz_pax_add_extent(&reader->pax, (uint64_t)offset, (uint64_t)size, detail);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* The old GNU format: four segments in the header, 21 in each block that follows. */
static int gnu_sparse(struct lz_tar_reader *reader, const uint8_t *block, struct lz_detail *detail)
{
    uint64_t real_size = 0;
    int rc = unsigned_field(reader, block, GNU_REALSIZE_AT, 12, "real size", INT64_MAX, &real_size, detail);
    if (rc == 0)
        rc = gnu_segments(reader, block + GNU_SPARSE_AT, 4, detail);
    bool more = block[GNU_EXTENDED_AT] != 0;
    while (rc == 0 && more) {
        const uint8_t *extension;
        rc = next_block(reader, &extension, detail);
        if (rc <= 0)
            return rc < 0 ? rc : truncated(reader, "a sparse map", detail);
        reader->header_used += LZ_TAR_BLOCK;
        if (reader->header_used > reader->max_header)
            return lz_fail(detail, LZ_E_LIMIT, "sparse map of more than %zu bytes", reader->max_header);
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
        const uint8_t *from = text->data + *at;
        const uint8_t *end = text->size > *at ? memchr(from, '\n', text->size - *at) : NULL;
        if (end != NULL) {
            if (lz_tar_decimal((const char *)from, (size_t)(end - from), out) != 0)
                return lz_fail(detail, LZ_E_FORMAT, "sparse map: not a number");
            *at = (size_t)(end - text->data) + 1;
            return 0;
        }
        if (*left < LZ_TAR_BLOCK || text->size - *at > 32)
            return lz_fail(detail, LZ_E_FORMAT, "sparse map: does not end");
        int rc = read_meta(reader, LZ_TAR_BLOCK, text, detail);
        if (rc != 0)
            return rc;
        *left -= LZ_TAR_BLOCK;
    }
}

/* Format 1.0: the map is the first blocks of the content. `*stored` loses what the map takes. */
static int map_in_data(struct lz_tar_reader *reader, uint64_t *stored, struct lz_detail *detail)
{
    struct lz_buf text = {0};
    size_t at = 0;
    uint64_t count = 0;
    reader->pax.extent_count = 0;
    int rc = map_line(reader, &text, &at, stored, &count, detail);
    for (uint64_t i = 0; rc == 0 && i < count; i++) {
        uint64_t offset = 0, size = 0;
        rc = map_line(reader, &text, &at, stored, &offset, detail);
        if (rc == 0)
            rc = map_line(reader, &text, &at, stored, &size, detail);
        if (rc == 0)
            rc = lz_pax_add_extent(&reader->pax, offset, size, detail);
    }
    lz_buf_free(&text);
    return rc;
}

static int finish_sparse(struct lz_tar_reader *reader, struct lz_tar_entry *entry, struct lz_detail *detail)
{
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
        return lz_fail(detail, LZ_E_FORMAT,
                       "sparse map: segments of %llu bytes up to %llu do not fit a file of %llu with %llu stored",
                       (unsigned long long)sum, (unsigned long long)end, (unsigned long long)pax->real_size,
                       (unsigned long long)entry->stored_size);
    entry->size = pax->real_size;
    entry->extents = pax->extents;
    entry->extent_count = pax->extent_count;
    return 0;
}

/* ---- one entry ---- */

static void choose_names(struct lz_tar_reader *reader, struct lz_tar_entry *entry)
{
    const struct lz_pax *pax = &reader->pax;
    entry->path = (const char *)reader->path.data;
    entry->path_size = reader->path.size - 1;
    if (pax->path != NULL) {
        entry->path = pax->path;
        entry->path_size = pax->path_size;
    }
    if (pax->sparse && pax->sparse_name != NULL) {
        entry->path = pax->sparse_name;
        entry->path_size = pax->sparse_name_size;
    }
    if (reader->has_name) {
        entry->path = (const char *)reader->name.data;
        entry->path_size = strlen(entry->path);
    }
    if (pax->link != NULL && !reader->has_link) {
        entry->link = pax->link;
        entry->link_size = pax->link_size;
    } else {
        entry->link = (const char *)reader->link.data;
        entry->link_size = strlen(entry->link);
    }
}

static int decode_numbers(struct lz_tar_reader *reader, const uint8_t *block, struct lz_tar_entry *entry,
                          struct lz_detail *detail)
{
    const struct lz_pax *pax = &reader->pax;
    int64_t mode = 0;
    uint64_t uid = pax->uid, gid = pax->gid, major = 0, minor = 0;
    int rc = field(reader, block, MODE_AT, 8, "mode", &mode, detail);
    if (rc == 0 && !pax->has_uid)
        rc = unsigned_field(reader, block, UID_AT, 8, "uid", UINT32_MAX, &uid, detail);
    if (rc == 0 && !pax->has_gid)
        rc = unsigned_field(reader, block, GID_AT, 8, "gid", UINT32_MAX, &gid, detail);
    entry->mtime = pax->mtime;
    entry->mtime_nsec = pax->mtime_nsec;
    if (rc == 0 && !pax->has_mtime)
        rc = field(reader, block, MTIME_AT, 12, "mtime", &entry->mtime, detail);
    if (rc == 0 && (entry->type == LZ_TAR_CHAR || entry->type == LZ_TAR_BLOCK_DEVICE)) {
        rc = unsigned_field(reader, block, MAJOR_AT, 8, "device number", UINT32_MAX, &major, detail);
        if (rc == 0)
            rc = unsigned_field(reader, block, MINOR_AT, 8, "device number", UINT32_MAX, &minor, detail);
    }
    entry->mode = (uint32_t)mode & 07777;
    entry->uid = (uint32_t)uid;
    entry->gid = (uint32_t)gid;
    entry->major = (uint32_t)major;
    entry->minor = (uint32_t)minor;
    return rc;
}

/* Everything of an entry from its last header block and the extended headers before it. */
static int decode_entry(struct lz_tar_reader *reader, const uint8_t *block, uint64_t header_size,
                        struct lz_tar_entry *entry, struct lz_detail *detail)
{
    struct lz_pax *pax = &reader->pax;
    uint8_t type = block[TYPE_AT];
    *entry = (struct lz_tar_entry){0};
    int rc = lz_pax_parse(pax, detail);
    if (rc == 0)
        rc = map_type(reader, type, &entry->type, detail);
    if (rc == 0)
        rc = decode_numbers(reader, block, entry, detail);
    if (rc != 0)
        return rc;
    choose_names(reader, entry);
    bool is_link = entry->type == LZ_TAR_HARDLINK || entry->type == LZ_TAR_SYMLINK;
    if (!is_link) {
        entry->link = NULL;
        entry->link_size = 0;
    } else if (entry->link_size == 0) {
        return lz_fail(detail, LZ_E_FORMAT, "tar: '%s': a link without a target", entry->path);
    }
    if (entry->path_size == 0)
        return lz_fail(detail, LZ_E_FORMAT, "tar: entry at byte %llu has no name",
                       (unsigned long long)reader->entry_offset);
    /* v7 has no type for directories: a slash at the end says so */
    if (entry->type == LZ_TAR_FILE && entry->path[entry->path_size - 1] == '/')
        entry->type = LZ_TAR_DIRECTORY;
    entry->xattrs = pax->xattr_count > 0 ? pax->xattrs : NULL;
    entry->xattr_count = pax->xattr_count;
    if (entry->type != LZ_TAR_FILE)
        return 0; /* whatever the size field says, no content follows: as Go's archive/tar and containerd read it */
    entry->stored_size = pax->has_size ? pax->size : header_size;
    entry->size = entry->stored_size;
    if (type == 'S') /* reads further header blocks, so `block` is not looked at again */
        rc = gnu_sparse(reader, block, detail);
    if (rc == 0 && pax->sparse)
        rc = finish_sparse(reader, entry, detail);
    return rc;
}

/* Gives up what is left of the entry before. */
static int skip_entry(struct lz_tar_reader *reader, struct lz_detail *detail)
{
    const uint8_t *data;
    size_t size;
    int rc = 1;
    while (rc > 0)
        rc = lz_tar_read(reader, &data, &size, detail);
    return rc;
}

/* After the end marker, or when there is none: whatever follows belongs to nobody, but to the stream. */
static int drain(struct lz_tar_reader *reader)
{
    const uint8_t *data;
    size_t size;
    int rc = 1;
    reader->ended = true;
    while (rc > 0)
        rc = take_literal(reader, UINT64_MAX, &data, &size);
    return rc;
}

/* A header block that announces something: 1 when it was the entry's own, 0 when it was an extension. */
static int take_header(struct lz_tar_reader *reader, const uint8_t *block, struct lz_tar_entry *entry,
                       struct lz_detail *detail)
{
    uint64_t size = 0;
    uint8_t type = block[TYPE_AT];
    int rc = unsigned_field(reader, block, SIZE_AT, 12, "size", INT64_MAX, &size, detail);
    if (rc != 0)
        return rc;
    switch (type) {
    case 'x':
    case 'X': /* Solaris */
        return read_meta(reader, size, &reader->pax.records, detail);
    case 'g':
        return read_meta(reader, size, &reader->global, detail);
    case 'V': /* a volume's label */
        return skip_literal(reader, size + lz_tar_pad(size), "a volume label", detail);
    case 'L':
    case 'K': {
        struct lz_buf *text = type == 'L' ? &reader->name : &reader->link;
        text->size = 0;
        rc = read_meta(reader, size, text, detail);
        if (type == 'L')
            reader->has_name = true;
        else
            reader->has_link = true;
        return rc != 0 ? rc : lz_buf_append_zeros(text, 1);
    }
    default:
        break;
    }
    /* global records lie under the entry's own; put them in front */
    if (reader->global.size > 0) {
        struct lz_buf *records = &reader->pax.records;
        size_t own = records->size, global = reader->global.size;
        rc = lz_buf_append(records, reader->global.data, global);
        if (rc != 0)
            return rc;
        memmove(records->data + global, records->data, own);
        memcpy(records->data, reader->global.data, global);
    }
    rc = header_name(reader, block);
    if (rc == 0 && !reader->has_link) {
        reader->link.size = 0;
        rc = lz_buf_append(&reader->link, block + LINK_AT, text_length(block + LINK_AT, 100));
        if (rc == 0)
            rc = lz_buf_append_zeros(&reader->link, 1);
    }
    if (rc == 0)
        rc = decode_entry(reader, block, size, entry, detail);
    return rc != 0 ? rc : 1;
}

static void begin_entry(struct lz_tar_reader *reader)
{
    reader->entry_offset = reader->offset;
    reader->header_used = reader->global.size;
    reader->has_name = reader->has_link = false;
    lz_pax_clear(&reader->pax);
}

int lz_tar_next(struct lz_tar_reader *reader, struct lz_tar_entry *entry, struct lz_detail *detail)
{
    if (reader->ended)
        return 0;
    int rc = skip_entry(reader, detail);
    if (rc != 0)
        return rc;
    begin_entry(reader);
    for (bool extended = false, zero = false;;) {
        const uint8_t *block;
        rc = next_block(reader, &block, detail);
        if (rc < 0)
            return rc;
        if (rc == 0)
            return extended ? truncated(reader, "an entry", detail) : drain(reader);
        if (is_zero(block)) {
            if (extended)
                return lz_fail(detail, LZ_E_FORMAT, "tar: the archive ends after an extended header, at byte %llu",
                               (unsigned long long)reader->offset);
            if (zero)
                return drain(reader);
            zero = true; /* a lone zero block is passed over, as GNU tar does */
            continue;
        }
        if (zero && !extended)
            begin_entry(reader);
        if (!checksum_matches(block))
            return lz_fail(detail, LZ_E_FORMAT, "tar: header at byte %llu: its checksum does not match",
                           (unsigned long long)(reader->offset - LZ_TAR_BLOCK));
        rc = take_header(reader, block, entry, detail);
        if (rc < 0)
            return rc;
        if (rc == 1)
            break;
        extended = true;
        zero = false;
    }
    reader->content_left = entry->stored_size;
    reader->padding_left = lz_tar_pad(entry->stored_size);
    return 1;
}

int lz_tar_read(struct lz_tar_reader *reader, const uint8_t **data, size_t *size, struct lz_detail *detail)
{
    if (reader->content_left > 0) {
        int rc = fill(reader);
        if (rc <= 0)
            return rc < 0 ? rc : truncated(reader, "a file's content", detail);
        size_t now = reader->chunk_size < reader->content_left ? reader->chunk_size : (size_t)reader->content_left;
        *data = reader->chunk;
        *size = now;
        reader->chunk += now;
        reader->chunk_size -= now;
        reader->offset += now;
        reader->content_left -= now;
        return 1;
    }
    int rc = skip_literal(reader, reader->padding_left, "a file's padding", detail);
    if (rc == 0)
        reader->padding_left = 0;
    return rc;
}
