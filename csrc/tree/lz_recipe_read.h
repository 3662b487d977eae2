/* lz_recipe_read.h - the operations of a recipe as a stream of bytes, and the holes that they tell of (internal to
 * replay and relayer).
 */
#ifndef LZ_RECIPE_READ_H
#define LZ_RECIPE_READ_H

#include <stdbool.h>
#include <stdint.h>
#include <zstd.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"
#include "../bytes/lz_digest.h"
#include "../bytes/lz_index.h"
#include "../bytes/lz_tar.h"

struct lz_recipe_reader {
    const struct lz_sys *sys;
    struct lz_detail *detail;
    int fd;
    off_t offset;
    ZSTD_DCtx *zstd;
    uint8_t *packed, *plain;
    ZSTD_inBuffer in;
    size_t plain_at, plain_size;
    bool frame_over;
    uint64_t tar_size; /* as the header says */
    uint8_t diff_id[LZ_SHA256_SIZE];
};

/* Reads the header of `fd` (which stays the caller's). `detail` must outlive the reader. close() may follow a failure
 * too, and `{0}` can be closed. */
int lz_recipe_reader_open(struct lz_recipe_reader *reader, const struct lz_sys *sys, int fd, struct lz_detail *detail);
void lz_recipe_reader_close(struct lz_recipe_reader *reader);

/* The next `size` bytes of the operations. LZ_E_CORRUPT when they have no end, LZ_E_TRUNCATED, -errno. */
int lz_recipe_take(struct lz_recipe_reader *reader, uint8_t *out, size_t size);

/* After the operation END: the frame's checksum is right, and nothing follows. */
int lz_recipe_check_end(struct lz_recipe_reader *reader);

/* The files that a layer's tar has as sparse ones: for each such object its data segments as the tar has them (of the
 * first file, when several have the same content). */
struct lz_sparse_object {
    uint32_t number; /* in the index's object table */
    size_t first, count;
};
struct lz_sparse_map {
    struct lz_sparse_object *objects; /* sorted by number */
    size_t object_count, object_capacity;
    struct lz_tar_extent *extents;
    size_t extent_count, extent_capacity;
};

/* Reads a recipe for it: the object operations between two headers are one file's data segments, and an object that
 * none names is one hole. `layer` is the recipe's index. One pass over the operations, no content is read. `{0}` is a
 * valid empty map; give back with lz_sparse_free(), after a failure too. */
int lz_sparse_read(const struct lz_sys *sys, int recipe_fd, const struct lz_index *layer, struct lz_sparse_map *out,
                   struct lz_detail *detail);
void lz_sparse_free(struct lz_sparse_map *map);

/* Reads a layer's recipe to its end, and no content: its operations are whole (they have a checksum), name objects of
 * `layer`, and its header is of this diff ID and tar size. 0, LZ_E_CORRUPT, LZ_E_TRUNCATED, -errno or -ENOMEM. */
int lz_recipe_check(const struct lz_sys *sys, int recipe_fd, const struct lz_index *layer,
                    const uint8_t diff_id[LZ_SHA256_SIZE], uint64_t tar_size, struct lz_detail *detail);

/* The segments of an object, or NULL when it is not sparse there. A file of one hole has a segment list of count 0. */
const struct lz_sparse_object *lz_sparse_find(const struct lz_sparse_map *map, const struct lz_index *layer,
                                              const uint8_t digest[LZ_SHA256_SIZE]);

#endif
