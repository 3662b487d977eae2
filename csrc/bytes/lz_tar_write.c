#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lz_tar.h"

#define OCTAL_7 ((1u << 21) - 1)    /* seven octal digits: ids and devices */
#define OCTAL_11 ((1ull << 33) - 1) /* eleven: sizes and times */

/* What goes into one header block; text that does not fit has a pax record and is cut here. */
struct header {
    const char *name;
    size_t name_size;
    const char *link;
    size_t link_size;
    size_t prefix_size; /* the first bytes of `name`, if it is split at a slash */
    char type;
    uint32_t mode, uid, gid, major, minor;
    uint64_t size, mtime;
};

static void octal(uint8_t *field, size_t digits, uint64_t value)
{
    field[digits] = 0;
    for (size_t i = digits; i > 0; i--, value >>= 3)
        field[i - 1] = (uint8_t)('0' + (value & 7));
}

static int append_header(struct lz_buf *out, const struct header *header)
{
    uint8_t block[LZ_TAR_BLOCK] = {0};
    const char *name = header->name;
    size_t name_size = header->name_size;
    if (header->prefix_size > 0) {
        memcpy(block + 345, name, header->prefix_size);
        name += header->prefix_size + 1;
        name_size -= header->prefix_size + 1;
    }
    memcpy(block, name, name_size < 100 ? name_size : 100);
    octal(block + 100, 7, header->mode);
    octal(block + 108, 7, header->uid);
    octal(block + 116, 7, header->gid);
    octal(block + 124, 11, header->size);
    octal(block + 136, 11, header->mtime);
    memset(block + 148, ' ', 8);
    block[156] = (uint8_t)header->type;
    if (header->link_size > 0)
        memcpy(block + 157, header->link, header->link_size < 100 ? header->link_size : 100);
    memcpy(block + 257, "ustar\00000", 8);
    octal(block + 329, 7, header->major);
    octal(block + 337, 7, header->minor);
    uint32_t sum = 0;
    for (size_t i = 0; i < sizeof block; i++)
        sum += block[i];
    octal(block + 148, 6, sum); /* six digits, NUL, space */
    return lz_buf_append(out, block, sizeof block);
}

/* Where to cut a name into prefix (at most 155 bytes) and name (at most 100): 0 when it fits whole, -1 when it cannot
 * be cut. */
static int split_name(const char *name, size_t size)
{
    if (size <= 100)
        return 0;
    for (size_t at = size - 1 < 155 ? size - 1 : 155; at > 0 && size - at - 1 <= 100; at--)
        if (name[at] == '/' && size - at - 1 > 0)
            return (int)at;
    return -1;
}

/* "LENGTH KEY=VALUE\n" where LENGTH counts its own digits. */
static int append_record(struct lz_buf *records, const char *key, size_t key_size, const void *value, size_t value_size)
{
    size_t body = key_size + value_size + 3, length = body + 1, digits = 1;
    for (size_t power = 10; length >= power; power *= 10)
        length = body + ++digits;
    char number[24];
    int written = snprintf(number, sizeof number, "%zu ", length);
    int rc = lz_buf_append(records, number, (size_t)written);
    if (rc == 0)
        rc = lz_buf_append(records, key, key_size);
    if (rc == 0)
        rc = lz_buf_append(records, "=", 1);
    if (rc == 0)
        rc = lz_buf_append(records, value, value_size);
    return rc != 0 ? rc : lz_buf_append(records, "\n", 1);
}

static int append_text(struct lz_buf *records, const char *key, const char *value, size_t size)
{
    return append_record(records, key, strlen(key), value, size);
}

static int append_number(struct lz_buf *records, const char *key, uint64_t value)
{
    char text[24];
    int size = snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    return append_text(records, key, text, (size_t)size);
}

static int append_time(struct lz_buf *records, int64_t seconds, uint32_t nanoseconds)
{
    char text[48];
    bool negative = seconds < 0;
    uint64_t whole = negative ? (uint64_t)-seconds : (uint64_t)seconds;
    if (negative && nanoseconds > 0) { /* -2 s + 0.5 s is written -1.5 */
        whole--;
        nanoseconds = 1000000000u - nanoseconds;
    }
    int size = snprintf(text, sizeof text, "%s%llu", negative ? "-" : "", (unsigned long long)whole);
    if (nanoseconds > 0) {
        size += snprintf(text + size, sizeof text - (size_t)size, ".%09u", nanoseconds);
        while (text[size - 1] == '0')
            size--;
    }
    return append_text(records, "mtime", text, (size_t)size);
}

static int append_xattrs(struct lz_buf *records, const struct lz_tar_entry *entry, struct lz_detail *detail)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < entry->xattr_count; i++) {
        const struct lz_tar_xattr *xattr = &entry->xattrs[i];
        char key[13 + 256];
        if (xattr->name_size == 0 || xattr->name_size > 255 || memchr(xattr->name, '=', xattr->name_size) != NULL ||
            memchr(xattr->name, 0, xattr->name_size) != NULL)
            return lz_fail(detail, LZ_E_FORMAT, "'%s': tar cannot say the xattr name '%s'", entry->path, xattr->name);
        memcpy(key, "SCHILY.xattr.", 13);
        memcpy(key + 13, xattr->name, xattr->name_size);
        rc = append_record(records, key, 13 + xattr->name_size, xattr->value, xattr->value_size);
    }
    return rc;
}

/* The map of pax sparse format 1.0, padded to a block. */
static int append_map(struct lz_buf *map, const struct lz_tar_entry *entry)
{
    char line[48];
    int size = snprintf(line, sizeof line, "%zu\n", entry->extent_count);
    int rc = lz_buf_append(map, line, (size_t)size);
    for (size_t i = 0; rc == 0 && i < entry->extent_count; i++) {
        size = snprintf(line, sizeof line, "%llu\n%llu\n", (unsigned long long)entry->extents[i].offset,
                        (unsigned long long)entry->extents[i].size);
        rc = lz_buf_append(map, line, (size_t)size);
    }
    return rc != 0 ? rc : lz_buf_append_zeros(map, lz_tar_pad(map->size));
}

static const char *base_name(const char *path, size_t size, size_t *base_size)
{
    while (size > 1 && path[size - 1] == '/')
        size--;
    size_t from = size;
    while (from > 0 && path[from - 1] != '/')
        from--;
    *base_size = size - from;
    return path + from;
}

/* "PREFIX/base", cut to what a header holds: the name of a helper entry, which readers of pax do not look at. */
static size_t helper_name(char out[101], const char *prefix, const struct lz_tar_entry *entry)
{
    size_t base_size = 0;
    const char *base = base_name(entry->path, entry->path_size, &base_size);
    size_t used = (size_t)snprintf(out, 101, "%s/", prefix);
    size_t room = 100 - used;
    memcpy(out + used, base, base_size < room ? base_size : room);
    return used + (base_size < room ? base_size : room);
}

/* Records in the order of their keys. */
static int append_records(struct lz_buf *records, const struct lz_tar_entry *entry, const struct header *header,
                          const char *path, size_t path_size, bool sparse, struct lz_detail *detail)
{
    int rc = 0;
    if (sparse) {
        rc = append_text(records, "GNU.sparse.major", "1", 1);
        if (rc == 0)
            rc = append_text(records, "GNU.sparse.minor", "0", 1);
        if (rc == 0)
            rc = append_text(records, "GNU.sparse.name", path, path_size);
        if (rc == 0)
            rc = append_number(records, "GNU.sparse.realsize", entry->size);
    }
    if (rc == 0)
        rc = append_xattrs(records, entry, detail);
    if (rc == 0 && entry->gid > OCTAL_7)
        rc = append_number(records, "gid", entry->gid);
    if (rc == 0 && header->link_size > 100)
        rc = append_text(records, "linkpath", header->link, header->link_size);
    if (rc == 0 && (entry->mtime_nsec != 0 || entry->mtime < 0 || (uint64_t)entry->mtime > OCTAL_11))
        rc = append_time(records, entry->mtime, entry->mtime_nsec);
    if (rc == 0 && !sparse && split_name(path, path_size) < 0)
        rc = append_text(records, "path", path, path_size);
    if (rc == 0 && header->size > OCTAL_11)
        rc = append_number(records, "size", header->size);
    if (rc == 0 && entry->uid > OCTAL_7)
        rc = append_number(records, "uid", entry->uid);
    return rc;
}

static int append_pax(struct lz_buf *out, const struct lz_tar_entry *entry, const struct lz_buf *records)
{
    char name[101];
    struct header header = {.name = name, .type = 'x', .mode = 0644, .size = records->size};
    header.name_size = helper_name(name, "PaxHeaders.0", entry);
    int rc = append_header(out, &header);
    if (rc == 0)
        rc = lz_buf_append(out, records->data, records->size);
    return rc != 0 ? rc : lz_buf_append_zeros(out, lz_tar_pad(records->size));
}

/* Ascending, not overlapping, inside the file; small enough that map and content together have a size. */
static bool extents_fit(const struct lz_tar_entry *entry)
{
    uint64_t end = 0, stored = 0;
    for (size_t i = 0; i < entry->extent_count; i++) {
        const struct lz_tar_extent *extent = &entry->extents[i];
        if (extent->offset < end || extent->offset > entry->size || extent->size > entry->size - extent->offset)
            return false;
        end = extent->offset + extent->size;
        stored += extent->size;
    }
    return entry->extent_count < SIZE_MAX / 64 && stored < INT64_MAX - 64 * (uint64_t)(entry->extent_count + 9);
}

static int check(const struct lz_tar_entry *entry, struct lz_detail *detail)
{
    bool link = entry->type == LZ_TAR_HARDLINK || entry->type == LZ_TAR_SYMLINK;
    if (entry->path_size == 0 || memchr(entry->path, 0, entry->path_size) != NULL)
        return lz_fail(detail, LZ_E_FORMAT, "tar cannot say an empty name or one with a NUL");
    if (link && (entry->link_size == 0 || memchr(entry->link, 0, entry->link_size) != NULL))
        return lz_fail(detail, LZ_E_FORMAT, "'%s': tar cannot say a link to nothing or to a name with a NUL",
                       entry->path);
    if (entry->size > INT64_MAX || entry->mtime_nsec > 999999999 || entry->mtime == INT64_MIN)
        return lz_fail(detail, LZ_E_FORMAT, "'%s': size or time out of range", entry->path);
    if (entry->major > OCTAL_7 || entry->minor > OCTAL_7)
        return lz_fail(detail, LZ_E_FORMAT, "'%s': device %u:%u is out of range", entry->path, entry->major,
                       entry->minor);
    if (entry->type == LZ_TAR_FILE && entry->path[entry->path_size - 1] == '/')
        return lz_fail(detail, LZ_E_FORMAT, "'%s': tar cannot say a file whose name ends in a slash", entry->path);
    if (entry->type == LZ_TAR_FILE && entry->extents != NULL && !extents_fit(entry))
        return lz_fail(detail, LZ_E_FORMAT, "'%s': data segments overlap, or do not lie in its %llu bytes", entry->path,
                       (unsigned long long)entry->size);
    return 0;
}

/* The entry's own header, with the helpers that it needs before it and a sparse map after it. `path` has its final
 * slash. */
static int write_with(const struct lz_tar_entry *entry, const char *path, size_t path_size, struct lz_buf *records,
                      struct lz_buf *map, struct lz_buf *out, struct lz_detail *detail)
{
    static const char types[] = {'0', '1', '2', '3', '4', '5', '6'};
    bool sparse = entry->type == LZ_TAR_FILE && entry->extents != NULL;
    bool link = entry->type == LZ_TAR_HARDLINK || entry->type == LZ_TAR_SYMLINK;
    bool plain_time = entry->mtime >= 0 && (uint64_t)entry->mtime <= OCTAL_11;
    int split = split_name(path, path_size);
    char sparse_name[101];
    struct header header = {
        .name = path,
        .name_size = path_size,
        .prefix_size = split > 0 ? (size_t)split : 0,
        .link = entry->link,
        .link_size = link ? entry->link_size : 0,
        .type = types[entry->type],
        .mode = entry->mode & 07777,
        .uid = entry->uid <= OCTAL_7 ? entry->uid : 0,
        .gid = entry->gid <= OCTAL_7 ? entry->gid : 0,
        .major = entry->major,
        .minor = entry->minor,
        .size = entry->type == LZ_TAR_FILE ? entry->size : 0,
        .mtime = plain_time ? (uint64_t)entry->mtime : 0,
    };
    int rc = 0;
    if (sparse) {
        rc = append_map(map, entry);
        header.size = map->size;
        for (size_t i = 0; i < entry->extent_count; i++)
            header.size += entry->extents[i].size;
        header.name = sparse_name;
        header.name_size = helper_name(sparse_name, "GNUSparseFile.0", entry);
        header.prefix_size = 0;
    }
    if (rc == 0)
        rc = append_records(records, entry, &header, path, path_size, sparse, detail);
    if (rc == 0 && records->size > 0)
        rc = append_pax(out, entry, records);
    if (header.size > OCTAL_11)
        header.size = 0;
    if (rc == 0)
        rc = append_header(out, &header);
    return rc != 0 ? rc : lz_buf_append(out, map->data, map->size);
}

int lz_tar_write_entry(const struct lz_tar_entry *entry, struct lz_buf *out, struct lz_detail *detail)
{
    int rc = check(entry, detail);
    if (rc != 0)
        return rc;
    size_t before = out->size;
    struct lz_buf records = {0}, map = {0}, slashed = {0};
    const char *path = entry->path;
    size_t path_size = entry->path_size;
    if (entry->type == LZ_TAR_DIRECTORY && path[path_size - 1] != '/') {
        rc = lz_buf_append(&slashed, path, path_size);
        if (rc == 0)
            rc = lz_buf_append(&slashed, "/", 1);
        path = (const char *)slashed.data;
        path_size++;
    }
    if (rc == 0)
        rc = write_with(entry, path, path_size, &records, &map, out, detail);
    if (rc != 0)
        out->size = before;
    lz_buf_free(&records);
    lz_buf_free(&map);
    lz_buf_free(&slashed);
    return rc;
}
