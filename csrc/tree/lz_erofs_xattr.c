#include <string.h>

#include "../bytes/lz_digest.h"
#include "../bytes/lz_mark.h"
#include "lz_erofs.h"
#include "lz_erofs_layout.h"

/* erofs_fs.h: prefixes are numbers; the two ACLs are whole names. */
static const struct {
    const char *text;
    uint8_t number;
    bool whole;
} prefixes[] = {
    {"user.", 1, false},
    {"system.posix_acl_access", 2, true},
    {"system.posix_acl_default", 3, true},
    {"trusted.", 4, false},
    {"security.", 6, false},
};

/* The number of the name's prefix and where the rest begins; 0 when EROFS has no number for it. */
static uint8_t split_name(const char *name, size_t size, size_t *rest)
{
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        size_t length = strlen(prefixes[i].text);
        if (size < length || memcmp(name, prefixes[i].text, length) != 0 || (size == length) != prefixes[i].whole)
            continue;
        *rest = length;
        return prefixes[i].number;
    }
    return 0;
}

/* Where the xattrs of one inode gather: in `out`, or only their size. */
struct gather {
    struct lz_buf *out;
    uint64_t size;
};

static int put(struct gather *gather, const void *bytes, size_t size)
{
    gather->size += size;
    return gather->out != NULL ? lz_buf_append(gather->out, bytes, size) : 0;
}

static int put_header(struct gather *gather)
{
    const struct lz_erofs_xattr_header header = {0};
    return gather->size != 0 ? 0 : put(gather, &header, sizeof header);
}

static int put_xattr(struct gather *gather, uint8_t prefix, const char *rest, size_t rest_size, const void *value,
                     size_t value_size)
{
    static const uint8_t zeros[4];
    struct lz_erofs_xattr_entry entry = {
        .name_size = (uint8_t)rest_size, .prefix = prefix, .value_size = (uint16_t)value_size};
    int rc = put_header(gather);
    if (rc == 0)
        rc = put(gather, &entry, sizeof entry);
    if (rc == 0)
        rc = put(gather, rest, rest_size);
    if (rc == 0)
        rc = put(gather, value, value_size);
    size_t odd = (rest_size + value_size) % 4;
    return rc == 0 && odd != 0 ? put(gather, zeros, 4 - odd) : rc;
}

/* One xattr of the image. overlayfs must not take a name of its own from an image for its own. */
static int put_from_index(struct gather *gather, const struct lz_xattr *xattr, const char *path,
                          struct lz_detail *detail)
{
    char name[LZ_XATTR_NAME_MAX + 1], escaped[LZ_XATTR_NAME_MAX + 1];
    if (xattr->name_size > LZ_XATTR_NAME_MAX || memchr(xattr->name, 0, xattr->name_size) != NULL)
        return lz_fail(detail, LZ_E_FORMAT, "%s: an xattr's name is malformed", path);
    memcpy(name, xattr->name, xattr->name_size);
    name[xattr->name_size] = 0;
    int size = lz_overlay_xattr_escape(name, false, escaped, sizeof escaped);
    if (size < 0)
        return lz_fail(detail, LZ_E_LIMIT, "%s: xattr %s is too long once it is escaped for overlayfs", path, name);
    if (xattr->value_size > LZ_EROFS_XATTR_VALUE_MAX)
        return lz_fail(detail, LZ_E_LIMIT, "%s: xattr %s has %zu bytes, EROFS holds at most %u", path, name,
                       xattr->value_size, LZ_EROFS_XATTR_VALUE_MAX);
    size_t rest = 0;
    uint8_t prefix = split_name(escaped, (size_t)size, &rest);
    if (prefix == 0)
        return 0;
    return put_xattr(gather, prefix, escaped + rest, (size_t)size - rest, xattr->value, xattr->value_size);
}

/* What makes overlayfs read the content from the objects directory (overlayfs.rst, "Data-only lower layers"). */
static int put_object(struct gather *gather, const uint8_t digest[LZ_SHA256_SIZE])
{
    static const char metacopy[] = "overlay.metacopy", redirect[] = "overlay.redirect";
    char hex[LZ_SHA256_HEX_SIZE + 1], path[LZ_SHA256_HEX_SIZE + 3];
    lz_hex(digest, hex);
    path[0] = '/';
    memcpy(path + 1, hex, 2);
    path[3] = '/';
    memcpy(path + 4, hex + 2, LZ_SHA256_HEX_SIZE - 2);
    int rc = put_xattr(gather, 4, metacopy, sizeof metacopy - 1, "", 0);
    return rc != 0 ? rc : put_xattr(gather, 4, redirect, sizeof redirect - 1, path, LZ_SHA256_HEX_SIZE + 2);
}

static int check_size(uint64_t size, const char *path, struct lz_detail *detail)
{
    if (size <= LZ_EROFS_XATTR_BYTES_MAX)
        return 0;
    return lz_fail(detail, LZ_E_LIMIT, "%s: %llu bytes of xattrs, EROFS holds at most %llu", path,
                   (unsigned long long)size, (unsigned long long)LZ_EROFS_XATTR_BYTES_MAX);
}

int lz_erofs_check_xattrs(const char *path, const struct lz_xattr *xattrs, size_t count, struct lz_detail *detail)
{
    static const uint8_t digest[LZ_SHA256_SIZE];
    struct gather gather = {.out = NULL};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = put_from_index(&gather, &xattrs[i], path, detail);
    if (rc == 0)
        rc = put_object(&gather, digest);
    return rc != 0 ? rc : check_size(gather.size, path, detail);
}

int lz_erofs_xattrs(const struct lz_index *merged, uint32_t entry, struct lz_buf *out, uint32_t *size,
                    struct lz_detail *detail)
{
    const struct lz_entry *e = &merged->entries[entry];
    const char *path = lz_index_path(merged, entry);
    struct gather gather = {.out = out};
    struct lz_xattr xattr;
    uint32_t cursor = 0;
    int rc = 0;
    while (rc == 0 && lz_index_next_xattr(merged, entry, &cursor, &xattr) == 1)
        rc = put_from_index(&gather, &xattr, path, detail);
    if (rc == 0 && e->kind == LZ_KIND_FILE && (e->flags & LZ_FLAG_OBJECT) != 0)
        rc = put_object(&gather, e->digest);
    if (rc == 0)
        rc = check_size(gather.size, path, detail);
    if (rc != 0)
        return rc;
    *size = (uint32_t)gather.size;
    return 0;
}
