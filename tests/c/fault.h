/* fault.h - a struct lz_sys whose n-th call fails, for every n: the SQLite test_vfs way.
 *
 *     struct fault fault;
 *     for (long n = 1;; n++) {
 *         fault_arm(&fault, n, -ENOSPC);
 *         int rc = thing(fault_sys(&fault), ...);
 *         if (!fault.fired) break;           // ran out of calls to fail: rc must be success
 *         CHECK(rc < 0); ...nothing leaked, nothing half-visible...
 *     }
 * close(), umount2(), munmap() and giving back a lock are counted but still done when they fail, so the harness itself
 * leaks nothing.
 * Not for several threads at once, except that the counter is atomic.
 */
#ifndef FAULT_H
#define FAULT_H

#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>

#include "base/lz_sys.h"

struct fault {
    struct lz_sys table;
    atomic_long calls;
    long fail_at; /* 0: never */
    int code;
    bool lasts; /* all calls from there on fail: on disk what a kill leaves, and cheaper */
    bool dies;  /* the call does not fail, the process ends: what a kill at that point leaves */
    atomic_bool fired;
};

static inline bool fault_now(void *ctx)
{
    struct fault *fault = ctx;
    long call = atomic_fetch_add(&fault->calls, 1) + 1;
    if (fault->fail_at == 0 || (fault->lasts ? call < fault->fail_at : call != fault->fail_at))
        return false;
    atomic_store(&fault->fired, true);
    if (fault->dies)
        _exit(99);
    return true;
}

#define FAULT_WRAP(type, name, parameters, arguments)                                                                  \
    static type fault_##name parameters                                                                                \
    {                                                                                                                  \
        if (fault_now(ctx))                                                                                            \
            return ((struct fault *)ctx)->code;                                                                        \
        return lz_sys_linux()->name arguments;                                                                         \
    }
FAULT_WRAP(int, openat, (void *ctx, int d, const char *p, int f, mode_t m), (ctx, d, p, f, m))
FAULT_WRAP(int, openat2, (void *ctx, int d, const char *p, const struct open_how *h), (ctx, d, p, h))
FAULT_WRAP(int, mkdirat, (void *ctx, int d, const char *p, mode_t m), (ctx, d, p, m))
FAULT_WRAP(int, mknodat, (void *ctx, int d, const char *p, mode_t m, dev_t v), (ctx, d, p, m, v))
FAULT_WRAP(int, symlinkat, (void *ctx, const char *t, int d, const char *p), (ctx, t, d, p))
FAULT_WRAP(int, linkat, (void *ctx, int a, const char *b, int c, const char *d, int f), (ctx, a, b, c, d, f))
FAULT_WRAP(int, unlinkat, (void *ctx, int d, const char *p, int f), (ctx, d, p, f))
FAULT_WRAP(int, renameat2, (void *ctx, int a, const char *b, int c, const char *d, unsigned f), (ctx, a, b, c, d, f))
FAULT_WRAP(ssize_t, readlinkat, (void *ctx, int d, const char *p, char *o, size_t s), (ctx, d, p, o, s))
FAULT_WRAP(ssize_t, getdents, (void *ctx, int f, void *o, size_t s), (ctx, f, o, s))
FAULT_WRAP(int, fstatat, (void *ctx, int d, const char *p, struct stat *o, int f), (ctx, d, p, o, f))
FAULT_WRAP(int, fchownat, (void *ctx, int d, const char *p, uid_t u, gid_t g, int f), (ctx, d, p, u, g, f))
FAULT_WRAP(int, fchmodat, (void *ctx, int d, const char *p, mode_t m), (ctx, d, p, m))
FAULT_WRAP(int, utimensat, (void *ctx, int d, const char *p, const struct timespec t[2], int f), (ctx, d, p, t, f))
FAULT_WRAP(ssize_t, listxattrat, (void *ctx, int d, const char *p, char *o, size_t s), (ctx, d, p, o, s))
FAULT_WRAP(ssize_t, getxattrat, (void *ctx, int d, const char *p, const char *n, void *o, size_t s),
           (ctx, d, p, n, o, s))
FAULT_WRAP(int, setxattrat, (void *ctx, int d, const char *p, const char *n, const void *v, size_t s),
           (ctx, d, p, n, v, s))
FAULT_WRAP(int, removexattrat, (void *ctx, int d, const char *p, const char *n), (ctx, d, p, n))
FAULT_WRAP(ssize_t, read, (void *ctx, int f, void *o, size_t s), (ctx, f, o, s))
FAULT_WRAP(int, poll, (void *ctx, struct pollfd *f, unsigned n, int t), (ctx, f, n, t))
FAULT_WRAP(ssize_t, pread, (void *ctx, int f, void *o, size_t s, off_t a), (ctx, f, o, s, a))
FAULT_WRAP(ssize_t, write, (void *ctx, int f, const void *b, size_t s), (ctx, f, b, s))
FAULT_WRAP(ssize_t, append, (void *ctx, int f, const void *b, size_t s), (ctx, f, b, s))
FAULT_WRAP(ssize_t, pwrite, (void *ctx, int f, const void *b, size_t s, off_t a), (ctx, f, b, s, a))
FAULT_WRAP(off_t, lseek, (void *ctx, int f, off_t o, int w), (ctx, f, o, w))
FAULT_WRAP(int, ftruncate, (void *ctx, int f, off_t s), (ctx, f, s))
FAULT_WRAP(ssize_t, copy_file_range, (void *ctx, int i, off_t *a, int o, off_t *b, size_t s), (ctx, i, a, o, b, s))
FAULT_WRAP(ssize_t, sendfile, (void *ctx, int o, int i, off_t *a, size_t s), (ctx, o, i, a, s))
FAULT_WRAP(int, fallocate, (void *ctx, int f, int m, off_t o, off_t s), (ctx, f, m, o, s))
FAULT_WRAP(int, ioctl, (void *ctx, int f, unsigned long r, uintptr_t a), (ctx, f, r, a))
FAULT_WRAP(int, fsync, (void *ctx, int f), (ctx, f))
FAULT_WRAP(int, fdatasync, (void *ctx, int f), (ctx, f))
FAULT_WRAP(int, mmap, (void *ctx, void **o, size_t s, int p, int g, int f, off_t a), (ctx, o, s, p, g, f, a))
FAULT_WRAP(ssize_t, getrandom, (void *ctx, void *o, size_t s), (ctx, o, s))
FAULT_WRAP(int, syncfs, (void *ctx, int f), (ctx, f))
FAULT_WRAP(int, sync_file_range, (void *ctx, int f, off_t o, off_t s, unsigned g), (ctx, f, o, s, g))
FAULT_WRAP(int, fsopen, (void *ctx, const char *t, unsigned f), (ctx, t, f))
FAULT_WRAP(int, fsconfig, (void *ctx, int f, unsigned c, const char *k, const void *v, int a), (ctx, f, c, k, v, a))
FAULT_WRAP(int, fsmount, (void *ctx, int f, unsigned g, unsigned a), (ctx, f, g, a))
FAULT_WRAP(int, open_tree, (void *ctx, int d, const char *p, unsigned f), (ctx, d, p, f))
FAULT_WRAP(int, move_mount, (void *ctx, int a, const char *b, int c, const char *d, unsigned f), (ctx, a, b, c, d, f))
FAULT_WRAP(int, mount_setattr, (void *ctx, int d, const char *p, unsigned f, uint64_t s, uint64_t c),
           (ctx, d, p, f, s, c))
#undef FAULT_WRAP

static int fault_close(void *ctx, int fd)
{
    int rc = lz_sys_linux()->close(ctx, fd);
    return fault_now(ctx) ? ((struct fault *)ctx)->code : rc;
}

static int fault_munmap(void *ctx, void *address, size_t size)
{
    int rc = lz_sys_linux()->munmap(ctx, address, size);
    return fault_now(ctx) ? ((struct fault *)ctx)->code : rc;
}

static int fault_ofd_lock(void *ctx, int fd, int type, off_t offset, off_t size)
{
    int rc = type == F_UNLCK ? lz_sys_linux()->ofd_lock(ctx, fd, type, offset, size) : 0;
    if (fault_now(ctx))
        return ((struct fault *)ctx)->code;
    return type == F_UNLCK ? rc : lz_sys_linux()->ofd_lock(ctx, fd, type, offset, size);
}

static int fault_umount2(void *ctx, const char *path, int flags)
{
    int rc = lz_sys_linux()->umount2(ctx, path, flags);
    return fault_now(ctx) ? ((struct fault *)ctx)->code : rc;
}

static inline void fault_arm(struct fault *fault, long fail_at, int code)
{
    *fault = (struct fault){
        .table = {.openat = fault_openat,
                  .openat2 = fault_openat2,
                  .close = fault_close,
                  .mkdirat = fault_mkdirat,
                  .mknodat = fault_mknodat,
                  .symlinkat = fault_symlinkat,
                  .linkat = fault_linkat,
                  .unlinkat = fault_unlinkat,
                  .renameat2 = fault_renameat2,
                  .readlinkat = fault_readlinkat,
                  .getdents = fault_getdents,
                  .fstatat = fault_fstatat,
                  .fchownat = fault_fchownat,
                  .fchmodat = fault_fchmodat,
                  .utimensat = fault_utimensat,
                  .listxattrat = fault_listxattrat,
                  .getxattrat = fault_getxattrat,
                  .setxattrat = fault_setxattrat,
                  .removexattrat = fault_removexattrat,
                  .read = fault_read,
                  .poll = fault_poll,
                  .pread = fault_pread,
                  .write = fault_write,
                  .pwrite = fault_pwrite,
                  .append = fault_append,
                  .lseek = fault_lseek,
                  .ftruncate = fault_ftruncate,
                  .copy_file_range = fault_copy_file_range,
                  .sendfile = fault_sendfile,
                  .fallocate = fault_fallocate,
                  .ioctl = fault_ioctl,
                  .fsync = fault_fsync,
                  .fdatasync = fault_fdatasync,
                  .syncfs = fault_syncfs,
                  .sync_file_range = fault_sync_file_range,
                  .mmap = fault_mmap,
                  .munmap = fault_munmap,
                  .ofd_lock = fault_ofd_lock,
                  .getrandom = fault_getrandom,
                  .fsopen = fault_fsopen,
                  .fsconfig = fault_fsconfig,
                  .fsmount = fault_fsmount,
                  .open_tree = fault_open_tree,
                  .move_mount = fault_move_mount,
                  .umount2 = fault_umount2,
                  .mount_setattr = fault_mount_setattr},
        .fail_at = fail_at,
        .code = code,
    };
    fault->table.ctx = fault;
}

static inline const struct lz_sys *fault_sys(struct fault *fault)
{
    return &fault->table;
}

#endif
