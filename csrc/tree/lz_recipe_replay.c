#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "../base/lz_mem.h"
#include "../bytes/lz_digest.h"
#include "lz_recipe.h"
#include "lz_recipe_format.h"
#include "lz_recipe_read.h"

#define OUT_SIZE (1024u * 1024)

struct replay {
    const struct lz_sys *sys;
    struct lz_detail *detail;
    int index_fd, objects_fd, out_fd;
    struct lz_recipe_reader recipe;

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
    if (wanted > replay->recipe.tar_size - made)
        return lz_fail(replay->detail, LZ_E_CORRUPT, "recipe: makes more than the tar's %llu bytes",
                       (unsigned long long)replay->recipe.tar_size);
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

/* ---- operations ---- */

static int replay_literal(struct replay *replay)
{
    uint8_t field[4];
    int rc = lz_recipe_take(&replay->recipe, field, sizeof field);
    uint64_t size = lz_recipe_get(field, 4);
    while (rc == 0 && size > 0) {
        size_t now;
        rc = reserve(replay, size, &now);
        if (rc == 0)
            rc = lz_recipe_take(&replay->recipe, replay->out + replay->out_used, now);
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
    int rc = lz_recipe_take(&replay->recipe, fields, sizeof fields);
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
            rc = lz_recipe_take(&replay->recipe, replay->digests[number], LZ_SHA256_SIZE);
        replay->digest_count += rc == 0;
    } else {
        rc = lz_recipe_take(&replay->recipe, fields, 4);
        number = (uint32_t)lz_recipe_get(fields, 4);
        if (rc == 0 && number >= replay->digest_count)
            rc = lz_fail(replay->detail, LZ_E_CORRUPT, "recipe: object %u of %u", number, replay->digest_count);
    }
    if (rc == 0)
        rc = lz_recipe_take(&replay->recipe, fields, sizeof fields);
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

static int replay_operations(struct replay *replay)
{
    for (;;) {
        uint8_t code;
        int rc = lz_recipe_take(&replay->recipe, &code, 1);
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
            return lz_recipe_check_end(&replay->recipe);
        default:
            return lz_fail(replay->detail, LZ_E_CORRUPT, "recipe: unknown operation %u", code);
        }
        if (rc != 0)
            return rc;
    }
}

/* ---- the whole ---- */

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
    lz_hex(replay->recipe.diff_id, hex);
    return lz_fail(replay->detail, LZ_E_CORRUPT, "layer sha256:%s: index and recipe give another tar", hex);
}

static int replay_all(struct replay *replay)
{
    int rc = replay_operations(replay);
    if (rc == 0 && replay->out_used > 0)
        rc = flush_out(replay);
    if (rc != 0)
        return rc;
    uint8_t digest[LZ_SHA256_SIZE];
    rc = lz_sha256_final(replay->sha256, digest);
    if (rc != 0)
        return rc;
    if (replay->written != replay->recipe.tar_size || memcmp(digest, replay->recipe.diff_id, LZ_SHA256_SIZE) != 0)
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
        .object_fd = -1,
        .out = malloc(OUT_SIZE),
    };
    replay.detail->text[0] = 0;
    int rc = lz_sha256_new(&replay.sha256);
    if (replay.out == NULL)
        rc = -ENOMEM;
    if (rc == 0)
        rc = lz_recipe_reader_open(&replay.recipe, sys, recipe_fd, replay.detail);
    if (rc == 0)
        rc = replay_all(&replay);
    if (replay.object_fd >= 0)
        (void)sys->close(sys->ctx, replay.object_fd);
    lz_sha256_free(replay.sha256);
    lz_recipe_reader_close(&replay.recipe);
    free(replay.out);
    free(replay.digests);
    if (rc == 0 && size != NULL)
        *size = replay.written;
    return rc;
}
