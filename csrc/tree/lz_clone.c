#include "lz_clone.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <stdio.h>
#include <string.h>

#include "lz_links.h"
#include "lz_walk.h"

#define SUBVOLUME_INODE 256u /* BTRFS_FIRST_FREE_OBJECTID: of the top of each subvolume */

/* "Not this file system, not this user, not this tree", as against a full or broken disk. */
static bool is_refusal(int rc)
{
    return rc == -ENOTTY || rc == -EOPNOTSUPP || rc == -ENOSYS || rc == -EINVAL || rc == -EPERM || rc == -EACCES ||
           rc == -EXDEV || rc == -ETXTBSY;
}

int lz_clone_prepare(const struct lz_sys *sys, int dir_fd, const char *name)
{
    struct btrfs_ioctl_vol_args args = {0};
    int rc = -EINVAL;
    if (snprintf(args.name, sizeof args.name, "%s", name) < (int)sizeof args.name)
        rc = sys->ioctl(sys->ctx, dir_fd, BTRFS_IOC_SUBVOL_CREATE, (uintptr_t)&args);
    if (rc >= 0)
        return sys->fchmodat(sys->ctx, dir_fd, name, 0700);
    return is_refusal(rc) ? sys->mkdirat(sys->ctx, dir_fd, name, 0700) : rc;
}

/* 1: it is a subvolume, and none lies in it. */
static int has_snapshots(const struct lz_sys *sys, int fd)
{
    struct btrfs_ioctl_get_subvol_rootref_args inner = {0};
    int rc = sys->ioctl(sys->ctx, fd, BTRFS_IOC_GET_SUBVOL_ROOTREF, (uintptr_t)&inner);
    if (rc < 0)
        return is_refusal(rc) || rc == -EOVERFLOW ? 0 : rc; /* EOVERFLOW: more than 255 */
    struct stat info;
    rc = sys->fstatat(sys->ctx, fd, "", &info, AT_EMPTY_PATH);
    return rc < 0 ? rc : info.st_ino == SUBVOLUME_INODE && inner.num_items == 0;
}

/* 1: done; 0: it has to be copied */
static int snapshot(const struct lz_sys *sys, int from_fd, int dir_fd, const char *name)
{
    struct btrfs_ioctl_vol_args_v2 args = {.fd = from_fd};
    int rc = has_snapshots(sys, from_fd);
    if (rc <= 0 || snprintf(args.name, sizeof args.name, "%s", name) >= (int)sizeof args.name)
        return rc < 0 ? rc : 0;
    rc = sys->ioctl(sys->ctx, dir_fd, BTRFS_IOC_SNAP_CREATE_V2, (uintptr_t)&args);
    return rc >= 0 ? 1 : is_refusal(rc) ? 0 : rc;
}

/* ---- what a snapshot came to ---- */

struct counter {
    struct lz_pace pace;
    struct lz_copy_result found;
    struct lz_links links;
};

static int count(void *ctx, const struct lz_walk_node *node)
{
    struct counter *self = ctx;
    self->found.entries += node->path_size > 0;
    int rc = lz_pace_on(&self->pace, 1, 0);
    if (rc != 0)
        return rc;
    if (node->kind != LZ_KIND_FILE)
        return 0;
    if (node->has_links) {
        if (lz_links_find(&self->links, node->link_dev, node->link_number) != NULL)
            return 0;
        rc = lz_links_add(&self->links, node->link_dev, node->link_number, "", 0);
        if (rc != 0)
            return rc;
    }
    self->found.shared += node->stored < node->size ? node->stored : node->size;
    return 0;
}

static int count_all(const struct lz_sys *sys, int fd, const struct lz_step *step, struct lz_copy_result *result,
                     struct lz_detail *detail)
{
    struct lz_diff_source source = {.upper_fd = fd, .objects_fd = -1};
    struct lz_walk_options options = {.source = &source, .plain = true};
    struct counter counter = {.pace.step = step};
    int rc = lz_walk(sys, &options, count, &counter, detail);
    lz_links_free(&counter.links);
    if (rc == 0)
        *result = counter.found;
    return rc < 0 && detail != NULL && detail->text[0] == 0 ? lz_fail(detail, rc, "counting: %s", lz_error_text(rc))
                                                            : rc;
}

int lz_clone_tree(const struct lz_sys *sys, int from_fd, int dir_fd, const char *name, unsigned threads,
                  const struct lz_step *step, struct lz_copy_result *result, struct lz_detail *detail)
{
    struct lz_copy_result done = {0};
    int made = snapshot(sys, from_fd, dir_fd, name);
    int rc = made == 0 ? lz_clone_prepare(sys, dir_fd, name) : made;
    if (rc < 0)
        return lz_fail(detail, rc, "cloning to %s: %s", name, lz_error_text(rc));
    int fd = lz_openat_beneath(sys, dir_fd, name, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return lz_fail(detail, fd, "cloning to %s: %s", name, lz_error_text(fd));
    if (made == 1) /* in the source, whose inodes are in memory: 1,000 files of a snapshot take 15 ms to look at */
        rc = count_all(sys, from_fd, step, &done, detail);
    else
        rc = lz_copy_tree(sys, from_fd, fd, threads, step, &done, detail);
    (void)sys->close(sys->ctx, fd);
    if (rc == 0 && result != NULL)
        *result = done;
    return rc;
}
