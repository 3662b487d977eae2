/* lz_recipe_stream.h - a layer's tar as a stream of pieces, each with the place it comes from (internal to replay and to
 * the writer of zstd:chunked).
 *
 * Objects are opened one at a time. Nothing is hashed here: who has taken all bytes says what he found to
 * lz_recipe_stream_check().
 */
#ifndef LZ_RECIPE_STREAM_H
#define LZ_RECIPE_STREAM_H

#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"
#include "../bytes/lz_digest.h"

enum lz_recipe_place { LZ_RECIPE_IN_RECIPE, LZ_RECIPE_IN_INDEX, LZ_RECIPE_IN_OBJECT };

struct lz_recipe_piece {
    enum lz_recipe_place place;
    const uint8_t *digest; /* of the object, LZ_SHA256_SIZE bytes, good until the next piece; else NULL */
    uint64_t offset;       /* in the object, or in the index's inline section; 0 in the recipe */
    uint64_t size;
};

struct lz_recipe_stream;

/* The descriptors stay the caller's, and `detail` (not NULL) must outlive the stream. 0, -ENOMEM, or what the recipe's
 * header is (lz_recipe_read.h). Give back with lz_recipe_stream_free() (NULL is allowed). */
int lz_recipe_stream_new(const struct lz_sys *sys, int recipe_fd, int index_fd, int objects_fd,
                         struct lz_detail *detail, struct lz_recipe_stream **out);
void lz_recipe_stream_free(struct lz_recipe_stream *self);

/* The next piece (what was not read of the one before would be lost: read it all): 1, 0 after the last one, or an
 * error: LZ_E_CORRUPT, LZ_E_TRUNCATED, -ENOENT and its like with the object's name, -ENOMEM. */
int lz_recipe_stream_next(struct lz_recipe_stream *self, struct lz_recipe_piece *piece);

/* The next bytes of the piece, as many as there are up to `capacity`; *size is 0 when it has no more. */
int lz_recipe_stream_read(struct lz_recipe_stream *self, uint8_t *out, size_t capacity, size_t *size);

/* At the end: were `size` bytes with that digest the tar? 0, or LZ_E_CORRUPT that names the object to blame, or the
 * layer when none of them is. */
int lz_recipe_stream_check(struct lz_recipe_stream *self, uint64_t size, const uint8_t digest[LZ_SHA256_SIZE]);

uint64_t lz_recipe_stream_tar_size(const struct lz_recipe_stream *self);
const uint8_t *lz_recipe_stream_diff_id(const struct lz_recipe_stream *self);

#endif
