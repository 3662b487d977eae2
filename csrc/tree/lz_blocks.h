/* lz_blocks.h - block-level copy-up: a file that has only the blocks that were written, and a map that says which.
 *
 *     upper file   sparse, has the final size from the start; carries the xattr `<trusted|user>.overlay.lazarus`, whose
 *                  value begins with the name of its map
 *     map          a file in the maps' directory (`<work>/blocks`): which blocks lie in the upper file, what the lower
 *                  content is (so that a wrong one is noticed), how far the lower shows through (`lower_end`)
 *
 * At and behind lower_end (at first the lower's size) the upper file is right, whatever the map says. Before it a byte is
 * read from the upper file where its block's bit is set, else from the lower. A 4 KiB write to a 1 GiB file writes one
 * block and one bit.
 *
 * Crash safety. A killed process: the data is written before its bit is set, in the same page cache. A power cut: there are
 * two bitmaps. `now` is good within the boot that wrote it (the header names the boot); `kept` is good always: sync()
 * writes the data back, then makes kept what now was before, then writes the map back. After another boot now is kept
 * again: what was written since the last sync may be gone, as in any file, but nothing reads as what it never was.
 * Truncation: the file first, then lower_end; whoever opens or extends takes the smaller of both first. Nothing is
 * written back when a file is created: until the first sync the xattr says so, and a power cut that takes the map, or its
 * name, leaves the lower's content. Damage is noticed: the header has checksums, bits have a check each, and what is
 * bounded is bounded on every use, so that a damaged map is LZ_E_CORRUPT or a right answer. One kind is not: a cell that
 * reads as zeros is one that was never written, as the map of 1 GiB would else cost 128 KiB when it is made.
 *
 * Concurrency. Any number of handles, threads and processes. Whoever brings in a block that is not there locks it (an
 * OFD lock on the map for other handles and processes, a mutex for threads of one handle), looks again, fills what the
 * write does not cover from the lower, then sets the bit; who finds the bit set takes no lock. Changes of size lock the
 * whole map. A read that runs beside a write sees the old or the new of each byte, as on ext4 (XFS promises more). A handle
 * belongs to the process that opened it: after fork() the child opens its own, as locks do not tell the two apart. One
 * thing is not covered: a truncation that is killed half-way while another process writes behind the new end.
 */
#ifndef LZ_BLOCKS_H
#define LZ_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"
#include "lz_copyup.h"

#define LZ_BLOCKS_SIZE_DEFAULT 4096u /* what a 4 KiB random write pays is what it asked for */
#define LZ_BLOCKS_NAME_SIZE 33       /* 32 hex digits and a NUL */

struct lz_blocks;

/* What the lower content must be: its SHA-256 (objects and inline contents), else what stat says of a host file. */
struct lz_blocks_lower {
    struct lz_bytes_at at; /* fd is borrowed: it must stay open as long as the handle */
    bool has_digest;
    uint8_t digest[32];
    uint64_t device, number; /* without a digest: st_dev, st_ino ... */
    int64_t mtime;           /* ... and mtime, so that a lower that was changed behind our back is noticed */
    uint32_t mtime_nsec;
};

/* Makes `file_fd` (new, empty, open for reading and writing, not yet visible) a block-level file of the lower's size:
 * writes the map into maps_fd under a random name, sets the size and the xattr. `block_size`: a power of two of
 * 4 KiB .. 64 KiB, else -EINVAL. On failure the map is removed again. Whoever removes the last name of a block-level file
 * removes its map, too; one that no file names is garbage. */
int lz_blocks_create(const struct lz_sys *sys, int file_fd, int maps_fd, bool user_xattr, uint32_t block_size,
                     const struct lz_blocks_lower *lower, struct lz_detail *detail);

/* The xattr's name. */
const char *lz_blocks_xattr(bool user_xattr);

/* Name of the map of `name` below `dir_fd` ("": dir_fd itself): 1 and the name, 0 for a whole file, or a negative
 * code. */
int lz_blocks_name(const struct lz_sys *sys, int dir_fd, const char *name, bool user_xattr,
                   char out[LZ_BLOCKS_NAME_SIZE]);

/* Opens what create() made; file_fd and the lower's fd are borrowed. `writable` as file_fd is. LZ_E_CORRUPT when the map
 * is damaged or belongs to another lower. -ENOENT (with a detail) when it is gone: settled meanwhile if lz_blocks_name()
 * says 0 now. */
int lz_blocks_open(const struct lz_sys *sys, int file_fd, int maps_fd, const char *map_name, bool writable,
                   const struct lz_blocks_lower *lower, struct lz_blocks **out, struct lz_detail *detail);
void lz_blocks_close(struct lz_blocks *file);

/* As pread, pwrite, ftruncate, fdatasync, of a file; counts or negative codes. Writing past the end extends. -EBADF to
 * change what is not open for writing; LZ_E_TRUNCATED when the lower has become shorter. */
ssize_t lz_blocks_read(struct lz_blocks *file, void *out, size_t size, uint64_t offset);
ssize_t lz_blocks_write(struct lz_blocks *file, const void *bytes, size_t size, uint64_t offset);
ssize_t lz_blocks_append(struct lz_blocks *file, const void *bytes, size_t size); /* O_APPEND, over all processes */
int lz_blocks_truncate(struct lz_blocks *file, uint64_t size);
int lz_blocks_punch(struct lz_blocks *file, uint64_t offset, uint64_t size); /* reads as zeros, keeps the size */
int lz_blocks_sync(struct lz_blocks *file);
int64_t lz_blocks_size(struct lz_blocks *file);
/* SEEK_DATA or SEEK_HOLE of the merged content; -ENXIO as lseek. */
int64_t lz_blocks_seek(struct lz_blocks *file, uint64_t offset, int whence);

/* Calls `report` for each range of the file whose bytes lie in the upper, in order: what commit and diff have to
 * compare, and what write amplification is. */
int lz_blocks_each(struct lz_blocks *file, int (*report)(void *ctx, uint64_t offset, uint64_t size), void *ctx);

/* Bytes that were written into the upper file beyond what was asked (fills of partly written blocks), since open. */
uint64_t lz_blocks_filled(const struct lz_blocks *file);

/* Brings in every block that is missing (clone or copy ladder for whole runs, holes stay holes), writes it back, then takes
 * away xattr and map: a whole file. A crash leaves it unsettled or settled. Other handles stay good. */
int lz_blocks_settle(struct lz_blocks *file, int maps_fd, struct lz_detail *detail);

#endif
