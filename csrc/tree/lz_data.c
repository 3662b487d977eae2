#include "lz_data.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096u

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

int lz_sink_room(struct lz_sink *sink, uint64_t wanted, uint8_t **at, size_t *room)
{
    int rc = lz_sink_check(sink);
    if (rc == 0)
        rc = lz_buf_reserve(&sink->buf, LZ_SINK_SIZE - sink->buf.size);
    if (rc != 0)
        return rc;
    *at = sink->buf.data + sink->buf.size;
    *room = LZ_SINK_SIZE - sink->buf.size;
    if (*room > wanted)
        *room = (size_t)wanted;
    return 0;
}

void lz_sink_free(struct lz_sink *sink)
{
    lz_buf_free(&sink->buf);
}

/* ---- holes ---- */

struct seeking {
    const struct lz_sys *sys;
    const struct lz_data *data;
};

static int64_t seek_data(void *ctx, uint64_t at, int whence)
{
    const struct seeking *seeking = ctx;
    const struct lz_data *data = seeking->data;
    if (data->blocks != NULL)
        return lz_blocks_seek(data->blocks, at, whence);
    return seeking->sys->lseek(seeking->sys->ctx, data->fd, (off_t)at, whence);
}

/* Where the upper and the lower of a block-level file meet within one block, they have holes that a whole file could not
 * have: the extents become those that the file will have once it is settled, on a file system with blocks of 4 KiB. */
static int find_extents(const struct lz_sys *sys, struct lz_data *data)
{
    struct seeking seeking = {.sys = sys, .data = data};
    return lz_extents_find(data->size, data->blocks != NULL ? BLOCK : 1, seek_data, &seeking, &data->extents);
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

/* Sets data->fd. */
static int open_upper(const struct lz_sys *sys, const struct lz_walk_node *node, struct lz_data *data)
{
    data->owned = node->fd == NULL;
    data->fd = node->fd != NULL
                   ? *node->fd
                   : lz_openat_beneath(sys, node->dir_fd, node->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0);
    /* became a symlink or a fifo since it was listed */
    return data->fd == -ELOOP || data->fd == -ENXIO ? -ENOENT : data->fd;
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

/* The parts of a block-level file: what the upper has, what the lower has, and the map. 1 when it was settled meanwhile,
 * and data->fd is all of it. */
static int open_parts(const struct lz_sys *sys, const struct lz_diff_source *source, const struct lz_walk_node *node,
                      struct lz_data *data, struct lz_detail *detail)
{
    struct lz_data lower = {.fd = -1};
    char name[LZ_BLOCKS_NAME_SIZE];
    int rc = open_upper(sys, node, data);
    if (rc < 0)
        return rc;
    rc = lz_blocks_name(sys, data->fd, "", source->user_xattr, name);
    if (rc <= 0)
        return rc == 0 ? 1 : lz_fail(detail, rc, "/%s: the name of its block map: %s", node->path, lz_error_text(rc));
    if (source->maps_fd < 0)
        return lz_fail(detail, LZ_E_CORRUPT,
                       "/%s: the upper has only some blocks, and there is no directory of block maps", node->path);
    rc = open_lower(sys, source, node, &lower, detail);
    if (rc != 0)
        return rc == -ENOENT ? LZ_E_CORRUPT : rc;
    data->lower = (struct lz_bytes_at){.fd = lower.fd, .offset = lower.offset, .size = lower.size};
    data->lower_owned = lower.owned;
    struct lz_blocks_lower expected = {.at = data->lower, .has_digest = true};
    memcpy(expected.digest, lower.digest, sizeof expected.digest);
    rc = lz_blocks_open(sys, data->fd, source->maps_fd, name, false, &expected, &data->blocks, detail);
    if (rc == -ENOENT && lz_blocks_name(sys, data->fd, "", source->user_xattr, name) == 0)
        return 1;
    return rc == 0 ? 0 : lz_fail_within(detail, rc == -ENOENT ? LZ_E_CORRUPT : rc, "/%s", node->path);
}

static int open_blocks(const struct lz_sys *sys, const struct lz_diff_source *source, const struct lz_walk_node *node,
                       struct lz_data *data, struct lz_detail *detail)
{
    struct lz_data opened = {.fd = -1, .lower = {.fd = -1}};
    struct stat info;
    int rc = open_parts(sys, source, node, &opened, detail);
    if (rc >= 0)
        rc = sys->fstatat(sys->ctx, opened.fd, "", &info, AT_EMPTY_PATH);
    if (rc == 0 && !S_ISREG(info.st_mode))
        rc = -ENOENT;
    if (rc == 0)
        opened.size = (uint64_t)info.st_size;
    if (rc != 0)
        lz_data_close(sys, &opened);
    else
        *data = opened;
    return rc;
}

int lz_data_open(const struct lz_sys *sys, const struct lz_diff_source *source, const struct lz_walk_node *node,
                 struct lz_data *data, struct lz_detail *detail)
{
    struct lz_data opened = {.fd = -1};
    int rc = 0;
    if (node->data == LZ_DATA_BLOCKS) {
        rc = open_blocks(sys, source, node, &opened, detail);
        if (rc == 0 && (rc = find_extents(sys, &opened)) != 0)
            lz_data_close(sys, &opened);
        if (rc == 0)
            *data = opened;
        return rc;
    }
    if (node->data == LZ_DATA_LOWER)
        rc = open_lower(sys, source, node, &opened, detail);
    else
        rc = open_upper(sys, node, &opened);
    if (rc < 0)
        return rc;
    bool whole = node->data == LZ_DATA_UPPER || opened.owned; /* not a part of a layer's index */
    struct stat info = {0};
    rc = whole ? sys->fstatat(sys->ctx, opened.fd, "", &info, AT_EMPTY_PATH) : 0;
    if (rc == 0 && whole && !S_ISREG(info.st_mode))
        rc = -ENOENT;
    if (node->data == LZ_DATA_UPPER)
        opened.size = (uint64_t)info.st_size;
    opened.extents.stored_size = opened.size;
    if (rc == 0 && whole && (uint64_t)info.st_blocks * 512 < opened.size)
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
    lz_blocks_close(data->blocks);
    if (data->owned && data->fd >= 0)
        (void)sys->close(sys->ctx, data->fd);
    if (data->lower_owned)
        (void)sys->close(sys->ctx, data->lower.fd);
    lz_extents_free(&data->extents);
    *data = (struct lz_data){.fd = -1};
}

/* ---- the blocks of an upper against the lower's ---- */

struct comparison {
    const struct lz_sys *sys;
    const struct lz_data *data;
    uint8_t *buffer; /* two halves */
    bool differs;
};

#define COMPARED 65536u

/* -ECANCELED ends the comparison at the first difference. */
static int compare_range(void *ctx, uint64_t offset, uint64_t size)
{
    struct comparison *comparison = ctx;
    const struct lz_data *data = comparison->data;
    uint8_t *upper = comparison->buffer, *lower = upper + COMPARED;
    for (uint64_t end = offset + size; offset < end;) {
        size_t piece = end - offset < COMPARED ? (size_t)(end - offset) : COMPARED;
        ssize_t got = lz_blocks_read(data->blocks, upper, piece, offset);
        ssize_t expected = got < 0 ? got
                                   : lz_pread_full(comparison->sys, data->lower.fd, lower, piece,
                                                   (off_t)(data->lower.offset + offset));
        if (got < 0 || expected < 0)
            return (int)expected;
        comparison->differs = got != expected || memcmp(upper, lower, (size_t)got) != 0;
        if (comparison->differs)
            return -ECANCELED;
        offset += piece;
    }
    return 0;
}

int lz_data_same(const struct lz_sys *sys, const struct lz_diff_source *source, const struct lz_walk_node *node,
                 struct lz_detail *detail)
{
    struct lz_data data = {.fd = -1};
    int rc = open_blocks(sys, source, node, &data, detail);
    if (rc != 0)
        return rc;
    struct comparison comparison = {.sys = sys, .data = &data, .buffer = malloc((size_t)2 * COMPARED)};
    bool may_be = data.blocks != NULL && data.size == data.lower.size;
    rc = comparison.buffer == NULL ? -ENOMEM : 0;
    if (rc == 0 && may_be)
        rc = lz_blocks_each(data.blocks, compare_range, &comparison);
    free(comparison.buffer);
    lz_data_close(sys, &data);
    if (rc == 0 || comparison.differs)
        return may_be && !comparison.differs;
    return lz_fail(detail, rc, "/%s: comparing its blocks: %s", node->path, lz_error_text(rc));
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
        uint8_t *at;
        size_t room;
        int rc = lz_sink_room(sink, end - offset, &at, &room);
        if (rc != 0)
            return rc;
        ssize_t got = data->blocks != NULL ? lz_blocks_read(data->blocks, at, room, offset)
                                           : sys->pread(sys->ctx, data->fd, at, room, (off_t)(data->offset + offset));
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
    for (size_t i = 0; i < data->extents.count && rc == 0; i++) {
        const struct lz_tar_extent *extent = &data->extents.items[i];
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
    int rc = data->extents.sparse ? copy_extents(sys, data, sha256, path, sink, detail)
                                  : copy_range(sys, data, 0, data->size, sha256, path, sink, detail);
    if (rc == 0)
        rc = lz_buf_append_zeros(&sink->buf, lz_tar_pad(data->extents.stored_size));
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
