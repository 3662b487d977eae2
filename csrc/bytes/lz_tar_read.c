#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lz_tar_reader.h"

#define DEFAULT_MAX_HEADER (8u << 20)
#define MAX_GLOBAL (64u << 10) /* parsed again at each entry, so an archive must not make that expensive */

/* What a header block turned out to be. */
enum { HEADER_OF_NEXT = 0, HEADER_OF_ENTRY = 1, HEADER_ALONE = 2 };

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
    lz_buf_free(&reader->map);
    lz_pax_free(&reader->pax);
    free(reader);
}

uint64_t lz_tar_offset(const struct lz_tar_reader *reader)
{
    return reader->offset;
}

/* ---- one entry ---- */

static int within_entry(const struct lz_tar_reader *reader, int rc, struct lz_detail *detail)
{
    if (rc == LZ_E_FORMAT)
        lz_fail_within(detail, rc, "tar: entry at byte %llu", (unsigned long long)reader->entry_offset);
    return rc;
}

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
    int rc = lz_tar_field(reader, block, LZ_TAR_MODE_AT, 8, "mode", &mode, detail);
    if (rc == 0 && !pax->has_uid)
        rc = lz_tar_unsigned_field(reader, block, LZ_TAR_UID_AT, 8, "uid", UINT32_MAX, &uid, detail);
    if (rc == 0 && !pax->has_gid)
        rc = lz_tar_unsigned_field(reader, block, LZ_TAR_GID_AT, 8, "gid", UINT32_MAX, &gid, detail);
    entry->mtime = pax->mtime;
    entry->mtime_nsec = pax->mtime_nsec;
    entry->has_atime = pax->has_atime;
    entry->atime = pax->atime;
    entry->atime_nsec = pax->atime_nsec;
    entry->has_ctime = pax->has_ctime;
    entry->ctime = pax->ctime;
    entry->ctime_nsec = pax->ctime_nsec;
    if (rc == 0 && !pax->has_mtime)
        rc = lz_tar_field(reader, block, LZ_TAR_MTIME_AT, 12, "mtime", &entry->mtime, detail);
    if (rc == 0 && (entry->type == LZ_TAR_CHAR || entry->type == LZ_TAR_BLOCK_DEVICE)) {
        rc = lz_tar_unsigned_field(reader, block, LZ_TAR_MAJOR_AT, 8, "device number", UINT32_MAX, &major, detail);
        if (rc == 0)
            rc = lz_tar_unsigned_field(reader, block, LZ_TAR_MINOR_AT, 8, "device number", UINT32_MAX, &minor, detail);
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
    uint8_t type = block[LZ_TAR_TYPE_AT];
    *entry = (struct lz_tar_entry){0};
    int rc = within_entry(reader, lz_pax_parse(pax, detail), detail);
    if (rc == 0)
        rc = lz_tar_entry_type(reader, type, &entry->type, detail);
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
        return lz_fail(detail, LZ_E_FORMAT, "tar: '%s' at byte %llu: a link without a target", entry->path,
                       (unsigned long long)reader->entry_offset);
    }
    if (entry->path_size == 0)
        return lz_fail(detail, LZ_E_FORMAT, "tar: entry at byte %llu has no name",
                       (unsigned long long)reader->entry_offset);
    entry->stored_size = pax->has_size ? pax->size : header_size;
    if (entry->type == LZ_TAR_FILE && entry->path[entry->path_size - 1] == '/') {
        /* v7 has no type for directories: a slash at the end says so. Readers disagree where content would begin. */
        if (entry->stored_size > 0)
            return lz_fail(detail, LZ_E_FORMAT,
                           "tar: '%s' at byte %llu: a name of a directory with %llu bytes of content", entry->path,
                           (unsigned long long)reader->entry_offset, (unsigned long long)entry->stored_size);
        entry->type = LZ_TAR_DIRECTORY;
    }
    entry->xattrs = pax->xattr_count > 0 ? pax->xattrs : NULL;
    entry->xattr_count = pax->xattr_count;
    if (entry->type != LZ_TAR_FILE) {
        entry->stored_size =
            0; /* whatever the size field says, no content follows: as Go, and so containerd, reads it */
        return 0;
    }
    entry->size = entry->stored_size;
    if (type == 'S') /* reads further header blocks, so `block` is not looked at again */
        rc = lz_tar_read_gnu_map(reader, block, detail);
    if (rc == 0 && pax->sparse)
        rc = lz_tar_finish_sparse(reader, entry, detail);
    return rc;
}

static int read_piece(struct lz_tar_reader *reader, const uint8_t **data, size_t *size, struct lz_detail *detail)
{
    if (reader->content_left > 0) {
        int rc = lz_tar_fill(reader);
        if (rc <= 0)
            return rc < 0 ? rc : lz_tar_truncated(reader, "a file's content", detail);
        size_t now = reader->chunk_size < reader->content_left ? reader->chunk_size : (size_t)reader->content_left;
        *data = reader->chunk;
        *size = now;
        reader->chunk += now;
        reader->chunk_size -= now;
        reader->offset += now;
        reader->content_left -= now;
        return 1;
    }
    int rc = lz_tar_skip_literal(reader, reader->padding_left, "a file's padding", detail);
    if (rc == 0)
        reader->padding_left = 0;
    return rc;
}

/* Gives up what is left of the entry before. */
static int skip_entry(struct lz_tar_reader *reader, struct lz_detail *detail)
{
    const uint8_t *data;
    size_t size;
    int rc = 1;
    while (rc > 0)
        rc = read_piece(reader, &data, &size, detail);
    return rc;
}

/* After the end marker, or when there is none: whatever follows belongs to nobody, but to the stream. */
static int drain(struct lz_tar_reader *reader)
{
    const uint8_t *data;
    size_t size;
    int rc = 1;
    while (rc > 0)
        rc = lz_tar_take_literal(reader, UINT64_MAX, &data, &size);
    reader->ended = true;
    return rc;
}

/* Global records lie under the entry's own: puts them in front. */
static int prepend_global(struct lz_tar_reader *reader)
{
    struct lz_buf *records = &reader->pax.records;
    size_t own = records->size, global = reader->global.size;
    if (global == 0)
        return 0;
    int rc = lz_buf_append(records, reader->global.data, global);
    if (rc != 0)
        return rc;
    memmove(records->data + global, records->data, own);
    memcpy(records->data, reader->global.data, global);
    return 0;
}

/* The records of one extended header, appended to `records`. */
static int take_records(struct lz_tar_reader *reader, uint64_t size, struct lz_buf *records, struct lz_detail *detail)
{
    size_t before = records->size;
    int rc = lz_tar_read_meta(reader, size, records, detail);
    if (rc == 0 && size > 0)
        rc = within_entry(reader, lz_pax_check(records->data + before, (size_t)size, detail), detail);
    return rc;
}

static int take_global(struct lz_tar_reader *reader, uint64_t size, struct lz_detail *detail)
{
    if (size > MAX_GLOBAL - reader->global.size)
        return lz_fail(detail, LZ_E_LIMIT, "tar: global headers take more than %u bytes, at byte %llu", MAX_GLOBAL,
                       (unsigned long long)reader->offset);
    int rc = take_records(reader, size, &reader->global, detail);
    return rc != 0 ? rc : HEADER_ALONE;
}

/* GNU's 'L' and 'K': a name of the coming entry, with or without a NUL at its end. */
static int take_long_name(struct lz_tar_reader *reader, uint64_t size, struct lz_buf *text, bool *has,
                          struct lz_detail *detail)
{
    text->size = 0;
    *has = true;
    int rc = lz_tar_read_meta(reader, size, text, detail);
    return rc != 0 ? rc : lz_buf_append_zeros(text, 1);
}

/* Takes a header block and what belongs to it: HEADER_* or an error. */
static int take_header(struct lz_tar_reader *reader, const uint8_t *block, struct lz_tar_entry *entry,
                       struct lz_detail *detail)
{
    uint64_t size = 0;
    uint8_t type = block[LZ_TAR_TYPE_AT];
    int rc = lz_tar_unsigned_field(reader, block, LZ_TAR_SIZE_AT, 12, "size", INT64_MAX, &size, detail);
    if (rc != 0)
        return rc;
    switch (type) {
    case 'x':
    case 'X': /* Solaris */
        return take_records(reader, size, &reader->pax.records, detail);
    case 'g':
        return take_global(reader, size, detail);
    case 'V': /* a volume's label */
        rc = lz_tar_skip_literal(reader, size + lz_tar_pad(size), "a volume label", detail);
        return rc != 0 ? rc : HEADER_ALONE;
    case 'L':
        return take_long_name(reader, size, &reader->name, &reader->has_name, detail);
    case 'K':
        return take_long_name(reader, size, &reader->link, &reader->has_link, detail);
    default:
        break;
    }
    rc = prepend_global(reader);
    if (rc == 0)
        rc = lz_tar_header_name(reader, block);
    if (rc == 0 && !reader->has_link)
        rc = lz_tar_header_link(reader, block);
    if (rc == 0)
        rc = decode_entry(reader, block, size, entry, detail);
    return rc != 0 ? rc : HEADER_OF_ENTRY;
}

static void begin_entry(struct lz_tar_reader *reader)
{
    reader->header_used = reader->global.size;
    reader->has_name = reader->has_link = false;
    lz_pax_clear(&reader->pax);
}

static int next_entry(struct lz_tar_reader *reader, struct lz_tar_entry *entry, struct lz_detail *detail)
{
    int rc = skip_entry(reader, detail);
    if (rc != 0)
        return rc;
    begin_entry(reader);
    struct lz_tar_entry found;
    for (bool extended = false, zero = false;;) {
        const uint8_t *block;
        if (!extended)
            reader->entry_offset = reader->offset;
        rc = lz_tar_next_block(reader, &block, detail);
        if (rc < 0)
            return rc;
        if (rc == 0)
            return extended ? lz_tar_truncated(reader, "an entry", detail) : drain(reader);
        if (lz_tar_is_zero(block)) {
            if (extended)
                return lz_fail(detail, LZ_E_FORMAT, "tar: the archive ends after an extended header, at byte %llu",
                               (unsigned long long)reader->offset);
            if (zero)
                return drain(reader);
            zero = true; /* a lone zero block is passed over, as GNU tar does */
            continue;
        }
        zero = false;
        if (!lz_tar_checksum_matches(block))
            return lz_fail(detail, LZ_E_FORMAT, "tar: header at byte %llu: its checksum does not match",
                           (unsigned long long)(reader->offset - LZ_TAR_BLOCK));
        rc = take_header(reader, block, &found, detail);
        if (rc < 0)
            return rc;
        if (rc == HEADER_OF_ENTRY)
            break;
        extended = extended || rc == HEADER_OF_NEXT;
    }
    *entry = found;
    reader->content_left = entry->stored_size;
    reader->padding_left = lz_tar_pad(entry->stored_size);
    return 1;
}

/* What follows an error would be read from the wrong place. */
static int failed_before(const struct lz_tar_reader *reader, struct lz_detail *detail)
{
    return lz_fail(detail, reader->failed, "tar: reading had already failed, at byte %llu",
                   (unsigned long long)reader->offset);
}

int lz_tar_next(struct lz_tar_reader *reader, struct lz_tar_entry *entry, struct lz_detail *detail)
{
    if (reader->failed != 0)
        return failed_before(reader, detail);
    int rc = reader->ended ? 0 : next_entry(reader, entry, detail);
    reader->failed = rc < 0 ? rc : 0;
    return rc;
}

int lz_tar_read(struct lz_tar_reader *reader, const uint8_t **data, size_t *size, struct lz_detail *detail)
{
    if (reader->failed != 0)
        return failed_before(reader, detail);
    int rc = read_piece(reader, data, size, detail);
    reader->failed = rc < 0 ? rc : 0;
    return rc;
}
