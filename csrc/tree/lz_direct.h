/* lz_direct.h - sequential writing of large files past the page cache.
 *
 * What a load writes is not read again soon, and on virtual machines the kernel's part of a buffered write (allocating,
 * zeroing and later writing back each page) costs more CPU than hashing the same bytes. O_DIRECT from one aligned
 * buffer costs next to none. Where the file system refuses O_DIRECT, the same code writes through the cache.
 */
#ifndef LZ_DIRECT_H
#define LZ_DIRECT_H

#include <stddef.h>
#include <stdint.h>

#include "../base/lz_sys.h"

#define LZ_DIRECT_SIZE (1u << 20) /* one write */

struct lz_direct {
    const struct lz_sys *sys;
    int fd;          /* -1 while nothing is open */
    uint8_t *buffer; /* LZ_DIRECT_SIZE bytes, aligned to a page; kept for the next file */
    size_t used;
    uint64_t written; /* bytes of the file in front of the buffer */
};

/* Creates `name` (which must not exist) in `dir`. `*direct` must be zero, with fd -1, or have been finished. 0, -errno,
 * -ENOMEM. */
int lz_direct_create(struct lz_direct *direct, const struct lz_sys *sys, int dir, const char *name, mode_t mode);

/* Appends. 0 or -errno. */
int lz_direct_write(struct lz_direct *direct, const uint8_t *bytes, size_t size);

/* Writes what is left, cuts the file to its size, closes it. 0 or -errno; closed either way. */
int lz_direct_finish(struct lz_direct *direct);

/* Closes without finishing; the buffer stays for the next file. Harmless when nothing is open. */
void lz_direct_close(struct lz_direct *direct);

/* Closes without finishing and gives the buffer back. */
void lz_direct_free(struct lz_direct *direct);

#endif
