/* lz_blocks_map.h - the map of a block-level file, and what the parts of lz_blocks share (internal).
 *
 *     header   512 bytes. What never changes has a checksum of its own. `end` changes as one piece, with another
 *     cells    16 bytes for each 32 blocks of the lower's size: the bits of `now` and of `kept`, each with a check
 *
 * A cell that was never written is all zeros, and right: no bit is set. The map has cells for the lower's own size and no
 * more, for what lies at or behind lower_end is in the upper file whatever the bits say. Numbers are in the machine's byte
 * order: a map goes with its upper, which does not travel.
 *
 * The map is read through a shared mapping and written with pwrite(): a full disk is then an error code, where a store into
 * a mapping would be a signal. A reader that meets a half-written number sees that its check does not fit, and looks
 * again under the lock. Bits are only ever set; lower_end only ever falls.
 */
#ifndef LZ_BLOCKS_MAP_H
#define LZ_BLOCKS_MAP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "lz_blocks.h"

#define LZ_BLOCKS_HEADER_SIZE 512u
#define LZ_BLOCKS_CELL_SIZE 16u
#define LZ_BLOCKS_PER_CELL 32u
#define LZ_BLOCKS_MAGIC 0x3150414d4b434c42u /* "BLCKMAP1" */

struct lz_blocks_boot {
    uint64_t id[2];
};

struct lz_blocks_end { /* how far the lower shows through */
    struct lz_blocks_boot boot;
    uint64_t now, kept;
    uint64_t check;
};

struct lz_blocks_header {
    uint64_t magic;
    uint32_t block_size;
    uint8_t user_xattr, has_digest, unused[2];
    uint64_t lower_size;
    uint8_t digest[32];
    uint64_t device, number;
    int64_t mtime;
    uint64_t mtime_nsec;
    struct lz_blocks_boot made; /* a device number means something only within one boot */
    uint64_t check;             /* of all before it */
    struct lz_blocks_end end;
};

struct lz_blocks {
    const struct lz_sys *sys;
    int file_fd, map_fd;
    bool writable;     /* the file */
    bool map_writable; /* a handle for reading may sync, too */
    bool user_xattr;
    bool current;      /* the map is known to speak of this boot */
    atomic_bool fresh; /* the xattr still says that nothing was ever synced; set under the mutex, read without it */
    struct lz_blocks_lower lower;
    struct lz_blocks_boot boot;
    const uint8_t *map;
    size_t map_size;
    uint32_t block_size, shift;
    uint64_t cell_count;
    char name[LZ_BLOCKS_NAME_SIZE];
    pthread_mutex_t mutex;
    uint8_t *scratch; /* one block; guarded by mutex */
    _Atomic uint64_t filled;
};

/* ---- the xattr: the map's name; as long as nothing was synced, also the boot it was made in and what the lower was. A
 *      power cut may then take the map's content (nobody waited for it), and the file is the lower's again ---- */

#define LZ_BLOCKS_VALUE_MAX 56u /* with a 15-byte name it still fits into a 256-byte inode of ext4 */

/* The value's length: the name alone with `lower` NULL. */
size_t lz_blocks_value(char out[LZ_BLOCKS_VALUE_MAX + 1], const char *name, const struct lz_blocks_boot *boot,
                       const struct lz_blocks_lower *lower);
bool lz_blocks_value_good(const char *value, size_t size);

int lz_blocks_boot_now(const struct lz_sys *sys, struct lz_blocks_boot *out);

/* ---- header ---- */

/* Bytes of the map of a lower of that size; 0 when there is no such map. */
uint64_t lz_blocks_map_size(uint64_t lower_size, uint32_t block_size);
void lz_blocks_header_make(struct lz_blocks_header *out, const struct lz_blocks_lower *lower, uint32_t block_size,
                           bool user_xattr, const struct lz_blocks_boot *boot);
bool lz_blocks_header_good(const struct lz_blocks_header *header);
bool lz_blocks_header_is_of(const struct lz_blocks_header *header, const struct lz_blocks_lower *lower,
                            const struct lz_blocks_boot *boot);

/* ---- locks: `count` cells from `first`, or the whole map with count 0. Not recursive ---- */

int lz_blocks_lock(struct lz_blocks *file, uint64_t first, uint64_t count);
int lz_blocks_lock_shared(struct lz_blocks *file); /* the whole; waits for those who change it */
void lz_blocks_unlock(struct lz_blocks *file, uint64_t first, uint64_t count);

/* ---- reading and changing. `locked`: the caller has a lock, so that what does not fit its check is LZ_E_CORRUPT;
 *      without one it is looked at again under the lock ---- */

/* lower_end as of this boot, and the whole thing if `out` is not NULL. A count or a code. */
int64_t lz_blocks_end(struct lz_blocks *file, bool locked, struct lz_blocks_end *out);
int lz_blocks_set_end(struct lz_blocks *file, struct lz_blocks_end *end);

/* From `block`: is it in the upper, and up to which block (at most `limit`, > block) is that so. */
int lz_blocks_run(struct lz_blocks *file, bool locked, uint64_t block, uint64_t limit, bool *in_upper, uint64_t *end);
/* With a lock that covers them. */
int lz_blocks_set(struct lz_blocks *file, uint64_t first, uint64_t end);

/* Bits of one cell: `now` of this boot (or what was kept by the last); `kept`. */
int lz_blocks_bits(struct lz_blocks *file, bool locked, uint64_t cell, uint32_t *now);
int lz_blocks_kept(struct lz_blocks *file, uint64_t cell, uint32_t *kept);
/* Writes both halves of `count` cells from `first`; with the whole lock. */
int lz_blocks_write_cells(struct lz_blocks *file, uint64_t first, const uint32_t *now, const uint32_t *kept,
                          size_t count);

/* With the whole lock, before the file becomes longer or where a killed truncation may have been: makes lower_end at
 * most `size`, the file's. `extends`: and makes sure that a power cut does not bring back more. */
int lz_blocks_settle_end(struct lz_blocks *file, uint64_t size, bool extends);

/* Size of the upper file, or a code. */
int64_t lz_blocks_file_size(const struct lz_blocks *file);

/* lz_blocks_write() with the whole lock held by the caller, in a range that ends within the file. */
ssize_t lz_blocks_write_locked(struct lz_blocks *file, const uint8_t *bytes, uint64_t at, uint64_t end);

#endif
