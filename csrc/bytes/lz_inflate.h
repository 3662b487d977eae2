/* lz_inflate.h - streaming decompression: gzip (ISA-L), zstd (libzstd), or none.
 *
 * Gzip follows zlib's gzread(): members may be concatenated, each member's CRC-32 and length are checked, and
 * bytes after the last member that do not begin another (no 1f 8b) are ignored. Zstd frames may be concatenated
 * and skippable frames are skipped; other bytes, and the formats from before zstd 1.0, are LZ_E_FORMAT.
 */
#ifndef LZ_INFLATE_H
#define LZ_INFLATE_H

#include <stddef.h>
#include <stdint.h>

#include "../base/lz_err.h"

enum lz_compression { LZ_COMPRESSION_NONE = 0, LZ_COMPRESSION_GZIP = 1, LZ_COMPRESSION_ZSTD = 2 };

/* By the magic of the first bytes; fewer than 4 bytes can only be NONE or GZIP. */
enum lz_compression lz_compression_detect(const uint8_t *head, size_t size);

struct lz_inflate;

/* 0, -ENOMEM, or -EINVAL for a kind that is none of the three. Give back with lz_inflate_free() (NULL allowed).
 * `window_log_max` bounds zstd's window (memory = 2^n bytes); 0 means 27 (128 MiB), zstd's own default limit. */
int lz_inflate_new(enum lz_compression kind, unsigned window_log_max, struct lz_inflate **out);
void lz_inflate_free(struct lz_inflate *self);

/* Takes bytes from *in (advancing it and lowering *in_size) and writes at most `capacity` bytes to out.
 * Returns 0 and sets *written (which is 0 only when *in_size reached 0, or the stream is over and what is left is
 * ignored: then *in_size is 0 too). Errors: LZ_E_FORMAT, LZ_E_CORRUPT (checksum), LZ_E_LIMIT (window), -ENOMEM. */
int lz_inflate_step(struct lz_inflate *self, const uint8_t **in, size_t *in_size, uint8_t *out, size_t capacity,
                    size_t *written, struct lz_detail *detail);

/* Call once after the last input was taken: 0, or LZ_E_TRUNCATED when the stream stops inside a member or frame
 * (an empty input is truncated too, except for NONE). */
int lz_inflate_finish(struct lz_inflate *self, struct lz_detail *detail);

#endif
