#include <errno.h>
#include <unistd.h>

#include "lz_blocks_map.h"

/* A stretch of the file that lies in one place. */
struct stretch {
    int fd;
    uint64_t at, end; /* in the file */
    uint64_t offset;  /* of byte 0 of the file in fd */
    bool in_upper;
};

/* The stretch that begins at `at`, which is below `size`. */
static int stretch_at(struct lz_blocks *file, uint64_t at, uint64_t size, struct stretch *out)
{
    int64_t limit = lz_blocks_end(file, false, NULL);
    if (limit < 0)
        return (int)limit;
    *out = (struct stretch){.fd = file->file_fd, .at = at, .end = size, .in_upper = true};
    uint64_t stop = (uint64_t)limit < size ? (uint64_t)limit : size, block;
    if (at >= stop)
        return 0;
    int rc = lz_blocks_run(file, false, at >> file->shift, ((stop - 1) >> file->shift) + 1, &out->in_upper, &block);
    if (rc != 0)
        return rc;
    out->end = block << file->shift < stop ? block << file->shift : stop;
    if (!out->in_upper) {
        out->fd = file->lower.at.fd;
        out->offset = file->lower.at.offset;
    }
    return 0;
}

/* The first data or hole of the stretch, at most its end; a file system that cannot tell has data everywhere. */
static int64_t seek_stretch(struct lz_blocks *file, const struct stretch *stretch, int whence)
{
    off_t found = file->sys->lseek(file->sys->ctx, stretch->fd, (off_t)(stretch->offset + stretch->at), whence);
    if (found == -ENXIO)
        return (int64_t)(whence == SEEK_DATA ? stretch->end : stretch->at);
    if (found == -EINVAL || found == -EOPNOTSUPP)
        return (int64_t)(whence == SEEK_DATA ? stretch->at : stretch->end);
    if (found < 0)
        return found;
    uint64_t at = (uint64_t)found - stretch->offset;
    return (int64_t)(at < stretch->end ? at : stretch->end);
}

int64_t lz_blocks_seek(struct lz_blocks *file, uint64_t offset, int whence)
{
    if (whence != SEEK_DATA && whence != SEEK_HOLE)
        return -EINVAL;
    int64_t size = lz_blocks_file_size(file);
    if (size < 0)
        return size;
    if (offset >= (uint64_t)size)
        return -ENXIO;
    while (offset < (uint64_t)size) {
        struct stretch stretch;
        int rc = stretch_at(file, offset, (uint64_t)size, &stretch);
        int64_t found = rc == 0 ? seek_stretch(file, &stretch, whence) : rc;
        if (found < 0 || (uint64_t)found < stretch.end)
            return found;
        offset = stretch.end;
    }
    return whence == SEEK_DATA ? -ENXIO : size;
}

int lz_blocks_each(struct lz_blocks *file, int (*report)(void *ctx, uint64_t offset, uint64_t size), void *ctx)
{
    int64_t size = lz_blocks_file_size(file);
    if (size < 0)
        return (int)size;
    uint64_t begin = 0, at = 0; /* [begin, at) lies in the upper and is not yet reported */
    while (at < (uint64_t)size) {
        struct stretch stretch;
        int rc = stretch_at(file, at, (uint64_t)size, &stretch);
        if (rc == 0 && !stretch.in_upper && at > begin)
            rc = report(ctx, begin, at - begin);
        if (rc < 0)
            return rc;
        at = stretch.end;
        begin = stretch.in_upper ? begin : at;
    }
    int rc = at > begin ? report(ctx, begin, at - begin) : 0;
    return rc < 0 ? rc : 0;
}
