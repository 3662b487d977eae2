/* lz_extents.h - the data between the holes of a content, whatever that is read from (internal to pack).
 */
#ifndef LZ_EXTENTS_H
#define LZ_EXTENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../bytes/lz_tar.h"

/* `{0}` is a valid empty one. Give back with lz_extents_free(). */
struct lz_extents {
    struct lz_tar_extent *items;
    size_t count, capacity;
    bool sparse;          /* there are holes; else the content is one piece, whatever `items` say */
    uint64_t stored_size; /* bytes that go into an archive */
};

/* Asks `seek` (as lseek: SEEK_DATA, SEEK_HOLE; -ENXIO behind the last data) for all of a content of `size` bytes; where it
 * does not know of holes (-EINVAL, -EOPNOTSUPP) there are none. Each extent is widened to blocks of `block` bytes, a power
 * of two. A map is read into memory by whoever unpacks it, so of very many extents neighbours are joined. 0 or a negative
 * code, with *out to be freed all the same. */
int lz_extents_find(uint64_t size, uint64_t block, int64_t (*seek)(void *ctx, uint64_t at, int whence), void *ctx,
                    struct lz_extents *out);

/* Says in an archive's entry how large the content is, and where its holes are; the entry points into `extents`. */
void lz_extents_describe(const struct lz_extents *extents, uint64_t size, struct lz_tar_entry *entry);

void lz_extents_free(struct lz_extents *extents);

#endif
