/* lz_packer.h - nodes of a tree into a tar, whoever walks the tree (internal to pack).
 */
#ifndef LZ_PACKER_H
#define LZ_PACKER_H

#include <stdbool.h>

#include "../base/lz_mem.h"
#include "lz_data.h"
#include "lz_diff.h"
#include "lz_links.h"
#include "lz_walk.h"

struct lz_packer {
    const struct lz_sys *sys;
    const struct lz_pack_options *options; /* may be NULL */
    const char *root_name;                 /* NULL: names from the inside */
    bool layer;                            /* an OCI layer: marks, and no name may look like one */
    /* A regular file: fills sizes and extents of `entry`, writes the header with lz_packer_header(), then the content.
     * 0, 1 when something else has the name meanwhile (nothing was written), or a negative code. */
    int (*write_file)(struct lz_packer *packer, const struct lz_walk_node *node, struct lz_tar_entry *entry);
    void *ctx; /* write_file's own */
    struct lz_sink sink;
    struct lz_links links;
    struct lz_sha256 *sha256;
    struct lz_buf name; /* of the entry at hand, as the archive spells it */
    struct lz_detail *detail;
};

/* What the caller has set stays; 0 or -ENOMEM. finish() must follow. */
int lz_packer_begin(struct lz_packer *packer, const struct lz_sys *sys, int out_fd, struct lz_detail *detail);

/* Ends the archive unless `rc` says that it failed; gives everything back. *size (may be NULL) gets its bytes. */
int lz_packer_finish(struct lz_packer *packer, int rc, uint64_t *size);

int lz_packer_header(struct lz_packer *packer, const struct lz_tar_entry *entry);

/* One thing with all its attributes, or a hard link to the name under which it was written before. Sockets are left
 * out. 0, write_file's 1, or a negative code. */
int lz_packer_write(struct lz_packer *packer, const struct lz_walk_node *node);

#endif
