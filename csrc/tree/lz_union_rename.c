#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>

#include "lz_list.h"
#include "lz_union_writer.h"

struct renaming {
    struct lz_union *self;
    struct lz_place from, to;
    struct lz_upper from_upper, to_upper;
    bool exchange, no_replace;
};

static bool is_directory(const struct lz_place *place)
{
    return place->info.kind == LZ_KIND_DIRECTORY;
}

/* Whether a lies above b. */
static bool is_above(const struct lz_place *a, const struct lz_place *b)
{
    return b->path_size > a->path_size && memcmp(a->path, b->path, a->path_size) == 0 &&
           (a->path_size == 0 || b->path[a->path_size] == '/');
}

static bool is_same(const struct lz_place *a, const struct lz_place *b)
{
    if (a->path_size == b->path_size && memcmp(a->path, b->path, a->path_size) == 0)
        return true;
    return !is_directory(a) && !is_directory(b) && a->info.device == b->info.device &&
           a->info.number == b->info.number && a->in_upper == b->in_upper;
}

/* In the order of Linux' do_renameat2() and vfs_rename(). 1: go on, 0: nothing is to be done. */
static int check(const struct renaming *renaming)
{
    const struct lz_place *from = &renaming->from, *to = &renaming->to;
    if (from->last != LZ_LAST_NAME)
        return -EBUSY;
    if (to->last != LZ_LAST_NAME)
        return renaming->no_replace ? -EEXIST : -EBUSY;
    if (!from->exists)
        return -ENOENT;
    if (to->exists && renaming->no_replace)
        return -EEXIST;
    if (!to->exists && renaming->exchange)
        return -ENOENT;
    if (renaming->exchange && to->needs_directory && !is_directory(to))
        return -ENOTDIR;
    if (!is_directory(from) && (from->needs_directory || (to->needs_directory && !renaming->exchange)))
        return -ENOTDIR;
    if (is_above(from, to))
        return -EINVAL;
    if (is_above(to, from))
        return renaming->exchange ? -EINVAL : -ENOTEMPTY;
    if (!to->exists)
        return 1;
    if (is_same(from, to))
        return 0;
    if (!renaming->exchange && is_directory(from) != is_directory(to))
        return is_directory(from) ? -ENOTDIR : -EISDIR;
    return 1;
}

/* A directory that shows nothing, but holds whiteouts, is to be replaced: the lowers are hidden by one mark, then the
 * whiteouts can go. */
static int clear_whiteouts(struct lz_union *self, const struct lz_place *place, const struct lz_upper *upper)
{
    const struct lz_sys *sys = self->sys;
    struct lz_listing listing = {0};
    struct timespec times[2];
    int fd = sys->openat(sys->ctx, upper->dir, upper->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    if (fd < 0)
        return fd;
    int rc = lz_listing_read(sys, fd, &listing);
    if (rc == 0 && listing.count > 0 && (rc = lz_times_take(self, fd, times)) == 0) {
        if (place->share_count > 0)
            rc = lz_upper_mark(self, upper->dir, upper->name, "opaque", "y", 1);
        for (size_t i = 0; i < listing.count && rc == 0; i++)
            rc = sys->unlinkat(sys->ctx, fd, listing.items[i].name, 0);
        lz_times_put(self, fd, times);
    }
    lz_listing_free(&listing);
    (void)sys->close(sys->ctx, fd);
    return rc;
}

/* What `moved` needs to be the same under the name of `there`: its lowers by redirect; or, when it has none, a mark
 * against what a lower has under that name. */
static int prepare(struct lz_union *self, const struct lz_place *moved, const struct lz_upper *upper,
                   const struct lz_place *there)
{
    if (is_directory(moved) && moved->share_count == 0)
        return there->lower_has && !moved->upper_opaque ? lz_upper_mark(self, upper->dir, upper->name, "opaque", "y", 1)
                                                        : 0;
    return lz_redirect_set(self, moved, upper->dir, upper->name);
}

/* The source goes to the target's name, and the whiteout that is there to the source's. XFS gives a directory that is
 * exchanged a new modification time, which a plain rename leaves alone. */
static int change_places(const struct renaming *renaming)
{
    const struct lz_sys *sys = renaming->self->sys;
    const struct lz_upper *from = &renaming->from_upper, *to = &renaming->to_upper;
    struct stat info;
    bool keep = is_directory(&renaming->from);
    int rc = keep ? sys->fstatat(sys->ctx, from->dir, from->name, &info, AT_SYMLINK_NOFOLLOW) : 0;
    if (rc == 0)
        rc = sys->renameat2(sys->ctx, from->dir, from->name, to->dir, to->name, RENAME_EXCHANGE);
    if (rc == 0 && keep) {
        const struct timespec times[2] = {info.st_atim, info.st_mtim};
        (void)sys->utimensat(sys->ctx, to->dir, to->name, times, AT_SYMLINK_NOFOLLOW);
    }
    return rc;
}

/* The source's name needs a whiteout, and renameat2() cannot leave one here: an exchange with one that is put at the
 * target first does the same in one step, where the target is free. */
static int rename_leaving_whiteout(struct renaming *renaming)
{
    struct lz_union *self = renaming->self;
    const struct lz_sys *sys = self->sys;
    const struct lz_upper *from = &renaming->from_upper, *to = &renaming->to_upper;
    int rc = sys->renameat2(sys->ctx, from->dir, from->name, to->dir, to->name, RENAME_WHITEOUT);
    if (rc != -EINVAL && rc != -ENOSYS && rc != -EPERM)
        return rc;
    if (!(renaming->to.exists && renaming->to.in_upper)) {
        rc = lz_whiteout(self, to->dir, to->name);
        if (rc == 0 && (rc = change_places(renaming)) == 0)
            return 0;
        (void)sys->unlinkat(sys->ctx, to->dir, to->name, 0);
        if (rc != -EINVAL && rc != -ENOSYS)
            return rc;
    }
    rc = sys->renameat2(sys->ctx, from->dir, from->name, to->dir, to->name, 0);
    return rc != 0 ? rc : lz_whiteout(self, from->dir, from->name); /* in between the lower's name shows */
}

static int move(struct renaming *renaming)
{
    const struct lz_sys *sys = renaming->self->sys;
    const struct lz_place *from = &renaming->from, *to = &renaming->to;
    const struct lz_upper *a = &renaming->from_upper, *b = &renaming->to_upper;
    if (renaming->exchange)
        return sys->renameat2(sys->ctx, a->dir, a->name, b->dir, b->name, RENAME_EXCHANGE);
    if (from->lower_has && !to->upper_whiteout)
        return rename_leaving_whiteout(renaming);
    if (!to->upper_whiteout || (!from->lower_has && !is_directory(from)))
        return sys->renameat2(sys->ctx, a->dir, a->name, b->dir, b->name, 0);
    int rc = change_places(renaming);
    if (rc == 0 && !from->lower_has)
        (void)sys->unlinkat(sys->ctx, a->dir, a->name, 0); /* a whiteout of nothing does no harm */
    if (rc != -EINVAL && rc != -ENOSYS)
        return rc;
    rc = sys->unlinkat(sys->ctx, b->dir, b->name, 0); /* no exchange here: in between the lower's name shows */
    if (rc == 0)
        rc = sys->renameat2(sys->ctx, a->dir, a->name, b->dir, b->name, 0);
    return rc == 0 && from->lower_has ? lz_whiteout(renaming->self, a->dir, a->name) : rc;
}

/* The target's file goes; its map must go with the last name. A second name in work keeps it until then. */
static int replace(struct renaming *renaming)
{
    struct lz_union *self = renaming->self;
    bool keep = renaming->to.exists && renaming->to.in_upper && renaming->to.info.unsettled && !renaming->exchange;
    int rc = keep ? lz_work_begin(self) : 0;
    if (rc == 0 && keep)
        rc = self->sys->linkat(self->sys->ctx, renaming->to_upper.dir, renaming->to_upper.name, self->work_fd,
                               LZ_WORK_OLD, 0);
    if (rc != 0)
        return rc;
    rc = move(renaming);
    if (keep)
        lz_work_drop(self, LZ_WORK_OLD);
    return rc;
}

static int move_prepared(struct renaming *renaming)
{
    struct lz_union *self = renaming->self;
    struct lz_place *from = &renaming->from, *to = &renaming->to;
    int rc = lz_upper_at(self, from, &renaming->from_upper);
    if (rc != 0)
        return rc;
    rc = lz_upper_at(self, to, &renaming->to_upper);
    if (rc == 0) {
        rc = prepare(self, from, &renaming->from_upper, to);
        if (rc == 0 && renaming->exchange)
            rc = prepare(self, to, &renaming->to_upper, from);
        if (rc == 0 && !renaming->exchange && to->exists && to->in_upper && is_directory(to))
            rc = clear_whiteouts(self, to, &renaming->to_upper);
        if (rc == 0)
            rc = replace(renaming);
        lz_upper_done(self, &renaming->to_upper);
    }
    lz_upper_done(self, &renaming->from_upper);
    return rc;
}

/* Resolves a place once more, after something else was copied up. */
static int again(struct lz_union *self, struct lz_place *place)
{
    char path[LZ_PATH_MAX + 1];
    memcpy(path, place->path, place->path_size + 1);
    return lz_union_walk(self, path, place->path_size, LZ_WALK_NOFOLLOW | LZ_WALK_CHANGE, place);
}

static int rename_resolved(struct renaming *renaming)
{
    struct lz_union *self = renaming->self;
    struct lz_place *from = &renaming->from, *to = &renaming->to;
    bool empty = true;
    int rc = check(renaming);
    if (rc <= 0)
        return rc;
    if (to->exists && is_directory(to) && !renaming->exchange) {
        rc = lz_union_is_empty(self, to, &empty);
        if (rc != 0 || !empty)
            return rc != 0 ? rc : -ENOTEMPTY;
    }
    rc = lz_union_copyup(self, from, LZ_WANT_ATTRIBUTES, NULL);
    if (rc == 0 && renaming->exchange) /* it may have come up, as the parent of a further name of the source */
        rc = again(self, to);
    if (rc == 0)
        rc = renaming->exchange ? lz_union_copyup(self, to, LZ_WANT_ATTRIBUTES, NULL)
                                : lz_union_copyup_parent(self, to, NULL);
    return rc == 0 ? move_prepared(renaming) : rc;
}

int lz_union_rename(struct lz_union *self, const char *from, size_t from_size, const char *to, size_t to_size,
                    unsigned flags)
{
    const unsigned walk = LZ_WALK_NOFOLLOW | LZ_WALK_CHANGE | LZ_WALK_MAY_MISS;
    struct renaming renaming = {
        .self = self, .exchange = (flags & RENAME_EXCHANGE) != 0, .no_replace = (flags & RENAME_NOREPLACE) != 0};
    if ((flags & ~(unsigned)(RENAME_EXCHANGE | RENAME_NOREPLACE)) != 0 || (renaming.exchange && renaming.no_replace))
        return -EINVAL;
    int rc = lz_union_lock(self);
    if (rc != 0)
        return rc;
    lz_place_begin(&renaming.from);
    lz_place_begin(&renaming.to);
    rc = lz_union_walk(self, from, from_size, walk, &renaming.from);
    if (rc == 0)
        rc = lz_union_walk(self, to, to_size, walk, &renaming.to);
    if (rc == 0)
        rc = rename_resolved(&renaming);
    lz_place_end(&renaming.from);
    lz_place_end(&renaming.to);
    lz_union_unlock(self);
    return rc;
}
