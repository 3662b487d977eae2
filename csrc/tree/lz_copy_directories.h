/* lz_copy_directories.h - what directories are to be when nothing is made in them any more (internal to copy).
 *
 * It is kept from the look that led into them, not looked up again at the end: another directory may have the name by then,
 * and what is copied of one would be open to those who may enter the other. 60 bytes for each, its path and its xattrs.
 */
#ifndef LZ_COPY_DIRECTORIES_H
#define LZ_COPY_DIRECTORIES_H

#include <stddef.h>

#include "../base/lz_mem.h"
#include "lz_walk.h"

struct lz_copy_directory;

/* `{0}` is a valid empty list. */
struct lz_copy_directories {
    struct lz_copy_directory *items;
    size_t count, capacity;
    struct lz_buf bytes;         /* paths and xattrs */
    struct lz_tar_xattr *xattrs; /* of the one at hand */
    size_t xattr_capacity;
};

/* Keeps path, owner, mode, time and xattrs. 0 or -ENOMEM. */
int lz_copy_directories_add(struct lz_copy_directories *self, const struct lz_walk_node *node);

/* Calls `visit` for each, the last first: what a directory is in may become closed to the caller. Stops at a negative
 * return, and passes it on. 0, that, or -ENOMEM. */
int lz_copy_directories_each(struct lz_copy_directories *self, int (*visit)(void *ctx, const struct lz_walk_node *node),
                             void *ctx);

void lz_copy_directories_free(struct lz_copy_directories *self);

#endif
