#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "lz_list.h"
#include "lz_union_look.h"

#define HELD_PARTS 4u

struct lz_union_list {
    struct lz_union_name *items;
    size_t count;
    struct lz_listing *listings; /* of the directories on disk: their names live here; an index's live in it */
    size_t listing_count;
};

struct named {
    const char *name;
    uint32_t size;
    uint32_t source; /* 0: the upper; n: the (n - 1)th part of the level */
    uint8_t type;    /* DT_*; DT_WHT for a whiteout of an index */
};

/* All names that the branches of a directory have, those that are hidden too. */
struct gathering {
    struct lz_walker walker; /* its top level is the directory */
    char path[LZ_PATH_MAX + 1];
    struct named *items;
    size_t count, capacity;
    struct lz_listing *listings;
    size_t listing_count;
    size_t *only;      /* for lookups: parts that have a name */
    int *part_fds;     /* likewise: of each part of the level, or -1; NULL: there are too many to hold them open */
    size_t part_count; /* of the level */
};

static int compare(const void *a_item, const void *b_item)
{
    const struct named *a = a_item, *b = b_item;
    int order = memcmp(a->name, b->name, a->size < b->size ? a->size : b->size);
    if (order == 0)
        order = (a->size > b->size) - (a->size < b->size);
    return order != 0 ? order : (a->source > b->source) - (a->source < b->source);
}

static bool same_name(const struct named *a, const struct named *b)
{
    return a->size == b->size && memcmp(a->name, b->name, a->size) == 0;
}

static int reserve(struct gathering *all, size_t extra)
{
    void *items = all->items;
    int rc = lz_grow(&items, &all->capacity, all->count + extra, sizeof *all->items);
    all->items = items;
    return rc;
}

static int gather_index(struct gathering *all, const struct lz_part *part, uint32_t source)
{
    static const uint8_t types[] = {0, DT_DIR, DT_REG, DT_LNK, DT_CHR, DT_BLK, DT_FIFO, DT_SOCK, DT_WHT};
    const struct lz_index *index = all->walker.self->lowers[part->branch].index;
    const struct lz_entry *directory = &index->entries[part->entry];
    int rc = reserve(all, directory->child_count);
    for (uint32_t i = 0; i < directory->child_count && rc == 0; i++) {
        uint32_t child = directory->first_child + i;
        const struct lz_entry *entry = &index->entries[child];
        all->items[all->count++] = (struct named){.name = lz_index_name(index, child),
                                                  .size = entry->name_size,
                                                  .source = source,
                                                  .type = types[entry->kind]};
    }
    return rc;
}

/* `dir_fd` and `path` lead to the directory. *kept gets its descriptor, if it is not NULL. */
static int gather_directory(struct gathering *all, int dir_fd, const char *path, uint32_t source, int *kept)
{
    const struct lz_sys *sys = all->walker.self->sys;
    int fd = lz_union_beneath(all->walker.self, dir_fd, path, O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        return fd;
    struct lz_listing *listing = &all->listings[all->listing_count++];
    int rc = lz_listing_read(sys, fd, listing);
    if (kept != NULL)
        *kept = fd;
    else
        (void)sys->close(sys->ctx, fd);
    if (rc == 0)
        rc = reserve(all, listing->count);
    for (size_t i = 0; i < listing->count && rc == 0; i++)
        all->items[all->count++] = (struct named){.name = listing->items[i].name,
                                                  .size = listing->items[i].size,
                                                  .source = source,
                                                  .type = listing->items[i].type};
    return rc;
}

static int gather_parts(struct gathering *all, const struct lz_level *level)
{
    int rc = 0;
    if (level->in_upper) {
        int fd = lz_walker_upper(&all->walker);
        rc = fd < 0 ? fd : gather_directory(all, fd, ".", 0, NULL);
    }
    for (size_t i = 0; i < level->count && rc == 0; i++) {
        const struct lz_part *part = &all->walker.parts[level->first + i];
        if (part->entry >= 0) {
            rc = gather_index(all, part, (uint32_t)i + 1);
            continue;
        }
        char lower[LZ_PATH_MAX + 1];
        rc = lz_part_path(&all->walker, part, level->path_size, lower);
        if (rc >= 0)
            rc = gather_directory(all, all->walker.self->lowers[part->branch].fd, lower, (uint32_t)i + 1,
                                  all->part_fds != NULL ? &all->part_fds[i] : NULL);
    }
    if (rc == 0 && all->count > 1 && (level->in_upper || level->count != 1 || all->listing_count > 0))
        qsort(all->items, all->count, sizeof *all->items, compare);
    return rc;
}

static void gathering_end(struct gathering *all)
{
    lz_walker_end(&all->walker);
    for (size_t i = 0; i < all->listing_count; i++)
        lz_listing_free(&all->listings[i]);
    free(all->listings);
    for (size_t i = 0; all->part_fds != NULL && i < all->part_count; i++)
        if (all->part_fds[i] >= 0)
            (void)all->walker.self->sys->close(all->walker.self->sys->ctx, all->part_fds[i]);
    free(all->items);
    free(all->only);
    free(all->part_fds);
}

/* One descriptor a part makes lookups shorter; many are not to be had. */
static int hold_parts(struct gathering *all, const struct lz_level *level)
{
    all->part_count = level->count;
    if (level->count > HELD_PARTS)
        return 0;
    all->part_fds = lz_alloc_array(level->count, sizeof *all->part_fds);
    for (size_t i = 0; all->part_fds != NULL && i < level->count; i++)
        all->part_fds[i] = -1;
    return all->part_fds != NULL ? 0 : -ENOMEM;
}

/* `hold`: names will be looked up. Give back with gathering_end(), also after a failure. */
static int begin(struct lz_union *self, const struct lz_place *directory, bool hold, struct gathering *all)
{
    all->items = NULL;
    all->count = all->capacity = all->listing_count = 0;
    all->listings = NULL;
    all->only = NULL;
    all->part_fds = NULL;
    all->part_count = 0;
    lz_walker_begin(&all->walker, self, all->path);
    int rc = lz_walker_at(&all->walker, directory);
    if (rc != 0)
        return rc;
    const struct lz_level *level = &all->walker.levels[all->walker.level_count - 1];
    all->listings = lz_zalloc_array(level->count + 1, sizeof *all->listings);
    all->only = lz_alloc_array(level->count + 1, sizeof *all->only);
    rc = all->listings != NULL && all->only != NULL ? 0 : -ENOMEM;
    return rc == 0 && hold ? hold_parts(all, level) : rc;
}

static int gather(struct lz_union *self, const struct lz_place *directory, struct gathering *all)
{
    int rc = begin(self, directory, true, all);
    return rc == 0 ? gather_parts(all, &all->walker.levels[all->walker.level_count - 1]) : rc;
}

/* The names equal to that at `from` end before this. */
static size_t group_end(const struct gathering *all, size_t from)
{
    size_t end = from + 1;
    while (end < all->count && same_name(&all->items[from], &all->items[end]))
        end++;
    return end;
}

/* Looks a name up in the branches that have it. A name whose data is lost is there all the same. */
static int look(struct gathering *all, size_t from, size_t end, struct lz_look *out)
{
    const struct named *top = &all->items[from];
    struct lz_walker *walker = &all->walker;
    const struct lz_level *level = &walker->levels[walker->level_count - 1];
    size_t at = level->path_size, text_size = walker->text.size, count = 0;
    if (at + (at > 0) + top->size > LZ_PATH_MAX)
        return -ENAMETOOLONG;
    if (at > 0)
        walker->path[at++] = '/';
    memcpy(walker->path + at, top->name, top->size + 1u);
    for (size_t i = from; i < end; i++)
        if (all->items[i].source > 0)
            all->only[count++] = level->first + all->items[i].source - 1;
    *out = (struct lz_look){.name = top->name,
                            .size = top->size,
                            .upper_lacks = top->source > 0,
                            .part_fds = all->part_fds,
                            .only = all->only,
                            .only_count = count};
    int rc = lz_union_look(walker, at + top->size, out);
    walker->part_count = out->first;
    walker->text.size = text_size;
    return rc == -EIO && out->lost ? 0 : rc;
}

/* ---- the list ---- */

static int put_name(struct gathering *all, size_t from, size_t end, struct lz_union_list *list)
{
    const struct named *top = &all->items[from];
    struct lz_union_name *item = &list->items[list->count];
    item->name = top->name;
    item->size = top->size;
    struct lz_look found;
    int rc = look(all, from, end, &found);
    if (rc != 0 || !found.exists)
        return rc;
    item->info = found.info;
    list->count++;
    return 0;
}

/* A directory that only one index has needs no lookups. */
static void put_index(struct gathering *all, const struct lz_part *part, struct lz_union_list *list)
{
    const struct lz_union *self = all->walker.self;
    uint32_t first = self->lowers[part->branch].index->entries[part->entry].first_child;
    for (size_t i = 0; i < all->count; i++) {
        if (all->items[i].type == DT_WHT)
            continue;
        struct lz_union_name *item = &list->items[list->count++];
        item->name = all->items[i].name;
        item->size = all->items[i].size;
        lz_union_info_of_entry(self, part->branch, first + (uint32_t)i, &item->info);
    }
}

static int make_list(struct gathering *all, struct lz_union_list *list)
{
    const struct lz_level *level = &all->walker.levels[all->walker.level_count - 1];
    list->items = lz_alloc_array(all->count, sizeof *list->items);
    if (list->items == NULL)
        return -ENOMEM;
    if (!level->in_upper && level->count == 1 && all->listing_count == 0) {
        put_index(all, &all->walker.parts[level->first], list);
        return 0;
    }
    int rc = 0;
    for (size_t from = 0, end; from < all->count && rc == 0; from = end) {
        end = group_end(all, from);
        rc = put_name(all, from, end, list);
    }
    return rc;
}

int lz_union_list(struct lz_union *self, const char *path, size_t size, struct lz_union_list **out)
{
    struct lz_union_list *list = calloc(1, sizeof *list);
    if (list == NULL)
        return -ENOMEM;
    struct lz_place place;
    lz_place_begin(&place);
    int rc = lz_union_walk(self, path, size, 0, &place);
    if (rc == 0) {
        struct gathering all;
        rc = gather(self, &place, &all);
        if (rc == 0)
            rc = make_list(&all, list);
        list->listings = all.listings;
        list->listing_count = all.listing_count;
        all.listings = NULL;
        all.listing_count = 0;
        gathering_end(&all);
    }
    lz_place_end(&place);
    if (rc != 0)
        lz_union_list_free(list);
    else
        *out = list;
    return rc;
}

size_t lz_union_list_count(const struct lz_union_list *list)
{
    return list->count;
}

const struct lz_union_name *lz_union_list_at(const struct lz_union_list *list, size_t position)
{
    return position < list->count ? &list->items[position] : NULL;
}

void lz_union_list_free(struct lz_union_list *list)
{
    if (list == NULL)
        return;
    for (size_t i = 0; i < list->listing_count; i++)
        lz_listing_free(&list->listings[i]);
    free(list->listings);
    free(list->items);
    free(list);
}

/* ---- questions about a directory ---- */

/* What a name is, from its topmost branch alone where that says enough. DT_WHT: nothing to be seen. */
static int type_of(struct gathering *all, size_t from, size_t end, uint8_t *type)
{
    uint8_t known = all->items[from].type;
    bool certain = known == DT_DIR || known == DT_LNK || known == DT_WHT || known == DT_BLK || known == DT_FIFO;
    if (certain) { /* a device may be a whiteout, and so may an empty file */
        *type = known;
        return 0;
    }
    struct lz_look found;
    int rc = look(all, from, end, &found);
    if (rc == 0)
        *type = !found.exists ? DT_WHT : found.info.kind == LZ_KIND_DIRECTORY ? DT_DIR : DT_REG;
    return rc;
}

int lz_union_is_empty(struct lz_union *self, const struct lz_place *directory, bool *out)
{
    struct gathering all;
    uint8_t type = DT_WHT;
    int rc = gather(self, directory, &all);
    for (size_t from = 0; from < all.count && rc == 0 && type == DT_WHT; from = group_end(&all, from))
        rc = type_of(&all, from, group_end(&all, from), &type);
    if (rc == 0)
        *out = type == DT_WHT;
    gathering_end(&all);
    return rc;
}

static int count_links(struct gathering *all, uint32_t *out)
{
    struct lz_level *level = &all->walker.levels[all->walker.level_count - 1];
    const struct lz_index *index = NULL; /* of the lowest part, whose own count of directories is known */
    uint32_t entry = 0, count = 2;
    if (level->count > 0 && all->walker.parts[level->first + level->count - 1].entry >= 0) {
        const struct lz_part *lowest = &all->walker.parts[level->first + --level->count];
        index = all->walker.self->lowers[lowest->branch].index;
        entry = (uint32_t)lowest->entry;
        count = index->entries[entry].link_count;
    }
    int rc = gather_parts(all, level);
    for (size_t from = 0; from < all->count && rc == 0; from = group_end(all, from)) {
        const struct named *top = &all->items[from];
        int64_t below = index != NULL ? lz_index_child(index, entry, top->name, top->size) : -1;
        uint8_t type = top->type;
        if (type == DT_UNKNOWN)
            rc = type_of(all, from, group_end(all, from), &type);
        count += type == DT_DIR;
        count -= below >= 0 && index->entries[below].kind == LZ_KIND_DIRECTORY;
    }
    if (rc == 0)
        *out = count;
    return rc;
}

int lz_union_count_links(struct lz_union *self, const struct lz_place *directory, uint32_t *out)
{
    struct gathering all;
    int rc = begin(self, directory, false, &all);
    if (rc == 0)
        rc = count_links(&all, out);
    gathering_end(&all);
    return rc;
}
