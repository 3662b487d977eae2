/* lz_object.h - one object after the other into a staging directory (internal to ingest).
 *
 * An object is found before it is written: a name that is staged already is a hit, and one that the store has
 * ("ab/cdef..." below objects_fd) is hard-linked into staging. What is written goes to a temporary name first and is
 * then renamed, never over anything, so several writers (threads, processes) can share one staging directory, and a
 * staged name always is a complete object, mode 0444.
 */
#ifndef LZ_OBJECT_H
#define LZ_OBJECT_H

#include <stdbool.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"
#include "../bytes/lz_digest.h"
#include "lz_direct.h"

struct lz_object_writer {
    const struct lz_sys *sys;
    int objects_fd, staged_fd;
    struct lz_sha256 *sha256;
    bool mode_known;               /* the first object was looked at: does 0444 survive umask and default ACLs? */
    bool needs_chmod;              /* it does not */
    unsigned serial;               /* for temporary names */
    int fd;                        /* of the object that is being written through the page cache, else -1 */
    struct lz_direct direct;       /* of the one that is written past it */
    char temporary[64];            /* its name */
    uint64_t offset;               /* how far it is */
    uint64_t synced;               /* up to here write-back was started */
    uint64_t new_count, new_bytes; /* written here because neither place had them */
};

/* 0 or -ENOMEM; close() also throws away an object that is not finished. */
int lz_object_open(struct lz_object_writer *self, const struct lz_sys *sys, int objects_fd, int staged_fd);
void lz_object_close(struct lz_object_writer *self);

/* A whole object from memory: hashed first, so that nothing is written when it is there. `digest` gets its name. */
int lz_object_put(struct lz_object_writer *self, const uint8_t *bytes, size_t size, uint8_t digest[LZ_SHA256_SIZE],
                  struct lz_detail *detail);

/* In pieces: begin, any number of write and (only when `sparse`) hole, then finish. Data is hashed and written as it
 * comes, past the page cache unless the object is sparse; a hole of `size` bytes is hashed as zeros (2 GB/s) and stays
 * a hole. After a failure only close() or begin() may follow. */
int lz_object_begin(struct lz_object_writer *self, bool sparse, struct lz_detail *detail);
int lz_object_write(struct lz_object_writer *self, const uint8_t *bytes, size_t size, struct lz_detail *detail);
int lz_object_hole(struct lz_object_writer *self, uint64_t size, struct lz_detail *detail);
int lz_object_finish(struct lz_object_writer *self, uint8_t digest[LZ_SHA256_SIZE], struct lz_detail *detail);

#endif
