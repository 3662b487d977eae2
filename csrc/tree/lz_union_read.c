#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lz_union_internal.h"

#define READ_MAX 0x7ffff000u /* MAX_RW_COUNT */

static ssize_t read_lower(const struct lz_union_source *source, void *out, size_t size, uint64_t offset)
{
    const struct lz_bytes_at *at = &source->lower;
    if (offset >= at->size)
        return 0;
    size = size < at->size - offset ? size : (size_t)(at->size - offset);
    ssize_t got = lz_pread_full(source->sys, at->fd, out, size, (off_t)(at->offset + offset));
    return got == 0 && size > 0 ? LZ_E_TRUNCATED : got; /* has lost its end since it was opened */
}

ssize_t lz_union_file_read(struct lz_union_file *file, void *out, size_t size, uint64_t offset)
{
    struct lz_union_source *source;
    if ((file->flags & O_ACCMODE) == O_WRONLY)
        return -EBADF;
    if (offset > INT64_MAX)
        return -EINVAL;
    size = size < READ_MAX ? size : READ_MAX;
    int rc = lz_union_file_source(file, &source);
    if (rc != 0)
        return rc;
    ssize_t got;
    if (source->blocks != NULL)
        got = lz_blocks_read(source->blocks, out, size, offset);
    else if (source->lower.fd >= 0)
        got = read_lower(source, out, size, offset);
    else
        got = source->sys->pread(source->sys->ctx, source->upper_fd, out, size, (off_t)offset);
    lz_union_source_release(source);
    return got;
}

/* An object or a host's file knows its holes; what lies inside an index file has none. */
static int64_t seek_lower(const struct lz_union_source *source, uint64_t offset, int whence)
{
    const struct lz_bytes_at *at = &source->lower;
    if (offset >= at->size)
        return -ENXIO;
    int64_t found = source->lower_owned ? source->sys->lseek(source->sys->ctx, at->fd, (off_t)offset, whence) : -EINVAL;
    if (found == -EINVAL || found == -EOPNOTSUPP)
        found = (int64_t)(whence == SEEK_DATA ? offset : at->size);
    return found > (int64_t)at->size ? (int64_t)at->size : found;
}

int64_t lz_union_file_seek(struct lz_union_file *file, uint64_t offset, int whence)
{
    struct lz_union_source *source;
    if ((whence != SEEK_DATA && whence != SEEK_HOLE) || offset > INT64_MAX)
        return -EINVAL;
    int rc = lz_union_file_source(file, &source);
    if (rc != 0)
        return rc;
    int64_t found;
    if (source->blocks != NULL)
        found = lz_blocks_seek(source->blocks, offset, whence);
    else if (source->lower.fd >= 0)
        found = seek_lower(source, offset, whence);
    else
        found = source->sys->lseek(source->sys->ctx, source->upper_fd, (off_t)offset, whence);
    lz_union_source_release(source);
    return found;
}

static int sync_directory(struct lz_union_file *file)
{
    struct lz_union *self = file->owner;
    int fd = lz_union_upper_open(self, file->path, file->path_size, O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        return fd == -ENOENT || fd == -ENOTDIR ? 0 : fd; /* not in the upper: nothing to write back */
    int rc = self->sys->fsync(self->sys->ctx, fd);
    (void)self->sys->close(self->sys->ctx, fd);
    return rc;
}

int lz_union_file_sync(struct lz_union_file *file)
{
    struct lz_union_source *source;
    int rc = lz_union_file_source(file, &source);
    if (rc == -EISDIR)
        return sync_directory(file);
    if (rc != 0)
        return rc;
    if (source->blocks != NULL)
        rc = lz_blocks_sync(source->blocks);
    if (rc == 0 && source->upper_fd >= 0)
        rc = source->sys->fsync(source->sys->ctx, source->upper_fd);
    lz_union_source_release(source);
    return rc;
}

static int stat_source(struct lz_union_file *file, const struct lz_union_source *source, struct lz_union_info *out)
{
    struct stat info;
    (void)pthread_mutex_lock(&file->lock);
    struct lz_union_info known = file->info;
    (void)pthread_mutex_unlock(&file->lock);
    *out = known;
    if (source->upper_fd < 0)
        return 0;
    int rc = source->sys->fstatat(source->sys->ctx, source->upper_fd, "", &info, AT_EMPTY_PATH);
    if (rc != 0)
        return rc;
    lz_union_info_of_stat(&info, LZ_UNION_UPPER, out);
    if (source->lower.fd < 0)
        return 0;
    out->data_branch = known.data_branch;
    out->data_entry = known.data_entry;
    out->unsettled = source->blocks != NULL;
    out->has_digest = known.has_digest && source->blocks == NULL;
    if (out->has_digest)
        memcpy(out->digest, known.digest, sizeof out->digest);
    return 0;
}

int lz_union_file_stat(struct lz_union_file *file, struct lz_union_info *out)
{
    struct lz_union_source *source;
    int rc = lz_union_file_source(file, &source);
    if (rc == -EISDIR) {
        struct lz_union_info now;
        rc = file->path_size > 0 ? lz_union_stat(file->owner, file->path, file->path_size, LZ_UNION_NOFOLLOW, &now)
                                 : lz_union_stat(file->owner, "/", 1, 0, &now);
        *out = rc == 0 && now.kind == LZ_KIND_DIRECTORY ? now : file->info; /* else it has another name now */
        return 0;
    }
    if (rc != 0)
        return rc;
    rc = stat_source(file, source, out);
    lz_union_source_release(source);
    return rc;
}
