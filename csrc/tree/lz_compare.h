/* lz_compare.h - what became of each path between two merged indexes, one change after the other.
 *
 * Walk order is the index's: a directory, then its children sorted by name (memcmp), depth first. Every path that is in
 * one view only is a change of its own, also in a directory that is in that view only, so that comparing the other way
 * round gives the same paths with ADDED and DELETED swapped. No content is read: files are their digests.
 */
#ifndef LZ_COMPARE_H
#define LZ_COMPARE_H

#include <stddef.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../bytes/lz_index.h"
#include "lz_diff.h"

enum lz_difference { /* of a MODIFIED path */
                     LZ_DIFFERS_TYPE = 1,
                     LZ_DIFFERS_CONTENT = 2, /* files */
                     LZ_DIFFERS_TARGET = 4,  /* symlinks */
                     LZ_DIFFERS_DEVICE = 8,  /* device numbers */
                     LZ_DIFFERS_MODE = 16,   /* permission and set-id bits */
                     LZ_DIFFERS_OWNER = 32,  /* uid or gid */
                     LZ_DIFFERS_MTIME = 64,
                     LZ_DIFFERS_XATTRS = 128,
                     LZ_DIFFERS_LINKS = 256, /* which of the paths that both views have are names of the same file */
};

struct lz_view_change {
    enum lz_change_kind change;
    uint32_t differs;  /* enum lz_difference; 0 unless MODIFIED */
    enum lz_kind kind; /* what it is in `after`; DELETED: what it was */
    const char *path;  /* no leading slash, NUL-terminated; points into one of the indexes */
    size_t path_size;
    uint64_t old_size, size; /* of a regular file before and after; else 0 */
};

struct lz_compare;

/* Both indexes must be merged ones (no whiteouts), and outlive the comparison. 0 or -ENOMEM. */
int lz_compare_new(const struct lz_index *before, const struct lz_index *after, struct lz_compare **out);
void lz_compare_free(struct lz_compare *compare);

/* The next change: 1 and *out, 0 at the end, or -ENOMEM. O(entries of both) for all of them. */
int lz_compare_next(struct lz_compare *compare, struct lz_view_change *out);

#endif
