#include "lz_list.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../bytes/lz_mark.h"
#include "lz_blocks.h"

#define DENTS_SIZE 32768u
#define LIST_SIZE 65536u  /* XATTR_LIST_MAX */
#define VALUE_SIZE 65536u /* XATTR_SIZE_MAX */

static int compare_bytes(const char *a, size_t a_size, const char *b, size_t b_size)
{
    int order = memcmp(a, b, a_size < b_size ? a_size : b_size);
    return order != 0 ? order : (a_size > b_size) - (a_size < b_size);
}

static int append(struct lz_listing *listing, const struct lz_name *item)
{
    void *items = listing->items;
    int rc = lz_grow(&items, &listing->capacity, listing->count + 1, sizeof *item);
    if (rc != 0)
        return rc;
    listing->items = items;
    listing->items[listing->count++] = *item;
    return 0;
}

/* One batch of getdents. Names are only counted here, since the bytes still move. */
static int take_batch(struct lz_listing *listing, const uint8_t *batch, size_t size)
{
    for (size_t at = 0; at + offsetof(struct dirent64, d_name) < size;) {
        const struct dirent64 *record = (const void *)(batch + at);
        const char *name = record->d_name;
        at += record->d_reclen;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
            continue;
        struct lz_name item = {.size = (uint32_t)strlen(name), .type = record->d_type, .on_disk = true};
        int rc = lz_buf_append(&listing->bytes, name, item.size + 1u);
        if (rc == 0)
            rc = append(listing, &item);
        if (rc != 0)
            return rc;
    }
    return 0;
}

int lz_listing_read(const struct lz_sys *sys, int fd, struct lz_listing *listing)
{
    uint8_t *batch = malloc(DENTS_SIZE);
    if (batch == NULL)
        return -ENOMEM;
    int rc = 0;
    while (rc == 0) {
        ssize_t got = sys->getdents(sys->ctx, fd, batch, DENTS_SIZE);
        if (got == -ENOENT) { /* the directory has been removed, for which it was empty */
            listing->count = 0;
            break;
        }
        if (got <= 0) {
            rc = (int)got;
            break;
        }
        rc = take_batch(listing, batch, (size_t)got);
    }
    free(batch);
    const char *at = (const char *)listing->bytes.data;
    for (size_t i = 0; rc == 0 && i < listing->count; i++) {
        listing->items[i].name = at;
        at += listing->items[i].size + 1u;
    }
    return rc;
}

int lz_listing_add(struct lz_listing *listing, const char *name, size_t size)
{
    struct lz_name item = {.name = name, .size = (uint32_t)size, .type = DT_UNKNOWN};
    return append(listing, &item);
}

static int compare_names(const void *a_item, const void *b_item)
{
    const struct lz_name *a = a_item, *b = b_item;
    int order = compare_bytes(a->name, a->size, b->name, b->size);
    return order != 0 ? order : (int)b->on_disk - (int)a->on_disk;
}

void lz_listing_sort(struct lz_listing *listing)
{
    if (listing->count < 2)
        return;
    qsort(listing->items, listing->count, sizeof *listing->items, compare_names);
    size_t kept = 1;
    for (size_t i = 1; i < listing->count; i++) {
        const struct lz_name *last = &listing->items[kept - 1], *item = &listing->items[i];
        if (compare_bytes(last->name, last->size, item->name, item->size) != 0)
            listing->items[kept++] = *item;
    }
    listing->count = kept;
}

void lz_listing_free(struct lz_listing *listing)
{
    lz_buf_free(&listing->bytes);
    free(listing->items);
    *listing = (struct lz_listing){0};
}

/* ---- xattrs ---- */

void lz_attributes_clear(struct lz_attributes *out)
{
    out->names.size = 0;
    out->bytes.size = 0;
    out->xattr_count = 0;
    out->opaque = out->metacopy = out->blocks = false;
    out->redirect = NULL;
    out->redirect_size = 0;
}

void lz_attributes_free(struct lz_attributes *out)
{
    lz_buf_free(&out->names);
    lz_buf_free(&out->bytes);
    free(out->xattrs);
    free(out->list);
    *out = (struct lz_attributes){0};
}

/* Records an xattr whose value is the last `value_size` bytes of out->bytes; pointers follow in finish(). */
static int add_name(struct lz_attributes *out, const char *name, size_t name_size, size_t value_size)
{
    void *xattrs = out->xattrs;
    int rc = lz_grow(&xattrs, &out->xattr_capacity, out->xattr_count + 1, sizeof *out->xattrs);
    if (rc != 0)
        return rc;
    out->xattrs = xattrs;
    rc = lz_buf_append(&out->names, name, name_size);
    if (rc == 0)
        rc = lz_buf_append_zeros(&out->names, 1);
    if (rc == 0)
        out->xattrs[out->xattr_count++] = (struct lz_tar_xattr){.name_size = name_size, .value_size = value_size};
    return rc;
}

int lz_attributes_add(struct lz_attributes *out, const char *name, size_t name_size, const uint8_t *value,
                      size_t value_size)
{
    int rc = lz_buf_append(&out->bytes, value, value_size);
    return rc == 0 ? add_name(out, name, name_size, value_size) : rc;
}

static int compare_xattrs(const void *a_item, const void *b_item)
{
    const struct lz_tar_xattr *a = a_item, *b = b_item;
    return compare_bytes(a->name, a->name_size, b->name, b->name_size);
}

void lz_attributes_finish(struct lz_attributes *out)
{
    size_t name_at = 0, value_at = 0;
    for (size_t i = 0; i < out->xattr_count; i++) {
        struct lz_tar_xattr *xattr = &out->xattrs[i];
        xattr->name = (const char *)out->names.data + name_at;
        xattr->value = out->bytes.data != NULL ? out->bytes.data + value_at : (const uint8_t *)"";
        name_at += xattr->name_size + 1;
        value_at += xattr->value_size;
    }
    if (out->redirect_size > 0) /* was put behind everything else */
        out->redirect = (const char *)out->bytes.data + value_at;
    if (out->xattr_count > 1)
        qsort(out->xattrs, out->xattr_count, sizeof *out->xattrs, compare_xattrs);
}

/* Appends the value of `name` to `bytes`; its size, or -ENODATA when it went away meanwhile. */
static ssize_t read_value(const struct lz_sys *sys, int dir, const char *path, const char *name, struct lz_buf *bytes)
{
    int rc = lz_buf_reserve(bytes, VALUE_SIZE);
    if (rc != 0)
        return rc;
    ssize_t got = sys->getxattrat(sys->ctx, dir, path, name, bytes->data + bytes->size, VALUE_SIZE);
    if (got > 0)
        bytes->size += (size_t)got;
    return got;
}

struct reader {
    const struct lz_sys *sys;
    int dir;
    const char *path;
    const struct lz_attributes_rules *rules;
    struct lz_buf redirect;
};

static int take_data(const struct reader *reader, const char *name, struct lz_attributes *out)
{
    if (!reader->rules->collect || strcmp(name, "security.selinux") == 0)
        return 0;
    ssize_t got = read_value(reader->sys, reader->dir, reader->path, name, &out->bytes);
    if (got < 0)
        return got == -ENODATA ? 0 : (int)got;
    return add_name(out, name, strlen(name), (size_t)got);
}

static int take_escaped(const struct reader *reader, const char *name, struct lz_attributes *out)
{
    char plain[256];
    if (!reader->rules->collect)
        return 0;
    int size = lz_overlay_xattr_unescape(name, reader->rules->user_xattr, plain, sizeof plain);
    if (size < 0)
        return size;
    ssize_t got = read_value(reader->sys, reader->dir, reader->path, name, &out->bytes);
    if (got < 0)
        return got == -ENODATA ? 0 : (int)got;
    return add_name(out, plain, (size_t)size, (size_t)got);
}

static int take_opaque(const struct reader *reader, const char *name, struct lz_attributes *out)
{
    size_t before = out->bytes.size;
    ssize_t got = read_value(reader->sys, reader->dir, reader->path, name, &out->bytes);
    out->opaque = got == 1 && out->bytes.data[before] == 'y'; /* "x" only says that whiteouts may be xattrs */
    out->bytes.size = before;
    return got < 0 && got != -ENODATA ? (int)got : 0;
}

static int take_one(struct reader *reader, const char *name, struct lz_attributes *out)
{
    if (!reader->rules->overlay)
        return take_data(reader, name, out);
    ssize_t got;
    switch (lz_overlay_xattr_kind(name, reader->rules->user_xattr)) {
    case LZ_OVERLAY_NONE:
        return take_data(reader, name, out);
    case LZ_OVERLAY_ESCAPED:
        return take_escaped(reader, name, out);
    case LZ_OVERLAY_OPAQUE:
        return take_opaque(reader, name, out);
    case LZ_OVERLAY_METACOPY:
        out->metacopy = true;
        return 0;
    case LZ_OVERLAY_REDIRECT:
        got = read_value(reader->sys, reader->dir, reader->path, name, &reader->redirect);
        return got < 0 && got != -ENODATA ? (int)got : 0;
    case LZ_OVERLAY_PRIVATE:
        out->blocks |= strcmp(name, lz_blocks_xattr(reader->rules->user_xattr)) == 0;
        break;
    }
    return 0;
}

int lz_attributes_read(const struct lz_sys *sys, int dir, const char *path, const struct lz_attributes_rules *rules,
                       struct lz_attributes *out)
{
    lz_attributes_clear(out);
    if (out->list == NULL && (out->list = malloc(LIST_SIZE)) == NULL)
        return -ENOMEM;
    ssize_t size = sys->listxattrat(sys->ctx, dir, path, out->list, LIST_SIZE);
    if (size == -EOPNOTSUPP || size == -EBADF) /* EBADF: an O_PATH descriptor has no xattrs to ask for */
        return 0;
    if (size < 0)
        return (int)size;
    struct reader reader = {.sys = sys, .dir = dir, .path = path, .rules = rules};
    int rc = 0;
    for (ssize_t at = 0; at < size && rc == 0; at += (ssize_t)strlen(out->list + at) + 1)
        rc = take_one(&reader, out->list + at, out);
    if (rc == 0 && reader.redirect.size > 0) {
        rc = lz_buf_append(&out->bytes, reader.redirect.data, reader.redirect.size);
        if (rc == 0)
            rc = lz_buf_append_zeros(&out->bytes, 1);
        out->redirect_size = rc == 0 ? reader.redirect.size : 0;
    }
    if (rc == 0)
        lz_attributes_finish(out);
    lz_buf_free(&reader.redirect);
    return rc;
}
