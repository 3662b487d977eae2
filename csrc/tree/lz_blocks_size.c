#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>

#include "lz_blocks_map.h"

int64_t lz_blocks_size(struct lz_blocks *file)
{
    return lz_blocks_file_size(file);
}

/* ---- truncation ---- */

/* Shorter: the file first, then lower_end, so that no moment shows bytes that are not the file's. */
static int truncate_locked(struct lz_blocks *file, uint64_t size)
{
    int64_t now = lz_blocks_file_size(file);
    if (now < 0)
        return (int)now;
    int rc = lz_blocks_settle_end(file, (uint64_t)now, size > (uint64_t)now);
    if (rc == 0)
        rc = file->sys->ftruncate(file->sys->ctx, file->file_fd, (off_t)size);
    return rc != 0 ? rc : lz_blocks_settle_end(file, size, false);
}

int lz_blocks_truncate(struct lz_blocks *file, uint64_t size)
{
    if (!file->writable)
        return -EBADF;
    if (size > INT64_MAX)
        return -EINVAL;
    int rc = lz_blocks_lock(file, 0, 0);
    if (rc != 0)
        return rc;
    rc = truncate_locked(file, size);
    lz_blocks_unlock(file, 0, 0);
    return rc;
}

/* ---- holes ---- */

static int write_zeros(struct lz_blocks *file, uint64_t at, uint64_t end)
{
    static const uint8_t zeros[4096];
    while (at < end) {
        uint64_t stop = end - at < sizeof zeros ? end : at + sizeof zeros;
        ssize_t wrote = lz_blocks_write_locked(file, zeros, at, stop);
        if (wrote < 0)
            return (int)wrote;
        at += (uint64_t)wrote;
    }
    return 0;
}

/* [at, end), which is nothing but whole blocks, or the upper's own. */
static int punch_whole(struct lz_blocks *file, uint64_t at, uint64_t end, uint64_t limit)
{
    int rc = file->sys->fallocate(file->sys->ctx, file->file_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at,
                                  (off_t)(end - at));
    if (rc == -EOPNOTSUPP || rc == -ENOSYS)
        return write_zeros(file, at, end);
    if (rc != 0 || at >= limit)
        return rc;
    uint64_t stop = end < limit ? end : limit;
    return lz_blocks_set(file, at >> file->shift, ((stop - 1) >> file->shift) + 1);
}

/* Behind the end there is nothing to punch: what the call does to a plain file's times is the file system's affair. */
static int punch_behind(struct lz_blocks *file, uint64_t at, uint64_t end)
{
    int rc = file->sys->fallocate(file->sys->ctx, file->file_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at,
                                  (off_t)(end - at));
    return rc == -EOPNOTSUPP || rc == -ENOSYS ? 0 : rc;
}

static int punch_locked(struct lz_blocks *file, uint64_t at, uint64_t end)
{
    int64_t size = lz_blocks_file_size(file);
    int rc = size < 0 ? (int)size : lz_blocks_settle_end(file, (uint64_t)size, false);
    int64_t limit = rc == 0 ? lz_blocks_end(file, true, NULL) : rc;
    if (limit < 0)
        return (int)limit;
    if (at >= (uint64_t)size)
        return punch_behind(file, at, end);
    end = end < (uint64_t)size ? end : (uint64_t)size;
    uint64_t mask = file->block_size - 1, begin = at, stop = end;
    if (begin < (uint64_t)limit)
        begin = (begin + mask) & ~mask; /* before it: a part of a block */
    if (stop < (uint64_t)limit)
        stop &= ~mask;
    if (begin >= stop)
        return write_zeros(file, at, end);
    rc = write_zeros(file, at, begin);
    if (rc == 0)
        rc = write_zeros(file, stop, end);
    return rc != 0 ? rc : punch_whole(file, begin, stop, (uint64_t)limit);
}

int lz_blocks_punch(struct lz_blocks *file, uint64_t offset, uint64_t size)
{
    if (!file->writable)
        return -EBADF;
    if (size == 0 || offset > INT64_MAX || size > INT64_MAX)
        return -EINVAL;
    int rc = lz_blocks_lock(file, 0, 0);
    if (rc != 0)
        return rc;
    rc = punch_locked(file, offset, offset + size);
    lz_blocks_unlock(file, 0, 0);
    return rc;
}
