/* lz_diff.h - what an upper directory changes, as values and as a layer's tar.
 *
 * The upper is overlayfs' own format (lz_mark.h). `lower` is the merged index of the stack under it; it is asked for
 * what a name was before, and for what a redirect (renamed directory or file) or a metacopy file (attributes changed,
 * data still in the object) refers to. A block-level file (lz_blocks.h) is read as it is, blocks from the upper and the
 * rest from the lower; one that has the attributes and the content of before is no change. Only the upper is walked, plus the lower subtrees of renamed directories: the
 * cost follows the change.
 *
 * Walk order is the index's: a directory, then its children sorted by name (memcmp), depth first. Recursion is bounded
 * by LZ_PATH_MAX.
 */
#ifndef LZ_DIFF_H
#define LZ_DIFF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"
#include "../bytes/lz_index.h"

enum lz_change_kind { LZ_CHANGE_ADDED = 'A', LZ_CHANGE_MODIFIED = 'C', LZ_CHANGE_DELETED = 'D' };

struct lz_change {
    enum lz_change_kind change;
    enum lz_kind kind; /* what it is now; DELETED: what it was */
    const char *path;  /* no leading slash, NUL-terminated; valid during the callback */
    size_t path_size;
    bool content;  /* a MODIFIED file's data (not only attributes) may differ: it is not a metacopy, nor a block-level
                    * file whose blocks hold what the lower's do */
    uint64_t size; /* of a regular file now */
};

struct lz_diff_source {
    int upper_fd;                 /* the upper directory */
    int maps_fd;                  /* block maps of its unsettled files (lz_blocks.h); -1: there are none */
    bool user_xattr;              /* its marks are user.overlay.* */
    const struct lz_index *lower; /* merged index; NULL: an empty lower */
    const int *layer_fds;         /* index files of lower's layers, for inline contents of metacopy and renamed files */
    int objects_fd;               /* the store's objects directory; -1 (diff): no content is looked at */
};

/* Calls `report` for every change; a negative return of it stops the walk and is passed on. Parents that the upper
 * holds only because a child changed are reported MODIFIED, as docker and podman do; the root never. */
int lz_diff(const struct lz_sys *sys, const struct lz_diff_source *source,
            int (*report)(void *ctx, const struct lz_change *change), void *ctx, struct lz_detail *detail);

struct lz_pack_options {
    bool clamp_mtime; /* SOURCE_DATE_EPOCH: times after max_mtime become it (with 0 nanoseconds) */
    int64_t max_mtime;
};

/* Writes the upper as an OCI layer tar to out_fd, in walk order, so that the same tree gives the same bytes: `.wh.`
 * marks first in their directory, hard links to the first name of their group, holes as pax sparse, xattrs without
 * overlay's own, sockets left out. A renamed directory is written whole (OCI has no rename). *size (may be NULL) gets
 * the bytes. */
int lz_pack_upper(const struct lz_sys *sys, const struct lz_diff_source *source, const struct lz_pack_options *options,
                  int out_fd, uint64_t *size, struct lz_detail *detail);

/* Writes any directory as a plain tar (no marks): `export` and `cp`. `root_name` NULL: entries are named from the
 * directory's inside ("etc/passwd"); else the directory (or the single file that source_fd, O_PATH, is) is called that.
 * Stays on one file system unless cross_mounts. */
int lz_pack_tree(const struct lz_sys *sys, int source_fd, const char *root_name, bool cross_mounts,
                 const struct lz_pack_options *options, int out_fd, uint64_t *size, struct lz_detail *detail);

#endif
