/* lz_union_internal.h - the union's insides, shared by lz_union*.c: what a path is once it is resolved, and what an open
 * file reads from.
 *
 *     lz_union.c             life, counters
 *     lz_union_walker.c      the directories that a walk stands in
 *     lz_union_look.c        one name through the branches of a directory
 *     lz_union_marks.c       what overlay's xattrs say
 *     lz_union_resolve.c     a path, name by name
 *     lz_union_content.c     bytes of a share
 *     lz_union_attributes.c  stat, links, xattrs
 *     lz_union_list.c        names of a directory
 *     lz_union_file.c        open files, and how they follow a copy-up
 *     lz_union_read.c        reading them
 *     lz_union_writer.h      the rest: what changes the upper
 */
#ifndef LZ_UNION_INTERNAL_H
#define LZ_UNION_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "../base/lz_mem.h"
#include "lz_blocks.h"
#include "lz_union.h"

#define LZ_PLAIN_COUNT 16384u

struct lz_union {
    const struct lz_sys *sys;
    struct lz_branch *lowers;
    size_t lower_count;
    int upper_fd, work_fd; /* borrowed; -1 without an upper */
    _Atomic int blocks_fd; /* <work>/blocks, once somebody needed it; else -1: lz_union_blocks_dir() */
    _Atomic int lock_fd;   /* <work>/lock, likewise: lz_union_lock_file() */
    pid_t process;         /* whose the lock is: after fork() the child opens a lock_fd of its own; under `names` */
    int inherited_fd;      /* the lock_fd before that, which a reader may still hold; -1: none */
    bool user_xattr, read_only; /* without an upper it is read-only, too */
    enum lz_rung rung;
    uint64_t block_threshold;
    uint32_t block_size;
    _Atomic uint64_t *plain;          /* LZ_PLAIN_COUNT hashes of lower directories that have no marks; NULL: no branch
                                         is a directory */
    uint64_t seed;                    /* of the hashes: what lies in an image cannot know it */
    pthread_mutex_t names;            /* held, with the lock on lock_fd, while names change */
    pthread_mutex_t files;            /* guards `open_files` */
    struct lz_union_file *open_files; /* those whose bytes are a lower's */
    _Atomic uint64_t copyups[LZ_RUNG_COUNT], copyups_other, bytes_asked, bytes_copied;
    struct lz_union_writer *writer; /* the writing half's own, once something was changed; under `names` */
};

/* Descriptor of <work>/blocks and of <work>/lock; both are made when the union is opened, if that can be, else when first
 * asked for with `create`. They stay the union's. -ENOENT when there is none yet, -EROFS without an upper. */
int lz_union_blocks_dir(struct lz_union *self, bool create);
int lz_union_lock_file(struct lz_union *self, bool create);

/* How often something was copied up, in all processes that use this upper: the first 8 bytes of <work>/lock. A handle
 * that reads a lower's bytes looks again when it has moved. changed() counts; it needs the lock. */
int lz_union_epoch(struct lz_union *self, uint64_t *out);
int lz_union_changed(struct lz_union *self);

/* What one lower branch has under a name. In an index it is an entry; in a directory it is a path below the branch
 * (which is not the merged path once a directory above was renamed). */
struct lz_share {
    uint32_t branch;
    int64_t entry; /* index: entry number; directory: -1 */
    size_t
        path_offset; /* directory: the path in lz_place.text, NUL-terminated, no leading slash, "" the branch itself */
};

enum lz_last { LZ_LAST_NAME, LZ_LAST_ROOT, LZ_LAST_DOT, LZ_LAST_DOTDOT };

/* A resolved name. `path` is its merged path without leading slash and symlinks; the upper's path is the same. */
struct lz_place {
    char path[LZ_PATH_MAX + 1];
    size_t path_size;
    size_t name_offset;        /* of the last component in path; the root: 0, with path_size 0 */
    enum lz_last last;         /* what the caller's path ends in: "", "/" are the root */
    bool needs_directory;      /* the caller's path ended in a slash, `.` or `..` */
    bool exists;               /* false: the last component is missing, or hidden */
    bool in_upper;             /* the upper has it (then info is the upper's) */
    bool parent_in_upper;      /* the upper has the parent directory */
    bool upper_whiteout;       /* the upper has a whiteout of this name */
    bool upper_opaque;         /* a directory of the upper that is marked opaque */
    bool metacopy;             /* a file of the upper that has attributes only: its data is data_branch's */
    bool lower_has;            /* some lower shows something under this name when the upper is taken away: removing it
                                  needs a whiteout. Only with LZ_WALK_CHANGE */
    struct lz_union_info info; /* when exists. link_count of a merged directory: 1; lz_union_count_links() knows */
    /* Lower shares, the top one first. A directory: every lower directory that is merged into it. A file or other
     * thing: the one lower that gives attributes (none when in_upper), then, for a metacopy or block-level file,
     * the one that gives the data. */
    struct lz_share *shares;
    size_t share_count, share_capacity;
    struct lz_share few[2]; /* where `shares` points at first */
    bool borrows;           /* an opaque directory of an index whose attributes are those of `owner`, further down */
    struct lz_share owner;
    struct lz_buf text;
};

/* A place is caller's memory: begin() first, end() on every way out. It may be used again by another walk. */
void lz_place_begin(struct lz_place *place);
void lz_place_end(struct lz_place *place);

#define LZ_WALK_NOFOLLOW LZ_UNION_NOFOLLOW
#define LZ_WALK_MAY_MISS 2u /* a missing last component is no error (its parent must be there, and be a directory) */
#define LZ_WALK_CHANGE                                                                                                 \
    4u /* the name itself is about to change: a symlink in the last component is not followed, not even before a       \
          slash, and lower_has is filled */

/* Resolves. 0 or -ENOENT, -ENOTDIR, -ELOOP, -ENAMETOOLONG, -EINVAL, -EIO (a metacopy without its data), or what the
 * kernel said of a directory branch. */
int lz_union_walk(struct lz_union *self, const char *path, size_t size, unsigned flags, struct lz_place *place);

/* The child `name` of a resolved directory, without resolving again (no symlinks are followed): fills `child`. 0, also
 * when it does not exist (child->exists), or a code. `flags`: LZ_WALK_CHANGE. */
int lz_union_child(struct lz_union *self, const struct lz_place *directory, const char *name, size_t size,
                   unsigned flags, struct lz_place *child);

void lz_union_info_of_entry(const struct lz_union *self, uint32_t branch, uint32_t entry, struct lz_union_info *out);
void lz_union_info_of_stat(const struct stat *info, uint32_t branch, struct lz_union_info *out);

/* The share that gives the data of a file, NULL when the upper has all of it. */
const struct lz_share *lz_place_data(const struct lz_place *place);

/* Readable content of a file that a lower share is. `fd` is the caller's to close when *owned. For a missing object a
 * detail that names path and digest. */
int lz_union_content(struct lz_union *self, const struct lz_place *place, const struct lz_share *share,
                     struct lz_bytes_at *out, bool *owned, struct lz_detail *detail);
/* The same as lz_blocks.h wants it: with what the content must be. */
int lz_union_blocks_lower(struct lz_union *self, const struct lz_place *place, const struct lz_share *share,
                          struct lz_blocks_lower *out, bool *owned, struct lz_detail *detail);

/* Descriptor of a directory branch's share (RESOLVE_BENEATH, no symlinks), the caller closes it. */
int lz_union_share_open(struct lz_union *self, const struct lz_place *place, const struct lz_share *share, int flags);

/* The xattrs of the place as the user sees them, sorted by name, overlay's own left out; records as in lz_index.h in
 * `records` (8-byte header, name, value, padded to 4). */
int lz_union_xattrs(struct lz_union *self, const struct lz_place *place, struct lz_buf *records);

/* Whether a directory has a visible child, and how many of them are directories, plus 2. */
int lz_union_is_empty(struct lz_union *self, const struct lz_place *directory, bool *out);
int lz_union_count_links(struct lz_union *self, const struct lz_place *directory, uint32_t *out);

/* Below the upper: the parent directory of `path` as O_PATH descriptor (caller closes; RESOLVE_BENEATH, no symlinks) and
 * the last component, NUL-terminated if `path` is. -ENOENT when the upper does not have it. */
int lz_union_upper_parent(struct lz_union *self, const char *path, size_t size, const char **name);
/* The upper's file or directory itself. */
int lz_union_upper_open(struct lz_union *self, const char *path, size_t size, int flags);

/* ---- open files ---- */

/* Which lower file an upper one was copied up from, so that a handle on the lower one can tell. Kept in the xattr
 * `overlay.lazarus.origin` (which never leaves the upper) of every regular file that copy-up makes. */
struct lz_origin {
    uint64_t device, number; /* of the lower, as in lz_union_info */
    uint64_t check;          /* of an index entry: from its digest; else the mtime in nanoseconds */
};
#define LZ_ORIGIN_XATTR(user_xattr) ((user_xattr) ? "user.overlay.lazarus.origin" : "trusted.overlay.lazarus.origin")
/* Of a regular file that is not in the upper yet. */
void lz_union_origin(const struct lz_place *place, struct lz_origin *out);

/* Where a handle's bytes are. Counted, so that a handle can change over while another thread reads. */
struct lz_union_source {
    _Atomic uint32_t users;
    const struct lz_sys *sys;
    int upper_fd;             /* the upper's file, open as the handle is; -1: not in the upper */
    struct lz_bytes_at lower; /* the data's lower; fd -1: the upper has all of it */
    bool lower_owned;
    struct lz_blocks *blocks; /* a block-level file */
    _Atomic uint64_t filled;  /* lz_blocks_filled() that is in the union's bytes_copied already */
};

struct lz_union_file {
    struct lz_union *owner;
    int flags;                      /* as opened */
    pthread_mutex_t lock;           /* guards source, info, epoch */
    struct lz_union_source *source; /* NULL: a directory */
    struct lz_union_info info;      /* as of the opening; of what is in the upper only the lasting part counts */
    uint64_t epoch;                 /* a lower's bytes: lz_union_epoch() when last looked */
    struct lz_origin origin;        /* of a file that is not whole in the upper */
    char *path;                     /* merged, NUL-terminated */
    size_t path_size;
    bool listed;                           /* among the union's open_files */
    struct lz_union_file *next, *previous; /* of open_files */
};

/* Opens what a resolved regular file reads from; `flags` are open(2)'s: with O_WRONLY or O_RDWR the place must be in the
 * upper. For a metacopy opened for writing copy the data up first. -ENOENT when it is not what was looked up any more:
 * then resolve it again, as long as open_again() says so; in the end a block-level file without its map is LZ_E_CORRUPT. */
int lz_union_source_open(struct lz_union *self, const struct lz_place *place, int flags, struct lz_union_source **out,
                         struct lz_detail *detail);
bool lz_union_open_again(int *rc, const struct lz_place *place, int *tries, struct lz_detail *detail);
void lz_union_source_release(struct lz_union_source *source); /* NULL is allowed */
/* The handle's source, after it has looked whether the file has come up meanwhile; release it after use. */
int lz_union_file_source(struct lz_union_file *file, struct lz_union_source **out);

/* A handle of a resolved file or directory. Takes over `source`, also on failure. */
int lz_union_file_new(struct lz_union *self, const struct lz_place *place, int flags, struct lz_union_source *source,
                      struct lz_union_file **out);

/* Copy-up says: the lower file `origin` is now the upper's at `path`, whole, as metacopy or block by block. Handles of this
 * process on it change over. With the lock held; never fails, since a handle that could not be changed looks again. */
void lz_union_files_moved(struct lz_union *self, const struct lz_origin *origin, const char *path, size_t size);

/* ---- the writing half ---- */

void lz_union_writer_free(struct lz_union *self); /* at the end of the union */

/* The part of lz_union_open() that may change something: O_WRONLY, O_RDWR, O_CREAT, O_TRUNC. */
int lz_union_open_writing(struct lz_union *self, const char *path, size_t size, int flags, uint32_t mode,
                          struct lz_union_file **out, struct lz_detail *detail);

/* The names mutex and the lock on <work>/lock, in that order. -EROFS without an upper. */
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
