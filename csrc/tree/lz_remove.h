/* lz_remove.h - a file or a whole tree, gone.
 *
 * Depth costs nothing: a directory that is not empty is moved up to the top of the tree before it is emptied, so two
 * descriptors and one list of names are enough for a tree of any depth; four and two where there are subvolumes of btrfs in
 * it, for directories do not move between them. Symlinks are never followed. A mount point is
 * never entered: the kernel refuses to remove or move it (-EBUSY).
 */
#ifndef LZ_REMOVE_H
#define LZ_REMOVE_H

#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"

/* Removes `name` below `dir` and everything in it. Returns the bytes on disk that this gave back (files whose last name
 * went), or -errno; a name that is not there gives 0. Names that another process removes meanwhile do not matter. After
 * a failure part of the tree is left, some directories perhaps at its top. */
int64_t lz_remove_tree(const struct lz_sys *sys, int dir, const char *name, struct lz_detail *detail);

#endif
