#include "lz_erofs_layout.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char dots[] = "..";

static int compare_names(const char *a, size_t a_size, const char *b, size_t b_size)
{
    int order = memcmp(a, b, a_size < b_size ? a_size : b_size);
    return order != 0 ? order : (a_size > b_size) - (a_size < b_size);
}

/* How many children come before `name`. */
static uint64_t children_before(const struct lz_index *index, uint32_t entry, const char *name, size_t size)
{
    const struct lz_entry *directory = &index->entries[entry];
    uint32_t low = 0, high = directory->child_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2, child = directory->first_child + middle;
        if (compare_names(lz_index_name(index, child), index->entries[child].name_size, name, size) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void lz_erofs_directory_open(const struct lz_index *index, uint32_t entry, struct lz_erofs_directory *out)
{
    *out = (struct lz_erofs_directory){
        .index = index,
        .entry = entry,
        .dot = children_before(index, entry, dots, 1),
        .dot_dot = children_before(index, entry, dots, 2) + 1,
        .count = (uint64_t)index->entries[entry].child_count + 2,
    };
}

struct lz_erofs_name lz_erofs_directory_at(const struct lz_erofs_directory *directory, uint64_t position)
{
    const struct lz_entry *entry = &directory->index->entries[directory->entry];
    if (position == directory->dot)
        return (struct lz_erofs_name){.name = dots, .size = 1, .entry = directory->entry};
    if (position == directory->dot_dot)
        return (struct lz_erofs_name){.name = dots, .size = 2, .entry = entry->parent};
    uint64_t before = (position > directory->dot ? 1u : 0u) + (position > directory->dot_dot ? 1u : 0u);
    uint32_t child = entry->first_child + (uint32_t)(position - before);
    return (struct lz_erofs_name){.name = lz_index_name(directory->index, child),
                                  .size = directory->index->entries[child].name_size,
                                  .entry = child};
}

uint64_t lz_erofs_directory_fill(const struct lz_erofs_directory *directory, uint64_t position, uint32_t *used)
{
    uint64_t from = position;
    size_t bytes = 0;
    for (; position < directory->count; position++) {
        size_t more = sizeof(struct lz_erofs_dirent) + lz_erofs_directory_at(directory, position).size;
        if (bytes + more > LZ_EROFS_BLOCK)
            break;
        bytes += more;
    }
    *used = (uint32_t)bytes;
    return position - from;
}

uint32_t lz_erofs_chunk_bits(uint64_t size)
{
    uint32_t bits = 0;
    while (bits < LZ_EROFS_CHUNK_BITS_MAX && size > (uint64_t)LZ_EROFS_BLOCK << bits)
        bits++;
    return bits;
}

uint64_t lz_erofs_chunk_count(uint64_t size)
{
    uint32_t bits = lz_erofs_chunk_bits(size) + LZ_EROFS_BLOCK_BITS;
    uint64_t whole = size >> bits;
    return (whole << bits) == size ? whole : whole + 1;
}

/* The children are what the table says they are: each names this directory, in strict order, and nothing is hidden. */
static int check_children(const struct lz_index *index, uint32_t number, struct lz_detail *detail)
{
    const struct lz_entry *directory = &index->entries[number];
    for (uint32_t i = 0; i < directory->child_count; i++) {
        uint32_t child = directory->first_child + i;
        const struct lz_entry *entry = &index->entries[child];
        const char *name = lz_index_name(index, child);
        if (entry->parent != number || (name[0] == '.' && (entry->name_size == 1 || strcmp(name, dots) == 0)))
            return lz_fail(detail, LZ_E_FORMAT, "%s: not a child of its directory", lz_index_path(index, child));
        if (i > 0 && compare_names(lz_index_name(index, child - 1), index->entries[child - 1].name_size, name,
                                   entry->name_size) >= 0)
            return lz_fail(detail, LZ_E_FORMAT, "%s: out of order in its directory", lz_index_path(index, child));
    }
    return 0;
}

static uint64_t directory_size(const struct lz_index *index, uint32_t number)
{
    struct lz_erofs_directory directory;
    lz_erofs_directory_open(index, number, &directory);
    uint64_t size = 0;
    uint32_t used = 0;
    for (uint64_t position = 0; position < directory.count;) {
        position += lz_erofs_directory_fill(&directory, position, &used);
        size += position < directory.count ? LZ_EROFS_BLOCK : used;
    }
    return size;
}

int lz_erofs_check_device(const char *path, uint32_t major, uint32_t minor, struct lz_detail *detail)
{
    if (major <= 0xFFF && minor <= 0xFFFFF)
        return 0;
    return lz_fail(detail, LZ_E_LIMIT, "%s: device %u:%u, Linux has 4095:1048575 at most", path, major, minor);
}

/* What the index must say of an entry before an inode can be made of it. */
static int check_entry(const struct lz_index *index, uint32_t number, struct lz_detail *detail)
{
    const struct lz_entry *entry = &index->entries[number];
    const char *path = lz_index_path(index, number);
    if (entry->kind == LZ_KIND_WHITEOUT || (entry->flags & LZ_FLAG_OPAQUE) != 0)
        return lz_fail(detail, LZ_E_FORMAT, "%s: a whiteout or opaque mark in a merged index", path);
    if (entry->mtime_nsec >= 1000000000u)
        return lz_fail(detail, LZ_E_FORMAT, "%s: %u nanoseconds in a time", path, entry->mtime_nsec);
    if (entry->kind == LZ_KIND_DIRECTORY)
        return entry->link == number ? check_children(index, number, detail)
                                     : lz_fail(detail, LZ_E_FORMAT, "%s: a hard link to a directory", path);
    if (entry->kind == LZ_KIND_CHAR || entry->kind == LZ_KIND_BLOCK)
        return lz_erofs_check_device(path, entry->major, entry->minor, detail);
    if (entry->kind == LZ_KIND_SYMLINK && entry->size > LZ_PATH_MAX)
        return lz_fail(detail, LZ_E_LIMIT, "%s: a symlink target of %llu bytes, Linux has %u at most", path,
                       (unsigned long long)entry->size, LZ_PATH_MAX);
    if (entry->kind != LZ_KIND_FILE)
        return 0;
    if (entry->size > INT64_MAX)
        return lz_fail(detail, LZ_E_LIMIT, "%s: %llu bytes, a file has 2^63 - 1 at most", path,
                       (unsigned long long)entry->size);
    unsigned content = entry->flags & (LZ_FLAG_INLINE | LZ_FLAG_OBJECT);
    if (content == (LZ_FLAG_INLINE | LZ_FLAG_OBJECT) || (content == 0 && entry->size != 0))
        return lz_fail(detail, LZ_E_FORMAT, "%s: it is not said where the content is", path);
    return 0;
}

/* Bytes before the tail. */
static uint64_t head_size(const struct lz_erofs_place *place)
{
    return sizeof(struct lz_erofs_inode) + place->xattr_size;
}

/* Everything of a place except where it is. */
static int shape_place(const struct lz_index *index, uint32_t number, struct lz_erofs_place *place,
                       struct lz_detail *detail)
{
    const struct lz_entry *entry = &index->entries[number];
    int rc = check_entry(index, number, detail);
    if (rc != 0)
        return rc;
    if (entry->kind == LZ_KIND_DIRECTORY)
        place->size = directory_size(index, number);
    else if (entry->kind == LZ_KIND_FILE || entry->kind == LZ_KIND_SYMLINK)
        place->size = entry->size;
    rc = lz_erofs_xattrs(index, number, NULL, &place->xattr_size, detail);
    if (rc != 0)
        return rc;
    uint64_t tail = place->size % LZ_EROFS_BLOCK;
    if (entry->kind == LZ_KIND_FILE && (entry->flags & LZ_FLAG_OBJECT) != 0)
        place->layout = LZ_EROFS_CHUNK_BASED;
    else
        place->layout =
            tail > 0 && head_size(place) + tail <= LZ_EROFS_BLOCK ? LZ_EROFS_FLAT_INLINE : LZ_EROFS_FLAT_PLAIN;
    return 0;
}

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

/* Puts the inode at `at`, or at the next block if it would cross into it (a tail must not, and the rest is read in one
 * go when it does not), and returns where it ends. */
static uint64_t set_address(struct lz_erofs_place *place, uint64_t at)
{
    uint64_t size = head_size(place) + lz_erofs_tail_of(place);
    at = round_up(at, LZ_EROFS_SLOT);
    if (size <= LZ_EROFS_BLOCK && at % LZ_EROFS_BLOCK + size > LZ_EROFS_BLOCK)
        at = round_up(at, LZ_EROFS_BLOCK);
    place->address = at;
    uint64_t chunks = place->layout == LZ_EROFS_CHUNK_BASED ? 4 * lz_erofs_chunk_count(place->size) : 0;
    return at + size + chunks;
}

static int place_inodes(const struct lz_index *index, struct lz_erofs_plan *plan, struct lz_detail *detail)
{
    uint64_t at = LZ_EROFS_SUPER_OFFSET + sizeof(struct lz_erofs_super);
    for (uint32_t i = 0; i < index->entry_count; i++) {
        if (index->entries[i].link != i)
            continue;
        int rc = shape_place(index, i, &plan->places[i], detail);
        if (rc != 0)
            return rc;
        at = set_address(&plan->places[i], at);
        plan->inode_count++;
    }
    plan->meta_size = round_up(at, LZ_EROFS_BLOCK);
    return 0;
}

static int place_blocks(const struct lz_index *index, struct lz_erofs_plan *plan, struct lz_detail *detail)
{
    uint64_t block = plan->meta_size / LZ_EROFS_BLOCK;
    for (uint32_t i = 0; i < index->entry_count; i++) {
        struct lz_erofs_place *place = &plan->places[i];
        uint64_t blocks = place->address != 0 ? lz_erofs_blocks_of(place) : 0;
        if (blocks == 0)
            continue;
        place->block = (uint32_t)block;
        block += blocks;
        if (block >= LZ_EROFS_HOLE)
            break;
    }
    if (block >= LZ_EROFS_HOLE)
        return lz_fail(detail, LZ_E_LIMIT, "an EROFS image of more than 2^32 blocks");
    plan->block_count = (uint32_t)block;
    return 0;
}

int lz_erofs_plan_make(const struct lz_index *merged, struct lz_erofs_plan *out, struct lz_detail *detail)
{
    struct lz_erofs_plan plan = {.places = lz_zalloc_array(merged->entry_count, sizeof *plan.places)};
    if (plan.places == NULL)
        return -ENOMEM;
    int rc = place_inodes(merged, &plan, detail);
    if (rc == 0)
        rc = place_blocks(merged, &plan, detail);
    if (rc != 0) {
        lz_erofs_plan_free(&plan);
        return rc;
    }
    *out = plan;
    return 0;
}

void lz_erofs_plan_free(struct lz_erofs_plan *plan)
{
    free(plan->places);
    *plan = (struct lz_erofs_plan){0};
}
