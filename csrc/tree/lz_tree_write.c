#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "lz_tree.h"
#include "lz_tree_internal.h"

/* What the writer gathers before it writes: the table's sections in memory, entries in directory order. */
struct table {
    const struct lz_tree *tree;
    uint32_t *order; /* entry number -> node */
    uint32_t count;
    struct lz_entry *entries;
    struct lz_slot *slots;
    uint64_t slot_count;
    struct lz_buf strings, xattrs;
    uint32_t object_count;
};

struct named {
    const char *name;
    size_t size;
    uint32_t node;
};

static int by_name(const void *a, const void *b)
{
    const struct named *left = a, *right = b;
    size_t shared = left->size < right->size ? left->size : right->size;
    int order = memcmp(left->name, right->name, shared);
    return order != 0 ? order : (left->size > right->size) - (left->size < right->size);
}

static int by_digest(const void *a, const void *b)
{
    return memcmp(((const struct lz_object_ref *)a)->digest, ((const struct lz_object_ref *)b)->digest, 32);
}

/* Breadth first, so that the children of a directory lie together; no recursion, whatever the depth. */
static int put_in_order(struct table *table)
{
    const struct lz_tree *tree = table->tree;
    struct named *children = NULL;
    size_t capacity = 0;
    int rc = 0;
    table->order[0] = 0;
    table->count = 1;
    for (uint32_t i = 0; rc == 0 && i < table->count; i++) {
        const struct node *node = &tree->nodes[table->order[i]];
        struct lz_entry *entry = &table->entries[i];
        size_t found = 0;
        uint32_t directories = 0;
        for (uint32_t at = node->first_child; at != NO_NODE; at = tree->nodes[at].next_sibling) {
            void *grown = children;
            rc = lz_grow(&grown, &capacity, found + 1, sizeof *children);
            children = grown;
            if (rc != 0)
                break;
            const struct node *child = &tree->nodes[at];
            children[found++] =
                (struct named){(const char *)tree->names.data + child->name_offset, child->entry.name_size, at};
            directories += child->entry.kind == LZ_KIND_DIRECTORY;
        }
        if (rc != 0)
            break;
        if (found > 0)
            qsort(children, found, sizeof *children, by_name);
        uint32_t parent = entry->parent;
        *entry = node->entry;
        entry->parent = parent;
        entry->child_count = (uint32_t)found;
        entry->first_child = found > 0 ? table->count : 0;
        if (entry->kind == LZ_KIND_DIRECTORY)
            entry->link_count = 2 + directories;
        for (size_t c = 0; c < found; c++) {
            table->entries[table->count].parent = i;
            table->order[table->count++] = children[c].node;
        }
    }
    free(children);
    return rc;
}

/* How long each path is, and memory for all strings: nothing is taken before it is clear that it is not too much. */
static int measure_strings(struct table *table, struct lz_detail *detail)
{
    const struct lz_tree *tree = table->tree;
    uint64_t total = 1; /* the root's empty path */
    for (uint32_t i = 0; i < table->count; i++) {
        struct lz_entry *entry = &table->entries[i];
        const struct lz_entry *parent = &table->entries[entry->parent];
        size_t size = i == 0 ? 0 : (size_t)parent->path_size + (parent->path_size > 0) + entry->name_size;
        if (size > LZ_PATH_MAX)
            return lz_fail(detail, LZ_E_LIMIT, "index: a path of %zu bytes, allowed are %u", size, LZ_PATH_MAX);
        entry->path_size = (uint16_t)size;
        total += size + 1 + (entry->kind == LZ_KIND_SYMLINK ? entry->size + 1 : 0);
        if (total > tree->limits.max_text)
            return lz_fail(detail, LZ_E_LIMIT, "index: more than %llu bytes of paths and symlink targets",
                           (unsigned long long)tree->limits.max_text);
    }
    return lz_buf_reserve(&table->strings, total);
}

static int write_strings(struct table *table, struct lz_detail *detail)
{
    const struct lz_tree *tree = table->tree;
    int rc = measure_strings(table, detail);
    if (rc == 0)
        rc = lz_buf_append_zeros(&table->strings, 1);
    for (uint32_t i = 0; rc == 0 && i < table->count; i++) {
        const struct node *node = &tree->nodes[table->order[i]];
        struct lz_entry *entry = &table->entries[i];
        const struct lz_entry *parent = &table->entries[entry->parent];
        entry->path_offset = i == 0 ? 0 : (uint32_t)table->strings.size;
        if (i > 0) {
            rc = lz_buf_append(&table->strings, table->strings.data + parent->path_offset, parent->path_size);
            if (rc == 0 && parent->path_size > 0)
                rc = lz_buf_append(&table->strings, "/", 1);
            if (rc == 0)
                rc = lz_buf_append(&table->strings, tree->names.data + node->name_offset, entry->name_size);
            if (rc == 0)
                rc = lz_buf_append_zeros(&table->strings, 1);
        }
        if (rc == 0 && entry->kind == LZ_KIND_SYMLINK) {
            entry->data_offset = table->strings.size;
            rc = lz_buf_append(&table->strings, tree->names.data + node->target_offset, entry->size);
            if (rc == 0)
                rc = lz_buf_append_zeros(&table->strings, 1);
        }
        if (rc == 0)
            entry->path_hash = lz_path_hash((const char *)table->strings.data + entry->path_offset, entry->path_size);
    }
    return rc;
}

/* Every name of a hard-link group has records of its own here, so there can be more than in the tree. */
static int write_xattrs(struct table *table, struct lz_detail *detail)
{
    const struct lz_tree *tree = table->tree;
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < table->count; i++) {
        struct lz_entry *entry = &table->entries[i];
        if (entry->xattr_size > tree->limits.max_xattrs - table->xattrs.size)
            return lz_fail(detail, LZ_E_LIMIT, "index: more than %llu bytes of xattrs, those of hard links included",
                           (unsigned long long)tree->limits.max_xattrs);
        uint32_t from = entry->xattr_offset;
        entry->xattr_offset = entry->xattr_size > 0 ? (uint32_t)table->xattrs.size : 0;
        if (entry->xattr_size > 0)
            rc = lz_buf_append(&table->xattrs, tree->xattrs.data + from, entry->xattr_size);
    }
    return rc;
}

/* `link` and `link_count` of every group, of the names that are still there. */
static int write_links(struct table *table)
{
    uint32_t *first = lz_zalloc_array((size_t)table->tree->groups + 1, sizeof *first);
    if (first == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < table->count; i++) {
        struct lz_entry *entry = &table->entries[i];
        uint32_t group = table->tree->nodes[table->order[i]].group;
        entry->link = i;
        if (entry->kind == LZ_KIND_DIRECTORY)
            continue;
        entry->link_count = 1;
        if (group == 0)
            continue;
        if (first[group] == 0)
            first[group] = i; /* entry 0 is the root, so 0 means none */
        else
            table->entries[first[group]].link_count++;
        entry->link = first[group];
    }
    for (uint32_t i = 0; i < table->count; i++)
        if (table->entries[i].link != i)
            table->entries[i].link_count = table->entries[table->entries[i].link].link_count;
    free(first);
    return 0;
}

static int write_slots(struct table *table)
{
    table->slot_count = 2;
    while (table->slot_count < (uint64_t)table->count * 2)
        table->slot_count *= 2;
    table->slots = lz_zalloc_array(table->slot_count, sizeof *table->slots);
    if (table->slots == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < table->count; i++) {
        uint64_t hash = table->entries[i].path_hash;
        uint64_t at = hash & (table->slot_count - 1);
        while (table->slots[at].entry_plus_one != 0)
            at = (at + 1) & (table->slot_count - 1);
        table->slots[at] = (struct lz_slot){.tag = (uint32_t)(hash >> 32), .entry_plus_one = i + 1};
    }
    return 0;
}

static void sort_objects(struct lz_tree *tree)
{
    if (tree->object_count == 0)
        return;
    qsort(tree->objects, tree->object_count, sizeof *tree->objects, by_digest);
    size_t kept = 1;
    for (size_t i = 1; i < tree->object_count; i++)
        if (by_digest(&tree->objects[i], &tree->objects[kept - 1]) != 0)
            tree->objects[kept++] = tree->objects[i];
    tree->object_count = kept;
}

/* Where the table goes: section after section, each straight from where it lies. */
struct out {
    const struct lz_sys *sys;
    int fd, rc;
    uint64_t at;
    XXH3_state_t *checksum;
};

static void put(struct out *out, const void *bytes, size_t size)
{
    if (out->rc != 0 || size == 0)
        return;
    if (XXH3_64bits_update(out->checksum, bytes, size) != XXH_OK)
        out->rc = -EINVAL;
    else
        out->rc = lz_pwrite_all(out->sys, out->fd, bytes, size, (off_t)out->at);
    out->at += size;
}

static struct lz_section put_section(struct out *out, const void *bytes, size_t size)
{
    static const uint8_t zeros[8];
    struct lz_section section = {.offset = out->at, .size = size};
    put(out, bytes, size);
    put(out, zeros, -size & 7);
    return section;
}

static void put_table(struct out *out, const struct table *table, struct lz_index_header *header)
{
    static const uint8_t no_layer[1][32];
    const struct lz_tree *tree = table->tree;
    const void *layers = tree->merged ? (const void *)tree->layers : no_layer;
    size_t layer_count = tree->merged ? tree->layer_count : 1;
    header->entries = put_section(out, table->entries, table->count * sizeof *table->entries);
    header->slots = put_section(out, table->slots, table->slot_count * sizeof *table->slots);
    header->strings = put_section(out, table->strings.data, table->strings.size);
    header->xattrs = put_section(out, table->xattrs.data, table->xattrs.size);
    header->layers = put_section(out, layers, layer_count * 32);
    header->objects = put_section(out, tree->objects, tree->object_count * sizeof *tree->objects);
}

static int write_file(const struct lz_sys *sys, const struct table *table, int fd, uint64_t inline_size)
{
    uint64_t base = LZ_INDEX_INLINE_OFFSET;
    if (lz_add_size(base, inline_size, &base) != 0 || base > INT64_MAX / 2)
        return -EFBIG;
    struct out out = {.sys = sys, .fd = fd, .at = (base + 7) & ~7ull, .checksum = XXH3_createState()};
    if (out.checksum == NULL)
        return -ENOMEM;
    if (XXH3_64bits_reset(out.checksum) != XXH_OK)
        out.rc = -EINVAL;
    struct lz_index_header header = {.version = LZ_INDEX_VERSION, .entry_count = table->count};
    memcpy(header.magic, LZ_INDEX_MAGIC, sizeof header.magic);
    header.inline_data = (struct lz_section){.offset = LZ_INDEX_INLINE_OFFSET, .size = inline_size};
    put_table(&out, table, &header);
    header.file_size = out.at;
    header.table_checksum = XXH3_64bits_digest(out.checksum);
    header.header_checksum = XXH3_64bits(&header, offsetof(struct lz_index_header, header_checksum));
    (void)XXH3_freeState(out.checksum);
    return out.rc == 0 ? lz_pwrite_all(sys, fd, &header, sizeof header, 0) : out.rc;
}

int lz_tree_write(const struct lz_sys *sys, struct lz_tree *tree, int fd, uint64_t inline_size, uint32_t *entry_count,
                  struct lz_detail *detail)
{
    struct table table = {.tree = tree};
    table.order = lz_alloc_array(tree->count, sizeof *table.order);
    table.entries = lz_zalloc_array(tree->count, sizeof *table.entries);
    int rc = table.order != NULL && table.entries != NULL ? 0 : -ENOMEM;
    sort_objects(tree);
    if (rc == 0)
        rc = put_in_order(&table);
    if (rc == 0)
        rc = write_strings(&table, detail);
    if (rc == 0)
        rc = write_xattrs(&table, detail);
    if (rc == 0)
        rc = write_links(&table);
    if (rc == 0)
        rc = write_slots(&table);
    if (rc == 0)
        rc = write_file(sys, &table, fd, inline_size);
    if (rc != 0 && rc != LZ_E_LIMIT)
        (void)lz_fail(detail, rc, "index: %s", lz_error_text(rc));
    if (rc == 0 && entry_count != NULL)
        *entry_count = table.count;
    free(table.order);
    free(table.entries);
    free(table.slots);
    lz_buf_free(&table.strings);
    lz_buf_free(&table.xattrs);
    return rc;
}
