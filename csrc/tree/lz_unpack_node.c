#include "lz_unpack_node.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

static int fail(const struct lz_unpacker *self, const char *path, int code, const char *what)
{
    return lz_fail(self->detail, code, "%s: %s: %s", path, what, lz_error_text(code));
}

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

int lz_unpack_next(void *input, const uint8_t **data, size_t *size)
{
    struct lz_unpack_input *self = input;
    int rc = lz_step_wait(self->sys, self->pace.step, self->fd, -1);
    if (rc != 0)
        return rc;
    ssize_t got = self->sys->read(self->sys->ctx, self->fd, self->buffer, LZ_UNPACK_READ);
    if (got <= 0)
        return (int)got;
    *data = self->buffer;
    *size = (size_t)got;
    rc = lz_pace_on(&self->pace, 0, (uint64_t)got);
    return rc != 0 ? rc : 1;
}

int lz_unpack_check_xattrs(const struct lz_unpacker *self, const struct lz_tar_entry *entry)
{
    for (size_t i = 0; self->options->keep_xattrs && i < entry->xattr_count; i++) {
        const char *name = entry->xattrs[i].name;
        if (starts_with(name, "trusted.overlay.") || starts_with(name, "user.overlay."))
            return lz_fail(self->detail, LZ_E_UNSAFE, "%s: the archive sets %s, which is overlayfs' own", entry->path,
                           name);
    }
    return 0;
}

/* ---- attributes ---- */

uint32_t lz_unpack_mode(const struct lz_unpack_options *options, uint32_t mode, bool directory)
{
    return options->keep_owner || directory ? mode : mode & ~(uint32_t)(S_ISUID | S_ISGID);
}

bool lz_unpack_keeps(const struct lz_unpack_options *options, const char *xattr)
{
    return options->keep_xattrs && (options->keep_owner || strcmp(xattr, "security.capability") != 0);
}

/* chmod through the descriptor, also of an O_PATH one: fchmodat() by name would follow a symlink. */
static int change_mode(const struct lz_unpacker *self, int fd, uint32_t mode)
{
    char path[40];
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return self->sys->fchmodat(self->sys->ctx, AT_FDCWD, path, mode);
}

static int set_xattrs(const struct lz_unpacker *self, int dir, const char *name, const struct lz_tar_xattr *xattrs,
                      size_t count, const char *path)
{
    for (size_t i = 0; i < count; i++) {
        if (!lz_unpack_keeps(self->options, xattrs[i].name))
            continue;
        int rc =
            self->sys->setxattrat(self->sys->ctx, dir, name, xattrs[i].name, xattrs[i].value, xattrs[i].value_size);
        if (rc != 0)
            return fail(self, path, rc, xattrs[i].name);
    }
    return 0;
}

static int set_times(const struct lz_unpacker *self, int dir, const char *name, int64_t mtime, uint32_t nsec,
                     const char *path)
{
    struct timespec times[2] = {{.tv_sec = mtime, .tv_nsec = nsec}, {.tv_sec = mtime, .tv_nsec = nsec}};
    int flags = name[0] == 0 ? AT_EMPTY_PATH : AT_SYMLINK_NOFOLLOW;
    int rc = self->sys->utimensat(self->sys->ctx, dir, name, times, flags);
    return rc == 0 ? 0 : fail(self, path, rc, "setting times");
}

static int set_owner(const struct lz_unpacker *self, int dir, const char *name, uint32_t uid, uint32_t gid,
                     const char *path)
{
    if (!self->options->keep_owner)
        return 0;
    int flags = name[0] == 0 ? AT_EMPTY_PATH : AT_SYMLINK_NOFOLLOW;
    int rc = self->sys->fchownat(self->sys->ctx, dir, name, uid, gid, flags);
    return rc == 0 ? 0 : fail(self, path, rc, "setting the owner");
}

/* ---- what is in the way ---- */

int lz_unpack_remove(const struct lz_unpacker *self, int parent, const char *name, bool directory)
{
    struct stat info;
    int rc = self->sys->fstatat(self->sys->ctx, parent, name, &info, AT_SYMLINK_NOFOLLOW);
    if (rc != 0)
        return rc == -ENOENT ? 0 : rc;
    if (self->options->no_replace_directory && S_ISDIR(info.st_mode) != directory)
        return directory ? -ENOTDIR : -EISDIR;
    return self->sys->unlinkat(self->sys->ctx, parent, name, S_ISDIR(info.st_mode) ? AT_REMOVEDIR : 0);
}

int lz_unpack_directory(struct lz_unpacker *self, int parent, const char *name, const char *path)
{
    struct stat info;
    int rc = self->sys->mkdirat(self->sys->ctx, parent, name, 0700);
    if (rc == -EEXIST) {
        rc = self->sys->fstatat(self->sys->ctx, parent, name, &info, AT_SYMLINK_NOFOLLOW);
        if (rc == 0 && S_ISDIR(info.st_mode))
            return 0;
        if (rc == 0)
            rc = lz_unpack_remove(self, parent, name, true);
        if (rc == 0)
            rc = self->sys->mkdirat(self->sys->ctx, parent, name, 0700);
    }
    return rc == 0 ? 0 : fail(self, path, rc, "making the directory");
}

/* ---- files ---- */

#define ASIDE_SIZE 32

/* Makes a file under its name where that is free, else beside it: what has the name keeps it until the new one is whole.
 * `made` becomes the name that it was made under, perhaps in `aside`. Whatever takes the name meanwhile is replaced: two
 * copies at once, of which the last one stays. */
static int create_file(const struct lz_unpacker *self, int parent, const char **made, char aside[ASIDE_SIZE])
{
    const char *name = *made;
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
    int fd = self->sys->openat(self->sys->ctx, parent, name, flags, 0600);
    if (fd != -EEXIST)
        return fd;
    struct stat info;
    int rc = self->sys->fstatat(self->sys->ctx, parent, name, &info, AT_SYMLINK_NOFOLLOW);
    if (rc == 0 && S_ISDIR(info.st_mode))
        rc = lz_unpack_remove(self, parent, name, false);
    if (rc != 0 && rc != -ENOENT)
        return rc;
    uint64_t number;
    ssize_t got = self->sys->getrandom(self->sys->ctx, &number, sizeof number);
    if (got != (ssize_t)sizeof number)
        return got < 0 ? (int)got : -EIO;
    (void)snprintf(aside, ASIDE_SIZE, ".lz-partial-%016llx", (unsigned long long)number);
    *made = aside;
    return self->sys->openat(self->sys->ctx, parent, aside, flags, 0600);
}

/* Removes a file that did not come whole, unless another has taken its name. */
static void remove_file(const struct lz_unpacker *self, int parent, const char *made, const struct stat *file)
{
    struct stat now;
    int rc = self->sys->fstatat(self->sys->ctx, parent, made, &now, AT_SYMLINK_NOFOLLOW);
    if (rc == 0 && now.st_dev == file->st_dev && now.st_ino == file->st_ino)
        (void)self->sys->unlinkat(self->sys->ctx, parent, made, 0);
}

int lz_unpack_content(struct lz_tar_reader *reader, const struct lz_tar_entry *entry, const char *path,
                      int (*put)(void *ctx, const uint8_t *data, size_t size, uint64_t offset), void *ctx,
                      struct lz_detail *detail)
{
    struct lz_tar_extent whole = {.size = entry->stored_size}; /* of a file without holes */
    const struct lz_tar_extent *extents = entry->extents != NULL ? entry->extents : &whole;
    size_t count = entry->extents != NULL ? entry->extent_count : 1, i = 0;
    uint64_t done = 0; /* of extents[i] */
    const uint8_t *data;
    size_t size;
    int rc;
    while ((rc = lz_tar_read(reader, &data, &size, detail)) == 1) {
        while (size > 0) {
            for (; i < count && done == extents[i].size; i++)
                done = 0;
            if (i == count)
                return lz_fail(detail, LZ_E_FORMAT, "%s: more data than its sparse map says", path);
            size_t piece = size < extents[i].size - done ? size : (size_t)(extents[i].size - done);
            rc = put(ctx, data, piece, extents[i].offset + done);
            if (rc != 0)
                return lz_fail(detail, rc, "%s: writing: %s", path, lz_error_text(rc));
            data += piece;
            size -= piece;
            done += piece;
        }
    }
    return rc;
}

struct file {
    const struct lz_sys *sys;
    int fd;
};

static int put_bytes(void *ctx, const uint8_t *data, size_t size, uint64_t offset)
{
    const struct file *file = ctx;
    return lz_pwrite_all(file->sys, file->fd, data, size, (off_t)offset);
}

static int write_content(const struct lz_unpacker *self, int fd, const char *path, const struct lz_tar_entry *entry,
                         struct lz_tar_reader *reader)
{
    struct file file = {.sys = self->sys, .fd = fd};
    int rc = lz_unpack_content(reader, entry, path, put_bytes, &file, self->detail);
    if (rc != 0 || entry->extents == NULL)
        return rc;
    rc = self->sys->ftruncate(self->sys->ctx, fd, (off_t)entry->size);
    return rc == 0 ? 0 : fail(self, path, rc, "setting the size");
}

static int fill_file(const struct lz_unpacker *self, int fd, const char *path, const struct lz_tar_entry *entry,
                     struct lz_tar_reader *reader)
{
    int rc = write_content(self, fd, path, entry, reader);
    if (rc == 0)
        rc = set_owner(self, fd, "", entry->uid, entry->gid, path);
    if (rc == 0) /* after chown, which drops set-id bits and capabilities */
        rc = set_xattrs(self, fd, "", entry->xattrs, entry->xattr_count, path);
    if (rc == 0 && (rc = change_mode(self, fd, lz_unpack_mode(self->options, entry->mode, false))) != 0)
        rc = fail(self, path, rc, "setting the mode");
    return rc == 0 ? set_times(self, fd, "", entry->mtime, entry->mtime_nsec, path) : rc;
}

int lz_unpack_file(struct lz_unpacker *self, int parent, const char *name, const char *path,
                   const struct lz_tar_entry *entry, struct lz_tar_reader *reader)
{
    struct stat info = {0};
    const char *made = name;
    char aside[ASIDE_SIZE];
    int fd = create_file(self, parent, &made, aside);
    if (fd < 0)
        return fail(self, path, fd, "making the file");
    int rc = fill_file(self, fd, path, entry, reader);
    int known = self->sys->fstatat(self->sys->ctx, fd, "", &info, AT_EMPTY_PATH);
    int closed = self->sys->close(self->sys->ctx, fd);
    if (rc == 0 && closed != 0)
        rc = fail(self, path, closed, "closing");
    if (rc == 0 && made != name && (rc = self->sys->renameat2(self->sys->ctx, parent, made, parent, name, 0)) != 0)
        rc = fail(self, path, rc, "replacing what was there");
    if (rc != 0 && known == 0)
        remove_file(self, parent, made, &info);
    return rc;
}

/* ---- symlinks, devices, fifos ---- */

static int make_special(const struct lz_unpacker *self, int parent, const char *name, const struct lz_tar_entry *entry)
{
    switch (entry->type) {
    case LZ_TAR_SYMLINK:
        return self->sys->symlinkat(self->sys->ctx, entry->link, parent, name);
    case LZ_TAR_CHAR:
        return self->sys->mknodat(self->sys->ctx, parent, name, S_IFCHR | 0600, makedev(entry->major, entry->minor));
    case LZ_TAR_BLOCK_DEVICE:
        return self->sys->mknodat(self->sys->ctx, parent, name, S_IFBLK | 0600, makedev(entry->major, entry->minor));
    default:
        return self->sys->mknodat(self->sys->ctx, parent, name, S_IFIFO | 0600, 0);
    }
}

static int change_special_mode(const struct lz_unpacker *self, int parent, const char *name, uint32_t mode)
{
    int fd = self->sys->openat(self->sys->ctx, parent, name, O_PATH | O_NOFOLLOW, 0);
    if (fd < 0)
        return fd;
    int rc = change_mode(self, fd, mode);
    (void)self->sys->close(self->sys->ctx, fd);
    return rc;
}

int lz_unpack_special(struct lz_unpacker *self, int parent, const char *name, const char *path,
                      const struct lz_tar_entry *entry)
{
    int rc = make_special(self, parent, name, entry);
    if (rc == -EEXIST) {
        rc = lz_unpack_remove(self, parent, name, false);
        if (rc == 0)
            rc = make_special(self, parent, name, entry);
    }
    if (rc != 0)
        return fail(self, path, rc, "making it");
    rc = set_owner(self, parent, name, entry->uid, entry->gid, path);
    if (rc == 0)
        rc = set_xattrs(self, parent, name, entry->xattrs, entry->xattr_count, path);
    uint32_t mode = lz_unpack_mode(self->options, entry->mode, false);
    if (rc == 0 && entry->type != LZ_TAR_SYMLINK && (rc = change_special_mode(self, parent, name, mode)) != 0)
        rc = fail(self, path, rc, "setting the mode");
    return rc == 0 ? set_times(self, parent, name, entry->mtime, entry->mtime_nsec, path) : rc;
}

/* ---- deferred attributes of directories ---- */

static int copy_xattrs(struct lz_deferred *deferred, const struct lz_tar_entry *entry)
{
    size_t size = 0;
    for (size_t i = 0; i < entry->xattr_count; i++)
        size += entry->xattrs[i].name_size + 1 + entry->xattrs[i].value_size; /* bounded by the reader's max_header */
    uint8_t *at = malloc(entry->xattr_count * sizeof *deferred->xattrs + size);
    if (at == NULL)
        return -ENOMEM;
    deferred->xattrs = (struct lz_tar_xattr *)(void *)at;
    deferred->xattr_count = entry->xattr_count;
    at += entry->xattr_count * sizeof *deferred->xattrs;
    for (size_t i = 0; i < entry->xattr_count; i++) {
        struct lz_tar_xattr *xattr = &deferred->xattrs[i];
        *xattr = entry->xattrs[i];
        xattr->name = memcpy(at, xattr->name, xattr->name_size);
        at[xattr->name_size] = 0;
        at += xattr->name_size + 1;
        if (xattr->value_size > 0)
            memcpy(at, xattr->value, xattr->value_size);
        xattr->value = at;
        at += xattr->value_size;
    }
    return 0;
}

int lz_unpack_defer(struct lz_unpacker *self, const char *path, size_t size, const struct lz_tar_entry *entry)
{
    void *items = self->deferred;
    int rc = lz_grow(&items, &self->deferred_capacity, self->deferred_count + 1, sizeof *self->deferred);
    if (rc != 0)
        return rc;
    self->deferred = items;
    struct lz_deferred deferred = {.path_size = size,
                                   .order = self->deferred_count,
                                   .mode = entry->mode,
                                   .uid = entry->uid,
                                   .gid = entry->gid,
                                   .mtime = entry->mtime,
                                   .mtime_nsec = entry->mtime_nsec,
                                   .path = malloc(size + 1)};
    if (deferred.path == NULL)
        return -ENOMEM;
    memcpy(deferred.path, path, size);
    deferred.path[size] = 0;
    rc = self->options->keep_xattrs && entry->xattr_count > 0 ? copy_xattrs(&deferred, entry) : 0;
    if (rc != 0) {
        free(deferred.path);
        return rc;
    }
    self->deferred[self->deferred_count++] = deferred;
    return 0;
}

/* Descending by path puts `a/b` before `a`; the later of two equals first. */
static int compare_deferred(const void *a_item, const void *b_item)
{
    const struct lz_deferred *a = a_item, *b = b_item;
    int order = strcmp(b->path, a->path);
    return order != 0 ? order : (a->order < b->order) - (a->order > b->order);
}

static void free_deferred(struct lz_deferred *deferred)
{
    free(deferred->path);
    free(deferred->xattrs);
}

void lz_unpack_sort_deferred(struct lz_unpacker *self)
{
    if (self->deferred_count < 2)
        return;
    qsort(self->deferred, self->deferred_count, sizeof *self->deferred, compare_deferred);
    size_t kept = 1;
    for (size_t i = 1; i < self->deferred_count; i++) {
        if (strcmp(self->deferred[kept - 1].path, self->deferred[i].path) == 0)
            free_deferred(&self->deferred[i]);
        else
            self->deferred[kept++] = self->deferred[i];
    }
    self->deferred_count = kept;
}

int lz_unpack_finish_directory(struct lz_unpacker *self, int fd, const struct lz_deferred *directory)
{
    const char *path = directory->path;
    int rc = set_owner(self, fd, "", directory->uid, directory->gid, path);
    if (rc == 0)
        rc = set_xattrs(self, fd, "", directory->xattrs, directory->xattr_count, path);
    if (rc == 0 && (rc = change_mode(self, fd, directory->mode)) != 0)
        rc = fail(self, path, rc, "setting the mode");
    return rc == 0 ? set_times(self, fd, "", directory->mtime, directory->mtime_nsec, path) : rc;
}

void lz_unpack_free_deferred(struct lz_unpacker *self)
{
    for (size_t i = 0; i < self->deferred_count; i++)
        free_deferred(&self->deferred[i]);
    free(self->deferred);
}
