/* Any bytes as a tar, fed whole and in pieces. Both ways must say the same; literals and contents together must be the
 * stream; and what was read must come back when it is written and read again. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "bytes/lz_tar.h"
#include "replay.h"

#define MAX_HEADER (64u << 10)

struct feed {
    const uint8_t *bytes;
    size_t size, at, piece;
    uint8_t *lent; /* memory of its own, so that the sanitizer sees a chunk used after its time */
    size_t rebuilt;
};

static int feed_next(void *ctx, const uint8_t **data, size_t *size)
{
    struct feed *feed = ctx;
    size_t left = feed->size - feed->at, now = left < feed->piece ? left : feed->piece;
    free(feed->lent);
    feed->lent = NULL;
    if (now == 0)
        return 0;
    feed->lent = malloc(now);
    if (feed->lent == NULL)
        return -ENOMEM;
    memcpy(feed->lent, feed->bytes + feed->at, now);
    feed->at += now;
    *data = feed->lent;
    *size = now;
    return 1;
}

static int rebuild(void *ctx, const uint8_t *data, size_t size)
{
    struct feed *feed = ctx;
    if (size == 0 || size > feed->size - feed->rebuilt || memcmp(feed->bytes + feed->rebuilt, data, size) != 0)
        abort();
    feed->rebuilt += size;
    return 0;
}

static void add_text(uint64_t *hash, const void *text, size_t size)
{
    *hash = XXH3_64bits_withSeed(size > 0 ? text : "", size, *hash + size);
}

/* All that an entry says; aborts when it breaks the promises of lz_tar.h. */
static uint64_t entry_hash(const struct lz_tar_entry *entry)
{
    uint64_t hash = 0, end = 0, stored = 0;
    bool sparse = entry->extents != NULL, slash = entry->type == LZ_TAR_DIRECTORY;
    size_t path_size = entry->path_size - (slash && entry->path[entry->path_size - 1] == '/');
    const uint64_t numbers[] = {
        entry->type,       entry->mode, entry->uid, entry->gid, entry->major, entry->minor, (uint64_t)entry->mtime,
        entry->mtime_nsec, entry->size, sparse};
    if (entry->path_size == 0 || strlen(entry->path) != entry->path_size || entry->mtime_nsec > 999999999 ||
        (entry->link != NULL && strlen(entry->link) != entry->link_size))
        abort();
    add_text(&hash, numbers, sizeof numbers);
    add_text(&hash, entry->path, path_size);
    add_text(&hash, entry->link, entry->link != NULL ? entry->link_size : 0);
    for (size_t i = 0; i < entry->xattr_count; i++) {
        const struct lz_tar_xattr *xattr = &entry->xattrs[i];
        if (strlen(xattr->name) != xattr->name_size || (i > 0 && strcmp(xattr[-1].name, xattr->name) >= 0))
            abort();
        add_text(&hash, xattr->name, xattr->name_size);
        add_text(&hash, xattr->value, xattr->value_size);
    }
    for (size_t i = 0; i < entry->extent_count; i++) {
        const struct lz_tar_extent *extent = &entry->extents[i];
        if (extent->size == 0 || extent->offset < end || extent->size > entry->size - extent->offset)
            abort();
        end = extent->offset + extent->size;
        stored += extent->size;
        add_text(&hash, extent, sizeof *extent);
    }
    if (end > entry->size || entry->stored_size != (sparse ? stored : entry->size))
        abort();
    return hash;
}

static void write_and_read_again(const struct lz_tar_entry *entry)
{
    struct lz_buf bytes = {0};
    struct lz_tar_reader *reader = NULL;
    struct lz_tar_entry again;
    struct lz_detail detail;
    if (lz_tar_write_entry(entry, &bytes, &detail) == 0) {
        struct feed feed = {.bytes = bytes.data, .size = bytes.size, .piece = bytes.size};
        const struct lz_tar_source source = {.next = feed_next, .literal = rebuild, .ctx = &feed};
        if (lz_tar_reader_new(&source, 0, &reader) == 0 &&
            (lz_tar_next(reader, &again, &detail) != 1 || entry_hash(&again) != entry_hash(entry) ||
             feed.rebuilt != bytes.size))
            abort();
        lz_tar_reader_free(reader);
        free(feed.lent);
    }
    lz_buf_free(&bytes);
}

/* The code, and in *hash all that was said before it. */
static int read_all(const uint8_t *bytes, size_t size, size_t piece, uint64_t *hash)
{
    struct feed feed = {.bytes = bytes, .size = size, .piece = piece};
    const struct lz_tar_source source = {.next = feed_next, .literal = rebuild, .ctx = &feed};
    struct lz_tar_reader *reader = NULL;
    struct lz_tar_entry entry;
    struct lz_detail detail = {{0}};
    int rc = lz_tar_reader_new(&source, MAX_HEADER, &reader);
    if (rc != 0)
        return rc;
    while ((rc = lz_tar_next(reader, &entry, &detail)) == 1) {
        const uint8_t *data;
        size_t now;
        uint64_t left = entry.stored_size;
        *hash = (*hash ^ entry_hash(&entry)) * 1099511628211u;
        write_and_read_again(&entry);
        while ((rc = lz_tar_read(reader, &data, &now, &detail)) == 1) {
            if (now > left)
                abort();
            left -= now;
            (void)rebuild(&feed, data, now);
        }
        if (rc < 0)
            break;
        if (left != 0)
            abort();
    }
    if ((rc == 0 && (feed.rebuilt != size || lz_tar_offset(reader) != size)) ||
        (rc < 0 && (detail.text[0] == 0 || lz_tar_next(reader, &entry, NULL) != rc)))
        abort();
    lz_tar_reader_free(reader);
    free(feed.lent);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    uint64_t whole = 0, pieces = 0;
    size_t piece = size > 0 ? 1 + (bytes[0] * 7u + size) % 1100 : 1;
    int rc = read_all(bytes, size, size, &whole);
    if (read_all(bytes, size, piece, &pieces) != rc || whole != pieces)
        abort();
    return 0;
}

#ifndef LZ_REPLAY
size_t LLVMFuzzerMutate(uint8_t *bytes, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t size, size_t max_size, unsigned seed);

/* Checksums would stop nearly every mutation at the door: what looks like a header gets the right one. */
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t size, size_t max_size, unsigned seed)
{
    size = LLVMFuzzerMutate(bytes, size, max_size);
    for (uint8_t *block = bytes; size - (size_t)(block - bytes) >= LZ_TAR_BLOCK; block += LZ_TAR_BLOCK) {
        unsigned sum = 0;
        if (memcmp(block + 257, "ustar", 5) != 0 || seed++ % 64 == 0)
            continue;
        memset(block + 148, ' ', 8);
        for (size_t i = 0; i < LZ_TAR_BLOCK; i++)
            sum += block[i];
        (void)snprintf((char *)block + 148, 8, "%06o", sum);
    }
    return size;
}
#endif
