#include "lz_recipe_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "../base/lz_mem.h"
#include "../bytes/lz_index.h"
#include "lz_recipe_format.h"
#include "lz_recipe_read.h"

#define BLAME_SIZE (256u * 1024)

struct lz_recipe_stream {
    const struct lz_sys *sys;
    struct lz_detail *detail;
    int index_fd, objects_fd;
    struct lz_recipe_reader recipe;

    /* the objects it has named */
    uint8_t (*digests)[LZ_SHA256_SIZE];
    size_t digest_capacity;
    uint32_t digest_count;
    int object_fd;
    uint32_t object_number;

    struct lz_recipe_piece piece;
    uint64_t offset, left; /* of the piece, in its file */
    uint64_t given;        /* bytes of all pieces so far, this one with all of its own */
    bool ended;
};

int lz_recipe_stream_new(const struct lz_sys *sys, int recipe_fd, int index_fd, int objects_fd,
                         struct lz_detail *detail, struct lz_recipe_stream **out)
{
    struct lz_recipe_stream *self = calloc(1, sizeof *self);
    if (self == NULL)
        return -ENOMEM;
    self->sys = sys;
    self->detail = detail;
    self->index_fd = index_fd;
    self->objects_fd = objects_fd;
    self->object_fd = -1;
    int rc = lz_recipe_reader_open(&self->recipe, sys, recipe_fd, detail);
    if (rc != 0) {
        lz_recipe_stream_free(self);
        return rc;
    }
    *out = self;
    return 0;
}

void lz_recipe_stream_free(struct lz_recipe_stream *self)
{
    if (self == NULL)
        return;
    if (self->object_fd >= 0)
        (void)self->sys->close(self->sys->ctx, self->object_fd); /* it was only read */
    lz_recipe_reader_close(&self->recipe);
    free(self->digests);
    free(self);
}

uint64_t lz_recipe_stream_tar_size(const struct lz_recipe_stream *self)
{
    return self->recipe.tar_size;
}

const uint8_t *lz_recipe_stream_diff_id(const struct lz_recipe_stream *self)
{
    return self->recipe.diff_id;
}

/* ---- pieces ---- */

static void object_name(const uint8_t digest[LZ_SHA256_SIZE], char hex[LZ_SHA256_HEX_SIZE + 1], char path[68])
{
    lz_hex(digest, hex);
    path[0] = hex[0];
    path[1] = hex[1];
    path[2] = '/';
    memcpy(path + 3, hex + 2, LZ_SHA256_HEX_SIZE - 1);
}

static int open_object(struct lz_recipe_stream *self, uint32_t number)
{
    if (self->object_fd >= 0 && self->object_number == number)
        return 0;
    if (self->object_fd >= 0)
        (void)self->sys->close(self->sys->ctx, self->object_fd);
    char hex[LZ_SHA256_HEX_SIZE + 1], path[68];
    object_name(self->digests[number], hex, path);
    self->object_fd = self->sys->openat(self->sys->ctx, self->objects_fd, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (self->object_fd < 0)
        return lz_fail(self->detail, self->object_fd, "object sha256:%s: %s", hex, lz_error_text(self->object_fd));
    self->object_number = number;
    return 0;
}

static int next_literal(struct lz_recipe_stream *self)
{
    uint8_t field[4];
    int rc = lz_recipe_take(&self->recipe, field, sizeof field);
    if (rc == 0)
        self->piece = (struct lz_recipe_piece){.place = LZ_RECIPE_IN_RECIPE, .size = lz_recipe_get(field, 4)};
    return rc;
}

static int next_inline(struct lz_recipe_stream *self)
{
    uint8_t fields[16];
    int rc = lz_recipe_take(&self->recipe, fields, sizeof fields);
    if (rc != 0)
        return rc;
    self->piece = (struct lz_recipe_piece){
        .place = LZ_RECIPE_IN_INDEX, .offset = lz_recipe_get(fields, 8), .size = lz_recipe_get(fields + 8, 8)};
    if (lz_add_size(self->piece.offset, LZ_INDEX_INLINE_OFFSET, &self->offset) != 0)
        return lz_fail(self->detail, LZ_E_CORRUPT, "recipe: inline offset out of range");
    return 0;
}

static int next_object(struct lz_recipe_stream *self, uint8_t code)
{
    uint32_t number = self->digest_count;
    uint8_t fields[16];
    int rc;
    if (code == LZ_RECIPE_NEW_OBJECT) {
        rc = lz_grow((void **)&self->digests, &self->digest_capacity, (size_t)number + 1, sizeof *self->digests);
        if (rc == 0)
            rc = lz_recipe_take(&self->recipe, self->digests[number], LZ_SHA256_SIZE);
        self->digest_count += rc == 0;
    } else {
        rc = lz_recipe_take(&self->recipe, fields, 4);
        number = (uint32_t)lz_recipe_get(fields, 4);
        if (rc == 0 && number >= self->digest_count)
            rc = lz_fail(self->detail, LZ_E_CORRUPT, "recipe: object %u of %u", number, self->digest_count);
    }
    if (rc == 0)
        rc = lz_recipe_take(&self->recipe, fields, sizeof fields);
    if (rc == 0)
        rc = open_object(self, number);
    if (rc != 0)
        return rc;
    self->piece = (struct lz_recipe_piece){.place = LZ_RECIPE_IN_OBJECT,
                                           .digest = self->digests[number],
                                           .offset = lz_recipe_get(fields, 8),
                                           .size = lz_recipe_get(fields + 8, 8)};
    self->offset = self->piece.offset;
    return 0;
}

int lz_recipe_stream_next(struct lz_recipe_stream *self, struct lz_recipe_piece *piece)
{
    uint8_t code;
    if (self->ended)
        return 0;
    int rc = lz_recipe_take(&self->recipe, &code, 1);
    if (rc != 0)
        return rc;
    switch (code) {
    case LZ_RECIPE_LITERAL:
        rc = next_literal(self);
        break;
    case LZ_RECIPE_INLINE:
        rc = next_inline(self);
        break;
    case LZ_RECIPE_OBJECT:
    case LZ_RECIPE_NEW_OBJECT:
        rc = next_object(self, code);
        break;
    case LZ_RECIPE_END:
        self->ended = true;
        return lz_recipe_check_end(&self->recipe);
    default:
        return lz_fail(self->detail, LZ_E_CORRUPT, "recipe: unknown operation %u", code);
    }
    if (rc != 0)
        return rc;
    if (self->piece.size > self->recipe.tar_size - self->given)
        return lz_fail(self->detail, LZ_E_CORRUPT, "recipe: makes more than the tar's %llu bytes",
                       (unsigned long long)self->recipe.tar_size);
    self->given += self->piece.size;
    self->left = self->piece.size;
    *piece = self->piece;
    return 1;
}

/* The file ends inside the piece, or cannot be read. */
static int bad_file(struct lz_recipe_stream *self, int rc)
{
    if (self->piece.place == LZ_RECIPE_IN_INDEX)
        return rc != 0 ? lz_fail(self->detail, rc, "reading the layer index: %s", lz_error_text(rc))
                       : lz_fail(self->detail, LZ_E_TRUNCATED,
                                 "layer index: ends inside inline data that the recipe needs");
    char hex[LZ_SHA256_HEX_SIZE + 1];
    lz_hex(self->piece.digest, hex);
    return rc != 0 ? lz_fail(self->detail, rc, "object sha256:%s: %s", hex, lz_error_text(rc))
                   : lz_fail(self->detail, LZ_E_CORRUPT, "object sha256:%s: shorter than its layer says", hex);
}

int lz_recipe_stream_read(struct lz_recipe_stream *self, uint8_t *out, size_t capacity, size_t *size)
{
    size_t now = capacity < self->left ? capacity : (size_t)self->left;
    if (now > 0 && self->piece.place == LZ_RECIPE_IN_RECIPE) {
        int rc = lz_recipe_take(&self->recipe, out, now);
        if (rc != 0)
            return rc;
    } else if (now > 0) {
        int fd = self->piece.place == LZ_RECIPE_IN_INDEX ? self->index_fd : self->object_fd;
        if (self->offset > INT64_MAX || self->left > INT64_MAX - self->offset)
            return bad_file(self, 0);
        ssize_t got = lz_pread_full(self->sys, fd, out, now, (off_t)self->offset);
        if (got != (ssize_t)now)
            return bad_file(self, got < 0 ? (int)got : 0);
    }
    self->offset += now;
    self->left -= now;
    *size = now;
    return 0;
}

/* ---- the end ---- */

/* The digest of an object's file as it is now. */
static int digest_object(struct lz_recipe_stream *self, uint32_t number, struct lz_sha256 *sha256, uint8_t *buffer,
                         uint8_t digest[LZ_SHA256_SIZE])
{
    int rc = open_object(self, number);
    if (rc != 0)
        return rc;
    off_t offset = 0;
    ssize_t got;
    while ((got = self->sys->pread(self->sys->ctx, self->object_fd, buffer, BLAME_SIZE, offset)) > 0) {
        rc = lz_sha256_update(sha256, buffer, (size_t)got);
        if (rc != 0)
            return rc;
        offset += got;
    }
    rc = got < 0 ? (int)got : lz_sha256_final(sha256, digest);
    if (rc == 0)
        return 0;
    char hex[LZ_SHA256_HEX_SIZE + 1];
    lz_hex(self->digests[number], hex);
    return lz_fail(self->detail, rc, "object sha256:%s: %s", hex, lz_error_text(rc));
}

static int blame(struct lz_recipe_stream *self, struct lz_sha256 *sha256, uint8_t *buffer)
{
    char hex[LZ_SHA256_HEX_SIZE + 1];
    for (uint32_t number = 0; number < self->digest_count; number++) {
        uint8_t digest[LZ_SHA256_SIZE];
        int rc = digest_object(self, number, sha256, buffer, digest);
        if (rc != 0)
            return rc;
        if (memcmp(digest, self->digests[number], LZ_SHA256_SIZE) != 0) {
            lz_hex(self->digests[number], hex);
            return lz_fail(self->detail, LZ_E_CORRUPT, "object sha256:%s: its content has another digest", hex);
        }
    }
    lz_hex(self->recipe.diff_id, hex);
    return lz_fail(self->detail, LZ_E_CORRUPT, "layer sha256:%s: index and recipe give another tar", hex);
}

int lz_recipe_stream_check(struct lz_recipe_stream *self, uint64_t size, const uint8_t digest[LZ_SHA256_SIZE])
{
    if (size == self->recipe.tar_size && memcmp(digest, self->recipe.diff_id, LZ_SHA256_SIZE) == 0)
        return 0;
    uint8_t *buffer = malloc(BLAME_SIZE);
    struct lz_sha256 *sha256 = NULL;
    int rc = buffer != NULL ? lz_sha256_new(&sha256) : -ENOMEM;
    if (rc == 0)
        rc = blame(self, sha256, buffer);
    lz_sha256_free(sha256);
    free(buffer);
    return rc;
}
