#include "lz_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "lz_copy_directories.h"
#include "lz_copy_files.h"
#include "lz_kind.h"
#include "lz_links.h"
#include "lz_walk.h"

struct copier {
    const struct lz_sys *sys;
    struct lz_detail *detail;
    struct lz_pace pace; /* names that were come to, directories twice, and the bytes of their blocks */
    int from_fd, to_fd;
    struct lz_links links;
    struct lz_copy_files *files;
    struct lz_copy_directories directories;
    struct lz_copy_result done;
    int parent_fd; /* the directory of the copy that was last written in, `parent`; -1: none yet */
    size_t parent_size;
    char parent[LZ_PATH_MAX + 1];
};

static int copy_file(struct copier *self, const struct lz_walk_node *node, int parent, const char *name)
{
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
    struct lz_copy_pair pair = {.from = *node->fd};
    pair.to = self->sys->openat(self->sys->ctx, parent, name, flags, node->mode & 0777);
    if (pair.to < 0)
        return pair.to;
    *node->fd = -1; /* kept: another thread may read it */
    return lz_copy_files_add(self->files, node, &pair);
}

static int copy_special(const struct copier *self, const struct lz_walk_node *node, int parent, const char *name)
{
    const struct lz_sys *sys = self->sys;
    int rc;
    if (node->kind == LZ_KIND_SYMLINK)
        rc = sys->symlinkat(sys->ctx, node->target, parent, name);
    else
        rc =
            sys->mknodat(sys->ctx, parent, name, lz_kind_to_mode(node->kind) | 0600, makedev(node->major, node->minor));
    return rc >= 0 ? lz_copy_attributes(sys, node, parent, name, NULL) : rc;
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
    if (node->kind != LZ_KIND_DIRECTORY)
        return copy_special(self, node, parent, name);
    int rc = self->sys->mkdirat(self->sys->ctx, parent, name, 0700);
    return rc == 0 ? lz_copy_directories_add(&self->directories, node) : rc;
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
    int rc = lz_pace_on(&self->pace, 1, node->stored);
    if (rc != 0)
        return rc;
    if (node->path_size == 0) /* the top is there */
        return lz_copy_directories_add(&self->directories, node);
    rc = enter_parent(self, node->path, &name);
    if (rc >= 0)
        rc = copy_node(self, node, rc, name);
    self->done.entries += rc == 0;
    return rc >= 0 ? 0 : lz_fail(self->detail, rc, "copying /%s: %s", node->path, lz_error_text(rc));
}

static int finish_directory(void *ctx, const struct lz_walk_node *node)
{
    struct copier *self = ctx;
    const struct lz_sys *sys = self->sys;
    int rc = lz_pace_on(&self->pace, 1, 0);
    if (rc != 0)
        return rc;
    int fd = lz_openat_beneath(sys, self->to_fd, node->path, O_RDONLY | O_DIRECTORY, 0);
    rc = fd;
    if (fd >= 0) {
        int from = lz_openat_beneath(sys, self->from_fd, node->path, O_RDONLY | O_DIRECTORY, 0);
        if (from >= 0) {
            lz_copy_in_place(sys, from, fd);
            (void)sys->close(sys->ctx, from);
        }
        rc = lz_copy_attributes(sys, node, fd, "", NULL);
        (void)sys->close(sys->ctx, fd);
    }
    return rc >= 0 ? 0 : lz_fail(self->detail, rc, "copying /%s: %s", node->path, lz_error_text(rc));
}

int lz_copy_tree(const struct lz_sys *sys, int from_fd, int to_fd, unsigned threads, const struct lz_step *step,
                 struct lz_copy_result *result, struct lz_detail *detail)
{
    struct lz_diff_source source = {.upper_fd = from_fd, .objects_fd = -1};
    struct lz_walk_options options = {.source = &source, .plain = true, .attributes = true};
    struct copier copier = {
        .sys = sys, .detail = detail, .pace.step = step, .from_fd = from_fd, .to_fd = to_fd, .parent_fd = -1};
    int rc = lz_copy_files_new(sys, threads, &copier.files);
    if (rc != 0)
        return lz_fail(detail, rc, "copying: %s", lz_error_text(rc));
    rc = lz_walk(sys, &options, visit, &copier, detail);
    int filled = lz_copy_files_end(copier.files, step, rc != 0, &copier.done, detail);
    rc = filled != 0 ? filled : rc; /* the walk may have ended for it, too */
    if (rc == 0)
        rc = lz_copy_directories_each(&copier.directories, finish_directory, &copier);
    if (copier.parent_fd >= 0)
        (void)sys->close(sys->ctx, copier.parent_fd);
    lz_links_free(&copier.links);
    lz_copy_directories_free(&copier.directories);
    if (rc == 0 && result != NULL)
        *result = copier.done;
    return rc;
}
