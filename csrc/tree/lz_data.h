/* lz_data.h - from the content of a file to a tar stream: big reads, big writes, holes found, digests checked
 * (internal to pack; the union opens objects with it).
 */
#ifndef LZ_DATA_H
#define LZ_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_mem.h"
#include "../base/lz_sys.h"
#include "../bytes/lz_digest.h"
#include "../bytes/lz_tar.h"
#include "lz_blocks.h"
#include "lz_diff.h"
#include "lz_extents.h"
#include "lz_walk.h"

/* Gathers what is written and hands it to `fd` in pieces of LZ_SINK_SIZE or more. */
#define LZ_SINK_SIZE (1024u * 1024)

struct lz_sink {
    const struct lz_sys *sys;
    int fd;
    struct lz_buf buf; /* append to it, then call lz_sink_check() */
    uint64_t total;    /* bytes that were written */
};

int lz_sink_check(struct lz_sink *sink); /* writes when there is enough; 0 or -errno */
int lz_sink_flush(struct lz_sink *sink);
/* Where the next bytes go, at most `wanted` (not 0) of them: put them there and add them to buf.size. 0, -errno, -ENOMEM. */
int lz_sink_room(struct lz_sink *sink, uint64_t wanted, uint8_t **at, size_t *room);
void lz_sink_free(struct lz_sink *sink); /* does not write, nor close */

/* An open content. `{.fd = -1}` is none. */
struct lz_data {
    int fd;
    bool owned;               /* close fd */
    uint64_t offset, size;    /* where in fd, and how much */
    const uint8_t *digest;    /* what it must be; NULL: not known */
    struct lz_blocks *blocks; /* of a block-level file, which fd is; reading goes through it */
    struct lz_bytes_at lower; /* under the blocks */
    bool lower_owned;         /* close it */
    struct lz_extents extents;
};

/* Opens what node->data says, of the upper what node->fd is, and finds its holes. -ENOENT for LZ_DATA_LOWER when the
 * object is gone (with a detail). LZ_E_CORRUPT when what a block-level file needs is gone or damaged. Give back with
 * lz_data_close(). */
int lz_data_open(const struct lz_sys *sys, const struct lz_diff_source *source, const struct lz_walk_node *node,
                 struct lz_data *data, struct lz_detail *detail);
void lz_data_close(const struct lz_sys *sys, struct lz_data *data);

/* The object of a digest, for reading. -ENOENT and the like come with a detail that names `path` and the digest. */
int lz_data_open_object(const struct lz_sys *sys, int objects_fd, const uint8_t digest[32], const char *path,
                        struct lz_detail *detail);

/* Whether a block-level file (LZ_DATA_BLOCKS) holds what its lower does: 1, 0 or a code as above; without node->fd, -ENOENT
 * when it is gone or is no regular file any more. Reads the blocks that are in the upper, and the lower's in their place. */
int lz_data_same(const struct lz_sys *sys, const struct lz_diff_source *source, const struct lz_walk_node *node,
                 struct lz_detail *detail);

/* A descriptor to read the regular file that `fd` is, perhaps as O_PATH, which only /proc opens again. Or -errno. */
int lz_data_reopen(const struct lz_sys *sys, int fd);

/* Copies the content into `sink`. `path` is for messages. LZ_E_TRUNCATED when the file became shorter meanwhile;
 * LZ_E_CORRUPT when it does not have its digest. */
int lz_data_copy(const struct lz_sys *sys, const struct lz_data *data, struct lz_sha256 *sha256, const char *path,
                 struct lz_sink *sink, struct lz_detail *detail);

#endif
