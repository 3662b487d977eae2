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

static int write_strings(struct table *table)
{
    const struct lz_tree *tree = table->tree;
    int rc = lz_buf_append_zeros(&table->strings, 1); /* the root's empty path */
    for (uint32_t i = 0; rc == 0 && i < table->count; i++) {
        const struct node *node = &tree->nodes[table->order[i]];
        struct lz_entry *entry = &table->entries[i];
        const struct lz_entry *parent = &table->entries[entry->parent];
        if (i == 0) {
            entry->path_offset = 0;
            entry->path_size = 0;
        } else {
            size_t size = (size_t)parent->path_size + (parent->path_size > 0) + entry->name_size;
            if (size > LZ_PATH_MAX)
                return LZ_E_LIMIT;
            rc = lz_buf_reserve(&table->strings, size + 1);
            if (rc != 0)
                return rc;
            entry->path_offset = (uint32_t)table->strings.size;
            entry->path_size = (uint16_t)size;
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
        if (rc == 0 && table->strings.size > UINT32_MAX)
            rc = LZ_E_LIMIT;
        if (rc == 0)
            entry->path_hash = lz_path_hash((const char *)table->strings.data + entry->path_offset, entry->path_size);
    }
    return rc;
}

static int write_xattrs(struct table *table)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < table->count; i++) {
        struct lz_entry *entry = &table->entries[i];
        const uint8_t *records = table->tree->xattrs.data;
        uint32_t from = entry->xattr_offset;
        entry->xattr_offset = entry->xattr_size > 0 ? (uint32_t)table->xattrs.size : 0;
        if (entry->xattr_size > 0)
            rc = lz_buf_append(&table->xattrs, records + from, entry->xattr_size);
        if (rc == 0 && table->xattrs.size > UINT32_MAX)
            rc = LZ_E_LIMIT;
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

static struct lz_section append_section(struct lz_buf *out, uint64_t base, const void *bytes, size_t size, int *rc)
{
    struct lz_section section = {.offset = base + out->size, .size = size};
    if (*rc == 0)
        *rc = lz_buf_append(out, bytes, size);
    if (*rc == 0)
        *rc = lz_buf_append_zeros(out, -out->size & 7);
    return section;
}

static int write_file(const struct lz_sys *sys, const struct table *table, int fd, uint64_t inline_size)
{
    static const uint8_t no_layer[1][32];
    const struct lz_tree *tree = table->tree;
    uint64_t base = LZ_INDEX_INLINE_OFFSET;
    if (lz_add_size(base, inline_size, &base) != 0 || base > INT64_MAX / 2)
        return LZ_E_LIMIT;
    base = (base + 7) & ~7ull;
    struct lz_index_header header = {.version = LZ_INDEX_VERSION, .entry_count = table->count};
    memcpy(header.magic, LZ_INDEX_MAGIC, sizeof header.magic);
    header.inline_data = (struct lz_section){.offset = LZ_INDEX_INLINE_OFFSET, .size = inline_size};
    struct lz_buf out = {0};
    const void *layers = tree->merged ? (const void *)tree->layers : no_layer;
    size_t layer_count = tree->merged ? tree->layer_count : 1;
    int rc = 0;
    header.entries = append_section(&out, base, table->entries, table->count * sizeof *table->entries, &rc);
    header.slots = append_section(&out, base, table->slots, table->slot_count * sizeof *table->slots, &rc);
    header.strings = append_section(&out, base, table->strings.data, table->strings.size, &rc);
    header.xattrs = append_section(&out, base, table->xattrs.data, table->xattrs.size, &rc);
    header.layers = append_section(&out, base, layers, layer_count * 32, &rc);
    header.objects = append_section(&out, base, tree->objects, tree->object_count * sizeof *tree->objects, &rc);
    if (rc == 0) {
        header.file_size = base + out.size;
        header.table_checksum = XXH3_64bits(out.data, out.size);
        header.header_checksum = XXH3_64bits(&header, offsetof(struct lz_index_header, header_checksum));
        rc = lz_pwrite_all(sys, fd, out.data, out.size, (off_t)base);
    }
    if (rc == 0)
        rc = lz_pwrite_all(sys, fd, &header, sizeof header, 0);
    lz_buf_free(&out);
    return rc;
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
        rc = write_strings(&table);
    if (rc == 0)
        rc = write_xattrs(&table);
    if (rc == 0)
        rc = write_links(&table);
    if (rc == 0)
        rc = write_slots(&table);
    if (rc == 0)
        rc = write_file(sys, &table, fd, inline_size);
    if (rc == LZ_E_LIMIT)
        (void)lz_fail(detail, rc, "index: a path is over %u bytes or a section over 4 GiB", LZ_PATH_MAX);
    else if (rc != 0)
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
