#include "lz_index.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "lz_xxh3.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the index is little-endian and mapped as it is"
#endif

_Static_assert(sizeof(struct lz_entry) == 128, "entry size is part of the format");
_Static_assert(sizeof(struct lz_index_header) == LZ_INDEX_HEADER_SIZE, "header size is part of the format");
_Static_assert(sizeof(struct lz_object_ref) == 40 && sizeof(struct lz_slot) == 8, "sizes are part of the format");

uint64_t lz_path_hash(const char *path, size_t size)
{
    return XXH3_64bits(path, size);
}

static int bad(struct lz_detail *detail, const char *what)
{
    return lz_fail(detail, LZ_E_FORMAT, "index: %s", what);
}

static bool section_inside(const struct lz_section *section, uint64_t from, uint64_t size, uint64_t unit)
{
    uint64_t end;
    return !__builtin_add_overflow(section->offset, section->size, &end) && section->offset >= from && end <= size &&
           section->offset % 8 == 0 && section->size % unit == 0;
}

static int check_header(const struct lz_index_header *header, uint64_t size, struct lz_detail *detail)
{
    if (memcmp(header->magic, LZ_INDEX_MAGIC, 8) != 0)
        return bad(detail, "not an index (wrong magic)");
    if (header->version != LZ_INDEX_VERSION)
        return lz_fail(detail, LZ_E_UNSUPPORTED, "index: version %u, expected %u", header->version, LZ_INDEX_VERSION);
    if (header->file_size != size)
        return lz_fail(detail, size < header->file_size ? LZ_E_TRUNCATED : LZ_E_FORMAT,
                       "index: %llu bytes, header says %llu", (unsigned long long)size,
                       (unsigned long long)header->file_size);
    if (header->header_checksum != XXH3_64bits(header, offsetof(struct lz_index_header, header_checksum)))
        return lz_fail(detail, LZ_E_CORRUPT, "index: the header's checksum does not match");
    uint64_t table = header->entries.offset;
    if (!section_inside(&header->inline_data, LZ_INDEX_INLINE_OFFSET, table, 1) ||
        !section_inside(&header->entries, LZ_INDEX_HEADER_SIZE, size, sizeof(struct lz_entry)) ||
        !section_inside(&header->slots, table, size, sizeof(struct lz_slot)) ||
        !section_inside(&header->strings, table, size, 1) || !section_inside(&header->xattrs, table, size, 1) ||
        !section_inside(&header->layers, table, size, 32) ||
        !section_inside(&header->objects, table, size, sizeof(struct lz_object_ref)))
        return bad(detail, "a section lies outside the file");
    return 0;
}

/* NUL-terminated text of `size` bytes at `offset` of the strings section. */
static bool text_inside(const struct lz_index *index, uint64_t offset, uint64_t size)
{
    uint64_t limit = index->header->strings.size;
    return offset < limit && size < limit - offset && index->strings[offset + size] == 0 &&
           memchr(index->strings + offset, 0, size) == NULL;
}

static bool xattrs_inside(const struct lz_index *index, const struct lz_entry *entry)
{
    uint64_t limit = index->header->xattrs.size;
    uint64_t at = entry->xattr_offset, end = at + entry->xattr_size;
    if (end > limit || at % 4 != 0)
        return false;
    while (at < end) {
        struct lz_xattr_record record;
        if (end - at < sizeof record)
            return false;
        memcpy(&record, index->xattrs + at, sizeof record);
        uint64_t size = (sizeof record + (uint64_t)record.name_size + record.value_size + 3) & ~3ull;
        if (record.name_size == 0 || record.name_size > LZ_XATTR_NAME_MAX || record.value_size > LZ_XATTR_VALUE_MAX ||
            size > end - at)
            return false;
        at += size;
    }
    return true;
}

static bool flags_fit_kind(const struct lz_entry *entry)
{
    const unsigned content = LZ_FLAG_INLINE | LZ_FLAG_OBJECT;
    unsigned allowed = entry->kind == LZ_KIND_FILE        ? content
                       : entry->kind == LZ_KIND_DIRECTORY ? LZ_FLAG_OPAQUE | LZ_FLAG_IMPLICIT
                                                          : 0u;
    bool lacking = entry->kind == LZ_KIND_FILE && entry->size > 0 && (entry->flags & content) == 0;
    return (entry->flags & ~allowed) == 0 && (entry->flags & content) != content && !lacking;
}

static bool kind_matches_mode(const struct lz_entry *entry)
{
    static const uint32_t formats[] = {0, S_IFDIR, S_IFREG, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK, 0};
    return entry->kind >= LZ_KIND_DIRECTORY && entry->kind <= LZ_KIND_WHITEOUT &&
           (entry->mode & S_IFMT) == formats[entry->kind] && entry->mtime_nsec < 1000000000;
}

/* Contents in this very file (a layer's own, whose diff ID is left zero) must lie in it. */
static bool inline_inside(const struct lz_index *index, const struct lz_entry *entry)
{
    static const uint8_t self[32];
    uint64_t limit = index->header->inline_data.size;
    if ((entry->flags & LZ_FLAG_INLINE) == 0 || memcmp(index->layers[entry->layer], self, sizeof self) != 0)
        return true;
    return entry->data_offset <= limit && entry->size <= limit - entry->data_offset;
}

static int compare_names(const char *a, size_t a_size, const char *b, size_t b_size)
{
    int order = memcmp(a, b, a_size < b_size ? a_size : b_size);
    return order != 0 ? order : (a_size > b_size) - (a_size < b_size);
}

/* The path is the parent's path, a slash and a name that can stand in a directory. */
static bool path_extends_parent(const struct lz_index *index, uint32_t number)
{
    const struct lz_entry *entry = &index->entries[number];
    const struct lz_entry *parent = &index->entries[entry->parent];
    const char *path = index->strings + entry->path_offset;
    uint32_t prefix = parent->path_size + (parent->path_size > 0 ? 1u : 0u);
    if (entry->path_size != prefix + entry->name_size ||
        memcmp(path, index->strings + parent->path_offset, parent->path_size) != 0 ||
        (prefix > 0 && path[prefix - 1] != '/'))
        return false;
    const char *name = path + prefix;
    bool dots = name[0] == '.' && (entry->name_size == 1 || (entry->name_size == 2 && name[1] == '.'));
    return !dots && memchr(name, '/', entry->name_size) == NULL;
}

/* Entry `number` lies in its parent's range, after the sibling before it; all earlier entries are known to be good. */
static bool fits_parent(const struct lz_index *index, uint32_t number)
{
    const struct lz_entry *entry = &index->entries[number];
    /* a parent comes before its children, so that walking up ends */
    if (entry->parent >= number || entry->name_size == 0 || entry->name_size > LZ_NAME_MAX)
        return false;
    const struct lz_entry *parent = &index->entries[entry->parent];
    if (parent->kind != LZ_KIND_DIRECTORY || number < parent->first_child ||
        number - parent->first_child >= parent->child_count || !path_extends_parent(index, number))
        return false;
    return number == parent->first_child || compare_names(lz_index_name(index, number - 1), entry[-1].name_size,
                                                          lz_index_name(index, number), entry->name_size) < 0;
}

static bool is_root(const struct lz_entry *entry)
{
    return entry->path_size == 0 && entry->name_size == 0 && entry->parent == 0 && entry->kind == LZ_KIND_DIRECTORY;
}

/* Links go backwards and entries are checked in order, so the group's first name is already known to be good. */
static bool link_fits(const struct lz_index *index, uint32_t number)
{
    const struct lz_entry *entry = &index->entries[number];
    if (entry->link == number)
        return entry->link_count > 0;
    if (entry->link > number || entry->kind == LZ_KIND_DIRECTORY || entry->kind == LZ_KIND_WHITEOUT)
        return false;
    const struct lz_entry *first = &index->entries[entry->link];
    return first->link == entry->link && first->kind == entry->kind && first->link_count == entry->link_count;
}

static bool children_inside(const struct lz_index *index, uint32_t number)
{
    const struct lz_entry *entry = &index->entries[number];
    if (entry->child_count == 0)
        return entry->first_child == 0;
    return entry->kind == LZ_KIND_DIRECTORY && entry->first_child > number && entry->first_child < index->entry_count &&
           entry->child_count <= index->entry_count - entry->first_child;
}

static int check_entry(const struct lz_index *index, uint32_t number, struct lz_detail *detail)
{
    const struct lz_entry *entry = &index->entries[number];
    if (!kind_matches_mode(entry) || !flags_fit_kind(entry))
        return bad(detail, "an entry's kind does not fit its mode, time or flags");
    if (entry->path_size > LZ_PATH_MAX || !text_inside(index, entry->path_offset, entry->path_size))
        return bad(detail, "an entry's path lies outside the strings");
    if (entry->layer >= index->layer_count && (number > 0 || entry->layer > 0)) /* a root needs none */
        return bad(detail, "an entry's layer lies outside the layer table");
    if (!xattrs_inside(index, entry))
        return bad(detail, "an entry's xattrs are malformed");
    if (entry->kind == LZ_KIND_SYMLINK &&
        (entry->size > LZ_PATH_MAX || !text_inside(index, entry->data_offset, entry->size)))
        return bad(detail, "a symlink's target lies outside the strings");
    if (!inline_inside(index, entry))
        return bad(detail, "a file's content lies outside the inline data");
    if (number == 0 ? !is_root(entry) : !fits_parent(index, number))
        return bad(detail, number == 0 ? "entry 0 is not a root" : "an entry does not fit its parent");
    if (!link_fits(index, number))
        return bad(detail, "a hard link's group is malformed");
    return children_inside(index, number) ? 0 : bad(detail, "a directory's children lie outside the table");
}

static int check_entries(const struct lz_index *index, struct lz_detail *detail)
{
    uint64_t children = 0;
    for (uint32_t i = 0; i < index->entry_count; i++) {
        int rc = check_entry(index, i, detail);
        if (rc != 0)
            return rc;
        children += index->entries[i].child_count;
    }
    /* Each entry lies in its parent's range; when the ranges hold no more than that, they hold nobody else's child. */
    return children == index->entry_count - 1 ? 0 : bad(detail, "directories share children");
}

static int check_objects(const struct lz_index *index, struct lz_detail *detail)
{
    for (uint32_t i = 1; i < index->object_count; i++)
        if (memcmp(index->objects[i - 1].digest, index->objects[i].digest, 32) >= 0)
            return bad(detail, "the objects are not sorted");
    return 0;
}

static int check_slots(const struct lz_index *index, struct lz_detail *detail)
{
    uint64_t count = index->header->slots.size / sizeof(struct lz_slot);
    uint64_t used = 0;
    for (uint64_t i = 0; i < count; i++) {
        if (index->slots[i].entry_plus_one > index->entry_count)
            return bad(detail, "a hash slot points outside the table");
        used += index->slots[i].entry_plus_one != 0;
    }
    /* one free at least, or a miss would probe for ever */
    return used == index->entry_count && used < count ? 0 : bad(detail, "the hash table does not fit the entries");
}

int lz_index_open(const void *bytes, uint64_t size, struct lz_index *out, struct lz_detail *detail)
{
    const uint8_t *base = bytes;
    if (size < LZ_INDEX_HEADER_SIZE)
        return lz_fail(detail, LZ_E_TRUNCATED, "index: %llu bytes, less than its header", (unsigned long long)size);
    const struct lz_index_header *header = bytes;
    int rc = check_header(header, size, detail);
    if (rc != 0)
        return rc;
    uint64_t table = header->entries.offset;
    if (header->table_checksum != lz_xxh3_64(base + table, size - table))
        return lz_fail(detail, LZ_E_CORRUPT, "index: the table's checksum does not match");
    uint64_t slots = header->slots.size / sizeof(struct lz_slot);
    uint64_t layers = header->layers.size / 32;
    uint64_t objects = header->objects.size / sizeof(struct lz_object_ref);
    if (header->entry_count == 0 || header->entries.size / sizeof(struct lz_entry) != header->entry_count ||
        slots == 0 || (slots & (slots - 1)) != 0 || slots > UINT32_MAX || layers > UINT32_MAX || objects > UINT32_MAX)
        return bad(detail, "counts do not fit the sections");
    struct lz_index index = {
        .base = base,
        .size = size,
        .header = header,
        .entries = (const void *)(base + header->entries.offset),
        .slots = (const void *)(base + header->slots.offset),
        .slot_mask = (uint32_t)(slots - 1),
        .strings = (const char *)base + header->strings.offset,
        .xattrs = base + header->xattrs.offset,
        .layers = (const void *)(base + header->layers.offset),
        .objects = (const void *)(base + header->objects.offset),
        .entry_count = header->entry_count,
        .layer_count = (uint32_t)layers,
        .object_count = (uint32_t)objects,
    };
    rc = check_entries(&index, detail);
    if (rc == 0)
        rc = check_slots(&index, detail);
    if (rc == 0)
        rc = check_objects(&index, detail);
    if (rc != 0)
        return rc;
    *out = index;
    return 0;
}

static int64_t probe(const struct lz_index *index, uint64_t hash, const char *path, size_t size)
{
    uint32_t tag = (uint32_t)(hash >> 32);
    for (uint32_t at = (uint32_t)hash & index->slot_mask;; at = (at + 1) & index->slot_mask) {
        struct lz_slot slot = index->slots[at];
        if (slot.entry_plus_one == 0)
            return -ENOENT;
        if (slot.tag != tag)
            continue;
        const struct lz_entry *entry = &index->entries[slot.entry_plus_one - 1];
        if (entry->path_hash == hash && entry->path_size == size &&
            memcmp(index->strings + entry->path_offset, path, size) == 0)
            return slot.entry_plus_one - 1;
    }
}

int64_t lz_index_find(const struct lz_index *index, const char *path, size_t size)
{
    return probe(index, lz_path_hash(path, size), path, size);
}

#define BATCH 32

static uint32_t first_entry(const struct lz_index *index, uint64_t hash)
{
    return index->slots[(uint32_t)hash & index->slot_mask].entry_plus_one;
}

/* Each round touches what the one before has asked for: slot, both lines of the entry, path. */
static void find_batch(const struct lz_index *index, const struct lz_text *paths, size_t count, int64_t *out)
{
    uint64_t hashes[BATCH];
    for (size_t i = 0; i < count; i++) {
        hashes[i] = lz_path_hash(paths[i].bytes, paths[i].size);
        __builtin_prefetch(&index->slots[(uint32_t)hashes[i] & index->slot_mask]);
    }
    for (size_t i = 0; i < count; i++) {
        uint32_t entry = first_entry(index, hashes[i]);
        if (entry != 0) {
            __builtin_prefetch(&index->entries[entry - 1].path_hash);
            __builtin_prefetch(&index->entries[entry - 1].path_offset);
        }
    }
    for (size_t i = 0; i < count; i++) {
        uint32_t entry = first_entry(index, hashes[i]);
        if (entry != 0)
            __builtin_prefetch(index->strings + index->entries[entry - 1].path_offset);
    }
    for (size_t i = 0; i < count; i++) {
        int64_t found = probe(index, hashes[i], paths[i].bytes, paths[i].size);
        out[i] = found < 0 ? -1 : found;
    }
}

void lz_index_find_each(const struct lz_index *index, const struct lz_text *paths, size_t count, int64_t *out)
{
    for (size_t from = 0; from < count; from += BATCH)
        find_batch(index, paths + from, count - from < BATCH ? count - from : BATCH, out + from);
}

void lz_index_find_many(const struct lz_index *index, const char *bytes, const uint64_t *offsets, size_t count,
                        int64_t *out)
{
    for (size_t from = 0; from < count; from += BATCH) {
        size_t now = count - from < BATCH ? count - from : BATCH;
        struct lz_text paths[BATCH];
        for (size_t i = 0; i < now; i++)
            paths[i] = (struct lz_text){bytes + offsets[from + i], offsets[from + i + 1] - offsets[from + i]};
        find_batch(index, paths, now, out + from);
    }
}

int64_t lz_index_child(const struct lz_index *index, uint32_t number, const char *name, size_t size)
{
    uint32_t low = index->entries[number].first_child;
    uint32_t high = low + index->entries[number].child_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct lz_entry *entry = &index->entries[middle];
        int order = compare_names(lz_index_name(index, middle), entry->name_size, name, size);
        if (order == 0)
            return middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -ENOENT;
}

int lz_index_next_xattr(const struct lz_index *index, uint32_t number, uint32_t *cursor, struct lz_xattr *out)
{
    const struct lz_entry *entry = &index->entries[number];
    if (*cursor >= entry->xattr_size)
        return 0;
    struct lz_xattr_record record;
    const uint8_t *at = index->xattrs + entry->xattr_offset + *cursor;
    memcpy(&record, at, sizeof record);
    const uint8_t *name = at + sizeof record;
    *out = (struct lz_xattr){.name = (const char *)name,
                             .name_size = record.name_size,
                             .value = name + record.name_size,
                             .value_size = record.value_size};
    *cursor += (uint32_t)((sizeof record + record.name_size + record.value_size + 3) & ~(size_t)3);
    return 1;
}
