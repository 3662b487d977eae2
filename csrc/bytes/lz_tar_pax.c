#include "lz_tar_pax.h"

#include <stdlib.h>
#include <string.h>

static const char xattr_prefix[] = "SCHILY.xattr.";
static const char sparse_prefix[] = "GNU.sparse.";

void lz_pax_clear(struct lz_pax *pax)
{
    struct lz_buf records = pax->records;
    records.size = 0;
    *pax = (struct lz_pax){.records = records,
                           .xattrs = pax->xattrs,
                           .xattr_capacity = pax->xattr_capacity,
                           .extents = pax->extents,
                           .extent_capacity = pax->extent_capacity};
}

void lz_pax_free(struct lz_pax *pax)
{
    lz_buf_free(&pax->records);
    free(pax->xattrs);
    free(pax->extents);
    *pax = (struct lz_pax){0};
}

int lz_tar_decimal(const char *text, size_t size, uint64_t *out)
{
    uint64_t value = 0;
    if (size == 0)
        return LZ_E_FORMAT;
    for (size_t i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9' || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(text[i] - '0'), &value) || value > INT64_MAX)
            return LZ_E_FORMAT;
    }
    *out = value;
    return 0;
}

static int base256(const uint8_t *field, size_t size, int64_t *out)
{
    bool negative = (field[0] & 0x40) != 0;
    uint64_t value = negative ? UINT64_MAX : 0;
    for (size_t i = 0; i < size; i++) {
        uint8_t byte = i > 0 ? field[i] : (uint8_t)(negative ? field[0] | 0x80 : field[0] & 0x7f);
        uint8_t lost = (uint8_t)(value >> 56); /* must be sign extension still */
        if (lost != (negative ? 0xff : 0))
            return LZ_E_FORMAT;
        value = value << 8 | byte;
    }
    if ((value >> 63 != 0) != negative)
        return LZ_E_FORMAT;
    *out = (int64_t)value;
    return 0;
}

int lz_tar_number(const uint8_t *field, size_t size, int64_t *out)
{
    if ((field[0] & 0x80) != 0)
        return base256(field, size, out);
    size_t at = 0;
    while (at < size && (field[at] == ' ' || field[at] == 0)) /* some old writers put a NUL first */
        at++;
    uint64_t value = 0;
    for (; at < size && field[at] >= '0' && field[at] <= '7'; at++) {
        if (value >> 60 != 0)
            return LZ_E_FORMAT;
        value = value << 3 | (uint64_t)(field[at] - '0');
    }
    for (; at < size; at++)
        if (field[at] == 0)
            break; /* what follows a NUL is nobody's */
        else if (field[at] != ' ')
            return LZ_E_FORMAT;
    *out = (int64_t)value;
    return 0;
}

/* "[-]seconds[.fraction]", floored to nanoseconds. */
static int parse_time(const char *text, size_t size, int64_t *seconds, uint32_t *nanoseconds)
{
    bool negative = size > 0 && text[0] == '-';
    if (negative) {
        text++;
        size--;
    }
    const char *dot = memchr(text, '.', size);
    size_t whole = dot != NULL ? (size_t)(dot - text) : size;
    uint64_t value = 0;
    if (lz_tar_decimal(text, whole, &value) != 0)
        return LZ_E_FORMAT;
    uint32_t fraction = 0;
    bool rest = false;
    for (size_t i = whole + 1, unit = 100000000; i < size; i++, unit /= 10) {
        if (text[i] < '0' || text[i] > '9')
            return LZ_E_FORMAT;
        fraction += (uint32_t)((size_t)(text[i] - '0') * unit);
        rest = rest || (unit == 0 && text[i] != '0');
    }
    int64_t result = (int64_t)value;
    if (negative) {
        result = -result;
        fraction += rest; /* -0.0000000001 is floored to the nanosecond before */
        if (fraction > 0) {
            result--;
            fraction = 1000000000u - fraction;
        }
    }
    *seconds = result;
    *nanoseconds = fraction;
    return 0;
}

int lz_pax_add_extent(struct lz_pax *pax, uint64_t offset, uint64_t size, struct lz_detail *detail)
{
    uint64_t end;
    if (__builtin_add_overflow(offset, size, &end) || end > INT64_MAX)
        return lz_fail(detail, LZ_E_FORMAT, "sparse map: segment of %llu bytes at %llu overflows",
                       (unsigned long long)size, (unsigned long long)offset);
    if (size == 0)
        return 0;
    if (pax->extent_count > 0) {
        const struct lz_tar_extent *last = &pax->extents[pax->extent_count - 1];
        if (offset < last->offset + last->size)
            return lz_fail(detail, LZ_E_FORMAT, "sparse map: segment at %llu overlaps or goes backwards",
                           (unsigned long long)offset);
    }
    void *extents = pax->extents;
    int rc = lz_grow(&extents, &pax->extent_capacity, pax->extent_count + 1, sizeof *pax->extents);
    pax->extents = extents;
    if (rc != 0)
        return rc;
    pax->extents[pax->extent_count++] = (struct lz_tar_extent){.offset = offset, .size = size};
    return 0;
}

/* An empty value is kept (POSIX lets it delete the record, but star and GNU tar write empty xattrs so). */
static int add_xattr(struct lz_pax *pax, const char *name, size_t name_size, const char *value, size_t value_size)
{
    void *xattrs = pax->xattrs;
    int rc = lz_grow(&xattrs, &pax->xattr_capacity, pax->xattr_count + 1, sizeof *pax->xattrs);
    pax->xattrs = xattrs;
    if (rc != 0)
        return rc;
    if (pax->xattr_count > 0 && strcmp(pax->xattrs[pax->xattr_count - 1].name, name) >= 0)
        pax->xattrs_unsorted = true;
    pax->xattrs[pax->xattr_count++] = (struct lz_tar_xattr){
        .name = name, .name_size = name_size, .value = (const uint8_t *)value, .value_size = value_size};
    return 0;
}

/* By name; records of one name stay in their order, which is that of their addresses. */
static int compare_xattrs(const void *left, const void *right)
{
    const struct lz_tar_xattr *a = left, *b = right;
    int order = strcmp(a->name, b->name);
    return order != 0 ? order : ((uintptr_t)a->name > (uintptr_t)b->name) - ((uintptr_t)a->name < (uintptr_t)b->name);
}

/* Sorted, and only the last record of each name. */
static void settle_xattrs(struct lz_pax *pax)
{
    if (!pax->xattrs_unsorted)
        return;
    struct lz_tar_xattr *xattrs = pax->xattrs;
    size_t kept = 0;
    qsort(xattrs, pax->xattr_count, sizeof *xattrs, compare_xattrs);
    for (size_t i = 0; i < pax->xattr_count; i++) {
        if (kept > 0 && strcmp(xattrs[kept - 1].name, xattrs[i].name) == 0)
            kept--;
        xattrs[kept++] = xattrs[i];
    }
    pax->xattr_count = kept;
}

/* "offset,size,offset,size,...": format 0.1 */
static int parse_map(struct lz_pax *pax, const char *text, size_t size, struct lz_detail *detail)
{
    pax->extent_count = 0;
    uint64_t pair[2];
    for (size_t at = 0, number = 0; at < size; number++) {
        const char *comma = memchr(text + at, ',', size - at);
        size_t length = comma != NULL ? (size_t)(comma - text) - at : size - at;
        if (lz_tar_decimal(text + at, length, &pair[number % 2]) != 0)
            return lz_fail(detail, LZ_E_FORMAT, "pax GNU.sparse.map: not a list of numbers");
        if (number % 2 == 1) {
            int rc = lz_pax_add_extent(pax, pair[0], pair[1], detail);
            if (rc != 0)
                return rc;
        } else if (comma == NULL) {
            return lz_fail(detail, LZ_E_FORMAT, "pax GNU.sparse.map: an offset without a size");
        }
        at += length + 1;
    }
    return 0;
}

static int sparse_record(struct lz_pax *pax, const char *key, const char *value, size_t size, uint64_t *pending,
                         struct lz_detail *detail)
{
    uint64_t number = 0;
    if (strcmp(key, "name") == 0) {
        pax->sparse_name = value;
        pax->sparse_name_size = size;
        return 0;
    }
    if (strcmp(key, "map") == 0) {
        pax->sparse = true;
        return parse_map(pax, value, size, detail);
    }
    if (lz_tar_decimal(value, size, &number) != 0)
        return lz_fail(detail, LZ_E_FORMAT, "pax GNU.sparse.%s: not a number", key);
    if (strcmp(key, "major") == 0) {
        pax->sparse = true;
        pax->sparse_in_data = number == 1;
        pax->sparse_major = number;
    } else if (strcmp(key, "minor") == 0) {
        pax->sparse_minor = number;
    } else if (strcmp(key, "realsize") == 0 || strcmp(key, "size") == 0) {
        pax->sparse = true;
        pax->has_real_size = true;
        pax->real_size = number;
    } else if (strcmp(key, "numblocks") == 0) {
        pax->extent_count = 0;
    } else if (strcmp(key, "offset") == 0) {
        *pending = number;
    } else if (strcmp(key, "numbytes") == 0) {
        return lz_pax_add_extent(pax, *pending, number, detail);
    }
    return 0;
}

static int small_number(const char *key, const char *value, size_t size, uint32_t *out, bool *has,
                        struct lz_detail *detail)
{
    uint64_t number = 0;
    if (size == 0) { /* an empty value takes back what a global record said */
        *has = false;
        return 0;
    }
    if (lz_tar_decimal(value, size, &number) != 0 || number > UINT32_MAX)
        return lz_fail(detail, LZ_E_FORMAT, "pax %s: '%.40s' is not a number from 0 to 2^32-1", key, value);
    *out = (uint32_t)number;
    *has = true;
    return 0;
}

static int text_record(const char *key, const char *value, size_t size, const char **out, size_t *out_size,
                       struct lz_detail *detail)
{
    if (memchr(value, 0, size) != NULL)
        return lz_fail(detail, LZ_E_FORMAT, "pax %s: a NUL in the value", key);
    *out = size > 0 ? value : NULL;
    *out_size = size;
    return 0;
}

static int take_record(struct lz_pax *pax, const char *key, size_t key_size, const char *value, size_t size,
                       uint64_t *pending, struct lz_detail *detail)
{
    if (strcmp(key, "path") == 0)
        return text_record(key, value, size, &pax->path, &pax->path_size, detail);
    if (strcmp(key, "linkpath") == 0)
        return text_record(key, value, size, &pax->link, &pax->link_size, detail);
    if (strcmp(key, "uid") == 0)
        return small_number(key, value, size, &pax->uid, &pax->has_uid, detail);
    if (strcmp(key, "gid") == 0)
        return small_number(key, value, size, &pax->gid, &pax->has_gid, detail);
    if (strcmp(key, "size") == 0) {
        pax->has_size = size > 0;
        if (size > 0 && lz_tar_decimal(value, size, &pax->size) != 0)
            return lz_fail(detail, LZ_E_FORMAT, "pax size: '%.40s' is not a number from 0 to 2^63-1", value);
        return 0;
    }
    if (strcmp(key, "mtime") == 0) {
        pax->has_mtime = size > 0;
        if (size > 0 && parse_time(value, size, &pax->mtime, &pax->mtime_nsec) != 0)
            return lz_fail(detail, LZ_E_FORMAT, "pax mtime: '%.40s' is not a time", value);
        return 0;
    }
    if (strcmp(key, "atime") == 0) {
        pax->has_atime = parse_time(value, size, &pax->atime, &pax->atime_nsec) == 0;
        return 0;
    }
    if (strcmp(key, "ctime") == 0) {
        pax->has_ctime = parse_time(value, size, &pax->ctime, &pax->ctime_nsec) == 0;
        return 0;
    }
    if (key_size >= sizeof xattr_prefix && memcmp(key, xattr_prefix, sizeof xattr_prefix - 1) == 0)
        return add_xattr(pax, key + sizeof xattr_prefix - 1, key_size - (sizeof xattr_prefix - 1), value, size);
    if (key_size >= sizeof sparse_prefix && memcmp(key, sparse_prefix, sizeof sparse_prefix - 1) == 0)
        return sparse_record(pax, key + sizeof sparse_prefix - 1, value, size, pending, detail);
    return 0; /* uname, gname, comment, vendors': nothing that an index keeps */
}

/* "LENGTH KEY=VALUE\n", LENGTH counting all of it. */
struct record {
    size_t key_at, key_size, value_at, value_size, end; /* `end`: where the next record begins */
};

static int find_record(const char *text, size_t size, size_t at, struct record *out, struct lz_detail *detail)
{
    const char *space = memchr(text + at, ' ', size - at < 21 ? size - at : 21);
    uint64_t length = 0;
    if (space == NULL || lz_tar_decimal(text + at, (size_t)(space - (text + at)), &length) != 0 || length > size - at ||
        length < (size_t)(space - (text + at)) + 3 || text[at + length - 1] != '\n')
        return lz_fail(detail, LZ_E_FORMAT, "pax: malformed record at byte %zu", at);
    const char *key = space + 1, *end = text + at + length - 1;
    const char *equals = memchr(key, '=', (size_t)(end - key));
    if (equals == NULL || equals == key || memchr(key, 0, (size_t)(equals - key)) != NULL)
        return lz_fail(detail, LZ_E_FORMAT, "pax: record without a key at byte %zu", at);
    *out = (struct record){.key_at = (size_t)(key - text),
                           .key_size = (size_t)(equals - key),
                           .value_at = (size_t)(equals + 1 - text),
                           .value_size = (size_t)(end - equals - 1),
                           .end = at + length};
    return 0;
}

int lz_pax_check(const void *records, size_t size, struct lz_detail *detail)
{
    struct record record;
    int rc = 0;
    for (size_t at = 0; rc == 0 && at < size; at = record.end)
        rc = find_record(records, size, at, &record, detail);
    return rc;
}

int lz_pax_parse(struct lz_pax *pax, struct lz_detail *detail)
{
    char *text = (char *)pax->records.data;
    struct record record;
    uint64_t pending = 0;
    for (size_t at = 0; at < pax->records.size; at = record.end) {
        int rc = find_record(text, pax->records.size, at, &record, detail);
        if (rc != 0)
            return rc;
        text[record.key_at + record.key_size] = 0;
        text[record.value_at + record.value_size] = 0;
        rc = take_record(pax, text + record.key_at, record.key_size, text + record.value_at, record.value_size,
                         &pending, detail);
        if (rc != 0)
            return rc;
    }
    settle_xattrs(pax);
    if (pax->sparse_major > 1 || pax->sparse_minor > 1 - pax->sparse_major) /* 0.0, 0.1 and 1.0 */
        return lz_fail(detail, LZ_E_FORMAT, "pax: unknown version %llu.%llu of GNU.sparse",
                       (unsigned long long)pax->sparse_major, (unsigned long long)pax->sparse_minor);
    return 0;
}
