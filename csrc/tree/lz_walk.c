#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "../bytes/lz_mark.h"
#include "lz_walk_look.h"

#define OPEN_DEPTH 64u /* deeper, a directory is closed while its children are walked, and opened again by path */

static int enter_directory(struct walk *walk, struct frame *frame);

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

static int visit_entry(struct walk *walk, struct lz_walk_node *node)
{
    node->xattrs = walk->attributes.xattrs;
    node->xattr_count = walk->attributes.xattr_count;
    return walk->visit(walk->ctx, node);
}

static int visit_whiteout(struct walk *walk, const struct frame *frame, const struct lz_name *item)
{
    int64_t before = lz_walk_child(walk, frame->before, item->name, item->size);
    if (before < 0)
        return 0;
    size_t size = walk->path_size;
    int rc = push_name(walk, item->name, item->size);
    if (rc != 0)
        return rc;
    struct lz_walk_node node = lz_walk_node_here(walk, LZ_WALK_WHITEOUT, frame, before);
    node.kind = (enum lz_kind)walk->lower->entries[before].kind;
    rc = walk->visit(walk->ctx, &node);
    pop_name(walk, size);
    return rc;
}

/* ---- directories ---- */

/* Opens a directory again, by its path: another may have that by now. */
static int reopen(struct walk *walk, struct frame *frame)
{
    struct stat info;
    int rc = frame->fd = lz_walk_open(walk, walk->root_fd, walk->path, true);
    if (rc >= 0)
        rc = walk->sys->fstatat(walk->sys->ctx, frame->fd, "", &info, AT_EMPTY_PATH);
    frame->gone = lz_walk_has_changed(rc) || rc == -EXDEV ||
                  (rc == 0 && (info.st_dev != frame->device || info.st_ino != frame->number));
    if (rc != 0 || frame->gone)
        lz_walk_close(walk, &frame->fd);
    return rc == 0 || frame->gone ? 0 : lz_walk_fail(walk, rc, "opening the directory again");
}

/* Walks the child that walk->path names, and closes it. Far down, the parent's descriptor is given back meanwhile, so that
 * depth does not eat descriptors. `parent_size` is the length of the parent's path. */
static int descend(struct walk *walk, struct frame *parent, struct frame *child, size_t parent_size)
{
    bool parent_was_open = parent->fd >= 0;
    child->depth = parent->depth + 1;
    if (parent->depth > OPEN_DEPTH)
        lz_walk_close(walk, &parent->fd);
    int rc = enter_directory(walk, child);
    lz_walk_close(walk, &child->fd);
    if (rc == 0 && parent_was_open && parent->fd < 0) {
        pop_name(walk, parent_size);
        rc = reopen(walk, parent);
    }
    return rc;
}

/* What overlayfs merges a directory of the upper with, and whether that is what was in its place before. */
static struct frame child_frame(const struct walk *walk, const struct frame *parent, const struct lz_name *item,
                                int64_t before)
{
    int64_t lower = walk->attributes.opaque ? -1 : lz_walk_lower(walk, parent, item);
    struct frame child = {.fd = -1};
    child.lower = lz_walk_is(walk, lower, LZ_KIND_DIRECTORY) ? lower : -1;
    child.before = lz_walk_is(walk, before, LZ_KIND_DIRECTORY) ? before : -1;
    child.fresh = parent->fresh || child.lower != child.before;
    return child;
}

static bool has_children(const struct walk *walk, int64_t directory)
{
    return directory >= 0 && walk->lower->entries[directory].child_count > 0;
}

static int visit_directory(struct walk *walk, struct frame *frame, const struct lz_name *item, struct found *found,
                           size_t parent_size)
{
    struct frame child = child_frame(walk, frame, item, found->node.before);
    int rc = visit_entry(walk, &found->node);
    bool hides = child.fresh && !frame->fresh && has_children(walk, child.before);
    if (rc == 0 && hides) {
        struct lz_walk_node mark = lz_walk_node_here(walk, LZ_WALK_OPAQUE, frame, found->node.before);
        mark.kind = LZ_KIND_DIRECTORY;
        rc = walk->visit(walk->ctx, &mark);
    }
    if (rc != 0)
        return rc;
    child.device = found->info.st_dev;
    child.number = found->info.st_ino;
    child.fd = found->fd;
    found->fd = -1;
    return descend(walk, frame, &child, parent_size);
}

static int visit_found(struct walk *walk, struct frame *frame, const struct lz_name *item, struct found *found,
                       size_t parent_size)
{
    struct lz_walk_node *node = &found->node;
    if (node->kind == LZ_KIND_DIRECTORY)
        return visit_directory(walk, frame, item, found, parent_size);
    node->fd = found->fd >= 0 ? &found->fd : NULL;
    if (node->data == LZ_DATA_BLOCKS) {
        int rc = lz_walk_blocks(walk->sys, walk->options, &walk->attributes, node, walk->detail);
        if (rc <= 0)
            return rc == -ENOENT ? 0 : rc;
    }
    return visit_entry(walk, node);
}

static int visit_upper(struct walk *walk, struct frame *frame, const struct lz_name *item, size_t parent_size)
{
    struct found found;
    int rc = lz_walk_look(walk, frame, item, &found);
    if (rc != 0)
        return rc == -ENOENT ? 0 : rc;
    rc = visit_found(walk, frame, item, &found, parent_size);
    lz_walk_close(walk, &found.fd);
    return rc;
}

static int visit_lower(struct walk *walk, struct frame *frame, const struct lz_name *item, size_t parent_size)
{
    int64_t lower = lz_walk_child(walk, frame->lower, item->name, item->size);
    if (lower < 0)
        return 0;
    int64_t before = lz_walk_child(walk, frame->before, item->name, item->size);
    struct lz_walk_node node = lz_walk_node_here(walk, LZ_WALK_ENTRY, frame, before);
    int rc = fill_from_index(walk, &node, (uint32_t)lower);
    if (rc == 0)
        rc = visit_entry(walk, &node);
    if (rc != 0 || node.kind != LZ_KIND_DIRECTORY)
        return rc;
    struct frame child = {.fd = -1, .lower = lower, .fresh = true};
    child.before = lz_walk_is(walk, before, LZ_KIND_DIRECTORY) ? before : -1;
    return descend(walk, frame, &child, parent_size);
}

static int visit_name(struct walk *walk, struct frame *frame, const struct lz_name *item)
{
    size_t size = walk->path_size;
    if (item->on_disk && frame->gone)
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
        return lz_walk_fail(walk, rc, item->name);
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
        return lz_walk_fail(walk, rc, "reading the directory");
    lz_listing_sort(listing);
    for (size_t i = 0; i < listing->count; i++) {
        struct lz_name *item = &listing->items[i];
        if (!item->on_disk && lz_walk_child(walk, frame->lower, item->name, item->size) < 0)
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
        return lz_walk_fail(walk, rc, "stat");
    struct lz_walk_node node = lz_walk_node_here(walk, LZ_WALK_ENTRY, frame, frame->before);
    lz_walk_fill(&node, &info);
    rc = lz_walk_fill_upper(walk, frame, NULL, frame->fd, &node);
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
        return lz_walk_fail(&walk, rc, "opening the directory");
    walk.root_fd = rc;
    frame.fd = walk.root_fd;
    rc = visit_root(&walk, &frame);
    if (rc == 0)
        rc = enter_directory(&walk, &frame);
    (void)sys->close(sys->ctx, walk.root_fd);
    lz_attributes_free(&walk.attributes);
    return rc;
}
