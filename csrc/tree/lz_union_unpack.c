#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "../bytes/lz_tar.h"
#include "lz_tree.h"
#include "lz_union_internal.h"
#include "lz_union_tar.h"
#include "lz_unpack_node.h"

struct unpacking {
    struct lz_union *self;
    const struct lz_unpack_options *options;
    struct lz_detail *detail;
    char top[LZ_PATH_MAX + 1]; /* canonical path of the target */
    size_t top_size;
    char path[2 * LZ_PATH_MAX + 2]; /* of the entry at hand, in the union */
    size_t path_size;
    char parent[LZ_PATH_MAX + 1]; /* the last parent that was found to be a directory and no symlink */
    size_t parent_size;
    bool has_parent;
    struct lz_unpacker plain; /* what unpacking into a directory has, too: checks, and the list of directories */
};

static int fail(struct unpacking *u, const char *what, int rc)
{
    return lz_fail(u->detail, rc, "/%s: %s: %s", u->path, what, lz_error_text(rc));
}

/* ---- paths ---- */

/* Puts target and the archive's spelling together. */
static int set_path(struct unpacking *u, const char *spelling, size_t size)
{
    char clean[LZ_PATH_MAX + 1];
    int rc = lz_path_clean(spelling, size, clean, u->detail);
    if (rc < 0)
        return rc;
    memcpy(u->path, u->top, u->top_size);
    u->path_size = u->top_size;
    if (rc > 0 && u->path_size > 0)
        u->path[u->path_size++] = '/';
    memcpy(u->path + u->path_size, clean, (size_t)rc + 1);
    u->path_size += (size_t)rc;
    return u->path_size <= LZ_PATH_MAX ? 0 : lz_fail(u->detail, -ENAMETOOLONG, "/%s: the path is too long", u->path);
}

static size_t parent_size(const struct unpacking *u)
{
    const char *slash = memrchr(u->path, '/', u->path_size);
    return slash != NULL ? (size_t)(slash - u->path) : 0;
}

/* The directories above the entry, from the target on; none may be a symlink. `make`: those that are missing are made. */
static int enter_parents(struct unpacking *u, bool make)
{
    size_t end = parent_size(u);
    if (u->has_parent && u->parent_size == end && memcmp(u->parent, u->path, end) == 0)
        return 0;
    for (size_t at = u->top_size; at < end;) {
        const char *slash = memchr(u->path + at + 1, '/', end - at - 1);
        at = slash != NULL ? (size_t)(slash - u->path) : end;
        struct lz_union_info info;
        int rc = lz_union_stat(u->self, u->path, at, LZ_UNION_NOFOLLOW, &info);
        if (rc == -ENOENT && make)
            rc = lz_union_mkdir(u->self, u->path, at, 0755);
        else if (rc == 0 && info.kind == LZ_KIND_SYMLINK)
            return lz_fail(u->detail, LZ_E_UNSAFE, "/%s: a parent directory is a symlink", u->path);
        else if (rc == 0 && info.kind != LZ_KIND_DIRECTORY)
            rc = -ENOTDIR;
        if (rc != 0)
            return fail(u, "a parent directory", rc);
    }
    memcpy(u->parent, u->path, end);
    u->parent_size = end;
    u->has_parent = true;
    return 0;
}

/* Removes what is in the way of the entry, `directory` says of what type that will be. 1: a directory that stays. */
static int make_room(struct unpacking *u, bool directory)
{
    struct lz_union_info info;
    int rc = lz_union_stat(u->self, u->path, u->path_size, LZ_UNION_NOFOLLOW, &info);
    if (rc != 0)
        return rc == -ENOENT ? 0 : fail(u, "looking", rc);
    bool is_directory = info.kind == LZ_KIND_DIRECTORY;
    if (directory && is_directory)
        return 1;
    if (u->options->no_replace_directory && directory != is_directory)
        return fail(u, "replacing it", directory ? -ENOTDIR : -EISDIR);
    u->has_parent = false; /* a parent might have been a name of what goes */
    rc =
        is_directory ? lz_union_rmdir(u->self, u->path, u->path_size) : lz_union_unlink(u->self, u->path, u->path_size);
    return rc == 0 ? 0 : fail(u, "replacing it", rc);
}

/* ---- attributes ---- */

static int set_attributes(struct unpacking *u, const struct lz_deferred *as, uint8_t kind)
{
    const char *path = u->path;
    size_t size = u->path_size;
    int rc = u->options->keep_owner ? lz_union_chown(u->self, path, size, LZ_UNION_NOFOLLOW, as->uid, as->gid) : 0;
    if (rc != 0)
        return fail(u, "setting the owner", rc);
    /* After chown, which drops set-id bits and capabilities. */
    for (size_t i = 0; i < as->xattr_count; i++) {
        const struct lz_tar_xattr *xattr = &as->xattrs[i];
        if (!lz_unpack_keeps(u->options, xattr->name))
            continue;
        rc = lz_union_setxattr(u->self, path, size, LZ_UNION_NOFOLLOW, xattr->name, xattr->value, xattr->value_size, 0);
        if (rc != 0)
            return fail(u, xattr->name, rc);
    }
    uint32_t mode = lz_unpack_mode(u->options, as->mode, kind == LZ_KIND_DIRECTORY);
    rc = kind == LZ_KIND_SYMLINK ? 0 : lz_union_chmod(u->self, path, size, LZ_UNION_NOFOLLOW, mode);
    if (rc != 0)
        return fail(u, "setting the mode", rc);
    struct timespec time = {.tv_sec = as->mtime, .tv_nsec = as->mtime_nsec};
    rc = lz_union_utimens(u->self, path, size, LZ_UNION_NOFOLLOW, (struct timespec[2]){time, time});
    return rc == 0 ? 0 : fail(u, "setting times", rc);
}

static int set_entry_attributes(struct unpacking *u, const struct lz_tar_entry *entry)
{
    struct lz_deferred as = {.mode = entry->mode,
                             .uid = entry->uid,
                             .gid = entry->gid,
                             .mtime = entry->mtime,
                             .mtime_nsec = entry->mtime_nsec,
                             .xattrs = (struct lz_tar_xattr *)entry->xattrs,
                             .xattr_count = entry->xattr_count};
    return set_attributes(u, &as, entry->type == LZ_TAR_SYMLINK ? LZ_KIND_SYMLINK : LZ_KIND_FILE);
}

/* ---- entries ---- */

static int put_bytes(void *ctx, const uint8_t *data, size_t size, uint64_t offset)
{
    while (size > 0) {
        ssize_t put = lz_union_file_write(ctx, data, size, offset);
        if (put <= 0)
            return put < 0 ? (int)put : -EIO;
        data += put;
        size -= (size_t)put;
        offset += (uint64_t)put;
    }
    return 0;
}

static int write_content(struct unpacking *u, struct lz_union_file *file, const struct lz_tar_entry *entry,
                         struct lz_tar_reader *reader)
{
    char path[2 * LZ_PATH_MAX + 3] = "/"; /* as the messages of this file have it */
    memcpy(path + 1, u->path, u->path_size + 1);
    int rc = lz_unpack_content(reader, entry, path, put_bytes, file, u->detail);
    if (rc == 0 && entry->extents != NULL && (rc = lz_union_file_truncate(file, entry->size)) != 0)
        rc = fail(u, "setting the size", rc);
    return rc;
}

static int make_file(struct unpacking *u, const struct lz_tar_entry *entry, struct lz_tar_reader *reader)
{
    struct lz_union_file *file;
    int rc = make_room(u, false);
    if (rc != 0)
        return rc;
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
    rc = lz_union_open(u->self, u->path, u->path_size, flags, 0600, &file, u->detail);
    if (rc != 0)
        return fail(u, "making the file", rc);
    rc = write_content(u, file, entry, reader);
    lz_union_file_close(file);
    if (rc == 0)
        rc = set_entry_attributes(u, entry);
    if (rc != 0) /* no half of a file stays */
        (void)lz_union_unlink(u->self, u->path, u->path_size);
    return rc;
}

static int make_directory(struct unpacking *u, const struct lz_tar_entry *entry)
{
    int rc = u->path_size > u->top_size ? make_room(u, true) : 1;
    if (rc == 0 && (rc = lz_union_mkdir(u->self, u->path, u->path_size, 0700)) != 0)
        return fail(u, "making the directory", rc);
    return rc < 0 ? rc : lz_unpack_defer(&u->plain, u->path, u->path_size, entry);
}

static int make_special(struct unpacking *u, const struct lz_tar_entry *entry)
{
    int rc = make_room(u, false);
    if (rc != 0)
        return rc;
    dev_t device = makedev(entry->major, entry->minor);
    switch (entry->type) {
    case LZ_TAR_SYMLINK:
        rc = lz_union_symlink(u->self, entry->link, entry->link_size, u->path, u->path_size);
        break;
    case LZ_TAR_CHAR:
        rc = lz_union_mknod(u->self, u->path, u->path_size, S_IFCHR | 0600, device);
        break;
    case LZ_TAR_BLOCK_DEVICE:
        rc = lz_union_mknod(u->self, u->path, u->path_size, S_IFBLK | 0600, device);
        break;
    default:
        rc = lz_union_mknod(u->self, u->path, u->path_size, S_IFIFO | 0600, 0);
    }
    return rc == 0 ? set_entry_attributes(u, entry) : fail(u, "making it", rc);
}

static int make_link(struct unpacking *u, const struct lz_tar_entry *entry)
{
    char path[LZ_PATH_MAX + 1];
    size_t path_size = u->path_size;
    memcpy(path, u->path, path_size + 1);
    int rc = set_path(u, entry->link, entry->link_size);
    if (rc == 0)
        rc = enter_parents(u, false);
    if (rc != 0)
        return lz_fail_within(u->detail, rc, "/%s: hard link", path);
    char target[LZ_PATH_MAX + 1];
    size_t target_size = u->path_size;
    memcpy(target, u->path, target_size + 1);
    memcpy(u->path, path, path_size + 1);
    u->path_size = path_size;
    struct lz_union_info from, to;
    rc = lz_union_stat(u->self, target, target_size, LZ_UNION_NOFOLLOW, &from);
    if (rc == 0 && from.kind == LZ_KIND_DIRECTORY)
        rc = -EPERM; /* as link() says; before what is in the way goes */
    if (rc == 0 && lz_union_stat(u->self, path, path_size, LZ_UNION_NOFOLLOW, &to) == 0 && from.device == to.device &&
        from.number == to.number)
        return 0;
    if (rc == 0 && (rc = make_room(u, false)) != 0)
        return rc;
    if (rc == 0)
        rc = lz_union_link(u->self, target, target_size, path, path_size);
    return rc == 0 ? 0 : lz_fail(u->detail, rc, "/%s: hard link to %s: %s", path, entry->link, lz_error_text(rc));
}

static int make_entry(struct unpacking *u, struct lz_tar_reader *reader, const struct lz_tar_entry *entry)
{
    int rc = set_path(u, entry->path, entry->path_size);
    if (rc == 0)
        rc = lz_unpack_check_xattrs(&u->plain, entry);
    if (rc == 0 && u->path_size == u->top_size && entry->type != LZ_TAR_DIRECTORY)
        rc = lz_fail(u->detail, LZ_E_FORMAT, "'%s': the root of the archive is not a directory", entry->path);
    if (rc == 0 && u->path_size > u->top_size)
        rc = enter_parents(u, true);
    if (rc != 0)
        return rc;
    switch (entry->type) {
    case LZ_TAR_HARDLINK:
        return make_link(u, entry);
    case LZ_TAR_DIRECTORY:
        return make_directory(u, entry);
    case LZ_TAR_FILE:
        return make_file(u, entry, reader);
    default:
        return make_special(u, entry);
    }
}

/* Directories get their attributes last, children before parents. */
static int finish_directories(struct unpacking *u, struct lz_pace *pace)
{
    lz_unpack_sort_deferred(&u->plain);
    int rc = 0;
    for (size_t i = 0; i < u->plain.deferred_count && rc == 0; i++) {
        const struct lz_deferred *directory = &u->plain.deferred[i];
        struct lz_union_info info;
        rc = lz_pace_on(pace, 1, 0);
        if (rc != 0)
            return rc;
        memcpy(u->path, directory->path, directory->path_size + 1);
        u->path_size = directory->path_size;
        rc = lz_union_stat(u->self, u->path, u->path_size, LZ_UNION_NOFOLLOW, &info);
        if (rc == -ENOENT || rc == -ENOTDIR || (rc == 0 && info.kind != LZ_KIND_DIRECTORY)) /* was replaced */
            rc = 0;
        else
            rc = rc == 0 ? set_attributes(u, directory, LZ_KIND_DIRECTORY) : fail(u, "looking", rc);
    }
    return rc;
}

static int unpack_all(struct unpacking *u, struct lz_tar_reader *reader, struct lz_pace *pace, uint64_t *count)
{
    struct lz_tar_entry entry;
    int rc;
    while ((rc = lz_tar_next(reader, &entry, u->detail)) == 1) {
        rc = make_entry(u, reader, &entry);
        if (rc == 0)
            rc = lz_pace_on(pace, 1, 0);
        if (rc != 0)
            return rc;
        (*count)++;
    }
    return rc == 0 ? finish_directories(u, pace) : rc;
}

static int find_top(struct unpacking *u, const char *path, size_t size)
{
    struct lz_union_info info;
    int rc = lz_union_stat(u->self, path, size, 0, &info);
    if (rc == 0 && info.kind != LZ_KIND_DIRECTORY)
        rc = -ENOTDIR;
    ssize_t top = rc == 0 ? lz_union_realpath(u->self, path, size, u->top) : rc;
    if (top < 0)
        return lz_fail(u->detail, (int)top, "%.*s: %s", (int)size, path, lz_error_text((int)top));
    u->top_size = (size_t)top;
    return 0;
}

int lz_union_unpack(struct lz_union *self, int in_fd, const char *path, size_t size,
                    const struct lz_unpack_options *options, const struct lz_step *step, uint64_t *entries,
                    struct lz_detail *detail)
{
    struct unpacking *u = calloc(1, sizeof *u);
    struct lz_unpack_input input = {.sys = self->sys, .fd = in_fd, .buffer = malloc(LZ_UNPACK_READ), .pace.step = step};
    struct lz_tar_source source = {.next = lz_unpack_next, .ctx = &input};
    struct lz_tar_reader *reader = NULL;
    uint64_t count = 0;
    int rc = u == NULL || input.buffer == NULL ? -ENOMEM : lz_tar_reader_new(&source, 0, &reader);
    if (rc == 0) {
        u->self = self;
        u->options = options;
        u->detail = detail;
        u->plain = (struct lz_unpacker){.sys = self->sys, .options = options, .detail = detail};
        rc = find_top(u, path, size);
        if (rc == 0)
            rc = unpack_all(u, reader, &input.pace, &count);
        lz_unpack_free_deferred(&u->plain);
    }
    if (rc == 0 && entries != NULL)
        *entries = count;
    lz_tar_reader_free(reader);
    free(input.buffer);
    free(u);
    return rc;
}
