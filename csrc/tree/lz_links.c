#include "lz_links.h"

#include <errno.h>
#include <stdlib.h>

static size_t slot_of(const struct lz_links *links, uint64_t device, uint64_t number)
{
    uint64_t hash = (number ^ (device << 40)) * 0x9e3779b97f4a7c15u; /* Fibonacci hashing: 2^64 / golden ratio */
    size_t mask = links->slot_count - 1;
    size_t at = (size_t)(hash >> 32) & mask;
    while (links->slots[at].path_plus_one != 0 &&
           (links->slots[at].device != device || links->slots[at].number != number))
        at = (at + 1) & mask;
    return at;
}

const char *lz_links_find(const struct lz_links *links, uint64_t device, uint64_t number)
{
    if (links->slot_count == 0)
        return NULL;
    const struct lz_link_slot *slot = &links->slots[slot_of(links, device, number)];
    return slot->path_plus_one != 0 ? (const char *)links->paths.data + slot->path_plus_one - 1 : NULL;
}

static int grow(struct lz_links *links)
{
    struct lz_links bigger = {.slot_count = links->slot_count != 0 ? links->slot_count * 2 : 64};
    bigger.slots = lz_zalloc_array(bigger.slot_count, sizeof *bigger.slots);
    if (bigger.slots == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < links->slot_count; i++) {
        const struct lz_link_slot *slot = &links->slots[i];
        if (slot->path_plus_one != 0)
            bigger.slots[slot_of(&bigger, slot->device, slot->number)] = *slot;
    }
    free(links->slots);
    links->slots = bigger.slots;
    links->slot_count = bigger.slot_count;
    return 0;
}

int lz_links_add(struct lz_links *links, uint64_t device, uint64_t number, const char *path, size_t size)
{
    int rc = (links->used + 1) * 2 > links->slot_count ? grow(links) : 0;
    if (rc == 0)
        rc = lz_buf_reserve(&links->paths, size + 1);
    if (rc != 0)
        return rc;
    struct lz_link_slot *slot = &links->slots[slot_of(links, device, number)];
    *slot = (struct lz_link_slot){.device = device, .number = number, .path_plus_one = links->paths.size + 1};
    (void)lz_buf_append(&links->paths, path, size); /* reserved above */
    (void)lz_buf_append_zeros(&links->paths, 1);
    links->used++;
    return 0;
}

void lz_links_free(struct lz_links *links)
{
    free(links->slots);
    lz_buf_free(&links->paths);
    *links = (struct lz_links){0};
}
