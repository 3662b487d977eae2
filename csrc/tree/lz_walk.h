/* lz_walk.h - what an upper directory (or any directory) holds, as a stream of nodes (internal to diff and pack).
 *
 * One walk, two readers: lz_diff() wants to know what became of each name, lz_pack_upper() wants what a layer must say.
 * Of every directory of the merged view the walker knows three things:
 *
 *     upper    the directory below upper_fd, or none (the inside of a renamed directory that nobody touched)
 *     lower    the directory of the lower index that overlayfs merges it with: the one of the same path, the one that a
 *              redirect names, or none (opaque, new)
 *     before   what the lower index has under this path
 *
 * As long as lower == before, the upper says everything. Where they differ the directory is `fresh`: nothing of
 * `before` is to be seen any more, and the view (upper over lower) is given in full.
 */
#ifndef LZ_WALK_H
#define LZ_WALK_H

#include <stdbool.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"
#include "../bytes/lz_index.h"
#include "../bytes/lz_tar.h"
#include "lz_diff.h"
#include "lz_list.h"

#define LZ_WALK_LOOKS 16u /* at a name that other things have from one call to the next; then it counts as gone */

enum lz_walk_event {
    LZ_WALK_ENTRY,    /* something is there now */
    LZ_WALK_WHITEOUT, /* something was there before and is no more */
    LZ_WALK_OPAQUE,   /* the directory `path`, which came just before, hides the one that was there */
};

enum lz_walk_data {
    LZ_DATA_NONE,
    LZ_DATA_UPPER,  /* the file `name` below `dir_fd`; `fd`, where that is not NULL */
    LZ_DATA_LOWER,  /* the content of entry `lower` of the lower index */
    LZ_DATA_BLOCKS, /* the file `name` below `dir_fd`, which has some blocks; others are in entry `lower` */
};

struct lz_walk_node { /* valid during the call */
    enum lz_walk_event event;
    enum lz_kind kind; /* WHITEOUT: what it was */
    const char *path;  /* no leading slash; "" is the root */
    size_t path_size;
    uint32_t mode; /* 07777 */
    uint32_t uid, gid, major, minor;
    int64_t mtime;
    uint32_t mtime_nsec;
    uint64_t size;
    const char *target;                /* symlinks, with lz_walk_options.attributes */
    size_t target_size;                /* */
    const struct lz_tar_xattr *xattrs; /* likewise; without overlay's own */
    size_t xattr_count;
    bool has_links;                 /* other names of the same file may follow or have been */
    uint64_t link_dev, link_number; /* which file it is, when has_links */
    uint64_t stored;                /* files of the upper: bytes of their blocks */
    int64_t before;                 /* entry of the lower index at this path, or -1 */
    bool fresh;                     /* `before` is already hidden by a mark of a directory above */
    bool same_data;                 /* the data is that of `before`: a metacopy in its old place, or blocks like it */
    enum lz_walk_data data;         /* files */
    int dir_fd;
    const char *name;
    int *fd; /* NULL, or of the upper's file: open for reading, and the walk's to close unless -1 is put here */
    uint32_t lower;
};

struct lz_walk_options {
    const struct lz_diff_source *source; /* upper_fd: the directory to walk; lower may be NULL */
    bool plain;                          /* no overlay marks: an ordinary directory */
    bool layer;        /* deletions come first in their directory; a socket is a deletion, for tar cannot say it */
    bool attributes;   /* fill target and xattrs, and open files: all that a node says is of one and the same file */
    bool cross_mounts; /* plain: go into other mounts */
};

/* Calls `visit` for the root (path "") and everything below, a directory, then its children by name. A negative return
 * of it stops the walk and is passed on. Names that vanish while the walk is on are left out, and a directory that does is
 * empty from then on; a name that something else has at each of many looks is left out, too. 0 or a negative code;
 * LZ_E_LIMIT for a path over LZ_PATH_MAX, LZ_E_FORMAT for a mark that refers to nothing. */
int lz_walk(const struct lz_sys *sys, const struct lz_walk_options *options,
            int (*visit)(void *ctx, const struct lz_walk_node *node), void *ctx, struct lz_detail *detail);

/* What a file with LZ_DATA_BLOCKS is beside `before`: sets same_data. 1 to go on, 0 when it is no change at all, or a
 * code. `attributes` are the node's, and are read again if xattrs were not asked for. */
int lz_walk_blocks(const struct lz_sys *sys, const struct lz_walk_options *options, struct lz_attributes *attributes,
                   struct lz_walk_node *node, struct lz_detail *detail);

/* Whether a node's mode, owner, time and xattrs are those of an entry of the lower index. */
bool lz_walk_same_attributes(const struct lz_index *lower, uint32_t entry, const struct lz_walk_node *node);

/* Puts type, mode, owner, times, size, device and link identity of `info` into a node. */
void lz_walk_fill(struct lz_walk_node *node, const struct stat *info);

#endif
