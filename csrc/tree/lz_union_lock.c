#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "lz_union_writer.h"

/* The lock file: lz_union_epoch() in the first 8 bytes, then this. */
#define DIRTY_OFFSET 8

static int set_dirty(struct lz_union *self, bool on)
{
    uint64_t dirty = on;
    int rc = lz_pwrite_all(self->sys, self->lock_fd, &dirty, sizeof dirty, DIRTY_OFFSET);
    if (rc == 0)
        self->writer->dirty = on;
    return rc;
}

int lz_work_begin(struct lz_union *self)
{
    return self->writer->dirty ? 0 : set_dirty(self, true);
}

int lz_work_in_use(struct lz_union *self)
{
    uint64_t dirty = 0;
    int fd = lz_union_lock_file(self, false);
    if (fd == -ENOENT)
        return 0;
    ssize_t got = fd < 0 ? fd : lz_pread_full(self->sys, fd, &dirty, sizeof dirty, DIRTY_OFFSET);
    return got < 0 ? (int)got : dirty != 0;
}

static int sweep(struct lz_union *self)
{
    static const char *const names[] = {LZ_WORK_NEW, LZ_WORK_OLD, LZ_WORK_STAGE, LZ_WORK_GROUP, LZ_WORK_JOURNAL};
    int rc = lz_group_recover(self);
    for (size_t i = 0; i < sizeof names / sizeof *names && rc == 0; i++)
        rc = lz_work_clear(self, names[i]);
    return rc != 0 ? rc : set_dirty(self, false);
}

/* What others left, once; and after each one who died or failed while it held the lock. */
static int look_at_work(struct lz_union *self)
{
    uint64_t dirty = 0;
    if (self->writer == NULL && (self->writer = calloc(1, sizeof *self->writer)) == NULL)
        return -ENOMEM;
    ssize_t got = lz_pread_full(self->sys, self->lock_fd, &dirty, sizeof dirty, DIRTY_OFFSET);
    if (got < 0)
        return (int)got;
    self->writer->leftover = false;
    self->writer->dirty = dirty != 0;
    int rc = dirty != 0 || !self->writer->swept ? sweep(self) : 0;
    if (rc == 0 && dirty != 0) /* who died after a copy-up may not have counted it */
        rc = lz_union_changed(self);
    self->writer->swept |= rc == 0;
    return rc;
}

/* The lock belongs to the open file description, which fork() shares: it would not keep parent and child apart. */
static int own_lock_file(struct lz_union *self)
{
    pid_t process = getpid();
    int fd = self->process != process ? atomic_exchange(&self->lock_fd, -1) : -1;
    self->process = process;
    if (fd >= 0) {
        if (self->inherited_fd >= 0) /* from before the fork before */
            (void)self->sys->close(self->sys->ctx, self->inherited_fd);
        self->inherited_fd = fd;
    }
    return lz_union_lock_file(self, true);
}

int lz_union_lock(struct lz_union *self)
{
    if (self->read_only)
        return -EROFS;
    int rc = -pthread_mutex_lock(&self->names);
    if (rc != 0)
        return rc;
    int fd = own_lock_file(self);
    rc = fd < 0 ? fd : self->sys->ofd_lock(self->sys->ctx, fd, F_WRLCK, 0, 0);
    if (rc == 0 && (rc = look_at_work(self)) != 0)
        (void)self->sys->ofd_lock(self->sys->ctx, fd, F_UNLCK, 0, 0);
    if (rc != 0)
        (void)pthread_mutex_unlock(&self->names);
    return rc;
}

void lz_union_unlock(struct lz_union *self)
{
    if (self->writer->dirty && !self->writer->leftover)
        (void)set_dirty(self, false); /* if not, the next one sweeps in vain */
    (void)self->sys->ofd_lock(self->sys->ctx, self->lock_fd, F_UNLCK, 0, 0);
    (void)pthread_mutex_unlock(&self->names);
}

void lz_union_writer_free(struct lz_union *self)
{
    struct lz_union_writer *writer = self->writer;
    if (writer == NULL)
        return;
    for (size_t i = 0; writer->linked != NULL && i < self->lower_count; i++) {
        free(writer->linked[i].names);
        lz_buf_free(&writer->linked[i].text);
        lz_buf_free(&writer->linked[i].redirects);
    }
    free(writer->linked);
    free(writer);
    self->writer = NULL;
}
