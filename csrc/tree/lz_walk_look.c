#include <errno.h>
#include <fcntl.h>
#include <sys/sysmacros.h>

#include "lz_kind.h"
#include "lz_walk_look.h"

#define AGAIN 1 /* a look's result: what has the name is not what it was a moment ago */

int lz_walk_fail(struct walk *walk, int code, const char *what)
{
    return lz_fail(walk->detail, code, "/%s: %s: %s", walk->path, what, lz_error_text(code));
}

int64_t lz_walk_child(const struct walk *walk, int64_t directory, const char *name, size_t size)
{
    if (directory < 0 || walk->lower->entries[directory].kind != LZ_KIND_DIRECTORY)
        return -1;
    int64_t entry = lz_index_child(walk->lower, (uint32_t)directory, name, size);
    return entry < 0 ? -1 : entry;
}

bool lz_walk_is(const struct walk *walk, int64_t entry, enum lz_kind kind)
{
    return entry >= 0 && walk->lower->entries[entry].kind == kind;
}

void lz_walk_fill(struct lz_walk_node *node, const struct stat *info)
{
    node->kind = lz_kind_of_mode(info->st_mode);
    node->mode = info->st_mode & 07777;
    node->uid = info->st_uid;
    node->gid = info->st_gid;
    node->mtime = info->st_mtim.tv_sec;
    node->mtime_nsec = (uint32_t)info->st_mtim.tv_nsec;
    node->size = node->kind == LZ_KIND_FILE ? (uint64_t)info->st_size : 0;
    node->stored = node->kind == LZ_KIND_FILE ? (uint64_t)info->st_blocks * 512 : 0;
    if (node->kind == LZ_KIND_CHAR || node->kind == LZ_KIND_BLOCK) {
        node->major = major(info->st_rdev);
        node->minor = minor(info->st_rdev);
    }
    node->has_links = info->st_nlink > 1 && node->kind != LZ_KIND_DIRECTORY;
    node->link_dev = info->st_dev;
    node->link_number = info->st_ino;
}

struct lz_walk_node lz_walk_node_here(const struct walk *walk, enum lz_walk_event event, const struct frame *frame,
                                      int64_t before)
{
    return (struct lz_walk_node){.event = event,
                                 .path = walk->path,
                                 .path_size = walk->path_size,
                                 .before = before,
                                 .fresh = frame->fresh,
                                 .dir_fd = -1};
}

/* ---- what a name of the upper refers to ---- */

int64_t lz_walk_lower(const struct walk *walk, const struct frame *frame, const struct lz_name *item)
{
    const struct lz_attributes *attributes = &walk->attributes;
    if (walk->lower == NULL)
        return -1;
    if (attributes->redirect == NULL)
        return lz_walk_child(walk, frame->lower, item->name, item->size);
    if (attributes->redirect[0] != '/')
        return lz_walk_child(walk, frame->lower, attributes->redirect, attributes->redirect_size);
    int64_t entry = lz_index_find(walk->lower, attributes->redirect + 1, attributes->redirect_size - 1);
    return entry < 0 ? -1 : entry;
}

static int fill_target(struct walk *walk, const struct frame *frame, const char *name, struct lz_walk_node *node)
{
    if (!walk->options->attributes)
        return 0;
    ssize_t size = walk->sys->readlinkat(walk->sys->ctx, frame->fd, name, walk->target, sizeof walk->target);
    if (size == -ENOENT || size == -EINVAL) /* EINVAL: it is no link any more */
        return AGAIN;
    if (size < 0)
        return lz_walk_fail(walk, (int)size, "reading the link");
    if ((size_t)size > LZ_PATH_MAX)
        return lz_walk_fail(walk, LZ_E_LIMIT, "target of the link");
    walk->target[size] = 0;
    node->target = walk->target;
    node->target_size = (size_t)size;
    return 0;
}

int lz_walk_fill_upper(struct walk *walk, const struct frame *frame, const struct lz_name *item, int fd,
                       struct lz_walk_node *node)
{
    const char *name = item != NULL ? item->name : "";
    const struct lz_walk_options *options = walk->options;
    struct lz_attributes_rules rules = {
        .overlay = !options->plain, .user_xattr = options->source->user_xattr, .collect = options->attributes};
    bool has_marks = !options->plain && (node->kind == LZ_KIND_DIRECTORY || node->kind == LZ_KIND_FILE);
    lz_attributes_clear(&walk->attributes);
    if (options->attributes || has_marks) {
        int rc = fd >= 0 ? lz_attributes_read(walk->sys, fd, "", &rules, &walk->attributes)
                         : lz_attributes_read(walk->sys, frame->fd, name, &rules, &walk->attributes);
        if (rc != 0)
            return rc == -ENOENT && item != NULL ? AGAIN : lz_walk_fail(walk, rc, "reading xattrs");
    }
    if (node->kind == LZ_KIND_SYMLINK)
        return fill_target(walk, frame, name, node);
    if (node->kind != LZ_KIND_FILE)
        return 0;
    node->data = LZ_DATA_UPPER;
    node->dir_fd = frame->fd;
    node->name = name;
    bool blocks = walk->attributes.blocks;
    if ((!walk->attributes.metacopy && !blocks) || item == NULL)
        return 0;
    int64_t lower = lz_walk_lower(walk, frame, item);
    if (!lz_walk_is(walk, lower, LZ_KIND_FILE))
        return lz_fail(walk->detail, LZ_E_FORMAT, "/%s: the upper has only %s, and the lower has no file%s%s",
                       walk->path, blocks ? "some blocks" : "attributes",
                       walk->attributes.redirect != NULL ? " at " : "",
                       walk->attributes.redirect != NULL ? walk->attributes.redirect : "");
    node->data = blocks ? LZ_DATA_BLOCKS : LZ_DATA_LOWER;
    node->lower = (uint32_t)lower;
    if (blocks)
        return 0;
    node->size = walk->lower->entries[lower].size;
    node->same_data = lower == node->before;
    return 0;
}

/* ---- looks ---- */

int lz_walk_open(struct walk *walk, int dir, const char *name, bool directory)
{
    const struct lz_walk_options *options = walk->options;
    uint64_t resolve = options->plain && !options->cross_mounts ? RESOLVE_NO_XDEV : 0;
    int flags = O_RDONLY | O_NOFOLLOW | (directory ? O_DIRECTORY : O_NONBLOCK | O_NOCTTY);
    return lz_openat_beneath(walk->sys, dir, name, flags, resolve);
}

bool lz_walk_has_changed(int rc)
{
    return rc == -ENOENT || rc == -ENOTDIR || rc == -ELOOP || rc == -ENXIO;
}

void lz_walk_close(const struct walk *walk, int *fd)
{
    if (*fd >= 0)
        (void)walk->sys->close(walk->sys->ctx, *fd);
    *fd = -1;
}

/* Opens what a look has found, and looks at that: whatever has the name from here on, all is of one file. What is neither
 * a directory nor a regular file is not opened: that could do something. */
static int open_found(struct walk *walk, int dir, const char *name, struct found *found)
{
    bool directory = S_ISDIR(found->info.st_mode);
    if (!directory && (!S_ISREG(found->info.st_mode) || !walk->options->attributes))
        return 0;
    int rc = lz_walk_open(walk, dir, name, directory);
    if (rc == -EXDEV) /* a mount point stays empty */
        return directory ? 0 : -ENOENT;
    if (rc < 0)
        return lz_walk_has_changed(rc) ? AGAIN
                                       : lz_walk_fail(walk, rc, directory ? "opening the directory" : "opening");
    found->fd = rc;
    rc = walk->sys->fstatat(walk->sys->ctx, found->fd, "", &found->info, AT_EMPTY_PATH);
    if (rc != 0)
        return lz_walk_fail(walk, rc, "stat");
    return directory || S_ISREG(found->info.st_mode) ? 0 : AGAIN;
}

/* Whether what was not opened still has its name, with all of its attributes read: 0 or AGAIN. */
static int look_after(struct walk *walk, int dir, const char *name, const struct found *found)
{
    struct stat now;
    if (found->fd >= 0 || !walk->options->attributes)
        return 0;
    int rc = walk->sys->fstatat(walk->sys->ctx, dir, name, &now, AT_SYMLINK_NOFOLLOW);
    if (rc != 0)
        return rc == -ENOENT ? AGAIN : lz_walk_fail(walk, rc, "stat");
    return now.st_dev == found->info.st_dev && now.st_ino == found->info.st_ino ? 0 : AGAIN;
}

/* 0, -ENOENT when there is nothing of that name, AGAIN, or a code. Only after 0, found->fd is to be closed. */
static int look(struct walk *walk, const struct frame *frame, const struct lz_name *item, struct found *found)
{
    int64_t before = lz_walk_child(walk, frame->before, item->name, item->size);
    *found = (struct found){.node = lz_walk_node_here(walk, LZ_WALK_ENTRY, frame, before), .fd = -1};
    int rc = walk->sys->fstatat(walk->sys->ctx, frame->fd, item->name, &found->info, AT_SYMLINK_NOFOLLOW);
    if (rc != 0)
        return rc == -ENOENT ? rc : lz_walk_fail(walk, rc, "stat");
    rc = open_found(walk, frame->fd, item->name, found);
    if (rc == 0) {
        lz_walk_fill(&found->node, &found->info);
        rc = lz_walk_fill_upper(walk, frame, item, found->fd, &found->node);
    }
    if (rc == 0)
        rc = look_after(walk, frame->fd, item->name, found);
    if (rc != 0)
        lz_walk_close(walk, &found->fd);
    return rc;
}

int lz_walk_look(struct walk *walk, const struct frame *frame, const struct lz_name *item, struct found *found)
{
    int rc = AGAIN;
    for (unsigned looks = 0; rc == AGAIN && looks < LZ_WALK_LOOKS; looks++)
        rc = look(walk, frame, item, found);
    return rc == AGAIN ? -ENOENT : rc;
}
