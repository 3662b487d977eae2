#include "lz_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "lz_copyup.h"
#include "lz_data.h"
#include "lz_fs.h"
#include "lz_kind.h"
#include "lz_links.h"
#include "lz_walk.h"

struct copier {
    const struct lz_sys *sys;
    const struct lz_diff_source *source;
    struct lz_detail *detail;
    int to_fd;
    struct lz_links links;
};

/* Owner, mode, xattrs and time of what `dir` and `name` say; "" is dir itself. In this order: a change of owner clears
 * set-user-ID bits and capabilities. A symlink has no mode. */
static int set_attributes(const struct copier *self, const struct lz_walk_node *node, int dir, const char *name)
{
    const struct lz_sys *sys = self->sys;
    int flags = name[0] == 0 ? AT_EMPTY_PATH : AT_SYMLINK_NOFOLLOW;
    int rc = sys->fchownat(sys->ctx, dir, name, node->uid, node->gid, flags);
    if (rc >= 0 && name[0] == 0) {
        char path[LZ_FD_PATH_SIZE];
        lz_fd_path(dir, path);
        rc = sys->fchmodat(sys->ctx, AT_FDCWD, path, node->mode);
    } else if (rc >= 0 && node->kind != LZ_KIND_SYMLINK) {
        rc = sys->fchmodat(sys->ctx, dir, name, node->mode);
    }
    for (size_t i = 0; rc >= 0 && i < node->xattr_count; i++) {
        const struct lz_tar_xattr *xattr = &node->xattrs[i];
        rc = sys->setxattrat(sys->ctx, dir, name, xattr->name, xattr->value, xattr->value_size);
    }
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = node->mtime, .tv_nsec = (long)node->mtime_nsec}};
    return rc < 0 ? rc : sys->utimensat(sys->ctx, dir, name, times, flags);
}

/* ---- files ---- */

static int copy_data(const struct copier *self, const struct lz_walk_node *node, int to)
{
    struct lz_data data = {.fd = -1};
    int rc = lz_data_open(self->sys, self->source, node, true, &data, self->detail);
    if (rc < 0)
        return rc;
    struct lz_bytes_at from = {.fd = data.fd, .offset = data.offset, .size = data.size};
    rc = lz_copyup_data(self->sys, &from, to, LZ_RUNG_AUTO, NULL, self->detail);
    lz_data_close(self->sys, &data);
    return rc;
}

static int copy_file(const struct copier *self, const struct lz_walk_node *node, int parent, const char *name)
{
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
    int fd = self->sys->openat(self->sys->ctx, parent, name, flags, 0600);
    if (fd < 0)
        return fd;
    int rc = copy_data(self, node, fd);
    if (rc == 0)
        rc = set_attributes(self, node, fd, "");
    int closed = self->sys->close(self->sys->ctx, fd);
    return rc < 0 ? rc : closed;
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
    return rc >= 0 ? set_attributes(self, node, parent, name) : rc;
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

static int copy_node(struct copier *self, const struct lz_walk_node *node, int parent, const char *name)
{
    if (node->kind == LZ_KIND_DIRECTORY)
        return self->sys->mkdirat(self->sys->ctx, parent, name, 0700);
    if (node->has_links) {
        const char *first = lz_links_find(&self->links, node->link_dev, node->link_number);
        if (first != NULL)
            return copy_link(self, first, parent, name);
        int rc = lz_links_add(&self->links, node->link_dev, node->link_number, node->path, node->path_size);
        if (rc != 0)
            return rc;
    }
    return node->kind == LZ_KIND_FILE ? copy_file(self, node, parent, name) : copy_special(self, node, parent, name);
}

static int visit(void *ctx, const struct lz_walk_node *node)
{
    struct copier *self = ctx;
    const char *name;
    if (node->path_size == 0)
        return 0; /* the top is there */
    int parent = open_parent(self, node->path, &name), rc = parent;
    if (parent >= 0) {
        rc = copy_node(self, node, parent, name);
        (void)self->sys->close(self->sys->ctx, parent);
    }
    return rc >= 0 ? 0 : lz_fail(self->detail, rc, "copying /%s: %s", node->path, lz_error_text(rc));
}

/* Directories get their attributes in a walk of their own, when nothing is made in them any more. */
static int visit_directory(void *ctx, const struct lz_walk_node *node)
{
    struct copier *self = ctx;
    if (node->kind != LZ_KIND_DIRECTORY)
        return 0;
    const struct lz_sys *sys = self->sys;
    int fd = lz_openat_beneath(sys, self->to_fd, node->path, O_RDONLY | O_DIRECTORY, 0);
    int rc = fd;
    if (fd >= 0) {
        rc = set_attributes(self, node, fd, "");
        (void)sys->close(sys->ctx, fd);
    }
    return rc >= 0 ? 0 : lz_fail(self->detail, rc, "copying /%s: %s", node->path, lz_error_text(rc));
}

int lz_copy_tree(const struct lz_sys *sys, int from_fd, int to_fd, struct lz_detail *detail)
{
    struct lz_diff_source source = {.upper_fd = from_fd, .objects_fd = -1};
    struct lz_walk_options options = {.source = &source, .plain = true, .attributes = true};
    struct copier copier = {.sys = sys, .source = &source, .detail = detail, .to_fd = to_fd};
    int rc = lz_walk(sys, &options, visit, &copier, detail);
    if (rc == 0)
        rc = lz_walk(sys, &options, visit_directory, &copier, detail);
    lz_links_free(&copier.links);
    return rc;
}
