#include "lz_sys.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

/* Numbers that Debian 12's headers (6.1) do not have yet; the same on every architecture since 5.1. */
#ifndef __NR_setxattrat
#define __NR_setxattrat 463
#define __NR_getxattrat 464
#define __NR_listxattrat 465
#define __NR_removexattrat 466
#endif

struct xattr_arguments { /* struct xattr_args of linux/xattr.h, 6.13 */
    uint64_t value;
    uint32_t size;
    uint32_t flags;
};

#define SYS_CALL(type, expression)                                                                                     \
    do {                                                                                                               \
        type result_;                                                                                                  \
        do                                                                                                             \
            result_ = (type)(expression);                                                                              \
        while (result_ < 0 && errno == EINTR);                                                                         \
        return result_ < 0 ? (type)-errno : result_;                                                                   \
    } while (0)

static int sys_openat(void *ctx, int dir, const char *path, int flags, mode_t mode)
{
    (void)ctx;
    SYS_CALL(int, openat(dir, path, flags | O_CLOEXEC, mode));
}

#define OPENAT2_TRIES 4096
#define SCOPED ((uint64_t)(RESOLVE_BENEATH | RESOLVE_IN_ROOT))

static int sys_openat2(void *ctx, int dir, const char *path, const struct open_how *how)
{
    (void)ctx;
    struct open_how closing = *how;
    closing.flags |= O_CLOEXEC;
    /* EAGAIN: a rename or mount anywhere on the machine while `..` was resolved below a root, or a lookup that would have
     * to wait (RESOLVE_CACHED). Beside a loop of renames 9 of 10 tries fail so, each in about 2 us. */
    for (int tries = 0;; tries++) {
        int fd = (int)syscall(__NR_openat2, dir, path, &closing, sizeof closing);
        if (fd >= 0)
            return fd;
        bool again = errno == EINTR || (errno == EAGAIN && tries < OPENAT2_TRIES && (how->resolve & SCOPED) != 0);
        if (!again)
            return -errno;
    }
}

static int sys_close(void *ctx, int fd)
{
    (void)ctx;
    return close(fd) < 0 ? -errno : 0; /* never retried: Linux has released the descriptor even on EINTR */
}

static int sys_mkdirat(void *ctx, int dir, const char *path, mode_t mode)
{
    (void)ctx;
    SYS_CALL(int, mkdirat(dir, path, mode));
}

static int sys_mknodat(void *ctx, int dir, const char *path, mode_t mode, dev_t device)
{
    (void)ctx;
    SYS_CALL(int, mknodat(dir, path, mode, device));
}

static int sys_symlinkat(void *ctx, const char *target, int dir, const char *path)
{
    (void)ctx;
    SYS_CALL(int, symlinkat(target, dir, path));
}

static int sys_linkat(void *ctx, int from_dir, const char *from, int to_dir, const char *to, int flags)
{
    (void)ctx;
    SYS_CALL(int, linkat(from_dir, from, to_dir, to, flags));
}

static int sys_unlinkat(void *ctx, int dir, const char *path, int flags)
{
    (void)ctx;
    SYS_CALL(int, unlinkat(dir, path, flags));
}

static int sys_renameat2(void *ctx, int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    (void)ctx;
    SYS_CALL(int, renameat2(from_dir, from, to_dir, to, flags));
}

static ssize_t sys_readlinkat(void *ctx, int dir, const char *path, char *out, size_t size)
{
    (void)ctx;
    SYS_CALL(ssize_t, readlinkat(dir, path, out, size));
}

static ssize_t sys_getdents(void *ctx, int fd, void *out, size_t size)
{
    (void)ctx;
    SYS_CALL(ssize_t, syscall(__NR_getdents64, fd, out, size));
}

static int sys_fstatat(void *ctx, int dir, const char *path, struct stat *out, int flags)
{
    (void)ctx;
    SYS_CALL(int, fstatat(dir, path, out, flags));
}

static int sys_fchownat(void *ctx, int dir, const char *path, uid_t uid, gid_t gid, int flags)
{
    (void)ctx;
    SYS_CALL(int, fchownat(dir, path, uid, gid, flags));
}

static int sys_fchmodat(void *ctx, int dir, const char *path, mode_t mode)
{
    (void)ctx;
    SYS_CALL(int, fchmodat(dir, path, mode, 0));
}

static int sys_utimensat(void *ctx, int dir, const char *path, const struct timespec times[2], int flags)
{
    (void)ctx;
    SYS_CALL(int, utimensat(dir, path, times, flags));
}

/* The path that stands in for (dir, path) where the *xattrat calls are missing. */
static void xattr_path(char out[320], int dir, const char *path)
{
    if (dir == AT_FDCWD)
        (void)snprintf(out, 320, "%s", path);
    else if (path[0] == 0)
        (void)snprintf(out, 320, "/proc/self/fd/%d", dir);
    else
        (void)snprintf(out, 320, "/proc/self/fd/%d/%s", dir, path);
}

static unsigned xattr_flags(const char *path)
{
    return AT_SYMLINK_NOFOLLOW | (path[0] == 0 ? (unsigned)AT_EMPTY_PATH : 0u);
}

static ssize_t sys_listxattrat(void *ctx, int dir, const char *path, char *out, size_t size)
{
    (void)ctx;
    ssize_t got = syscall(__NR_listxattrat, dir, path, xattr_flags(path), out, size);
    if (got < 0 && errno == ENOSYS) {
        char name[320];
        xattr_path(name, dir, path);
        got = path[0] == 0 ? listxattr(name, out, size) : llistxattr(name, out, size);
    }
    return got < 0 ? -errno : got;
}

static ssize_t sys_getxattrat(void *ctx, int dir, const char *path, const char *name, void *out, size_t size)
{
    (void)ctx;
    struct xattr_arguments arguments = {.value = (uint64_t)(uintptr_t)out, .size = (uint32_t)size};
    ssize_t got = syscall(__NR_getxattrat, dir, path, xattr_flags(path), name, &arguments, sizeof arguments);
    if (got < 0 && errno == ENOSYS) {
        char full[320];
        xattr_path(full, dir, path);
        got = path[0] == 0 ? getxattr(full, name, out, size) : lgetxattr(full, name, out, size);
    }
    return got < 0 ? -errno : got;
}

static int sys_setxattrat(void *ctx, int dir, const char *path, const char *name, const void *value, size_t size)
{
    (void)ctx;
    struct xattr_arguments arguments = {.value = (uint64_t)(uintptr_t)value, .size = (uint32_t)size};
    long rc = syscall(__NR_setxattrat, dir, path, xattr_flags(path), name, &arguments, sizeof arguments);
    if (rc < 0 && errno == ENOSYS) {
        char full[320];
        xattr_path(full, dir, path);
        rc = path[0] == 0 ? setxattr(full, name, value, size, 0) : lsetxattr(full, name, value, size, 0);
    }
    return rc < 0 ? -errno : 0;
}

static int sys_removexattrat(void *ctx, int dir, const char *path, const char *name)
{
    (void)ctx;
    long rc = syscall(__NR_removexattrat, dir, path, xattr_flags(path), name);
    if (rc < 0 && errno == ENOSYS) {
        char full[320];
        xattr_path(full, dir, path);
        rc = path[0] == 0 ? removexattr(full, name) : lremovexattr(full, name);
    }
    return rc < 0 ? -errno : 0;
}

static ssize_t sys_read(void *ctx, int fd, void *out, size_t size)
{
    (void)ctx;
    SYS_CALL(ssize_t, read(fd, out, size));
}

static int sys_poll(void *ctx, struct pollfd *fds, unsigned count, int timeout)
{
    (void)ctx;
    int rc = poll(fds, count, timeout);
    return rc >= 0 ? rc : -errno;
}

static ssize_t sys_pread(void *ctx, int fd, void *out, size_t size, off_t offset)
{
    (void)ctx;
    SYS_CALL(ssize_t, pread(fd, out, size, offset));
}

static ssize_t sys_write(void *ctx, int fd, const void *bytes, size_t size)
{
    (void)ctx;
    SYS_CALL(ssize_t, write(fd, bytes, size));
}

static ssize_t sys_append(void *ctx, int fd, const void *bytes, size_t size)
{
    (void)ctx;
    const struct iovec piece = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};
    SYS_CALL(ssize_t, pwritev2(fd, &piece, 1, 0, RWF_APPEND));
}

static ssize_t sys_pwrite(void *ctx, int fd, const void *bytes, size_t size, off_t offset)
{
    (void)ctx;
    SYS_CALL(ssize_t, pwrite(fd, bytes, size, offset));
}

static off_t sys_lseek(void *ctx, int fd, off_t offset, int whence)
{
    (void)ctx;
    SYS_CALL(off_t, lseek(fd, offset, whence));
}

static int sys_ftruncate(void *ctx, int fd, off_t size)
{
    (void)ctx;
    SYS_CALL(int, ftruncate(fd, size));
}

static ssize_t sys_copy_file_range(void *ctx, int in, off_t *in_offset, int out, off_t *out_offset, size_t size)
{
    (void)ctx;
    SYS_CALL(ssize_t, copy_file_range(in, in_offset, out, out_offset, size, 0));
}

static ssize_t sys_sendfile(void *ctx, int out, int in, off_t *in_offset, size_t size)
{
    (void)ctx;
    SYS_CALL(ssize_t, sendfile(out, in, in_offset, size));
}

static int sys_fallocate(void *ctx, int fd, int mode, off_t offset, off_t size)
{
    (void)ctx;
    SYS_CALL(int, fallocate(fd, mode, offset, size));
}

static int sys_ioctl(void *ctx, int fd, unsigned long request, uintptr_t argument)
{
    (void)ctx;
    SYS_CALL(int, ioctl(fd, request, argument));
}

static int sys_fsync(void *ctx, int fd)
{
    (void)ctx;
    SYS_CALL(int, fsync(fd));
}

static int sys_fdatasync(void *ctx, int fd)
{
    (void)ctx;
    SYS_CALL(int, fdatasync(fd));
}

static int sys_syncfs(void *ctx, int fd)
{
    (void)ctx;
    SYS_CALL(int, syncfs(fd));
}

static int sys_sync_file_range(void *ctx, int fd, off_t offset, off_t size, unsigned flags)
{
    (void)ctx;
    SYS_CALL(int, sync_file_range(fd, offset, size, flags));
}

static int sys_mmap(void *ctx, void **out, size_t size, int protection, int flags, int fd, off_t offset)
{
    (void)ctx;
    void *address = mmap(NULL, size, protection, flags, fd, offset);
    if (address == MAP_FAILED)
        return -errno;
    *out = address;
    return 0;
}

static int sys_munmap(void *ctx, void *address, size_t size)
{
    (void)ctx;
    return munmap(address, size) < 0 ? -errno : 0;
}

static int sys_ofd_lock(void *ctx, int fd, int type, off_t offset, off_t size)
{
    (void)ctx;
    struct flock lock = {.l_type = (short)type, .l_whence = SEEK_SET, .l_start = offset, .l_len = size};
    SYS_CALL(int, fcntl(fd, F_OFD_SETLKW, &lock));
}

static ssize_t sys_getrandom(void *ctx, void *out, size_t size)
{
    (void)ctx;
    SYS_CALL(ssize_t, getrandom(out, size, 0));
}

static int sys_fsopen(void *ctx, const char *type, unsigned flags)
{
    (void)ctx;
    SYS_CALL(int, syscall(__NR_fsopen, type, flags));
}

static int sys_fsconfig(void *ctx, int fs, unsigned command, const char *key, const void *value, int aux)
{
    (void)ctx;
    SYS_CALL(int, syscall(__NR_fsconfig, fs, command, key, value, aux));
}

static int sys_fsmount(void *ctx, int fs, unsigned flags, unsigned attributes)
{
    (void)ctx;
    SYS_CALL(int, syscall(__NR_fsmount, fs, flags, attributes));
}

static int sys_open_tree(void *ctx, int dir, const char *path, unsigned flags)
{
    (void)ctx;
    SYS_CALL(int, syscall(__NR_open_tree, dir, path, flags));
}

static int sys_move_mount(void *ctx, int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    (void)ctx;
    SYS_CALL(int, syscall(__NR_move_mount, from_dir, from, to_dir, to, flags));
}

static int sys_umount2(void *ctx, const char *path, int flags)
{
    (void)ctx;
    SYS_CALL(int, umount2(path, flags));
}

static int sys_mount_setattr(void *ctx, int dir, const char *path, unsigned flags, uint64_t set, uint64_t clear)
{
    (void)ctx;
    struct mount_attr attributes = {.attr_set = set, .attr_clr = clear};
    SYS_CALL(int, syscall(__NR_mount_setattr, dir, path, flags, &attributes, sizeof attributes));
}

static const struct lz_sys linux_table = {
    .openat = sys_openat,
    .openat2 = sys_openat2,
    .close = sys_close,
    .mkdirat = sys_mkdirat,
    .mknodat = sys_mknodat,
    .symlinkat = sys_symlinkat,
    .linkat = sys_linkat,
    .unlinkat = sys_unlinkat,
    .renameat2 = sys_renameat2,
    .readlinkat = sys_readlinkat,
    .getdents = sys_getdents,
    .fstatat = sys_fstatat,
    .fchownat = sys_fchownat,
    .fchmodat = sys_fchmodat,
    .utimensat = sys_utimensat,
    .listxattrat = sys_listxattrat,
    .getxattrat = sys_getxattrat,
    .setxattrat = sys_setxattrat,
    .removexattrat = sys_removexattrat,
    .read = sys_read,
    .poll = sys_poll,
    .pread = sys_pread,
    .write = sys_write,
    .pwrite = sys_pwrite,
    .append = sys_append,
    .lseek = sys_lseek,
    .ftruncate = sys_ftruncate,
    .copy_file_range = sys_copy_file_range,
    .sendfile = sys_sendfile,
    .fallocate = sys_fallocate,
    .ioctl = sys_ioctl,
    .fsync = sys_fsync,
    .fdatasync = sys_fdatasync,
    .syncfs = sys_syncfs,
    .sync_file_range = sys_sync_file_range,
    .mmap = sys_mmap,
    .munmap = sys_munmap,
    .ofd_lock = sys_ofd_lock,
    .getrandom = sys_getrandom,
    .fsopen = sys_fsopen,
    .fsconfig = sys_fsconfig,
    .fsmount = sys_fsmount,
    .open_tree = sys_open_tree,
    .move_mount = sys_move_mount,
    .umount2 = sys_umount2,
    .mount_setattr = sys_mount_setattr,
};

const struct lz_sys *lz_sys_linux(void)
{
    return &linux_table;
}

int lz_write_all(const struct lz_sys *sys, int fd, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    while (size > 0) {
        ssize_t wrote = sys->write(sys->ctx, fd, at, size);
        if (wrote < 0)
            return (int)wrote;
        if (wrote == 0)
            return -EIO;
        at += wrote;
        size -= (size_t)wrote;
    }
    return 0;
}

int lz_pwrite_all(const struct lz_sys *sys, int fd, const void *bytes, size_t size, off_t offset)
{
    const uint8_t *at = bytes;
    while (size > 0) {
        ssize_t wrote = sys->pwrite(sys->ctx, fd, at, size, offset);
        if (wrote < 0)
            return (int)wrote;
        if (wrote == 0)
            return -EIO;
        at += wrote;
        offset += wrote;
        size -= (size_t)wrote;
    }
    return 0;
}

ssize_t lz_pread_full(const struct lz_sys *sys, int fd, void *out, size_t size, off_t offset)
{
    size_t done = 0;
    while (done < size) {
        ssize_t got = sys->pread(sys->ctx, fd, (uint8_t *)out + done, size - done, offset + (off_t)done);
        if (got < 0)
            return got;
        if (got == 0)
            break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

ssize_t lz_read_full(const struct lz_sys *sys, int fd, void *out, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t got = sys->read(sys->ctx, fd, (uint8_t *)out + done, size - done);
        if (got < 0)
            return got;
        if (got == 0)
            break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

int lz_openat_beneath(const struct lz_sys *sys, int dir, const char *path, int flags, uint64_t resolve)
{
    struct open_how how = {.flags = (uint64_t)(unsigned)flags,
                           .resolve = resolve | RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
    return sys->openat2(sys->ctx, dir, path[0] != 0 ? path : ".", &how);
}
