/* lz_recode.h - a whole file or pipe through a codec, and the digest of a file.
 *
 * For what is not a layer: compressed docker archives, blobs that are verified, tars that are compressed on the way
 * out. One thread, constant memory. Sources are read from where they stand, to their end; outputs are written from
 * where they stand. Details name what failed, not the file: the caller knows its name.
 */
#ifndef LZ_RECODE_H
#define LZ_RECODE_H

#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"
#include "../bytes/lz_digest.h"
#include "../bytes/lz_inflate.h"

/* SHA-256 of the file's content from offset 0, wherever it stands (pread; -ESPIPE for a pipe). *size may be NULL. */
int lz_digest_file(const struct lz_sys *sys, int fd, uint8_t digest[LZ_SHA256_SIZE], uint64_t *size,
                   struct lz_detail *detail);

/* Kind by the magic; bytes of no known kind are copied. More than `max_size` bytes out (0: 1 TiB) are LZ_E_LIMIT.
 * *size gets the bytes written. -EPIPE for a pipe that nobody will read any more, also while in_fd has nothing. */
int lz_decompress_file(const struct lz_sys *sys, int in_fd, int out_fd, uint64_t max_size, uint64_t *size,
                       struct lz_detail *detail);

/* By lz_deflate; `digest` and *size are of what was written. -EINVAL for a level out of range. NONE copies. */
int lz_compress_file(const struct lz_sys *sys, int in_fd, int out_fd, enum lz_compression kind, int level,
                     uint8_t digest[LZ_SHA256_SIZE], uint64_t *size, struct lz_detail *detail);

#endif
