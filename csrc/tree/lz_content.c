#include "lz_content.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../base/lz_mem.h"

#define INLINE_BUFFER (256u * 1024)
#define HOLE_STEP (64u * 1024 * 1024) /* between two looks at the cancel flag */
#define HOLE_FREE (64u * 1024 * 1024) /* see the header */

/* The stored content of one entry, taken in portions of the caller's size. */
struct pieces {
    struct lz_tar_reader *reader;
    uint64_t left; /* of the entry, not read yet */
    const uint8_t *data;
    size_t size; /* read, not taken yet */
};

/* The next bytes, at least one and at most `wanted` (which may not pass what the entry has). */
static int take(struct pieces *pieces, uint64_t wanted, const uint8_t **data, size_t *size, struct lz_detail *detail)
{
    *size = 0;
    if (pieces->size == 0) {
        int rc = pieces->left == 0 ? 0 : lz_tar_read(pieces->reader, &pieces->data, &pieces->size, detail);
        if (rc < 0)
            return rc;
        if (rc == 0 || pieces->size > pieces->left)
            return lz_fail(detail, LZ_E_FORMAT, "an entry's content has another size than its header says");
        pieces->left -= pieces->size;
    }
    *data = pieces->data;
    *size = wanted < pieces->size ? (size_t)wanted : pieces->size;
    pieces->data += *size;
    pieces->size -= *size;
    return 0;
}

static int gather(struct pieces *pieces, uint8_t *out, uint64_t size, struct lz_detail *detail)
{
    while (size > 0) {
        const uint8_t *data;
        size_t now;
        int rc = take(pieces, size, &data, &now, detail);
        if (rc != 0)
            return rc;
        memcpy(out, data, now);
        out += now;
        size -= now;
    }
    return 0;
}

/* ---- inline ---- */

static int flush_inline(struct lz_content *self, struct lz_detail *detail)
{
    int rc = lz_pwrite_all(self->stage->sys, self->index_fd, self->inline_data, self->inline_used,
                           (off_t)(LZ_INDEX_INLINE_OFFSET + self->inline_size));
    if (rc != 0)
        return lz_fail(detail, rc, "writing the layer index: %s", lz_error_text(rc));
    self->inline_size += self->inline_used;
    self->inline_used = 0;
    return 0;
}

static int append_inline(struct lz_content *self, const uint8_t *bytes, size_t size, uint64_t *offset,
                         struct lz_detail *detail)
{
    *offset = self->inline_size + self->inline_used;
    while (size > 0) {
        size_t room = INLINE_BUFFER - self->inline_used;
        size_t now = size < room ? size : room;
        memcpy(self->inline_data + self->inline_used, bytes, now);
        self->inline_used += now;
        bytes += now;
        size -= now;
        int rc = self->inline_used == INLINE_BUFFER ? flush_inline(self, detail) : 0;
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* ---- sparse ---- */

static int count_hole(struct lz_content *self, uint64_t size, const char *path, struct lz_detail *detail)
{
    struct lz_stage *stage = self->stage;
    const struct lz_ingest_limits *limits = &stage->limits;
    uint64_t source = atomic_load_explicit(&stage->progress->source_bytes, memory_order_relaxed);
    uint64_t tar = atomic_load_explicit(&stage->progress->tar_bytes, memory_order_relaxed);
    source = source > HOLE_FREE ? source : HOLE_FREE;
    if (lz_add_size(self->holes, size, &self->holes) != 0 || self->holes / limits->max_ratio > source ||
        self->holes > limits->max_tar_size || tar > limits->max_tar_size - self->holes)
        return lz_fail(detail, LZ_E_LIMIT,
                       "entry %s: holes of sparse files come to %llu bytes, allowed are %llu (max_tar_size) and %llu "
                       "times the layer's size (max_ratio)",
                       path, (unsigned long long)self->holes, (unsigned long long)limits->max_tar_size,
                       (unsigned long long)limits->max_ratio);
    return 0;
}

static int write_hole(struct lz_content *self, uint64_t size, struct lz_detail *detail)
{
    while (size > 0) {
        uint64_t now = size < HOLE_STEP ? size : HOLE_STEP;
        int rc = lz_stage_cancelled(self->stage, detail);
        if (rc == 0)
            rc = lz_object_hole(&self->objects, now, detail);
        if (rc != 0)
            return rc;
        size -= now;
    }
    return 0;
}

/* A file that is one hole may have no extent at all. */
static bool is_sparse(const struct lz_tar_entry *entry)
{
    return entry->extents != NULL || entry->size != entry->stored_size;
}

/* Extents as the tar has them, or one for a file without holes. */
struct extents {
    const struct lz_tar_extent *list;
    size_t count;
    struct lz_tar_extent whole;
};

static void read_extents(const struct lz_tar_entry *entry, struct extents *out)
{
    out->whole = (struct lz_tar_extent){0, entry->stored_size};
    out->list = is_sparse(entry) ? entry->extents : &out->whole;
    out->count = is_sparse(entry) ? entry->extent_count : 1;
}

/* ---- one file ---- */

/* The whole content in memory: in place when it lies in one piece, else copied together. */
static int load(struct lz_content *self, struct pieces *pieces, const struct lz_tar_entry *entry,
                const struct extents *extents, const uint8_t **bytes, struct lz_detail *detail)
{
    if (!is_sparse(entry)) {
        size_t now;
        int rc = take(pieces, entry->size, bytes, &now, detail);
        if (rc != 0 || now == entry->size)
            return rc;
        memcpy(self->gathered, *bytes, now);
        *bytes = self->gathered;
        return gather(pieces, self->gathered + now, entry->size - now, detail);
    }
    *bytes = self->gathered;
    memset(self->gathered, 0, (size_t)entry->size);
    for (size_t i = 0; i < extents->count; i++) {
        int rc = gather(pieces, self->gathered + extents->list[i].offset, extents->list[i].size, detail);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int store_inline(struct lz_content *self, struct pieces *pieces, const struct lz_tar_entry *entry,
                        const struct extents *extents, struct lz_tree_node *node, struct lz_detail *detail)
{
    const uint8_t *bytes;
    int rc = load(self, pieces, entry, extents, &bytes, detail);
    if (rc == 0)
        rc = lz_sha256_digest(self->objects.sha256, bytes, (size_t)entry->size, node->digest);
    if (rc == 0)
        rc = append_inline(self, bytes, (size_t)entry->size, &node->data_offset, detail);
    for (size_t i = 0; i < extents->count && rc == 0; i++)
        rc = lz_recipe_inline(self->recipe, node->data_offset + extents->list[i].offset, extents->list[i].size);
    node->flags = LZ_FLAG_INLINE;
    return rc;
}

/* Large or sparse: through a temporary file. */
static int stream(struct lz_content *self, struct pieces *pieces, const struct lz_tar_entry *entry,
                  const struct extents *extents, struct lz_tree_node *node, struct lz_detail *detail)
{
    uint64_t at = 0;
    int rc = lz_object_begin(&self->objects, is_sparse(entry), detail);
    for (size_t i = 0; i < extents->count && rc == 0; i++) {
        uint64_t left = extents->list[i].size;
        rc = write_hole(self, extents->list[i].offset - at, detail);
        while (left > 0 && rc == 0) {
            const uint8_t *data;
            size_t now;
            rc = take(pieces, left, &data, &now, detail);
            if (rc == 0)
                rc = lz_object_write(&self->objects, data, now, detail);
            left -= now;
        }
        at = extents->list[i].offset + extents->list[i].size;
    }
    if (rc == 0)
        rc = write_hole(self, entry->size - at, detail);
    return rc != 0 ? rc : lz_object_finish(&self->objects, node->digest, detail);
}

static int store_object(struct lz_content *self, struct pieces *pieces, const struct lz_tar_entry *entry,
                        const struct extents *extents, struct lz_tree_node *node, struct lz_detail *detail)
{
    int rc;
    if (!is_sparse(entry) && entry->size <= LZ_CONTENT_MEMORY) {
        const uint8_t *bytes;
        rc = load(self, pieces, entry, extents, &bytes, detail);
        if (rc == 0)
            rc = lz_object_put(&self->objects, bytes, (size_t)entry->size, node->digest, detail);
    } else {
        rc = stream(self, pieces, entry, extents, node, detail);
    }
    for (size_t i = 0; i < extents->count && rc == 0; i++)
        rc = lz_recipe_object(self->recipe, node->digest, extents->list[i].offset, extents->list[i].size);
    node->flags = LZ_FLAG_OBJECT;
    return rc;
}

int lz_content_store(struct lz_content *self, struct lz_tar_reader *reader, const struct lz_tar_entry *entry,
                     const char *path, struct lz_tree_node *node, struct lz_detail *detail)
{
    uint64_t allowed = self->stage->limits.max_file_size;
    if (entry->size > allowed)
        return lz_fail(detail, LZ_E_LIMIT, "entry %s: a file of %llu bytes, allowed are %llu (max_file_size)", path,
                       (unsigned long long)entry->size, (unsigned long long)allowed);
    if (is_sparse(entry)) {
        int rc = count_hole(self, entry->size - entry->stored_size, path, detail);
        if (rc != 0)
            return rc;
    }
    struct extents extents;
    read_extents(entry, &extents);
    struct pieces pieces = {.reader = reader, .left = entry->stored_size};
    node->size = entry->size;
    self->stage->result.content_size += entry->size;
    if (entry->size == 0)
        return lz_sha256_digest(self->objects.sha256, "", 0, node->digest);
    int rc = entry->size <= self->inline_limit ? store_inline(self, &pieces, entry, &extents, node, detail)
                                               : store_object(self, &pieces, entry, &extents, node, detail);
    return rc < 0 ? lz_fail_within(detail, rc, "entry %s", path) : rc;
}

int lz_content_pass(struct lz_content *self, struct lz_tar_reader *reader, struct lz_detail *detail)
{
    const uint8_t *data;
    size_t size;
    int rc;
    while ((rc = lz_tar_read(reader, &data, &size, detail)) == 1) {
        rc = lz_recipe_literal(self->recipe, data, size);
        if (rc != 0)
            return rc;
    }
    return rc;
}

/* ---- life ---- */

int lz_content_open(struct lz_content *self, struct lz_stage *stage, struct lz_detail *detail)
{
    *self = (struct lz_content){.stage = stage, .index_fd = -1, .recipe_fd = -1};
    uint64_t limit = stage->limits.inline_limit;
    self->inline_limit = limit == UINT64_MAX ? 0 : limit < LZ_CONTENT_MEMORY ? limit : LZ_CONTENT_MEMORY;
    self->gathered = malloc(LZ_CONTENT_MEMORY);
    self->inline_data = malloc(INLINE_BUFFER);
    int rc = self->gathered != NULL && self->inline_data != NULL ? 0 : -ENOMEM;
    if (rc == 0)
        rc = lz_object_open(&self->objects, stage->sys, stage->options->objects_fd, stage->options->staged_objects_fd);
    if (rc == 0)
        rc = self->index_fd = lz_stage_create(stage, "index", detail);
    if (rc >= 0)
        rc = self->recipe_fd = lz_stage_create(stage, "recipe", detail);
    return rc < 0 ? rc : lz_recipe_writer_new(stage->sys, self->recipe_fd, &self->recipe);
}

static int close_file(struct lz_content *self, int *fd)
{
    int rc = *fd >= 0 ? self->stage->sys->close(self->stage->sys->ctx, *fd) : 0;
    *fd = -1;
    return rc;
}

void lz_content_close(struct lz_content *self)
{
    if (self->stage == NULL)
        return;
    (void)close_file(self, &self->index_fd); /* after a failure, or closed already */
    (void)close_file(self, &self->recipe_fd);
    lz_recipe_writer_free(self->recipe);
    if (self->objects.sys != NULL)
        lz_object_close(&self->objects);
    free(self->gathered);
    free(self->inline_data);
}

/* The header that was just written knows how many distinct objects there are. */
static int count_objects(struct lz_content *self)
{
    struct lz_index_header header;
    ssize_t got = lz_pread_full(self->stage->sys, self->index_fd, &header, sizeof header, 0);
    if (got != (ssize_t)sizeof header)
        return got < 0 ? (int)got : -EIO;
    self->stage->result.object_count = header.objects.size / sizeof(struct lz_object_ref);
    return 0;
}

static int finish_index(struct lz_content *self, struct lz_tree *tree, struct lz_detail *detail)
{
    uint32_t entries = 0;
    int rc = flush_inline(self, detail);
    if (rc == 0)
        rc = lz_tree_write(self->stage->sys, tree, self->index_fd, self->inline_size, &entries, detail);
    if (rc == 0)
        rc = count_objects(self);
    if (rc == 0)
        rc = close_file(self, &self->index_fd);
    if (rc != 0 && detail != NULL && detail->text[0] == 0)
        return lz_fail(detail, rc, "writing the layer index: %s", lz_error_text(rc));
    self->stage->result.entry_count = entries;
    return rc;
}

int lz_content_finish(struct lz_content *self, struct lz_tree *tree, struct lz_detail *detail)
{
    struct lz_ingest_result *result = &self->stage->result;
    int rc = finish_index(self, tree, detail);
    if (rc != 0)
        return rc;
    rc = lz_recipe_finish(self->recipe, result->tar_size, result->diff_id);
    if (rc == 0)
        rc = close_file(self, &self->recipe_fd);
    if (rc != 0)
        return lz_fail(detail, rc, "writing the recipe: %s", lz_error_text(rc));
    result->new_object_count = self->objects.new_count;
    result->new_object_bytes = self->objects.new_bytes;
    result->inline_bytes = self->inline_size;
    return 0;
}
