/* Any bytes as an index. Checksums would stop nearly every mutation at the door, so they are made right first: what is
 * fuzzed is the validation behind them. Whatever opens must answer every question without leaving the mapping. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "bytes/lz_index.h"
#include "replay.h"

static void ask_everything(const struct lz_index *index)
{
    volatile uint64_t seen = 0;
    for (uint32_t i = 0; i < index->entry_count; i++) {
        const struct lz_entry *entry = &index->entries[i];
        const char *path = lz_index_path(index, i);
        seen += strlen(path) + strlen(lz_index_name(index, i));
        seen += (uint64_t)lz_index_find(index, path, entry->path_size);
        seen += (uint64_t)lz_index_child(index, entry->parent, lz_index_name(index, i), entry->name_size);
        if (entry->kind == LZ_KIND_SYMLINK)
            seen += strlen(lz_index_target(index, i));
        struct lz_xattr xattr;
        for (uint32_t cursor = 0; lz_index_next_xattr(index, i, &cursor, &xattr) == 1;)
            seen += xattr.value_size > 0 ? xattr.value[xattr.value_size - 1] : xattr.name_size;
        for (uint32_t up = i, depth = 0; up != 0; up = index->entries[up].parent)
            if (++depth > index->entry_count)
                abort(); /* a loop of parents */
    }
    for (uint32_t i = 0; i < index->object_count; i++)
        seen += index->objects[i].size;
    for (uint32_t i = 0; i < index->layer_count; i++)
        seen += index->layers[i][31];
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    void *copy = NULL;
    if (posix_memalign(&copy, 4096, size + 1) != 0)
        return 0;
    if (size > 0)
        memcpy(copy, bytes, size);
    if (size >= LZ_INDEX_HEADER_SIZE) {
        struct lz_index_header *header = copy;
        uint64_t from = header->entries.offset;
        if (from <= size)
            header->table_checksum = XXH3_64bits((const uint8_t *)copy + from, size - from);
        header->header_checksum = XXH3_64bits(copy, offsetof(struct lz_index_header, header_checksum));
    }
    struct lz_index index;
    struct lz_detail detail;
    if (lz_index_open(copy, size, &index, &detail) == 0)
        ask_everything(&index);
    free(copy);
    return 0;
}
