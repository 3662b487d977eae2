/* lz_copyup.h - bytes of a lower file into a new upper file: the ladder.
 *
 *     clone        FICLONE / FICLONERANGE: O(1), shares the blocks; needs reflink on one file system
 *     range        copy_file_range(): in the kernel, shares or copies server-side where the file system can
 *     sendfile     in the kernel through the page cache
 *     read-write   256 KiB at a time through memory
 *
 * Each rung falls to the next on EXDEV, EOPNOTSUPP, EINVAL, ENOSYS, ENOTTY and EPERM, never on ENOSPC, EDQUOT or EIO.
 * Two rungs of DESIGN.md's ladder are not here because they copy no data: attributes only (metacopy) is the
 * union's choice (lz_union.h), and block by block is lz_blocks.h. Holes stay holes on every rung: the source's data
 * extents (SEEK_DATA) are copied one by one.
 */
#ifndef LZ_COPYUP_H
#define LZ_COPYUP_H

#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"

enum lz_rung {
    LZ_RUNG_AUTO = 0, /* asked for: the first that works; reported: nothing was copied (an empty file) */
    LZ_RUNG_METACOPY, /* attributes only; the data stays in the lower */
    LZ_RUNG_BLOCKS,   /* block by block (lz_blocks.h) */
    LZ_RUNG_CLONE,
    LZ_RUNG_RANGE,
    LZ_RUNG_SENDFILE,
    LZ_RUNG_READ_WRITE,
    LZ_RUNG_COUNT,
};

const char *lz_rung_name(enum lz_rung rung); /* "auto", "metacopy", "blocks", "clone", "copy_file_range", ... */

/* Where the content lies: bytes [offset, offset + size) of `fd`. Inline contents have an offset that no clone can
 * take. */
struct lz_bytes_at {
    int fd;
    uint64_t offset, size;
};

struct lz_copyup_result {
    enum lz_rung rung;
    uint64_t copied; /* bytes that were written (holes and clones: 0) */
};

/* Copies the content to `out_fd` (empty, at offset 0) and gives it the size. `rung` AUTO tries the ladder from CLONE
 * down; a rung asked for by name that cannot serve is -EOPNOTSUPP with a detail. LZ_E_TRUNCATED when the source is
 * shorter than it should be. No fsync. */
int lz_copyup_data(const struct lz_sys *sys, const struct lz_bytes_at *from, int out_fd, enum lz_rung rung,
                   struct lz_copyup_result *result, struct lz_detail *detail);

/* The same into [out_offset, out_offset + size) of a file that has its size already and reads as zeros there. AUTO leaves
 * out sendfile, which writes at the descriptor's own offset: others may be moving that. */
int lz_copyup_range(const struct lz_sys *sys, const struct lz_bytes_at *from, int out_fd, uint64_t out_offset,
                    enum lz_rung rung, struct lz_copyup_result *result, struct lz_detail *detail);

#endif
