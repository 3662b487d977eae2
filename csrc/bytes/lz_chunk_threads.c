/* One buffer, several threads, the same rows.
 *
 * Each thread takes a segment, and cuts and hashes it as if a chunk began where the segment does. That is a guess; but
 * where a chunk ends is a matter of its bytes, so two rows of chunks that begin at different places soon end one at the
 * same place, and are the same from there on: after 1.6 chunks in the mean, 9 at most (noise, 64 KiB). Then one thread
 * goes through all of it: from where the chunks before a segment end it cuts on until it is where one of the segment's
 * own begins, and takes those. What it has cut by itself is hashed in the end, by all.
 *
 * Bytes in which rows never meet (long runs of one byte) are cut twice, the second time by that one thread. Segments are
 * multiples of the largest chunk, so that a buffer of nothing else meets at once, and blocks of one size always do.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "../base/lz_mem.h"
#include "lz_chunk.h"
#include "lz_sha256_batch.h"

#define SEGMENT_MIN ((size_t)1 << 20)
#define SEGMENT_MAX ((size_t)16 << 20)
#define SEGMENT_CHUNKS 16 /* a segment has so many, that the few that are cut again do not matter */

struct segment {
    struct lz_chunk_rows rows;     /* of the chunks that begin in it, if one began at its start */
    size_t bare_first, bare_count; /* of the job's rows: those that have no digests yet */
};

struct job {
    const struct lz_chunker *chunker;
    const uint8_t *bytes;
    size_t size;
    uint64_t base;
    bool last;
    unsigned digests;

    struct segment *segments;
    size_t segment_size, segment_count;
    struct lz_chunk_row *rows; /* all, while they are hashed */

    atomic_size_t next; /* segment that nobody has taken */
    atomic_int code;    /* the first failure; all stop */
};

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t segment_end(const struct job *job, size_t number)
{
    return smaller(job->size, (number + 1) * job->segment_size);
}

static void fail(struct job *job, int code)
{
    int none = 0;
    (void)atomic_compare_exchange_strong(&job->code, &none, code);
}

/* ---- threads ---- */

/* Runs `body` here and on threads - 1 others, no more than there are segments or than can be had, until all have returned.
 * The job's code. */
static int run(struct job *job, unsigned threads, void *(*body)(void *))
{
    pthread_t others[LZ_CHUNK_THREADS_MAX];
    unsigned started = 0;
    atomic_store(&job->next, 0);
    while (started + 1 < smaller(threads, job->segment_count) && pthread_create(&others[started], NULL, body, job) == 0)
        started++;
    (void)body(job);
    while (started > 0)
        (void)pthread_join(others[--started], NULL);
    return atomic_load(&job->code);
}

/* Calls `work` for one segment after the other, with a hasher. */
static void each(struct job *job, int (*work)(struct job *, size_t, struct lz_sha256_batch *))
{
    struct lz_sha256_batch *hasher = NULL;
    int rc = (job->digests & LZ_CHUNK_SHA256) != 0 ? lz_sha256_batch_new(1, &hasher) : 0;
    while (rc == 0 && atomic_load(&job->code) == 0) {
        size_t number = atomic_fetch_add(&job->next, 1);
        if (number >= job->segment_count)
            break;
        rc = work(job, number, hasher);
    }
    if (rc != 0)
        fail(job, rc);
    lz_sha256_batch_free(hasher);
}

/* ---- segments ---- */

static int cut_segment(struct job *job, size_t number, struct lz_sha256_batch *hasher)
{
    return lz_chunk_run(job->chunker, job->bytes, job->size, number * job->segment_size, segment_end(job, number),
                        job->base, job->last, job->digests, hasher, &job->segments[number].rows);
}

static void *cut_all(void *job)
{
    each(job, cut_segment);
    return NULL;
}

static int hash_segment(struct job *job, size_t number, struct lz_sha256_batch *hasher)
{
    const struct segment *segment = &job->segments[number];
    return lz_chunk_hash(hasher, job->bytes, job->base, job->digests, job->rows + segment->bare_first,
                         segment->bare_count);
}

static void *hash_all(void *job)
{
    each(job, hash_segment);
    return NULL;
}

static int open_segments(struct job *job, unsigned threads)
{
    const struct lz_chunker *chunker = job->chunker;
    size_t size = SEGMENT_MIN;
    if (chunker->min < chunker->max) {
        size = smaller(job->size / threads, SEGMENT_MAX);
        if (size < SEGMENT_MIN || size / SEGMENT_CHUNKS < chunker->average)
            size = chunker->average < SEGMENT_MIN / SEGMENT_CHUNKS ? SEGMENT_MIN : SEGMENT_CHUNKS * chunker->average;
    }
    job->segment_size = (size / chunker->max + (size % chunker->max != 0)) * chunker->max; /* at most 17 GiB */
    job->segment_count = job->size / job->segment_size + (job->size % job->segment_size != 0);
    job->segments = lz_zalloc_array(job->segment_count + 1, sizeof *job->segments);
    return job->segments == NULL ? -ENOMEM : 0;
}

static void close_segments(struct job *job)
{
    for (size_t i = 0; job->segments != NULL && i < job->segment_count; i++)
        free(job->segments[i].rows.rows);
    free(job->segments);
}

/* ---- all together ---- */

static int append(struct lz_chunk_rows *out, const struct lz_chunk_row *rows, size_t count)
{
    void *grown = out->rows;
    int rc = lz_grow(&grown, &out->capacity, out->count + count, sizeof *out->rows);
    if (rc != 0)
        return rc;
    out->rows = grown;
    memcpy(out->rows + out->count, rows, count * sizeof *rows);
    out->count += count;
    return 0;
}

/* From `*at`, which lies in the segment or before it, to the end of its last chunk, or of the bytes: then *open. */
static int join_segment(struct job *job, size_t number, size_t *at, bool *open, struct lz_chunk_rows *out)
{
    struct segment *segment = &job->segments[number];
    const struct lz_chunk_rows *own = &segment->rows;
    size_t end = segment_end(job, number), next = 0;
    int rc = 0;
    segment->bare_first = out->count;
    while (rc == 0 && *at < end) {
        while (next < own->count && own->rows[next].offset - job->base < *at)
            next++;
        if (next < own->count && own->rows[next].offset - job->base == *at) {
            const struct lz_chunk_row *row = &own->rows[own->count - 1];
            *at = (size_t)(row->offset + row->length - job->base);
            return append(out, own->rows + next, own->count - next);
        }
        size_t length = lz_chunker_next(job->chunker, job->bytes + *at, job->size - *at);
        *open = lz_chunk_is_open(job->chunker, job->size, *at, length, job->last);
        if (*open)
            break;
        struct lz_chunk_row row = {.offset = job->base + *at, .length = length};
        rc = append(out, &row, 1);
        *at += length;
        segment->bare_count++;
    }
    return rc;
}

int lz_chunk_buffer_threads(const struct lz_chunker *self, const uint8_t *bytes, size_t size, uint64_t base, bool last,
                            unsigned digests, unsigned threads, struct lz_chunk_rows *out)
{
    struct job job = {.chunker = self, .bytes = bytes, .size = size, .base = base, .last = last, .digests = digests};
    size_t at = 0;
    bool open = false;
    int rc = open_segments(&job, threads);
    if (rc == 0)
        rc = run(&job, threads, cut_all);
    size_t bare = 0;
    for (size_t number = 0; rc == 0 && number < job.segment_count && !open; number++) {
        rc = join_segment(&job, number, &at, &open, out);
        bare += job.segments[number].bare_count;
    }
    if (rc == 0 && digests != 0 && bare > 0) {
        job.rows = out->rows;
        rc = run(&job, threads, hash_all);
    }
    close_segments(&job);
    return rc;
}
