#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "../base/lz_mem.h"
#include "../bytes/lz_inflate.h"
#include "lz_chunked_plan.h"

#define OUT_SIZE (512u * 1024)
#define WIRE_SIZE (128u * 1024)
#define LINES_STEP (256u * 1024)
#define LINES_RATIO 16u        /* bytes of tar-split for one of the tar: base64 is 4 for 3, and names are said again */
#define LINES_FREE (64u << 20) /* that the ratio does not look at */
#define WINDOW_LOG_MAX 27      /* as lz_inflate.h has it */
#define NAME_SHOWN 200

struct rebuild {
    struct lz_chunked_plan *plan;
    const struct lz_sys *sys;
    struct lz_detail *detail;
    int wire_fd, out_fd;

    /* the blob's ranges as they come */
    uint8_t *wire; /* WIRE_SIZE */
    size_t wire_at, wire_size;
    size_t range;      /* number */
    uint64_t range_at; /* of its bytes, read from wire_fd */
    uint64_t position; /* in the blob, of wire[wire_at] */
    ZSTD_DCtx *zstd;

    /* the tar */
    uint8_t *out; /* OUT_SIZE */
    size_t used;
    uint64_t written, max_size;

    struct lz_sha256 *sha256; /* of the file that is being fetched; it is fed when `hashing` */
    bool hashing;
};

/* ---- the tar ---- */

static int flush(struct rebuild *self)
{
    int rc = lz_write_all(self->sys, self->out_fd, self->out, self->used);
    if (rc != 0)
        return lz_fail(self->detail, rc, "writing the layer's tar: %s", lz_error_text(rc));
    self->written += self->used;
    self->used = 0;
    return 0;
}

/* Room for bytes of the tar, at least one. */
static int reserve(struct rebuild *self, uint8_t **room, size_t *size)
{
    int rc = self->used == OUT_SIZE ? flush(self) : 0;
    *room = self->out + self->used;
    *size = OUT_SIZE - self->used;
    return rc;
}

/* `size` bytes were put there. */
static int commit(struct rebuild *self, size_t size)
{
    int rc = self->hashing ? lz_sha256_update(self->sha256, self->out + self->used, size) : 0;
    self->used += size;
    if (rc == 0 && self->written + self->used > self->max_size)
        return lz_fail(self->detail, LZ_E_LIMIT, "more than %llu bytes", (unsigned long long)self->max_size);
    return rc;
}

static int put_bytes(struct rebuild *self, const uint8_t *bytes, size_t size)
{
    while (size > 0) {
        uint8_t *room;
        size_t now;
        int rc = reserve(self, &room, &now);
        if (rc != 0)
            return rc;
        now = size < now ? size : now;
        memcpy(room, bytes, now);
        rc = commit(self, now);
        if (rc != 0)
            return rc;
        bytes += now;
        size -= now;
    }
    return 0;
}

/* ---- the wire ---- */

static int fill(struct rebuild *self)
{
    size_t count;
    const struct lz_chunked_range *ranges = lz_chunked_ranges(self->plan, &count);
    if (self->range < count && self->range_at == ranges[self->range].size) {
        self->range++;
        self->range_at = 0;
    }
    if (self->range == count)
        return lz_fail(self->detail, LZ_E_CORRUPT, "parts of the blob: more is needed than was planned");
    const struct lz_chunked_range *range = &ranges[self->range];
    uint64_t left = range->size - self->range_at;
    ssize_t got =
        self->sys->read(self->sys->ctx, self->wire_fd, self->wire, left < WIRE_SIZE ? (size_t)left : WIRE_SIZE);
    if (got <= 0)
        return got < 0 ? lz_fail(self->detail, (int)got, "reading parts of the blob: %s", lz_error_text((int)got))
                       : lz_fail(self->detail, LZ_E_TRUNCATED, "parts of the blob: end at byte %llu",
                                 (unsigned long long)(range->offset + self->range_at));
    self->position = range->offset + self->range_at;
    self->wire_at = 0;
    self->wire_size = (size_t)got;
    self->range_at += (uint64_t)got;
    return 0;
}

/* Bytes of the blob from `offset` on, at least one, at most up to `end`; what lies before is passed over. */
static int take_wire(struct rebuild *self, uint64_t offset, uint64_t end, const uint8_t **bytes, size_t *size)
{
    for (;;) {
        size_t have = self->wire_size - self->wire_at;
        if (have > 0 && self->position > offset)
            return lz_fail(self->detail, LZ_E_CORRUPT, "parts of the blob: not in their order");
        if (have > 0 && self->position + have > offset) {
            size_t skip = (size_t)(offset - self->position);
            uint64_t now = have - skip < end - offset ? have - skip : end - offset;
            *bytes = self->wire + self->wire_at + skip;
            *size = (size_t)now;
            self->wire_at += skip + (size_t)now;
            self->position = offset + now;
            return 0;
        }
        int rc = fill(self);
        if (rc != 0)
            return rc;
    }
}

/* Inflates the frames in [offset, end) of the blob: `expected` bytes, or as many as there are (UINT64_MAX). */
static int put_frames(struct rebuild *self, uint64_t offset, uint64_t end, uint64_t expected)
{
    uint64_t made = 0;
    size_t pending = 0; /* a frame is open */
    (void)ZSTD_DCtx_reset(self->zstd, ZSTD_reset_session_only);
    while (offset < end) {
        ZSTD_inBuffer in = {NULL, 0, 0};
        const uint8_t *bytes = NULL;
        int rc = take_wire(self, offset, end, &bytes, &in.size);
        if (rc != 0)
            return rc;
        in.src = bytes;
        offset += in.size;
        size_t full = 0; /* the last call filled its room: there may be more to come */
        while (in.pos < in.size || full > 0) {
            uint8_t *room;
            size_t size;
            rc = reserve(self, &room, &size);
            if (rc != 0)
                return rc;
            ZSTD_outBuffer out = {room, size, 0};
            pending = ZSTD_decompressStream(self->zstd, &out, &in);
            if (ZSTD_isError(pending))
                return lz_fail(self->detail, LZ_E_CORRUPT, "frames at byte %llu of the blob: %s",
                               (unsigned long long)offset, ZSTD_getErrorName(pending));
            made += out.pos;
            if (made > expected)
                return lz_fail(self->detail, LZ_E_CORRUPT,
                               "frames before byte %llu of the blob: more bytes than the table says",
                               (unsigned long long)end);
            rc = commit(self, out.pos);
            if (rc != 0)
                return rc;
            full = out.pos == size && pending != 0;
        }
    }
    if (pending != 0 || (expected != UINT64_MAX && made != expected))
        return lz_fail(self->detail, LZ_E_CORRUPT,
                       "frames before byte %llu of the blob: fewer bytes than the table says", (unsigned long long)end);
    return 0;
}

/* ---- files ---- */

static int name_size(const struct lz_toc_file *file)
{
    return (int)(file->name.size < NAME_SHOWN ? file->name.size : NAME_SHOWN);
}

static int put_fetched(struct rebuild *self, const struct lz_toc_file *file)
{
    const struct lz_toc_chunk *chunks = self->plan->toc.chunks + file->first_chunk;
    uint8_t digest[LZ_SHA256_SIZE];
    int rc = 0;
    self->hashing = true;
    for (size_t i = 0; i < file->chunk_count && rc == 0; i++)
        rc = put_frames(self, chunks[i].offset, chunks[i].end, chunks[i].size);
    self->hashing = false;
    if (rc == 0)
        rc = lz_sha256_final(self->sha256, digest);
    if (rc == 0 && memcmp(digest, file->digest, sizeof digest) != 0) {
        char found[LZ_SHA256_HEX_SIZE + 1], said[LZ_SHA256_HEX_SIZE + 1];
        lz_hex(digest, found);
        lz_hex(file->digest, said);
        rc = lz_fail(self->detail, LZ_E_CORRUPT, "its bytes have digest sha256:%s, the table says sha256:%s", found,
                     said);
    }
    return rc != 0 ? lz_fail_within(self->detail, rc, "file %.*s", name_size(file), file->name.bytes) : 0;
}

static int put_object(struct rebuild *self, const struct lz_toc_file *file)
{
    char path[LZ_SHA256_HEX_SIZE + 2];
    lz_chunked_object_path(file->digest, path);
    int fd = self->sys->openat(self->sys->ctx, self->plan->objects_fd, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd < 0)
        return lz_fail(self->detail, fd == -ENOENT ? LZ_E_CORRUPT : fd, "object sha256:%.2s%s: %s", path, path + 3,
                       fd == -ENOENT ? "not there any more" : lz_error_text(fd));
    int rc = 0;
    for (uint64_t at = 0; at < file->size && rc == 0;) {
        uint8_t *room;
        size_t size;
        rc = reserve(self, &room, &size);
        if (rc != 0)
            break;
        size = file->size - at < size ? (size_t)(file->size - at) : size;
        ssize_t got = self->sys->pread(self->sys->ctx, fd, room, size, (off_t)at);
        if (got <= 0)
            rc = lz_fail(self->detail, got < 0 ? (int)got : LZ_E_CORRUPT, "object sha256:%.2s%s: %s", path, path + 3,
                         got < 0 ? lz_error_text((int)got) : "shorter than it was");
        else
            rc = commit(self, (size_t)got);
        at += got > 0 ? (uint64_t)got : 0;
    }
    (void)self->sys->close(self->sys->ctx, fd); /* it was only read */
    return rc;
}

static int put_file(struct rebuild *self, size_t number)
{
    const struct lz_toc_file *file = &self->plan->toc.files[number];
    const struct lz_chunked_found *found = &self->plan->found[number];
    if (found->place == LZ_CHUNKED_IN_OBJECT)
        return put_object(self, file);
    if (found->place == LZ_CHUNKED_IN_BLOB)
        return put_fetched(self, file);
    const struct lz_index *index = self->plan->layers[found->layer]; /* lz_index_open() has checked where it lies */
    return put_bytes(self, index->base + LZ_INDEX_INLINE_OFFSET + found->offset, (size_t)file->size);
}

/* ---- headers from the tar-split ---- */

struct lines {
    struct lz_inflate *inflate;
    const uint8_t *packed;
    size_t packed_size;
    struct lz_buf text; /* inflated, from `at` on not parsed */
    size_t at;
    uint64_t inflated;
    struct lz_buf bytes;
    size_t file; /* number of the next one of the table */
};

static int more_text(struct rebuild *self, struct lines *lines, bool *ended)
{
    size_t written;
    memmove(lines->text.data, lines->text.data + lines->at, lines->text.size - lines->at);
    lines->text.size -= lines->at;
    lines->at = 0;
    if (lines->text.size > LZ_CHUNKED_LINE_MAX)
        return lz_fail(self->detail, LZ_E_LIMIT, "tar-split: a line of more than %u bytes", LZ_CHUNKED_LINE_MAX);
    int rc = lz_buf_reserve(&lines->text, LINES_STEP);
    if (rc == 0)
        rc = lz_inflate_step(lines->inflate, &lines->packed, &lines->packed_size, lines->text.data + lines->text.size,
                             LINES_STEP, &written, self->detail);
    if (rc != 0)
        return rc;
    lines->text.size += written;
    lines->inflated += written;
    if (lines->inflated > LINES_FREE && (lines->inflated - LINES_FREE) / LINES_RATIO > self->written + self->used)
        return lz_fail(self->detail, LZ_E_LIMIT, "tar-split: %llu bytes of it are %llu of the tar",
                       (unsigned long long)lines->inflated, (unsigned long long)(self->written + self->used));
    *ended = written == 0;
    return *ended ? lz_inflate_finish(lines->inflate, self->detail) : 0;
}

static int put_line(struct rebuild *self, struct lines *lines, const char *text, size_t size)
{
    const struct lz_toc *toc = &self->plan->toc;
    struct lz_tar_split_line line;
    if (lz_tar_split_parse(text, size, &line) != 0)
        return lz_fail(self->detail, LZ_E_FORMAT, "tar-split: a malformed line");
    if (!line.is_file) {
        lines->bytes.size = 0;
        int rc = lz_json_base64(&line.payload, &lines->bytes);
        if (rc == LZ_E_FORMAT)
            return lz_fail(self->detail, rc, "tar-split: a payload that is not base64");
        return rc != 0 ? rc : put_bytes(self, lines->bytes.data, lines->bytes.size);
    }
    if (lines->file == toc->file_count || line.size != toc->files[lines->file].size)
        return lz_fail(self->detail, LZ_E_FORMAT, "tar-split: its file number %zu is not that of the table",
                       lines->file);
    size_t number = lines->file++;
    return line.size > 0 ? put_file(self, number) : 0;
}

static int put_lines(struct rebuild *self, struct lines *lines)
{
    for (bool ended = false;;) {
        char *text = (char *)lines->text.data + lines->at;
        size_t size = lines->text.size - lines->at;
        char *newline = size > 0 ? memchr(text, '\n', size) : NULL;
        if (newline == NULL && ended) {
            if (size > 0 || lines->file != self->plan->toc.file_count)
                return lz_fail(self->detail, LZ_E_FORMAT, "tar-split: ends after %zu of the table's %zu files",
                               lines->file, self->plan->toc.file_count);
            return 0;
        }
        int rc =
            newline != NULL ? put_line(self, lines, text, (size_t)(newline - text)) : more_text(self, lines, &ended);
        if (rc != 0)
            return rc;
        if (newline != NULL)
            lines->at += (size_t)(newline - text) + 1;
    }
}

static int from_tar_split(struct rebuild *self)
{
    const struct lz_chunked_tail_bytes *tail = &self->plan->tail;
    struct lines lines = {.packed = tail->tar_split, .packed_size = tail->tar_split_size};
    int rc = lz_inflate_new(LZ_COMPRESSION_ZSTD, 0, &lines.inflate);
    if (rc == 0)
        rc = lz_buf_reserve(&lines.text, LINES_STEP);
    if (rc == 0)
        rc = put_lines(self, &lines);
    lz_inflate_free(lines.inflate);
    lz_buf_free(&lines.text);
    lz_buf_free(&lines.bytes);
    return rc;
}

/* ---- headers from between the files ---- */

static int from_gaps(struct rebuild *self)
{
    const struct lz_toc *toc = &self->plan->toc;
    uint64_t at = 0;
    int rc = 0;
    for (size_t i = 0; i < toc->file_count && rc == 0; i++) {
        const struct lz_toc_file *file = &toc->files[i];
        if (file->chunk_count == 0)
            continue;
        rc = put_frames(self, at, toc->chunks[file->first_chunk].offset, UINT64_MAX);
        if (rc == 0)
            rc = put_file(self, i);
        at = toc->chunks[file->first_chunk + file->chunk_count - 1].end;
    }
    return rc != 0 ? rc : put_frames(self, at, self->plan->tail.end, UINT64_MAX);
}

/* ---- the whole ---- */

int lz_chunked_rebuild(struct lz_chunked_plan *plan, int wire_fd, int out_fd, uint64_t max_size,
                       struct lz_detail *detail)
{
    struct lz_detail own = {.text = ""};
    struct rebuild self = {.plan = plan,
                           .sys = plan->sys,
                           .detail = detail != NULL ? detail : &own,
                           .wire_fd = wire_fd,
                           .out_fd = out_fd,
                           .wire = malloc(WIRE_SIZE),
                           .zstd = ZSTD_createDCtx(),
                           .out = malloc(OUT_SIZE),
                           .max_size = max_size};
    self.detail->text[0] = 0;
    int rc = self.wire != NULL && self.zstd != NULL && self.out != NULL ? lz_sha256_new(&self.sha256) : -ENOMEM;
    if (rc == 0 && ZSTD_isError(ZSTD_DCtx_setParameter(self.zstd, ZSTD_d_windowLogMax, WINDOW_LOG_MAX)))
        rc = -EINVAL;
    if (rc == 0)
        rc = plan->has_tar_split ? from_tar_split(&self) : from_gaps(&self);
    if (rc == 0 && self.used > 0)
        rc = flush(&self);
    lz_sha256_free(self.sha256);
    ZSTD_freeDCtx(self.zstd);
    free(self.wire);
    free(self.out);
    return rc;
}
