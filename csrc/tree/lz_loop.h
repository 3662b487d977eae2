/* lz_loop.h - a file as a read-only block device, for kernels whose EROFS wants one. */
#ifndef LZ_LOOP_H
#define LZ_LOOP_H

#include "../base/lz_err.h"
#include "../base/lz_sys.h"

#define LZ_LOOP_NAME_SIZE 32

/* Binds `file_fd` to a free loop device, read-only and autoclear: it goes away with its last user. Returns an open
 * descriptor of the device, to be closed once it is mounted, and its path in `name`; or a negative code. */
int lz_loop_attach(const struct lz_sys *sys, int file_fd, char name[LZ_LOOP_NAME_SIZE], struct lz_detail *detail);

#endif
