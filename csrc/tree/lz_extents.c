#include "lz_extents.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define EXTENTS_MAX 32768u

static void join(struct lz_extents *extents)
{
    for (uint64_t gap = 65536; extents->count > EXTENTS_MAX; gap *= 2) {
        size_t kept = 1;
        for (size_t i = 1; i < extents->count; i++) {
            struct lz_tar_extent *last = &extents->items[kept - 1];
            const struct lz_tar_extent *extent = &extents->items[i];
            if (extent->offset - (last->offset + last->size) < gap)
                last->size = extent->offset + extent->size - last->offset;
            else
                extents->items[kept++] = *extent;
        }
        extents->count = kept;
    }
}

static int add(struct lz_extents *extents, uint64_t begin, uint64_t end)
{
    struct lz_tar_extent *last = extents->count > 0 ? &extents->items[extents->count - 1] : NULL;
    if (last != NULL && begin <= last->offset + last->size) {
        last->size = end - last->offset;
        return 0;
    }
    void *items = extents->items;
    int rc = lz_grow(&items, &extents->capacity, extents->count + 1, sizeof *extents->items);
    if (rc != 0)
        return rc;
    extents->items = items;
    extents->items[extents->count++] = (struct lz_tar_extent){.offset = begin, .size = end - begin};
    return 0;
}

int lz_extents_find(uint64_t size, uint64_t block, int64_t (*seek)(void *ctx, uint64_t at, int whence), void *ctx,
                    struct lz_extents *out)
{
    out->count = 0;
    out->sparse = false;
    out->stored_size = size;
    for (uint64_t at = 0; at < size;) {
        int64_t data = seek(ctx, at, SEEK_DATA);
        if (data == -ENXIO || (data >= 0 && (uint64_t)data >= size))
            break;
        if (data < 0)
            return data == -EINVAL || data == -EOPNOTSUPP ? 0 : (int)data;
        int64_t hole = seek(ctx, (uint64_t)data, SEEK_HOLE);
        if (hole < 0)
            return (int)hole;
        uint64_t begin = (uint64_t)data & ~(block - 1), end = ((uint64_t)hole + block - 1) & ~(block - 1);
        if (end > size)
            end = size;
        int rc = add(out, begin, end);
        if (rc != 0)
            return rc;
        at = end;
    }
    if (size == 0 || (out->count == 1 && out->items[0].size == size))
        return 0;
    join(out);
    out->sparse = true;
    out->stored_size = 0;
    for (size_t i = 0; i < out->count; i++)
        out->stored_size += out->items[i].size;
    return 0;
}

void lz_extents_describe(const struct lz_extents *extents, uint64_t size, struct lz_tar_entry *entry)
{
    static const struct lz_tar_extent all_hole;
    entry->size = size;
    entry->stored_size = extents->stored_size;
    if (extents->sparse) {
        entry->extents = extents->count > 0 ? extents->items : &all_hole;
        entry->extent_count = extents->count;
    }
}

void lz_extents_free(struct lz_extents *extents)
{
    free(extents->items);
    *extents = (struct lz_extents){0};
}
