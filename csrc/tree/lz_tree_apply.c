#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lz_tree_internal.h"

int lz_tree_take_entry(struct lz_tree *tree, const struct lz_index *layer, uint32_t from, uint32_t number,
                       uint32_t layer_number, struct lz_detail *detail)
{
    const struct lz_entry *entry = &layer->entries[from];
    size_t xattrs_from = tree->xattrs.size;
    uint32_t target_offset = 0;
    int rc = lz_tree_check_xattrs(tree, entry->xattr_size, detail);
    if (rc == 0 && entry->xattr_size > 0)
        rc = lz_buf_append(&tree->xattrs, layer->xattrs + entry->xattr_offset, entry->xattr_size);
    if (rc == 0 && entry->kind == LZ_KIND_SYMLINK)
        rc = lz_tree_keep_text(tree, lz_index_target(layer, from), entry->size, &target_offset, detail);
    if (rc != 0)
        return rc;
    struct node *node = &tree->nodes[number];
    uint16_t name_size = node->entry.name_size;
    node->entry = *entry;
    node->entry.name_size = name_size;
    node->entry.flags = entry->flags & (LZ_FLAG_INLINE | LZ_FLAG_OBJECT);
    node->entry.layer = layer_number;
    node->entry.xattr_offset = (uint32_t)xattrs_from;
    node->target_offset = target_offset;
    node->group = 0;
    return 0;
}

/* Lays one entry (not the root) over directory `parent`; *out is its node, or NO_NODE for a whiteout. */
static int apply_entry(struct lz_tree *tree, const struct lz_index *layer, uint32_t from, uint32_t parent,
                       uint32_t layer_number, uint32_t *out, struct lz_detail *detail)
{
    const struct lz_entry *entry = &layer->entries[from];
    const char *name = lz_index_name(layer, from);
    uint32_t number = lz_tree_find_child(tree, parent, name, entry->name_size);
    bool directory = entry->kind == LZ_KIND_DIRECTORY, merges = false;
    *out = NO_NODE;
    if (entry->kind == LZ_KIND_WHITEOUT) {
        if (number != NO_NODE)
            lz_tree_drop(tree, number);
        return 0;
    }
    if (number == NO_NODE) {
        int rc = lz_tree_new_child(tree, parent, name, entry->name_size, &number, detail);
        if (rc != 0)
            return rc;
    } else if (tree->nodes[number].entry.kind == LZ_KIND_DIRECTORY) {
        merges = directory;
        if (!directory || (entry->flags & LZ_FLAG_OPAQUE) != 0)
            lz_tree_drop_children(tree, number);
    }
    *out = number; /* what replaces something takes its node, so a file that each layer changes is one entry */
    if (merges && (entry->flags & LZ_FLAG_IMPLICIT) != 0)
        return 0;
    return lz_tree_take_entry(tree, layer, from, number, layer_number, detail);
}

void lz_tree_begin_stack(struct lz_tree *tree)
{
    tree->merged = true;
    tree->nodes[0].entry.flags = 0;
}

void lz_tree_begin_part(struct lz_tree *tree)
{
    tree->merged = tree->part = true;
}

int lz_tree_apply(struct lz_tree *tree, const struct lz_index *layer, const uint8_t diff_id[32],
                  struct lz_detail *detail)
{
    void *layers = tree->layers;
    int rc = lz_grow(&layers, &tree->layer_capacity, tree->layer_count + 1, sizeof *tree->layers);
    tree->layers = layers;
    if (rc == 0 && tree->part) {
        memcpy(tree->layers[tree->layer_count++], diff_id, 32);
        return lz_tree_compose(tree, layer, (uint32_t)tree->layer_count - 1, NULL, detail);
    }
    uint32_t *nodes = lz_alloc_array(layer->entry_count, sizeof *nodes);
    uint32_t *groups = lz_zalloc_array(layer->entry_count, sizeof *groups);
    if (rc != 0 || nodes == NULL || groups == NULL) {
        free(nodes);
        free(groups);
        return -ENOMEM;
    }
    uint32_t layer_number = (uint32_t)tree->layer_count;
    memcpy(tree->layers[tree->layer_count++], diff_id, 32);
    lz_tree_begin_stack(tree);
    nodes[0] = 0;
    if ((layer->entries[0].flags & LZ_FLAG_OPAQUE) != 0)
        lz_tree_drop_children(tree, 0);
    if ((layer->entries[0].flags & LZ_FLAG_IMPLICIT) == 0)
        rc = lz_tree_take_entry(tree, layer, 0, 0, layer_number, detail);
    for (uint32_t i = 1; rc == 0 && i < layer->entry_count; i++) {
        const struct lz_entry *entry = &layer->entries[i];
        rc = apply_entry(tree, layer, i, nodes[entry->parent], layer_number, &nodes[i], detail);
        if (rc != 0 || nodes[i] == NO_NODE || entry->kind == LZ_KIND_DIRECTORY)
            continue;
        if (entry->link_count > 1 && groups[entry->link] == 0)
            groups[entry->link] = ++tree->groups;
        tree->nodes[nodes[i]].group = groups[entry->link];
    }
    free(nodes);
    free(groups);
    return rc;
}
