/* lz_deflate.h - streaming compression to gzip (zlib) or zstd, reproducible: no time, no name, no OS byte, and
 * the same bytes in whatever pieces the input comes.
 *
 * zlib and not ISA-L, because ISA-L's output depends on the CPU it runs on and a layer's digest must not.
 */
#ifndef LZ_DEFLATE_H
#define LZ_DEFLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lz_inflate.h"

struct lz_deflate;

/* `level` 0 means the default (gzip 6, zstd 3). 0, -ENOMEM, or -EINVAL for kind NONE or a level out of range. */
int lz_deflate_new(enum lz_compression kind, int level, struct lz_deflate **out);
void lz_deflate_free(struct lz_deflate *self);

/* Takes bytes from *in and writes at most `capacity` bytes to out; *written says how many. With `finish` set, call
 * until it returns 1 (all is out); without, it returns 0 and may be called again while *in_size > 0 or *written ==
 * capacity. */
int lz_deflate_step(struct lz_deflate *self, const uint8_t **in, size_t *in_size, bool finish, uint8_t *out,
                    size_t capacity, size_t *written);

#endif
