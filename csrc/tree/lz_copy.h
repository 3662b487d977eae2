/* lz_copy.h - a whole tree, copied to another file system of the same machine.
 *
 * Everything of it: types, owners, modes, modification times, xattrs (overlay's own too, as they are), device numbers,
 * holes, and which names are one file. The target is private to the caller while it is copied.
 */
#ifndef LZ_COPY_H
#define LZ_COPY_H

#include "../base/lz_err.h"
#include "../base/lz_sys.h"

/* Copies what is in the directory `from_fd` into the empty directory `to_fd`, which gets its attributes too. Nothing is
 * synced, other mounts are not entered. 0, or a negative code with part of it there; LZ_E_LIMIT for a path over
 * LZ_PATH_MAX. */
int lz_copy_tree(const struct lz_sys *sys, int from_fd, int to_fd, struct lz_detail *detail);

#endif
