#include "lz_unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "../bytes/lz_tar.h"
#include "lz_tree.h"
#include "lz_unpack_node.h"

/* A path of the archive as directory and name. The root has an empty name. */
struct place {
    char path[LZ_PATH_MAX + 1];
    size_t size;
    const char *name;   /* in path */
    size_t parent_size; /* path[0 .. parent_size) is the parent's */
};

static int set_place(struct place *place, const char *path, size_t size, struct lz_detail *detail)
{
    int rc = lz_path_clean(path, size, place->path, detail);
    if (rc < 0)
        return rc;
    place->size = (size_t)rc;
    char *slash = memrchr(place->path, '/', place->size);
    place->name = slash != NULL ? slash + 1 : place->path;
    place->parent_size = slash != NULL ? (size_t)(slash - place->path) : 0;
    return 0;
}

/* ---- parents ---- */

static int open_beneath(const struct lz_unpacker *self, int dir, const char *path)
{
    return lz_openat_beneath(self->sys, dir, path, O_PATH | O_DIRECTORY, 0);
}

static int fail_parent(const struct lz_unpacker *self, const char *path, int code)
{
    if (code == -ELOOP || code == -EXDEV)
        return lz_fail(self->detail, LZ_E_UNSAFE, "%s: a parent directory is a symlink", path);
    return lz_fail(self->detail, code, "%s: opening the parent directory: %s", path, lz_error_text(code));
}

/* Opens the directory of `size` bytes of `path`, one component after the other, and makes what is missing. */
static int make_parents(const struct lz_unpacker *self, const char *path, size_t size)
{
    char name[LZ_NAME_MAX + 1];
    int dir = self->dir_fd;
    for (size_t at = 0; at < size;) {
        const char *slash = memchr(path + at, '/', size - at);
        size_t length = slash != NULL ? (size_t)(slash - path) - at : size - at;
        memcpy(name, path + at, length); /* lz_path_clean() bounds names */
        name[length] = 0;
        at += length + 1;
        int rc = self->sys->mkdirat(self->sys->ctx, dir, name, 0755);
        int next = rc == 0 || rc == -EEXIST ? open_beneath(self, dir, name) : rc;
        if (dir != self->dir_fd)
            (void)self->sys->close(self->sys->ctx, dir);
        if (next < 0)
            return next;
        dir = next;
    }
    return dir;
}

static void forget_parent(struct lz_unpacker *self)
{
    if (self->parent_fd >= 0 && self->parent_fd != self->dir_fd)
        (void)self->sys->close(self->sys->ctx, self->parent_fd);
    self->parent_fd = -1;
}

/* Makes self->parent_fd the directory of `place`. The last one is kept open: neighbours follow one another. */
static int enter_parent(struct lz_unpacker *self, const struct place *place)
{
    if (self->parent_fd >= 0 && self->parent_size == place->parent_size &&
        memcmp(self->parent, place->path, place->parent_size) == 0)
        return 0;
    forget_parent(self);
    memcpy(self->parent, place->path, place->parent_size);
    self->parent[place->parent_size] = 0;
    self->parent_size = place->parent_size;
    int fd = self->dir_fd;
    if (place->parent_size > 0) {
        fd = open_beneath(self, self->dir_fd, self->parent);
        if (fd == -ENOENT)
            fd = make_parents(self, self->parent, self->parent_size);
    }
    if (fd < 0)
        return fail_parent(self, place->path, fd);
    self->parent_fd = fd;
    return 0;
}

/* ---- hard links ---- */

static int same_file(const struct lz_unpacker *self, int target_dir, const char *target, const char *name)
{
    struct stat a, b;
    int rc = self->sys->fstatat(self->sys->ctx, target_dir, target, &a, AT_SYMLINK_NOFOLLOW);
    if (rc == 0)
        rc = self->sys->fstatat(self->sys->ctx, self->parent_fd, name, &b, AT_SYMLINK_NOFOLLOW);
    if (rc == 0 && S_ISDIR(a.st_mode))
        return -EPERM; /* as link() says; before what is in the way goes */
    return rc != 0 ? rc : a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static int link_to(struct lz_unpacker *self, int target_dir, const struct place *target, const struct place *place)
{
    int rc = self->sys->linkat(self->sys->ctx, target_dir, target->name, self->parent_fd, place->name, 0);
    if (rc != -EEXIST)
        return rc;
    rc = same_file(self, target_dir, target->name, place->name);
    if (rc != 0)
        return rc < 0 ? rc : 0;
    rc = lz_unpack_remove(self, self->parent_fd, place->name, false);
    return rc == 0 ? self->sys->linkat(self->sys->ctx, target_dir, target->name, self->parent_fd, place->name, 0) : rc;
}

static int make_link(struct lz_unpacker *self, const struct lz_tar_entry *entry, const struct place *place)
{
    struct place target;
    int rc = set_place(&target, entry->link, entry->link_size, self->detail);
    if (rc != 0)
        return lz_fail_within(self->detail, rc, "%s: hard link", place->path);
    if (target.size == 0)
        return lz_fail(self->detail, LZ_E_FORMAT, "%s: hard link to the root", place->path);
    int dir = self->dir_fd;
    if (target.parent_size > 0) {
        target.path[target.parent_size] = 0; /* the slash before the name */
        dir = open_beneath(self, self->dir_fd, target.path);
    }
    rc = dir < 0 ? dir : link_to(self, dir, &target, place);
    if (dir >= 0 && dir != self->dir_fd)
        (void)self->sys->close(self->sys->ctx, dir);
    if (rc == -ELOOP || rc == -EXDEV)
        return lz_fail(self->detail, LZ_E_UNSAFE, "%s: hard link to %s, which lies behind a symlink or a mount",
                       place->path, entry->link);
    return rc == 0 ? 0
                   : lz_fail(self->detail, rc, "%s: hard link to %s: %s", place->path, entry->link, lz_error_text(rc));
}

/* ---- entries ---- */

static int make_root(struct lz_unpacker *self, const struct lz_tar_entry *entry)
{
    if (entry->type != LZ_TAR_DIRECTORY)
        return lz_fail(self->detail, LZ_E_FORMAT, "'%s': the root of the archive is not a directory", entry->path);
    return lz_unpack_defer(self, "", 0, entry);
}

static int unpack_entry(struct lz_unpacker *self, struct lz_tar_reader *reader, const struct lz_tar_entry *entry)
{
    struct place place;
    int rc = set_place(&place, entry->path, entry->path_size, self->detail);
    if (rc == 0)
        rc = lz_unpack_check_xattrs(self, entry);
    if (rc != 0)
        return rc;
    if (place.size == 0)
        return make_root(self, entry);
    rc = enter_parent(self, &place);
    if (rc != 0)
        return rc;
    switch (entry->type) {
    case LZ_TAR_HARDLINK:
        return make_link(self, entry, &place);
    case LZ_TAR_DIRECTORY:
        rc = lz_unpack_directory(self, self->parent_fd, place.name, place.path);
        return rc == 0 ? lz_unpack_defer(self, place.path, place.size, entry) : rc;
    case LZ_TAR_FILE:
        return lz_unpack_file(self, self->parent_fd, place.name, place.path, entry, reader);
    default:
        return lz_unpack_special(self, self->parent_fd, place.name, place.path, entry);
    }
}

/* ---- directories get their attributes last, children before parents ---- */

static int finish_directories(struct lz_unpacker *self, struct lz_pace *pace)
{
    lz_unpack_sort_deferred(self);
    int rc = 0;
    for (size_t i = 0; i < self->deferred_count && rc == 0; i++) {
        const char *path = self->deferred[i].path;
        rc = lz_pace_on(pace, 1, 0);
        if (rc != 0)
            return rc;
        int fd = lz_openat_beneath(self->sys, self->dir_fd, path, O_RDONLY | O_DIRECTORY, 0);
        if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP) /* a later entry replaced it */
            continue;
        if (fd < 0)
            return fail_parent(self, path, fd);
        rc = lz_unpack_finish_directory(self, fd, &self->deferred[i]);
        (void)self->sys->close(self->sys->ctx, fd);
    }
    return rc;
}

static int unpack_all(struct lz_unpacker *self, struct lz_tar_reader *reader, struct lz_pace *pace, uint64_t *count)
{
    struct lz_tar_entry entry;
    int rc;
    while ((rc = lz_tar_next(reader, &entry, self->detail)) == 1) {
        rc = unpack_entry(self, reader, &entry);
        if (rc == 0)
            rc = lz_pace_on(pace, 1, 0);
        if (rc != 0)
            return rc;
        (*count)++;
    }
    return rc == 0 ? finish_directories(self, pace) : rc;
}

int lz_unpack(const struct lz_sys *sys, int in_fd, int dir_fd, const struct lz_unpack_options *options,
              const struct lz_step *step, uint64_t *entries, struct lz_detail *detail)
{
    struct lz_unpacker *self = calloc(1, sizeof *self);
    struct lz_unpack_input input = {.sys = sys, .fd = in_fd, .buffer = malloc(LZ_UNPACK_READ), .pace.step = step};
    struct lz_tar_source source = {.next = lz_unpack_next, .ctx = &input};
    struct lz_tar_reader *reader = NULL;
    uint64_t count = 0;
    int rc = self == NULL || input.buffer == NULL ? -ENOMEM : lz_tar_reader_new(&source, 0, &reader);
    if (rc == 0) {
        self->sys = sys;
        self->options = options;
        self->detail = detail;
        self->dir_fd = dir_fd;
        self->parent_fd = -1;
        rc = unpack_all(self, reader, &input.pace, &count);
        forget_parent(self);
        lz_unpack_free_deferred(self);
    }
    if (rc == 0 && entries != NULL)
        *entries = count;
    lz_tar_reader_free(reader);
    free(input.buffer);
    free(self);
    return rc;
}
