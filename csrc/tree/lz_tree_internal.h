/* lz_tree_internal.h - the tree's insides, shared by lz_tree.c (one layer's rules), lz_tree_apply.c (rules between
 * layers), lz_tree_compose.c (several layers as one), lz_relayer*.c (their tar) and lz_tree_write.c (the file). */
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
    bool hides_lower;       /* a whiteout of this name, or an opaque mark in it, was seen in this layer */
};

/* The directories of the last path that was walked: tars go through a tree in its order, so the next one shares most of
 * them. Forgotten when a directory loses its children, and perhaps its name. */
struct trail {
    size_t count;
    uint16_t ends[LZ_PATH_MAX / 2 + 1];  /* where the i-th component ends in `path`, behind its slash */
    uint32_t nodes[LZ_PATH_MAX / 2 + 1]; /* its directory */
    char path[LZ_PATH_MAX + 1];
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
    struct lz_tree_limits limits; /* with the defaults filled in */
    struct trail trail;
    uint32_t groups;
    bool merged; /* filled by apply() */
    bool part;   /* likewise, and something lies below: whiteouts and opaque marks stay */
};

/* A child of node `parent` by name, or NO_NODE. */
uint32_t lz_tree_find_child(const struct lz_tree *tree, uint32_t parent, const char *name, size_t size);
/* A new child of no kind yet, for a name that is free. 0, LZ_E_LIMIT or -ENOMEM. Node pointers move. */
int lz_tree_new_child(struct lz_tree *tree, uint32_t parent, const char *name, size_t size, uint32_t *out,
                      struct lz_detail *detail);
/* Takes a node out of its directory; what is below it is unreachable then. */
void lz_tree_drop(struct lz_tree *tree, uint32_t number);
void lz_tree_drop_children(struct lz_tree *tree, uint32_t number);
/* Makes a node a directory that nothing listed. */
void lz_tree_make_implicit(struct node *node);
/* Copies an entry of a layer into a node: attributes, xattrs, symlink target. The node's flags are INLINE or OBJECT
 * then, its group is 0. 0, LZ_E_LIMIT or -ENOMEM. */
int lz_tree_take_entry(struct lz_tree *tree, const struct lz_index *layer, uint32_t from, uint32_t number,
                       uint32_t layer_number, struct lz_detail *detail);
/* LZ_E_LIMIT when `size` bytes more are too many xattrs. */
int lz_tree_check_xattrs(const struct lz_tree *tree, size_t size, struct lz_detail *detail);
/* Puts a symlink's target among the names. 0, LZ_E_LIMIT or -ENOMEM. */
int lz_tree_keep_text(struct lz_tree *tree, const char *text, size_t size, uint32_t *offset, struct lz_detail *detail);

#endif
