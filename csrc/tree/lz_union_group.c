#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "lz_union_writer.h"

#define JOURNAL_MAX (64u << 20) /* bytes of names */

/* One name of the group: link it, or (undo) take it away again. The directory keeps its times. */
static int step(struct lz_union *self, const char *path, bool undo)
{
    const struct lz_sys *sys = self->sys;
    const char *name;
    struct timespec times[2];
    struct stat group, there;
    int dir = lz_union_upper_parent(self, path, strlen(path), &name);
    if (dir < 0)
        return dir;
    int rc = lz_times_take(self, dir, times);
    if (rc == 0 && !undo) {
        rc = sys->linkat(sys->ctx, self->work_fd, LZ_WORK_GROUP, dir, name, 0);
        if (rc == -EEXIST) /* linked before its maker died */
            rc = 0;
    } else if (rc == 0) {
        rc = sys->fstatat(sys->ctx, self->work_fd, LZ_WORK_GROUP, &group, AT_SYMLINK_NOFOLLOW);
        if (rc == 0)
            rc = sys->fstatat(sys->ctx, dir, name, &there, AT_SYMLINK_NOFOLLOW);
        if (rc == -ENOENT)
            rc = 0;
        else if (rc == 0 && there.st_ino == group.st_ino && there.st_dev == group.st_dev)
            rc = sys->unlinkat(sys->ctx, dir, name, 0);
    }
    if (rc == 0)
        lz_times_put(self, dir, times);
    (void)sys->close(sys->ctx, dir);
    return rc;
}

/* Every name, or none again. Between them the journal says what is to be done. */
static int link_all(struct lz_union *self, const struct lz_buf *names)
{
    int rc = 0;
    const char *path = (const char *)names->data, *end = path + names->size;
    for (; path < end && rc == 0; path += strlen(path) + 1)
        rc = step(self, path, false);
    if (rc == 0)
        return 0;
    for (path = (const char *)names->data; path < end; path += strlen(path) + 1) {
        if (step(self, path, true) != 0)
            self->writer->leftover = true;
    }
    return rc;
}

static int write_journal(struct lz_union *self, const struct lz_buf *names)
{
    const struct lz_sys *sys = self->sys;
    int fd = sys->openat(sys->ctx, self->work_fd, LZ_WORK_NEW, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fd;
    int rc = lz_write_all(sys, fd, names->data, names->size);
    if (rc == 0) /* a power cut must not leave some of the names, and a journal that has lost them */
        rc = sys->fdatasync(sys->ctx, fd);
    int closed = sys->close(sys->ctx, fd);
    rc = rc != 0 ? rc : closed;
    return rc != 0 ? rc : sys->renameat2(sys->ctx, self->work_fd, LZ_WORK_NEW, self->work_fd, LZ_WORK_JOURNAL, 0);
}

int lz_group_publish(struct lz_union *self, const struct lz_buf *names)
{
    const struct lz_sys *sys = self->sys;
    int rc = sys->renameat2(sys->ctx, self->work_fd, LZ_WORK_NEW, self->work_fd, LZ_WORK_GROUP, 0);
    if (rc != 0)
        return rc;
    rc = write_journal(self, names);
    if (rc == 0)
        rc = link_all(self, names);
    if (self->writer->leftover)
        return rc; /* the journal stays: the next one to take the lock goes on with it */
    lz_work_drop(self, LZ_WORK_JOURNAL);
    lz_work_drop(self, LZ_WORK_GROUP);
    return rc;
}

static int read_journal(struct lz_union *self, struct lz_buf *names)
{
    const struct lz_sys *sys = self->sys;
    struct stat info;
    int fd = sys->openat(sys->ctx, self->work_fd, LZ_WORK_JOURNAL, O_RDONLY | O_NOFOLLOW, 0);
    if (fd < 0)
        return fd;
    int rc = sys->fstatat(sys->ctx, fd, "", &info, AT_EMPTY_PATH);
    if (rc == 0 && (!S_ISREG(info.st_mode) || info.st_size > (off_t)JOURNAL_MAX))
        rc = -EINVAL;
    if (rc == 0)
        rc = lz_buf_append_zeros(names, (size_t)info.st_size + 1); /* ends in a NUL, whatever it holds */
    if (rc == 0) {
        ssize_t got = lz_pread_full(sys, fd, names->data, (size_t)info.st_size, 0);
        names->size = got > 0 ? (size_t)got : 0;
        rc = got < 0 ? (int)got : 0;
    }
    (void)sys->close(sys->ctx, fd);
    return rc;
}

int lz_group_recover(struct lz_union *self)
{
    struct lz_buf names = {0};
    struct stat info;
    int rc = self->sys->fstatat(self->sys->ctx, self->work_fd, LZ_WORK_GROUP, &info, AT_SYMLINK_NOFOLLOW);
    if (rc == 0)
        rc = read_journal(self, &names);
    if (rc == 0)
        (void)link_all(self, &names); /* forward, or back where a full disk is in the way */
    lz_buf_free(&names);
    if (rc == 0 && self->writer->leftover)
        return -EIO;
    return rc == -ENOENT ? 0 : rc;
}
