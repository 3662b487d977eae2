/* lz_mount.h - mounts through fsopen/fsconfig/fsmount/move_mount; nothing here parses option strings.
 *
 * Every function returns a descriptor (>= 0) or a negative code, and leaves nothing mounted, open or attached on
 * failure.
 */
#ifndef LZ_MOUNT_H
#define LZ_MOUNT_H

#include <stdbool.h>
#include <stddef.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"

enum lz_erofs_source {
    LZ_EROFS_AUTO = 0, /* FILE, and LOOP where the kernel says it wants a block device */
    LZ_EROFS_FILE = 1, /* file-backed mount: Linux 6.12 */
    LZ_EROFS_LOOP = 2, /* read-only autoclear loop device */
};

/* A detached, read-only mount of an EROFS image. *used (may be NULL) says which source served. */
int lz_mount_erofs(const struct lz_sys *sys, const char *image, enum lz_erofs_source source, enum lz_erofs_source *used,
                   struct lz_detail *detail);

struct lz_overlay {
    const int *lower_fds; /* topmost first; directories or detached mounts */
    size_t lower_count;
    size_t detached_first, detached_count; /* which of them are detached mounts: so many from that one on */
    const int *data_fds;                   /* data-only lowers */
    size_t data_count;
    int upper_fd, work_fd; /* both -1: read-only */
    bool metacopy;         /* metacopy=on */
    bool redirect_dir;     /* redirect_dir=on */
    bool is_volatile;      /* volatile: no sync on unmount; for ephemeral containers */
    bool user_xattr;       /* userxattr */
    bool read_only;        /* mount attribute rdonly, also with an upper */
    /* Kernels that do not take a descriptor (FSCONFIG_SET_FD "lowerdir+") get paths: detached lowers are attached below
     * this directory meanwhile. NULL: such kernels are refused with LZ_E_UNSUPPORTED. `force_paths` takes that way
     * always (tests). */
    const char *attach_dir;
    bool force_paths;
};

/* A detached overlay mount. */
int lz_mount_overlay(const struct lz_sys *sys, const struct lz_overlay *overlay, struct lz_detail *detail);

/* Attaches a detached mount at `target` below target_dir (openat2 is the caller's business: pass an O_PATH fd and "").
 */
int lz_mount_attach(const struct lz_sys *sys, int mount_fd, int target_dir, const char *target,
                    struct lz_detail *detail);

/* What `source` shows, with the mounts below it if `recursive`, also at `target`. A symlink is followed in `source`,
 * not in the last component of `target`. 0 or a negative code. */
int lz_mount_bind(const struct lz_sys *sys, const char *source, const char *target, bool read_only, bool recursive,
                  struct lz_detail *detail);

/* A detached read-only view of a directory, without the mounts below it. */
int lz_mount_view(const struct lz_sys *sys, int directory_fd, struct lz_detail *detail);

/* 1 if something is mounted exactly at `path` (also a bind mount of the same file system), 0 if not. A symlink is not
 * followed in the last component; `.` and `..` there are -EINVAL. Does not wake a file system that hangs. */
int lz_is_mount(const struct lz_sys *sys, const char *path);

/* 1 if the kernel has the file system `type` (its module is loaded if need be) and, with `key` not NULL, a mount option
 * of that name that takes text; else 0. Mounts nothing. -EPERM without CAP_SYS_ADMIN. */
int lz_mount_supports(const struct lz_sys *sys, const char *type, const char *key, struct lz_detail *detail);

/* Unmounts `target`; `lazy` is MNT_DETACH. 0; -EINVAL when it is not a mount point. Never follows a symlink. */
int lz_unmount(const struct lz_sys *sys, const char *target, bool lazy, struct lz_detail *detail);

#endif
