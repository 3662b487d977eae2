#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "lz_union_internal.h"

#define BLOCK_SIZE_MIN 4096u
#define BLOCK_SIZE_MAX 65536u

/* ---- life ---- */

static int check_directory(const struct lz_sys *sys, int fd, const char *what, size_t number, struct stat *info,
                           struct lz_detail *detail)
{
    int rc = sys->fstatat(sys->ctx, fd, "", info, AT_EMPTY_PATH);
    if (rc == 0 && !S_ISDIR(info->st_mode))
        rc = -ENOTDIR;
    return rc == 0 ? 0 : lz_fail(detail, rc, "union: %s %zu: %s", what, number, lz_error_text(rc));
}

static int check_lowers(const struct lz_sys *sys, const struct lz_union_options *options, struct lz_detail *detail)
{
    if (options->lower_count >= LZ_UNION_UPPER)
        return lz_fail(detail, -EINVAL, "union: %zu branches", options->lower_count);
    for (size_t i = 0; i < options->lower_count; i++) {
        const struct lz_branch *branch = &options->lowers[i];
        struct stat info;
        if (branch->kind == LZ_BRANCH_DIRECTORY) {
            int rc = check_directory(sys, branch->fd, "branch", i, &info, detail);
            if (rc != 0)
                return rc;
        } else if (branch->kind != LZ_BRANCH_INDEX || branch->index == NULL) {
            return lz_fail(detail, -EINVAL, "union: branch %zu is neither an index nor a directory", i);
        }
    }
    return 0;
}

static int check_upper(const struct lz_sys *sys, const struct lz_union_options *options, struct lz_detail *detail)
{
    if ((options->upper_fd < 0) != (options->work_fd < 0))
        return lz_fail(detail, -EINVAL, "union: an upper needs a work directory, and a work directory an upper");
    if (options->upper_fd < 0)
        return 0;
    struct stat upper, work;
    int rc = check_directory(sys, options->upper_fd, "upper", 0, &upper, detail);
    if (rc == 0)
        rc = check_directory(sys, options->work_fd, "work directory", 0, &work, detail);
    if (rc != 0)
        return rc;
    if (upper.st_dev != work.st_dev)
        return lz_fail(detail, -EXDEV, "union: upper and work directory lie on two file systems");
    if (upper.st_ino == work.st_ino)
        return lz_fail(detail, -EINVAL, "union: upper and work directory are the same");
    return 0;
}

static int check_options(const struct lz_sys *sys, const struct lz_union_options *options, struct lz_detail *detail)
{
    uint32_t block = options->block_size;
    if ((unsigned)options->rung >= LZ_RUNG_COUNT)
        return lz_fail(detail, -EINVAL, "union: no such rung of copy-up: %d", (int)options->rung);
    if (block != 0 && (block < BLOCK_SIZE_MIN || block > BLOCK_SIZE_MAX || (block & (block - 1)) != 0))
        return lz_fail(detail, -EINVAL, "union: blocks of %u bytes, expected a power of two from %u to %u", block,
                       BLOCK_SIZE_MIN, BLOCK_SIZE_MAX);
    int rc = check_lowers(sys, options, detail);
    return rc == 0 ? check_upper(sys, options, detail) : rc;
}

static int remember_directories(struct lz_union *self)
{
    bool directory = false;
    for (size_t i = 0; i < self->lower_count; i++)
        directory |= self->lowers[i].kind == LZ_BRANCH_DIRECTORY;
    if (!directory)
        return 0;
    const void *random =
        (const void *)(uintptr_t)getauxval(AT_RANDOM); /* 16 bytes that the kernel gives each process */
    if (random != NULL)
        memcpy(&self->seed, random, sizeof self->seed);
    self->plain = lz_zalloc_array(LZ_PLAIN_COUNT, sizeof *self->plain);
    return self->plain != NULL ? 0 : -ENOMEM;
}

int lz_union_new(const struct lz_sys *sys, const struct lz_union_options *options, struct lz_union **out,
                 struct lz_detail *detail)
{
    int rc = check_options(sys, options, detail);
    if (rc != 0)
        return rc;
    struct lz_union *self = calloc(1, sizeof *self);
    struct lz_branch *lowers = lz_alloc_array(options->lower_count, sizeof *lowers);
    if (self == NULL || lowers == NULL) {
        free(self);
        free(lowers);
        return -ENOMEM;
    }
    if (options->lower_count > 0)
        memcpy(lowers, options->lowers, options->lower_count * sizeof *lowers);
    self->sys = sys;
    self->lowers = lowers;
    self->lower_count = options->lower_count;
    self->upper_fd = options->upper_fd >= 0 ? options->upper_fd : -1;
    self->work_fd = options->work_fd >= 0 ? options->work_fd : -1;
    self->user_xattr = options->user_xattr;
    self->read_only = options->read_only || self->upper_fd < 0;
    self->rung = options->rung;
    self->block_threshold = options->block_threshold;
    self->block_size = options->block_size != 0 ? options->block_size : LZ_BLOCKS_SIZE_DEFAULT;
    atomic_init(&self->blocks_fd, -1);
    atomic_init(&self->lock_fd, -1);
    self->process = getpid();
    self->inherited_fd = -1;
    rc = remember_directories(self);
    if (rc == 0 && (rc = -pthread_mutex_init(&self->names, NULL)) != 0)
        free(self->plain);
    if (rc == 0 && (rc = -pthread_mutex_init(&self->files, NULL)) != 0) {
        (void)pthread_mutex_destroy(&self->names);
        free(self->plain);
    }
    if (rc != 0) {
        free(lowers);
        free(self);
        return rc;
    }
    if (!self->read_only) { /* 0.4 ms that the first change need not take; if it fails, that will say so */
        (void)lz_union_lock_file(self, true);
        (void)lz_union_blocks_dir(self, true);
    }
    *out = self;
    return 0;
}

void lz_union_free(struct lz_union *self)
{
    if (self == NULL)
        return;
    int blocks_fd = atomic_load(&self->blocks_fd), lock_fd = atomic_load(&self->lock_fd);
    if (blocks_fd >= 0)
        (void)self->sys->close(self->sys->ctx, blocks_fd);
    if (lock_fd >= 0)
        (void)self->sys->close(self->sys->ctx, lock_fd);
    if (self->inherited_fd >= 0)
        (void)self->sys->close(self->sys->ctx, self->inherited_fd);
    (void)pthread_mutex_destroy(&self->names);
    (void)pthread_mutex_destroy(&self->files);
    free(self->plain);
    lz_union_writer_free(self);
    free(self->lowers);
    free(self);
}

void lz_union_stats(const struct lz_union *self, struct lz_union_stats *out)
{
    for (int i = 0; i < LZ_RUNG_COUNT; i++)
        out->copyups[i] = atomic_load_explicit(&self->copyups[i], memory_order_relaxed);
    out->copyups_other = atomic_load_explicit(&self->copyups_other, memory_order_relaxed);
    out->bytes_asked = atomic_load_explicit(&self->bytes_asked, memory_order_relaxed);
    out->bytes_copied = atomic_load_explicit(&self->bytes_copied, memory_order_relaxed);
}

/* ---- what lies in the work directory ---- */

/* Keeps a descriptor that was just opened, unless another thread was faster. */
static int keep(struct lz_union *self, _Atomic int *slot, int fd)
{
    int seen = -1;
    if (atomic_compare_exchange_strong(slot, &seen, fd))
        return fd;
    (void)self->sys->close(self->sys->ctx, fd);
    return seen;
}

int lz_union_blocks_dir(struct lz_union *self, bool create)
{
    const struct lz_sys *sys = self->sys;
    int fd = atomic_load(&self->blocks_fd);
    if (fd >= 0)
        return fd;
    if (self->work_fd < 0)
        return -EROFS;
    int rc = create ? sys->mkdirat(sys->ctx, self->work_fd, "blocks", 0700) : 0;
    if (rc != 0 && rc != -EEXIST)
        return rc;
    fd = sys->openat(sys->ctx, self->work_fd, "blocks", O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    return fd >= 0 ? keep(self, &self->blocks_fd, fd) : fd;
}

int lz_union_lock_file(struct lz_union *self, bool create)
{
    const struct lz_sys *sys = self->sys;
    int fd = atomic_load(&self->lock_fd);
    if (fd >= 0)
        return fd;
    if (self->work_fd < 0)
        return -EROFS;
    int flags = O_RDWR | O_NOFOLLOW | O_NONBLOCK | (create ? O_CREAT : 0);
    fd = sys->openat(sys->ctx, self->work_fd, "lock", flags, 0600);
    return fd >= 0 ? keep(self, &self->lock_fd, fd) : fd;
}

int lz_union_epoch(struct lz_union *self, uint64_t *out)
{
    uint64_t epoch = 0;
    int fd = lz_union_lock_file(self, false);
    if (fd == -ENOENT || fd == -EROFS || fd == -EACCES) { /* nobody has ever changed anything, or we cannot know */
        *out = 0;
        return 0;
    }
    ssize_t got = fd < 0 ? fd : lz_pread_full(self->sys, fd, &epoch, sizeof epoch, 0);
    if (got < 0)
        return (int)got;
    *out = got == (ssize_t)sizeof epoch ? epoch : 0;
    return 0;
}

int lz_union_changed(struct lz_union *self)
{
    uint64_t epoch = 0;
    int rc = lz_union_epoch(self, &epoch);
    int fd = rc == 0 ? lz_union_lock_file(self, true) : rc;
    epoch++;
    return fd < 0 ? fd : lz_pwrite_all(self->sys, fd, &epoch, sizeof epoch, 0);
}
