/* lz_unpack.h - a tar into a directory: checkout and `cp` into a container.
 *
 * Every parent is resolved with lz_openat_beneath() below the target, so a tree that swaps symlinks meanwhile can make it
 * fail but never make it write elsewhere. An existing non-directory is replaced, by a file in one step, once that is whole
 * (a `.lz-partial-*` until then); an existing directory is kept. Directory times are set last.
 */
#ifndef LZ_UNPACK_H
#define LZ_UNPACK_H

#include <stdbool.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_step.h"
#include "../base/lz_sys.h"

struct lz_unpack_options {
    bool keep_owner;           /* chown to the archive's owner (needs root); else set-ID bits and capabilities, which
                                  would be another's, are left out, as cp leaves them */
    bool keep_xattrs;          /* set SCHILY.xattr.*; overlay.* names are refused with LZ_E_UNSAFE */
    bool no_replace_directory; /* docker cp: a directory never replaces a file and the other way round: -ENOTDIR /
                                  -EISDIR */
};

/* Reads a plain (not compressed) tar from in_fd into the directory dir_fd. `step`, which may be NULL, is asked between
 * entries, in the middle of large ones, and while in_fd has nothing to read: what it ends with is a failure like others.
 * What was made before a failure stays; of the file at which it failed nothing does, and what it was to replace stays, but
 * for an empty directory. Killed, a process may leave half of a new file, or a `.lz-partial-*`. */
int lz_unpack(const struct lz_sys *sys, int in_fd, int dir_fd, const struct lz_unpack_options *options,
              const struct lz_step *step, uint64_t *entries, struct lz_detail *detail);

#endif
