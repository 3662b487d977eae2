#include "lz_toc_write.h"

#include <string.h>
#include <time.h>

#include "lz_json.h"
#include "lz_tar_pax.h"
#include "lz_tar_reader.h"

#define YEAR_0 (-62167219200)     /* 0000-01-01 */
#define YEAR_10000 (253402300800) /* 10000-01-01: RFC 3339 has four digits */

static const char *const type_words[] = {
    [LZ_TAR_FILE] = "reg",  [LZ_TAR_HARDLINK] = "hardlink",  [LZ_TAR_SYMLINK] = "symlink",
    [LZ_TAR_CHAR] = "char", [LZ_TAR_BLOCK_DEVICE] = "block", [LZ_TAR_DIRECTORY] = "dir",
    [LZ_TAR_FIFO] = "fifo",
};

static bool is_ustar(const uint8_t *header)
{
    return memcmp(header + LZ_TAR_MAGIC_AT, "ustar", 5) == 0;
}

static bool is_gnu(const uint8_t *header)
{
    return memcmp(header + LZ_TAR_MAGIC_AT, "ustar  ", 8) == 0;
}

/* Only an extended header of its own or GNU's long names before the entry's header, which is the last block; not both
 * kinds, because then readers differ in which of two names wins. `has_link`: one of them has the target of a link. */
static bool has_plain_headers(const uint8_t *literals, size_t size, bool *has_link)
{
    static const char record[] = " linkpath=";
    bool pax = false, gnu = false;
    size_t at = 0;
    while (size - at > LZ_TAR_BLOCK) {
        int64_t body = 0;
        uint8_t type = literals[at + LZ_TAR_TYPE_AT];
        if ((type != 'x' && type != 'L' && type != 'K') ||
            lz_tar_number(literals + at + LZ_TAR_SIZE_AT, 12, &body) != 0)
            return false;
        pax = pax || type == 'x';
        gnu = gnu || type != 'x';
        size_t rest = size - at - LZ_TAR_BLOCK;
        if (body < 0 || (uint64_t)body > rest || lz_tar_pad((uint64_t)body) > rest - (uint64_t)body)
            return false;
        at += LZ_TAR_BLOCK;
        *has_link = *has_link || type == 'K' ||
                    (type == 'x' && memmem(literals + at, (size_t)body, record, sizeof record - 1) != NULL);
        at += (size_t)body + lz_tar_pad((uint64_t)body);
    }
    return size - at == LZ_TAR_BLOCK && !(pax && gnu);
}

/* Fields of the header itself that the entry does not tell of. */
static bool has_plain_fields(const struct lz_tar_entry *entry, const uint8_t *header)
{
    static const uint8_t types[] = {
        [LZ_TAR_FILE] = '0',         [LZ_TAR_HARDLINK] = '1',  [LZ_TAR_SYMLINK] = '2', [LZ_TAR_CHAR] = '3',
        [LZ_TAR_BLOCK_DEVICE] = '4', [LZ_TAR_DIRECTORY] = '5', [LZ_TAR_FIFO] = '6',
    };
    int64_t number;
    if (header[LZ_TAR_TYPE_AT] != types[entry->type] || !is_ustar(header))
        return false;
    if (is_gnu(header) && (header[345] != 0 || header[357] != 0)) /* its atime and ctime */
        return false;
    if (!is_gnu(header) && memcmp(header + LZ_TAR_STAR_TRAILER_AT, "tar", 4) == 0)
        return false;
    if (lz_tar_number(header + LZ_TAR_MODE_AT, 8, &number) != 0 || number < 0)
        return false;
    for (size_t at = LZ_TAR_MAJOR_AT; at <= LZ_TAR_MINOR_AT; at += 8) {
        if (lz_tar_number(header + at, 8, &number) != 0 || number < 0)
            return false;
    }
    if (entry->type == LZ_TAR_FILE)
        return entry->extents == NULL && entry->size == entry->stored_size;
    return lz_tar_number(header + LZ_TAR_SIZE_AT, 12, &number) == 0 && number == 0;
}

/* A link field of what is no link: some writers leave the old name in whiteouts, and Go hands it out. Only the header's
 * own is found again in lz_toc_put_entry(). */
static bool has_plain_link(const struct lz_tar_entry *entry, const uint8_t *header, bool has_link)
{
    const char *link = (const char *)header + LZ_TAR_LINK_AT;
    if (entry->link != NULL)
        return lz_is_utf8(entry->link, entry->link_size);
    return !has_link && lz_is_utf8(link, strnlen(link, LZ_TAR_NAME_SIZE));
}

static bool is_time(bool has, int64_t seconds)
{
    return !has || (seconds >= YEAR_0 && seconds < YEAR_10000);
}

bool lz_toc_can_say(const struct lz_tar_entry *entry, const uint8_t *literals, size_t size, size_t padding)
{
    bool has_link = false;
    if (size < padding || size - padding < LZ_TAR_BLOCK || literals[padding] == 0 ||
        !has_plain_headers(literals + padding, size - padding, &has_link))
        return false;
    const uint8_t *header = literals + size - LZ_TAR_BLOCK;
    if (!has_plain_fields(entry, header) || !has_plain_link(entry, header, has_link))
        return false;
    if (!is_time(true, entry->mtime) || !is_time(entry->has_atime, entry->atime) ||
        !is_time(entry->has_ctime, entry->ctime))
        return false;
    if (!lz_is_utf8(entry->path, entry->path_size))
        return false;
    for (size_t i = 0; i < entry->xattr_count; i++) {
        if (!lz_is_utf8(entry->xattrs[i].name, entry->xattrs[i].name_size))
            return false;
    }
    return true;
}

/* RFC 3339, in UTC, with as many digits of the fraction as there are. */
static int put_time(struct lz_buf *out, const char *member, int64_t seconds, uint32_t nsec)
{
    struct tm parts;
    time_t when = (time_t)seconds;
    char fraction[12] = "";
    if (gmtime_r(&when, &parts) == NULL)
        return LZ_E_FORMAT; /* not after lz_toc_can_say() */
    if (nsec > 0) {
        unsigned digits = 9;
        for (; nsec % 10 == 0; nsec /= 10)
            digits--;
        fraction[0] = '.';
        for (unsigned i = digits; i > 0; i--, nsec /= 10)
            fraction[i] = (char)('0' + nsec % 10);
        fraction[digits + 1] = 0;
    }
    return lz_json_put(out, ",\"%s\":\"%04d-%02d-%02dT%02d:%02d:%02d%sZ\"", member, parts.tm_year + 1900,
                       parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec, fraction);
}

static int put_number(struct lz_buf *out, const char *member, int64_t number)
{
    return number != 0 ? lz_json_put(out, ",\"%s\":%lld", member, (long long)number) : 0;
}

static int put_field(struct lz_buf *out, const char *member, const uint8_t *field)
{
    int64_t number = 0;
    (void)lz_tar_number(field, 8, &number); /* lz_toc_can_say() has looked */
    return put_number(out, member, number);
}

static int put_times(struct lz_buf *out, const struct lz_tar_entry *entry)
{
    int rc = put_time(out, "modtime", entry->mtime, entry->mtime_nsec);
    if (rc == 0 && entry->has_atime)
        rc = put_time(out, "accesstime", entry->atime, entry->atime_nsec);
    if (rc == 0 && entry->has_ctime)
        rc = put_time(out, "changetime", entry->ctime, entry->ctime_nsec);
    return rc;
}

static int put_xattrs(struct lz_buf *out, const struct lz_tar_entry *entry)
{
    int rc = 0;
    for (size_t i = 0; i < entry->xattr_count && rc == 0; i++) {
        const struct lz_tar_xattr *xattr = &entry->xattrs[i];
        rc = lz_json_put(out, i == 0 ? ",\"xattrs\":{" : ",");
        if (rc == 0)
            rc = lz_json_put_text(out, xattr->name, xattr->name_size);
        if (rc == 0)
            rc = lz_json_put(out, ":");
        if (rc == 0)
            rc = lz_json_put_base64(out, xattr->value, xattr->value_size);
    }
    return rc == 0 && entry->xattr_count > 0 ? lz_json_put(out, "}") : rc;
}

int lz_toc_put_entry(struct lz_buf *out, const struct lz_tar_entry *entry, const uint8_t *header)
{
    int rc = lz_json_put(out, "{\"type\":\"%s\",\"name\":", type_words[entry->type]);
    if (rc == 0)
        rc = lz_json_put_text(out, entry->path, entry->path_size);
    const char *field = (const char *)header + LZ_TAR_LINK_AT;
    const char *link = entry->link != NULL ? entry->link : field;
    size_t link_size = entry->link != NULL ? entry->link_size : strnlen(field, LZ_TAR_NAME_SIZE);
    if (rc == 0 && link_size > 0) {
        rc = lz_json_put(out, ",\"linkName\":");
        if (rc == 0)
            rc = lz_json_put_text(out, link, link_size);
    }
    if (rc == 0)
        rc = put_field(out, "mode", header + LZ_TAR_MODE_AT);
    if (rc == 0)
        rc = put_number(out, "size", (int64_t)entry->size);
    if (rc == 0)
        rc = put_number(out, "uid", entry->uid);
    if (rc == 0)
        rc = put_number(out, "gid", entry->gid);
    if (rc == 0)
        rc = put_times(out, entry);
    if (rc == 0)
        rc = put_field(out, "devMajor", header + LZ_TAR_MAJOR_AT);
    if (rc == 0)
        rc = put_field(out, "devMinor", header + LZ_TAR_MINOR_AT);
    return rc != 0 ? rc : put_xattrs(out, entry);
}
