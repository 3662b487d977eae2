#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>

#include "lz_union_writer.h"

#define COPY_SIZE (1024u * 1024)
#define WRITE_MAX 0x7ffff000u /* what one write(2) takes */

/* The handle's source, for writing: -EBADF of one that is not open for it. Release it after use. */
static int writable(struct lz_union_file *file, struct lz_union_source **out)
{
    int access = file->flags & O_ACCMODE;
    if (access != O_WRONLY && access != O_RDWR)
        return -EBADF;
    int rc = lz_union_file_source(file, out);
    if (rc == 0 && (*out)->upper_fd < 0) {
        lz_union_source_release(*out);
        rc = -EBADF;
    }
    return rc;
}

/* Fills of partly written blocks are copy-up, too. */
static void count_filled(struct lz_union_file *file, struct lz_union_source *source)
{
    uint64_t now = lz_blocks_filled(source->blocks);
    uint64_t before = atomic_load_explicit(&source->filled, memory_order_relaxed);
    while (now > before && !atomic_compare_exchange_weak_explicit(&source->filled, &before, now, memory_order_relaxed,
                                                                  memory_order_relaxed))
        ;
    if (now > before)
        atomic_fetch_add_explicit(&file->owner->bytes_copied, now - before, memory_order_relaxed);
}

static ssize_t write_source(struct lz_union_file *file, struct lz_union_source *source, const void *bytes, size_t size,
                            uint64_t offset)
{
    const struct lz_sys *sys = file->owner->sys;
    if (source->blocks == NULL)
        return sys->pwrite(sys->ctx, source->upper_fd, bytes, size, (off_t)offset); /* O_APPEND is the kernel's */
    ssize_t wrote = (file->flags & O_APPEND) != 0 ? lz_blocks_append(source->blocks, bytes, size)
                                                  : lz_blocks_write(source->blocks, bytes, size, offset);
    count_filled(file, source);
    return wrote;
}

ssize_t lz_union_file_write(struct lz_union_file *file, const void *bytes, size_t size, uint64_t offset)
{
    struct lz_union_source *source;
    int rc = writable(file, &source);
    if (rc != 0)
        return rc;
    size = size < WRITE_MAX ? size : WRITE_MAX;
    ssize_t wrote = offset > INT64_MAX || size > INT64_MAX - offset ? -EINVAL
                    : size == 0                                     ? 0
                                                                    : write_source(file, source, bytes, size, offset);
    lz_union_source_release(source);
    if (wrote > 0)
        atomic_fetch_add_explicit(&file->owner->bytes_asked, (uint64_t)wrote, memory_order_relaxed);
    return wrote;
}

int lz_union_file_truncate(struct lz_union_file *file, uint64_t size)
{
    struct lz_union_source *source;
    int rc = size > INT64_MAX ? -EINVAL : writable(file, &source);
    if (rc != 0)
        return rc == -EBADF ? -EINVAL : rc; /* as ftruncate() of a descriptor that is not open for writing */
    const struct lz_sys *sys = file->owner->sys;
    rc = source->blocks != NULL ? lz_blocks_truncate(source->blocks, size)
                                : sys->ftruncate(sys->ctx, source->upper_fd, (off_t)size);
    if (source->blocks != NULL)
        count_filled(file, source);
    lz_union_source_release(source);
    return rc;
}

int lz_union_file_punch(struct lz_union_file *file, uint64_t offset, uint64_t size)
{
    struct lz_union_source *source;
    if (size == 0 || offset > INT64_MAX || size > INT64_MAX)
        return -EINVAL;
    if (size > INT64_MAX - offset)
        return -EFBIG;
    int rc = writable(file, &source);
    if (rc != 0)
        return rc;
    const struct lz_sys *sys = file->owner->sys;
    rc = source->blocks != NULL ? lz_blocks_punch(source->blocks, offset, size)
                                : sys->fallocate(sys->ctx, source->upper_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                                 (off_t)offset, (off_t)size);
    if (source->blocks != NULL)
        count_filled(file, source);
    lz_union_source_release(source);
    return rc;
}

/* ---- copying between handles ---- */

static bool never_mind(int64_t rc)
{
    return rc == -EXDEV || rc == -EOPNOTSUPP || rc == -EINVAL || rc == -ENOSYS || rc == -EPERM;
}

/* In the kernel, which clones where it can: of one plain piece into a plain file. -EOPNOTSUPP: not this way. */
static int64_t copy_in_kernel(struct lz_union_file *from, uint64_t from_offset, struct lz_union_file *to,
                              uint64_t to_offset, uint64_t size)
{
    const struct lz_sys *sys = to->owner->sys;
    struct lz_union_source *in, *out;
    int64_t rc = lz_union_file_source(from, &in);
    if (rc != 0)
        return rc;
    rc = writable(to, &out);
    if (rc == 0) {
        bool lower = in->lower.fd >= 0;
        off_t in_at = (off_t)(from_offset + (lower ? in->lower.offset : 0)), out_at = (off_t)to_offset;
        uint64_t left = !lower ? size : from_offset < in->lower.size ? in->lower.size - from_offset : 0;
        size = size < left ? size : left;
        if (in->blocks != NULL || out->blocks != NULL)
            rc = -EOPNOTSUPP;
        else if (size > 0)
            rc = sys->copy_file_range(sys->ctx, lower ? in->lower.fd : in->upper_fd, &in_at, out->upper_fd, &out_at,
                                      (size_t)size);
        lz_union_source_release(out);
    }
    lz_union_source_release(in);
    if (rc > 0)
        atomic_fetch_add_explicit(&to->owner->bytes_asked, (uint64_t)rc, memory_order_relaxed);
    return rc;
}

static int64_t copy_by_hand(struct lz_union_file *from, uint64_t from_offset, struct lz_union_file *to,
                            uint64_t to_offset, uint64_t size, uint8_t *buffer)
{
    uint64_t done = 0;
    while (done < size) {
        size_t piece = size - done < COPY_SIZE ? (size_t)(size - done) : COPY_SIZE;
        ssize_t got = lz_union_file_read(from, buffer, piece, from_offset + done);
        ssize_t wrote = got > 0 ? lz_union_file_write(to, buffer, (size_t)got, to_offset + done) : got;
        if (wrote < 0 && done == 0)
            return wrote;
        if (wrote <= 0)
            break;
        done += (uint64_t)wrote;
    }
    return (int64_t)done;
}

static bool is_one_file(const struct lz_union_file *a, const struct lz_union_file *b)
{
    return a == b || (a->info.device == b->info.device && a->info.number == b->info.number &&
                      a->info.branch == b->info.branch && a->owner->upper_fd == b->owner->upper_fd);
}

int64_t lz_union_file_copy(struct lz_union_file *from, uint64_t from_offset, struct lz_union_file *to,
                           uint64_t to_offset, uint64_t size)
{
    if (from->info.kind == LZ_KIND_DIRECTORY || to->info.kind == LZ_KIND_DIRECTORY)
        return -EISDIR;
    if ((from->flags & O_ACCMODE) == O_WRONLY || (to->flags & O_ACCMODE) == O_RDONLY || (to->flags & O_APPEND) != 0)
        return -EBADF;
    size = size < WRITE_MAX ? size : WRITE_MAX;
    if (from_offset > INT64_MAX - size || to_offset > INT64_MAX - size)
        return -EOVERFLOW;
    if (is_one_file(from, to) && from_offset < to_offset + size && to_offset < from_offset + size && size > 0)
        return -EINVAL;
    int64_t rc = copy_in_kernel(from, from_offset, to, to_offset, size);
    if (!never_mind(rc))
        return rc;
    uint8_t *buffer = malloc(COPY_SIZE);
    if (buffer == NULL)
        return -ENOMEM;
    rc = copy_by_hand(from, from_offset, to, to_offset, size, buffer);
    free(buffer);
    return rc;
}
