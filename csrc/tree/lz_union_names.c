#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "../bytes/lz_mark.h"
#include "lz_union_writer.h"

#define ACL_MAX 65536u
#define DEFAULT_ACL "system.posix_acl_default"

/* ---- making one thing somewhere ---- */

static int make_at(struct lz_union *self, const struct lz_making *making, int dir, const char *name)
{
    const struct lz_sys *sys = self->sys;
    switch (making->mode & S_IFMT) {
    case S_IFDIR:
        return sys->mkdirat(sys->ctx, dir, name, making->mode & 07777);
    case S_IFLNK:
        return sys->symlinkat(sys->ctx, making->target, dir, name);
    default:
        return sys->mknodat(sys->ctx, dir, name, making->mode, making->device);
    }
}

static bool has_default_acl(struct lz_union *self, int dir)
{
    return self->sys->getxattrat(self->sys->ctx, dir, ".", DEFAULT_ACL, NULL, 0) > 0;
}

/* What the process' umask took away is given back; a default ACL of the parent takes its own share, and keeps it. */
static int undo_umask(struct lz_union *self, const struct lz_making *making, int dir, const char *name)
{
    struct stat info;
    if (S_ISLNK(making->mode))
        return 0;
    int rc = self->sys->fstatat(self->sys->ctx, dir, name, &info, AT_SYMLINK_NOFOLLOW);
    if (rc != 0 || ((info.st_mode ^ making->mode) & 0777) == 0 || has_default_acl(self, dir))
        return rc;
    return lz_upper_chmod(self, dir, name, (info.st_mode & 07000) | (making->mode & 0777));
}

static void unmake(struct lz_union *self, const struct lz_making *making, int dir, const char *name)
{
    (void)self->sys->unlinkat(self->sys->ctx, dir, name, S_ISDIR(making->mode) ? AT_REMOVEDIR : 0);
}

static int make_in_place(struct lz_union *self, const struct lz_making *making, const struct lz_upper *upper)
{
    int rc = make_at(self, making, upper->dir, upper->name);
    if (rc == 0 && (rc = undo_umask(self, making, upper->dir, upper->name)) != 0)
        unmake(self, making, upper->dir, upper->name);
    return rc;
}

/* ---- over a whiteout: made in work, then moved over it in one step ---- */

/* Makes LZ_WORK_STAGE pass on what the parent would: its group, and its default ACL. */
static int dress_stage(struct lz_union *self, const struct lz_upper *upper, const struct stat *parent)
{
    const struct lz_sys *sys = self->sys;
    struct lz_buf acl = {0};
    int rc = sys->mkdirat(sys->ctx, self->work_fd, LZ_WORK_STAGE, 0700);
    if (rc == 0 && (parent->st_mode & S_ISGID) != 0) {
        rc = sys->fchownat(sys->ctx, self->work_fd, LZ_WORK_STAGE, (uid_t)-1, parent->st_gid, AT_SYMLINK_NOFOLLOW);
        if (rc == 0)
            rc = sys->fchmodat(sys->ctx, self->work_fd, LZ_WORK_STAGE, 02700);
    }
    if (rc == 0)
        rc = lz_buf_reserve(&acl, ACL_MAX);
    ssize_t size = rc == 0 ? sys->getxattrat(sys->ctx, upper->dir, ".", DEFAULT_ACL, acl.data, ACL_MAX) : rc;
    if (rc == 0 && size > 0)
        rc = sys->setxattrat(sys->ctx, self->work_fd, LZ_WORK_STAGE, DEFAULT_ACL, acl.data, (size_t)size);
    lz_buf_free(&acl);
    return rc;
}

/* The directory to make it in; close it unless it is work itself. */
static int open_stage(struct lz_union *self, const struct lz_upper *upper)
{
    struct stat parent;
    int rc = lz_work_begin(self);
    if (rc == 0)
        rc = self->sys->fstatat(self->sys->ctx, upper->dir, "", &parent, AT_EMPTY_PATH);
    if (rc != 0 || ((parent.st_mode & S_ISGID) == 0 && !has_default_acl(self, upper->dir)))
        return rc != 0 ? rc : self->work_fd;
    rc = dress_stage(self, upper, &parent);
    if (rc == 0)
        rc = self->sys->openat(self->sys->ctx, self->work_fd, LZ_WORK_STAGE, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    if (rc < 0)
        lz_work_drop(self, LZ_WORK_STAGE);
    return rc;
}

/* A directory cannot be renamed over a whiteout: they change places, and the whiteout goes. */
static int move_over_whiteout(struct lz_union *self, int stage, bool directory, const struct lz_upper *upper)
{
    const struct lz_sys *sys = self->sys;
    if (!directory)
        return sys->renameat2(sys->ctx, stage, LZ_WORK_NEW, upper->dir, upper->name, 0);
    int rc = sys->renameat2(sys->ctx, stage, LZ_WORK_NEW, upper->dir, upper->name, RENAME_EXCHANGE);
    if (rc == 0) {
        if (sys->unlinkat(sys->ctx, stage, LZ_WORK_NEW, 0) != 0)
            self->writer->leftover = true;
        return 0;
    }
    if (rc != -EINVAL && rc != -ENOSYS)
        return rc;
    rc =
        sys->unlinkat(sys->ctx, upper->dir, upper->name, 0); /* no exchange here: the lower's name shows for a moment */
    if (rc == 0)
        rc = sys->renameat2(sys->ctx, stage, LZ_WORK_NEW, upper->dir, upper->name, 0);
    return rc;
}

static int make_over_whiteout(struct lz_union *self, const struct lz_making *making, const struct lz_place *place,
                              const struct lz_upper *upper)
{
    bool directory = S_ISDIR(making->mode);
    int stage = open_stage(self, upper);
    if (stage < 0)
        return stage;
    int rc = make_at(self, making, stage, LZ_WORK_NEW);
    if (rc == 0) {
        rc = undo_umask(self, making, stage, LZ_WORK_NEW);
        if (rc == 0 && directory && place->lower_has)
            rc = lz_upper_mark(self, stage, LZ_WORK_NEW, "opaque", "y", 1);
        if (rc == 0)
            rc = move_over_whiteout(self, stage, directory, upper);
        if (rc != 0)
            unmake(self, making, stage, LZ_WORK_NEW);
    }
    if (stage != self->work_fd) {
        (void)self->sys->close(self->sys->ctx, stage);
        lz_work_drop(self, LZ_WORK_STAGE);
    } else if (rc != 0) {
        lz_work_drop(self, LZ_WORK_NEW);
    }
    return rc;
}

int lz_union_make(struct lz_union *self, struct lz_place *place, const struct lz_making *making)
{
    struct lz_upper upper;
    int rc = lz_upper_at(self, place, &upper);
    if (rc != 0)
        return rc;
    rc = place->upper_whiteout ? make_over_whiteout(self, making, place, &upper) : make_in_place(self, making, &upper);
    lz_upper_done(self, &upper);
    return rc;
}

int lz_union_make_room(struct lz_union *self, const char *path, size_t size, bool directory, struct lz_place *place)
{
    int rc = lz_union_walk(self, path, size, LZ_WALK_NOFOLLOW | LZ_WALK_CHANGE | LZ_WALK_MAY_MISS, place);
    if (rc != 0)
        return rc;
    if (place->exists || place->last != LZ_LAST_NAME)
        return -EEXIST;
    if (place->needs_directory && !directory)
        return -ENOENT;
    return lz_union_copyup_parent(self, place, NULL);
}

static int make(struct lz_union *self, const char *path, size_t size, const struct lz_making *making)
{
    struct lz_place place;
    int rc = lz_union_lock(self);
    if (rc != 0)
        return rc;
    lz_place_begin(&place);
    rc = lz_union_make_room(self, path, size, S_ISDIR(making->mode), &place);
    if (rc == 0)
        rc = lz_union_make(self, &place, making);
    lz_place_end(&place);
    lz_union_unlock(self);
    return rc;
}

/* ---- the union's own calls ---- */

int lz_union_mkdir(struct lz_union *self, const char *path, size_t size, uint32_t mode)
{
    return make(self, path, size, &(struct lz_making){.mode = S_IFDIR | (mode & 01777)});
}

int lz_union_mknod(struct lz_union *self, const char *path, size_t size, uint32_t mode, dev_t device)
{
    uint32_t type = mode & S_IFMT;
    if (type == S_IFDIR)
        return -EPERM;
    if (type == 0)
        type = S_IFREG;
    if (type != S_IFREG && type != S_IFCHR && type != S_IFBLK && type != S_IFIFO && type != S_IFSOCK)
        return -EINVAL;
    if (lz_mark_is_whiteout_device(type, major(device), minor(device)))
        return -EPERM; /* it would hide what it names */
    return make(self, path, size, &(struct lz_making){.mode = type | (mode & 07777), .device = device});
}

int lz_union_symlink(struct lz_union *self, const char *target, size_t target_size, const char *path, size_t size)
{
    char text[LZ_PATH_MAX + 1];
    if (target_size == 0)
        return -ENOENT;
    if (target_size > LZ_PATH_MAX)
        return -ENAMETOOLONG;
    if (memchr(target, 0, target_size) != NULL)
        return -EINVAL;
    memcpy(text, target, target_size);
    text[target_size] = 0;
    return make(self, path, size, &(struct lz_making){.mode = S_IFLNK | 0777, .target = text});
}

/* The further name of an upper's file; over a whiteout in one step. */
static int link_to(struct lz_union *self, const struct lz_upper *from, const struct lz_place *to)
{
    const struct lz_sys *sys = self->sys;
    struct lz_upper upper;
    int rc = lz_upper_at(self, to, &upper);
    if (rc != 0)
        return rc;
    if (!to->upper_whiteout) {
        rc = sys->linkat(sys->ctx, from->dir, from->name, upper.dir, upper.name, 0);
    } else if ((rc = lz_work_begin(self)) == 0) {
        rc = sys->linkat(sys->ctx, from->dir, from->name, self->work_fd, LZ_WORK_NEW, 0);
        if (rc == 0 && (rc = sys->renameat2(sys->ctx, self->work_fd, LZ_WORK_NEW, upper.dir, upper.name, 0)) != 0)
            lz_work_drop(self, LZ_WORK_NEW);
    }
    lz_upper_done(self, &upper);
    return rc;
}

static int link_places(struct lz_union *self, const char *from_path, size_t from_size, const char *to_path,
                       size_t to_size, struct lz_place *from, struct lz_place *to)
{
    struct lz_upper upper;
    int rc = lz_union_walk(self, from_path, from_size, LZ_WALK_NOFOLLOW, from);
    if (rc != 0)
        return rc;
    rc = lz_union_walk(self, to_path, to_size, LZ_WALK_NOFOLLOW | LZ_WALK_CHANGE | LZ_WALK_MAY_MISS, to);
    if (rc != 0)
        return rc;
    if (to->exists || to->last != LZ_LAST_NAME)
        return -EEXIST;
    if (to->needs_directory)
        return -ENOENT;
    if (from->info.kind == LZ_KIND_DIRECTORY)
        return -EPERM;
    rc = lz_union_copyup_parent(self, to, NULL);
    if (rc == 0)
        rc = lz_union_copyup(self, from, LZ_WANT_ATTRIBUTES, NULL);
    if (rc == 0)
        rc = lz_upper_at(self, from, &upper);
    if (rc != 0)
        return rc;
    rc = lz_redirect_set(self, from, upper.dir, upper.name);
    if (rc == 0)
        rc = link_to(self, &upper, to);
    lz_upper_done(self, &upper);
    return rc;
}

int lz_union_link(struct lz_union *self, const char *from, size_t from_size, const char *to, size_t to_size)
{
    struct lz_place from_place, to_place;
    int rc = lz_union_lock(self);
    if (rc != 0)
        return rc;
    lz_place_begin(&from_place);
    lz_place_begin(&to_place);
    rc = link_places(self, from, from_size, to, to_size, &from_place, &to_place);
    lz_place_end(&from_place);
    lz_place_end(&to_place);
    lz_union_unlock(self);
    return rc;
}
