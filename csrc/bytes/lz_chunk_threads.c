/* One buffer, several threads, the same rows. First every segment of it is searched for hits, whatever chunk they will be
 * in (a hit is a property of its position); then one thread walks from hit to hit; then rows are hashed, some at a time. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "../base/lz_mem.h"
#include "lz_chunk.h"
#include "lz_sha256_batch.h"

#define SEGMENT ((size_t)1 << 20)
#define HASH_BYTES ((size_t)1 << 20) /* of a thread's share of rows: pairs of messages want company */

/* The hits of one segment in order: position in the segment times two, plus one where it is a strict one. Bytes that hit
 * at every position would make more of them than there is room for: then the list ends early. */
struct segment {
    uint32_t *hits;
    uint32_t count;
    size_t known; /* up to here, from the start of the buffer, the list is complete */
};

struct job {
    const struct lz_chunker *chunker;
    const uint8_t *bytes;
    size_t size;
    uint64_t base;
    unsigned digests;

    struct segment *segments;
    size_t segment_count;
    uint32_t *hits; /* of all segments */
    size_t hits_each;

    struct lz_chunk_row *rows;
    size_t row_count, rows_each, share_count;

    atomic_size_t next; /* segment or share of rows that nobody has taken */
    atomic_int code;    /* the first failure; all stop */
};

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static void fail(struct job *job, int code)
{
    int none = 0;
    (void)atomic_compare_exchange_strong(&job->code, &none, code);
}

/* ---- threads ---- */

/* Runs `body` here and on threads - 1 others, no more than there are parts, until all have returned. The job's code. */
static int run(struct job *job, unsigned threads, size_t parts, void *(*body)(void *))
{
    pthread_t others[LZ_CHUNK_THREADS_MAX];
    unsigned started = 0;
    atomic_store(&job->next, 0);
    while (started + 1 < smaller(threads, parts)) {
        int error = pthread_create(&others[started], NULL, body, job);
        if (error != 0) {
            fail(job, -error);
            break;
        }
        started++;
    }
    (void)body(job);
    while (started > 0)
        (void)pthread_join(others[--started], NULL);
    return atomic_load(&job->code);
}

static bool take(struct job *job, size_t count, size_t *number)
{
    if (atomic_load(&job->code) != 0)
        return false;
    *number = atomic_fetch_add(&job->next, 1);
    return *number < count;
}

/* ---- hits ---- */

static void search(struct job *job, size_t number)
{
    const struct lz_chunker *chunker = job->chunker;
    struct segment *segment = &job->segments[number];
    size_t start = number * SEGMENT, end = smaller(start + SEGMENT, job->size);
    size_t at = start < LZ_CHUNK_WINDOW ? LZ_CHUNK_WINDOW - 1 : start; /* no chunk ends before: see `min` */
    uint32_t *hits = job->hits + number * job->hits_each, count = 0;
    while (at < end && count < job->hits_each) {
        size_t hit = lz_gear_scan_fast(chunker->table, job->bytes, at, end, chunker->loose);
        if (hit < end) {
            bool strict = lz_gear_scan_fast(chunker->table, job->bytes, hit, hit + 1, chunker->strict) == hit;
            hits[count++] = (uint32_t)(hit - start) << 1 | strict;
            hit++;
        }
        at = hit;
    }
    *segment = (struct segment){.hits = hits, .count = count, .known = at < end ? at : end};
}

static void *search_all(void *argument)
{
    struct job *job = argument;
    size_t number;
    while (take(job, job->segment_count, &number))
        search(job, number);
    return NULL;
}

static int open_segments(struct job *job)
{
    uint64_t share = ~0ull / job->chunker->loose; /* one position in this many hits */
    job->segment_count = job->size / SEGMENT + (job->size % SEGMENT != 0);
    job->hits_each = 2 * (SEGMENT / share) + 16;
    job->segments = lz_zalloc_array(job->segment_count, sizeof *job->segments);
    uint64_t all;
    if (job->segments == NULL || lz_mul_size(job->segment_count, job->hits_each, &all) != 0)
        return -ENOMEM;
    job->hits = lz_alloc_array(all, sizeof *job->hits);
    return job->hits == NULL ? -ENOMEM : 0;
}

/* ---- the walk ---- */

struct walk {
    const struct job *job;
    size_t segment;
    uint32_t hit; /* all before it, in this segment, lie behind the walk */
};

/* What a kernel would find: the first hit from `from` to `to`, or `to`. Calls come in ascending order. */
static size_t find(struct walk *walk, size_t from, size_t to, bool strict)
{
    const struct job *job = walk->job;
    while (from < to) {
        const struct segment *segment = &job->segments[walk->segment];
        size_t start = walk->segment * SEGMENT, end = smaller(start + SEGMENT, job->size);
        for (; walk->hit < segment->count; walk->hit++) {
            size_t at = start + (segment->hits[walk->hit] >> 1);
            if (at >= to)
                return to;
            if (at >= from && (!strict || (segment->hits[walk->hit] & 1) != 0))
                return at;
        }
        size_t rest = from > segment->known ? from : segment->known, stop = smaller(to, end);
        if (rest < stop) {
            uint64_t limit = strict ? job->chunker->strict : job->chunker->loose;
            size_t at = lz_gear_scan_fast(job->chunker->table, job->bytes, rest, stop, limit);
            if (at < stop)
                return at;
        }
        if (to <= end)
            return to;
        walk->segment++;
        walk->hit = 0;
    }
    return to;
}

static int cut(struct job *job, bool last, struct lz_chunk_rows *out)
{
    const struct lz_chunker *chunker = job->chunker;
    struct walk walk = {.job = job};
    void *rows = out->rows;
    for (size_t at = 0; at < job->size;) {
        struct lz_chunk_range range = lz_chunk_range(chunker, at, job->size);
        size_t end = range.end;
        if (range.strict_from != range.end) {
            end = find(&walk, range.strict_from, range.loose_from, true);
            if (end == range.loose_from)
                end = find(&walk, range.loose_from, range.end - 1, false);
            end++;
        }
        if (!last && end == job->size && end - at < chunker->max)
            break;
        int rc = lz_grow(&rows, &out->capacity, out->count + 1, sizeof *out->rows);
        if (rc != 0)
            return rc;
        out->rows = rows;
        out->rows[out->count++] = (struct lz_chunk_row){.offset = job->base + at, .length = end - at};
        at = end;
    }
    return 0;
}

/* ---- digests ---- */

static void *hash_all(void *argument)
{
    struct job *job = argument;
    struct lz_sha256_batch *hasher = NULL;
    size_t number;
    int rc = (job->digests & LZ_CHUNK_SHA256) != 0 ? lz_sha256_batch_new(1, &hasher) : 0;
    while (rc == 0 && take(job, job->share_count, &number)) {
        size_t first = number * job->rows_each, count = smaller(job->rows_each, job->row_count - first);
        rc = lz_chunk_hash(hasher, job->bytes, job->base, job->digests, job->rows + first, count);
    }
    if (rc != 0)
        fail(job, rc);
    lz_sha256_batch_free(hasher);
    return NULL;
}

int lz_chunk_buffer_threads(const struct lz_chunker *self, const uint8_t *bytes, size_t size, uint64_t base, bool last,
                            unsigned digests, unsigned threads, struct lz_chunk_rows *out)
{
    struct job job = {.chunker = self, .bytes = bytes, .size = size, .base = base, .digests = digests};
    size_t before = out->count;
    int rc = 0;
    if (self->min < self->max) {
        rc = open_segments(&job);
        if (rc == 0)
            rc = run(&job, threads, job.segment_count, search_all);
    }
    if (rc == 0)
        rc = cut(&job, last, out);
    free(job.segments);
    free(job.hits);
    job.rows_each = 2 + HASH_BYTES / self->average;
    job.row_count = out->count - before;
    job.share_count = job.row_count / job.rows_each + (job.row_count % job.rows_each != 0);
    if (rc == 0 && digests != 0 && job.row_count > 0) {
        job.rows = out->rows + before;
        rc = run(&job, threads, job.share_count, hash_all);
    }
    return rc;
}
