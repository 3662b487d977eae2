#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "../bytes/lz_mark.h"
#include "lz_fs.h"
#include "lz_remove.h"
#include "lz_union_writer.h"

/* ---- the upper ---- */

int lz_upper_at(struct lz_union *self, const struct lz_place *place, struct lz_upper *out)
{
    if (place->path_size == 0) {
        *out = (struct lz_upper){.dir = self->upper_fd, .name = "."};
        return 0;
    }
    const char *name;
    int dir = lz_union_upper_parent(self, place->path, place->path_size, &name);
    if (dir < 0)
        return dir;
    *out = (struct lz_upper){.dir = dir, .owned = true, .name = place->path + place->name_offset};
    return 0;
}

void lz_upper_done(struct lz_union *self, struct lz_upper *upper)
{
    if (upper->owned)
        (void)self->sys->close(self->sys->ctx, upper->dir);
    upper->owned = false;
}

int lz_upper_chmod(struct lz_union *self, int dir, const char *name, uint32_t mode)
{
    char path[LZ_FD_PATH_SIZE];
    int fd = self->sys->openat(self->sys->ctx, dir, name, O_PATH | O_NOFOLLOW, 0);
    if (fd < 0)
        return fd;
    lz_fd_path(fd, path);
    int rc = self->sys->fchmodat(self->sys->ctx, AT_FDCWD, path, mode & 07777);
    (void)self->sys->close(self->sys->ctx, fd);
    return rc;
}

static void mark_name(const struct lz_union *self, const char *what, char out[64])
{
    (void)snprintf(out, 64, "%s.overlay.%s", self->user_xattr ? "user" : "trusted", what);
}

int lz_upper_mark(struct lz_union *self, int dir, const char *name, const char *what, const void *value, size_t size)
{
    char xattr[64];
    mark_name(self, what, xattr);
    return self->sys->setxattrat(self->sys->ctx, dir, name, xattr, value, size);
}

int lz_upper_unmark(struct lz_union *self, int dir, const char *name, const char *what)
{
    char xattr[64];
    mark_name(self, what, xattr);
    int rc = self->sys->removexattrat(self->sys->ctx, dir, name, xattr);
    return rc == -ENODATA ? 0 : rc;
}

int lz_times_take(struct lz_union *self, int dir, struct timespec times[2])
{
    struct stat info;
    int rc = self->sys->fstatat(self->sys->ctx, dir, "", &info, AT_EMPTY_PATH);
    if (rc != 0)
        return rc;
    times[0] = info.st_atim;
    times[1] = info.st_mtim;
    return 0;
}

void lz_times_put(struct lz_union *self, int dir, const struct timespec times[2])
{
    (void)self->sys->utimensat(self->sys->ctx, dir, ".", times, 0);
}

/* ---- work ---- */

/* Removes the map of a block-level file whose last link is about to go. */
static int clear_map(struct lz_union *self, const char *name, const struct stat *info)
{
    char map[LZ_BLOCKS_NAME_SIZE];
    if (!S_ISREG(info->st_mode) || info->st_nlink > 1)
        return 0;
    int rc = lz_blocks_name(self->sys, self->work_fd, name, self->user_xattr, map);
    if (rc != 1)
        return rc;
    int fd = lz_union_blocks_dir(self, false);
    if (fd >= 0)
        fd = self->sys->unlinkat(self->sys->ctx, fd, map, 0);
    return fd == -ENOENT ? 0 : fd;
}

int lz_work_clear(struct lz_union *self, const char *name)
{
    struct stat info;
    int rc = self->sys->fstatat(self->sys->ctx, self->work_fd, name, &info, AT_SYMLINK_NOFOLLOW);
    if (rc != 0)
        return rc == -ENOENT ? 0 : rc;
    if (S_ISDIR(info.st_mode)) {
        int64_t freed = lz_remove_tree(self->sys, self->work_fd, name, NULL);
        return freed < 0 ? (int)freed : 0;
    }
    rc = clear_map(self, name, &info);
    return rc < 0 ? rc : self->sys->unlinkat(self->sys->ctx, self->work_fd, name, 0);
}

void lz_work_drop(struct lz_union *self, const char *name)
{
    if (lz_work_clear(self, name) != 0)
        self->writer->leftover = true;
}

int lz_whiteout(struct lz_union *self, int dir, const char *name)
{
    return self->sys->mknodat(self->sys->ctx, dir, name, S_IFCHR, makedev(0, 0));
}

/* File systems and kernels that do not know a flag of renameat2() say one of these. */
static bool flag_unknown(int rc)
{
    return rc == -EINVAL || rc == -ENOSYS || rc == -EPERM;
}

int lz_work_take_out(struct lz_union *self, int dir, const char *name, bool whiteout)
{
    const struct lz_sys *sys = self->sys;
    int rc = lz_work_begin(self);
    if (rc != 0)
        return rc;
    rc = sys->renameat2(sys->ctx, dir, name, self->work_fd, LZ_WORK_OLD, whiteout ? RENAME_WHITEOUT : 0);
    if (!whiteout || !flag_unknown(rc))
        return rc;
    rc = lz_whiteout(self, self->work_fd, LZ_WORK_OLD);
    if (rc != 0)
        return rc;
    rc = sys->renameat2(sys->ctx, dir, name, self->work_fd, LZ_WORK_OLD, RENAME_EXCHANGE);
    if (rc == 0)
        return 0;
    lz_work_drop(self, LZ_WORK_OLD);
    if (!flag_unknown(rc))
        return rc;
    /* Not in one step here: for a moment the lower's name shows. */
    rc = sys->renameat2(sys->ctx, dir, name, self->work_fd, LZ_WORK_OLD, 0);
    if (rc != 0)
        return rc;
    rc = lz_whiteout(self, dir, name);
    if (rc != 0 && sys->renameat2(sys->ctx, self->work_fd, LZ_WORK_OLD, dir, name, 0) != 0)
        self->writer->leftover = true;
    return rc;
}

/* ---- redirects ---- */

/* What the upper's name at `path` (NUL-terminated, cut here) is called when the upper is taken away: from the bottom up,
 * each name, or what it was redirected to. Lowers may have redirects of their own: they count on the way down from there,
 * so the path in any one branch would not do. Writes behind the slash of out; the length with it. */
static int lower_path(struct lz_union *self, char *path, size_t size, const char *xattr, char out[LZ_PATH_MAX])
{
    char whole[LZ_PATH_MAX], redirect[LZ_PATH_MAX]; /* what no reader would take is refused */
    size_t at = sizeof whole;
    for (bool absolute = false; size > 0 && !absolute;) {
        const char *name;
        path[size] = 0;
        int dir = lz_union_upper_parent(self, path, size, &name);
        if (dir < 0)
            return dir;
        ssize_t got = self->sys->getxattrat(self->sys->ctx, dir, name, xattr, redirect, sizeof redirect);
        (void)self->sys->close(self->sys->ctx, dir);
        if (got < 0 && got != -ENODATA)
            return got == -ERANGE ? -ENAMETOOLONG : (int)got;
        absolute = got > 0 && redirect[0] == '/';
        size_t name_size = got > 0 ? (size_t)got : strlen(name), slash = absolute ? 0 : 1;
        if (name_size + slash > at)
            return -ENAMETOOLONG;
        at -= name_size;
        memcpy(whole + at, got > 0 ? redirect : name, name_size);
        if (!absolute)
            whole[--at] = '/';
        size = name > path ? (size_t)(name - path) - 1 : 0;
    }
    memcpy(out, whole + at, sizeof whole - at);
    return (int)(sizeof whole - at);
}

int lz_redirect_set(struct lz_union *self, const struct lz_place *place, int dir, const char *name)
{
    char redirect[LZ_PATH_MAX], path[LZ_PATH_MAX + 1], xattr[64];
    bool directory = place->info.kind == LZ_KIND_DIRECTORY;
    if (directory ? place->share_count == 0 : lz_place_data(place) == NULL)
        return 0;
    mark_name(self, "redirect", xattr);
    ssize_t got = self->sys->getxattrat(self->sys->ctx, dir, name, xattr, redirect, sizeof redirect);
    if (got < 0 && got != -ENODATA)
        return (int)got;
    if (got > 0 && redirect[0] == '/')
        return 0; /* good from everywhere already */
    memcpy(path, place->path, place->path_size);
    int size = lower_path(self, path, place->path_size, xattr, redirect);
    return size < 0 ? size : self->sys->setxattrat(self->sys->ctx, dir, name, xattr, redirect, (size_t)size);
}
