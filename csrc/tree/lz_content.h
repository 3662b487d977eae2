/* lz_content.h - where the contents of a layer go: inline data, objects, and the recipe (internal to ingest).
 *
 * Holds the layer's index and recipe files. Files of at most `inline_limit` bytes (and never more than
 * LZ_CONTENT_MEMORY) are appended to the index's inline section, others become objects. Up to LZ_CONTENT_MEMORY bytes
 * an object is taken whole, hashed first and written only when it is new; larger and sparse ones are streamed.
 *
 * Holes of sparse files cost no disk, but every byte of them is hashed, and a tar of a few KiB can ask for 2^60 of
 * them. So holes count like bytes of the tar: tar and holes together may not pass max_tar_size, and holes alone not
 * max_ratio times the source's size, where a source counts as at least 64 MiB (by default that allows 69 GiB of holes,
 * half a minute of one core, in the smallest layer).
 */
#ifndef LZ_CONTENT_H
#define LZ_CONTENT_H

#include "../bytes/lz_tar.h"
#include "lz_object.h"
#include "lz_recipe.h"
#include "lz_stage.h"
#include "lz_tree.h"

#define LZ_CONTENT_MEMORY (1024u * 1024)

struct lz_content {
    struct lz_stage *stage;
    int index_fd, recipe_fd;
    struct lz_recipe_writer *recipe;
    struct lz_object_writer objects;
    uint8_t *gathered;    /* LZ_CONTENT_MEMORY: a content that came in several pieces */
    uint8_t *inline_data; /* not written yet */
    size_t inline_used;
    uint64_t inline_size; /* written */
    uint64_t inline_limit;
    uint64_t holes; /* bytes, of all files so far */
};

/* Creates index and recipe in staging. close() may follow a failure too, and closes what is open. */
int lz_content_open(struct lz_content *self, struct lz_stage *stage, struct lz_detail *detail);
void lz_content_close(struct lz_content *self);

/* Reads the whole content of a FILE entry and sets size, digest, flags and data_offset of `node`. */
int lz_content_store(struct lz_content *self, struct lz_tar_reader *reader, const struct lz_tar_entry *entry,
                     const char *path, struct lz_tree_node *node, struct lz_detail *detail);

/* Reads the current entry's content, if any, into the recipe alone. */
int lz_content_pass(struct lz_content *self, struct lz_tar_reader *reader, struct lz_detail *detail);

/* The end: rest of the inline data, the tree's table, the recipe with the stage's diff ID; both files are closed and
 * the stage's result gets its counts. */
int lz_content_finish(struct lz_content *self, struct lz_tree *tree, struct lz_detail *detail);

#endif
