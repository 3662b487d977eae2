/* lz_loop.h - a file as a block device: for kernels whose EROFS wants one, and for the pool. */
#ifndef LZ_LOOP_H
#define LZ_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"

#define LZ_LOOP_NAME_SIZE 32
#define LZ_LOOP_BLOCK_SIZE 4096u /* of a writable device */

enum lz_loop_mode {
    LZ_LOOP_READ_ONLY, /* through the page cache, as EROFS wants it */
    LZ_LOOP_WRITABLE,  /* direct I/O where the file's file system has it, blocks of LZ_LOOP_BLOCK_SIZE */
};

struct lz_loop_state {
    char name[LZ_LOOP_NAME_SIZE]; /* "/dev/loop7" */
    bool direct_io, read_only;
};

/* Binds `file_fd` to a free loop device, autoclear: it goes away with its last user. Returns an open descriptor of the
 * device, to be closed once it is mounted, and its path in `name`; or a negative code. A writable device wants a
 * `file_fd` that can be written. */
int lz_loop_attach(const struct lz_sys *sys, int file_fd, enum lz_loop_mode mode, char name[LZ_LOOP_NAME_SIZE],
                   struct lz_detail *detail);

/* The device that `file_fd`'s file is bound to, whoever bound it, whatever the file is called by now. Returns an open
 * descriptor of it, which keeps it from clearing itself, and fills *state; -ENXIO when there is none; or a negative
 * code. Whoever would bind the file when there is none needs a lock of their own around the two. */
int lz_loop_find(const struct lz_sys *sys, int file_fd, struct lz_loop_state *state, struct lz_detail *detail);

#endif
