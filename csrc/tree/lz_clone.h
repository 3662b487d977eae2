/* lz_clone.h - a tree once more, under a new name: a snapshot by the file system where it has such a thing, else a copy.
 *
 * On btrfs a directory that is a subvolume has snapshots, made in one step whatever is in it: 1,000 files of 1 MiB take
 * 3 ms there and 70 ms file by file. A subvolume looks like a directory of another device (st_dev) that is mounted nowhere:
 * it is renamed, removed when it is empty, and entered as any; but nothing is renamed or linked into or out of it. What
 * has subvolumes of its own inside, which a snapshot would leave out, is copied.
 */
#ifndef LZ_CLONE_H
#define LZ_CLONE_H

#include "lz_copy.h"

/* An empty directory (0700) which can be snapshot: a subvolume where that is possible. 0 or -errno. */
int lz_clone_prepare(const struct lz_sys *sys, int dir_fd, const char *name);

/* Makes `name` in `dir_fd`, with all that is in the directory `from_fd`, and its attributes. What it is made of can be
 * snapshot again. `step` as for lz_copy_tree(), also while files are counted. The result is that of lz_copy_tree(), with a
 * snapshot's files as shared: 5 us for each to count. What is there of it when it fails stays. */
int lz_clone_tree(const struct lz_sys *sys, int from_fd, int dir_fd, const char *name, unsigned threads,
                  const struct lz_step *step, struct lz_copy_result *result, struct lz_detail *detail);

#endif
