#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "lz_union_look.h"

/* ---- below a branch ---- */

int lz_union_beneath(const struct lz_union *self, int dir_fd, const char *path, int flags)
{
    return lz_openat_beneath(self->sys, dir_fd, path, flags | O_NOFOLLOW, 0);
}

int lz_union_share_open(struct lz_union *self, const struct lz_place *place, const struct lz_share *share, int flags)
{
    if (share->entry >= 0)
        return -EINVAL;
    return lz_union_beneath(self, self->lowers[share->branch].fd, (const char *)place->text.data + share->path_offset,
                            flags);
}

int lz_union_upper_open(struct lz_union *self, const char *path, size_t size, int flags)
{
    char text[LZ_PATH_MAX + 1];
    if (self->upper_fd < 0)
        return -ENOENT;
    if (size > LZ_PATH_MAX)
        return -ENAMETOOLONG;
    memcpy(text, path, size);
    text[size] = 0;
    return lz_union_beneath(self, self->upper_fd, text, flags);
}

int lz_union_upper_parent(struct lz_union *self, const char *path, size_t size, const char **name)
{
    const char *slash = size > 0 ? memrchr(path, '/', size) : NULL;
    int fd = lz_union_upper_open(self, path, slash != NULL ? (size_t)(slash - path) : 0, O_PATH | O_DIRECTORY);
    if (fd >= 0)
        *name = slash != NULL ? slash + 1 : path;
    return fd == -ENOTDIR ? -ENOENT : fd; /* hidden by something else, a whiteout say */
}

/* ---- places ---- */

void lz_place_begin(struct lz_place *place)
{
    place->path[0] = 0;
    place->path_size = 0;
    place->exists = false;
    place->shares = place->few;
    place->share_count = 0;
    place->share_capacity = sizeof place->few / sizeof *place->few;
    place->text = (struct lz_buf){0};
}

void lz_place_end(struct lz_place *place)
{
    if (place->shares != place->few)
        free(place->shares);
    lz_buf_free(&place->text);
    place->shares = place->few;
    place->share_count = 0;
    place->share_capacity = sizeof place->few / sizeof *place->few;
}

const struct lz_share *lz_place_data(const struct lz_place *place)
{
    bool in_lower = place->exists && place->info.data_branch != LZ_UNION_UPPER;
    return in_lower && place->share_count > 0 ? &place->shares[place->share_count - 1] : NULL;
}

/* ---- arrays that begin inside their owner ---- */

/* As lz_grow(); `few` is where the array begins, and is not freed. */
static int grow(void **array, size_t *capacity, size_t needed, size_t size, void *few, size_t used)
{
    if (needed <= *capacity)
        return 0;
    void *moved = *array == few ? NULL : *array;
    size_t now = moved == NULL ? 0 : *capacity;
    int rc = lz_grow(&moved, &now, needed > 2 * *capacity ? needed : 2 * *capacity, size);
    if (rc != 0)
        return rc;
    if (*array == few)
        memcpy(moved, few, used * size);
    *array = moved;
    *capacity = now;
    return 0;
}

int lz_walker_add(struct lz_walker *walker, const struct lz_part *part)
{
    void *parts = walker->parts;
    int rc = grow(&parts, &walker->part_capacity, walker->part_count + 1, sizeof *part, walker->few_parts,
                  walker->part_count);
    walker->parts = parts;
    if (rc == 0)
        walker->parts[walker->part_count++] = *part;
    return rc;
}

int lz_walker_push(struct lz_walker *walker, const struct lz_level *level)
{
    void *levels = walker->levels;
    int rc = grow(&levels, &walker->level_capacity, walker->level_count + 1, sizeof *level, walker->few_levels,
                  walker->level_count);
    walker->levels = levels;
    if (rc == 0)
        walker->levels[walker->level_count++] = *level;
    return rc;
}

int lz_place_add(struct lz_place *place, const struct lz_share *share)
{
    void *shares = place->shares;
    int rc =
        grow(&shares, &place->share_capacity, place->share_count + 1, sizeof *share, place->few, place->share_count);
    place->shares = shares;
    if (rc == 0)
        place->shares[place->share_count++] = *share;
    return rc;
}

/* ---- levels ---- */

void lz_walker_begin(struct lz_walker *walker, struct lz_union *self, char *path)
{
    walker->self = self;
    walker->path = path;
    walker->levels = walker->few_levels;
    walker->level_capacity = sizeof walker->few_levels / sizeof *walker->few_levels;
    walker->level_count = 0;
    walker->parts = walker->few_parts;
    walker->part_capacity = sizeof walker->few_parts / sizeof *walker->few_parts;
    walker->part_count = 0;
    walker->text = (struct lz_buf){0};
}

/* Only the top level holds its upper's directory, so that depth does not eat descriptors. */
void lz_walker_close_upper(struct lz_walker *walker)
{
    struct lz_level *level = &walker->levels[walker->level_count - 1];
    if (level->upper_fd >= 0 && level->upper_fd != walker->self->upper_fd)
        (void)walker->self->sys->close(walker->self->sys->ctx, level->upper_fd);
    level->upper_fd = -1;
}

void lz_walker_end(struct lz_walker *walker)
{
    if (walker->level_count > 0)
        lz_walker_close_upper(walker);
    if (walker->levels != walker->few_levels)
        free(walker->levels);
    if (walker->parts != walker->few_parts)
        free(walker->parts);
    lz_buf_free(&walker->text);
}

int lz_walker_upper(struct lz_walker *walker)
{
    struct lz_level *level = &walker->levels[walker->level_count - 1];
    if (level->upper_fd < 0 && level->path_size == 0)
        level->upper_fd = walker->self->upper_fd;
    if (level->upper_fd < 0) {
        int fd = lz_union_upper_open(walker->self, walker->path, level->path_size, O_PATH | O_DIRECTORY);
        if (fd < 0)
            return fd;
        level->upper_fd = fd;
    }
    return level->upper_fd;
}

int lz_walker_root(struct lz_walker *walker)
{
    struct lz_union *self = walker->self;
    if (walker->level_count > 0)
        lz_walker_close_upper(walker);
    walker->level_count = walker->part_count = walker->text.size = 0;
    walker->path[0] = 0;
    struct lz_level root = {.in_upper = self->upper_fd >= 0, .upper_fd = self->upper_fd};
    for (size_t i = 0; i < self->lower_count; i++) {
        const struct lz_branch *branch = &self->lowers[i];
        bool index = branch->kind == LZ_BRANCH_INDEX;
        struct lz_part part = {.branch = (uint32_t)i, .entry = index ? 0 : -1};
        int rc = lz_walker_add(walker, &part);
        if (rc != 0)
            return rc;
        if (index && (branch->index->entries[0].flags & LZ_FLAG_OPAQUE) != 0)
            break;
    }
    root.count = walker->part_count;
    return lz_walker_push(walker, &root);
}

int lz_walker_at(struct lz_walker *walker, const struct lz_place *directory)
{
    if (!directory->exists || directory->info.kind != LZ_KIND_DIRECTORY)
        return -ENOTDIR;
    int rc = lz_walker_root(walker);
    if (rc != 0 || directory->path_size == 0)
        return rc;
    memcpy(walker->path, directory->path, directory->path_size + 1);
    struct lz_level level = {.path_size = directory->path_size,
                             .first = walker->part_count,
                             .count = directory->share_count,
                             .upper_fd = -1,
                             .in_upper = directory->in_upper,
                             .upper_opaque = directory->upper_opaque,
                             .floats = true};
    for (size_t i = 0; i < directory->share_count && rc == 0; i++) {
        const struct lz_share *share = &directory->shares[i];
        struct lz_part part = {.branch = share->branch, .entry = share->entry};
        if (share->entry < 0) {
            const char *text = (const char *)directory->text.data + share->path_offset;
            part.base_offset = (uint32_t)walker->text.size;
            part.base_size = (uint16_t)strlen(text);
            part.cut = (uint16_t)directory->path_size;
            rc = lz_buf_append(&walker->text, text, part.base_size);
        }
        if (rc == 0)
            rc = lz_walker_add(walker, &part);
    }
    level.text_size = walker->text.size;
    return rc == 0 ? lz_walker_push(walker, &level) : rc;
}

int lz_part_path(const struct lz_walker *walker, const struct lz_part *part, size_t path_size,
                 char out[LZ_PATH_MAX + 1])
{
    size_t rest = path_size - part->cut;
    if (part->base_size + rest > LZ_PATH_MAX)
        return -ENAMETOOLONG;
    if (part->base_size > 0)
        memcpy(out, walker->text.data + part->base_offset, part->base_size);
    memcpy(out + part->base_size, walker->path + part->cut, rest);
    out[part->base_size + rest] = 0;
    return (int)(part->base_size + rest);
}

int lz_union_root_info(struct lz_union *self, struct lz_union_info *out)
{
    uint32_t branch = 0;
    for (; branch < self->lower_count && self->upper_fd < 0; branch++) {
        const struct lz_branch *lower = &self->lowers[branch];
        bool last = branch + 1 == self->lower_count;
        if (lower->kind == LZ_BRANCH_DIRECTORY)
            break;
        if (last || (lower->index->entries[0].flags & LZ_FLAG_IMPLICIT) == 0) {
            lz_union_info_of_entry(self, branch, 0, out);
            return 0;
        }
    }
    if (branch == self->lower_count && self->upper_fd < 0) { /* a union of nothing */
        *out = (struct lz_union_info){.kind = LZ_KIND_DIRECTORY, .mode = S_IFDIR | 0755, .link_count = 2, .entry = -1};
        out->data_entry = -1;
        return 0;
    }
    struct stat info;
    int fd = self->upper_fd >= 0 ? self->upper_fd : self->lowers[branch].fd;
    int rc = self->sys->fstatat(self->sys->ctx, fd, "", &info, AT_EMPTY_PATH);
    if (rc == 0)
        lz_union_info_of_stat(&info, self->upper_fd >= 0 ? LZ_UNION_UPPER : branch, out);
    return rc;
}
