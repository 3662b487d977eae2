#include "lz_chunked_frames.h"

#include <stdio.h>
#include <string.h>

#include "../bytes/lz_json.h"

/* ---- out ---- */

int lz_chunked_put(struct lz_chunked_writer *self, const uint8_t *bytes, size_t size)
{
    int rc = lz_sha256_update(self->sha256, bytes, size);
    if (rc == 0)
        rc = lz_write_all(self->sys, self->options->out_fd, bytes, size);
    if (rc != 0)
        return lz_fail(self->detail, rc, "writing the layer's blob: %s", lz_error_text(rc));
    self->size += size;
    return 0;
}

static int put_chunk_fields(struct lz_buf *out, const struct lz_framed *frame, uint64_t offset)
{
    char hex[LZ_SHA256_HEX_SIZE + 1];
    lz_hex(frame->digest, hex);
    return lz_json_put(out, ",\"chunkSize\":%zu,\"chunkDigest\":\"sha256:%s\",\"offset\":%llu", frame->size, hex,
                       (unsigned long long)offset);
}

/* The last chunk's line says where the file ends, too: readers take it from there. */
static int end_large_file(struct lz_chunked_writer *self, const char *hex)
{
    int rc = lz_json_put(&self->chunks, ",\"endOffset\":%llu}", (unsigned long long)self->size);
    if (rc == 0)
        rc = lz_json_put(&self->first, ",\"digest\":\"sha256:%.64s\",\"endOffset\":%llu}", hex,
                         (unsigned long long)self->size);
    if (rc == 0)
        rc = lz_tail_toc(&self->tail, self->first.data, self->first.size);
    return rc != 0 ? rc : lz_tail_toc(&self->tail, self->chunks.data, self->chunks.size);
}

/* The lines of the table that go with a frame, now that it is known where it lies. */
static int put_lines(struct lz_chunked_writer *self, const struct lz_framed *frame, uint64_t offset)
{
    const char *text = (const char *)frame->note + 1;
    size_t size = frame->note_size - 1;
    char line[80];
    int rc;
    switch ((enum lz_chunked_note)frame->note[0]) {
    case NOTE_HEADERS:
        return lz_tail_toc(&self->tail, text, size);
    case NOTE_FILE:
        rc = lz_tail_toc(&self->tail, text, size);
        (void)snprintf(line, sizeof line, ",\"offset\":%llu,\"endOffset\":%llu}", (unsigned long long)offset,
                       (unsigned long long)self->size);
        return rc != 0 ? rc : lz_tail_toc(&self->tail, line, strlen(line));
    case NOTE_FIRST:
        self->first.size = self->chunks.size = 0;
        rc = lz_buf_append(&self->first, text, size);
        return rc != 0 ? rc : put_chunk_fields(&self->first, frame, offset);
    case NOTE_CHUNK:
        rc = lz_buf_append(&self->chunks, text, size);
        if (rc == 0)
            rc = put_chunk_fields(&self->chunks, frame, offset);
        return rc != 0 ? rc : lz_json_put(&self->chunks, "}");
    case NOTE_LAST:
        rc = lz_buf_append(&self->chunks, text + LZ_SHA256_HEX_SIZE, size - LZ_SHA256_HEX_SIZE);
        if (rc == 0)
            rc = put_chunk_fields(&self->chunks, frame, offset);
        return rc != 0 ? rc : end_large_file(self, text);
    }
    return 0;
}

int lz_chunked_take_frame(void *ctx, const struct lz_framed *frame)
{
    struct lz_chunked_writer *self = ctx;
    uint64_t offset = self->size;
    int rc = lz_chunked_put(self, frame->packed, frame->packed_size);
    return rc == 0 && self->can_say && frame->note_size > 0 ? put_lines(self, frame, offset) : rc;
}

/* ---- frames ---- */

int lz_chunked_frame(struct lz_chunked_writer *self, size_t size, bool with_digest, enum lz_chunked_note kind)
{
    self->note.data[0] = (uint8_t)kind;
    int rc = lz_framer_add(self->framer, size, with_digest && self->can_say, self->note.data, self->note.size);
    self->note.size = 1;
    return rc;
}

int lz_chunked_frame_gap(struct lz_chunked_writer *self, bool with_lines)
{
    uint8_t *room;
    size_t size = self->gap.size;
    int rc = lz_framer_room(self->framer, size, &room);
    if (rc != 0)
        return rc;
    memcpy(room, self->gap.data, size);
    self->gap.size = 0;
    return with_lines ? lz_chunked_frame(self, size, false, NOTE_HEADERS)
                      : lz_framer_add(self->framer, size, false, NULL, 0);
}
