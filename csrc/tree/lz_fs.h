/* lz_fs.h - a file system context (fsopen) and what the kernel says in it (internal to lz_mount*.c). */
#ifndef LZ_FS_H
#define LZ_FS_H

#include <stdbool.h>
#include <stddef.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"

#define LZ_FD_PATH_SIZE 32

/* A path for what an open descriptor shows, good in this process as long as it is open: "/proc/self/fd/N". Short, so
 * it fits into fsconfig()'s 255 bytes whatever the file is called. */
void lz_fd_path(int fd, char out[LZ_FD_PATH_SIZE]);

/* fsopen(); the caller closes it. */
int lz_fs_open(const struct lz_sys *sys, const char *type, struct lz_detail *detail);

/* The failure `rc` of a step on the context: the detail gets the kernel's own words if it said any. */
int lz_fs_fail(const struct lz_sys *sys, int fs, const char *type, const char *step, int rc, struct lz_detail *detail);

/* fsconfig() in its forms; `value` NULL sets a flag. */
int lz_fs_set(const struct lz_sys *sys, int fs, const char *key, const char *value);
int lz_fs_set_fd(const struct lz_sys *sys, int fs, const char *key, int fd);

/* Creates the superblock and the detached mount of it; `attributes` are MOUNT_ATTR_*. */
int lz_fs_mount(const struct lz_sys *sys, int fs, const char *type, unsigned attributes, struct lz_detail *detail);

#endif
