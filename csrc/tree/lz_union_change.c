#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/xattr.h>

#include "../bytes/lz_mark.h"
#include "lz_union_writer.h"

/* One change of attributes, on a name that is in the upper by then. */
struct change {
    int (*apply)(struct lz_union *self, const struct change *change, const struct lz_place *place,
                 const struct lz_upper *upper);
    uint32_t mode;
    uid_t uid;
    gid_t gid;
    const struct timespec *times;
    const char *xattr; /* escaped */
    const void *value;
    size_t value_size;
    int xattr_flags;
};

static int apply_in_upper(struct lz_union *self, const struct change *change, struct lz_place *place)
{
    struct lz_upper upper;
    int rc = lz_union_copyup(self, place, LZ_WANT_ATTRIBUTES, NULL);
    if (rc == 0)
        rc = lz_upper_at(self, place, &upper);
    if (rc != 0)
        return rc;
    rc = change->apply(self, change, place, &upper);
    lz_upper_done(self, &upper);
    return rc;
}

/* `check` (may be NULL) says no before anything is copied up. */
static int change_path(struct lz_union *self, const char *path, size_t size, unsigned flags,
                       const struct change *change,
                       int (*check)(struct lz_union *self, const struct change *change, const struct lz_place *place))
{
    struct lz_place place;
    if ((flags & ~LZ_UNION_NOFOLLOW) != 0)
        return -EINVAL;
    int rc = lz_union_lock(self);
    if (rc != 0)
        return rc;
    lz_place_begin(&place);
    rc = lz_union_walk(self, path, size, flags, &place);
    if (rc == 0 && check != NULL)
        rc = check(self, change, &place);
    if (rc == 0)
        rc = apply_in_upper(self, change, &place);
    lz_place_end(&place);
    lz_union_unlock(self);
    return rc;
}

/* ---- mode, owner, times ---- */

static int check_mode(struct lz_union *self, const struct change *change, const struct lz_place *place)
{
    (void)self;
    (void)change;
    return place->info.kind == LZ_KIND_SYMLINK ? -EOPNOTSUPP : 0;
}

static int apply_mode(struct lz_union *self, const struct change *change, const struct lz_place *place,
                      const struct lz_upper *upper)
{
    (void)place;
    return lz_upper_chmod(self, upper->dir, upper->name, change->mode);
}

int lz_union_chmod(struct lz_union *self, const char *path, size_t size, unsigned flags, uint32_t mode)
{
    return change_path(self, path, size, flags, &(struct change){.apply = apply_mode, .mode = mode & 07777},
                       check_mode);
}

static int apply_owner(struct lz_union *self, const struct change *change, const struct lz_place *place,
                       const struct lz_upper *upper)
{
    (void)place;
    return self->sys->fchownat(self->sys->ctx, upper->dir, upper->name, change->uid, change->gid, AT_SYMLINK_NOFOLLOW);
}

int lz_union_chown(struct lz_union *self, const char *path, size_t size, unsigned flags, uid_t uid, gid_t gid)
{
    return change_path(self, path, size, flags, &(struct change){.apply = apply_owner, .uid = uid, .gid = gid}, NULL);
}

static int apply_times(struct lz_union *self, const struct change *change, const struct lz_place *place,
                       const struct lz_upper *upper)
{
    (void)place;
    return self->sys->utimensat(self->sys->ctx, upper->dir, upper->name, change->times, AT_SYMLINK_NOFOLLOW);
}

static bool is_time(const struct timespec *time)
{
    return time->tv_nsec == UTIME_NOW || time->tv_nsec == UTIME_OMIT ||
           (time->tv_nsec >= 0 && time->tv_nsec < 1000000000);
}

int lz_union_utimens(struct lz_union *self, const char *path, size_t size, unsigned flags,
                     const struct timespec times[2])
{
    if (times != NULL && (!is_time(&times[0]) || !is_time(&times[1])))
        return -EINVAL;
    if (times != NULL && times[0].tv_nsec == UTIME_OMIT && times[1].tv_nsec == UTIME_OMIT)
        return 0; /* Linux does not even look at the path */
    return change_path(self, path, size, flags, &(struct change){.apply = apply_times, .times = times}, NULL);
}

/* ---- xattrs ---- */

static int escape(struct lz_union *self, const char *name, char out[LZ_XATTR_NAME_MAX + 1])
{
    size_t size = strlen(name);
    if (size == 0 || size > LZ_XATTR_NAME_MAX)
        return -ERANGE;
    int rc = lz_overlay_xattr_escape(name, self->user_xattr, out, LZ_XATTR_NAME_MAX + 1);
    return rc == -ENAMETOOLONG ? -ERANGE : rc < 0 ? rc : 0;
}

/* user.* is for files and directories alone. */
static int check_xattr_kind(const struct change *change, const struct lz_place *place)
{
    bool plain = place->info.kind == LZ_KIND_FILE || place->info.kind == LZ_KIND_DIRECTORY;
    return !plain && strncmp(change->xattr, "user.", 5) == 0 ? -EPERM : 0;
}

/* Asked of the merged name, before a copy-up: what is missing or in the way need not come up for it. */
static int check_xattr(struct lz_union *self, const struct change *change, const struct lz_place *place)
{
    char name[LZ_XATTR_NAME_MAX + 1];
    int rc = check_xattr_kind(change, place);
    if (rc != 0 || change->xattr_flags == 0)
        return rc;
    rc = lz_overlay_xattr_unescape(change->xattr, self->user_xattr, name, sizeof name);
    if (rc < 0)
        return rc;
    ssize_t got = lz_union_getxattr(self, place->path_size > 0 ? place->path : "/",
                                    place->path_size > 0 ? place->path_size : 1, LZ_UNION_NOFOLLOW, name, NULL, 0);
    if (got < 0 && got != -ENODATA)
        return (int)got;
    if (got >= 0 && (change->xattr_flags & XATTR_CREATE) != 0)
        return -EEXIST;
    return got < 0 && (change->xattr_flags & XATTR_REPLACE) != 0 ? -ENODATA : 0;
}

static int apply_xattr(struct lz_union *self, const struct change *change, const struct lz_place *place,
                       const struct lz_upper *upper)
{
    (void)place;
    return self->sys->setxattrat(self->sys->ctx, upper->dir, upper->name, change->xattr, change->value,
                                 change->value_size);
}

static int apply_no_xattr(struct lz_union *self, const struct change *change, const struct lz_place *place,
                          const struct lz_upper *upper)
{
    (void)place;
    return self->sys->removexattrat(self->sys->ctx, upper->dir, upper->name, change->xattr);
}

int lz_union_setxattr(struct lz_union *self, const char *path, size_t size, unsigned flags, const char *name,
                      const void *value, size_t value_size, int xattr_flags)
{
    char escaped[LZ_XATTR_NAME_MAX + 1];
    if ((xattr_flags & ~(XATTR_CREATE | XATTR_REPLACE)) != 0)
        return -EINVAL;
    int rc = escape(self, name, escaped);
    if (rc != 0)
        return rc;
    if (value_size > LZ_XATTR_VALUE_MAX)
        return -E2BIG;
    struct change change = {
        .apply = apply_xattr, .xattr = escaped, .value = value, .value_size = value_size, .xattr_flags = xattr_flags};
    return change_path(self, path, size, flags, &change, check_xattr);
}

int lz_union_removexattr(struct lz_union *self, const char *path, size_t size, unsigned flags, const char *name)
{
    char escaped[LZ_XATTR_NAME_MAX + 1];
    int rc = escape(self, name, escaped);
    if (rc != 0)
        return rc;
    struct change change = {.apply = apply_no_xattr, .xattr = escaped, .xattr_flags = XATTR_REPLACE};
    return change_path(self, path, size, flags, &change, check_xattr);
}
