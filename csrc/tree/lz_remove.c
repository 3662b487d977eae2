#include "lz_remove.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdio.h>

#include "lz_list.h"

struct remover {
    const struct lz_sys *sys;
    int top_fd;            /* the tree's top: where directories are moved to */
    unsigned serial;       /* for their names there */
    struct remover *whole; /* NULL, or of what this tree, on a subvolume of btrfs, is a part of */
    int64_t freed;
};

static int forgive(int rc)
{
    return rc == -ENOENT ? 0 : rc;
}

/* Removes a file, or a directory if it is empty: 0, or 1 for a directory that is not. */
static int remove_name(struct remover *self, int dir, const char *name)
{
    struct stat status;
    int rc = self->sys->fstatat(self->sys->ctx, dir, name, &status, AT_SYMLINK_NOFOLLOW);
    if (rc < 0)
        return forgive(rc);
    if (S_ISDIR(status.st_mode)) {
        rc = self->sys->unlinkat(self->sys->ctx, dir, name, AT_REMOVEDIR);
        if (rc == -ENOTEMPTY || rc == -EEXIST) {
            if ((status.st_mode & 0700) != 0700) /* matters for users that are not root */
                rc = self->sys->fchmodat(self->sys->ctx, dir, name, 0700);
            return rc == -ENOTEMPTY || rc == -EEXIST || rc == 0 ? 1 : forgive(rc);
        }
    } else {
        rc = self->sys->unlinkat(self->sys->ctx, dir, name, 0);
    }
    if (rc == 0 && (S_ISDIR(status.st_mode) || status.st_nlink <= 1))
        self->freed += (int64_t)status.st_blocks * 512;
    return forgive(rc);
}

/* Moves a directory to the tree's top, where a later pass finds it. -EXDEV: that is on another subvolume. Subvolumes move
 * between such, to the top of the whole: so that one within the other within the other costs neither stack nor descriptors. */
static int hoist(struct remover *self, int dir, const char *name)
{
    int moved = self->whole != NULL ? hoist(self->whole, dir, name) : -EXDEV;
    while (moved == -EXDEV) {
        char to[32];
        (void)snprintf(to, sizeof to, ".lz-removed-%x", self->serial++);
        int rc = self->sys->renameat2(self->sys->ctx, dir, name, self->top_fd, to, RENAME_NOREPLACE);
        if (rc == -EINVAL) /* the file system does not know the flag; over an empty directory is no harm */
            rc = self->sys->renameat2(self->sys->ctx, dir, name, self->top_fd, to, 0);
        if (rc != -EEXIST && rc != -ENOTEMPTY)
            return forgive(rc);
    }
    return moved;
}

static int64_t remove_all(struct remover *self, int dir, const char *name);

/* What lies on another subvolume than the top is removed where it is. */
static int64_t remove_part(struct remover *self, int dir, const char *name)
{
    struct remover part = {.sys = self->sys, .top_fd = -1, .whole = self->whole != NULL ? self->whole : self};
    int64_t rc = remove_all(&part, dir, name);
    self->freed += part.freed;
    return rc;
}

/* One pass over the directory `name` below `dir`: files and empty directories go, others are moved to the top (unless
 * this is the top: then they are emptied themselves). Returns the number of names seen. */
static int64_t empty(struct remover *self, int dir, const char *name, bool is_top)
{
    struct lz_listing listing = {0};
    int fd = self->sys->openat(self->sys->ctx, dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd < 0)
        return forgive(fd);
    int64_t rc = lz_listing_read(self->sys, fd, &listing);
    if (is_top)
        self->top_fd = fd;
    for (size_t i = 0; rc >= 0 && i < listing.count; i++) {
        const char *child = listing.items[i].name;
        rc = remove_name(self, fd, child);
        if (rc != 1)
            continue;
        if (!is_top) {
            rc = hoist(self, fd, child);
            if (rc == -EXDEV)
                rc = remove_part(self, fd, child);
            continue;
        }
        rc = empty(self, fd, child, false);
        if (rc >= 0)
            rc = remove_name(self, fd, child); /* 1: somebody adds names; the next pass sees them */
    }
    int64_t seen = (int64_t)listing.count;
    lz_listing_free(&listing);
    int closed = self->sys->close(self->sys->ctx, fd);
    if (rc >= 0 && closed < 0)
        rc = closed;
    return rc < 0 ? rc : seen;
}

/* 0 or -errno */
static int64_t remove_all(struct remover *self, int dir, const char *name)
{
    int64_t rc = remove_name(self, dir, name);
    while (rc == 1) {
        int64_t seen = empty(self, dir, name, true);
        rc = seen < 0 ? seen : remove_name(self, dir, name);
        if (rc == 1 && seen == 0)
            rc = -ENOTEMPTY; /* it shows nothing, and yet is not empty */
    }
    return rc;
}

int64_t lz_remove_tree(const struct lz_sys *sys, int dir, const char *name, struct lz_detail *detail)
{
    struct remover self = {.sys = sys, .top_fd = -1};
    int64_t rc = remove_all(&self, dir, name);
    if (rc < 0)
        return lz_fail(detail, (int)rc, "removing %s: %s", name, lz_error_text((int)rc));
    return self.freed;
}
