/* lz_union_tar.h - a part of a union as a tar, and a tar into a union: `cp` and `export` without a mount.
 *
 * Names are resolved inside the union each time, so a tree that changes meanwhile can make either of them miss something
 * or fail, but never leave the union.
 */
#ifndef LZ_UNION_TAR_H
#define LZ_UNION_TAR_H

#include "lz_diff.h"
#include "lz_union.h"
#include "lz_unpack.h"

/* Writes what `path` is (a symlink in its last component is followed unless NOFOLLOW in `flags`) as a plain tar to
 * out_fd: a directory with everything below, or one file. `root_name` as in lz_pack_tree(). *size (may be NULL) gets
 * the bytes. -ENOTSUP for a single socket; inside directories they are left out. */
int lz_union_pack(struct lz_union *self, const char *path, size_t size, unsigned flags, const char *root_name,
                  const struct lz_pack_options *options, int out_fd, uint64_t *bytes, struct lz_detail *detail);

/* Makes what the plain tar in_fd holds below the directory `path`. As lz_unpack(), which says when it asks `step`: parents
 * that are missing are made (0755), one that is a symlink is LZ_E_UNSAFE, what is in the way is replaced (of directories
 * only empty ones), directory times are set last; what was made before a failure stays, half a file excepted. */
int lz_union_unpack(struct lz_union *self, int in_fd, const char *path, size_t size,
                    const struct lz_unpack_options *options, const struct lz_step *step, uint64_t *entries,
                    struct lz_detail *detail);

#endif
