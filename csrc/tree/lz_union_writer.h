/* lz_union_writer.h - the insides of the writing half, shared by its files.
 *
 *     lz_union_lock.c      the lock, and what a killed process left in work
 *     lz_union_work.c      small steps on the upper and on work
 *     lz_union_copyup.c    a lower's file, directory, ... into the upper
 *     lz_union_group.c     a hard-link group into the upper, all names or none
 *     lz_union_linked.c    which names a file of a lower has
 *     lz_union_names.c     mkdir, mknod, symlink, link
 *     lz_union_remove.c    unlink, rmdir
 *     lz_union_rename.c    rename
 *     lz_union_change.c    mode, owner, times, xattrs, length by path
 *     lz_union_write.c     open files: writing
 *     lz_union_settle.c    whole files of block-level ones
 *
 * Work has a few fixed names. Only who holds the lock uses them, and whoever lets it go has removed them again; one that
 * could not (a failing disk, kill -9) leaves the mark `dirty` in the lock file, and the next one who takes the lock sweeps.
 *
 * Each change of names is one rename, link or unlink of the upper, so kill -9 leaves the old or the new. What follows it are
 * times alone, which may then be those of the moment: of the directory that a copy-up put a name into, and of a metacopy
 * that was getting its data.
 */
#ifndef LZ_UNION_WRITER_H
#define LZ_UNION_WRITER_H

#include "lz_union_internal.h"

#define LZ_WORK_NEW "new"         /* being made, with all its attributes; then renamed into place */
#define LZ_WORK_OLD "old"         /* taken out of the upper, about to go */
#define LZ_WORK_STAGE "stage"     /* a directory that stands for a set-group-ID parent, or one with a default ACL */
#define LZ_WORK_GROUP "group"     /* a file with several names, which are being linked ... */
#define LZ_WORK_JOURNAL "journal" /* ... and these are the names, each NUL-terminated */

struct lz_linked_name {
    uint64_t number;    /* inode */
    size_t path_offset; /* in text */
};
struct lz_linked_branch { /* names of files with several, sorted by number; of a directory branch */
    bool filled;
    struct lz_linked_name *names;
    size_t count, capacity;
    struct lz_buf text;
    struct lz_buf redirects; /* of directories: path, and where it leads, each NUL-terminated */
};

struct lz_union_writer {
    bool swept;                      /* what others left in work is gone */
    bool dirty;                      /* the lock file says that work is in use */
    bool leftover;                   /* something could not be removed: stays dirty */
    struct lz_linked_branch *linked; /* one for each lower; NULL until asked for */
};

/* ---- lock ---- */

/* Before the first step in work; the lock is held. */
int lz_work_begin(struct lz_union *self);
/* Without the lock: 1 when somebody is at work, or died there. What the upper was seen to have before may go away again. */
int lz_work_in_use(struct lz_union *self);

/* ---- work and upper ---- */

/* Where a place lies below the upper. */
struct lz_upper {
    int dir;          /* O_PATH */
    bool owned;       /* */
    const char *name; /* in the place; "." for the root */
};
int lz_upper_at(struct lz_union *self, const struct lz_place *place, struct lz_upper *out);
void lz_upper_done(struct lz_union *self, struct lz_upper *upper);

/* mode, by a descriptor of the thing itself: a symlink that is put there meanwhile is not followed. */
int lz_upper_chmod(struct lz_union *self, int dir, const char *name, uint32_t mode);

/* overlay's mark `what` ("opaque", "redirect", "metacopy"). */
int lz_upper_mark(struct lz_union *self, int dir, const char *name, const char *what, const void *value, size_t size);
int lz_upper_unmark(struct lz_union *self, int dir, const char *name, const char *what);

/* atime and mtime of a directory that a copy-up must not change; put() forgives failure. */
int lz_times_take(struct lz_union *self, int dir, struct timespec times[2]);
void lz_times_put(struct lz_union *self, int dir, const struct timespec times[2]);

/* Removes what lies under a name of work, with its block map when that was the last link. 0 when there is nothing. */
int lz_work_clear(struct lz_union *self, const char *name);
/* The same on the way out of an operation: what stays is swept later. */
void lz_work_drop(struct lz_union *self, const char *name);

/* Moves dir/name to LZ_WORK_OLD, in one step with a whiteout in its place if `whiteout`; drop it then. */
int lz_work_take_out(struct lz_union *self, int dir, const char *name, bool whiteout);
int lz_whiteout(struct lz_union *self, int dir, const char *name);

/* Writes the redirect that lets the place be found under another name; nothing when it does not need one. */
int lz_redirect_set(struct lz_union *self, const struct lz_place *place, int dir, const char *name);

/* ---- copy-up ---- */

/* What a write of data to an existing file takes away and must be put back: times, set-id bits, capabilities. */
struct lz_kept {
    struct stat info;
    ssize_t capability_size;
    uint8_t capability[64];
};
int lz_kept_take(struct lz_union *self, int dir, const char *name, struct lz_kept *out);
int lz_kept_put(struct lz_union *self, int dir, const char *name, const struct lz_kept *kept);

/* Visible names of the place's file, NUL-terminated, the place's own first. */
int lz_linked_names(struct lz_union *self, const struct lz_place *place, struct lz_buf *names, size_t *count);
/* Links LZ_WORK_NEW under every name, or none; their parents are in the upper. */
int lz_group_publish(struct lz_union *self, const struct lz_buf *names);
/* What a killed process left: finishes a group whose names are known. */
int lz_group_recover(struct lz_union *self);

/* Calls `visit` for everything below the directory `fd` (not for itself). `dir`: its parent, open; `path`: relative to fd.
 * Symlinks are not followed. 0, or what visit returned, or -errno. */
typedef int (*lz_below_visit)(void *ctx, int dir, const char *path, const char *name, const struct stat *info);
int lz_below_each(const struct lz_sys *sys, int fd, const char *start, lz_below_visit visit, void *ctx);

/* ---- names ---- */

struct lz_making {      /* something new */
    uint32_t mode;      /* S_IFMT and permissions */
    dev_t device;       /* */
    const char *target; /* symlink, NUL-terminated */
};
/* The lock is held. `place` is resolved: what shall be made, its parent is there. */
int lz_union_make(struct lz_union *self, struct lz_place *place, const struct lz_making *making);
/* Resolves a name that is to be new, and brings up its parent. */
int lz_union_make_room(struct lz_union *self, const char *path, size_t size, bool directory, struct lz_place *place);

#endif
