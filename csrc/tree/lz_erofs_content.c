#include "lz_erofs_content.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_SIZE 65536u
#define PIECE_COUNT 512u /* a direct-mapped cache: neighbours of a layer never push one another out */

struct lz_erofs_piece {
    uint8_t *bytes;
    uint64_t number; /* of the piece in its layer's inline data */
    uint32_t layer;
    uint32_t size; /* 0: nothing here */
};

int lz_erofs_content_open(struct lz_erofs_content *self, const struct lz_sys *sys, const struct lz_index *merged,
                          const int *layer_fds)
{
    *self = (struct lz_erofs_content){.sys = sys, .merged = merged, .layer_fds = layer_fds};
    self->sections = lz_zalloc_array(merged->layer_count, sizeof *self->sections);
    self->pieces = lz_zalloc_array(PIECE_COUNT, sizeof *self->pieces);
    if (self->sections == NULL || self->pieces == NULL)
        return -ENOMEM;
    return lz_sha256_new(&self->sha256);
}

void lz_erofs_content_close(struct lz_erofs_content *self)
{
    for (uint32_t i = 0; self->pieces != NULL && i < PIECE_COUNT; i++)
        free(self->pieces[i].bytes);
    free(self->pieces);
    free(self->sections);
    lz_sha256_free(self->sha256);
    lz_buf_free(&self->file);
}

/* Where a layer's inline data lies, from the header of its index file. The contents carry digests of their own, so
 * nothing else of that file needs to be believed. */
static int find_section(struct lz_erofs_content *self, uint32_t layer, struct lz_detail *detail)
{
    struct lz_index_header header;
    ssize_t got = lz_pread_full(self->sys, self->layer_fds[layer], &header, sizeof header, 0);
    if (got < 0)
        return lz_fail(detail, (int)got, "index of layer %u: %s", layer, lz_error_text((int)got));
    if ((size_t)got < sizeof header)
        return lz_fail(detail, LZ_E_TRUNCATED, "index of layer %u: %zd bytes, less than its header", layer, got);
    uint64_t end;
    if (memcmp(header.magic, LZ_INDEX_MAGIC, sizeof header.magic) != 0 || header.inline_data.size == 0 ||
        __builtin_add_overflow(header.inline_data.offset, header.inline_data.size, &end) || end > INT64_MAX)
        return lz_fail(detail, LZ_E_FORMAT, "index of layer %u: no inline data", layer);
    self->sections[layer] = header.inline_data;
    return 0;
}

/* The piece, from the cache or from the file. */
static int get_piece(struct lz_erofs_content *self, uint32_t layer, uint64_t number, const struct lz_erofs_piece **out,
                     struct lz_detail *detail)
{
    struct lz_erofs_piece *piece = &self->pieces[(number + (uint64_t)layer * 61) % PIECE_COUNT];
    *out = piece;
    if (piece->size != 0 && piece->number == number && piece->layer == layer)
        return 0;
    if (piece->bytes == NULL && (piece->bytes = lz_alloc_array(PIECE_SIZE, 1)) == NULL)
        return -ENOMEM;
    const struct lz_section *section = &self->sections[layer];
    uint64_t rest = section->size - number * PIECE_SIZE;
    uint32_t wanted = rest < PIECE_SIZE ? (uint32_t)rest : PIECE_SIZE;
    piece->size = 0;
    ssize_t got = lz_pread_full(self->sys, self->layer_fds[layer], piece->bytes, wanted,
                                (off_t)(section->offset + number * PIECE_SIZE));
    if (got < 0)
        return lz_fail(detail, (int)got, "index of layer %u: %s", layer, lz_error_text((int)got));
    if ((uint32_t)got < wanted)
        return lz_fail(detail, LZ_E_TRUNCATED, "index of layer %u: its inline data ends early", layer);
    piece->number = number;
    piece->layer = layer;
    piece->size = wanted;
    return 0;
}

static int gather(struct lz_erofs_content *self, uint32_t layer, uint64_t offset, uint64_t size,
                  struct lz_detail *detail)
{
    while (size > 0) {
        const struct lz_erofs_piece *piece;
        int rc = get_piece(self, layer, offset / PIECE_SIZE, &piece, detail);
        if (rc != 0)
            return rc;
        uint64_t from = offset % PIECE_SIZE;
        uint64_t now = piece->size - from < size ? piece->size - from : size;
        rc = lz_buf_append(&self->file, piece->bytes + from, now);
        if (rc != 0)
            return rc;
        offset += now;
        size -= now;
    }
    return 0;
}

static int verify(struct lz_erofs_content *self, const struct lz_entry *entry, const char *path,
                  struct lz_detail *detail)
{
    uint8_t digest[LZ_SHA256_SIZE];
    int rc = lz_sha256_digest(self->sha256, self->file.data, self->file.size, digest);
    if (rc != 0 || memcmp(digest, entry->digest, sizeof digest) == 0)
        return rc;
    char found[LZ_SHA256_HEX_SIZE + 1], expected[LZ_SHA256_HEX_SIZE + 1];
    lz_hex(digest, found);
    lz_hex(entry->digest, expected);
    return lz_fail(detail, LZ_E_CORRUPT, "%s: content has digest %s, expected %s", path, found, expected);
}

int lz_erofs_content_read(struct lz_erofs_content *self, uint32_t number, struct lz_detail *detail)
{
    const struct lz_entry *entry = &self->merged->entries[number];
    const char *path = lz_index_path(self->merged, number);
    struct lz_section *section = &self->sections[entry->layer];
    int rc = section->size == 0 ? find_section(self, entry->layer, detail) : 0;
    if (rc != 0)
        return lz_fail_within(detail, rc, "%s", path);
    if (entry->data_offset > section->size || entry->size > section->size - entry->data_offset)
        return lz_fail(detail, LZ_E_FORMAT, "%s: content lies outside the inline data of its layer", path);
    self->file.size = 0;
    rc = gather(self, entry->layer, entry->data_offset, entry->size, detail);
    if (rc != 0)
        return lz_fail_within(detail, rc, "%s", path);
    return verify(self, entry, path, detail);
}
