#include "lz_mount.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mount.h>

#include "lz_fs.h"
#include "lz_loop.h"

#define FSCONFIG_STRING_MAX 255u

/* Mounts what `source` names: the image file itself, or a loop device over it. */
static int mount_erofs_source(const struct lz_sys *sys, const char *source, struct lz_detail *detail)
{
    int fs = lz_fs_open(sys, "erofs", detail);
    if (fs < 0)
        return fs;
    int rc = lz_fs_set(sys, fs, "source", source);
    if (rc == 0)
        rc = lz_fs_set(sys, fs, "ro", NULL);
    if (rc < 0)
        rc = lz_fs_fail(sys, fs, "erofs", source, rc, detail);
    else
        rc = lz_fs_mount(sys, fs, "erofs", MOUNT_ATTR_RDONLY, detail);
    (void)sys->close(sys->ctx, fs);
    return rc;
}

static int mount_erofs_file(const struct lz_sys *sys, const char *image, struct lz_detail *detail)
{
    if (strlen(image) <= FSCONFIG_STRING_MAX)
        return mount_erofs_source(sys, image, detail);
    int fd = sys->openat(sys->ctx, AT_FDCWD, image, O_PATH | O_CLOEXEC, 0);
    if (fd < 0)
        return lz_fail(detail, fd, "%s", lz_error_text(fd));
    char path[LZ_FD_PATH_SIZE];
    lz_fd_path(fd, path);
    int rc = mount_erofs_source(sys, path, detail);
    (void)sys->close(sys->ctx, fd);
    return rc;
}

static int mount_erofs_loop(const struct lz_sys *sys, const char *image, struct lz_detail *detail)
{
    int fd = sys->openat(sys->ctx, AT_FDCWD, image, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return lz_fail(detail, fd, "%s", lz_error_text(fd));
    char name[LZ_LOOP_NAME_SIZE];
    int device = lz_loop_attach(sys, fd, LZ_LOOP_READ_ONLY, name, detail);
    (void)sys->close(sys->ctx, fd);
    if (device < 0)
        return device;
    int rc = mount_erofs_source(sys, name, detail);
    (void)sys->close(sys->ctx, device); /* autoclear: the mount keeps it, or it goes */
    return rc;
}

/* Errors with which a kernel says that it wants a block device: too old; EROFS built without file-backed mounts; or the
 * image lies on a file system (overlayfs) whose files cannot back one. */
static bool wants_block_device(int rc)
{
    return rc == -ENOTBLK || rc == -EINVAL || rc == -EOPNOTSUPP;
}

int lz_mount_erofs(const struct lz_sys *sys, const char *image, enum lz_erofs_source source, enum lz_erofs_source *used,
                   struct lz_detail *detail)
{
    enum lz_erofs_source by = source == LZ_EROFS_LOOP ? LZ_EROFS_LOOP : LZ_EROFS_FILE;
    int rc = by == LZ_EROFS_FILE ? mount_erofs_file(sys, image, detail) : mount_erofs_loop(sys, image, detail);
    if (source == LZ_EROFS_AUTO && wants_block_device(rc)) {
        by = LZ_EROFS_LOOP;
        rc = mount_erofs_loop(sys, image, detail);
    }
    if (rc < 0)
        return lz_fail_within(detail, rc, "%s", image);
    if (used != NULL)
        *used = by;
    return rc;
}

int lz_mount_attach(const struct lz_sys *sys, int mount_fd, int target_dir, const char *target,
                    struct lz_detail *detail)
{
    unsigned flags = MOVE_MOUNT_F_EMPTY_PATH | (target[0] == 0 ? (unsigned)MOVE_MOUNT_T_EMPTY_PATH : 0u);
    int rc = sys->move_mount(sys->ctx, mount_fd, "", target_dir, target, flags);
    return rc >= 0 ? 0 : lz_fail(detail, rc, "%s: cannot mount there: %s", target, lz_error_text(rc));
}

/* A detached clone of what `source` below `dir` shows. */
static int clone_tree(const struct lz_sys *sys, int dir, const char *source, bool read_only, bool recursive,
                      struct lz_detail *detail)
{
    unsigned deep = recursive ? (unsigned)AT_RECURSIVE : 0u;
    unsigned empty = source[0] == 0 ? (unsigned)AT_EMPTY_PATH : 0u;
    int tree = sys->open_tree(sys->ctx, dir, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | deep | empty);
    if (tree < 0)
        return lz_fail(detail, tree, "%s: cannot be bind-mounted: %s", source, lz_error_text(tree));
    if (!read_only)
        return tree;
    int rc = sys->mount_setattr(sys->ctx, tree, "", AT_EMPTY_PATH | deep, MOUNT_ATTR_RDONLY, 0);
    if (rc >= 0)
        return tree;
    (void)sys->close(sys->ctx, tree);
    return lz_fail(detail, rc, "%s: cannot be made read-only: %s", source, lz_error_text(rc));
}

int lz_mount_bind(const struct lz_sys *sys, const char *source, const char *target, bool read_only, bool recursive,
                  struct lz_detail *detail)
{
    int tree = clone_tree(sys, AT_FDCWD, source, read_only, recursive, detail);
    if (tree < 0)
        return tree;
    int rc = lz_mount_attach(sys, tree, AT_FDCWD, target, detail);
    (void)sys->close(sys->ctx, tree);
    return rc;
}

int lz_mount_view(const struct lz_sys *sys, int directory_fd, struct lz_detail *detail)
{
    return clone_tree(sys, directory_fd, "", true, false, detail);
}

/* Opens the directory that holds `path`, and says where its last component is. -EINVAL when it has none. */
static int open_parent(const struct lz_sys *sys, const char *path, const char **base, size_t *base_size)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/')
        start--;
    *base = path + start;
    *base_size = end - start;
    bool dots = (*base_size == 1 && path[start] == '.') || (*base_size == 2 && memcmp(*base, "..", 2) == 0);
    if (*base_size == 0 || *base_size > NAME_MAX || dots)
        return -EINVAL;
    char parent[PATH_MAX] = ".";
    if (start >= sizeof parent)
        return -ENAMETOOLONG;
    if (start > 0) {
        memcpy(parent, path, start);
        parent[start] = 0;
    }
    return sys->openat(sys->ctx, AT_FDCWD, parent, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
}

int lz_is_mount(const struct lz_sys *sys, const char *path)
{
    if (path[0] == '/' && path[strspn(path, "/")] == 0)
        return 1;
    const char *base;
    size_t size;
    int parent = open_parent(sys, path, &base, &size);
    if (parent < 0)
        return parent;
    char name[NAME_MAX + 1];
    memcpy(name, base, size);
    name[size] = 0;
    /* The kernel itself says whether the step from parent to name changes mounts. */
    const struct open_how how = {.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC, .resolve = RESOLVE_NO_XDEV};
    int fd = sys->openat2(sys->ctx, parent, name, &how);
    (void)sys->close(sys->ctx, parent);
    if (fd == -EXDEV)
        return 1;
    if (fd < 0)
        return fd;
    (void)sys->close(sys->ctx, fd);
    return 0;
}

int lz_unmount(const struct lz_sys *sys, const char *target, bool lazy, struct lz_detail *detail)
{
    int rc = sys->umount2(sys->ctx, target, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0));
    if (rc >= 0)
        return 0;
    return lz_fail(detail, rc, "%s: cannot be unmounted: %s", target,
                   rc == -EINVAL ? "not a mount point" : lz_error_text(rc));
}

int lz_mount_supports(const struct lz_sys *sys, const char *type, const char *key, struct lz_detail *detail)
{
    struct lz_detail said = {{0}};
    int fs = lz_fs_open(sys, type, detail);
    if (fs < 0)
        return fs == -ENODEV ? 0 : fs;
    int rc = key != NULL ? lz_fs_set(sys, fs, key, "/") : 0;
    if (rc < 0) /* a value that it does not like is a key that it knows */
        (void)lz_fs_fail(sys, fs, type, key, rc, &said);
    (void)sys->close(sys->ctx, fs);
    return strstr(said.text, "Unknown parameter") == NULL;
}
