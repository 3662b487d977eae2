#include "lz_ingest.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "../base/lz_mem.h"
#include "lz_stage.h"

/* Chunks of 128 KiB stay in the second-level cache on their way from inflate to the two hashes; of the sizes from
 * 64 KiB to 1 MiB they were the fastest by a few per cent. 8 MiB in all, whatever the layer. */
#define CHUNK_SIZE (128u * 1024)
#define SOURCE_CHUNKS 16u
#define TAR_CHUNKS 48u

static const struct lz_ingest_limits default_limits = {
    .max_tar_size = (uint64_t)1 << 40,
    .max_ratio = 1100,
    .max_file_size = (uint64_t)1 << 40,
    .max_entries = (uint64_t)16 << 20,
    .inline_limit = 4096,
};

static uint64_t or_default(uint64_t value, uint64_t fallback)
{
    return value != 0 ? value : fallback;
}

static struct lz_ingest_limits fill_limits(const struct lz_ingest_limits *asked)
{
    return (struct lz_ingest_limits){
        .max_tar_size = or_default(asked->max_tar_size, default_limits.max_tar_size),
        .max_ratio = or_default(asked->max_ratio, default_limits.max_ratio),
        .max_file_size = or_default(asked->max_file_size, default_limits.max_file_size),
        .max_entries = or_default(asked->max_entries, default_limits.max_entries),
        .inline_limit = or_default(asked->inline_limit, default_limits.inline_limit),
    };
}

void lz_stage_fail(struct lz_stage *stage, int code, const struct lz_detail *detail)
{
    if (code == 0)
        return;
    (void)pthread_mutex_lock(&stage->lock);
    if (stage->code == 0) {
        stage->code = code;
        if (detail != NULL)
            stage->detail = *detail;
    }
    (void)pthread_mutex_unlock(&stage->lock);
    lz_pool_abort(stage->source_pool);
    lz_pool_abort(stage->tar_pool);
    lz_queue_abort(stage->source_queue);
    lz_queue_abort(stage->digest_queue);
    if (stage->deflate_queue != NULL)
        lz_queue_abort(stage->deflate_queue);
    lz_queue_abort(stage->tar_queue);
}

int lz_stage_cancelled(struct lz_stage *stage, struct lz_detail *detail)
{
    if (atomic_load_explicit(&stage->progress->cancel, memory_order_relaxed) != 0)
        return lz_fail(detail, LZ_E_CANCELLED, "cancelled after %llu bytes",
                       (unsigned long long)atomic_load_explicit(&stage->progress->source_bytes, memory_order_relaxed));
    (void)pthread_mutex_lock(&stage->lock);
    int code = stage->code;
    (void)pthread_mutex_unlock(&stage->lock);
    return code != 0 ? LZ_E_CANCELLED : 0;
}

int lz_stage_create(struct lz_stage *stage, const char *name, struct lz_detail *detail)
{
    int fd = stage->sys->openat(stage->sys->ctx, stage->options->staging_fd, name,
                                O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
    return fd < 0 ? lz_fail(detail, fd, "creating %s in staging: %s", name, lz_error_text(fd)) : fd;
}

static bool deflates(const struct lz_stage *stage)
{
    return stage->options->blob_mode == LZ_BLOB_GZIP || stage->options->blob_mode == LZ_BLOB_ZSTD;
}

static int open_stage(struct lz_stage *stage)
{
    size_t all = SOURCE_CHUNKS + TAR_CHUNKS; /* an uncompressed source's chunks are the tar's */
    int rc = lz_pool_new(SOURCE_CHUNKS, CHUNK_SIZE, &stage->source_pool);
    if (rc == 0)
        rc = lz_pool_new(TAR_CHUNKS, CHUNK_SIZE, &stage->tar_pool);
    if (rc == 0)
        rc = lz_queue_new(SOURCE_CHUNKS, &stage->source_queue);
    if (rc == 0)
        rc = lz_queue_new(all, &stage->digest_queue);
    if (rc == 0)
        rc = lz_queue_new(all, &stage->tar_queue);
    if (rc == 0 && deflates(stage))
        rc = lz_queue_new(all, &stage->deflate_queue);
    return rc;
}

static void close_stage(struct lz_stage *stage)
{
    lz_queue_free(stage->source_queue); /* queues first: what they hold goes back to the pools */
    lz_queue_free(stage->digest_queue);
    lz_queue_free(stage->deflate_queue);
    lz_queue_free(stage->tar_queue);
    lz_pool_free(stage->source_pool);
    lz_pool_free(stage->tar_pool);
    (void)pthread_mutex_destroy(&stage->lock);
}

/* Starts the threads, runs the tar stage here, joins. What failed, if anything did, is in stage->code. */
static void run_stages(struct lz_stage *stage, struct lz_tar_stage *tar)
{
    void *(*const bodies[])(void *) = {lz_stage_read, lz_stage_inflate, lz_stage_digest, lz_stage_deflate};
    size_t wanted = deflates(stage) ? 4 : 3;
    pthread_t threads[4];
    size_t started = 0;
    struct lz_detail detail = {.text = ""};
    while (started < wanted) {
        int error = pthread_create(&threads[started], NULL, bodies[started], stage);
        if (error != 0) {
            (void)lz_fail(&detail, -error, "starting %zu threads: %s", wanted, lz_error_text(-error));
            lz_stage_fail(stage, -error, &detail);
            break;
        }
        started++;
    }
    if (started == wanted)
        lz_stage_fail(stage, lz_tar_stage_run(tar, &detail), &detail);
    while (started > 0)
        (void)pthread_join(threads[--started], NULL);
}

static int ingest(struct lz_stage *stage, struct lz_detail *detail)
{
    struct lz_tar_stage *tar;
    int rc = open_stage(stage);
    if (rc == 0)
        rc = lz_tar_stage_new(stage, &tar, detail);
    if (rc != 0)
        return rc;
    run_stages(stage, tar);
    rc = stage->code;
    if (rc != 0 && detail != NULL)
        *detail = stage->detail;
    if (rc == 0 && stage->result.compression == LZ_COMPRESSION_NONE)
        memcpy(stage->result.diff_id, stage->result.source_digest, sizeof stage->result.diff_id);
    if (rc == 0)
        rc = lz_tar_stage_finish(tar, detail);
    lz_tar_stage_free(tar);
    return rc;
}

int lz_ingest(const struct lz_sys *sys, const struct lz_ingest_options *options, struct lz_ingest_progress *progress,
              struct lz_ingest_result *result, struct lz_detail *detail)
{
    if (detail != NULL)
        detail->text[0] = 0;
    if (options->source_size > INT64_MAX && options->source_size != UINT64_MAX)
        return lz_fail(detail, LZ_E_LIMIT, "a size of %llu bytes", (unsigned long long)options->source_size);
    if (options->source_offset >= 0 && options->source_size != UINT64_MAX &&
        options->source_size > (uint64_t)(INT64_MAX - options->source_offset))
        return lz_fail(detail, LZ_E_LIMIT, "offset and size pass the largest file");
    struct lz_ingest_progress own = {0};
    struct lz_stage stage = {
        .sys = sys,
        .options = options,
        .limits = fill_limits(&options->limits),
        .progress = progress != NULL ? progress : &own,
        .lock = PTHREAD_MUTEX_INITIALIZER,
    };
    int rc = ingest(&stage, detail);
    close_stage(&stage);
    if (rc == 0)
        *result = stage.result;
    return rc;
}
