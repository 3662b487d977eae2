/* lz_relayer_internal.h - what lz_relayer.c (which entries and marks a new layer has) hands to lz_relayer_tar.c (its
 * tar). */
#ifndef LZ_RELAYER_INTERNAL_H
#define LZ_RELAYER_INTERNAL_H

#include "lz_recipe_read.h"
#include "lz_relayer.h"
#include "lz_tree_internal.h"

struct lz_relayer {
    const struct lz_sys *sys;
    const struct lz_relayer_plan *plan;
    struct lz_tree *tree;
    uint32_t *order; /* nodes as the tar has them: a directory, then its children, marks first, then by name */
    size_t count;
    struct lz_sparse_map *sparse; /* of each layer of the plan */
    struct lz_relayer_result result;
    struct lz_detail *detail;
};

/* Writes the inline data to index_fd and the whole recipe to recipe_fd; fills the result but for entry_count and
 * object_count, and gives the tree's nodes their place in the new index and the tree its objects. */
int lz_relayer_write_tar(struct lz_relayer *self, int index_fd, int recipe_fd);

#endif
