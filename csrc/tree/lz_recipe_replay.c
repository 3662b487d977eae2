#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "../base/lz_mem.h"
#include "../bytes/lz_digest.h"
#include "lz_recipe.h"
#include "lz_recipe_format.h"

#define OUT_SIZE (1024u * 1024)
#define IN_SIZE (128u * 1024)
#define WINDOW_LOG_MAX 24 /* the writer's level needs 19 */

struct replay {
    const struct lz_sys *sys;
    struct lz_detail *detail;
    int index_fd, objects_fd, out_fd;

    /* the recipe */
    int recipe_fd;
    off_t recipe_offset;
    ZSTD_DCtx *zstd;
    uint8_t *packed, *plain; /* IN_SIZE each */
    ZSTD_inBuffer in;
    size_t plain_at, plain_size;
    bool frame_over;
    uint64_t tar_size;
    uint8_t diff_id[LZ_SHA256_SIZE];

    /* the objects it has named */
    uint8_t (*digests)[LZ_SHA256_SIZE];
    size_t digest_capacity;
    uint32_t digest_count;
    int object_fd;
    uint32_t object_number;

    /* the tar */
    struct lz_sha256 *sha256;
    uint8_t *out; /* OUT_SIZE */
    size_t out_used;
    uint64_t written;
};

static void object_name(const uint8_t digest[LZ_SHA256_SIZE], char hex[LZ_SHA256_HEX_SIZE + 1], char path[68])
{
    lz_hex(digest, hex);
    path[0] = hex[0];
    path[1] = hex[1];
    path[2] = '/';
    memcpy(path + 3, hex + 2, LZ_SHA256_HEX_SIZE - 1);
}

/* ---- output ---- */

static int flush_out(struct replay *replay)
{
    int rc = lz_sha256_update(replay->sha256, replay->out, replay->out_used);
    if (rc == 0)
        rc = lz_write_all(replay->sys, replay->out_fd, replay->out, replay->out_used);
    if (rc != 0)
        return lz_fail(replay->detail, rc, "writing the layer's tar: %s", lz_error_text(rc));
    replay->written += replay->out_used;
    replay->out_used = 0;
    return 0;
}

/* Free space of the output buffer, at least one byte, at most `wanted`; *size is 0 on failure. */
static int reserve(struct replay *replay, uint64_t wanted, size_t *size)
{
    *size = 0;
    uint64_t made = replay->written + replay->out_used;
    if (wanted > replay->tar_size - made)
        return lz_fail(replay->detail, LZ_E_CORRUPT, "recipe: makes more than the tar's %llu bytes",
                       (unsigned long long)replay->tar_size);
    if (replay->out_used == OUT_SIZE) {
        int rc = flush_out(replay);
        if (rc != 0)
            return rc;
    }
    size_t room = OUT_SIZE - replay->out_used;
    *size = wanted < room ? (size_t)wanted : room;
    return 0;
}

/* `size` bytes of `fd` from `offset`; 1 when the file ends before. */
static int copy_range(struct replay *replay, int fd, uint64_t offset, uint64_t size)
{
    if (offset > INT64_MAX || size > INT64_MAX - offset)
        return 1;
    while (size > 0) {
        size_t now;
        int rc = reserve(replay, size, &now);
        if (rc != 0)
            return rc;
        ssize_t got = lz_pread_full(replay->sys, fd, replay->out + replay->out_used, now, (off_t)offset);
        if (got < 0)
            return (int)got;
        if ((size_t)got < now)
            return 1;
        replay->out_used += now;
        offset += now;
        size -= now;
    }
    return 0;
}

/* ---- the recipe's stream ---- */

static int refill(struct replay *replay)
{
    replay->plain_at = replay->plain_size = 0;
    while (!replay->frame_over && replay->plain_size == 0) {
        if (replay->in.pos == replay->in.size) {
            ssize_t got =
                replay->sys->pread(replay->sys->ctx, replay->recipe_fd, replay->packed, IN_SIZE, replay->recipe_offset);
            if (got < 0)
                return lz_fail(replay->detail, (int)got, "reading the recipe: %s", lz_error_text((int)got));
            if (got == 0)
                return lz_fail(replay->detail, LZ_E_TRUNCATED, "recipe: ends inside its operations, after %lld bytes",
                               (long long)replay->recipe_offset);
            replay->recipe_offset += got;
            replay->in = (ZSTD_inBuffer){replay->packed, (size_t)got, 0};
        }
        ZSTD_outBuffer out = {replay->plain, IN_SIZE, 0};
        size_t rc = ZSTD_decompressStream(replay->zstd, &out, &replay->in);
        if (ZSTD_isError(rc))
            return lz_fail(replay->detail, LZ_E_CORRUPT, "recipe: %s", ZSTD_getErrorName(rc));
        replay->plain_size = out.pos;
        replay->frame_over = rc == 0;
    }
    return 0;
}

static int take(struct replay *replay, uint8_t *out, size_t size)
{
    while (size > 0) {
        if (replay->plain_at == replay->plain_size) {
            int rc = refill(replay);
            if (rc != 0)
                return rc;
            if (replay->plain_size == 0)
                return lz_fail(replay->detail, LZ_E_CORRUPT, "recipe: its operations have no end");
        }
        size_t have = replay->plain_size - replay->plain_at;
        size_t now = size < have ? size : have;
        memcpy(out, replay->plain + replay->plain_at, now);
        replay->plain_at += now;
        out += now;
        size -= now;
    }
    return 0;
}

/* ---- operations ---- */

static int replay_literal(struct replay *replay)
{
    uint8_t field[4];
    int rc = take(replay, field, sizeof field);
    uint64_t size = lz_recipe_get(field, 4);
    while (rc == 0 && size > 0) {
        size_t now;
        rc = reserve(replay, size, &now);
        if (rc == 0)
            rc = take(replay, replay->out + replay->out_used, now);
        if (rc != 0)
            return rc;
        replay->out_used += now;
        size -= now;
    }
    return rc;
}

static int replay_inline(struct replay *replay)
{
    uint8_t fields[16];
    int rc = take(replay, fields, sizeof fields);
    if (rc != 0)
        return rc;
    uint64_t offset = lz_recipe_get(fields, 8);
    if (lz_add_size(offset, LZ_INDEX_INLINE_OFFSET, &offset) != 0)
        return lz_fail(replay->detail, LZ_E_CORRUPT, "recipe: inline offset out of range");
    rc = copy_range(replay, replay->index_fd, offset, lz_recipe_get(fields + 8, 8));
    if (rc == 1)
        return lz_fail(replay->detail, LZ_E_TRUNCATED, "layer index: ends inside inline data that the recipe needs");
    return rc;
}

static int open_object(struct replay *replay, uint32_t number)
{
    if (replay->object_fd >= 0 && replay->object_number == number)
        return 0;
    if (replay->object_fd >= 0)
        (void)replay->sys->close(replay->sys->ctx, replay->object_fd); /* it was only read */
    char hex[LZ_SHA256_HEX_SIZE + 1], path[68];
    object_name(replay->digests[number], hex, path);
    replay->object_fd =
        replay->sys->openat(replay->sys->ctx, replay->objects_fd, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (replay->object_fd < 0)
        return lz_fail(replay->detail, replay->object_fd, "object sha256:%s: %s", hex,
                       lz_error_text(replay->object_fd));
    replay->object_number = number;
    return 0;
}

static int replay_object(struct replay *replay, uint8_t code)
{
    uint32_t number = replay->digest_count;
    uint8_t fields[16];
    int rc;
    if (code == LZ_RECIPE_NEW_OBJECT) {
        rc = lz_grow((void **)&replay->digests, &replay->digest_capacity, (size_t)number + 1, sizeof *replay->digests);
        if (rc == 0)
            rc = take(replay, replay->digests[number], LZ_SHA256_SIZE);
        replay->digest_count += rc == 0;
    } else {
        rc = take(replay, fields, 4);
        number = (uint32_t)lz_recipe_get(fields, 4);
        if (rc == 0 && number >= replay->digest_count)
            rc = lz_fail(replay->detail, LZ_E_CORRUPT, "recipe: object %u of %u", number, replay->digest_count);
    }
    if (rc == 0)
        rc = take(replay, fields, sizeof fields);
    if (rc == 0)
        rc = open_object(replay, number);
    if (rc != 0)
        return rc;
    rc = copy_range(replay, replay->object_fd, lz_recipe_get(fields, 8), lz_recipe_get(fields + 8, 8));
    if (rc != 0 && replay->detail != NULL && replay->detail->text[0] == 0) {
        char hex[LZ_SHA256_HEX_SIZE + 1];
        lz_hex(replay->digests[number], hex);
        rc = rc == 1 ? lz_fail(replay->detail, LZ_E_CORRUPT, "object sha256:%s: shorter than its layer says", hex)
                     : lz_fail(replay->detail, rc, "object sha256:%s: %s", hex, lz_error_text(rc));
    }
    return rc == 1 ? LZ_E_CORRUPT : rc;
}

/* After END nothing may follow: no operation, no further frame. */
static int check_end(struct replay *replay)
{
    uint8_t byte;
    ssize_t got = replay->sys->pread(replay->sys->ctx, replay->recipe_fd, &byte, 1, replay->recipe_offset);
    if (got < 0)
        return lz_fail(replay->detail, (int)got, "reading the recipe: %s", lz_error_text((int)got));
    if (got > 0 || replay->in.pos != replay->in.size || replay->plain_at != replay->plain_size || !replay->frame_over)
        return lz_fail(replay->detail, LZ_E_CORRUPT, "recipe: bytes after its end");
    return 0;
}

static int replay_operations(struct replay *replay)
{
    for (;;) {
        uint8_t code;
        int rc = take(replay, &code, 1);
        if (rc != 0)
            return rc;
        switch (code) {
        case LZ_RECIPE_LITERAL:
            rc = replay_literal(replay);
            break;
        case LZ_RECIPE_INLINE:
            rc = replay_inline(replay);
            break;
        case LZ_RECIPE_OBJECT:
        case LZ_RECIPE_NEW_OBJECT:
            rc = replay_object(replay, code);
            break;
        case LZ_RECIPE_END:
            if (replay->plain_at == replay->plain_size)
                rc = refill(replay); /* to the frame's checksum */
            return rc != 0 ? rc : check_end(replay);
        default:
            return lz_fail(replay->detail, LZ_E_CORRUPT, "recipe: unknown operation %u", code);
        }
        if (rc != 0)
            return rc;
    }
}

/* ---- the whole ---- */

static int read_header(struct replay *replay)
{
    uint8_t header[LZ_RECIPE_HEADER_SIZE];
    ssize_t got = lz_pread_full(replay->sys, replay->recipe_fd, header, sizeof header, 0);
    if (got < 0)
        return lz_fail(replay->detail, (int)got, "reading the recipe: %s", lz_error_text((int)got));
    if ((size_t)got < sizeof header)
        return lz_fail(replay->detail, LZ_E_TRUNCATED, "recipe: %zd bytes, a header has %zu", got, sizeof header);
    if (memcmp(header, LZ_RECIPE_MAGIC, LZ_RECIPE_MAGIC_SIZE) != 0)
        return lz_fail(replay->detail, LZ_E_FORMAT, "recipe: not a recipe of version 1");
    replay->tar_size = lz_recipe_get(header + 12, 8);
    memcpy(replay->diff_id, header + 20, LZ_SHA256_SIZE);
    replay->recipe_offset = LZ_RECIPE_HEADER_SIZE;
    return 0;
}

/* The tar came out wrong: says which object is to blame, or that none of them is. */
static int blame(struct replay *replay)
{
    char hex[LZ_SHA256_HEX_SIZE + 1], path[68];
    for (uint32_t number = 0; number < replay->digest_count; number++) {
        int rc = open_object(replay, number);
        if (rc != 0)
            return rc;
        off_t offset = 0;
        ssize_t got;
        while ((got = replay->sys->pread(replay->sys->ctx, replay->object_fd, replay->out, OUT_SIZE, offset)) > 0) {
            rc = lz_sha256_update(replay->sha256, replay->out, (size_t)got);
            if (rc != 0)
                return rc;
            offset += got;
        }
        uint8_t digest[LZ_SHA256_SIZE];
        rc = got < 0 ? (int)got : lz_sha256_final(replay->sha256, digest);
        object_name(replay->digests[number], hex, path);
        if (rc != 0)
            return lz_fail(replay->detail, rc, "object sha256:%s: %s", hex, lz_error_text(rc));
        if (memcmp(digest, replay->digests[number], LZ_SHA256_SIZE) != 0)
            return lz_fail(replay->detail, LZ_E_CORRUPT, "object sha256:%s: its content has another digest", hex);
    }
    lz_hex(replay->diff_id, hex);
    return lz_fail(replay->detail, LZ_E_CORRUPT, "layer sha256:%s: index and recipe give another tar", hex);
}

static int replay_all(struct replay *replay)
{
    int rc = read_header(replay);
    if (rc == 0)
        rc = replay_operations(replay);
    if (rc == 0 && replay->out_used > 0)
        rc = flush_out(replay);
    if (rc != 0)
        return rc;
    uint8_t digest[LZ_SHA256_SIZE];
    rc = lz_sha256_final(replay->sha256, digest);
    if (rc != 0)
        return rc;
    if (replay->written != replay->tar_size || memcmp(digest, replay->diff_id, LZ_SHA256_SIZE) != 0)
        return blame(replay);
    return 0;
}

int lz_recipe_replay(const struct lz_sys *sys, int recipe_fd, int index_fd, int objects_fd, int out_fd, uint64_t *size,
                     struct lz_detail *detail)
{
    struct lz_detail own = {.text = ""};
    struct replay replay = {
        .sys = sys,
        .detail = detail != NULL ? detail : &own,
        .index_fd = index_fd,
        .objects_fd = objects_fd,
        .out_fd = out_fd,
        .recipe_fd = recipe_fd,
        .object_fd = -1,
        .zstd = ZSTD_createDCtx(),
        .packed = malloc(IN_SIZE),
        .plain = malloc(IN_SIZE),
        .out = malloc(OUT_SIZE),
    };
    replay.detail->text[0] = 0;
    int rc = lz_sha256_new(&replay.sha256);
    if (replay.zstd == NULL || replay.packed == NULL || replay.plain == NULL || replay.out == NULL)
        rc = -ENOMEM;
    if (rc == 0 && ZSTD_isError(ZSTD_DCtx_setParameter(replay.zstd, ZSTD_d_windowLogMax, WINDOW_LOG_MAX)))
        rc = -EINVAL;
    if (rc == 0)
        rc = replay_all(&replay);
    if (replay.object_fd >= 0)
        (void)sys->close(sys->ctx, replay.object_fd);
    lz_sha256_free(replay.sha256);
    ZSTD_freeDCtx(replay.zstd);
    free(replay.packed);
    free(replay.plain);
    free(replay.out);
    free(replay.digests);
    if (rc == 0 && size != NULL)
        *size = replay.written;
    return rc;
}
