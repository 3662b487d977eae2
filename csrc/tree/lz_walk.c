#include "lz_walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "../bytes/lz_mark.h"
#include "lz_kind.h"

#define OPEN_DEPTH 64u /* deeper, a directory is closed while its children are walked, and opened again by path */

struct walk {
    const struct lz_sys *sys;
    const struct lz_walk_options *options;
    const struct lz_index *lower;
    int (*visit)(void *ctx, const struct lz_walk_node *node);
    void *ctx;
    struct lz_detail *detail;
    int root_fd;
    struct lz_attributes attributes; /* of the name at hand */
    char path[LZ_PATH_MAX + 1];
    size_t path_size;
    char target[LZ_PATH_MAX + 1];
};

struct frame { /* one directory of the merged view; entries of the lower index are -1 for none */
    int fd;    /* -1: not in the upper */
    int64_t lower, before;
    bool fresh;
    unsigned depth;
};

static int enter_directory(struct walk *walk, struct frame *frame);

static int fail_at(struct walk *walk, int code, const char *what)
{
    return lz_fail(walk->detail, code, "/%s: %s: %s", walk->path, what, lz_error_text(code));
}

static int64_t child_of(const struct walk *walk, int64_t directory, const char *name, size_t size)
{
    if (directory < 0 || walk->lower->entries[directory].kind != LZ_KIND_DIRECTORY)
        return -1;
    int64_t entry = lz_index_child(walk->lower, (uint32_t)directory, name, size);
    return entry < 0 ? -1 : entry;
}

static bool is_kind(const struct walk *walk, int64_t entry, enum lz_kind kind)
{
    return entry >= 0 && walk->lower->entries[entry].kind == kind;
}

static int push_name(struct walk *walk, const char *name, size_t size)
{
    size_t slash = walk->path_size > 0 ? 1 : 0;
    if (size > LZ_PATH_MAX || walk->path_size + slash + size > LZ_PATH_MAX)
        return lz_fail(walk->detail, LZ_E_LIMIT, "/%.200s...: the path is longer than %u bytes", walk->path,
                       LZ_PATH_MAX);
    if (slash != 0)
        walk->path[walk->path_size++] = '/';
    memcpy(walk->path + walk->path_size, name, size);
    walk->path_size += size;
    walk->path[walk->path_size] = 0;
    return 0;
}

static void pop_name(struct walk *walk, size_t size)
{
    walk->path_size = size;
    walk->path[size] = 0;
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
    if (node->kind == LZ_KIND_CHAR || node->kind == LZ_KIND_BLOCK) {
        node->major = major(info->st_rdev);
        node->minor = minor(info->st_rdev);
    }
    node->has_links = info->st_nlink > 1 && node->kind != LZ_KIND_DIRECTORY;
    node->link_dev = info->st_dev;
    node->link_number = info->st_ino;
}

static int fill_from_index(struct walk *walk, struct lz_walk_node *node, uint32_t number)
{
    const struct lz_entry *entry = &walk->lower->entries[number];
    node->kind = (enum lz_kind)entry->kind;
    node->mode = entry->mode & 07777u;
    node->uid = entry->uid;
    node->gid = entry->gid;
    node->major = entry->major;
    node->minor = entry->minor;
    node->mtime = entry->mtime;
    node->mtime_nsec = entry->mtime_nsec;
    node->size = entry->kind == LZ_KIND_FILE ? entry->size : 0;
    node->has_links = entry->link_count > 1 && entry->kind != LZ_KIND_DIRECTORY;
    node->link_dev = UINT64_MAX; /* no st_dev: the kernel's are 32 bits */
    node->link_number = entry->link;
    if (entry->kind == LZ_KIND_FILE) {
        node->data = LZ_DATA_LOWER;
        node->lower = number;
        node->same_data = (int64_t)number == node->before;
    }
    if (entry->kind == LZ_KIND_SYMLINK) {
        node->target = lz_index_target(walk->lower, number);
        node->target_size = (size_t)entry->size;
    }
    lz_attributes_clear(&walk->attributes);
    if (!walk->options->attributes)
        return 0;
    struct lz_xattr xattr;
    for (uint32_t cursor = 0; lz_index_next_xattr(walk->lower, number, &cursor, &xattr) == 1;) {
        int rc = lz_attributes_add(&walk->attributes, xattr.name, xattr.name_size, xattr.value, xattr.value_size);
        if (rc != 0)
            return rc;
    }
    lz_attributes_finish(&walk->attributes);
    return 0;
}

static struct lz_walk_node node_here(const struct walk *walk, enum lz_walk_event event, const struct frame *frame,
                                     int64_t before)
{
    return (struct lz_walk_node){.event = event,
                                 .path = walk->path,
                                 .path_size = walk->path_size,
                                 .before = before,
                                 .fresh = frame->fresh,
                                 .dir_fd = -1};
}

static int visit_entry(struct walk *walk, struct lz_walk_node *node)
{
    node->xattrs = walk->attributes.xattrs;
    node->xattr_count = walk->attributes.xattr_count;
    return walk->visit(walk->ctx, node);
}

static int visit_whiteout(struct walk *walk, const struct frame *frame, const struct lz_name *item)
{
    int64_t before = child_of(walk, frame->before, item->name, item->size);
    if (before < 0)
        return 0;
    size_t size = walk->path_size;
    int rc = push_name(walk, item->name, item->size);
    if (rc != 0)
        return rc;
    struct lz_walk_node node = node_here(walk, LZ_WALK_WHITEOUT, frame, before);
    node.kind = (enum lz_kind)walk->lower->entries[before].kind;
    rc = walk->visit(walk->ctx, &node);
    pop_name(walk, size);
    return rc;
}

/* ---- what a name of the upper refers to ---- */

/* The entry of the lower index that overlayfs looks under for a name of the upper: its redirect, else its name. */
static int64_t lower_of(const struct walk *walk, const struct frame *frame, const struct lz_name *item)
{
    const struct lz_attributes *attributes = &walk->attributes;
    if (walk->lower == NULL)
        return -1;
    if (attributes->redirect == NULL)
        return child_of(walk, frame->lower, item->name, item->size);
    if (attributes->redirect[0] != '/')
        return child_of(walk, frame->lower, attributes->redirect, attributes->redirect_size);
    int64_t entry = lz_index_find(walk->lower, attributes->redirect + 1, attributes->redirect_size - 1);
    return entry < 0 ? -1 : entry;
}

static int fill_target(struct walk *walk, const struct frame *frame, const char *name, struct lz_walk_node *node)
{
    if (!walk->options->attributes)
        return 0;
    ssize_t size = walk->sys->readlinkat(walk->sys->ctx, frame->fd, name, walk->target, sizeof walk->target);
    if (size < 0)
        return fail_at(walk, (int)size, "reading the link");
    if ((size_t)size > LZ_PATH_MAX)
        return fail_at(walk, LZ_E_LIMIT, "target of the link");
    walk->target[size] = 0;
    node->target = walk->target;
    node->target_size = (size_t)size;
    return 0;
}

/* Everything of a name of the upper but its children. `item` NULL: the root. */
static int fill_upper(struct walk *walk, const struct frame *frame, const struct lz_name *item,
                      struct lz_walk_node *node)
{
    const char *name = item != NULL ? item->name : "";
    const struct lz_walk_options *options = walk->options;
    struct lz_attributes_rules rules = {
        .overlay = !options->plain, .user_xattr = options->source->user_xattr, .collect = options->attributes};
    bool has_marks = !options->plain && (node->kind == LZ_KIND_DIRECTORY || node->kind == LZ_KIND_FILE);
    lz_attributes_clear(&walk->attributes);
    if (options->attributes || has_marks) {
        int rc = lz_attributes_read(walk->sys, frame->fd, name, &rules, &walk->attributes);
        if (rc != 0)
            return rc == -ENOENT ? rc : fail_at(walk, rc, "reading xattrs");
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
    int64_t lower = lower_of(walk, frame, item);
    if (!is_kind(walk, lower, LZ_KIND_FILE))
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

/* ---- directories ---- */

static int open_directory(struct walk *walk, int dir, const char *name, int *out)
{
    const struct lz_walk_options *options = walk->options;
    uint64_t resolve = options->plain && !options->cross_mounts ? RESOLVE_NO_XDEV : 0;
    int fd = lz_openat_beneath(walk->sys, dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, resolve);
    if (fd < 0)
        return fd;
    *out = fd;
    return 0;
}

static void close_directory(const struct walk *walk, struct frame *frame)
{
    if (frame->fd >= 0)
        (void)walk->sys->close(walk->sys->ctx, frame->fd);
    frame->fd = -1;
}

/* Walks the child that walk->path names. `name` NULL: it is not in the upper. Far down, the parent's descriptor is
 * given back meanwhile, so that depth does not eat descriptors. `parent_size` is the length of the parent's path. */
static int descend(struct walk *walk, struct frame *parent, struct frame *child, const char *name, size_t parent_size)
{
    bool parent_was_open = parent->fd >= 0;
    child->depth = parent->depth + 1;
    child->fd = -1;
    if (name != NULL) {
        int rc = open_directory(walk, parent->fd, name, &child->fd);
        if (rc == -EXDEV || rc == -ENOENT) /* a mount point stays empty */
            return 0;
        if (rc != 0)
            return fail_at(walk, rc, "opening the directory");
    }
    if (parent->depth > OPEN_DEPTH)
        close_directory(walk, parent);
    int rc = enter_directory(walk, child);
    close_directory(walk, child);
    if (rc == 0 && parent_was_open && parent->fd < 0) {
        pop_name(walk, parent_size);
        rc = open_directory(walk, walk->root_fd, walk->path, &parent->fd);
        if (rc != 0)
            return fail_at(walk, rc, "opening the directory again");
    }
    return rc;
}

/* What overlayfs merges a directory of the upper with, and whether that is what was in its place before. */
static struct frame child_frame(const struct walk *walk, const struct frame *parent, const struct lz_name *item,
                                int64_t before)
{
    int64_t lower = walk->attributes.opaque ? -1 : lower_of(walk, parent, item);
    struct frame child = {.fd = -1};
    child.lower = is_kind(walk, lower, LZ_KIND_DIRECTORY) ? lower : -1;
    child.before = is_kind(walk, before, LZ_KIND_DIRECTORY) ? before : -1;
    child.fresh = parent->fresh || child.lower != child.before;
    return child;
}

static bool has_children(const struct walk *walk, int64_t directory)
{
    return directory >= 0 && walk->lower->entries[directory].child_count > 0;
}

static int visit_upper(struct walk *walk, struct frame *frame, const struct lz_name *item, size_t parent_size)
{
    struct stat info;
    int rc = walk->sys->fstatat(walk->sys->ctx, frame->fd, item->name, &info, AT_SYMLINK_NOFOLLOW);
    if (rc != 0)
        return rc == -ENOENT ? 0 : fail_at(walk, rc, "stat");
    int64_t before = child_of(walk, frame->before, item->name, item->size);
    struct lz_walk_node node = node_here(walk, LZ_WALK_ENTRY, frame, before);
    lz_walk_fill(&node, &info);
    rc = fill_upper(walk, frame, item, &node);
    if (rc != 0)
        return rc == -ENOENT ? 0 : rc;
    if (node.data == LZ_DATA_BLOCKS) {
        rc = lz_walk_blocks(walk->sys, walk->options, &walk->attributes, &node, walk->detail);
        if (rc <= 0)
            return rc == -ENOENT ? 0 : rc;
    }
    if (node.kind != LZ_KIND_DIRECTORY)
        return visit_entry(walk, &node);

    struct frame child = child_frame(walk, frame, item, before);
    rc = visit_entry(walk, &node);
    bool hides = child.fresh && !frame->fresh && has_children(walk, child.before);
    if (rc == 0 && hides) {
        struct lz_walk_node mark = node_here(walk, LZ_WALK_OPAQUE, frame, before);
        mark.kind = LZ_KIND_DIRECTORY;
        rc = walk->visit(walk->ctx, &mark);
    }
    return rc == 0 ? descend(walk, frame, &child, item->name, parent_size) : rc;
}

static int visit_lower(struct walk *walk, struct frame *frame, const struct lz_name *item, size_t parent_size)
{
    int64_t lower = child_of(walk, frame->lower, item->name, item->size);
    if (lower < 0)
        return 0;
    int64_t before = child_of(walk, frame->before, item->name, item->size);
    struct lz_walk_node node = node_here(walk, LZ_WALK_ENTRY, frame, before);
    int rc = fill_from_index(walk, &node, (uint32_t)lower);
    if (rc == 0)
        rc = visit_entry(walk, &node);
    if (rc != 0 || node.kind != LZ_KIND_DIRECTORY)
        return rc;
    struct frame child = {.lower = lower, .before = is_kind(walk, before, LZ_KIND_DIRECTORY) ? before : -1};
    child.fresh = true;
    return descend(walk, frame, &child, NULL, parent_size);
}

static int visit_name(struct walk *walk, struct frame *frame, const struct lz_name *item)
{
    size_t size = walk->path_size;
    if (walk->options->directories && item->type != DT_DIR && item->type != DT_UNKNOWN)
        return 0;
    if (item->is_absent)
        return walk->options->layer ? 0 : visit_whiteout(walk, frame, item);
    int rc = push_name(walk, item->name, item->size);
    if (rc == 0)
        rc = item->on_disk ? visit_upper(walk, frame, item, size) : visit_lower(walk, frame, item, size);
    if (rc == 0)
        pop_name(walk, size);
    return rc;
}

/* Whether a name of the upper stands for nothing: a whiteout, or a socket where a layer is written. */
static int look_absent(struct walk *walk, const struct frame *frame, struct lz_name *item)
{
    bool may_be_whiteout = !walk->options->plain && (item->type == DT_CHR || item->type == DT_UNKNOWN);
    bool may_be_socket = walk->options->layer && (item->type == DT_SOCK || item->type == DT_UNKNOWN);
    if (!may_be_whiteout && !may_be_socket)
        return 0;
    struct stat info;
    int rc = walk->sys->fstatat(walk->sys->ctx, frame->fd, item->name, &info, AT_SYMLINK_NOFOLLOW);
    if (rc == -ENOENT)
        return 0;
    if (rc != 0)
        return fail_at(walk, rc, item->name);
    item->is_absent =
        (may_be_socket && S_ISSOCK(info.st_mode)) ||
        (may_be_whiteout && lz_mark_is_whiteout_device(info.st_mode, major(info.st_rdev), minor(info.st_rdev)));
    return 0;
}

static int add_children(const struct walk *walk, int64_t directory, struct lz_listing *listing)
{
    if (directory < 0)
        return 0;
    const struct lz_entry *entry = &walk->lower->entries[directory];
    int rc = 0;
    for (uint32_t i = 0; i < entry->child_count && rc == 0; i++) {
        uint32_t child = entry->first_child + i;
        rc = lz_listing_add(listing, lz_index_name(walk->lower, child), walk->lower->entries[child].name_size);
    }
    return rc;
}

/* The names that matter in a directory: the upper's; where it is fresh also the lower's, and those that were before. */
static int gather(struct walk *walk, const struct frame *frame, struct lz_listing *listing)
{
    int rc = frame->fd >= 0 ? lz_listing_read(walk->sys, frame->fd, listing) : 0;
    for (size_t i = 0; i < listing->count && rc == 0; i++)
        rc = look_absent(walk, frame, &listing->items[i]);
    if (rc == 0 && frame->fresh)
        rc = add_children(walk, frame->lower, listing);
    if (rc == 0 && frame->fresh && frame->before != frame->lower)
        rc = add_children(walk, frame->before, listing);
    if (rc != 0)
        return fail_at(walk, rc, "reading the directory");
    lz_listing_sort(listing);
    for (size_t i = 0; i < listing->count; i++) {
        struct lz_name *item = &listing->items[i];
        if (!item->on_disk && child_of(walk, frame->lower, item->name, item->size) < 0)
            item->is_absent = true;
    }
    return 0;
}

static int enter_directory(struct walk *walk, struct frame *frame)
{
    struct lz_listing listing = {0};
    int rc = gather(walk, frame, &listing);
    for (size_t i = 0; i < listing.count && rc == 0 && walk->options->layer; i++) {
        if (listing.items[i].is_absent)
            rc = visit_whiteout(walk, frame, &listing.items[i]);
    }
    for (size_t i = 0; i < listing.count && rc == 0; i++)
        rc = visit_name(walk, frame, &listing.items[i]);
    lz_listing_free(&listing);
    return rc;
}

static int visit_root(struct walk *walk, struct frame *frame)
{
    struct stat info;
    int rc = walk->sys->fstatat(walk->sys->ctx, frame->fd, "", &info, AT_EMPTY_PATH);
    if (rc != 0)
        return fail_at(walk, rc, "stat");
    struct lz_walk_node node = node_here(walk, LZ_WALK_ENTRY, frame, frame->before);
    lz_walk_fill(&node, &info);
    rc = fill_upper(walk, frame, NULL, &node);
    return rc == 0 ? visit_entry(walk, &node) : rc;
}

int lz_walk(const struct lz_sys *sys, const struct lz_walk_options *options,
            int (*visit)(void *ctx, const struct lz_walk_node *node), void *ctx, struct lz_detail *detail)
{
    const struct lz_index *lower = options->source->lower;
    struct walk walk = {.sys = sys, .options = options, .lower = lower, .visit = visit, .ctx = ctx, .detail = detail};
    int64_t root = lower != NULL ? 0 : -1;
    struct frame frame = {.fd = -1, .lower = root, .before = root};
    int rc = sys->openat(sys->ctx, options->source->upper_fd, ".", O_RDONLY | O_DIRECTORY, 0);
    if (rc < 0)
        return fail_at(&walk, rc, "opening the directory");
    walk.root_fd = rc;
    frame.fd = walk.root_fd;
    rc = visit_root(&walk, &frame);
    if (rc == 0)
        rc = enter_directory(&walk, &frame);
    (void)sys->close(sys->ctx, walk.root_fd);
    lz_attributes_free(&walk.attributes);
    return rc;
}
