/* lz_unpack_node.h - making one name of an archive in an open directory (internal to unpack).
 *
 * `parent` was opened below the target, `name` is one component, `path` is for messages. What is made is reached
 * through its own descriptor, or by calls that do not follow symlinks: somebody who swaps the name meanwhile moves the
 * effect to another name of the same directory at most.
 */
#ifndef LZ_UNPACK_NODE_H
#define LZ_UNPACK_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/lz_step.h"
#include "../bytes/lz_index.h"
#include "../bytes/lz_tar.h"
#include "lz_unpack.h"

/* A directory that exists, and gets its attributes when everything in it is there. */
struct lz_deferred {
    char *path;
    size_t path_size;
    size_t order; /* in the archive: of two entries of one path the later wins */
    uint32_t mode, uid, gid;
    int64_t mtime;
    uint32_t mtime_nsec;
    struct lz_tar_xattr *xattrs; /* one block of memory with their bytes behind them */
    size_t xattr_count;
};

struct lz_unpacker {
    const struct lz_sys *sys;
    const struct lz_unpack_options *options;
    struct lz_detail *detail;
    int dir_fd;                   /* the target */
    int parent_fd;                /* the last parent; -1: none; may be dir_fd */
    char parent[LZ_PATH_MAX + 1]; /* its path */
    size_t parent_size;
    struct lz_deferred *deferred;
    size_t deferred_count, deferred_capacity;
};

/* A tar that comes from a descriptor, LZ_UNPACK_READ bytes at a time: the next() and ctx of a lz_tar_source. Its bytes are
 * counted in `pace`, where its reader counts the names. */
#define LZ_UNPACK_READ (1024u * 1024)
struct lz_unpack_input {
    const struct lz_sys *sys;
    int fd;
    uint8_t *buffer; /* the caller's */
    struct lz_pace pace;
};
int lz_unpack_next(void *input, const uint8_t **data, size_t *size);

/* LZ_E_UNSAFE when the entry would set one of overlay's own xattrs. */
int lz_unpack_check_xattrs(const struct lz_unpacker *self, const struct lz_tar_entry *entry);

/* What the options leave of an entry's mode, and whether they leave an xattr. */
uint32_t lz_unpack_mode(const struct lz_unpack_options *options, uint32_t mode, bool directory);
bool lz_unpack_keeps(const struct lz_unpack_options *options, const char *xattr);

/* Removes what is in the way of an entry; `directory` says whether that is a directory. Of directories only empty ones
 * go. With no_replace_directory nothing changes between directory and other types: -ENOTDIR, -EISDIR. */
int lz_unpack_remove(const struct lz_unpacker *self, int parent, const char *name, bool directory);

/* All 0 or a negative code with a detail. */
int lz_unpack_directory(struct lz_unpacker *self, int parent, const char *name, const char *path);
int lz_unpack_file(struct lz_unpacker *self, int parent, const char *name, const char *path,
                   const struct lz_tar_entry *entry, struct lz_tar_reader *reader);
/* The content of the entry at hand: its stored bytes, each where the sparse map says, given to `put` (0 or a negative
 * code). LZ_E_FORMAT when there is more than the map has room for; a failure of put() comes with a detail. */
int lz_unpack_content(struct lz_tar_reader *reader, const struct lz_tar_entry *entry, const char *path,
                      int (*put)(void *ctx, const uint8_t *data, size_t size, uint64_t offset), void *ctx,
                      struct lz_detail *detail);
int lz_unpack_special(struct lz_unpacker *self, int parent, const char *name, const char *path,
                      const struct lz_tar_entry *entry);

/* Remembers the attributes of a directory; sort puts children before parents and drops all but the last of a path. */
int lz_unpack_defer(struct lz_unpacker *self, const char *path, size_t size, const struct lz_tar_entry *entry);
void lz_unpack_sort_deferred(struct lz_unpacker *self);
int lz_unpack_finish_directory(struct lz_unpacker *self, int fd, const struct lz_deferred *directory);
void lz_unpack_free_deferred(struct lz_unpacker *self);

#endif
