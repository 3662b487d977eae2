#include "lz_frame.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "lz_sha256_batch.h"

#define BATCH 64 /* pieces that are expanded, then hashed: as many messages lie on the stack */

static bool lies_within(uint64_t offset, uint32_t length, size_t size)
{
    return offset <= size && length <= size - offset;
}

static bool fits(const uint32_t *lengths, size_t count, size_t capacity)
{
    for (size_t i = 0; i < count; i++) {
        if (lengths[i] > capacity)
            return false;
        capacity -= lengths[i];
    }
    return true;
}

static int64_t compress_all(ZSTD_CCtx *zstd, const uint8_t *bytes, const uint64_t *offsets, const uint32_t *lengths,
                            size_t count, int level, uint8_t *out, uint32_t *stored)
{
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *piece = bytes + offsets[i];
        uint32_t length = lengths[i];
        size_t size = length > 1 ? ZSTD_compressCCtx(zstd, out + used, length - 1, piece, length, level) : length;
        if (length > 1 && ZSTD_isError(size)) {
            if (ZSTD_getErrorCode(size) == ZSTD_error_memory_allocation)
                return -ENOMEM;
            if (ZSTD_getErrorCode(size) != ZSTD_error_dstSize_tooSmall)
                return -EIO;
            size = length;
        }
        if (size == length && length > 0)
            memcpy(out + used, piece, length);
        stored[i] = (uint32_t)size;
        used += size;
    }
    return (int64_t)used;
}

int64_t lz_frames_compress(const uint8_t *bytes, size_t size, const uint64_t *offsets, const uint32_t *lengths,
                           size_t count, int level, uint8_t *out, size_t capacity, uint32_t *stored)
{
    if (level < 0 || level > ZSTD_maxCLevel())
        return -EINVAL;
    for (size_t i = 0; i < count; i++) {
        if (!lies_within(offsets[i], lengths[i], size))
            return -EINVAL;
    }
    if (!fits(lengths, count, capacity))
        return -EOVERFLOW;
    ZSTD_CCtx *zstd = ZSTD_createCCtx();
    if (zstd == NULL)
        return -ENOMEM;
    int64_t used = compress_all(zstd, bytes, offsets, lengths, count, level, out, stored);
    ZSTD_freeCCtx(zstd);
    return used;
}

/* Expands pieces [first, end) to `out` and says where the digest of each one goes. */
static int expand_batch(ZSTD_DCtx *zstd, const uint8_t *bytes, const uint64_t *offsets, const uint32_t *stored,
                        const uint32_t *lengths, size_t count, uint8_t *out, uint8_t *digests,
                        struct lz_message *messages, size_t *bad)
{
    for (size_t i = 0; i < count; i++) {
        const uint8_t *piece = bytes + offsets[i];
        if (stored[i] == lengths[i]) {
            if (lengths[i] > 0)
                memcpy(out, piece, lengths[i]);
        } else {
            size_t got = ZSTD_decompressDCtx(zstd, out, lengths[i], piece, stored[i]);
            if (ZSTD_isError(got) && ZSTD_getErrorCode(got) == ZSTD_error_memory_allocation)
                return -ENOMEM;
            if (ZSTD_isError(got) || got != lengths[i]) {
                *bad = i;
                return LZ_E_CORRUPT;
            }
        }
        messages[i] = (struct lz_message){out, lengths[i], digests + i * LZ_SHA256_SIZE};
        out += lengths[i];
    }
    return 0;
}

static int64_t expand_all(ZSTD_DCtx *zstd, struct lz_sha256_batch *hasher, const uint8_t *bytes,
                          const uint64_t *offsets, const uint32_t *stored, const uint32_t *lengths,
                          const uint8_t *digests, size_t count, uint8_t *out, size_t *bad)
{
    struct lz_message messages[BATCH];
    uint8_t found[BATCH * LZ_SHA256_SIZE];
    size_t used = 0;
    for (size_t first = 0; first < count; first += BATCH) {
        size_t now = count - first < BATCH ? count - first : BATCH, which = 0;
        int rc = expand_batch(zstd, bytes, offsets + first, stored + first, lengths + first, now, out + used, found,
                              messages, &which);
        if (rc == LZ_E_CORRUPT)
            *bad = first + which;
        if (rc == 0)
            rc = lz_sha256_batch(hasher, messages, now);
        if (rc != 0)
            return rc;
        for (size_t i = 0; i < now; i++) {
            if (memcmp(found + i * LZ_SHA256_SIZE, digests + (first + i) * LZ_SHA256_SIZE, LZ_SHA256_SIZE) != 0) {
                *bad = first + i;
                return LZ_E_CORRUPT;
            }
            used += lengths[first + i];
        }
    }
    return (int64_t)used;
}

int64_t lz_frames_expand(const uint8_t *bytes, size_t size, const uint64_t *offsets, const uint32_t *stored,
                         const uint32_t *lengths, const uint8_t *digests, size_t count, uint8_t *out, size_t capacity,
                         size_t *bad)
{
    for (size_t i = 0; i < count; i++) {
        if (!lies_within(offsets[i], stored[i], size))
            return -EINVAL;
    }
    if (!fits(lengths, count, capacity))
        return -EOVERFLOW;
    struct lz_sha256_batch *hasher = NULL;
    int rc = lz_sha256_batch_new(1, &hasher);
    if (rc != 0)
        return rc;
    int64_t used = -ENOMEM;
    ZSTD_DCtx *zstd = ZSTD_createDCtx();
    if (zstd != NULL)
        used = expand_all(zstd, hasher, bytes, offsets, stored, lengths, digests, count, out, bad);
    ZSTD_freeDCtx(zstd);
    lz_sha256_batch_free(hasher);
    return used;
}
