/* lz_copy_files.h - files that have their names already get blocks and attributes, several at once (internal to copy).
 *
 * A directory takes one new name after the other, but a kernel shares blocks and sets times of several files at once: who
 * walks makes the names, and other threads fill what they stand for. Whoever walks too fast fills one itself, so what is
 * under way is bounded: 32 descriptors.
 */
#ifndef LZ_COPY_FILES_H
#define LZ_COPY_FILES_H

#include <stdbool.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"
#include "lz_copy.h"
#include "lz_walk.h"

struct lz_copy_files;

struct lz_copy_pair {
    int from, to; /* descriptors; `to` is empty and new */
};

/* `threads`: with the caller's. 0 or -ENOMEM. None is begun before there is something to do for it. */
int lz_copy_files_new(const struct lz_sys *sys, unsigned threads, struct lz_copy_files **out);

/* Fills one now, or soon. Takes over both descriptors, also on failure; `node` is copied. 0, -ENOMEM, or what has failed
 * so far, of another file maybe. */
int lz_copy_files_add(struct lz_copy_files *self, const struct lz_walk_node *node, const struct lz_copy_pair *pair);

/* Waits until all are filled, or with `cancel` those that are begun; adds what they came to, and frees. 0, or the first
 * failure, and which file it was of; or what `step`, which may be NULL, said: it is asked before large files. NULL is
 * allowed. */
int lz_copy_files_end(struct lz_copy_files *self, const struct lz_step *step, bool cancel, struct lz_copy_result *done,
                      struct lz_detail *detail);

/* Owner, mode, xattrs and time of what `dir` and `name` say, "" being dir itself. What `made` (NULL: nothing is known)
 * shows as right is left: each change is a transaction of the file system. */
int lz_copy_attributes(const struct lz_sys *sys, const struct lz_walk_node *node, int dir, const char *name,
                       const struct stat *made);

/* btrfs: a file or directory whose blocks are written in place (chattr +C), as databases want it. A file must have it
 * while it is empty, and shares blocks only with its like. Where there is no such thing, or it cannot be kept, no matter. */
void lz_copy_in_place(const struct lz_sys *sys, int from, int to);

#endif
