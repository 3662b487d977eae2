#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../base/lz_mem.h"
#include "../bytes/lz_mark.h"
#include "../bytes/lz_tar.h"
#include "lz_content.h"
#include "lz_erofs.h"
#include "lz_kind.h"
#include "lz_recipe.h"
#include "lz_stage.h"
#include "lz_tree.h"

struct lz_tar_stage {
    struct lz_stage *stage;
    struct lz_tar_reader *reader;
    struct lz_chunk *chunk; /* what the reader's pointers point into */
    struct lz_tree *tree;
    struct lz_content content;
    struct lz_xattr *xattrs; /* of the entry at hand */
    size_t xattr_capacity;
};

/* ---- the reader's source ---- */

static int next_chunk(void *ctx, const uint8_t **data, size_t *size)
{
    struct lz_tar_stage *self = ctx;
    lz_chunk_release(self->chunk);
    self->chunk = NULL;
    int more = lz_queue_pop(self->stage->tar_queue, &self->chunk);
    if (more == 1) {
        *data = self->chunk->data;
        *size = self->chunk->size;
    }
    return more;
}

static int literal(void *ctx, const uint8_t *data, size_t size)
{
    struct lz_tar_stage *self = ctx;
    return lz_recipe_literal(self->content.recipe, data, size);
}

/* ---- names ---- */

struct name {
    char path[LZ_PATH_MAX + 1];
    size_t size;
    enum lz_mark mark;
    size_t base;        /* where the last component begins */
    const char *target; /* whiteout: the hidden name, in `path` */
    size_t target_size;
};

/* Cleans a path and reads its marks. A mark names a file of lower layers, so nothing can lie below one. */
static int read_name(const struct lz_tar_entry *entry, struct name *name, struct lz_detail *detail)
{
    int size = lz_path_clean(entry->path, entry->path_size, name->path, detail);
    if (size < 0)
        return size;
    name->size = (size_t)size;
    name->mark = LZ_MARK_NONE;
    name->base = 0;
    while (name->size > 0) {
        const char *component = name->path + name->base;
        const char *slash = memchr(component, '/', name->size - name->base);
        size_t length = slash != NULL ? (size_t)(slash - component) : name->size - name->base;
        int mark = lz_mark_of_name(component, length, &name->target, &name->target_size);
        if (mark < 0)
            return lz_fail(detail, mark, "entry %s: reserved name %.*s", name->path, (int)length, component);
        if (slash == NULL && name->mark == LZ_MARK_NONE)
            name->mark = (enum lz_mark)mark;
        else if (mark == LZ_MARK_IGNORED)
            name->mark = LZ_MARK_IGNORED; /* aufs keeps its own files below .wh..wh.plnk and the like */
        else if (slash != NULL && mark != LZ_MARK_NONE && name->mark == LZ_MARK_NONE)
            return lz_fail(detail, LZ_E_FORMAT, "entry %s: lies below the mark %.*s", name->path, (int)length,
                           component);
        if (slash == NULL)
            break;
        name->base += length + 1;
    }
    return 0;
}

static int add_whiteout(struct lz_tar_stage *self, const struct name *name, struct lz_detail *detail)
{
    char path[LZ_PATH_MAX + 1];
    memcpy(path, name->path, name->base);
    memcpy(path + name->base, name->target, name->target_size);
    path[name->base + name->target_size] = 0;
    return lz_tree_whiteout(self->tree, path, name->base + name->target_size, detail);
}

static int add_opaque(struct lz_tar_stage *self, struct name *name, struct lz_detail *detail)
{
    size_t size = name->base > 0 ? name->base - 1 : 0;
    name->path[size] = 0;
    return lz_tree_opaque(self->tree, name->path, size, detail);
}

/* ---- entries ---- */

static int read_xattrs(struct lz_tar_stage *self, const struct lz_tar_entry *entry, const struct name *name,
                       struct lz_detail *detail)
{
    int rc = lz_grow((void **)&self->xattrs, &self->xattr_capacity, entry->xattr_count, sizeof *self->xattrs);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < entry->xattr_count; i++) {
        const struct lz_tar_xattr *in = &entry->xattrs[i];
        if (in->name_size > LZ_XATTR_NAME_MAX)
            return lz_fail(detail, LZ_E_LIMIT, "%s: xattr %.40s: a name of %zu bytes, allowed are %u", name->path,
                           in->name, in->name_size, LZ_XATTR_NAME_MAX);
        self->xattrs[i] = (struct lz_xattr){in->name, in->name_size, in->value, in->value_size};
    }
    if (entry->xattr_count == 0)
        return 0;
    return lz_erofs_check_xattrs(name->path, self->xattrs, entry->xattr_count, detail);
}

static int add_node(struct lz_tar_stage *self, const struct lz_tar_entry *entry, const struct name *name,
                    struct lz_detail *detail)
{
    struct lz_tree_node node = {
        .kind = lz_kind_of_tar(entry->type),
        .mode = entry->mode & 07777,
        .uid = entry->uid,
        .gid = entry->gid,
        .mtime = entry->mtime,
        .mtime_nsec = entry->mtime_nsec,
    };
    int rc = read_xattrs(self, entry, name, detail);
    if (rc != 0)
        return rc;
    node.xattrs = self->xattrs;
    node.xattr_count = entry->xattr_count;
    if (node.kind == LZ_KIND_CHAR || node.kind == LZ_KIND_BLOCK) {
        node.major = entry->major;
        node.minor = entry->minor;
        rc = lz_erofs_check_device(name->path, node.major, node.minor, detail);
        if (rc != 0)
            return rc;
    } else if (node.kind == LZ_KIND_SYMLINK) {
        if (entry->link_size == 0 || entry->link_size > LZ_PATH_MAX)
            return lz_fail(detail, entry->link_size == 0 ? LZ_E_FORMAT : LZ_E_LIMIT,
                           "entry %s: symbolic link to %zu bytes, allowed are 1 to %u", name->path, entry->link_size,
                           LZ_PATH_MAX);
        node.target = entry->link;
        node.target_size = entry->link_size;
    } else if (node.kind == LZ_KIND_FILE) {
        rc = lz_content_store(&self->content, self->reader, entry, name->path, &node, detail);
        if (rc == 0 && (node.flags & LZ_FLAG_OBJECT) != 0)
            rc = lz_tree_add_object(self->tree, node.digest, node.size);
        if (rc != 0)
            return rc;
    }
    return lz_tree_add(self->tree, name->path, name->size, &node, detail);
}

static int add_link(struct lz_tar_stage *self, const struct lz_tar_entry *entry, const struct name *name,
                    struct lz_detail *detail)
{
    char target[LZ_PATH_MAX + 1];
    int size = lz_path_clean(entry->link, entry->link_size, target, detail);
    if (size < 0)
        return lz_fail_within(detail, size, "entry %s: hard link", name->path);
    return lz_tree_link(self->tree, name->path, name->size, target, (size_t)size, detail);
}

static int take_entry(struct lz_tar_stage *self, const struct lz_tar_entry *entry, struct lz_detail *detail)
{
    struct name name;
    int rc = read_name(entry, &name, detail);
    if (rc != 0)
        return rc;
    if (name.mark == LZ_MARK_NONE && entry->type == LZ_TAR_FILE)
        return add_node(self, entry, &name, detail);
    /* Content that no file keeps (of a mark, or of a hard link that repeats its target's) is part of the recipe. */
    rc = lz_content_pass(&self->content, self->reader, detail);
    if (rc != 0 || name.mark == LZ_MARK_IGNORED)
        return rc;
    if (name.mark == LZ_MARK_WHITEOUT)
        return add_whiteout(self, &name, detail);
    if (name.mark == LZ_MARK_OPAQUE)
        return add_opaque(self, &name, detail);
    if (entry->type == LZ_TAR_HARDLINK)
        return add_link(self, entry, &name, detail);
    if (entry->type == LZ_TAR_CHAR && lz_mark_is_whiteout_device(S_IFCHR | entry->mode, entry->major, entry->minor))
        return lz_tree_whiteout(self->tree, name.path, name.size, detail);
    return add_node(self, entry, &name, detail);
}

static int count_entry(struct lz_stage *stage, struct lz_detail *detail)
{
    uint64_t count = atomic_fetch_add_explicit(&stage->progress->entries, 1, memory_order_relaxed) + 1;
    if (count > stage->limits.max_entries)
        return lz_fail(detail, LZ_E_LIMIT, "more than %llu entries (max_entries)",
                       (unsigned long long)stage->limits.max_entries);
    return 0;
}

int lz_tar_stage_run(struct lz_tar_stage *self, struct lz_detail *detail)
{
    struct lz_tar_entry entry;
    int rc;
    while ((rc = lz_tar_next(self->reader, &entry, detail)) == 1) {
        rc = count_entry(self->stage, detail);
        if (rc == 0)
            rc = take_entry(self, &entry, detail);
        if (rc != 0)
            return rc;
    }
    return rc;
}

/* ---- life ---- */

int lz_tar_stage_new(struct lz_stage *stage, struct lz_tar_stage **out, struct lz_detail *detail)
{
    struct lz_tar_stage *self = calloc(1, sizeof *self);
    if (self == NULL)
        return -ENOMEM;
    self->stage = stage;
    const struct lz_tar_source source = {.next = next_chunk, .literal = literal, .ctx = self};
    const struct lz_tree_limits limits = {.max_entries = stage->limits.max_entries};
    int rc = lz_content_open(&self->content, stage, detail);
    if (rc == 0)
        rc = lz_tar_reader_new(&source, 0, &self->reader);
    if (rc == 0)
        rc = lz_tree_new(&limits, &self->tree);
    if (rc != 0) {
        lz_tar_stage_free(self);
        return rc;
    }
    *out = self;
    return 0;
}

int lz_tar_stage_finish(struct lz_tar_stage *self, struct lz_detail *detail)
{
    return lz_content_finish(&self->content, self->tree, detail);
}

void lz_tar_stage_free(struct lz_tar_stage *self)
{
    lz_tar_reader_free(self->reader);
    lz_chunk_release(self->chunk);
    lz_tree_free(self->tree);
    lz_content_close(&self->content);
    free(self->xattrs);
    free(self);
}
