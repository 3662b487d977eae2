#include "lz_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "lz_copyup.h"
#include "lz_fs.h"
#include "lz_kind.h"
#include "lz_links.h"
#include "lz_walk.h"

#define RETRIES 5

struct copier {
    const struct lz_sys *sys;
    struct lz_detail *detail;
    int from_fd, to_fd;
    struct lz_links links;
    struct lz_copy_result done;
    int parent_fd; /* the directory of the copy that was last written in, `parent`; -1: none yet */
    size_t parent_size;
    char parent[LZ_PATH_MAX + 1];
};

/* Owner, mode, xattrs and time of what `dir` and `name` say; "" is dir itself. In this order: a change of owner clears
 * set-user-ID bits and capabilities. A symlink has no mode. By name where there is one: a descriptor's mode goes through
 * /proc, which is slower, and the copy is ours alone. What `made` (NULL: nothing is known) shows as right is left: each
 * change is a transaction of the file system. */
static int set_attributes(const struct copier *self, const struct lz_walk_node *node, int dir, const char *name,
                          const struct stat *made)
{
    const struct lz_sys *sys = self->sys;
    int flags = name[0] == 0 ? AT_EMPTY_PATH : AT_SYMLINK_NOFOLLOW;
    bool owned = made != NULL && made->st_uid == node->uid && made->st_gid == node->gid;
    bool moded = made != NULL && (made->st_mode & 07777) == node->mode;
    int rc = owned ? 0 : sys->fchownat(sys->ctx, dir, name, node->uid, node->gid, flags);
    if (rc >= 0 && name[0] == 0) {
        char path[LZ_FD_PATH_SIZE];
        lz_fd_path(dir, path);
        rc = sys->fchmodat(sys->ctx, AT_FDCWD, path, node->mode);
    } else if (rc >= 0 && !moded && node->kind != LZ_KIND_SYMLINK) {
        rc = sys->fchmodat(sys->ctx, dir, name, node->mode);
    }
    for (size_t i = 0; rc >= 0 && i < node->xattr_count; i++) {
        const struct lz_tar_xattr *xattr = &node->xattrs[i];
        rc = sys->setxattrat(sys->ctx, dir, name, xattr->name, xattr->value, xattr->value_size);
    }
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = node->mtime, .tv_nsec = (long)node->mtime_nsec}};
    return rc < 0 ? rc : sys->utimensat(sys->ctx, dir, name, times, flags);
}

/* btrfs: a file or directory whose blocks are written in place (chattr +C), as databases want it. A file must have it
 * while it is empty, and shares blocks only with its like. Where there is no such thing, or it cannot be kept, no matter. */
static void keep_in_place(const struct copier *self, int from, int to)
{
    const struct lz_sys *sys = self->sys;
    unsigned flags = 0, own = 0;
    if (sys->ioctl(sys->ctx, from, FS_IOC_GETFLAGS, (uintptr_t)&flags) < 0 || (flags & FS_NOCOW_FL) == 0 ||
        sys->ioctl(sys->ctx, to, FS_IOC_GETFLAGS, (uintptr_t)&own) < 0)
        return;
    own |= FS_NOCOW_FL;
    (void)sys->ioctl(sys->ctx, to, FS_IOC_SETFLAGS, (uintptr_t)&own);
}

/* ---- files ---- */

/* A descriptor to read the file; -ENOENT when the name is gone, or is no file any more. */
static int open_source(const struct copier *self, const struct lz_walk_node *node, struct stat *info)
{
    const struct lz_sys *sys = self->sys;
    int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    int fd = lz_openat_beneath(sys, node->dir_fd, node->name, flags, RESOLVE_NO_XDEV);
    if (fd < 0)
        return fd == -ELOOP || fd == -ENXIO ? -ENOENT : fd;
    int rc = sys->fstatat(sys->ctx, fd, "", info, AT_EMPTY_PATH);
    if (rc == 0 && S_ISREG(info->st_mode))
        return fd;
    (void)sys->close(sys->ctx, fd);
    return rc < 0 ? rc : -ENOENT;
}

/* A file that gets shorter just then is copied anew, as it is by now; one that does so again and again as it comes. */
static int copy_data(struct copier *self, int from, const struct stat *info, int to)
{
    const struct lz_sys *sys = self->sys;
    struct stat now = *info;
    keep_in_place(self, from, to);
    for (int tries = 0;; tries++) {
        struct lz_bytes_at bytes = {.fd = from, .size = (uint64_t)now.st_size};
        struct lz_copyup_result result = {.rung = LZ_RUNG_AUTO};
        int rc = lz_copyup_data(sys, &bytes, to, LZ_RUNG_AUTO, &result, self->detail);
        uint64_t stored = (uint64_t)now.st_blocks * 512;
        self->done.copied += result.copied;
        if (rc == 0 && result.rung == LZ_RUNG_CLONE)
            self->done.shared += stored < bytes.size ? stored : bytes.size;
        if (rc != LZ_E_TRUNCATED)
            return rc;
        if (tries == RETRIES)
            return 0;
        rc = sys->ftruncate(sys->ctx, to, 0);
        rc = rc < 0 ? rc : sys->fstatat(sys->ctx, from, "", &now, AT_EMPTY_PATH);
        if (rc < 0)
            return rc;
    }
}

/* 1: it is gone, and left out */
static int copy_file(struct copier *self, const struct lz_walk_node *node, int parent, const char *name)
{
    struct stat info = {0};
    int from = open_source(self, node, &info);
    if (from < 0)
        return from == -ENOENT ? 1 : from;
    const struct lz_sys *sys = self->sys;
    struct stat made = {0};
    int fd = sys->openat(sys->ctx, parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, node->mode & 0777), rc = fd;
    if (fd >= 0) {
        rc = sys->fstatat(sys->ctx, fd, "", &made, AT_EMPTY_PATH);
        if (rc == 0)
            rc = copy_data(self, from, &info, fd);
        if (rc == 0)
            rc = set_attributes(self, node, parent, name, &made);
        int closed = sys->close(sys->ctx, fd);
        rc = rc < 0 ? rc : closed;
    }
    (void)sys->close(sys->ctx, from);
    return rc;
}

/* ---- everything else ---- */

static int copy_special(const struct copier *self, const struct lz_walk_node *node, int parent, const char *name)
{
    const struct lz_sys *sys = self->sys;
    int rc;
    if (node->kind == LZ_KIND_SYMLINK)
        rc = sys->symlinkat(sys->ctx, node->target, parent, name);
    else
        rc =
            sys->mknodat(sys->ctx, parent, name, lz_kind_to_mode(node->kind) | 0600, makedev(node->major, node->minor));
    return rc >= 0 ? set_attributes(self, node, parent, name, NULL) : rc;
}

/* The directory that `path` is in, or will be, and its name there. No symlink is followed: what was copied so far may be
 * of somebody else's making, and the source may change meanwhile. */
static int open_parent(const struct copier *self, const char *path, const char **name)
{
    char parent[LZ_PATH_MAX + 1];
    const char *slash = strrchr(path, '/');
    size_t size = slash != NULL ? (size_t)(slash - path) : 0;
    memcpy(parent, path, size);
    parent[size] = 0;
    *name = path + size + (slash != NULL);
    return lz_openat_beneath(self->sys, self->to_fd, parent, O_PATH | O_DIRECTORY, 0);
}

static int copy_link(const struct copier *self, const char *first, int parent, const char *name)
{
    const char *first_name;
    int first_parent = open_parent(self, first, &first_name);
    if (first_parent < 0)
        return first_parent;
    int rc = self->sys->linkat(self->sys->ctx, first_parent, first_name, parent, name, 0);
    (void)self->sys->close(self->sys->ctx, first_parent);
    return rc;
}

/* The directory of the copy that a path is in: mostly the one of the path before. */
static int enter_parent(struct copier *self, const char *path, const char **name)
{
    const char *slash = strrchr(path, '/');
    size_t size = slash != NULL ? (size_t)(slash - path) : 0;
    *name = path + size + (slash != NULL);
    if (self->parent_fd >= 0 && self->parent_size == size && memcmp(self->parent, path, size) == 0)
        return self->parent_fd;
    int fd = open_parent(self, path, name);
    if (fd < 0)
        return fd;
    if (self->parent_fd >= 0)
        (void)self->sys->close(self->sys->ctx, self->parent_fd);
    self->parent_fd = fd;
    self->parent_size = size;
    memcpy(self->parent, path, size);
    return fd;
}

static int copy_other(struct copier *self, const struct lz_walk_node *node, int parent, const char *name)
{
    if (node->kind == LZ_KIND_DIRECTORY)
        return self->sys->mkdirat(self->sys->ctx, parent, name, 0700);
    return copy_special(self, node, parent, name);
}

static int copy_node(struct copier *self, const struct lz_walk_node *node, int parent, const char *name)
{
    const char *first = node->has_links ? lz_links_find(&self->links, node->link_dev, node->link_number) : NULL;
    if (first != NULL)
        return copy_link(self, first, parent, name);
    int rc = node->kind == LZ_KIND_FILE ? copy_file(self, node, parent, name) : copy_other(self, node, parent, name);
    if (rc == 0 && node->has_links)
        rc = lz_links_add(&self->links, node->link_dev, node->link_number, node->path, node->path_size);
    return rc;
}

static int visit(void *ctx, const struct lz_walk_node *node)
{
    struct copier *self = ctx;
    const char *name;
    if (node->path_size == 0)
        return 0; /* the top is there */
    int rc = enter_parent(self, node->path, &name);
    if (rc >= 0)
        rc = copy_node(self, node, rc, name);
    self->done.entries += rc == 0;
    return rc >= 0 ? 0 : lz_fail(self->detail, rc, "copying /%s: %s", node->path, lz_error_text(rc));
}

/* Directories get their attributes in a walk of their own, when nothing is made in them any more. */
static int visit_directory(void *ctx, const struct lz_walk_node *node)
{
    struct copier *self = ctx;
    if (node->kind != LZ_KIND_DIRECTORY)
        return 0;
    const struct lz_sys *sys = self->sys;
    int fd = lz_openat_beneath(sys, self->to_fd, node->path, O_RDONLY | O_DIRECTORY, 0), rc = fd;
    if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP)
        return 0; /* made after the first walk, which has met something else, or nothing */
    if (fd >= 0) {
        int from = lz_openat_beneath(sys, self->from_fd, node->path, O_RDONLY | O_DIRECTORY, 0);
        if (from >= 0) {
            keep_in_place(self, from, fd);
            (void)sys->close(sys->ctx, from);
        }
        rc = set_attributes(self, node, fd, "", NULL);
        (void)sys->close(sys->ctx, fd);
    }
    return rc >= 0 ? 0 : lz_fail(self->detail, rc, "copying /%s: %s", node->path, lz_error_text(rc));
}

int lz_copy_tree(const struct lz_sys *sys, int from_fd, int to_fd, struct lz_copy_result *result,
                 struct lz_detail *detail)
{
    struct lz_diff_source source = {.upper_fd = from_fd, .objects_fd = -1};
    struct lz_walk_options options = {.source = &source, .plain = true, .attributes = true};
    struct copier copier = {.sys = sys, .detail = detail, .from_fd = from_fd, .to_fd = to_fd, .parent_fd = -1};
    int rc = lz_walk(sys, &options, visit, &copier, detail);
    options.directories = true;
    if (rc == 0)
        rc = lz_walk(sys, &options, visit_directory, &copier, detail);
    if (copier.parent_fd >= 0)
        (void)sys->close(sys->ctx, copier.parent_fd);
    lz_links_free(&copier.links);
    if (rc == 0 && result != NULL)
        *result = copier.done;
    return rc;
}
