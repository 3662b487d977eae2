/* lz_verify.h - are files still what their names say? Many files a call, and what a layer's index has inline.
 *
 * Files are read past the page cache (O_DIRECT) where the file system can: what is on the disk is what is checked, and
 * what others have in the cache stays there. Small ones are gathered in a window of LZ_VERIFY_WINDOW bytes and hashed
 * two at a time (lz_sha256_batch.h); larger ones go through it one after the other. One thread a call; any number of
 * calls at once.
 */
#ifndef LZ_VERIFY_H
#define LZ_VERIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_mem.h"
#include "../base/lz_sys.h"
#include "../bytes/lz_index.h"

#define LZ_VERIFY_WINDOW ((size_t)8 << 20)

/* Told after every window: what has been read since the last time. Anything but 0 ends the call with that. */
typedef int lz_verify_step(void *ctx, uint64_t files, uint64_t bytes);

struct lz_verify_files {
    int dir;
    bool fan;               /* "ab/cdef..." below `dir`, as objects lie; else all 64 hex digits */
    const uint8_t *digests; /* `count` of 32 bytes */
    size_t count;
    lz_verify_step *step; /* NULL: nobody is told */
    void *ctx;
};

/* Reads these files and appends to `wrong` the digests of those whose bytes have another one. One that is not there (any
 * more) is skipped; one that the disk has lost or the file system finds damaged, or that is no regular file, is wrong.
 * 0, a code of `step`, -errno, -ENOMEM or -EIO (OpenSSL); `wrong` then has those found so far. */
int lz_verify_files(const struct lz_sys *sys, const struct lz_verify_files *files, struct lz_buf *wrong,
                    struct lz_detail *detail);

/* Hashes the contents that a layer's index has itself: the number of the first entry whose content has another digest, or
 * -ENOENT when all are right; -ENOMEM, -EIO. */
int64_t lz_verify_inline(const struct lz_index *layer);

#endif
