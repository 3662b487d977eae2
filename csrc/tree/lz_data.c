#include "lz_data.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXTENTS_MAX 32768u /* more, and neighbours are joined: the map is read into memory by whoever unpacks it */

/* ---- the way out ---- */

int lz_sink_flush(struct lz_sink *sink)
{
    int rc = lz_write_all(sink->sys, sink->fd, sink->buf.data, sink->buf.size);
    if (rc != 0)
        return rc;
    sink->total += sink->buf.size;
    sink->buf.size = 0;
    return 0;
}

int lz_sink_check(struct lz_sink *sink)
{
    return sink->buf.size >= LZ_SINK_SIZE ? lz_sink_flush(sink) : 0;
}

void lz_sink_free(struct lz_sink *sink)
{
    lz_buf_free(&sink->buf);
}

/* ---- holes ---- */

static void join_extents(struct lz_data *data)
{
    for (uint64_t gap = 65536; data->extent_count > EXTENTS_MAX; gap *= 2) {
        size_t kept = 1;
        for (size_t i = 1; i < data->extent_count; i++) {
            struct lz_tar_extent *last = &data->extents[kept - 1];
            const struct lz_tar_extent *extent = &data->extents[i];
            if (extent->offset - (last->offset + last->size) < gap)
                last->size = extent->offset + extent->size - last->offset;
            else
                data->extents[kept++] = *extent;
        }
        data->extent_count = kept;
    }
}

/* Lists the data between the holes; leaves data->sparse false when there are none. */
static int find_extents(const struct lz_sys *sys, struct lz_data *data)
{
    size_t capacity = 0;
    for (uint64_t at = 0; at < data->size;) {
        off_t begin = sys->lseek(sys->ctx, data->fd, (off_t)at, SEEK_DATA);
        if (begin == -ENXIO || (begin >= 0 && (uint64_t)begin >= data->size))
            break;
        if (begin < 0)
            return begin == -EINVAL || begin == -EOPNOTSUPP ? 0 : (int)begin;
        off_t end = sys->lseek(sys->ctx, data->fd, begin, SEEK_HOLE);
        if (end < 0)
            return (int)end;
        if ((uint64_t)end > data->size)
            end = (off_t)data->size;
        if (begin == 0 && (uint64_t)end == data->size)
            return 0;
        void *extents = data->extents;
        int rc = lz_grow(&extents, &capacity, data->extent_count + 1, sizeof *data->extents);
        if (rc != 0)
            return rc;
        data->extents = extents;
        data->extents[data->extent_count++] =
            (struct lz_tar_extent){.offset = (uint64_t)begin, .size = (uint64_t)(end - begin)};
        at = (uint64_t)end;
    }
    join_extents(data);
    data->sparse = true;
    data->stored_size = 0;
    for (size_t i = 0; i < data->extent_count; i++)
        data->stored_size += data->extents[i].size;
    return 0;
}

/* ---- opening ---- */

int lz_data_reopen(const struct lz_sys *sys, int fd)
{
    char path[32] = "/proc/self/fd/";
    char digits[16];
    size_t count = 0, size = strlen(path);
    for (int rest = fd; count == 0 || rest > 0; rest /= 10)
        digits[count++] = (char)('0' + rest % 10);
    while (count > 0)
        path[size++] = digits[--count];
    path[size] = 0;
    return sys->openat(sys->ctx, AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
}

static int open_upper(const struct lz_sys *sys, const struct lz_walk_node *node, bool no_xdev)
{
    if (node->name[0] == 0)
        return lz_data_reopen(sys, node->dir_fd);
    struct open_how how = {.flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY,
                           .resolve =
                               RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | (no_xdev ? (unsigned)RESOLVE_NO_XDEV : 0)};
    int fd = sys->openat2(sys->ctx, node->dir_fd, node->name, &how);
    return fd == -ELOOP || fd == -ENXIO ? -ENOENT : fd; /* became a symlink or a fifo since it was listed */
}

int lz_data_open_object(const struct lz_sys *sys, int objects_fd, const uint8_t digest[32], const char *path,
                        struct lz_detail *detail)
{
    char hex[LZ_SHA256_HEX_SIZE + 1];
    char name[LZ_SHA256_HEX_SIZE + 2];
    lz_hex(digest, hex);
    memcpy(name, hex, 2);
    name[2] = '/';
    memcpy(name + 3, hex + 2, LZ_SHA256_HEX_SIZE - 1);
    int fd = sys->openat(sys->ctx, objects_fd, name, O_RDONLY | O_NOFOLLOW, 0);
    return fd >= 0 ? fd : lz_fail(detail, fd, "/%s: object sha256:%s: %s", path, hex, lz_error_text(fd));
}

static int open_lower(const struct lz_sys *sys, const struct lz_diff_source *source, const struct lz_walk_node *node,
                      struct lz_data *data, struct lz_detail *detail)
{
    const struct lz_entry *entry = &source->lower->entries[node->lower];
    data->size = entry->size;
    data->digest = entry->digest;
    if ((entry->flags & LZ_FLAG_INLINE) != 0) {
        data->fd = source->layer_fds[entry->layer];
        data->offset = LZ_INDEX_INLINE_OFFSET + entry->data_offset;
    } else if ((entry->flags & LZ_FLAG_OBJECT) != 0) {
        int fd = lz_data_open_object(sys, source->objects_fd, entry->digest, node->path, detail);
        if (fd < 0)
            return fd;
        data->fd = fd;
        data->owned = true;
    }
    return 0;
}

int lz_data_open(const struct lz_sys *sys, const struct lz_diff_source *source, const struct lz_walk_node *node,
                 bool no_xdev, struct lz_data *data, struct lz_detail *detail)
{
    struct lz_data opened = {.fd = -1};
    int rc = 0;
    if (node->data == LZ_DATA_LOWER)
        rc = open_lower(sys, source, node, &opened, detail);
    else
        rc = opened.fd = open_upper(sys, node, no_xdev);
    if (rc < 0)
        return rc;
    opened.owned = node->data == LZ_DATA_UPPER || opened.owned;
    struct stat info = {0};
    rc = opened.owned ? sys->fstatat(sys->ctx, opened.fd, "", &info, AT_EMPTY_PATH) : 0;
    if (rc == 0 && opened.owned && !S_ISREG(info.st_mode))
        rc = -ENOENT;
    if (node->data == LZ_DATA_UPPER)
        opened.size = (uint64_t)info.st_size;
    opened.stored_size = opened.size;
    if (rc == 0 && opened.owned && (uint64_t)info.st_blocks * 512 < opened.size)
        rc = find_extents(sys, &opened);
    if (rc != 0) {
        lz_data_close(sys, &opened);
        return rc;
    }
    *data = opened;
    return 0;
}

void lz_data_close(const struct lz_sys *sys, struct lz_data *data)
{
    if (data->owned && data->fd >= 0)
        (void)sys->close(sys->ctx, data->fd);
    free(data->extents);
    *data = (struct lz_data){.fd = -1};
}

/* ---- copying ---- */

static int hash_hole(struct lz_sha256 *sha256, uint64_t size)
{
    static const uint8_t zeros[16384];
    int rc = 0;
    while (size > 0 && rc == 0) {
        size_t piece = size < sizeof zeros ? (size_t)size : sizeof zeros;
        rc = lz_sha256_update(sha256, zeros, piece);
        size -= piece;
    }
    return rc;
}

static int copy_range(const struct lz_sys *sys, const struct lz_data *data, uint64_t offset, uint64_t size,
                      struct lz_sha256 *sha256, const char *path, struct lz_sink *sink, struct lz_detail *detail)
{
    for (uint64_t end = offset + size; offset < end;) {
        int rc = lz_sink_check(sink);
        if (rc == 0)
            rc = lz_buf_reserve(&sink->buf, LZ_SINK_SIZE - sink->buf.size);
        if (rc != 0)
            return rc;
        size_t room = LZ_SINK_SIZE - sink->buf.size;
        if (room > end - offset)
            room = (size_t)(end - offset);
        uint8_t *at = sink->buf.data + sink->buf.size;
        ssize_t got = sys->pread(sys->ctx, data->fd, at, room, (off_t)(data->offset + offset));
        if (got < 0)
            return lz_fail(detail, (int)got, "/%s: reading: %s", path, lz_error_text((int)got));
        if (got == 0)
            return lz_fail(detail, data->digest != NULL ? LZ_E_CORRUPT : LZ_E_TRUNCATED,
                           "/%s: ends after %llu bytes, expected %llu", path, (unsigned long long)offset,
                           (unsigned long long)data->size);
        if (data->digest != NULL && (rc = lz_sha256_update(sha256, at, (size_t)got)) != 0)
            return rc;
        sink->buf.size += (size_t)got;
        offset += (uint64_t)got;
    }
    return 0;
}

static int copy_extents(const struct lz_sys *sys, const struct lz_data *data, struct lz_sha256 *sha256,
                        const char *path, struct lz_sink *sink, struct lz_detail *detail)
{
    uint64_t at = 0;
    int rc = 0;
    for (size_t i = 0; i < data->extent_count && rc == 0; i++) {
        const struct lz_tar_extent *extent = &data->extents[i];
        if (data->digest != NULL)
            rc = hash_hole(sha256, extent->offset - at);
        if (rc == 0)
            rc = copy_range(sys, data, extent->offset, extent->size, sha256, path, sink, detail);
        at = extent->offset + extent->size;
    }
    return rc == 0 && data->digest != NULL ? hash_hole(sha256, data->size - at) : rc;
}

int lz_data_copy(const struct lz_sys *sys, const struct lz_data *data, struct lz_sha256 *sha256, const char *path,
                 struct lz_sink *sink, struct lz_detail *detail)
{
    int rc = data->sparse ? copy_extents(sys, data, sha256, path, sink, detail)
                          : copy_range(sys, data, 0, data->size, sha256, path, sink, detail);
    if (rc == 0)
        rc = lz_buf_append_zeros(&sink->buf, lz_tar_pad(data->stored_size));
    if (rc != 0 || data->digest == NULL)
        return rc;
    uint8_t digest[LZ_SHA256_SIZE];
    rc = lz_sha256_final(sha256, digest);
    if (rc != 0 || memcmp(digest, data->digest, sizeof digest) == 0)
        return rc;
    char found[LZ_SHA256_HEX_SIZE + 1], expected[LZ_SHA256_HEX_SIZE + 1];
    lz_hex(digest, found);
    lz_hex(data->digest, expected);
    return lz_fail(detail, LZ_E_CORRUPT, "/%s: the stored content is sha256:%s, expected sha256:%s", path, found,
                   expected);
}
