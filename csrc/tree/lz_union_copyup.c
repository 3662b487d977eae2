#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "../bytes/lz_mark.h"
#include "lz_union_writer.h"

/* ---- data ---- */

static int bring_blocks(struct lz_union *self, int fd, const struct lz_blocks_lower *lower, struct lz_detail *detail)
{
    int maps = lz_union_blocks_dir(self, true);
    if (maps < 0)
        return maps;
    return lz_blocks_create(self->sys, fd, maps, self->user_xattr, self->block_size, lower, detail);
}

/* Down the ladder: a clone costs nothing; a large file that cannot be cloned goes block by block. */
static int bring_from(struct lz_union *self, int fd, const struct lz_blocks_lower *lower,
                      struct lz_copyup_result *result, struct lz_detail *detail)
{
    enum lz_rung rung = self->rung;
    int rc = -EOPNOTSUPP;
    bool large = rung == LZ_RUNG_AUTO && lower->at.size >= self->block_threshold;
    if (large)
        rc = lz_copyup_data(self->sys, &lower->at, fd, LZ_RUNG_CLONE, result, NULL);
    if (rc == -EOPNOTSUPP && (large || rung == LZ_RUNG_BLOCKS)) {
        *result = (struct lz_copyup_result){.rung = LZ_RUNG_BLOCKS};
        rc = bring_blocks(self, fd, lower, detail);
    }
    if (rc == -EOPNOTSUPP && rung != LZ_RUNG_BLOCKS) /* AUTO, or what was asked for */
        rc = lz_copyup_data(self->sys, &lower->at, fd, rung, result, detail);
    if (rc != 0 || result->copied == 0)
        return rc;
    /* The name must not reach the disk before the data: it hides the lower's file, which is whole. */
    return self->sys->fdatasync(self->sys->ctx, fd);
}

static int bring(struct lz_union *self, const struct lz_place *place, int fd, struct lz_detail *detail)
{
    struct lz_copyup_result result = {.rung = LZ_RUNG_AUTO};
    const struct lz_share *share = lz_place_data(place);
    if (place->info.size > 0 && share != NULL) {
        struct lz_blocks_lower lower;
        bool owned = false;
        if (self->rung == LZ_RUNG_METACOPY)
            return lz_fail(detail, -EOPNOTSUPP, "%s: a metacopy has no data to write to", place->path);
        int rc = lz_union_blocks_lower(self, place, share, &lower, &owned, detail);
        if (rc != 0)
            return rc;
        rc = bring_from(self, fd, &lower, &result, detail);
        if (owned)
            (void)self->sys->close(self->sys->ctx, lower.at.fd);
        if (rc != 0)
            return rc;
    }
    atomic_fetch_add_explicit(&self->copyups[result.rung], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&self->bytes_copied, result.copied, memory_order_relaxed);
    return 0;
}

/* ---- attributes of what lies in work, and belongs to nobody else yet ---- */

/* Without privileges an owner, and xattrs that only root may set, stay behind: the file is the caller's. */
static bool may_pass(const struct lz_union *self, int rc)
{
    return self->user_xattr && (rc == -EPERM || rc == -EINVAL);
}

static int set_xattr(struct lz_union *self, const struct lz_xattr_record *record, const uint8_t *bytes)
{
    char name[LZ_XATTR_NAME_MAX + 1], escaped[LZ_XATTR_NAME_MAX + 1];
    if (record->name_size > LZ_XATTR_NAME_MAX)
        return -ERANGE;
    memcpy(name, bytes, record->name_size);
    name[record->name_size] = 0;
    int rc = lz_overlay_xattr_escape(name, self->user_xattr, escaped, sizeof escaped);
    if (rc < 0)
        return rc;
    rc = self->sys->setxattrat(self->sys->ctx, self->work_fd, LZ_WORK_NEW, escaped, bytes + record->name_size,
                               record->value_size);
    bool must = strncmp(name, "security.", 9) == 0 || strncmp(name, "system.", 7) == 0; /* as overlayfs has it */
    return may_pass(self, rc) || (rc == -EOPNOTSUPP && !must) ? 0 : rc;
}

static int set_xattrs(struct lz_union *self, const struct lz_place *place)
{
    struct lz_buf records = {0};
    int rc = lz_union_xattrs(self, place, &records);
    for (size_t at = 0; rc == 0 && at + sizeof(struct lz_xattr_record) <= records.size;) {
        struct lz_xattr_record record;
        memcpy(&record, records.data + at, sizeof record);
        at += sizeof record;
        rc = set_xattr(self, &record, records.data + at);
        at += ((size_t)record.name_size + record.value_size + 3) & ~(size_t)3;
    }
    lz_buf_free(&records);
    return rc;
}

/* Owner before xattrs and mode: a change of owner takes capabilities and set-id bits away. */
static int set_attributes(struct lz_union *self, const struct lz_place *place, bool times)
{
    const struct lz_union_info *info = &place->info;
    const struct lz_sys *sys = self->sys;
    int rc = sys->fchownat(sys->ctx, self->work_fd, LZ_WORK_NEW, info->uid, info->gid, AT_SYMLINK_NOFOLLOW);
    if (may_pass(self, rc))
        rc = 0;
    if (rc == 0)
        rc = set_xattrs(self, place);
    if (rc == 0 && info->kind != LZ_KIND_SYMLINK)
        rc = sys->fchmodat(sys->ctx, self->work_fd, LZ_WORK_NEW, info->mode & 07777);
    const struct timespec stamps[2] = {info->atime, info->mtime};
    if (rc == 0 && times)
        rc = sys->utimensat(sys->ctx, self->work_fd, LZ_WORK_NEW, stamps, AT_SYMLINK_NOFOLLOW);
    return rc;
}

/* ---- making it in work ---- */

static int make_file(struct lz_union *self, const struct lz_place *place, enum lz_want want,
                     const struct lz_origin *origin, struct lz_detail *detail)
{
    const struct lz_sys *sys = self->sys;
    int fd = sys->openat(sys->ctx, self->work_fd, LZ_WORK_NEW, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fd;
    bool metacopy = want == LZ_WANT_ATTRIBUTES && place->info.size > 0 && self->rung <= LZ_RUNG_BLOCKS;
    int rc = sys->setxattrat(sys->ctx, self->work_fd, LZ_WORK_NEW, LZ_ORIGIN_XATTR(self->user_xattr), origin,
                             sizeof *origin);
    if (rc == -EOPNOTSUPP) /* then other processes' handles stay on the lower */
        rc = 0;
    if (rc == 0 && metacopy) {
        rc = lz_upper_mark(self, self->work_fd, LZ_WORK_NEW, "metacopy", NULL, 0);
        metacopy = rc == 0;
        if (rc == -EOPNOTSUPP && self->rung != LZ_RUNG_METACOPY)
            rc = 0;
    }
    if (rc == 0 && metacopy) {
        rc = sys->ftruncate(sys->ctx, fd, (off_t)place->info.size);
        if (rc == 0)
            atomic_fetch_add_explicit(&self->copyups[LZ_RUNG_METACOPY], 1, memory_order_relaxed);
    } else if (rc == 0 && want != LZ_WANT_NOTHING) {
        rc = bring(self, place, fd, detail);
    } else if (rc == 0) {
        atomic_fetch_add_explicit(&self->copyups[LZ_RUNG_AUTO], 1, memory_order_relaxed);
    }
    int closed = sys->close(sys->ctx, fd);
    return rc != 0 ? rc : closed;
}

static int make_symlink(struct lz_union *self, const struct lz_place *place)
{
    char target[LZ_PATH_MAX + 1];
    ssize_t size = lz_union_readlink(self, place->path, place->path_size, target, LZ_PATH_MAX);
    if (size < 0)
        return (int)size;
    if (size > (ssize_t)LZ_PATH_MAX)
        return -ENAMETOOLONG;
    target[size] = 0;
    return self->sys->symlinkat(self->sys->ctx, target, self->work_fd, LZ_WORK_NEW);
}

static int make(struct lz_union *self, const struct lz_place *place, enum lz_want want, const struct lz_origin *origin,
                struct lz_detail *detail)
{
    const struct lz_union_info *info = &place->info;
    if (info->kind == LZ_KIND_FILE)
        return make_file(self, place, want, origin, detail);
    int rc;
    if (info->kind == LZ_KIND_DIRECTORY)
        rc = self->sys->mkdirat(self->sys->ctx, self->work_fd, LZ_WORK_NEW, 0700);
    else if (info->kind == LZ_KIND_SYMLINK)
        rc = make_symlink(self, place);
    else
        rc = self->sys->mknodat(self->sys->ctx, self->work_fd, LZ_WORK_NEW, (info->mode & S_IFMT) | 0600,
                                makedev(info->major, info->minor));
    if (rc == 0)
        atomic_fetch_add_explicit(&self->copyups_other, 1, memory_order_relaxed);
    return rc;
}

/* ---- into place ---- */

static int publish_one(struct lz_union *self, const struct lz_place *place)
{
    struct lz_upper upper;
    struct timespec times[2];
    int rc = lz_upper_at(self, place, &upper);
    if (rc != 0)
        return rc;
    rc = lz_times_take(self, upper.dir, times);
    if (rc == 0)
        rc = self->sys->renameat2(self->sys->ctx, self->work_fd, LZ_WORK_NEW, upper.dir, upper.name, 0);
    if (rc == 0)
        lz_times_put(self, upper.dir, times);
    lz_upper_done(self, &upper);
    return rc;
}

static int bring_up_parents(struct lz_union *self, const struct lz_buf *names, struct lz_detail *detail)
{
    struct lz_place place;
    int rc = 0;
    lz_place_begin(&place);
    for (size_t at = 0; at < names->size && rc == 0;) {
        const char *name = (const char *)names->data + at;
        rc = lz_union_walk(self, name, strlen(name), LZ_WALK_NOFOLLOW, &place);
        if (rc == 0)
            rc = lz_union_copyup_parent(self, &place, detail);
        at += strlen(name) + 1;
    }
    lz_place_end(&place);
    return rc;
}

static int rise(struct lz_union *self, struct lz_place *place, enum lz_want want, struct lz_detail *detail)
{
    struct lz_origin origin;
    struct lz_buf names = {0};
    size_t count = 1;
    bool file = place->info.kind == LZ_KIND_FILE;
    int rc = lz_union_copyup_parent(self, place, detail);
    if (rc == 0 && place->info.kind != LZ_KIND_DIRECTORY && place->info.link_count > 1)
        rc = lz_linked_names(self, place, &names, &count);
    if (rc == 0 && count > 1)
        rc = bring_up_parents(self, &names, detail);
    if (rc == 0)
        rc = lz_work_begin(self);
    if (rc == 0) {
        if (file)
            lz_union_origin(place, &origin);
        rc = make(self, place, want, &origin, detail);
        if (rc == 0)
            rc = set_attributes(self, place, want != LZ_WANT_NOTHING);
        if (rc == 0)
            rc = count > 1 ? lz_group_publish(self, &names) : publish_one(self, place);
        if (rc != 0)
            lz_work_drop(self, LZ_WORK_NEW);
    }
    if (rc == 0 && file) {
        lz_union_files_moved(self, &origin, place->path, place->path_size);
        rc = lz_union_changed(self);
    }
    lz_buf_free(&names);
    return rc;
}

/* ---- a metacopy gets its data ---- */

int lz_kept_take(struct lz_union *self, int dir, const char *name, struct lz_kept *out)
{
    out->capability_size = self->sys->getxattrat(self->sys->ctx, dir, name, "security.capability", out->capability,
                                                 sizeof out->capability);
    if (out->capability_size < 0 && out->capability_size != -ENODATA && out->capability_size != -EOPNOTSUPP)
        return (int)out->capability_size;
    return self->sys->fstatat(self->sys->ctx, dir, name, &out->info, AT_SYMLINK_NOFOLLOW);
}

int lz_kept_put(struct lz_union *self, int dir, const char *name, const struct lz_kept *kept)
{
    struct stat info;
    const struct timespec times[2] = {kept->info.st_atim, kept->info.st_mtim};
    int rc = self->sys->fstatat(self->sys->ctx, dir, name, &info, AT_SYMLINK_NOFOLLOW);
    if (rc == 0 && info.st_mode != kept->info.st_mode)
        rc = lz_upper_chmod(self, dir, name, kept->info.st_mode);
    if (rc == 0 && kept->capability_size >= 0)
        rc = self->sys->setxattrat(self->sys->ctx, dir, name, "security.capability", kept->capability,
                                   (size_t)kept->capability_size);
    if (rc == 0)
        rc = self->sys->utimensat(self->sys->ctx, dir, name, times, AT_SYMLINK_NOFOLLOW);
    return rc;
}

static int fill(struct lz_union *self, const struct lz_place *place, const struct lz_upper *upper, int fd,
                struct lz_detail *detail)
{
    char map[LZ_BLOCKS_NAME_SIZE];
    int rc = lz_blocks_name(self->sys, upper->dir, upper->name, self->user_xattr, map);
    if (rc != 0)
        return rc < 0 ? rc : 0; /* somebody died between the map and the mark */
    rc = bring(self, place, fd, detail);
    if (rc != 0) { /* the mark still says that the data is the lower's: give back the space */
        (void)self->sys->ftruncate(self->sys->ctx, fd, 0);
        (void)self->sys->ftruncate(self->sys->ctx, fd, (off_t)place->info.size);
    }
    return rc;
}

/* In place, so that other names of it and handles on it keep it. Until the mark is gone readers go to the lower. */
static int complete(struct lz_union *self, const struct lz_place *place, enum lz_want want, struct lz_detail *detail)
{
    struct lz_upper upper;
    struct lz_kept kept;
    const struct lz_sys *sys = self->sys;
    int rc = lz_upper_at(self, place, &upper);
    if (rc != 0)
        return rc;
    int fd = sys->openat(sys->ctx, upper.dir, upper.name, O_RDWR | O_NOFOLLOW, 0);
    rc = fd < 0 ? fd : lz_kept_take(self, upper.dir, upper.name, &kept);
    if (rc == 0 && want == LZ_WANT_NOTHING) {
        rc = sys->ftruncate(sys->ctx, fd, 0); /* a metacopy of no length shows nothing of its lower */
    } else if (rc == 0) {
        rc = fill(self, place, &upper, fd, detail);
        int kept_rc = lz_kept_put(self, upper.dir, upper.name, &kept);
        rc = rc != 0 ? rc : kept_rc;
    }
    if (rc == 0)
        rc = lz_upper_unmark(self, upper.dir, upper.name, "metacopy");
    struct lz_origin origin;
    if (rc == 0) {
        ssize_t got =
            sys->getxattrat(sys->ctx, upper.dir, upper.name, LZ_ORIGIN_XATTR(self->user_xattr), &origin, sizeof origin);
        if (got == (ssize_t)sizeof origin)
            lz_union_files_moved(self, &origin, place->path, place->path_size);
        rc = lz_union_changed(self);
    }
    if (fd >= 0)
        (void)sys->close(sys->ctx, fd);
    lz_upper_done(self, &upper);
    return rc;
}

/* ---- the union's own calls ---- */

int lz_union_copyup(struct lz_union *self, struct lz_place *place, enum lz_want want, struct lz_detail *detail)
{
    int rc;
    if (place->in_upper && (!place->metacopy || want == LZ_WANT_ATTRIBUTES))
        return 0;
    rc = place->in_upper ? complete(self, place, want, detail) : rise(self, place, want, detail);
    if (rc != 0)
        return detail != NULL && detail->text[0] != 0
                   ? rc
                   : lz_fail(detail, rc, "copy-up of %s: %s", place->path, lz_error_text(rc));
    char path[LZ_PATH_MAX + 1];
    bool needs_directory = place->needs_directory;
    enum lz_last last = place->last;
    size_t size = place->path_size;
    memcpy(path, place->path, size + 1);
    rc = lz_union_walk(self, path, size, LZ_WALK_NOFOLLOW | LZ_WALK_CHANGE, place);
    place->needs_directory = needs_directory;
    place->last = last;
    return rc;
}

/* Whether the upper has the directory path[0, size). */
static int upper_has(struct lz_union *self, const char *path, size_t size)
{
    int fd = lz_union_upper_open(self, path, size, O_PATH | O_DIRECTORY);
    if (fd >= 0)
        (void)self->sys->close(self->sys->ctx, fd);
    return fd >= 0 ? 1 : fd == -ENOENT ? 0 : fd;
}

int lz_union_copyup_parent(struct lz_union *self, struct lz_place *place, struct lz_detail *detail)
{
    if (place->parent_in_upper || place->path_size == 0)
        return 0;
    const char *path = place->path;
    size_t end = place->name_offset > 0 ? place->name_offset - 1 : 0, have = end;
    int rc = 0;
    while (have > 0 && (rc = upper_has(self, path, have)) == 0) {
        const char *slash = memrchr(path, '/', have);
        have = slash != NULL ? (size_t)(slash - path) : 0;
    }
    struct lz_place directory;
    lz_place_begin(&directory);
    rc = rc < 0 ? rc : 0;
    while (rc == 0 && have < end) {
        const char *from = path + have + (have > 0);
        const char *slash = memchr(from, '/', (size_t)(path + end - from));
        have = slash != NULL ? (size_t)(slash - path) : end;
        rc = lz_union_walk(self, path, have, LZ_WALK_NOFOLLOW, &directory);
        if (rc == 0 && !directory.in_upper) {
            directory.parent_in_upper = true;
            rc = rise(self, &directory, LZ_WANT_ATTRIBUTES, detail);
        }
    }
    lz_place_end(&directory);
    place->parent_in_upper = rc == 0;
    return rc;
}
