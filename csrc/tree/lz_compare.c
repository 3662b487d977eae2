#include "lz_compare.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "../base/lz_mem.h"

/* Children that are still to come, of a directory of each view; a range is empty where a view has no such directory. */
struct level {
    uint32_t at[2], end[2];
};

struct lz_compare {
    const struct lz_index *views[2]; /* before, after */
    uint32_t *pairs[2]; /* by the first entry of a hard-link group: the number of the first path of it that both have */
    uint32_t pair_count;
    struct level *levels;
    size_t depth, capacity;
    bool begun;
};

static const struct lz_entry *entry_of(const struct lz_compare *compare, int view, uint32_t number)
{
    return &compare->views[view]->entries[number];
}

int lz_compare_new(const struct lz_index *before, const struct lz_index *after, struct lz_compare **out)
{
    struct lz_compare *compare = calloc(1, sizeof *compare);
    if (compare == NULL)
        return -ENOMEM;
    compare->views[0] = before;
    compare->views[1] = after;
    for (int view = 0; view < 2; view++) {
        compare->pairs[view] = lz_zalloc_array(compare->views[view]->entry_count, sizeof(uint32_t));
        if (compare->pairs[view] == NULL) {
            lz_compare_free(compare);
            return -ENOMEM;
        }
    }
    *out = compare;
    return 0;
}

void lz_compare_free(struct lz_compare *compare)
{
    if (compare == NULL)
        return;
    free(compare->pairs[0]);
    free(compare->pairs[1]);
    free(compare->levels);
    free(compare);
}

static bool same_xattrs(const struct lz_compare *compare, const struct lz_entry *a, const struct lz_entry *b)
{
    return a->xattr_size == b->xattr_size &&
           (a->xattr_size == 0 || memcmp(compare->views[0]->xattrs + a->xattr_offset,
                                         compare->views[1]->xattrs + b->xattr_offset, a->xattr_size) == 0);
}

/* Two names are linked in one view and not in the other exactly when some path's group began at different pairs. */
static bool same_links(struct lz_compare *compare, const struct lz_entry *a, const struct lz_entry *b)
{
    uint32_t number = ++compare->pair_count;
    uint32_t *first[2] = {&compare->pairs[0][a->link], &compare->pairs[1][b->link]};
    for (int view = 0; view < 2; view++)
        if (*first[view] == 0)
            *first[view] = number;
    return *first[0] == *first[1];
}

static uint32_t differences(struct lz_compare *compare, uint32_t before, uint32_t after)
{
    const struct lz_entry *a = entry_of(compare, 0, before), *b = entry_of(compare, 1, after);
    uint32_t found = 0;
    if (a->kind != b->kind)
        found |= LZ_DIFFERS_TYPE;
    else if (a->kind == LZ_KIND_FILE && (a->size != b->size || memcmp(a->digest, b->digest, sizeof a->digest) != 0))
        found |= LZ_DIFFERS_CONTENT;
    else if (a->kind == LZ_KIND_SYMLINK &&
             (a->size != b->size || memcmp(lz_index_target(compare->views[0], before),
                                           lz_index_target(compare->views[1], after), a->size) != 0))
        found |= LZ_DIFFERS_TARGET;
    else if (a->major != b->major || a->minor != b->minor)
        found |= LZ_DIFFERS_DEVICE;
    if ((a->mode & 07777u) != (b->mode & 07777u))
        found |= LZ_DIFFERS_MODE;
    if (a->uid != b->uid || a->gid != b->gid)
        found |= LZ_DIFFERS_OWNER;
    if (a->mtime != b->mtime || a->mtime_nsec != b->mtime_nsec)
        found |= LZ_DIFFERS_MTIME;
    if (!same_xattrs(compare, a, b))
        found |= LZ_DIFFERS_XATTRS;
    if (a->kind == b->kind && a->kind != LZ_KIND_DIRECTORY && !same_links(compare, a, b))
        found |= LZ_DIFFERS_LINKS;
    return found;
}

/* Goes into what is a directory in a view; `numbers` -1 where a view has nothing under the name. */
static int go_in(struct lz_compare *compare, const int64_t numbers[2])
{
    struct level level = {{0, 0}, {0, 0}};
    bool any = false;
    for (int view = 0; view < 2; view++) {
        if (numbers[view] < 0)
            continue;
        const struct lz_entry *entry = entry_of(compare, view, (uint32_t)numbers[view]);
        if (entry->kind != LZ_KIND_DIRECTORY || entry->child_count == 0)
            continue;
        level.at[view] = entry->first_child;
        level.end[view] = entry->first_child + entry->child_count;
        any = true;
    }
    if (!any)
        return 0;
    int rc = lz_grow((void **)&compare->levels, &compare->capacity, compare->depth + 1, sizeof *compare->levels);
    if (rc == 0)
        compare->levels[compare->depth++] = level;
    return rc;
}

static int order_of(const struct lz_compare *compare, uint32_t before, uint32_t after)
{
    size_t left = entry_of(compare, 0, before)->name_size, right = entry_of(compare, 1, after)->name_size;
    int order = memcmp(lz_index_name(compare->views[0], before), lz_index_name(compare->views[1], after),
                       left < right ? left : right);
    return order != 0 ? order : (left > right) - (left < right);
}

/* The next path of either view: its entry in each, -1 where there is none. False at the end. */
static bool next_path(struct lz_compare *compare, int64_t numbers[2])
{
    if (!compare->begun) {
        compare->begun = true;
        numbers[0] = numbers[1] = 0;
        return true;
    }
    while (compare->depth > 0) {
        struct level *level = &compare->levels[compare->depth - 1];
        bool left = level->at[0] < level->end[0], right = level->at[1] < level->end[1];
        if (!left && !right) {
            compare->depth--;
            continue;
        }
        int order = left && right ? order_of(compare, level->at[0], level->at[1]) : left ? -1 : 1;
        numbers[0] = order <= 0 ? (int64_t)level->at[0]++ : -1;
        numbers[1] = order >= 0 ? (int64_t)level->at[1]++ : -1;
        return true;
    }
    return false;
}

int lz_compare_next(struct lz_compare *compare, struct lz_view_change *out)
{
    int64_t numbers[2];
    while (next_path(compare, numbers)) {
        int rc = go_in(compare, numbers);
        if (rc != 0)
            return rc;
        uint32_t differs = 0;
        if (numbers[0] >= 0 && numbers[1] >= 0) {
            differs = differences(compare, (uint32_t)numbers[0], (uint32_t)numbers[1]);
            if (differs == 0)
                continue;
        }
        int view = numbers[1] >= 0 ? 1 : 0;
        const struct lz_entry *entry = entry_of(compare, view, (uint32_t)numbers[view]);
        *out = (struct lz_view_change){
            .change = numbers[0] < 0   ? LZ_CHANGE_ADDED
                      : numbers[1] < 0 ? LZ_CHANGE_DELETED
                                       : LZ_CHANGE_MODIFIED,
            .differs = differs,
            .kind = (enum lz_kind)entry->kind,
            .path = lz_index_path(compare->views[view], (uint32_t)numbers[view]),
            .path_size = entry->path_size,
        };
        for (int side = 0; side < 2; side++) {
            const struct lz_entry *one = numbers[side] >= 0 ? entry_of(compare, side, (uint32_t)numbers[side]) : NULL;
            if (one != NULL && one->kind == LZ_KIND_FILE)
                *(side == 0 ? &out->old_size : &out->size) = one->size;
        }
        return 1;
    }
    return 0;
}
