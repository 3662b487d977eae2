/* lz_tree_internal.h - the tree's insides, shared by lz_tree.c (rules) and lz_tree_write.c (the file). */
#ifndef LZ_TREE_INTERNAL_H
#define LZ_TREE_INTERNAL_H

#include "../base/lz_mem.h"
#include "lz_tree.h"

#define NO_NODE UINT32_MAX

struct node {
    struct lz_entry entry; /* attributes as they will be written; positions are filled in by the writer */
    uint32_t parent;
    uint32_t name_offset; /* in names */
    uint32_t hash_next;
    uint32_t first_child, next_sibling, previous_sibling;
    uint32_t group;         /* hard links: 0 when alone */
    uint32_t target_offset; /* symlinks: in names */
    bool hides_lower;       /* a whiteout of this name was seen in this layer */
};

struct lz_tree {
    struct node *nodes;
    size_t count, capacity;
    uint32_t *heads; /* hash of (parent, name): chains through hash_next */
    uint32_t head_mask;
    struct lz_buf names;
    struct lz_buf xattrs;
    struct lz_object_ref *objects;
    size_t object_count, object_capacity;
    uint8_t (*layers)[32];
    size_t layer_count, layer_capacity;
    uint64_t max_entries;
    uint32_t groups;
    bool merged; /* filled by apply() */
};

#endif
