/* lz_sys.h - the one door to the kernel.
 *
 * Every system call of csrc/tree goes through a `const struct lz_sys *` that is passed in. lz_sys_linux() is
 * the real one; tests pass a table whose n-th call fails (see tests/c/fault.h). All functions return >= 0 or
 * -errno (never -1 with errno), and retry EINTR where POSIX leaves that to the caller, but for poll().
 * `ctx` is the table's own; the real table ignores it.
 */
#ifndef LZ_SYS_H
#define LZ_SYS_H

#include <linux/openat2.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

struct lz_sys {
    void *ctx;

    /* names */
    int (*openat)(void *ctx, int dir, const char *path, int flags, mode_t mode);
    int (*openat2)(void *ctx, int dir, const char *path, const struct open_how *how);
    int (*close)(void *ctx, int fd);
    int (*mkdirat)(void *ctx, int dir, const char *path, mode_t mode);
    int (*mknodat)(void *ctx, int dir, const char *path, mode_t mode, dev_t device);
    int (*symlinkat)(void *ctx, const char *target, int dir, const char *path);
    int (*linkat)(void *ctx, int from_dir, const char *from, int to_dir, const char *to, int flags);
    int (*unlinkat)(void *ctx, int dir, const char *path, int flags);
    int (*renameat2)(void *ctx, int from_dir, const char *from, int to_dir, const char *to, unsigned flags);
    ssize_t (*readlinkat)(void *ctx, int dir, const char *path, char *out, size_t size);
    ssize_t (*getdents)(void *ctx, int fd, void *out, size_t size);

    /* attributes */
    int (*fstatat)(void *ctx, int dir, const char *path, struct stat *out, int flags);
    int (*fchownat)(void *ctx, int dir, const char *path, uid_t uid, gid_t gid, int flags);
    int (*fchmodat)(void *ctx, int dir, const char *path, mode_t mode);
    int (*utimensat)(void *ctx, int dir, const char *path, const struct timespec times[2], int flags);
    /* xattrs of `path` below `dir`, never following a symlink in the last component. Served by the
     * *xattrat system calls (6.13), else through /proc/self/fd/<dir>/<path>. `path` is one component. */
    ssize_t (*listxattrat)(void *ctx, int dir, const char *path, char *out, size_t size);
    ssize_t (*getxattrat)(void *ctx, int dir, const char *path, const char *name, void *out, size_t size);
    int (*setxattrat)(void *ctx, int dir, const char *path, const char *name, const void *value, size_t size);
    int (*removexattrat)(void *ctx, int dir, const char *path, const char *name);

    /* bytes */
    ssize_t (*read)(void *ctx, int fd, void *out, size_t size);
    int (*poll)(void *ctx, struct pollfd *fds, unsigned count, int timeout); /* -EINTR where a signal came */
    ssize_t (*pread)(void *ctx, int fd, void *out, size_t size, off_t offset);
    ssize_t (*write)(void *ctx, int fd, const void *bytes, size_t size);
    ssize_t (*pwrite)(void *ctx, int fd, const void *bytes, size_t size, off_t offset);
    ssize_t (*append)(void *ctx, int fd, const void *bytes, size_t size); /* at the end, as O_APPEND; RWF_APPEND */
    off_t (*lseek)(void *ctx, int fd, off_t offset, int whence);
    int (*ftruncate)(void *ctx, int fd, off_t size);
    ssize_t (*copy_file_range)(void *ctx, int in, off_t *in_offset, int out, off_t *out_offset, size_t size);
    ssize_t (*sendfile)(void *ctx, int out, int in, off_t *in_offset, size_t size); /* to out's own offset */
    int (*fallocate)(void *ctx, int fd, int mode, off_t offset, off_t size);
    int (*ioctl)(void *ctx, int fd, unsigned long request, uintptr_t argument);
    int (*fsync)(void *ctx, int fd);
    int (*fdatasync)(void *ctx, int fd);
    int (*syncfs)(void *ctx, int fd);
    int (*sync_file_range)(void *ctx, int fd, off_t offset, off_t size, unsigned flags);
    int (*mmap)(void *ctx, void **out, size_t size, int protection, int flags, int fd, off_t offset);
    int (*munmap)(void *ctx, void *address, size_t size);
    /* Open file description lock (fcntl(2)): F_RDLCK and F_WRLCK wait, F_UNLCK gives back; `size` 0: to the end. */
    int (*ofd_lock)(void *ctx, int fd, int type, off_t offset, off_t size);
    ssize_t (*getrandom)(void *ctx, void *out, size_t size);

    /* mounts: the API of Linux 5.2 and later */
    int (*fsopen)(void *ctx, const char *type, unsigned flags);
    int (*fsconfig)(void *ctx, int fs, unsigned command, const char *key, const void *value, int aux);
    int (*fsmount)(void *ctx, int fs, unsigned flags, unsigned attributes);
    int (*open_tree)(void *ctx, int dir, const char *path, unsigned flags);
    int (*move_mount)(void *ctx, int from_dir, const char *from, int to_dir, const char *to, unsigned flags);
    int (*umount2)(void *ctx, const char *path, int flags);
    /* Linux 5.12; `set` and `clear` are MOUNT_ATTR_* bits */
    int (*mount_setattr)(void *ctx, int dir, const char *path, unsigned flags, uint64_t set, uint64_t clear);
};

/* The real kernel. A constant table; safe from any thread. */
const struct lz_sys *lz_sys_linux(void);

/* Whole-buffer helpers over the table: 0 or a negative code; short reads at end of file return the count. */
int lz_write_all(const struct lz_sys *sys, int fd, const void *bytes, size_t size);
int lz_pwrite_all(const struct lz_sys *sys, int fd, const void *bytes, size_t size, off_t offset);
ssize_t lz_pread_full(const struct lz_sys *sys, int fd, void *out, size_t size, off_t offset);
ssize_t lz_read_full(const struct lz_sys *sys, int fd, void *out, size_t size);

/* Opens `path` below `dir` ("": dir itself) and nowhere else: -ELOOP where a component is a symlink (but O_PATH |
 * O_NOFOLLOW opens a last one itself), -EXDEV where the path would lead out. `resolve`: RESOLVE_* besides, or 0. */
int lz_openat_beneath(const struct lz_sys *sys, int dir, const char *path, int flags, uint64_t resolve);

#endif
