#include <errno.h>
#include <stdlib.h>

#include "lz_tree_internal.h"

/* What is to be done with one entry. */
struct piece {
    const struct lz_index *layer;
    uint32_t from, layer_number;
    bool parent; /* LZ_TAKE_PARENT */
};

static int fill(struct lz_tree *tree, const struct piece *piece, uint32_t number, struct lz_detail *detail)
{
    const struct lz_entry *entry = &piece->layer->entries[piece->from];
    struct node *node = &tree->nodes[number];
    if (piece->parent) {
        lz_tree_make_implicit(node);
        return 0;
    }
    if (entry->kind != LZ_KIND_WHITEOUT)
        return lz_tree_take_entry(tree, piece->layer, piece->from, number, piece->layer_number, detail);
    node->entry = (struct lz_entry){.kind = LZ_KIND_WHITEOUT, .name_size = node->entry.name_size};
    node->group = 0;
    return 0;
}

/* A directory over what the composed layers have under this name: `before` is its kind (0: nothing, so it meets the
 * layers below all of them), and *node is a directory if `before` is one. */
static int lay_directory(struct lz_tree *tree, const struct piece *piece, uint32_t number, uint8_t before,
                         struct lz_detail *detail)
{
    const struct lz_entry *entry = &piece->layer->entries[piece->from];
    bool implicit = piece->parent || (entry->flags & LZ_FLAG_IMPLICIT) != 0;
    bool opaque = !piece->parent && (entry->flags & LZ_FLAG_OPAQUE) != 0;
    uint8_t flags = tree->nodes[number].entry.flags;
    if (before == LZ_KIND_DIRECTORY && opaque)
        lz_tree_drop_children(tree, number);
    if (before == LZ_KIND_DIRECTORY && implicit) {
        tree->nodes[number].entry.flags = (uint8_t)(flags | (opaque ? LZ_FLAG_OPAQUE : 0));
        return 0;
    }
    int rc = fill(tree, piece, number, detail);
    if (rc != 0)
        return rc;
    /* What hid the lower's name must go on doing so, now that a directory would merge with it. */
    bool hides = before != 0 && (before != LZ_KIND_DIRECTORY || (flags & LZ_FLAG_OPAQUE) != 0);
    bool fresh = before != 0 && before != LZ_KIND_DIRECTORY; /* of the lower's, not even the attributes stay */
    tree->nodes[number].entry.flags =
        (uint8_t)((opaque || hides ? LZ_FLAG_OPAQUE : 0) | (implicit && !fresh ? LZ_FLAG_IMPLICIT : 0));
    return 0;
}

static int lay_entry(struct lz_tree *tree, const struct piece *piece, uint32_t parent, uint32_t *out,
                     struct lz_detail *detail)
{
    const struct lz_entry *entry = &piece->layer->entries[piece->from];
    const char *name = lz_index_name(piece->layer, piece->from);
    uint32_t number = lz_tree_find_child(tree, parent, name, entry->name_size);
    uint8_t before = 0;
    if (number == NO_NODE) {
        int rc = lz_tree_new_child(tree, parent, name, entry->name_size, &number, detail);
        if (rc != 0)
            return rc;
    } else {
        before = tree->nodes[number].entry.kind;
    }
    *out = number;
    if (entry->kind == LZ_KIND_DIRECTORY)
        return lay_directory(tree, piece, number, before, detail);
    if (before == LZ_KIND_DIRECTORY)
        lz_tree_drop_children(tree, number);
    return fill(tree, piece, number, detail);
}

int lz_tree_compose(struct lz_tree *tree, const struct lz_index *layer, uint32_t layer_number, const uint8_t *take,
                    struct lz_detail *detail)
{
    uint32_t *nodes = lz_alloc_array(layer->entry_count, sizeof *nodes);
    uint32_t *groups = lz_zalloc_array(layer->entry_count, sizeof *groups);
    int rc = nodes != NULL && groups != NULL ? 0 : -ENOMEM;
    if (rc == 0) {
        struct piece root = {layer, 0, layer_number, take != NULL && take[0] != LZ_TAKE_ALL};
        nodes[0] = 0;
        rc = lay_directory(tree, &root, 0, LZ_KIND_DIRECTORY, detail);
    }
    for (uint32_t i = 1; rc == 0 && i < layer->entry_count; i++) {
        const struct lz_entry *entry = &layer->entries[i];
        nodes[i] = NO_NODE;
        if (take != NULL && take[i] == LZ_TAKE_NONE)
            continue;
        struct piece piece = {layer, i, layer_number, take != NULL && take[i] == LZ_TAKE_PARENT};
        rc = lay_entry(tree, &piece, nodes[entry->parent], &nodes[i], detail);
        if (rc != 0 || entry->kind == LZ_KIND_DIRECTORY || entry->link_count < 2)
            continue;
        if (groups[entry->link] == 0)
            groups[entry->link] = ++tree->groups;
        tree->nodes[nodes[i]].group = groups[entry->link];
    }
    free(nodes);
    free(groups);
    return rc;
}
