#include "lz_lookup.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "lz_union_look.h"

_Static_assert(sizeof(struct lz_lookup_row) == 88, "numpy reads the rows");

#define BATCH 64

/* Both spellings mean the root of the union; more slashes are for the walk. */
static struct lz_text without_slash(struct lz_text path)
{
    return path.size > 0 && path.bytes[0] == '/' ? (struct lz_text){path.bytes + 1, path.size - 1} : path;
}

/* No entry has this very path. It is missing when the directory is there that would hold it, and the name is one. */
static int64_t judge_miss(const struct lz_index *index, struct lz_text path)
{
    const char *slash = memrchr(path.bytes, '/', path.size);
    const char *name = slash == NULL ? path.bytes : slash + 1;
    size_t name_size = (size_t)(path.bytes + path.size - name);
    if (slash == path.bytes && slash != NULL) /* a second leading slash */
        return LZ_LOOKUP_WALK;
    int64_t parent = slash == NULL ? 0 : lz_index_find(index, path.bytes, (size_t)(slash - path.bytes));
    bool dots = name_size > 0 && name[0] == '.' && (name_size == 1 || (name_size == 2 && name[1] == '.'));
    if (parent < 0 || index->entries[parent].kind != LZ_KIND_DIRECTORY || name_size == 0 || name_size > LZ_NAME_MAX ||
        dots || memchr(name, 0, name_size) != NULL)
        return LZ_LOOKUP_WALK;
    return -ENOENT;
}

/* `found` is what the index said of without_slash(path). */
static int64_t judge(const struct lz_index *index, struct lz_text path, int64_t found, unsigned flags)
{
    if (path.size == 0 || path.size > LZ_PATH_MAX) /* no name of the root, and none of anything */
        return LZ_LOOKUP_WALK;
    if (found < 0)
        return judge_miss(index, without_slash(path));
    return index->entries[found].kind == LZ_KIND_SYMLINK && (flags & LZ_UNION_NOFOLLOW) == 0 ? LZ_LOOKUP_WALK : found;
}

int64_t lz_lookup_try(const struct lz_index *index, const char *path, size_t size, unsigned flags)
{
    struct lz_text text = {path, size}, name = without_slash(text);
    return judge(index, text, lz_index_find(index, name.bytes, name.size), flags);
}

void lz_lookup_entry(const struct lz_lookup *self, int64_t entry, struct lz_union_info *out)
{
    lz_union_info_of_entry(self->layers, 0, (uint32_t)entry, out);
}

uint32_t lz_lookup_layer(const struct lz_lookup *self, uint32_t branch, int64_t entry)
{
    if (branch == LZ_UNION_UPPER)
        return self->upper_layer;
    const struct lz_branch *lower = &self->lowers[branch];
    bool merged = lower->kind == LZ_BRANCH_INDEX && entry >= 0;
    return self->first_layer[branch] + (merged ? lower->index->entries[entry].layer : 0);
}

static void fill_missing(struct lz_lookup_row *row, int code)
{
    *row = (struct lz_lookup_row){.entry = -1, .layer = -1, .error = (uint16_t)(code > -4096 ? -code : EIO)};
}

/* Field by field: an initializer that clears the row first costs a fifth of the whole batch. */
static void fill_entry(struct lz_lookup_row *row, const struct lz_index *index, int64_t number, uint32_t first_layer)
{
    const struct lz_entry *entry = &index->entries[number];
    row->entry = number;
    row->size = entry->size;
    row->mtime = entry->mtime;
    memcpy(row->digest, entry->digest, sizeof row->digest);
    row->mtime_nsec = entry->mtime_nsec;
    row->uid = entry->uid;
    row->gid = entry->gid;
    row->link_count = entry->link_count;
    row->layer = (int32_t)(first_layer + entry->layer);
    row->mode = entry->mode;
    row->error = 0;
    row->kind = entry->kind;
    row->has_digest = entry->kind == LZ_KIND_FILE;
    memset(row->reserved, 0, sizeof row->reserved);
}

static void fill_by_walk(const struct lz_lookup *self, struct lz_text path, unsigned flags, struct lz_lookup_row *row)
{
    struct lz_union_info info;
    int rc = lz_union_stat(self->layers, path.bytes, path.size, flags, &info);
    if (rc < 0) {
        fill_missing(row, rc);
        return;
    }
    *row = (struct lz_lookup_row){
        .entry = info.entry,
        .size = info.size,
        .mtime = info.mtime.tv_sec,
        .mtime_nsec = (uint32_t)info.mtime.tv_nsec,
        .uid = info.uid,
        .gid = info.gid,
        .link_count = info.link_count,
        .layer = (int32_t)lz_lookup_layer(self, info.branch, info.entry),
        .mode = (uint16_t)info.mode,
        .kind = (uint8_t)info.kind,
        .has_digest = info.has_digest,
    };
    if (info.has_digest)
        memcpy(row->digest, info.digest, sizeof row->digest);
}

static void batch(const struct lz_lookup *self, const struct lz_text *paths, size_t count, unsigned flags,
                  struct lz_lookup_row *rows)
{
    const struct lz_index *index = self->index;
    struct lz_text names[BATCH];
    int64_t found[BATCH];
    if (index != NULL) {
        for (size_t i = 0; i < count; i++)
            names[i] = without_slash(paths[i]);
        lz_index_find_each(index, names, count, found);
    }
    for (size_t i = 0; i < count; i++) {
        int64_t entry = index == NULL ? LZ_LOOKUP_WALK : judge(index, paths[i], found[i], flags);
        if (entry >= 0)
            fill_entry(&rows[i], index, entry, self->first_layer[0]);
        else if (entry == LZ_LOOKUP_WALK)
            fill_by_walk(self, paths[i], flags, &rows[i]);
        else
            fill_missing(&rows[i], (int)entry);
    }
}

void lz_lookup_many(const struct lz_lookup *self, const struct lz_text *paths, size_t count, unsigned flags,
                    struct lz_lookup_row *rows)
{
    for (size_t from = 0; from < count; from += BATCH)
        batch(self, paths + from, count - from < BATCH ? count - from : BATCH, flags, rows + from);
}

int lz_lookup_packed(const struct lz_lookup *self, const char *bytes, size_t size, const uint64_t *offsets,
                     size_t count, unsigned flags, struct lz_lookup_row *rows)
{
    for (size_t i = 0; i < count; i++)
        if (offsets[i] > offsets[i + 1] || offsets[i + 1] > size)
            return -EINVAL;
    for (size_t from = 0; from < count; from += BATCH) {
        size_t now = count - from < BATCH ? count - from : BATCH;
        struct lz_text paths[BATCH];
        for (size_t i = 0; i < now; i++)
            paths[i] = (struct lz_text){bytes + offsets[from + i], offsets[from + i + 1] - offsets[from + i]};
        batch(self, paths, now, flags, rows + from);
    }
    return 0;
}
