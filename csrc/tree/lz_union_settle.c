#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "lz_union_writer.h"

struct settling {
    struct lz_union *self;
    uint64_t count;
    struct lz_detail *detail;
    struct lz_place place;
};

/* In place, with times, set-id bits and capabilities as they were: nothing was written that was not there. */
static int settle_upper(struct settling *settling, const struct lz_upper *upper)
{
    struct lz_union *self = settling->self;
    struct lz_union_source *source;
    struct lz_kept kept;
    int maps = lz_union_blocks_dir(self, false);
    int rc = maps < 0 ? maps : lz_kept_take(self, upper->dir, upper->name, &kept);
    if (rc == 0)
        rc = lz_union_source_open(self, &settling->place, O_RDWR, &source, settling->detail);
    if (rc != 0)
        return rc == -ENOENT ? LZ_E_CORRUPT : rc; /* with the names locked: the map is gone */
    uint64_t before = lz_blocks_filled(source->blocks);
    rc = lz_blocks_settle(source->blocks, maps, settling->detail);
    atomic_fetch_add_explicit(&self->bytes_copied, lz_blocks_filled(source->blocks) - before, memory_order_relaxed);
    lz_union_source_release(source);
    int kept_rc = lz_kept_put(self, upper->dir, upper->name, &kept);
    return rc != 0 ? rc : kept_rc;
}

/* With user.overlay.* the kernel reads no metacopies, so they become whole files, too. */
static int settle_place(struct settling *settling)
{
    struct lz_union *self = settling->self;
    struct lz_place *place = &settling->place;
    struct lz_upper upper;
    int rc = 0;
    if (place->metacopy && (place->info.unsettled || self->user_xattr))
        rc = lz_union_copyup(self, place, LZ_WANT_DATA, settling->detail);
    if (rc == 0 && place->info.unsettled && (rc = lz_upper_at(self, place, &upper)) == 0) {
        rc = settle_upper(settling, &upper);
        lz_upper_done(self, &upper);
        settling->count += rc == 0;
    }
    return rc;
}

/* The lock is taken for each file: settling may take long, and others must get on. */
static int settle_path(struct settling *settling, const char *path)
{
    int rc = lz_union_lock(settling->self);
    if (rc != 0)
        return rc;
    rc = lz_union_walk(settling->self, path, strlen(path), LZ_WALK_NOFOLLOW, &settling->place);
    if (rc == 0 && settling->place.in_upper && settling->place.info.kind == LZ_KIND_FILE &&
        (rc = settle_place(settling)) < 0)
        rc = lz_fail_within(settling->detail, rc, "/%s", settling->place.path);
    lz_union_unlock(settling->self);
    return rc == -ENOENT || rc == -ENOTDIR ? 0 : rc; /* went away meanwhile */
}

static int settle_name(void *ctx, int dir, const char *path, const char *name, const struct stat *info)
{
    struct settling *settling = ctx;
    struct lz_union *self = settling->self;
    char map[LZ_BLOCKS_NAME_SIZE];
    if (!S_ISREG(info->st_mode))
        return 0;
    int rc = lz_blocks_name(self->sys, dir, name, self->user_xattr, map);
    if (rc == 0 && self->user_xattr) {
        ssize_t got = self->sys->getxattrat(self->sys->ctx, dir, name, "user.overlay.metacopy", NULL, 0);
        rc = got >= 0 ? 1 : got == -ENODATA || got == -EOPNOTSUPP ? 0 : (int)got;
    }
    return rc == 1 ? settle_path(settling, path) : rc;
}

int lz_union_settle(struct lz_union *self, const char *path, size_t size, uint64_t *count, struct lz_detail *detail)
{
    struct settling settling = {.self = self, .detail = detail};
    char start[LZ_PATH_MAX + 1];
    if (self->read_only)
        return -EROFS;
    lz_place_begin(&settling.place);
    int rc = lz_union_walk(self, path, size, LZ_WALK_NOFOLLOW, &settling.place);
    if (rc == 0 && settling.place.in_upper) {
        memcpy(start, settling.place.path, settling.place.path_size + 1);
        rc = settling.place.info.kind == LZ_KIND_DIRECTORY
                 ? lz_below_each(self->sys, self->upper_fd, start, settle_name, &settling)
                 : settle_path(&settling, start);
    }
    lz_place_end(&settling.place);
    if (count != NULL)
        *count = settling.count;
    return rc;
}
