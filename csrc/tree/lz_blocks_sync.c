#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../base/lz_mem.h"
#include "lz_blocks_map.h"

/* ---- sync: what of `now` is written back becomes `kept` ---- */

struct snapshot { /* taken before the data is written back; bits that are set meanwhile wait for the next sync */
    uint64_t first;
    size_t count;
    uint32_t *now;
    uint64_t limit;
};

/* The cells from the first to the last in which `now` says more than `kept`. */
static int take_snapshot(struct lz_blocks *file, struct snapshot *out)
{
    size_t capacity = 0, used = 0;
    int64_t limit = lz_blocks_end(file, false, NULL);
    if (limit < 0)
        return (int)limit;
    out->limit = (uint64_t)limit;
    for (uint64_t cell = 0; cell < file->cell_count; cell++) {
        uint32_t now, kept = 0;
        int rc = lz_blocks_bits(file, false, cell, &now);
        if (rc == 0 && lz_blocks_kept(file, cell, &kept) == 0 && kept == now && out->count == 0)
            continue;
        if (out->count == 0)
            out->first = cell;
        void *array = out->now;
        if (rc == 0)
            rc = lz_grow(&array, &capacity, out->count + 1, sizeof *out->now);
        if (rc != 0)
            return rc;
        out->now = array;
        out->now[out->count++] = now;
        if (now != kept)
            used = out->count;
    }
    out->count = used;
    return 0;
}

static int keep_cells(struct lz_blocks *file, const struct snapshot *snapshot)
{
    for (size_t done = 0; done < snapshot->count;) {
        uint32_t now[64], kept[64];
        size_t count = 0;
        bool differs = false;
        for (; count < 64 && done + count < snapshot->count; count++) {
            uint64_t cell = snapshot->first + done + count;
            int rc = lz_blocks_bits(file, true, cell, &now[count]);
            if (rc == 0)
                rc = lz_blocks_kept(file, cell, &kept[count]);
            if (rc != 0)
                return rc;
            differs |= (snapshot->now[done + count] & ~kept[count]) != 0;
            kept[count] |= snapshot->now[done + count];
        }
        int rc = differs ? lz_blocks_write_cells(file, snapshot->first + done, now, kept, count) : 0;
        if (rc != 0)
            return rc;
        done += count;
    }
    return 0;
}

static int keep(struct lz_blocks *file, const struct snapshot *snapshot)
{
    struct lz_blocks_end end;
    int rc = lz_blocks_lock(file, 0, 0);
    if (rc != 0)
        return rc;
    int64_t limit = lz_blocks_end(file, true, &end);
    rc = limit < 0 ? (int)limit : keep_cells(file, snapshot);
    if (rc == 0 && end.kept > snapshot->limit) {
        end.kept = snapshot->limit;
        rc = lz_blocks_set_end(file, &end);
    }
    lz_blocks_unlock(file, 0, 0);
    return rc;
}

/* From now on a map without content is a loss that somebody has to hear of. */
static int say_synced(struct lz_blocks *file)
{
    char now[LZ_BLOCKS_NAME_SIZE];
    int rc = lz_blocks_lock(file, 0, 0);
    if (rc != 0)
        return rc;
    if (file->fresh)
        rc = lz_blocks_name(file->sys, file->file_fd, "", file->user_xattr, now);
    if (rc == 1 && strcmp(now, file->name) == 0)
        rc = file->sys->setxattrat(file->sys->ctx, file->file_fd, "", lz_blocks_xattr(file->user_xattr), file->name,
                                   LZ_BLOCKS_NAME_SIZE - 1);
    file->fresh = file->fresh && rc < 0;
    lz_blocks_unlock(file, 0, 0);
    return rc < 0 ? rc : 0;
}

int lz_blocks_sync(struct lz_blocks *file)
{
    const struct lz_sys *sys = file->sys;
    struct snapshot snapshot = {0};
    int rc = file->map_writable ? take_snapshot(file, &snapshot) : 0;
    if (rc == 0 && file->fresh) /* btrfs writes back each file by itself: the one that names the map comes second */
        rc = sys->fdatasync(sys->ctx, file->map_fd);
    if (rc == 0)
        rc = sys->fdatasync(sys->ctx, file->file_fd);
    if (rc == 0 && file->map_writable)
        rc = keep(file, &snapshot);
    if (rc == 0 && file->map_writable)
        rc = sys->fdatasync(sys->ctx, file->map_fd);
    if (rc == 0 && file->map_writable && file->writable)
        rc = say_synced(file);
    free(snapshot.now);
    return rc;
}

/* ---- settle ---- */

#define SETTLE_SPAN (8ull * 1024 * 1024) /* bytes that are brought in under one lock */

/* What a write left there whose bit was never set would shine through the holes of the lower. */
static int clear_stretch(struct lz_blocks *file, uint64_t at, uint64_t end)
{
    const struct lz_sys *sys = file->sys;
    static const uint8_t zeros[4096];
    off_t data = sys->lseek(sys->ctx, file->file_fd, (off_t)at, SEEK_DATA);
    if (data == -ENXIO || (data >= 0 && (uint64_t)data >= end))
        return 0;
    if (data < 0 && data != -EINVAL && data != -EOPNOTSUPP)
        return (int)data;
    int rc = sys->fallocate(sys->ctx, file->file_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at,
                            (off_t)(end - at));
    if (rc != -EOPNOTSUPP && rc != -ENOSYS)
        return rc;
    for (rc = 0; at < end && rc == 0; at += sizeof zeros)
        rc = lz_pwrite_all(sys, file->file_fd, zeros, end - at < sizeof zeros ? (size_t)(end - at) : sizeof zeros,
                           (off_t)at);
    return rc;
}

/* The content stays what it was, and so does its time. */
static int fill_stretch(struct lz_blocks *file, uint64_t at, uint64_t end, struct lz_detail *detail)
{
    const struct lz_sys *sys = file->sys;
    struct lz_bytes_at from = {.fd = file->lower.at.fd, .offset = file->lower.at.offset + at, .size = end - at};
    struct stat info;
    int rc = sys->fstatat(sys->ctx, file->file_fd, "", &info, AT_EMPTY_PATH);
    if (rc == 0)
        rc = clear_stretch(file, at, end);
    if (rc != 0)
        return lz_fail(detail, rc, "settle: %s", lz_error_text(rc));
    rc = lz_copyup_range(sys, &from, file->file_fd, at, LZ_RUNG_AUTO, NULL, detail);
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, info.st_mtim};
    int restored = sys->utimensat(sys->ctx, file->file_fd, "", times, AT_EMPTY_PATH);
    if (rc == 0 && restored != 0)
        return lz_fail(detail, restored, "settle: restoring the time: %s", lz_error_text(restored));
    if (rc == 0 && (rc = lz_blocks_set(file, at >> file->shift, ((end - 1) >> file->shift) + 1)) != 0)
        return lz_fail(detail, rc, "block map %s: %s", file->name, lz_error_text(rc));
    return rc;
}

/* The first stretch at or after *at that is not there, with the whole lock: *end > *at, or *end == *at at the end. */
static int find_missing(struct lz_blocks *file, uint64_t *at, uint64_t *end)
{
    int64_t size = lz_blocks_file_size(file);
    int rc = size < 0 ? (int)size : lz_blocks_settle_end(file, (uint64_t)size, false);
    int64_t limit = rc == 0 ? lz_blocks_end(file, true, NULL) : rc;
    while (limit >= 0 && *at < (uint64_t)limit) {
        bool in_upper;
        uint64_t block;
        rc = lz_blocks_run(file, true, *at >> file->shift, ((uint64_t)(limit - 1) >> file->shift) + 1, &in_upper,
                           &block);
        if (rc != 0)
            return rc;
        uint64_t stop = block << file->shift < (uint64_t)limit ? block << file->shift : (uint64_t)limit;
        if (!in_upper) {
            *end = stop - *at < SETTLE_SPAN ? stop : *at + SETTLE_SPAN;
            return 0;
        }
        *at = stop;
    }
    *end = *at;
    return limit < 0 ? (int)limit : 0;
}

/* Everything that is missing, a stretch at a time, so that others are not kept waiting for long. */
static int fill_all(struct lz_blocks *file, struct lz_detail *detail)
{
    uint64_t at = 0, end = 0;
    int rc;
    do {
        rc = lz_blocks_lock(file, 0, 0);
        if (rc != 0)
            return lz_fail(detail, rc, "block map %s: %s", file->name, lz_error_text(rc));
        rc = find_missing(file, &at, &end);
        if (rc != 0)
            (void)lz_fail(detail, rc, "block map %s: %s", file->name, lz_error_text(rc));
        else if (end > at)
            rc = fill_stretch(file, at, end, detail);
        lz_blocks_unlock(file, 0, 0);
        if (rc != 0 || end == at)
            return rc;
        at = end;
    } while (true);
}

static int forget_map(struct lz_blocks *file, int maps_fd)
{
    const struct lz_sys *sys = file->sys;
    int rc = sys->removexattrat(sys->ctx, file->file_fd, "", lz_blocks_xattr(file->user_xattr));
    if (rc == 0)
        rc = sys->fsync(sys->ctx, file->file_fd); /* before the map goes: a power cut must not bring the xattr back */
    if (rc != 0 && rc != -ENODATA)
        return rc;
    rc = sys->unlinkat(sys->ctx, maps_fd, file->name, 0);
    return rc == -ENOENT ? 0 : rc;
}

int lz_blocks_settle(struct lz_blocks *file, int maps_fd, struct lz_detail *detail)
{
    if (!file->writable)
        return lz_fail(detail, -EBADF, "block map %s: the file is not open for writing", file->name);
    int rc = fill_all(file, detail);
    if (rc != 0)
        return rc;
    rc = file->sys->fdatasync(file->sys->ctx, file->file_fd);
    if (rc == 0)
        rc = lz_blocks_lock(file, 0, 0);
    if (rc == 0) {
        rc = forget_map(file, maps_fd);
        lz_blocks_unlock(file, 0, 0);
    }
    return rc == 0 ? 0 : lz_fail(detail, rc, "block map %s: settling: %s", file->name, lz_error_text(rc));
}
