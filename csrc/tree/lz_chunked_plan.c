#include "lz_chunked_plan.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <zstd.h>

#include "../base/lz_mem.h"

void lz_chunked_object_path(const uint8_t digest[LZ_SHA256_SIZE], char path[LZ_SHA256_HEX_SIZE + 2])
{
    char hex[LZ_SHA256_HEX_SIZE + 1];
    lz_hex(digest, hex);
    path[0] = hex[0];
    path[1] = hex[1];
    path[2] = '/';
    memcpy(path + 3, hex + 2, LZ_SHA256_HEX_SIZE - 1);
}

static int check_digest(const uint8_t *bytes, size_t size, const uint8_t expected[LZ_SHA256_SIZE], const char *what,
                        struct lz_detail *detail)
{
    uint8_t digest[LZ_SHA256_SIZE];
    char found[LZ_SHA256_HEX_SIZE + 1], said[LZ_SHA256_HEX_SIZE + 1];
    struct lz_sha256 *sha256;
    int rc = lz_sha256_new(&sha256);
    if (rc != 0)
        return rc;
    rc = lz_sha256_digest(sha256, bytes, size, digest);
    lz_sha256_free(sha256);
    if (rc != 0 || memcmp(digest, expected, sizeof digest) == 0)
        return rc;
    lz_hex(digest, found);
    lz_hex(expected, said);
    return lz_fail(detail, LZ_E_CORRUPT, "%s has digest sha256:%s, expected is sha256:%s", what, found, said);
}

/* ---- the table ---- */

static int inflate_toc(struct lz_chunked_plan *plan, struct lz_detail *detail)
{
    const struct lz_chunked_tail_bytes *tail = &plan->tail;
    if (tail->toc_plain_size > LZ_CHUNKED_TOC_MAX)
        return lz_fail(detail, LZ_E_LIMIT, "table of contents: %llu bytes, allowed are %u",
                       (unsigned long long)tail->toc_plain_size, LZ_CHUNKED_TOC_MAX);
    plan->text = malloc((size_t)tail->toc_plain_size + 1);
    if (plan->text == NULL)
        return -ENOMEM;
    size_t size = ZSTD_decompress(plan->text, (size_t)tail->toc_plain_size, tail->toc, tail->toc_size);
    if (ZSTD_isError(size))
        return lz_fail(detail, LZ_E_FORMAT, "table of contents: %s", ZSTD_getErrorName(size));
    if (size != tail->toc_plain_size)
        return lz_fail(detail, LZ_E_FORMAT, "table of contents: %zu bytes, its annotation says %llu", size,
                       (unsigned long long)tail->toc_plain_size);
    return 0;
}

static int read_toc(struct lz_chunked_plan *plan, struct lz_detail *detail)
{
    const struct lz_chunked_tail_bytes *tail = &plan->tail;
    int rc = check_digest(tail->toc, tail->toc_size, tail->toc_digest, "table of contents", detail);
    if (rc == 0)
        rc = inflate_toc(plan, detail);
    if (rc == 0)
        rc = lz_toc_parse(plan->text, (size_t)tail->toc_plain_size, tail->end, &plan->toc, detail);
    if (rc != 0)
        return rc;
    plan->has_tar_split = tail->tar_split != NULL && plan->toc.has_tar_split;
    if (!plan->has_tar_split)
        return 0;
    if (tail->tar_split_size > LZ_CHUNKED_TAR_SPLIT_MAX)
        return lz_fail(detail, LZ_E_LIMIT, "tar-split: %zu bytes, allowed are %u", tail->tar_split_size,
                       LZ_CHUNKED_TAR_SPLIT_MAX);
    return check_digest(tail->tar_split, tail->tar_split_size, plan->toc.tar_split_digest, "tar-split", detail);
}

/* ---- what is here ---- */

/* An object counts only with the right size: what a crash or a bad disk left is fetched again. */
static int find_object(struct lz_chunked_plan *plan, size_t number)
{
    const struct lz_toc_file *file = &plan->toc.files[number];
    char path[LZ_SHA256_HEX_SIZE + 2];
    struct stat status;
    lz_chunked_object_path(file->digest, path);
    int rc = plan->sys->fstatat(plan->sys->ctx, plan->objects_fd, path, &status, AT_SYMLINK_NOFOLLOW);
    if (rc == -ENOENT)
        return 0;
    if (rc == 0 && S_ISREG(status.st_mode) && (uint64_t)status.st_size == file->size)
        plan->found[number].place = LZ_CHUNKED_IN_OBJECT;
    return rc;
}

/* Files that are not found yet by their digest: open addressing, at most half full. The digests are what somebody has
 * written into the table, so the hash has a seed that nobody knows: all of them could begin with the same bytes. */
struct wanted {
    uint32_t *slots; /* number + 1; 0: free */
    size_t mask;
    uint64_t seed;
};

static uint32_t *slot_of(const struct lz_chunked_plan *plan, const struct wanted *wanted,
                         const uint8_t digest[LZ_SHA256_SIZE])
{
    size_t at = (size_t)XXH3_64bits_withSeed(digest, LZ_SHA256_SIZE, wanted->seed) & wanted->mask;
    while (wanted->slots[at] != 0 && memcmp(plan->toc.files[wanted->slots[at] - 1].digest, digest, LZ_SHA256_SIZE) != 0)
        at = (at + 1) & wanted->mask;
    return &wanted->slots[at];
}

static void look_into(struct lz_chunked_plan *plan, const struct wanted *wanted, uint32_t layer)
{
    const struct lz_index *index = plan->layers[layer];
    for (uint32_t i = 0; i < index->entry_count; i++) {
        const struct lz_entry *entry = &index->entries[i];
        if (entry->kind != LZ_KIND_FILE || (entry->flags & LZ_FLAG_INLINE) == 0)
            continue;
        uint32_t number = *slot_of(plan, wanted, entry->digest);
        if (number != 0 && plan->toc.files[number - 1].size == entry->size)
            plan->found[number - 1] = (struct lz_chunked_found){LZ_CHUNKED_IN_LAYER, layer, entry->data_offset};
    }
}

/* Small files are no objects: they lie in the indexes of layers. One pass over the entries of each. */
static int find_inline(struct lz_chunked_plan *plan)
{
    const struct lz_toc *toc = &plan->toc;
    struct wanted wanted = {.mask = 15};
    if (plan->layer_count == 0 || toc->file_count >= UINT32_MAX)
        return 0;
    ssize_t got = plan->sys->getrandom(plan->sys->ctx, &wanted.seed, sizeof wanted.seed);
    if (got != (ssize_t)sizeof wanted.seed)
        return got < 0 ? (int)got : -EIO;
    while (wanted.mask / 2 < toc->file_count)
        wanted.mask = wanted.mask * 2 + 1;
    wanted.slots = lz_zalloc_array(wanted.mask + 1, sizeof *wanted.slots);
    if (wanted.slots == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < toc->file_count; i++) {
        if (toc->files[i].size > 0 && plan->found[i].place == LZ_CHUNKED_IN_BLOB)
            *slot_of(plan, &wanted, toc->files[i].digest) = (uint32_t)i + 1;
    }
    for (size_t layer = 0; layer < plan->layer_count; layer++)
        look_into(plan, &wanted, (uint32_t)layer);
    for (size_t i = 0; i < toc->file_count; i++) { /* others with the same content */
        if (toc->files[i].size > 0 && plan->found[i].place == LZ_CHUNKED_IN_BLOB) {
            uint32_t same = *slot_of(plan, &wanted, toc->files[i].digest);
            if (toc->files[same - 1].size == toc->files[i].size)
                plan->found[i] = plan->found[same - 1];
        }
    }
    free(wanted.slots);
    return 0;
}

static int find_all(struct lz_chunked_plan *plan, struct lz_detail *detail)
{
    plan->found = lz_zalloc_array(plan->toc.file_count + 1, sizeof *plan->found);
    if (plan->found == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < plan->toc.file_count; i++) {
        int rc = plan->toc.files[i].size > 0 ? find_object(plan, i) : 0;
        if (rc < 0)
            return lz_fail(detail, rc, "looking for objects: %s", lz_error_text(rc));
    }
    int rc = find_inline(plan);
    return rc < 0 ? lz_fail(detail, rc, "looking for small files: %s", lz_error_text(rc)) : rc;
}

/* ---- ranges ---- */

static int add_range(struct lz_chunked_plan *plan, uint64_t offset, uint64_t end, uint64_t gap)
{
    struct lz_chunked_range *last = plan->range_count > 0 ? &plan->ranges[plan->range_count - 1] : NULL;
    if (last != NULL && offset - (last->offset + last->size) <= gap) {
        plan->need.wire += end - (last->offset + last->size);
        last->size = end - last->offset;
        return 0;
    }
    int rc = lz_grow((void **)&plan->ranges, &plan->range_capacity, plan->range_count + 1, sizeof *plan->ranges);
    if (rc != 0)
        return rc;
    plan->ranges[plan->range_count++] = (struct lz_chunked_range){offset, end - offset};
    plan->need.wire += end - offset;
    return 0;
}

static int add_ranges(struct lz_chunked_plan *plan, uint64_t gap)
{
    const struct lz_toc *toc = &plan->toc;
    uint64_t at = 0; /* up to here the blob is dealt with */
    int rc = 0;
    for (size_t i = 0; i < toc->file_count && rc == 0; i++) {
        const struct lz_toc_file *file = &toc->files[i];
        if (file->chunk_count == 0)
            continue;
        const struct lz_toc_chunk *chunks = toc->chunks + file->first_chunk;
        uint64_t end = chunks[file->chunk_count - 1].end;
        bool missing = plan->found[i].place == LZ_CHUNKED_IN_BLOB;
        if (!plan->has_tar_split && chunks[0].offset > at)
            rc = add_range(plan, at, chunks[0].offset, gap);
        if (rc == 0 && missing)
            rc = add_range(plan, chunks[0].offset, end, gap);
        at = end;
        plan->need.files++;
        plan->need.missing += missing;
        plan->need.content += file->size;
        plan->need.fetched += missing ? file->size : 0;
    }
    if (rc == 0 && !plan->has_tar_split && plan->tail.end > at)
        rc = add_range(plan, at, plan->tail.end, gap);
    return rc;
}

const struct lz_chunked_range *lz_chunked_ranges(const struct lz_chunked_plan *plan, size_t *count)
{
    *count = plan->range_count;
    return plan->ranges;
}

struct lz_chunked_need lz_chunked_need(const struct lz_chunked_plan *plan)
{
    return plan->need;
}

/* ---- life ---- */

int lz_chunked_plan_new(const struct lz_sys *sys, const struct lz_chunked_tail_bytes *tail, int objects_fd,
                        const struct lz_index *const *layers, size_t layer_count, uint64_t gap,
                        struct lz_chunked_plan **out, struct lz_detail *detail)
{
    struct lz_chunked_plan *plan = calloc(1, sizeof *plan);
    if (plan == NULL)
        return -ENOMEM;
    plan->sys = sys;
    plan->tail = *tail;
    plan->objects_fd = objects_fd;
    plan->layers = layers;
    plan->layer_count = layer_count;
    int rc = read_toc(plan, detail);
    if (rc == 0)
        rc = find_all(plan, detail);
    if (rc == 0)
        rc = add_ranges(plan, gap);
    if (rc != 0) {
        lz_chunked_plan_free(plan);
        return rc;
    }
    *out = plan;
    return 0;
}

void lz_chunked_plan_free(struct lz_chunked_plan *plan)
{
    if (plan == NULL)
        return;
    lz_toc_free(&plan->toc);
    free(plan->text);
    free(plan->found);
    free(plan->ranges);
    free(plan);
}
