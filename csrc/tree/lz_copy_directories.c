#include "lz_copy_directories.h"

#include <stdlib.h>
#include <string.h>

struct lz_copy_directory {
    uint32_t mode, uid, gid, mtime_nsec;
    int64_t mtime;
    size_t path_size, xattr_count;
    size_t at; /* in bytes: the path with its NUL, then of each xattr two sizes, the name with its NUL, and the value */
};

static int add_xattr(struct lz_buf *bytes, const struct lz_tar_xattr *xattr)
{
    size_t sizes[2] = {xattr->name_size, xattr->value_size};
    int rc = lz_buf_append(bytes, sizes, sizeof sizes);
    if (rc == 0)
        rc = lz_buf_append(bytes, xattr->name, xattr->name_size + 1);
    return rc == 0 ? lz_buf_append(bytes, xattr->value, xattr->value_size) : rc;
}

int lz_copy_directories_add(struct lz_copy_directories *self, const struct lz_walk_node *node)
{
    struct lz_copy_directory item = {.mode = node->mode,
                                     .uid = node->uid,
                                     .gid = node->gid,
                                     .mtime_nsec = node->mtime_nsec,
                                     .mtime = node->mtime,
                                     .path_size = node->path_size,
                                     .xattr_count = node->xattr_count,
                                     .at = self->bytes.size};
    void *items = self->items;
    int rc = lz_grow(&items, &self->capacity, self->count + 1, sizeof item);
    self->items = items;
    if (rc == 0)
        rc = lz_buf_append(&self->bytes, node->path, node->path_size + 1);
    for (size_t i = 0; i < node->xattr_count && rc == 0; i++)
        rc = add_xattr(&self->bytes, &node->xattrs[i]);
    if (rc == 0)
        self->items[self->count++] = item;
    return rc;
}

static int take_xattrs(struct lz_copy_directories *self, const struct lz_copy_directory *item)
{
    const uint8_t *at = self->bytes.data + item->at + item->path_size + 1;
    void *xattrs = self->xattrs;
    int rc = lz_grow(&xattrs, &self->xattr_capacity, item->xattr_count, sizeof *self->xattrs);
    self->xattrs = xattrs;
    for (size_t i = 0; i < item->xattr_count && rc == 0; i++) {
        size_t sizes[2];
        memcpy(sizes, at, sizeof sizes);
        at += sizeof sizes;
        self->xattrs[i] = (struct lz_tar_xattr){
            .name = (const char *)at, .name_size = sizes[0], .value = at + sizes[0] + 1, .value_size = sizes[1]};
        at += sizes[0] + 1 + sizes[1];
    }
    return rc;
}

int lz_copy_directories_each(struct lz_copy_directories *self, int (*visit)(void *ctx, const struct lz_walk_node *node),
                             void *ctx)
{
    int rc = 0;
    for (size_t i = self->count; i-- > 0 && rc >= 0;) {
        const struct lz_copy_directory *item = &self->items[i];
        rc = take_xattrs(self, item);
        struct lz_walk_node node = {.kind = LZ_KIND_DIRECTORY,
                                    .path = (const char *)self->bytes.data + item->at,
                                    .path_size = item->path_size,
                                    .mode = item->mode,
                                    .uid = item->uid,
                                    .gid = item->gid,
                                    .mtime = item->mtime,
                                    .mtime_nsec = item->mtime_nsec,
                                    .xattrs = self->xattrs,
                                    .xattr_count = item->xattr_count};
        if (rc == 0)
            rc = visit(ctx, &node);
    }
    return rc < 0 ? rc : 0;
}

void lz_copy_directories_free(struct lz_copy_directories *self)
{
    free(self->items);
    free(self->xattrs);
    lz_buf_free(&self->bytes);
    *self = (struct lz_copy_directories){0};
}
