/* lz_relayer.h - new layers out of layers that exist, from their indexes alone.
 *
 *     squash    several layers that follow one another      -> one that does what they do together
 *     split     one layer, and which of its entries to take -> one of its two parts
 *
 * A new layer is an index and a recipe like those that ingest makes of a tar (lz_ingest.h), and they stand for the tar
 * that lz_pack_upper() would write: a directory, then its children by name, whiteouts first, hard links to the first
 * name of their group, sparse files with the data segments that their tars had. Ingest of that tar gives the same
 * index, byte for byte (as long as the layers' inline limit is the default one).
 *
 * No object is made, linked or written: the new index names those that are there. Inline contents are copied, for they
 * lie in an index. Every content is read once all the same, because a layer's name (its diff ID) is the SHA-256 of its
 * tar; what is read is compared with its digest, so that a damaged object cannot get a sound name.
 *
 * Marks are right for what lies below: a whiteout stays when there is something under its name, an opaque mark when
 * there is something in its directory. A directory that no layer listed stays so where there is one below whose
 * attributes it takes; else it is listed.
 */
#ifndef LZ_RELAYER_H
#define LZ_RELAYER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"
#include "../bytes/lz_index.h"

struct lz_relayer_layer {
    const struct lz_index *index; /* of the whole file in memory: inline contents are read there */
    int recipe_fd;
    const uint8_t *take; /* enum lz_take (lz_tree.h) for each entry; NULL: all */
};

struct lz_relayer_plan {
    const struct lz_relayer_layer *layers; /* lowest first */
    size_t layer_count;
    const struct lz_index *below; /* merged index of what the new layer will lie on; NULL: nothing */
    bool list_parents;            /* list directories that no layer listed, too, with the attributes of those below */
    int objects_fd;               /* the store's objects */
    int staging_fd;               /* where `index` and `recipe` are made; after a failure they stay, half done */
    /* Called every few MiB with the bytes of tar so far; a negative return stops the work and is passed on. May be
     * NULL. */
    int (*step)(void *ctx, uint64_t tar_bytes);
    void *ctx;
};

struct lz_relayer_result {
    uint8_t diff_id[32];
    uint64_t tar_size;
    uint64_t entry_count;
    uint64_t content_size; /* logical bytes of regular files (each hard-link group once) */
    uint64_t object_count; /* distinct objects that the layer refers to */
    uint64_t inline_bytes;
};

/* Writes the layer. O(entries) and the reading and hashing of all contents. 0; LZ_E_CORRUPT for a content that does not
 * have its digest, -ENOENT for an object that is missing, both with the object's name; LZ_E_UNSUPPORTED for a socket,
 * which tar cannot say; LZ_E_LIMIT, -errno. */
int lz_relayer_write(const struct lz_sys *sys, const struct lz_relayer_plan *plan, struct lz_relayer_result *result,
                     struct lz_detail *detail);

struct lz_relayer_pattern {
    const char *text; /* lz_glob.h */
    size_t size;
};

/* Which entries of a layer match any of the patterns: fills matched[entry_count] with 0 and 1 and returns how many are
 * 1. With a directory all that is in it matches; with one name of a hard-link group all its names do, for a link cannot
 * reach into another layer. The root never matches, but what is in it may. */
int64_t lz_relayer_match(const struct lz_index *layer, const struct lz_relayer_pattern *patterns, size_t count,
                         uint8_t *matched);

/* Turns matched[] into what lz_relayer_layer.take says for one of the two parts: entries whose match is `side`, and the
 * directories that lead to them. */
void lz_relayer_take(const struct lz_index *layer, const uint8_t *matched, bool side, uint8_t *take);

#endif
