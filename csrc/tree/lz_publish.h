/* lz_publish.h - the objects directory of a store, many objects a call.
 *
 * A staged directory is flat: one file per object, named by 64 hex digits. The store's directory has a level more:
 * "ab/<62 hex digits>", made on demand. Names of any other form are none of ours and stay where they are.
 *
 * The caller holds the store's write lock over publish, withdraw and sweep; nothing here locks or syncs. Cost: one
 * rename an object, in the order of names, so that each of the 256 directories is visited once.
 */
#ifndef LZ_PUBLISH_H
#define LZ_PUBLISH_H

#include <stddef.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_mem.h"
#include "../base/lz_sys.h"
#include "../bytes/lz_index.h"

/* Moves every staged object into the store. One that is there already wins: the staged link is removed. `moved` gets
 * the 32-byte digests of those that were moved, appended; the caller frees it. 0; on failure (-errno, -ENOMEM) what was
 * moved by this call is moved back as far as possible and `moved` is as it was. */
int lz_publish_objects(const struct lz_sys *sys, int staged_fd, int objects_fd, struct lz_buf *moved,
                       struct lz_detail *detail);

/* The inverse for `count` digests of 32 bytes: from the store to the flat directory `target_fd`. Digests that are not
 * in the store are skipped. All are tried; the number moved, or the first failure. */
int64_t lz_withdraw_objects(const struct lz_sys *sys, int objects_fd, int target_fd, const uint8_t *digests,
                            size_t count, struct lz_detail *detail);

struct lz_sweep {
    uint64_t count;     /* objects without a mark */
    uint64_t bytes;     /* their logical size */
    uint64_t allocated; /* their size on disk */
};

/* Moves every object that is not among `marks` (in any order, repetitions allowed) to the flat directory `trash_fd`;
 * -1: counts only. *result is also set on failure. */
int lz_sweep_objects(const struct lz_sys *sys, int objects_fd, int trash_fd, const struct lz_object_ref *marks,
                     size_t count, struct lz_sweep *result, struct lz_detail *detail);

/* Appends to `missing` the digests of those `refs` that the store does not have, or has in another size. */
int lz_missing_objects(const struct lz_sys *sys, int objects_fd, const struct lz_object_ref *refs, size_t count,
                       struct lz_buf *missing, struct lz_detail *detail);

#endif
