#include <errno.h>
#include <isa-l/crc64.h>
#include <stdlib.h>
#include <string.h>

#include "../bytes/lz_index.h"
#include "../bytes/lz_json.h"
#include "../bytes/lz_toc_write.h"
#include "lz_chunked.h"
#include "lz_chunked_frames.h"
#include "lz_tree.h"

#define SOURCE_SIZE (256u * 1024)
#define GAP_FRAME (256u * 1024)         /* headers of files without content are gathered up to here */
#define NOTE_FULL (64u * 1024)          /* lines of the table that go with a frame of headers */
#define LITERALS_MAX (9u * 1024 * 1024) /* more than the headers of one entry can be: the end of the archive */
#define CHUNK_MIN ((size_t)256 << 10)
#define CHUNK_AVERAGE ((size_t)512 << 10)

/* ---- the tar's bytes ---- */

static bool is_zeros(const uint8_t *bytes, size_t size)
{
    return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

/* What follows the last entry: padding, and zeros in segments that are not too long. */
static int say_end(struct lz_chunked_writer *self)
{
    size_t size = self->literals.size, padding = self->padding < size ? self->padding : size;
    self->can_say = is_zeros(self->literals.data + padding, size - padding);
    int rc = self->can_say ? lz_tail_segment(&self->tail, self->literals.data, size) : 0;
    self->literals.size = self->padding = 0;
    return rc;
}

/* The reader's: bytes that are no content. Frames of them end where they hold GAP_FRAME bytes or a content begins,
 * whatever the pieces they come in. */
static int literal(void *ctx, const uint8_t *data, size_t size)
{
    struct lz_chunked_writer *self = ctx;
    int rc = 0;
    while (size > 0 && rc == 0) {
        size_t room = GAP_FRAME - self->gap.size, now = size < room ? size : room;
        rc = lz_buf_append(&self->gap, data, now);
        if (rc == 0 && self->can_say)
            rc = lz_buf_append(&self->literals, data, now);
        if (rc == 0 && self->can_say && self->literals.size > LITERALS_MAX)
            rc = say_end(self);
        if (rc == 0 && self->gap.size == GAP_FRAME)
            rc = lz_chunked_frame_gap(self, false);
        data += now;
        size -= now;
    }
    return rc;
}

static int next_bytes(void *ctx, const uint8_t **data, size_t *size)
{
    struct lz_chunked_writer *self = ctx;
    for (;;) {
        int rc = self->piece.size == 0 ? 0 : lz_recipe_stream_read(self->stream, self->source, SOURCE_SIZE, size);
        if (rc != 0)
            return rc;
        if (self->piece.size > 0 && *size > 0)
            break;
        rc = lz_recipe_stream_next(self->stream, &self->piece);
        if (rc != 1)
            return rc;
    }
    self->tar_size += *size;
    *data = self->source;
    int rc = lz_sha256_update(self->tar_sha256, self->source, *size);
    return rc != 0 ? rc : 1;
}

/* ---- contents ---- */

/* What is found out about a content on the way. */
struct content {
    uint64_t crc64;
    bool hashed; /* the digest is not one that the recipe names */
    uint8_t digest[LZ_SHA256_SIZE];
};

/* The next bytes of the entry's content, copied to `out`; at the beginning, the digest is taken from the recipe, where
 * the content is an object. */
static int take_bytes(struct lz_chunked_writer *self, const struct lz_tar_entry *entry, struct content *content,
                      uint64_t done, uint8_t *out, size_t capacity, const uint8_t **rest, size_t *rest_size,
                      size_t *taken)
{
    *taken = 0;
    if (*rest_size == 0) {
        int rc = lz_tar_read(self->reader, rest, rest_size, self->detail);
        if (rc <= 0)
            return rc < 0 ? rc : lz_fail(self->detail, LZ_E_CORRUPT, "layer: a file's content ends before its size");
        if (done == 0) {
            const struct lz_recipe_piece *piece = &self->piece;
            content->hashed = piece->place != LZ_RECIPE_IN_OBJECT || piece->offset != 0 || piece->size != entry->size;
            if (!content->hashed)
                memcpy(content->digest, piece->digest, LZ_SHA256_SIZE);
        }
    }
    size_t now = *rest_size < capacity ? *rest_size : capacity;
    memcpy(out, *rest, now);
    *rest += now;
    *rest_size -= now;
    *taken = now;
    content->crc64 = crc64_iso_refl(content->crc64, out, now);
    return content->hashed ? lz_sha256_update(self->file_sha256, out, now) : 0;
}

static int end_content(struct lz_chunked_writer *self, struct content *content)
{
    return content->hashed ? lz_sha256_final(self->file_sha256, content->digest) : 0;
}

static int put_small(struct lz_chunked_writer *self, const struct lz_tar_entry *entry, struct content *content)
{
    const uint8_t *rest = NULL;
    size_t rest_size = 0, size = (size_t)entry->stored_size, taken;
    uint8_t *room;
    char hex[LZ_SHA256_HEX_SIZE + 1];
    int rc = lz_framer_room(self->framer, size, &room);
    for (size_t done = 0; done < size && rc == 0; done += taken)
        rc = take_bytes(self, entry, content, done, room + done, size - done, &rest, &rest_size, &taken);
    if (rc == 0)
        rc = end_content(self, content);
    if (rc != 0)
        return rc;
    if (!self->can_say)
        return lz_chunked_frame(self, size, false, NOTE_HEADERS);
    lz_hex(content->digest, hex);
    rc = lz_json_put(&self->note, ",\"digest\":\"sha256:%s\"", hex);
    return rc != 0 ? rc : lz_chunked_frame(self, size, false, NOTE_FILE);
}

/* A chunk's own line begins here; that of the first one is the file's, which is in the note already. */
static int begin_chunk(struct lz_chunked_writer *self, const struct lz_tar_entry *entry, uint64_t offset,
                       const char *hex)
{
    if (!self->can_say || offset == 0)
        return 0;
    int rc = lz_buf_append(&self->note, hex, strlen(hex));
    if (rc == 0)
        rc = lz_json_put(&self->note, ",{\"type\":\"chunk\",\"name\":");
    if (rc == 0)
        rc = lz_json_put_text(&self->note, entry->path, entry->path_size);
    return rc != 0 ? rc : lz_json_put(&self->note, ",\"chunkOffset\":%llu", (unsigned long long)offset);
}

static int put_chunk(struct lz_chunked_writer *self, const struct lz_tar_entry *entry, struct content *content,
                     uint64_t offset, size_t size)
{
    char hex[LZ_SHA256_HEX_SIZE + 1] = "";
    uint8_t *room;
    bool last = offset + size == entry->stored_size;
    int rc = last ? end_content(self, content) : 0;
    if (last)
        lz_hex(content->digest, hex);
    if (rc == 0)
        rc = begin_chunk(self, entry, offset, hex);
    if (rc == 0)
        rc = lz_framer_room(self->framer, size, &room);
    if (rc != 0)
        return rc;
    memcpy(room, self->window, size);
    return lz_chunked_frame(self, size, true, last ? NOTE_LAST : offset == 0 ? NOTE_FIRST : NOTE_CHUNK);
}

static int put_large(struct lz_chunked_writer *self, const struct lz_tar_entry *entry, struct content *content)
{
    const uint8_t *rest = NULL;
    size_t rest_size = 0, have = 0;
    uint64_t done = 0; /* read into the window so far */
    while (have > 0 || done < entry->stored_size) {
        while (have < LZ_FRAME_MAX && done < entry->stored_size) {
            size_t taken;
            int rc = take_bytes(self, entry, content, done, self->window + have, 2 * LZ_FRAME_MAX - have, &rest,
                                &rest_size, &taken);
            if (rc != 0)
                return rc;
            have += taken;
            done += taken;
        }
        size_t size = lz_chunker_next(self->chunker, self->window, have);
        int rc = put_chunk(self, entry, content, done - have, size);
        if (rc != 0)
            return rc;
        memmove(self->window, self->window + size, have - size);
        have -= size;
    }
    return 0;
}

/* ---- entries ---- */

static int add_name(struct lz_chunked_writer *self, const struct lz_tar_entry *entry)
{
    char path[LZ_PATH_MAX + 1];
    int size = lz_path_clean(entry->path, entry->path_size, path, NULL);
    if (size < 0) {
        self->can_say = false;
        return 0;
    }
    int rc = lz_grow((void **)&self->names, &self->name_capacity, self->name_count + 1, sizeof *self->names);
    if (rc == 0)
        self->names[self->name_count++] = lz_path_hash(path, (size_t)size);
    return rc;
}

/* The entry's line of the table goes to the note, its headers to tar-split. */
static int describe(struct lz_chunked_writer *self, const struct lz_tar_entry *entry)
{
    self->can_say = self->can_say && lz_toc_can_say(entry, self->literals.data, self->literals.size, self->padding);
    int rc = self->can_say ? add_name(self, entry) : 0;
    if (rc != 0 || !self->can_say)
        return rc;
    if (self->name_count > 1)
        rc = lz_buf_append(&self->note, ",", 1);
    if (rc == 0)
        rc = lz_toc_put_entry(&self->note, entry, self->literals.data + self->literals.size - LZ_TAR_BLOCK);
    if (rc == 0)
        rc = lz_tail_segment(&self->tail, self->literals.data, self->literals.size);
    self->literals.size = self->padding = 0;
    return rc;
}

static int put_content(struct lz_chunked_writer *self, const struct lz_tar_entry *entry)
{
    struct content content = {.crc64 = 0};
    int rc = self->gap.size > 0 ? lz_chunked_frame_gap(self, false) : 0;
    if (rc == 0)
        rc = entry->stored_size <= LZ_FRAME_MAX ? put_small(self, entry, &content) : put_large(self, entry, &content);
    self->padding = lz_tar_pad(entry->stored_size);
    if (rc != 0 || !self->can_say)
        return rc;
    return lz_tail_file(&self->tail, entry->path, entry->path_size, entry->size, &content.crc64);
}

static int put_entry(struct lz_chunked_writer *self, const struct lz_tar_entry *entry)
{
    int rc = describe(self, entry);
    if (rc != 0)
        return rc;
    if (entry->stored_size > 0)
        return put_content(self, entry);
    if (!self->can_say)
        return 0;
    rc = lz_json_put(&self->note, "}");
    if (rc == 0)
        rc = lz_tail_file(&self->tail, entry->path, entry->path_size, 0, NULL);
    return rc == 0 && self->note.size > NOTE_FULL && self->gap.size > 0 ? lz_chunked_frame_gap(self, true) : rc;
}

static int compare_names(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

/* Readers of a table refuse a path that is there twice. */
static bool has_twice(struct lz_chunked_writer *self)
{
    if (self->name_count > 0)
        qsort(self->names, self->name_count, sizeof *self->names, compare_names);
    for (size_t i = 1; i < self->name_count; i++) {
        if (self->names[i] == self->names[i - 1])
            return true;
    }
    return false;
}

/* ---- the whole ---- */

static int put_tail(struct lz_chunked_writer *self)
{
    struct lz_buf bytes = {0};
    int rc = say_end(self);
    if (rc == 0 && self->can_say)
        rc = lz_tail_toc(&self->tail, self->note.data + 1, self->note.size - 1);
    if (rc == 0 && self->can_say && !has_twice(self)) {
        rc = lz_tail_finish(&self->tail, self->size, &bytes, self->result);
        if (rc == 0)
            rc = lz_chunked_put(self, bytes.data, bytes.size);
    }
    lz_buf_free(&bytes);
    return rc;
}

static int write_all(struct lz_chunked_writer *self)
{
    struct lz_tar_entry entry;
    int rc;
    while ((rc = lz_tar_next(self->reader, &entry, self->detail)) == 1) {
        rc = put_entry(self, &entry);
        if (rc != 0)
            return rc;
    }
    if (rc == 0 && self->gap.size > 0)
        rc = lz_chunked_frame_gap(self, false);
    if (rc == 0)
        rc = lz_framer_finish(self->framer);
    uint8_t digest[LZ_SHA256_SIZE];
    if (rc == 0)
        rc = lz_sha256_final(self->tar_sha256, digest);
    if (rc == 0)
        rc = lz_recipe_stream_check(self->stream, self->tar_size, digest);
    if (rc == 0 && self->can_say)
        rc = put_tail(self);
    if (rc == 0)
        rc = lz_sha256_final(self->sha256, self->result->digest);
    if (rc != 0)
        return rc;
    self->result->size = self->size;
    self->result->tar_size = self->tar_size;
    memcpy(self->result->diff_id, digest, LZ_SHA256_SIZE);
    return 0;
}

static int open_all(struct lz_chunked_writer *self)
{
    const struct lz_chunked_options *options = self->options;
    const struct lz_tar_source source = {.next = next_bytes, .literal = literal, .ctx = self};
    self->source = malloc(SOURCE_SIZE);
    self->window = malloc(2 * LZ_FRAME_MAX);
    int rc = self->source != NULL && self->window != NULL ? lz_buf_append_zeros(&self->note, 1) : -ENOMEM;
    if (rc == 0)
        rc = lz_sha256_new(&self->sha256);
    if (rc == 0)
        rc = lz_sha256_new(&self->tar_sha256);
    if (rc == 0)
        rc = lz_sha256_new(&self->file_sha256);
    if (rc == 0)
        rc = lz_chunker_new(CHUNK_MIN, CHUNK_AVERAGE, LZ_FRAME_MAX, NULL, &self->chunker);
    if (rc == 0)
        rc = lz_tail_open(&self->tail);
    if (rc == 0)
        rc = lz_tar_reader_new(&source, 0, &self->reader);
    if (rc == 0)
        rc = lz_framer_new(options->threads, options->level, lz_chunked_take_frame, self, &self->framer);
    return rc != 0 ? rc
                   : lz_recipe_stream_new(self->sys, options->recipe_fd, options->index_fd, options->objects_fd,
                                          self->detail, &self->stream);
}

static void close_all(struct lz_chunked_writer *self)
{
    lz_framer_free(self->framer);
    lz_recipe_stream_free(self->stream);
    lz_tar_reader_free(self->reader);
    lz_chunker_free(self->chunker);
    lz_tail_free(&self->tail);
    lz_sha256_free(self->sha256);
    lz_sha256_free(self->tar_sha256);
    lz_sha256_free(self->file_sha256);
    lz_buf_free(&self->gap);
    lz_buf_free(&self->note);
    lz_buf_free(&self->literals);
    lz_buf_free(&self->first);
    lz_buf_free(&self->chunks);
    free(self->names);
    free(self->source);
    free(self->window);
}

int lz_chunked_write(const struct lz_sys *sys, const struct lz_chunked_options *options,
                     struct lz_chunked_result *result, struct lz_detail *detail)
{
    struct lz_detail own = {.text = ""};
    struct lz_chunked_result found = {.size = 0};
    struct lz_chunked_writer self = {
        .sys = sys, .options = options, .result = &found, .detail = detail != NULL ? detail : &own, .can_say = true};
    self.detail->text[0] = 0;
    int rc = open_all(&self);
    if (rc == 0)
        rc = write_all(&self);
    close_all(&self);
    if (rc == 0)
        *result = found;
    return rc;
}
