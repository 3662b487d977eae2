/* lz_union.h - the union core: layers seen, and changed, as one tree, without a mount.
 *
 * Branches, the top one first: an optional writable upper, then any mix of
 *
 *     index        a merged index (lz_tree.h) and where its contents lie. Under a directory branch an index keeps its
 *                  whiteouts and opaque marks ("part stack"), for they speak of what lies below
 *     directory    any host directory on any file system; overlay marks in it (char 0:0, opaque, redirect, metacopy) are
 *                  honoured when `marks` says so, as overlayfs honours them in a lower
 *
 * The upper is overlayfs' own format, so that the kernel driver, lz_diff and lz_pack read the same directory. What only this
 * core has is the block-level file (lz_blocks.h): settle() ends it before another reader comes. In a lower directory
 * its content is -EIO, for the map is not at hand.
 *
 * Names. A path is bytes; it may begin with `/` or not (there is no current directory: both mean the root of the union), may
 * hold `.`, `..` (stays at the root), repeated and trailing slashes, as path_resolution(7) has them. Symlinks resolve
 * inside the union. -EINVAL for a NUL inside, -ENAMETOOLONG over LZ_NAME_MAX or LZ_PATH_MAX, -ELOOP after 40 symlinks,
 * -ENOENT for an empty path.
 *
 * Errors are those of Linux's overlayfs and VFS for the same call, without permission checks: the caller acts as the
 * owner of the image, within what the kernel lets it do to the upper. -EROFS without an upper.
 *
 * Merge rules (overlayfs.rst): a directory over a directory merges unless it is opaque; everything else hides what is
 * below; a whiteout hides. A directory rename writes a redirect, never -EXDEV. What differs from the kernel, on purpose:
 * hard links of a lower survive copy-up (all visible names of the group come up together), directories have a true
 * nlink. A read-only handle sees what is written later (in this process, and in others as long as the name stays).
 *
 * Threads and processes: any number may use one upper. Calls that change names take one lock (a mutex, and a lock
 * on `<work>/lock`); reading takes none. After fork() both may go on with the union, but not with files that are open.
 * A killed process leaves each name old or new; what it left in work is removed by the next one that opens the upper
 * for writing and finds the lock free.
 */
#ifndef LZ_UNION_H
#define LZ_UNION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"
#include "../bytes/lz_index.h"
#include "lz_copyup.h"

struct lz_union;
struct lz_union_file;
struct lz_union_list;

enum lz_branch_kind { LZ_BRANCH_INDEX = 1, LZ_BRANCH_DIRECTORY = 2 };

struct lz_branch { /* all borrowed: must outlive the union */
    enum lz_branch_kind kind;
    const struct lz_index *index; /* INDEX */
    const int *layer_fds;         /* INDEX: index files of its layers, for inline contents */
    int objects_fd;               /* INDEX: the store's objects directory */
    int fd;                       /* DIRECTORY: O_PATH is enough */
    bool marks;                   /* DIRECTORY: overlay marks in it count */
};

struct lz_union_options {
    const struct lz_branch *lowers; /* the top one first */
    size_t lower_count;
    int upper_fd, work_fd;    /* -1: read-only. Both on one file system; work is empty at first and ours alone */
    bool user_xattr;          /* marks are user.overlay.*, else trusted.overlay.* (needs CAP_SYS_ADMIN) */
    enum lz_rung rung;        /* of copy-up: AUTO, or the one that must serve */
    uint64_t block_threshold; /* AUTO: files of this size and more go block by block where no clone serves */
    uint32_t block_size;
    bool read_only; /* reads an upper that others may be writing: changes are -EROFS, and nothing is made in work */
};

/* Where a name's attributes or data come from. */
#define LZ_UNION_UPPER UINT32_MAX /* branch number of the upper; lowers count from 0, the top one */

struct lz_union_info {
    enum lz_kind kind;
    uint32_t mode; /* S_IFMT | 07777 */
    uint32_t uid, gid, major, minor;
    uint32_t link_count;
    uint64_t size;
    struct timespec atime, mtime, ctime; /* of an index entry: all its mtime */
    uint32_t branch;                     /* attributes and name */
    int64_t entry;                       /* in an index branch, else -1 */
    uint32_t data_branch;                /* files: the data (a metacopy's or block-level file's lower), else = branch */
    int64_t data_entry;
    bool has_digest; /* the content is an index entry's, unchanged */
    bool unsettled;  /* block-level: a part of the data is in data_branch */
    uint8_t digest[32];
    uint64_t device, number; /* equal for two names iff they are the same file, as long as nothing is changed */
};

struct lz_union_stats {              /* since the union was opened, over all its threads */
    uint64_t copyups[LZ_RUNG_COUNT]; /* by the rung that served */
    uint64_t copyups_other;          /* directories, symlinks, devices */
    uint64_t bytes_asked;            /* that callers wrote */
    uint64_t bytes_copied;           /* copied up: whole files, and fills of blocks */
};

int lz_union_new(const struct lz_sys *sys, const struct lz_union_options *options, struct lz_union **out,
                 struct lz_detail *detail);
void lz_union_free(struct lz_union *self); /* open files and lists of it are given back first */
void lz_union_stats(const struct lz_union *self, struct lz_union_stats *out);

#define LZ_UNION_NOFOLLOW 1u /* of a symlink in the last component */

/* ---- reading (lz_union_read: resolve, list, content) ---- */

int lz_union_stat(struct lz_union *self, const char *path, size_t size, unsigned flags, struct lz_union_info *out);
/* Length of the target, at most `capacity` of it in out. */
ssize_t lz_union_readlink(struct lz_union *self, const char *path, size_t size, char *out, size_t capacity);
/* As llistxattr and lgetxattr with NOFOLLOW, else listxattr and getxattr: size 0 asks for the size; -ENODATA, -ERANGE.
 * Overlay's own names are left out, escaped ones come unescaped. */
ssize_t lz_union_listxattr(struct lz_union *self, const char *path, size_t size, unsigned flags, char *out,
                           size_t capacity);
ssize_t lz_union_getxattr(struct lz_union *self, const char *path, size_t size, unsigned flags, const char *name,
                          void *out, size_t capacity);
/* Where symlinks lead: the canonical path without a leading slash; the last component may be missing. Length or code. */
ssize_t lz_union_realpath(struct lz_union *self, const char *path, size_t size, char out[LZ_PATH_MAX + 1]);

/* The names of a directory, merged, sorted by name (memcmp), without `.` and `..`; a snapshot of the moment of the call. */
struct lz_union_name {
    const char *name; /* NUL-terminated, in the list */
    size_t size;
    struct lz_union_info info;
};
int lz_union_list(struct lz_union *self, const char *path, size_t size, struct lz_union_list **out);
size_t lz_union_list_count(const struct lz_union_list *list);
const struct lz_union_name *lz_union_list_at(const struct lz_union_list *list, size_t position);
void lz_union_list_free(struct lz_union_list *list);

/* ---- changing names and attributes; 0 or a code. Paths as above; a last component `.` or `..` is -EINVAL, -EBUSY
 *      or -ENOTEMPTY, as Linux has it. Modes are applied as given, there is no umask; new files belong to the caller's
 *      effective user and group (a set-group-ID directory gives its group) ---- */

int lz_union_mkdir(struct lz_union *self, const char *path, size_t size, uint32_t mode);
int lz_union_mknod(struct lz_union *self, const char *path, size_t size, uint32_t mode, dev_t device);
int lz_union_symlink(struct lz_union *self, const char *target, size_t target_size, const char *path, size_t size);
int lz_union_link(struct lz_union *self, const char *from, size_t from_size, const char *to, size_t to_size);
int lz_union_unlink(struct lz_union *self, const char *path, size_t size);
int lz_union_rmdir(struct lz_union *self, const char *path, size_t size);
/* flags: 0, RENAME_NOREPLACE or RENAME_EXCHANGE */
int lz_union_rename(struct lz_union *self, const char *from, size_t from_size, const char *to, size_t to_size,
                    unsigned flags);
int lz_union_chmod(struct lz_union *self, const char *path, size_t size, unsigned flags, uint32_t mode);
int lz_union_chown(struct lz_union *self, const char *path, size_t size, unsigned flags, uid_t uid, gid_t gid);
int lz_union_utimens(struct lz_union *self, const char *path, size_t size, unsigned flags,
                     const struct timespec times[2]);
int lz_union_setxattr(struct lz_union *self, const char *path, size_t size, unsigned flags, const char *name,
                      const void *value, size_t value_size, int xattr_flags);
int lz_union_removexattr(struct lz_union *self, const char *path, size_t size, unsigned flags, const char *name);
int lz_union_truncate(struct lz_union *self, const char *path, size_t size, uint64_t length);

/* ---- open files: open(2)'s flags O_RDONLY O_WRONLY O_RDWR O_CREAT O_EXCL O_TRUNC O_APPEND O_NOFOLLOW O_DIRECTORY.
 *      Opening for writing copies up (block by block: nothing but the map). A handle may be used by several threads. ---- */

int lz_union_open(struct lz_union *self, const char *path, size_t size, int flags, uint32_t mode,
                  struct lz_union_file **out, struct lz_detail *detail);
void lz_union_file_close(struct lz_union_file *file);
ssize_t lz_union_file_read(struct lz_union_file *file, void *out, size_t size, uint64_t offset);
/* At offset, or at the end with O_APPEND. */
ssize_t lz_union_file_write(struct lz_union_file *file, const void *bytes, size_t size, uint64_t offset);
int lz_union_file_truncate(struct lz_union_file *file, uint64_t size);
int lz_union_file_punch(struct lz_union_file *file, uint64_t offset, uint64_t size);
/* copy_file_range between two handles of unions: a clone where the file system can. Bytes copied or a code. */
int64_t lz_union_file_copy(struct lz_union_file *from, uint64_t from_offset, struct lz_union_file *to,
                           uint64_t to_offset, uint64_t size);
int64_t lz_union_file_seek(struct lz_union_file *file, uint64_t offset, int whence); /* SEEK_DATA, SEEK_HOLE */
int lz_union_file_sync(struct lz_union_file *file);
int lz_union_file_stat(struct lz_union_file *file, struct lz_union_info *out);

/* Makes every block-level file below `path` a whole one; *count (may be NULL) gets how many. With user.overlay.* marks
 * metacopies, too, because the kernel does not read those there (nor does it follow redirects of directories). */
int lz_union_settle(struct lz_union *self, const char *path, size_t size, uint64_t *count, struct lz_detail *detail);

#endif
