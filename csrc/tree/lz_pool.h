/* lz_pool.h - the pool: an XFS image file, as a mounted file system on which a copy-up shares blocks (reflink).
 *
 * The image lies on whatever file system the store is on, mostly sparse. A writable autoclear loop device shows it to
 * XFS, with direct I/O: nothing is cached twice, and an fsync inside becomes a flush of the device, which the loop
 * driver answers with an fsync of the image. The device lives exactly as long as somebody has it mounted.
 *
 * One image must never have two devices. Whoever mounts holds a lock of the store, and the device that is there already
 * (of another mount namespace, say) is used again: XFS then gives the same superblock a second mount. Should a second
 * device come about all the same, XFS refuses to mount it by the file system's UUID.
 */
#ifndef LZ_POOL_H
#define LZ_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"
#include "lz_loop.h"

struct lz_pool_geometry {
    uint32_t block_size;
    uint64_t blocks; /* of the data section */
    uint32_t max_inode_percent;
    bool reflink;
};

/* A detached mount of the image that `image_fd` (open for writing) is; `device` says through what. A descriptor, or a
 * negative code with nothing mounted and no device bound. */
int lz_pool_mount(const struct lz_sys *sys, int image_fd, struct lz_loop_state *device, struct lz_detail *detail);

/* Of the XFS file system that `fs_fd` is on; LZ_E_UNSUPPORTED for another. */
int lz_pool_geometry(const struct lz_sys *sys, int fs_fd, struct lz_pool_geometry *geometry, struct lz_detail *detail);

/* Makes the image `size` bytes long if it is shorter, then its device, then the file system that `fs_fd` is on, which
 * stays mounted and in use. Each step is skipped when it has been done, so a growth that was interrupted is finished by
 * the next one. Nothing shrinks: a smaller size is a success that changes nothing. 0 or a negative code. */
int lz_pool_grow(const struct lz_sys *sys, int image_fd, int fs_fd, uint64_t size, struct lz_detail *detail);

/* Gives the blocks that the file system does not use back to the file system that the image lies on (FITRIM), those of
 * files removed before it too. The device may still be at it on return. The bytes that were looked at, or a negative
 * code. */
int64_t lz_pool_trim(const struct lz_sys *sys, int fs_fd, struct lz_detail *detail);

#endif
