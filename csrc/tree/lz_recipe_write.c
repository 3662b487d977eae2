#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "../base/lz_mem.h"
#include "../bytes/lz_digest.h"
#include "lz_recipe.h"
#include "lz_recipe_format.h"

#define OPERATIONS_SIZE (128u * 1024)
#define LARGEST_FIELDS (1u + LZ_SHA256_SIZE + 16)

struct lz_recipe_writer {
    const struct lz_sys *sys;
    int fd;
    off_t offset; /* where the next compressed bytes go */
    ZSTD_CCtx *zstd;
    uint8_t *operations; /* OPERATIONS_SIZE bytes, not compressed yet */
    size_t used;
    size_t literal; /* where the literal that may still grow begins in `operations`; SIZE_MAX: there is none */
    uint8_t *packed;
    size_t packed_capacity;
    /* digest -> number: open addressing by the digest's first bytes, at most half full */
    uint32_t *slots; /* number + 1; 0: free */
    size_t slot_count;
    uint8_t (*digests)[LZ_SHA256_SIZE];
    size_t digest_capacity;
    uint32_t digest_count;
};

int lz_recipe_writer_new(const struct lz_sys *sys, int fd, struct lz_recipe_writer **out)
{
    struct lz_recipe_writer *writer = calloc(1, sizeof *writer);
    if (writer == NULL)
        return -ENOMEM;
    writer->sys = sys;
    writer->fd = fd;
    writer->offset = LZ_RECIPE_HEADER_SIZE;
    writer->literal = SIZE_MAX;
    writer->packed_capacity = ZSTD_CStreamOutSize();
    writer->slot_count = 256;
    writer->zstd = ZSTD_createCCtx();
    writer->operations = malloc(OPERATIONS_SIZE);
    writer->packed = malloc(writer->packed_capacity);
    writer->slots = lz_zalloc_array(writer->slot_count, sizeof *writer->slots);
    if (writer->zstd == NULL || writer->operations == NULL || writer->packed == NULL || writer->slots == NULL) {
        lz_recipe_writer_free(writer);
        return -ENOMEM;
    }
    /* Level 1: headers repeat so much that higher levels save little and cost several times the time. */
    if (ZSTD_isError(ZSTD_CCtx_setParameter(writer->zstd, ZSTD_c_compressionLevel, 1)) ||
        ZSTD_isError(ZSTD_CCtx_setParameter(writer->zstd, ZSTD_c_checksumFlag, 1))) {
        lz_recipe_writer_free(writer);
        return -EINVAL;
    }
    *out = writer;
    return 0;
}

void lz_recipe_writer_free(struct lz_recipe_writer *writer)
{
    if (writer == NULL)
        return;
    ZSTD_freeCCtx(writer->zstd);
    free(writer->operations);
    free(writer->packed);
    free(writer->slots);
    free(writer->digests);
    free(writer);
}

/* Compresses what has been gathered and writes it out. */
static int flush(struct lz_recipe_writer *writer, ZSTD_EndDirective directive)
{
    ZSTD_inBuffer in = {writer->operations, writer->used, 0};
    size_t left;
    do {
        ZSTD_outBuffer out = {writer->packed, writer->packed_capacity, 0};
        left = ZSTD_compressStream2(writer->zstd, &out, &in, directive);
        if (ZSTD_isError(left))
            return -ENOMEM;
        int rc = lz_pwrite_all(writer->sys, writer->fd, writer->packed, out.pos, writer->offset);
        if (rc != 0)
            return rc;
        writer->offset += (off_t)out.pos;
    } while (directive == ZSTD_e_end ? left != 0 : in.pos < in.size);
    writer->used = 0;
    writer->literal = SIZE_MAX;
    return 0;
}

static int make_room(struct lz_recipe_writer *writer, size_t size)
{
    return OPERATIONS_SIZE - writer->used >= size ? 0 : flush(writer, ZSTD_e_continue);
}

int lz_recipe_literal(struct lz_recipe_writer *writer, const uint8_t *bytes, size_t size)
{
    while (size > 0) {
        int rc = make_room(writer, 6);
        if (rc != 0)
            return rc;
        if (writer->literal == SIZE_MAX) {
            writer->literal = writer->used;
            writer->operations[writer->used] = LZ_RECIPE_LITERAL;
            lz_recipe_put(writer->operations + writer->used + 1, 0, 4);
            writer->used += 5;
        }
        size_t room = OPERATIONS_SIZE - writer->used;
        size_t now = size < room ? size : room;
        memcpy(writer->operations + writer->used, bytes, now);
        writer->used += now;
        lz_recipe_put(writer->operations + writer->literal + 1, writer->used - writer->literal - 5, 4);
        bytes += now;
        size -= now;
    }
    return 0;
}

int lz_recipe_inline(struct lz_recipe_writer *writer, uint64_t offset, uint64_t size)
{
    if (size == 0)
        return 0;
    int rc = make_room(writer, LARGEST_FIELDS);
    if (rc != 0)
        return rc;
    uint8_t *at = writer->operations + writer->used;
    at[0] = LZ_RECIPE_INLINE;
    lz_recipe_put(at + 1, offset, 8);
    lz_recipe_put(at + 9, size, 8);
    writer->used += 17;
    writer->literal = SIZE_MAX;
    return 0;
}

/* The slot of `digest`, or the free one where it belongs. A digest is as good a hash as any. */
static uint32_t *find_slot(const struct lz_recipe_writer *writer, const uint8_t *digest)
{
    size_t mask = writer->slot_count - 1;
    size_t at = (size_t)lz_recipe_get(digest, 8) & mask;
    while (writer->slots[at] != 0 && memcmp(writer->digests[writer->slots[at] - 1], digest, LZ_SHA256_SIZE) != 0)
        at = (at + 1) & mask;
    return &writer->slots[at];
}

static int grow_table(struct lz_recipe_writer *writer)
{
    int rc = lz_grow((void **)&writer->digests, &writer->digest_capacity, (size_t)writer->digest_count + 1,
                     sizeof *writer->digests);
    if (rc != 0 || ((size_t)writer->digest_count + 1) * 2 <= writer->slot_count)
        return rc;
    uint32_t *slots = lz_zalloc_array(writer->slot_count * 2, sizeof *slots);
    if (slots == NULL)
        return -ENOMEM;
    free(writer->slots);
    writer->slots = slots;
    writer->slot_count *= 2;
    for (uint32_t i = 0; i < writer->digest_count; i++)
        *find_slot(writer, writer->digests[i]) = i + 1;
    return 0;
}

int lz_recipe_object(struct lz_recipe_writer *writer, const uint8_t digest[32], uint64_t offset, uint64_t size)
{
    if (size == 0)
        return 0;
    if (writer->digest_count == UINT32_MAX - 1)
        return LZ_E_LIMIT;
    int rc = grow_table(writer);
    if (rc == 0)
        rc = make_room(writer, LARGEST_FIELDS);
    if (rc != 0)
        return rc;
    uint32_t *slot = find_slot(writer, digest);
    uint8_t *at = writer->operations + writer->used;
    if (*slot != 0) {
        *at++ = LZ_RECIPE_OBJECT;
        lz_recipe_put(at, *slot - 1, 4);
        at += 4;
    } else {
        memcpy(writer->digests[writer->digest_count], digest, LZ_SHA256_SIZE);
        *slot = ++writer->digest_count;
        *at++ = LZ_RECIPE_NEW_OBJECT;
        memcpy(at, digest, LZ_SHA256_SIZE);
        at += LZ_SHA256_SIZE;
    }
    lz_recipe_put(at, offset, 8);
    lz_recipe_put(at + 8, size, 8);
    writer->used = (size_t)(at + 16 - writer->operations);
    writer->literal = SIZE_MAX;
    return 0;
}

int lz_recipe_finish(struct lz_recipe_writer *writer, uint64_t tar_size, const uint8_t diff_id[32])
{
    int rc = make_room(writer, 1);
    if (rc != 0)
        return rc;
    writer->operations[writer->used++] = LZ_RECIPE_END;
    rc = flush(writer, ZSTD_e_end);
    if (rc != 0)
        return rc;
    uint8_t header[LZ_RECIPE_HEADER_SIZE];
    memcpy(header, LZ_RECIPE_MAGIC, LZ_RECIPE_MAGIC_SIZE);
    lz_recipe_put(header + 12, tar_size, 8);
    memcpy(header + 20, diff_id, LZ_SHA256_SIZE);
    return lz_pwrite_all(writer->sys, writer->fd, header, sizeof header, 0);
}
