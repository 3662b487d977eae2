/* lz_erofs_content.h - inline contents out of layer index files, in bulk (internal to lz_erofs*.c).
 *
 * Contents lie in the order of a layer's tar and are wanted in the order of the merged index, which is nearly the same:
 * each layer is read in 64 KiB pieces that stay in a cache of at most 32 MiB.
 */
#ifndef LZ_EROFS_CONTENT_H
#define LZ_EROFS_CONTENT_H

#include "../base/lz_err.h"
#include "../base/lz_mem.h"
#include "../base/lz_sys.h"
#include "../bytes/lz_digest.h"
#include "../bytes/lz_index.h"

struct lz_erofs_piece;

struct lz_erofs_content {
    const struct lz_sys *sys;
    const struct lz_index *merged;
    const int *layer_fds;
    struct lz_section *sections; /* of each layer's inline data; size 0 until it is first wanted */
    struct lz_erofs_piece *pieces;
    struct lz_sha256 *sha256;
    struct lz_buf file; /* the content that was read last */
};

/* 0 or -ENOMEM. close() gives everything back, also after a failed open(). */
int lz_erofs_content_open(struct lz_erofs_content *self, const struct lz_sys *sys, const struct lz_index *merged,
                          const int *layer_fds);
void lz_erofs_content_close(struct lz_erofs_content *self);

/* Reads the content of an inline file into self->file. LZ_E_CORRUPT when it does not have its digest, LZ_E_TRUNCATED
 * or LZ_E_FORMAT when it is not inside its layer's inline data; the detail names the path. */
int lz_erofs_content_read(struct lz_erofs_content *self, uint32_t entry, struct lz_detail *detail);

#endif
