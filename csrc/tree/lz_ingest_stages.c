#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "../base/lz_mem.h"
#include "../bytes/lz_deflate.h"
#include "../bytes/lz_digest.h"
#include "lz_direct.h"
#include "lz_stage.h"

#define RATIO_FREE (64u * 1024 * 1024) /* tar bytes that the ratio does not look at */
#define DEFLATE_SIZE (256u * 1024)

/* ---- staging/blob: hashed and written as it comes ---- */

struct blob {
    struct lz_direct file; /* fd -1: no blob is wanted */
    uint64_t size;
};

static int blob_open(struct blob *blob, struct lz_stage *stage, bool wanted, struct lz_detail *detail)
{
    *blob = (struct blob){.file = {.fd = -1}};
    if (!wanted)
        return 0;
    int rc = lz_direct_create(&blob->file, stage->sys, stage->options->staging_fd, "blob", 0444);
    return rc == 0 ? 0 : lz_fail(detail, rc, "creating blob in staging: %s", lz_error_text(rc));
}

static int blob_write(struct blob *blob, const uint8_t *bytes, size_t size, struct lz_detail *detail)
{
    if (blob->file.fd < 0)
        return 0;
    int rc = lz_direct_write(&blob->file, bytes, size);
    if (rc != 0)
        return lz_fail(detail, rc, "writing the blob to staging: %s", lz_error_text(rc));
    blob->size += size;
    return 0;
}

static int blob_close(struct blob *blob, int rc, struct lz_detail *detail)
{
    if (rc == 0 && blob->file.fd >= 0) {
        rc = lz_direct_finish(&blob->file);
        if (rc != 0)
            (void)lz_fail(detail, rc, "writing the blob to staging: %s", lz_error_text(rc));
    }
    lz_direct_free(&blob->file);
    return rc;
}

/* ---- reader: source -> SHA-256, blob, source queue ---- */

/* Fills a chunk from the source. Its size is 0 at the end. */
static int read_chunk(struct lz_stage *stage, struct lz_chunk *chunk, struct lz_detail *detail)
{
    const struct lz_ingest_options *options = stage->options;
    uint64_t done = stage->result.source_size;
    uint64_t left = options->source_size - done; /* source_size UINT64_MAX: more than there can be */
    size_t wanted = left < chunk->capacity ? (size_t)left : chunk->capacity;
    ssize_t got = options->source_offset >= 0 ? lz_pread_full(stage->sys, options->source_fd, chunk->data, wanted,
                                                              (off_t)((uint64_t)options->source_offset + done))
                                              : lz_read_full(stage->sys, options->source_fd, chunk->data, wanted);
    if (got < 0)
        return lz_fail(detail, (int)got, "reading the layer: %s", lz_error_text((int)got));
    chunk->size = (size_t)got;
    stage->result.source_size += (uint64_t)got;
    atomic_store_explicit(&stage->progress->source_bytes, stage->result.source_size, memory_order_relaxed);
    if ((size_t)got < wanted && options->source_size != UINT64_MAX)
        return lz_fail(detail, LZ_E_TRUNCATED, "expected %llu bytes, found %llu",
                       (unsigned long long)options->source_size, (unsigned long long)stage->result.source_size);
    return 0;
}

/* One chunk: 1, or 0 at the end of the source. */
static int read_one(struct lz_stage *stage, struct lz_sha256 *sha256, struct blob *blob, struct lz_detail *detail)
{
    struct lz_chunk *chunk;
    int rc = lz_pool_take(stage->source_pool, &chunk);
    if (rc != 0)
        return rc;
    rc = lz_stage_cancelled(stage, detail);
    if (rc == 0)
        rc = read_chunk(stage, chunk, detail);
    int more = rc == 0 && chunk->size > 0;
    if (more) {
        lz_chunk_retain(chunk); /* so that inflate can start while this thread hashes and writes */
        rc = lz_queue_push(stage->source_queue, chunk);
        if (rc == 0)
            rc = lz_sha256_update(sha256, chunk->data, chunk->size);
        if (rc == 0)
            rc = blob_write(blob, chunk->data, chunk->size, detail);
    }
    lz_chunk_release(chunk);
    return rc != 0 ? rc : more;
}

static int read_source(struct lz_stage *stage, struct lz_detail *detail)
{
    bool keep = stage->options->blob_mode == LZ_BLOB_KEEP;
    struct lz_sha256 *sha256 = NULL;
    struct blob blob;
    int rc = blob_open(&blob, stage, keep, detail);
    if (rc == 0)
        rc = lz_sha256_new(&sha256);
    if (rc == 0)
        do
            rc = read_one(stage, sha256, &blob, detail);
        while (rc == 1);
    rc = blob_close(&blob, rc, detail);
    if (rc == 0)
        rc = lz_sha256_final(sha256, stage->result.source_digest);
    lz_sha256_free(sha256);
    if (rc == 0 && keep) {
        memcpy(stage->result.blob_digest, stage->result.source_digest, LZ_SHA256_SIZE);
        stage->result.blob_size = blob.size;
    }
    return rc;
}

void *lz_stage_read(void *argument)
{
    struct lz_stage *stage = argument;
    struct lz_detail detail = {.text = ""};
    lz_stage_fail(stage, read_source(stage, &detail), &detail);
    lz_queue_end(stage->source_queue);
    return NULL;
}

/* ---- inflate: source queue -> every consumer of the tar ---- */

struct inflate {
    struct lz_stage *stage;
    struct lz_inflate *codec;
    struct lz_chunk *out; /* being filled */
    uint64_t taken;       /* source bytes given to the codec */
};

/* Counts tar bytes against the limits. */
static int count_tar(struct inflate *self, size_t size, struct lz_detail *detail)
{
    struct lz_stage *stage = self->stage;
    const struct lz_ingest_limits *limits = &stage->limits;
    uint64_t total = stage->result.tar_size + size;
    if (total > limits->max_tar_size)
        return lz_fail(detail, LZ_E_LIMIT, "at least %llu bytes uncompressed, allowed are %llu (max_tar_size)",
                       (unsigned long long)total, (unsigned long long)limits->max_tar_size);
    if (total > RATIO_FREE && total / limits->max_ratio > self->taken)
        return lz_fail(
            detail, LZ_E_LIMIT, "%llu compressed bytes give at least %llu, more than %llu times as much (max_ratio)",
            (unsigned long long)self->taken, (unsigned long long)total, (unsigned long long)limits->max_ratio);
    stage->result.tar_size = total;
    atomic_store_explicit(&stage->progress->tar_bytes, total, memory_order_relaxed);
    return 0;
}

/* Gives a filled chunk to all consumers; takes over the reference. */
static int fan_out(struct lz_stage *stage, struct lz_chunk *chunk)
{
    struct lz_queue *further[2] = {
        stage->result.compression != LZ_COMPRESSION_NONE ? stage->digest_queue : NULL,
        stage->deflate_queue,
    };
    int rc = 0;
    for (int i = 0; i < 2 && rc == 0; i++) {
        if (further[i] == NULL)
            continue;
        lz_chunk_retain(chunk);
        rc = lz_queue_push(further[i], chunk);
    }
    if (rc == 0)
        return lz_queue_push(stage->tar_queue, chunk);
    lz_chunk_release(chunk);
    return rc;
}

static int send_out(struct inflate *self, struct lz_detail *detail)
{
    struct lz_chunk *chunk = self->out;
    if (chunk == NULL || chunk->size == 0)
        return 0;
    int rc = count_tar(self, chunk->size, detail);
    if (rc != 0)
        return rc;
    self->out = NULL;
    return fan_out(self->stage, chunk);
}

static int inflate_chunk(struct inflate *self, const struct lz_chunk *in, struct lz_detail *detail)
{
    const uint8_t *at = in->data;
    size_t left = in->size;
    for (;;) {
        int rc = self->out != NULL ? 0 : lz_pool_take(self->stage->tar_pool, &self->out);
        if (rc != 0)
            return rc;
        struct lz_chunk *out = self->out;
        size_t written = 0;
        rc = lz_inflate_step(self->codec, &at, &left, out->data + out->size, out->capacity - out->size, &written,
                             detail);
        if (rc != 0)
            return rc;
        out->size += written;
        if (out->size == out->capacity)
            rc = send_out(self, detail);
        else if (left == 0)
            return 0;
        if (rc != 0)
            return rc;
    }
}

static int take_chunk(struct inflate *self, struct lz_chunk *chunk, struct lz_detail *detail)
{
    self->taken += chunk->size;
    if (self->codec == NULL) { /* the source is the tar */
        int rc = count_tar(self, chunk->size, detail);
        if (rc == 0)
            return fan_out(self->stage, chunk);
        lz_chunk_release(chunk);
        return rc;
    }
    int rc = inflate_chunk(self, chunk, detail);
    lz_chunk_release(chunk);
    return rc;
}

/* The codec, by what the caller said or by the first bytes. */
static int choose(struct inflate *self, const struct lz_chunk *first)
{
    struct lz_stage *stage = self->stage;
    int kind = stage->options->compression;
    if (kind < 0)
        kind = first != NULL ? (int)lz_compression_detect(first->data, first->size) : LZ_COMPRESSION_NONE;
    stage->result.compression = (enum lz_compression)kind;
    return kind == LZ_COMPRESSION_NONE ? 0 : lz_inflate_new((enum lz_compression)kind, 0, &self->codec);
}

static int inflate_source(struct inflate *self, struct lz_detail *detail)
{
    struct lz_chunk *chunk = NULL;
    int more = lz_queue_pop(self->stage->source_queue, &chunk);
    int rc = more < 0 ? more : choose(self, chunk);
    if (rc != 0)
        lz_chunk_release(chunk);
    while (rc == 0 && more == 1) {
        rc = take_chunk(self, chunk, detail);
        if (rc != 0)
            return rc;
        more = lz_queue_pop(self->stage->source_queue, &chunk);
    }
    if (rc == 0 && more < 0)
        rc = more;
    if (rc == 0 && self->codec != NULL)
        rc = lz_inflate_finish(self->codec, detail);
    return rc != 0 ? rc : send_out(self, detail);
}

void *lz_stage_inflate(void *argument)
{
    struct inflate self = {.stage = argument};
    struct lz_detail detail = {.text = ""};
    lz_stage_fail(self.stage, inflate_source(&self, &detail), &detail);
    lz_chunk_release(self.out);
    lz_inflate_free(self.codec);
    lz_queue_end(self.stage->digest_queue);
    if (self.stage->deflate_queue != NULL)
        lz_queue_end(self.stage->deflate_queue);
    lz_queue_end(self.stage->tar_queue);
    return NULL;
}

/* ---- diff ID ---- */

static int digest_tar(struct lz_stage *stage)
{
    struct lz_sha256 *sha256;
    int rc = lz_sha256_new(&sha256);
    if (rc != 0)
        return rc;
    struct lz_chunk *chunk;
    while (rc == 0 && (rc = lz_queue_pop(stage->digest_queue, &chunk)) == 1) {
        rc = lz_sha256_update(sha256, chunk->data, chunk->size);
        lz_chunk_release(chunk);
    }
    if (rc == 0)
        rc = lz_sha256_final(sha256, stage->result.diff_id);
    lz_sha256_free(sha256);
    return rc;
}

void *lz_stage_digest(void *argument)
{
    struct lz_stage *stage = argument;
    lz_stage_fail(stage, digest_tar(stage), NULL);
    return NULL;
}

/* ---- compress: the tar -> SHA-256, blob ---- */

struct deflate {
    struct blob blob;
    struct lz_deflate *codec;
    struct lz_sha256 *sha256;
    uint8_t *out; /* DEFLATE_SIZE */
};

static int deflate_bytes(struct deflate *self, const uint8_t *bytes, size_t size, bool finish, struct lz_detail *detail)
{
    for (;;) {
        size_t written = 0;
        int done = lz_deflate_step(self->codec, &bytes, &size, finish, self->out, DEFLATE_SIZE, &written);
        if (done < 0)
            return done;
        int rc = lz_sha256_update(self->sha256, self->out, written);
        if (rc == 0)
            rc = blob_write(&self->blob, self->out, written, detail);
        if (rc != 0 || done == 1 || (!finish && size == 0 && written < DEFLATE_SIZE))
            return rc;
    }
}

static int deflate_tar(struct deflate *self, struct lz_stage *stage, struct lz_detail *detail)
{
    enum lz_compression kind = stage->options->blob_mode == LZ_BLOB_GZIP ? LZ_COMPRESSION_GZIP : LZ_COMPRESSION_ZSTD;
    int rc = lz_deflate_new(kind, stage->options->blob_level, &self->codec);
    if (rc == -EINVAL)
        return lz_fail(detail, rc, "compression level %d is out of range", stage->options->blob_level);
    if (rc == 0)
        rc = lz_sha256_new(&self->sha256);
    self->out = lz_alloc_array(DEFLATE_SIZE, 1);
    if (rc == 0 && self->out == NULL)
        rc = -ENOMEM;
    if (rc == 0)
        rc = blob_open(&self->blob, stage, true, detail);
    struct lz_chunk *chunk;
    while (rc == 0 && (rc = lz_queue_pop(stage->deflate_queue, &chunk)) == 1) {
        rc = deflate_bytes(self, chunk->data, chunk->size, false, detail);
        lz_chunk_release(chunk);
    }
    if (rc == 0)
        rc = deflate_bytes(self, NULL, 0, true, detail);
    if (rc == 0)
        rc = lz_sha256_final(self->sha256, stage->result.blob_digest);
    stage->result.blob_size = self->blob.size;
    return blob_close(&self->blob, rc, detail);
}

void *lz_stage_deflate(void *argument)
{
    struct lz_stage *stage = argument;
    struct deflate self = {.blob = {.file = {.fd = -1}}};
    struct lz_detail detail = {.text = ""};
    lz_stage_fail(stage, deflate_tar(&self, stage, &detail), &detail);
    lz_deflate_free(self.codec);
    lz_sha256_free(self.sha256);
    free(self.out);
    return NULL;
}
