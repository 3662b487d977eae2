#include <errno.h>
#include <fcntl.h>

#include "lz_union_writer.h"

/* Takes away what the upper has under the name, and leaves a whiteout where a lower would show. A directory may hold
 * whiteouts, and a block-level file has a map: those go by way of work, so that the name itself changes in one step. */
static int remove_upper(struct lz_union *self, const struct lz_place *place, const struct lz_upper *upper)
{
    const struct lz_sys *sys = self->sys;
    bool directory = place->info.kind == LZ_KIND_DIRECTORY;
    if (!place->lower_has && !place->info.unsettled) {
        int rc = sys->unlinkat(sys->ctx, upper->dir, upper->name, directory ? AT_REMOVEDIR : 0);
        if (!directory || (rc != -ENOTEMPTY && rc != -EEXIST))
            return rc;
    }
    int rc = lz_work_take_out(self, upper->dir, upper->name, place->lower_has);
    if (rc == 0)
        lz_work_drop(self, LZ_WORK_OLD);
    return rc;
}

static int remove_place(struct lz_union *self, struct lz_place *place)
{
    struct lz_upper upper;
    int rc = lz_union_copyup_parent(self, place, NULL);
    if (rc == 0)
        rc = lz_upper_at(self, place, &upper);
    if (rc != 0)
        return rc;
    rc = place->in_upper ? remove_upper(self, place, &upper) : lz_whiteout(self, upper.dir, upper.name);
    lz_upper_done(self, &upper);
    return rc;
}

static int check_unlink(const struct lz_place *place)
{
    if (place->last != LZ_LAST_NAME)
        return -EISDIR;
    if (!place->exists)
        return -ENOENT;
    if (place->info.kind == LZ_KIND_DIRECTORY)
        return -EISDIR;
    return place->needs_directory ? -ENOTDIR : 0;
}

static int check_rmdir(struct lz_union *self, const struct lz_place *place)
{
    bool empty = false;
    switch (place->last) {
    case LZ_LAST_ROOT:
        return -EBUSY;
    case LZ_LAST_DOT:
        return -EINVAL;
    case LZ_LAST_DOTDOT:
        return -ENOTEMPTY;
    default:
        break;
    }
    if (!place->exists)
        return -ENOENT;
    if (place->info.kind != LZ_KIND_DIRECTORY)
        return -ENOTDIR;
    int rc = lz_union_is_empty(self, place, &empty);
    return rc != 0 ? rc : empty ? 0 : -ENOTEMPTY;
}

static int remove_path(struct lz_union *self, const char *path, size_t size, bool directory)
{
    struct lz_place place;
    int rc = lz_union_lock(self);
    if (rc != 0)
        return rc;
    lz_place_begin(&place);
    rc = lz_union_walk(self, path, size, LZ_WALK_NOFOLLOW | LZ_WALK_CHANGE | LZ_WALK_MAY_MISS, &place);
    if (rc == 0)
        rc = directory ? check_rmdir(self, &place) : check_unlink(&place);
    if (rc == 0)
        rc = remove_place(self, &place);
    lz_place_end(&place);
    lz_union_unlock(self);
    return rc;
}

int lz_union_unlink(struct lz_union *self, const char *path, size_t size)
{
    return remove_path(self, path, size, false);
}

int lz_union_rmdir(struct lz_union *self, const char *path, size_t size)
{
    return remove_path(self, path, size, true);
}
