/* lz_links.h - which path a file with several names was first seen under (internal to pack).
 */
#ifndef LZ_LINKS_H
#define LZ_LINKS_H

#include <stddef.h>
#include <stdint.h>

#include "../base/lz_mem.h"

struct lz_link_slot {
    uint64_t device, number;
    size_t path_plus_one; /* in paths; 0: free */
};

/* `{0}` is a valid empty table. Open addressing, at most half full. */
struct lz_links {
    struct lz_link_slot *slots;
    size_t slot_count, used;
    struct lz_buf paths;
};

/* The path that add() was given for this file, or NULL. Valid until the next add(). */
const char *lz_links_find(const struct lz_links *links, uint64_t device, uint64_t number);

/* Call only for a file that find() does not know. The path is copied. 0 or -ENOMEM. */
int lz_links_add(struct lz_links *links, uint64_t device, uint64_t number, const char *path, size_t size);

void lz_links_free(struct lz_links *links);

#endif
