#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "lz_union_look.h"

#define LINKS_MAX 40 /* MAXSYMLINKS */

/* ---- the walk ---- */

struct walk {
    struct lz_walker walker;
    struct lz_place *place;
    unsigned flags;
    int links;
    const char *rest; /* what is left of the path */
    size_t rest_size;
    struct lz_buf expanded[2]; /* where `rest` lies after a symlink, in turn */
};

static struct lz_level *top(struct walk *walk)
{
    return &walk->walker.levels[walk->walker.level_count - 1];
}

static const struct lz_index *index_of(const struct walk *walk, const struct lz_part *part)
{
    return walk->walker.self->lowers[part->branch].index;
}

/* Puts the name behind the top level's path; the length of that, or -ENAMETOOLONG. */
static int extend_path(struct lz_walker *walker, const char *name, size_t size)
{
    size_t at = walker->levels[walker->level_count - 1].path_size;
    if (at + (at > 0) + size > LZ_PATH_MAX)
        return -ENAMETOOLONG;
    if (at > 0)
        walker->path[at++] = '/';
    memcpy(walker->path + at, name, size);
    walker->path[at + size] = 0;
    return (int)(at + size);
}

/* The parent of the top level becomes the top; the root is its own. */
static void go_up(struct walk *walk)
{
    struct lz_walker *walker = &walk->walker;
    struct lz_level *level = top(walk);
    if (walker->level_count == 1)
        return;
    if (level->floats) {
        struct lz_part *part = &walker->parts[level->first];
        const struct lz_level *below = level - 1;
        part->entry = index_of(walk, part)->entries[part->entry].parent;
        const char *slash = memrchr(walker->path, '/', level->path_size);
        level->path_size = slash != NULL ? (size_t)(slash - walker->path) : 0;
        if (level->path_size > below->path_size)
            return;
    }
    lz_walker_close_upper(walker);
    walker->part_count = level->first;
    walker->level_count--;
    walker->text.size = top(walk)->text_size;
}

static void go_to_root(struct walk *walk)
{
    struct lz_walker *walker = &walk->walker;
    if (walker->level_count == 1)
        return;
    lz_walker_close_upper(walker);
    walker->part_count = walker->levels[1].first;
    walker->level_count = 1;

    walker->text.size = 0;
}

/* The directory that was looked up becomes the top level. */
static int enter(struct walk *walk, size_t path_size, const struct lz_look *look)
{
    struct lz_walker *walker = &walk->walker;
    struct lz_level level = {.path_size = path_size,
                             .first = look->first,
                             .count = walker->part_count - look->first,
                             .text_size = walker->text.size,
                             .upper_fd = look->upper_fd,
                             .in_upper = look->in_upper,
                             .upper_opaque = look->upper_opaque};
    lz_walker_close_upper(walker);
    int rc = lz_walker_push(walker, &level);
    if (rc != 0 && look->upper_fd >= 0)
        (void)walker->self->sys->close(walker->self->sys->ctx, look->upper_fd);
    return rc;
}

/* ---- the place ---- */

static int make_share(struct walk *walk, const struct lz_part *part, size_t path_size, struct lz_share *out)
{
    struct lz_place *place = walk->place;
    *out = (struct lz_share){.branch = part->branch, .entry = part->entry, .path_offset = place->text.size};
    if (part->entry >= 0)
        return 0;
    char lower[LZ_PATH_MAX + 1];
    int size = lz_part_path(&walk->walker, part, path_size, lower);
    return size < 0 ? size : lz_buf_append(&place->text, lower, (size_t)size + 1);
}

static int add_share(struct walk *walk, const struct lz_part *part, size_t path_size)
{
    struct lz_share share;
    int rc = make_share(walk, part, path_size, &share);
    return rc == 0 ? lz_place_add(walk->place, &share) : rc;
}

static void set_name(struct lz_place *place, size_t path_size)
{
    const char *slash = path_size > 0 ? memrchr(place->path, '/', path_size) : NULL;
    place->path_size = path_size;
    place->path[path_size] = 0;
    place->name_offset = slash != NULL ? (size_t)(slash + 1 - place->path) : 0;
}

/* The place is what was looked up in the top level. */
static int finish_look(struct walk *walk, size_t path_size, const struct lz_look *look)
{
    struct lz_walker *walker = &walk->walker;
    struct lz_place *place = walk->place;
    set_name(place, path_size);
    place->exists = look->exists;
    place->in_upper = look->in_upper;
    place->parent_in_upper = top(walk)->in_upper;
    place->upper_whiteout = look->upper_whiteout;
    place->upper_opaque = look->upper_opaque;
    place->metacopy = look->metacopy;
    place->lower_has = look->exists && !look->in_upper;
    place->borrows = look->borrows;
    int rc = look->borrows ? make_share(walk, &look->owner, path_size, &place->owner) : 0;
    if (look->exists)
        place->info = look->info;
    for (size_t i = look->first; i < walker->part_count && rc == 0; i++)
        rc = add_share(walk, &walker->parts[i], path_size);
    walker->part_count = look->first;
    if (rc == 0 && (walk->flags & LZ_WALK_CHANGE) != 0 && !place->lower_has)
        rc = lz_union_look_below(walker, path_size, look, &place->lower_has);
    if (rc != 0 || place->exists)
        return rc;
    return (walk->flags & LZ_WALK_MAY_MISS) != 0 ? 0 : -ENOENT;
}

static int finish_root(struct walk *walk)
{
    struct lz_place *place = walk->place;
    const struct lz_level *root = top(walk);
    set_name(place, 0);
    place->exists = true;
    place->in_upper = place->parent_in_upper = root->in_upper;
    place->upper_whiteout = place->upper_opaque = place->metacopy = place->borrows = false;
    place->lower_has = root->count > 0 && !root->in_upper;
    int rc = lz_union_root_info(walk->walker.self, &place->info);
    if (rc == 0 && root->count + root->in_upper > 1)
        place->info.link_count = 1;
    for (size_t i = 0; i < root->count && rc == 0; i++)
        rc = add_share(walk, &walk->walker.parts[root->first + i], 0);
    return rc;
}

/* The place is the top level: the path ended in `.`, `..` or a symlink to such. On the way in only the parts of a
 * directory were looked at, so it is looked up once more. */
static int finish_level(struct walk *walk)
{
    struct lz_walker *walker = &walk->walker;
    size_t path_size = top(walk)->path_size;
    if (path_size == 0)
        return finish_root(walk);
    char name[LZ_NAME_MAX + 1];
    walker->path[path_size] = 0;
    const char *slash = memrchr(walker->path, '/', path_size);
    const char *last = slash != NULL ? slash + 1 : walker->path;
    struct lz_look look = {.name = name, .size = path_size - (size_t)(last - walker->path)};
    memcpy(name, last, look.size + 1);
    go_up(walk);
    int rc = lz_union_look(walker, path_size, &look);
    return rc == 0 ? finish_look(walk, path_size, &look) : rc;
}

/* The place is an entry of the index that the top level lies in, and nothing else is. */
static int finish_entry(struct walk *walk, const struct lz_part *part, int64_t entry, const char *rest, size_t size)
{
    struct lz_place *place = walk->place;
    int path_size = extend_path(&walk->walker, rest, size);
    if (path_size < 0)
        return path_size;
    set_name(place, (size_t)path_size);
    place->exists = place->lower_has = true;
    place->in_upper = place->parent_in_upper = place->upper_whiteout = place->upper_opaque = false;
    place->metacopy = place->borrows = false;
    lz_union_info_of_entry(walk->walker.self, part->branch, (uint32_t)entry, &place->info);
    place->few[0] = (struct lz_share){.branch = part->branch, .entry = entry};
    place->shares[0] = place->few[0];
    place->share_count = 1;
    return 0;
}

/* ---- symlinks ---- */

static bool follows(const struct walk *walk, bool last, bool slash)
{
    if (!last)
        return true;
    if ((walk->flags & LZ_WALK_CHANGE) != 0)
        return false;
    return slash || (walk->flags & LZ_WALK_NOFOLLOW) == 0;
}

/* The rest of the path becomes the target, then what was left. */
static int expand(struct walk *walk, const char *target, size_t size, const char *rest, size_t rest_size)
{
    struct lz_buf *out = &walk->expanded[walk->links & 1];
    if (++walk->links > LINKS_MAX)
        return -ELOOP;
    if (size == 0)
        return -ENOENT;
    if (target[0] == '/')
        go_to_root(walk);
    out->size = 0;
    int rc = lz_buf_append(out, target, size);
    if (rc == 0)
        rc = lz_buf_append(out, rest, rest_size); /* begins with a slash, or is empty */
    walk->rest = (const char *)out->data;
    walk->rest_size = out->size;
    return rc;
}

static ssize_t read_target(struct walk *walk, const struct lz_look *look, size_t path_size, char out[LZ_PATH_MAX + 1])
{
    struct lz_walker *walker = &walk->walker;
    struct lz_union *self = walker->self;
    ssize_t size;
    if (look->in_upper)
        size = self->sys->readlinkat(self->sys->ctx, lz_walker_upper(walker), look->name, out, LZ_PATH_MAX + 1);
    else {
        const struct lz_part *part = &walker->parts[look->first];
        char lower[LZ_PATH_MAX + 1];
        if (part->entry >= 0) {
            const struct lz_index *index = index_of(walk, part);
            size = (ssize_t)index->entries[part->entry].size;
            memcpy(out, lz_index_target(index, (uint32_t)part->entry), (size_t)size);
            return size;
        }
        int rc = lz_part_path(walker, part, path_size, lower);
        int fd = rc < 0 ? rc : lz_union_beneath(self, self->lowers[part->branch].fd, lower, O_PATH);
        if (fd < 0)
            return fd;
        size = self->sys->readlinkat(self->sys->ctx, fd, "", out, LZ_PATH_MAX + 1);
        (void)self->sys->close(self->sys->ctx, fd);
    }
    return size > (ssize_t)LZ_PATH_MAX ? -ENAMETOOLONG : size;
}

/* ---- jumps ---- */

/* The path of the entry that the top level is, a slash, and `rest`, which ends the key. NULL when it is too long. */
static const char *key_of(const struct walk *walk, const struct lz_part *part, const char *rest, size_t size,
                          char out[LZ_PATH_MAX + 1], size_t *key_size)
{
    *key_size = size;
    if (part->entry == 0)
        return rest;
    const struct lz_entry *entry = &index_of(walk, part)->entries[part->entry];
    *key_size = entry->path_size + 1u + size;
    if (*key_size > LZ_PATH_MAX)
        return NULL;
    memcpy(out, lz_index_path(index_of(walk, part), (uint32_t)part->entry), entry->path_size);
    out[entry->path_size] = '/';
    memcpy(out + entry->path_size + 1, rest, size);
    return out;
}

/* The directory `size` bytes of rest away becomes the top level. */
static int float_to(struct walk *walk, const struct lz_part *part, int64_t entry, const char *rest, size_t size)
{
    struct lz_walker *walker = &walk->walker;
    int path_size = extend_path(walker, rest, size);
    if (path_size < 0)
        return path_size;
    if (top(walk)->floats) {
        top(walk)->path_size = (size_t)path_size;
        walker->parts[top(walk)->first].entry = entry;
        return 0;
    }
    struct lz_part next = {.branch = part->branch, .entry = entry};
    struct lz_level level = {.path_size = (size_t)path_size,
                             .first = walker->part_count,
                             .count = 1,
                             .text_size = walker->text.size,
                             .upper_fd = -1,
                             .floats = true};
    lz_walker_close_upper(walker);
    int rc = lz_walker_add(walker, &next);
    return rc == 0 ? lz_walker_push(walker, &level) : rc;
}

/* Where an index alone is left, its hash knows the whole path at once: no directory of it can lie behind a symlink, and
 * what is not in its plain form is not found. 1: the place is found (or *rc); 0: the loop goes on from where it is now. */
static int jump(struct walk *walk, int *rc)
{
    struct lz_part part = walk->walker.parts[top(walk)->first];
    const struct lz_index *index = index_of(walk, &part);
    size_t size = walk->rest_size;
    while (size > 0 && walk->rest[size - 1] == '/')
        size--;
    bool slash = size < walk->rest_size;
    char buffer[LZ_PATH_MAX + 1];
    size_t key_size;
    const char *key = key_of(walk, &part, walk->rest, size, buffer, &key_size);
    int64_t found = key != NULL && size > 0 ? lz_index_find(index, key, key_size) : -ENOENT;
    enum lz_kind kind = found >= 0 ? (enum lz_kind)index->entries[found].kind : LZ_KIND_WHITEOUT;
    if (kind != LZ_KIND_WHITEOUT && !(kind == LZ_KIND_SYMLINK && follows(walk, true, slash))) {
        walk->place->needs_directory = slash;
        *rc = finish_entry(walk, &part, found, walk->rest, size);
        return 1;
    }
    const char *last = size > 0 ? memrchr(walk->rest, '/', size) : NULL;
    size_t parent_size = last != NULL ? (size_t)(last - walk->rest) : 0;
    if (key == NULL || parent_size == 0)
        return 0;
    found = lz_index_find(index, key, key_size - (size - parent_size));
    if (found < 0 || index->entries[found].kind != LZ_KIND_DIRECTORY)
        return 0;
    *rc = float_to(walk, &part, found, walk->rest, parent_size);
    if (*rc != 0)
        return 1;
    walk->rest += parent_size;
    walk->rest_size -= parent_size;
    return 0;
}

static bool may_jump(struct walk *walk)
{
    const struct lz_level *level = top(walk);
    return !level->in_upper && level->count == 1 && walk->walker.parts[level->first].entry >= 0;
}

/* ---- names ---- */

static void skip_slashes(struct walk *walk)
{
    while (walk->rest_size > 0 && walk->rest[0] == '/') {
        walk->rest++;
        walk->rest_size--;
    }
}

static int walk_name(struct walk *walk, size_t size, bool *done)
{
    struct lz_walker *walker = &walk->walker;
    if (size > LZ_NAME_MAX)
        return -ENAMETOOLONG;
    char name[LZ_NAME_MAX + 1];
    memcpy(name, walk->rest, size);
    name[size] = 0;
    const char *rest = walk->rest + size;
    size_t rest_size = walk->rest_size - size;
    walk->rest = rest;
    walk->rest_size = rest_size;
    skip_slashes(walk);
    bool last = walk->rest_size == 0, slash = rest_size > 0;
    int path_size = extend_path(walker, name, size);
    if (path_size < 0)
        return path_size;
    struct lz_look look = {.name = name, .size = size, .enter = !last};
    int rc = lz_union_look(walker, (size_t)path_size, &look);
    if (rc != 0)
        return rc;
    if (look.exists && look.info.kind == LZ_KIND_SYMLINK && follows(walk, last, slash)) {
        char target[LZ_PATH_MAX + 1];
        ssize_t target_size = read_target(walk, &look, (size_t)path_size, target);
        walker->part_count = look.first;
        return target_size < 0 ? (int)target_size : expand(walk, target, (size_t)target_size, rest, rest_size);
    }
    if (last) {
        walk->place->last = LZ_LAST_NAME;
        walk->place->needs_directory = slash;
        *done = true;
        return finish_look(walk, (size_t)path_size, &look);
    }
    if (!look.exists || look.info.kind != LZ_KIND_DIRECTORY)
        return look.exists ? -ENOTDIR : -ENOENT;
    return enter(walk, (size_t)path_size, &look);
}

static int walk_names(struct walk *walk)
{
    struct lz_place *place = walk->place;
    place->last = LZ_LAST_ROOT;
    for (bool done = false; !done;) {
        skip_slashes(walk);
        int rc = 0;
        if (walk->rest_size > 0 && may_jump(walk) && jump(walk, &rc) != 0) {
            place->last = LZ_LAST_NAME;
            return rc;
        }
        skip_slashes(walk);
        if (walk->rest_size == 0) {
            place->needs_directory = true;
            return finish_level(walk);
        }
        const char *slash = memchr(walk->rest, '/', walk->rest_size);
        size_t size = slash != NULL ? (size_t)(slash - walk->rest) : walk->rest_size;
        bool dot = walk->rest[0] == '.' && size == 1;
        bool dotdot = walk->rest[0] == '.' && size == 2 && walk->rest[1] == '.';
        if (dot || dotdot) {
            if (dotdot)
                go_up(walk);
            place->last = dot ? LZ_LAST_DOT : LZ_LAST_DOTDOT;
            walk->rest += size;
            walk->rest_size -= size;
            continue;
        }
        rc = walk_name(walk, size, &done);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static bool fits(const struct walk *walk)
{
    const struct lz_place *place = walk->place;
    return !place->needs_directory || !place->exists || place->info.kind == LZ_KIND_DIRECTORY ||
           (walk->flags & LZ_WALK_CHANGE) != 0;
}

int lz_union_walk(struct lz_union *self, const char *path, size_t size, unsigned flags, struct lz_place *place)
{
    if (size == 0)
        return -ENOENT;
    if (size > LZ_PATH_MAX)
        return -ENAMETOOLONG;
    if (memchr(path, 0, size) != NULL)
        return -EINVAL;
    struct walk walk;
    walk.place = place;
    walk.flags = flags;
    walk.links = 0;
    walk.rest = path;
    walk.rest_size = size;
    walk.expanded[0] = walk.expanded[1] = (struct lz_buf){0};
    place->exists = place->needs_directory = false;
    place->share_count = place->text.size = 0;
    lz_walker_begin(&walk.walker, self, place->path);
    int rc = lz_walker_root(&walk.walker);
    if (rc == 0)
        rc = walk_names(&walk);
    if (rc == 0 && !fits(&walk))
        rc = -ENOTDIR;
    lz_walker_end(&walk.walker);
    lz_buf_free(&walk.expanded[0]);
    lz_buf_free(&walk.expanded[1]);
    if (rc != 0)
        place->exists = false;
    return rc;
}

int lz_union_child(struct lz_union *self, const struct lz_place *directory, const char *name, size_t size,
                   unsigned flags, struct lz_place *child)
{
    char text[LZ_NAME_MAX + 1];
    if (size > LZ_NAME_MAX)
        return -ENAMETOOLONG;
    if (size == 0 || memchr(name, 0, size) != NULL || memchr(name, '/', size) != NULL)
        return -EINVAL;
    memcpy(text, name, size);
    text[size] = 0;
    if (strcmp(text, ".") == 0 || strcmp(text, "..") == 0)
        return -EINVAL;
    struct walk walk;
    walk.place = child;
    walk.flags = flags | LZ_WALK_MAY_MISS;
    child->exists = child->needs_directory = false;
    child->last = LZ_LAST_NAME;
    child->share_count = child->text.size = 0;
    struct lz_look look = {.name = text, .size = size};
    lz_walker_begin(&walk.walker, self, child->path);
    int rc = lz_walker_at(&walk.walker, directory);
    int path_size = rc == 0 ? extend_path(&walk.walker, text, size) : rc;
    rc = path_size < 0 ? path_size : lz_union_look(&walk.walker, (size_t)path_size, &look);
    if (rc == 0)
        rc = finish_look(&walk, (size_t)path_size, &look);
    lz_walker_end(&walk.walker);
    return rc;
}
