#include "lz_blocks.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "lz_blocks_map.h"

#define LOCK_SPAN (8ull * 1024 * 1024) /* bytes that are brought in under one lock */

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* The run of bytes from `at` (below `limit`, where the lower ends) that lies in one place. */
static int run_of_bytes(struct lz_blocks *file, bool locked, uint64_t at, uint64_t limit, bool *in_upper, uint64_t *end)
{
    uint64_t end_block;
    int rc = lz_blocks_run(file, locked, at >> file->shift, ((limit - 1) >> file->shift) + 1, in_upper, &end_block);
    if (rc == 0)
        *end = least(end_block << file->shift, limit);
    return rc;
}

/* ---- reading ---- */

static ssize_t read_lower(struct lz_blocks *file, void *out, uint64_t at, uint64_t size)
{
    ssize_t got = lz_pread_full(file->sys, file->lower.at.fd, out, (size_t)size, (off_t)(file->lower.at.offset + at));
    return got >= 0 && (uint64_t)got < size ? LZ_E_TRUNCATED : got;
}

/* What one place has of [at, end): > 0, 0 at the end of the file, or a code. */
static ssize_t read_some(struct lz_blocks *file, uint8_t *out, uint64_t at, uint64_t end)
{
    int64_t limit = lz_blocks_end(file, false, NULL);
    if (limit < 0)
        return (ssize_t)limit;
    bool in_upper = true;
    if (at < (uint64_t)limit) {
        int rc = run_of_bytes(file, false, at, least(end, (uint64_t)limit), &in_upper, &end);
        if (rc != 0)
            return rc;
    }
    if (in_upper)
        return file->sys->pread(file->sys->ctx, file->file_fd, out, (size_t)(end - at), (off_t)at);
    int64_t size = lz_blocks_file_size(file);
    if (size < 0 || at >= (uint64_t)size)
        return size < 0 ? (ssize_t)size : 0;
    return read_lower(file, out, at, least(end, (uint64_t)size) - at);
}

ssize_t lz_blocks_read(struct lz_blocks *file, void *out, size_t size, uint64_t offset)
{
    if (offset > INT64_MAX)
        return -EINVAL;
    uint64_t end = offset + least(size, least(SSIZE_MAX, INT64_MAX - offset)), at = offset;
    while (at < end) {
        ssize_t got = read_some(file, (uint8_t *)out + (at - offset), at, end);
        if (got < 0)
            return at > offset ? (ssize_t)(at - offset) : got;
        if (got == 0)
            break;
        at += (uint64_t)got;
    }
    return (ssize_t)(at - offset);
}

/* ---- writing ---- */

/* Counts in *at; stops at the first failure. */
static int write_upper(struct lz_blocks *file, const uint8_t *bytes, uint64_t *at, uint64_t end)
{
    while (*at < end) {
        ssize_t wrote = file->sys->pwrite(file->sys->ctx, file->file_fd, bytes, (size_t)(end - *at), (off_t)*at);
        if (wrote <= 0)
            return wrote < 0 ? (int)wrote : -EIO;
        bytes += wrote;
        *at += (uint64_t)wrote;
    }
    return 0;
}

/* One block that is not there and that [at, end) covers in part: the rest comes from the lower. */
static int write_partial(struct lz_blocks *file, const uint8_t *bytes, uint64_t at, uint64_t end, uint64_t limit)
{
    uint64_t begin = at >> file->shift << file->shift, stop = least(begin + file->block_size, limit);
    ssize_t got = read_lower(file, file->scratch, begin, stop - begin);
    if (got < 0)
        return (int)got;
    memcpy(file->scratch + (at - begin), bytes, (size_t)(end - at));
    uint64_t wrote = begin;
    int rc = write_upper(file, file->scratch, &wrote, stop);
    if (rc == 0)
        atomic_fetch_add_explicit(&file->filled, stop - begin - (end - at), memory_order_relaxed);
    return rc;
}

/* Writes [at, end) of blocks none of which is there, with their lock held: whole blocks as they are. Data first, then
 * all bits at once. What is written of a block whose bit is not set does no harm. Counts in *at. */
static int write_missing(struct lz_blocks *file, const uint8_t *bytes, uint64_t *at, uint64_t end, uint64_t limit)
{
    uint64_t begin = *at, mask = file->block_size - 1;
    int rc = 0;
    while (*at < end && rc == 0) {
        uint64_t whole = end == limit ? end : end & ~mask;
        const uint8_t *from = bytes + (*at - begin);
        if ((*at & mask) == 0 && whole > *at) {
            rc = write_upper(file, from, at, whole);
            if (rc != 0)
                *at &= ~mask;
        } else {
            uint64_t stop = least((*at | mask) + 1, end);
            rc = write_partial(file, from, *at, stop, limit);
            *at = rc == 0 ? stop : *at;
        }
    }
    if (*at == begin)
        return rc;
    int set = lz_blocks_set(file, begin >> file->shift, ((*at - 1) >> file->shift) + 1);
    if (set != 0)
        *at = begin;
    return set != 0 ? set : rc;
}

/* Blocks from `at` that are not in the upper, as far as that goes; 0, a code, or: */
enum {
    NOTHING_TO_DO = 1, /* somebody else brought them in, or the lower does not reach so far any more */
    END_IS_WRONG
}; /* lower_end lies behind the file's end: a truncation was killed */

static int bring_in(struct lz_blocks *file, bool locked, const uint8_t *bytes, uint64_t *at, uint64_t end)
{
    uint64_t cell = (*at >> file->shift) / LZ_BLOCKS_PER_CELL;
    uint64_t count = ((end - 1) >> file->shift) / LZ_BLOCKS_PER_CELL + 1 - cell;
    int rc = locked ? 0 : lz_blocks_lock(file, cell, count);
    if (rc != 0)
        return rc;
    int64_t limit = lz_blocks_end(file, true, NULL), size = lz_blocks_file_size(file);
    bool in_upper = true;
    if (limit < 0 || size < 0)
        rc = (int)(limit < 0 ? limit : size);
    else if (size < limit)
        rc = END_IS_WRONG;
    else if (*at < (uint64_t)limit)
        rc = run_of_bytes(file, true, *at, least(end, (uint64_t)limit), &in_upper, &end);
    if (rc == 0)
        rc = in_upper ? NOTHING_TO_DO : write_missing(file, bytes, at, end, (uint64_t)limit);
    if (!locked)
        lz_blocks_unlock(file, cell, count);
    return rc;
}

static int put_end_right(struct lz_blocks *file)
{
    int rc = lz_blocks_lock(file, 0, 0);
    if (rc != 0)
        return rc;
    int64_t size = lz_blocks_file_size(file);
    rc = size < 0 ? (int)size : lz_blocks_settle_end(file, (uint64_t)size, false);
    lz_blocks_unlock(file, 0, 0);
    return rc;
}

static int write_some(struct lz_blocks *file, bool locked, const uint8_t *bytes, uint64_t *at, uint64_t end)
{
    int64_t limit = lz_blocks_end(file, locked, NULL);
    if (limit < 0)
        return (int)limit;
    bool in_upper = true;
    if (*at < (uint64_t)limit) {
        uint64_t run;
        int rc = run_of_bytes(file, locked, *at, least(end, (uint64_t)limit), &in_upper, &run);
        if (rc != 0)
            return rc;
        /* what is written in place may go on behind the lower's end */
        end = in_upper && run == (uint64_t)limit ? end : run;
    }
    if (in_upper)
        return write_upper(file, bytes, at, end);
    int rc = bring_in(file, locked, bytes, at, least(end, *at + LOCK_SPAN));
    if (rc == END_IS_WRONG)
        rc = locked ? LZ_E_CORRUPT : put_end_right(file);
    return rc == NOTHING_TO_DO ? 0 : rc;
}

static ssize_t write_range(struct lz_blocks *file, bool locked, const uint8_t *bytes, uint64_t begin, uint64_t end)
{
    uint64_t at = begin;
    int rc = 0;
    while (at < end && rc == 0)
        rc = write_some(file, locked, bytes + (at - begin), &at, end);
    return at > begin ? (ssize_t)(at - begin) : rc;
}

ssize_t lz_blocks_write_locked(struct lz_blocks *file, const uint8_t *bytes, uint64_t at, uint64_t end)
{
    return write_range(file, true, bytes, at, end);
}

/* Writes that make the file longer, one after another. */
static ssize_t write_extending(struct lz_blocks *file, const uint8_t *bytes, size_t size, uint64_t offset)
{
    ssize_t rc = lz_blocks_lock(file, 0, 0);
    if (rc != 0)
        return rc;
    int64_t now = lz_blocks_file_size(file);
    rc = now < 0 ? (ssize_t)now : lz_blocks_settle_end(file, (uint64_t)now, offset + size > (uint64_t)now);
    if (rc == 0)
        rc = write_range(file, true, bytes, offset, offset + size);
    lz_blocks_unlock(file, 0, 0);
    return rc;
}

ssize_t lz_blocks_write(struct lz_blocks *file, const void *bytes, size_t size, uint64_t offset)
{
    if (!file->writable)
        return -EBADF;
    if (offset > INT64_MAX || size > SSIZE_MAX)
        return -EINVAL;
    if (size == 0)
        return 0;
    if (size > INT64_MAX - offset)
        return -EFBIG;
    int64_t now = lz_blocks_file_size(file);
    if (now < 0)
        return (ssize_t)now;
    if (offset + size > (uint64_t)now)
        return write_extending(file, bytes, size, offset);
    return write_range(file, false, bytes, offset, offset + size);
}

/* The end of the file is never before lower_end once that is settled: there is nothing to bring in. The kernel finds the
 * end, for a file that was settled meanwhile may have writers who know of no map. */
static ssize_t append_locked(struct lz_blocks *file, const uint8_t *bytes, size_t size)
{
    int64_t now = lz_blocks_file_size(file);
    ssize_t rc = now < 0 ? (ssize_t)now : lz_blocks_settle_end(file, (uint64_t)now, true);
    size_t done = 0;
    while (rc == 0 && done < size) {
        ssize_t wrote = file->sys->append(file->sys->ctx, file->file_fd, bytes + done, size - done);
        rc = wrote == 0 ? -EIO : wrote < 0 ? wrote : 0;
        done += wrote > 0 ? (size_t)wrote : 0;
    }
    return done > 0 ? (ssize_t)done : rc;
}

ssize_t lz_blocks_append(struct lz_blocks *file, const void *bytes, size_t size)
{
    if (!file->writable)
        return -EBADF;
    if (size > SSIZE_MAX)
        return -EINVAL;
    ssize_t rc = size == 0 ? 0 : lz_blocks_lock(file, 0, 0);
    if (size == 0 || rc != 0)
        return rc;
    rc = append_locked(file, bytes, size);
    lz_blocks_unlock(file, 0, 0);
    return rc;
}

uint64_t lz_blocks_filled(const struct lz_blocks *file)
{
    return atomic_load_explicit(&file->filled, memory_order_relaxed);
}
