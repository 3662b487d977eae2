/* lz_recipe.h - what is needed to give back a layer's tar byte for byte.
 *
 * A recipe is a zstd-compressed list of operations, in the order of the stream:
 *     literal  n bytes                      headers, pax records, padding, the end of the archive
 *     inline   offset, size                 bytes of the index's inline section
 *     object   number, offset, size         bytes of an object (sparse files: several)
 * For a 17,000-entry image literals are 20 MB raw and well under 1 MB compressed. Objects are numbered in the order of
 * first use, and named by digest at their first use.
 *
 *   file  = magic "LZRECIPE" 01 00 00 00 | u64 size of the tar | 32 bytes diff ID | zstd frame of operations
 *   operation = u8 code, then little-endian fields (see lz_recipe.c)
 */
#ifndef LZ_RECIPE_H
#define LZ_RECIPE_H

#include "../base/lz_err.h"
#include "../base/lz_sys.h"
#include "../bytes/lz_index.h"

struct lz_recipe_writer;

/* Writes to `fd` from offset 0. All 0, -errno or -ENOMEM. finish() completes the file (no fsync); free() releases
 * memory, never the fd. */
int lz_recipe_writer_new(const struct lz_sys *sys, int fd, struct lz_recipe_writer **out);
int lz_recipe_literal(struct lz_recipe_writer *writer, const uint8_t *bytes, size_t size);
int lz_recipe_inline(struct lz_recipe_writer *writer, uint64_t offset, uint64_t size);
int lz_recipe_object(struct lz_recipe_writer *writer, const uint8_t digest[32], uint64_t offset, uint64_t size);
int lz_recipe_finish(struct lz_recipe_writer *writer, uint64_t tar_size, const uint8_t diff_id[32]);
void lz_recipe_writer_free(struct lz_recipe_writer *writer);

/* Writes the tar to `out_fd` (a file, pipe or socket), hashing on the way: LZ_E_CORRUPT, naming the diff ID or the
 * object, when the bytes are not the ones that came in; -ENOENT with the object's name when one is missing. `index_fd`
 * is the layer's index file, `objects_fd` the store's objects directory ("ab/cdef..." below it). `size` (may be NULL)
 * gets the bytes written. */
int lz_recipe_replay(const struct lz_sys *sys, int recipe_fd, int index_fd, int objects_fd, int out_fd, uint64_t *size,
                     struct lz_detail *detail);

#endif
