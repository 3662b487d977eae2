#include "lz_recipe_read.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../base/lz_mem.h"
#include "lz_recipe_format.h"

#define IN_SIZE (128u * 1024)
#define WINDOW_LOG_MAX 24 /* the writer's level needs 19 */

/* ---- the stream ---- */

static int read_header(struct lz_recipe_reader *reader)
{
    uint8_t header[LZ_RECIPE_HEADER_SIZE];
    ssize_t got = lz_pread_full(reader->sys, reader->fd, header, sizeof header, 0);
    if (got < 0)
        return lz_fail(reader->detail, (int)got, "reading the recipe: %s", lz_error_text((int)got));
    if ((size_t)got < sizeof header)
        return lz_fail(reader->detail, LZ_E_TRUNCATED, "recipe: %zd bytes, a header has %zu", got, sizeof header);
    if (memcmp(header, LZ_RECIPE_MAGIC, LZ_RECIPE_MAGIC_SIZE) != 0)
        return lz_fail(reader->detail, LZ_E_FORMAT, "recipe: not a recipe of version 1");
    reader->tar_size = lz_recipe_get(header + 12, 8);
    memcpy(reader->diff_id, header + 20, LZ_SHA256_SIZE);
    reader->offset = LZ_RECIPE_HEADER_SIZE;
    return 0;
}

int lz_recipe_reader_open(struct lz_recipe_reader *reader, const struct lz_sys *sys, int fd, struct lz_detail *detail)
{
    *reader = (struct lz_recipe_reader){
        .sys = sys,
        .detail = detail,
        .fd = fd,
        .zstd = ZSTD_createDCtx(),
        .packed = malloc(IN_SIZE),
        .plain = malloc(IN_SIZE),
    };
    if (reader->zstd == NULL || reader->packed == NULL || reader->plain == NULL)
        return -ENOMEM;
    if (ZSTD_isError(ZSTD_DCtx_setParameter(reader->zstd, ZSTD_d_windowLogMax, WINDOW_LOG_MAX)))
        return -EINVAL;
    return read_header(reader);
}

void lz_recipe_reader_close(struct lz_recipe_reader *reader)
{
    ZSTD_freeDCtx(reader->zstd);
    free(reader->packed);
    free(reader->plain);
    reader->zstd = NULL;
    reader->packed = reader->plain = NULL;
}

static int refill(struct lz_recipe_reader *reader)
{
    reader->plain_at = reader->plain_size = 0;
    while (!reader->frame_over && reader->plain_size == 0) {
        if (reader->in.pos == reader->in.size) {
            ssize_t got = reader->sys->pread(reader->sys->ctx, reader->fd, reader->packed, IN_SIZE, reader->offset);
            if (got < 0)
                return lz_fail(reader->detail, (int)got, "reading the recipe: %s", lz_error_text((int)got));
            if (got == 0)
                return lz_fail(reader->detail, LZ_E_TRUNCATED, "recipe: ends inside its operations, after %lld bytes",
                               (long long)reader->offset);
            reader->offset += got;
            reader->in = (ZSTD_inBuffer){reader->packed, (size_t)got, 0};
        }
        ZSTD_outBuffer out = {reader->plain, IN_SIZE, 0};
        size_t rc = ZSTD_decompressStream(reader->zstd, &out, &reader->in);
        if (ZSTD_isError(rc))
            return lz_fail(reader->detail, LZ_E_CORRUPT, "recipe: %s", ZSTD_getErrorName(rc));
        reader->plain_size = out.pos;
        reader->frame_over = rc == 0;
    }
    return 0;
}

/* Some of the bytes at hand, at least one, at most `size`. */
static int next_piece(struct lz_recipe_reader *reader, size_t size, const uint8_t **data, size_t *got)
{
    *got = 0;
    if (reader->plain_at == reader->plain_size) {
        int rc = refill(reader);
        if (rc != 0)
            return rc;
        if (reader->plain_size == 0)
            return lz_fail(reader->detail, LZ_E_CORRUPT, "recipe: its operations have no end");
    }
    size_t have = reader->plain_size - reader->plain_at;
    *got = size < have ? size : have;
    *data = reader->plain + reader->plain_at;
    reader->plain_at += *got;
    return 0;
}

int lz_recipe_take(struct lz_recipe_reader *reader, uint8_t *out, size_t size)
{
    while (size > 0) {
        const uint8_t *data;
        size_t now;
        int rc = next_piece(reader, size, &data, &now);
        if (rc != 0)
            return rc;
        memcpy(out, data, now);
        out += now;
        size -= now;
    }
    return 0;
}

static int skip(struct lz_recipe_reader *reader, uint64_t size)
{
    while (size > 0) {
        const uint8_t *data;
        size_t now;
        int rc = next_piece(reader, size < IN_SIZE ? (size_t)size : IN_SIZE, &data, &now);
        if (rc != 0)
            return rc;
        size -= now;
    }
    return 0;
}

int lz_recipe_check_end(struct lz_recipe_reader *reader)
{
    int rc = reader->plain_at == reader->plain_size ? refill(reader) : 0; /* to the frame's checksum */
    if (rc != 0)
        return rc;
    uint8_t byte;
    ssize_t got = reader->sys->pread(reader->sys->ctx, reader->fd, &byte, 1, reader->offset);
    if (got < 0)
        return lz_fail(reader->detail, (int)got, "reading the recipe: %s", lz_error_text((int)got));
    if (got > 0 || reader->in.pos != reader->in.size || reader->plain_at != reader->plain_size || !reader->frame_over)
        return lz_fail(reader->detail, LZ_E_CORRUPT, "recipe: bytes after its end");
    return 0;
}

/* ---- holes ---- */

struct scan {
    struct lz_recipe_reader recipe;
    const struct lz_index *layer;
    struct lz_sparse_map *map;
    uint8_t *seen;     /* of each object of the layer: an operation named it */
    uint32_t *numbers; /* the recipe's number -> the layer's */
    size_t number_count, number_capacity;
    uint32_t run;     /* the object whose segments are being gathered; UINT32_MAX: none */
    size_t run_first; /* where they begin in map->extents */
};

static int64_t find_object(const struct lz_index *layer, const uint8_t digest[LZ_SHA256_SIZE])
{
    uint32_t low = 0, high = layer->object_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = memcmp(layer->objects[middle].digest, digest, LZ_SHA256_SIZE);
        if (order == 0)
            return middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -ENOENT;
}

static int add_object(struct lz_sparse_map *map, uint32_t number, size_t first, size_t count)
{
    int rc = lz_grow((void **)&map->objects, &map->object_capacity, map->object_count + 1, sizeof *map->objects);
    if (rc == 0)
        map->objects[map->object_count++] = (struct lz_sparse_object){number, first, count};
    return rc;
}

/* A file's content has ended: its segments stay when it is the first of its object, and has holes. */
static int end_run(struct scan *scan)
{
    struct lz_sparse_map *map = scan->map;
    uint32_t object = scan->run;
    size_t first = scan->run_first, count = map->extent_count - first;
    scan->run = UINT32_MAX;
    if (object == UINT32_MAX)
        return 0;
    bool whole =
        count == 1 && map->extents[first].offset == 0 && map->extents[first].size == scan->layer->objects[object].size;
    if (scan->seen[object] || whole)
        map->extent_count = first;
    bool keep = !scan->seen[object] && !whole;
    scan->seen[object] = 1;
    return keep ? add_object(map, object, first, count) : 0;
}

/* One operation on an object of the layer. Segments ascend and lie in the object: else the recipe is no ingest's. */
static int add_segment(struct scan *scan, uint32_t object, uint64_t offset, uint64_t size)
{
    struct lz_sparse_map *map = scan->map;
    int rc = scan->run != UINT32_MAX && scan->run != object ? end_run(scan) : 0;
    if (rc != 0)
        return rc;
    if (scan->run == UINT32_MAX) {
        scan->run = object;
        scan->run_first = map->extent_count;
    }
    uint64_t end = 0, all = scan->layer->objects[object].size;
    struct lz_tar_extent *last = NULL;
    if (map->extent_count > scan->run_first) {
        last = &map->extents[map->extent_count - 1];
        end = last->offset + last->size;
    }
    if (offset < end || offset > all || size > all - offset)
        return lz_fail(scan->recipe.detail, LZ_E_CORRUPT, "recipe: data segments that overlap or pass their object");
    if (last != NULL && offset == end) {
        last->size += size;
        return 0;
    }
    rc = lz_grow((void **)&map->extents, &map->extent_capacity, map->extent_count + 1, sizeof *map->extents);
    if (rc == 0)
        map->extents[map->extent_count++] = (struct lz_tar_extent){offset, size};
    return rc;
}

static int scan_object(struct scan *scan, uint8_t code)
{
    uint8_t digest[LZ_SHA256_SIZE], fields[16];
    uint64_t number = scan->number_count;
    int rc;
    if (code == LZ_RECIPE_NEW_OBJECT) {
        rc = lz_recipe_take(&scan->recipe, digest, sizeof digest);
        if (rc == 0)
            rc =
                lz_grow((void **)&scan->numbers, &scan->number_capacity, scan->number_count + 1, sizeof *scan->numbers);
        int64_t found = rc == 0 ? find_object(scan->layer, digest) : rc;
        if (rc == 0 && found < 0)
            rc = lz_fail(scan->recipe.detail, LZ_E_CORRUPT, "recipe: names an object that its index does not have");
        if (rc == 0)
            scan->numbers[scan->number_count++] = (uint32_t)found;
    } else {
        rc = lz_recipe_take(&scan->recipe, fields, 4);
        number = rc == 0 ? lz_recipe_get(fields, 4) : 0;
    }
    if (rc == 0 && number >= scan->number_count)
        rc = lz_fail(scan->recipe.detail, LZ_E_CORRUPT, "recipe: object %llu of %zu", (unsigned long long)number,
                     scan->number_count);
    if (rc == 0)
        rc = lz_recipe_take(&scan->recipe, fields, sizeof fields);
    return rc != 0 ? rc
                   : add_segment(scan, scan->numbers[number], lz_recipe_get(fields, 8), lz_recipe_get(fields + 8, 8));
}

static int scan_operations(struct scan *scan)
{
    for (;;) {
        uint8_t code = 0, field[4];
        int rc = lz_recipe_take(&scan->recipe, &code, 1);
        if (rc == 0 && (code == LZ_RECIPE_OBJECT || code == LZ_RECIPE_NEW_OBJECT)) {
            rc = scan_object(scan, code);
            if (rc != 0)
                return rc;
            continue;
        }
        if (rc == 0)
            rc = end_run(scan);
        if (rc == 0 && code == LZ_RECIPE_END)
            return lz_recipe_check_end(&scan->recipe);
        if (rc == 0 && code == LZ_RECIPE_LITERAL) {
            rc = lz_recipe_take(&scan->recipe, field, sizeof field);
            if (rc == 0)
                rc = skip(&scan->recipe, lz_recipe_get(field, 4));
        } else if (rc == 0 && code == LZ_RECIPE_INLINE) {
            rc = skip(&scan->recipe, 16);
        } else if (rc == 0) {
            rc = lz_fail(scan->recipe.detail, LZ_E_CORRUPT, "recipe: unknown operation %u", code);
        }
        if (rc != 0)
            return rc;
    }
}

static int by_number(const void *a, const void *b)
{
    const struct lz_sparse_object *left = a, *right = b;
    return (left->number > right->number) - (left->number < right->number);
}

/* `diff_id` (may be NULL) and `tar_size`: what the recipe must be of. */
static int scan_recipe(const struct lz_sys *sys, int recipe_fd, const struct lz_index *layer, const uint8_t *diff_id,
                       uint64_t tar_size, struct lz_sparse_map *out, struct lz_detail *detail)
{
    struct scan scan = {.layer = layer, .map = out, .run = UINT32_MAX};
    scan.seen = lz_zalloc_array((size_t)layer->object_count + 1, 1);
    int rc = scan.seen == NULL ? -ENOMEM : lz_recipe_reader_open(&scan.recipe, sys, recipe_fd, detail);
    if (rc == 0 && diff_id != NULL &&
        (memcmp(scan.recipe.diff_id, diff_id, LZ_SHA256_SIZE) != 0 || scan.recipe.tar_size != tar_size))
        rc = lz_fail(detail, LZ_E_CORRUPT, "recipe: its header is of another layer");
    if (rc == 0)
        rc = scan_operations(&scan);
    for (uint32_t i = 0; rc == 0 && i < layer->object_count; i++)
        if (!scan.seen[i])
            rc = add_object(out, i, 0, 0); /* nothing of it is in the tar */
    if (rc == 0 && out->object_count > 1)
        qsort(out->objects, out->object_count, sizeof *out->objects, by_number);
    lz_recipe_reader_close(&scan.recipe);
    free(scan.seen);
    free(scan.numbers);
    return rc;
}

int lz_sparse_read(const struct lz_sys *sys, int recipe_fd, const struct lz_index *layer, struct lz_sparse_map *out,
                   struct lz_detail *detail)
{
    return layer->object_count == 0 ? 0 : scan_recipe(sys, recipe_fd, layer, NULL, 0, out, detail);
}

int lz_recipe_check(const struct lz_sys *sys, int recipe_fd, const struct lz_index *layer,
                    const uint8_t diff_id[LZ_SHA256_SIZE], uint64_t tar_size, struct lz_detail *detail)
{
    struct lz_sparse_map map = {0};
    int rc = scan_recipe(sys, recipe_fd, layer, diff_id, tar_size, &map, detail);
    lz_sparse_free(&map);
    return rc;
}

void lz_sparse_free(struct lz_sparse_map *map)
{
    free(map->objects);
    free(map->extents);
    *map = (struct lz_sparse_map){0};
}

const struct lz_sparse_object *lz_sparse_find(const struct lz_sparse_map *map, const struct lz_index *layer,
                                              const uint8_t digest[LZ_SHA256_SIZE])
{
    if (map->object_count == 0)
        return NULL;
    int64_t number = find_object(layer, digest);
    if (number < 0)
        return NULL;
    struct lz_sparse_object key = {.number = (uint32_t)number};
    return bsearch(&key, map->objects, map->object_count, sizeof *map->objects, by_number);
}
