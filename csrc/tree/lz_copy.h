/* lz_copy.h - a whole tree, copied to another place of the same machine: each file a clone where the file system can.
 *
 * Everything of it: types, owners, modes, modification times, xattrs (overlay's own too, as they are), device numbers,
 * holes, which names are one file, and whether it is written in place (btrfs: chattr +C). The target is private to the
 * caller while it is copied; the source may change, but then what is copied is of no one moment. Content and attributes of
 * one name are of one file all the same, whatever changes places meanwhile.
 */
#ifndef LZ_COPY_H
#define LZ_COPY_H

#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_step.h"
#include "../base/lz_sys.h"

struct lz_copy_result {
    uint64_t entries; /* names below the top */
    uint64_t shared;  /* bytes of files whose blocks are shared now (FICLONE), without holes */
    uint64_t copied;  /* bytes that were written */
};

/* One makes names while others fill files. Of 1,000 files of 1 MiB on XFS, two cores: one thread 56 ms, two 40, three as
 * two, for a directory takes names one after the other; more may help where bytes are copied. */
#define LZ_COPY_THREADS_MAX 4u

/* Copies what is in the directory `from_fd` into the empty directory `to_fd`, which gets its attributes too, with as many
 * of `threads` (the caller's counts) as find something to do, and LZ_COPY_THREADS_MAX at most. Names that vanish meanwhile
 * are left out. Nothing is synced, other mounts are not entered. `step`, which may be NULL, is asked between names and before
 * large files, and ends the call once those at hand are filled. 0 and, if `result` is not NULL, what it came to; or a
 * negative code with part of it there; LZ_E_LIMIT for a path over LZ_PATH_MAX. */
int lz_copy_tree(const struct lz_sys *sys, int from_fd, int to_fd, unsigned threads, const struct lz_step *step,
                 struct lz_copy_result *result, struct lz_detail *detail);

#endif
