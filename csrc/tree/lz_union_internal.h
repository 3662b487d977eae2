/* lz_union_internal.h - the union's insides, shared by lz_union*.c: what a path is once it is resolved. */
#ifndef LZ_UNION_INTERNAL_H
#define LZ_UNION_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "../base/lz_mem.h"
#include "lz_union.h"

struct lz_union {
    const struct lz_sys *sys;
    struct lz_branch *lowers;
    size_t lower_count;
    int upper_fd, work_fd;
    int blocks_fd; /* <work>/blocks; -1 without an upper */
    int lock_fd;   /* <work>/lock */
    bool user_xattr;
    enum lz_rung rung;
    uint64_t block_threshold;
    uint32_t block_size;
    pthread_mutex_t names; /* held, with flock on lock_fd, while names change */
    pthread_mutex_t files; /* guards `open_files` */
    struct lz_union_file *open_files;
    _Atomic uint64_t copyups[LZ_RUNG_COUNT], copyups_other, bytes_asked, bytes_copied;
    _Atomic uint64_t changes; /* counts copy-ups of this process, so that read-only handles know when to look again */
};

/* What one lower branch has under a name. In an index it is an entry; in a directory it is a path below the branch
 * (which is not the merged path once a directory above was renamed). */
struct lz_share {
    uint32_t branch;
    int64_t entry; /* index: entry number; directory: -1 */
    size_t
        path_offset; /* directory: the path in lz_place.text, NUL-terminated, no leading slash, "" the branch itself */
};

/* A resolved name. `path` is its merged path without leading slash and symlinks; the upper's path is the same. */
struct lz_place {
    char path[LZ_PATH_MAX + 1];
    size_t path_size;
    size_t name_offset;        /* of the last component in path; the root: 0, with path_size 0 */
    bool exists;               /* false: the last component is missing, or hidden */
    bool needs_directory;      /* the caller's path ended in a slash, `.` or `..` */
    bool in_upper;             /* the upper has it (then info is the upper's) */
    bool parent_in_upper;      /* the upper has the parent directory */
    bool upper_whiteout;       /* the upper has a whiteout of this name */
    bool upper_opaque;         /* a directory whose lowers do not show */
    bool lower_has;            /* some lower shows something under this name when the upper is taken away: removing it
                                  needs a whiteout */
    struct lz_union_info info; /* when exists */
    /* Lower shares, the top one first. A directory: every lower directory that is merged into it. A file or other
     * thing: the one lower that gives attributes (none when in_upper), then, for a metacopy or block-level file,
     * the one that gives the data. */
    struct lz_share *shares;
    size_t share_count, share_capacity;
    struct lz_buf text;
};

/* A place is caller's memory: begin() first, end() on every way out. It may be used again by another walk. */
void lz_place_begin(struct lz_place *place);
void lz_place_end(struct lz_place *place);

#define LZ_WALK_NOFOLLOW LZ_UNION_NOFOLLOW
#define LZ_WALK_MAY_MISS 2u /* a missing last component is no error (its parent must be there, and be a directory) */

/* Resolves. 0 or -ENOENT, -ENOTDIR, -ELOOP, -ENAMETOOLONG, -EINVAL, or what the kernel said of a directory branch. */
int lz_union_walk(struct lz_union *self, const char *path, size_t size, unsigned flags, struct lz_place *place);

/* The child `name` of a resolved directory, without resolving again (no symlinks are followed): fills `child`. 0, also
 * when it does not exist (child->exists), or a code. */
int lz_union_child(struct lz_union *self, const struct lz_place *directory, const char *name, size_t size,
                   struct lz_place *child);

/* Readable content of a file that a lower share is. `fd` is the caller's to close when *owned. For a missing object a
 * detail that names path and digest. */
int lz_union_content(struct lz_union *self, const struct lz_place *place, const struct lz_share *share,
                     struct lz_bytes_at *out, bool *owned, struct lz_detail *detail);

/* O_PATH descriptor of a directory branch's share (RESOLVE_BENEATH, no symlinks), the caller closes it. */
int lz_union_share_open(struct lz_union *self, const struct lz_place *place, const struct lz_share *share, int flags);

/* The xattrs of the place as the user sees them, sorted by name, overlay's own left out; records as in lz_index.h in
 * `records` (8-byte header, name, value, padded to 4). */
int lz_union_xattrs(struct lz_union *self, const struct lz_place *place, struct lz_buf *records);

/* Below the upper: the parent directory of `path` as O_PATH descriptor (caller closes; RESOLVE_BENEATH, no symlinks) and
 * the last component. -ENOENT when the upper does not have it. */
int lz_union_upper_parent(struct lz_union *self, const char *path, size_t size, const char **name);

/* ---- the writing half ---- */

/* names mutex and flock(<work>/lock), in that order. */
int lz_union_lock(struct lz_union *self);
void lz_union_unlock(struct lz_union *self);

/* What copy-up is asked for. All need the lock held; a place that is in the upper already and good is left alone. After
 * success `place` is resolved anew. */
enum lz_want {
    LZ_WANT_ATTRIBUTES, /* a file may come up as metacopy */
    LZ_WANT_DATA,       /* whole, or block by block */
    LZ_WANT_NOTHING,    /* the data is about to be cut to nothing: attributes and an empty file */
};
int lz_union_copyup(struct lz_union *self, struct lz_place *place, enum lz_want want, struct lz_detail *detail);
/* The parent directory of place (which may be missing itself) and all above it. */
int lz_union_copyup_parent(struct lz_union *self, struct lz_place *place, struct lz_detail *detail);

#endif
