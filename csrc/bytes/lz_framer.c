#include "lz_framer.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "../base/lz_mem.h"
#include "lz_sha256_batch.h"

#define JOB_FULL ((size_t)1 << 20) /* a job with this many bytes is handed on, so it never holds more than twice that */
#define JOB_SIZE (JOB_FULL + LZ_FRAME_MAX)
#define HASH_AT_ONCE 16
#define DEFAULT_LEVEL 3

enum state { FREE, WAITING, RUNNING, DONE };

struct frame {
    size_t offset, size; /* in the job's bytes */
    size_t note_offset, note_size;
    size_t packed_size;
    bool with_digest;
    uint8_t digest[LZ_SHA256_SIZE];
};

struct job {
    enum state state; /* under the framer's lock */
    int code;         /* of who ran it */
    uint8_t *bytes;   /* JOB_SIZE */
    size_t used;
    struct frame *frames;
    size_t count, capacity;
    struct lz_buf notes, packed;
};

/* What a thread needs to run a job. */
struct tools {
    ZSTD_CCtx *zstd;
    struct lz_sha256_batch *hasher;
};

struct lz_framer {
    lz_framed_take *take;
    void *ctx;
    struct job *jobs; /* a ring: [oldest, filling] are in use, the last one is being filled */
    size_t job_count, oldest, filling;
    int code; /* of take() or a job: everything is over */

    pthread_mutex_t lock;
    pthread_cond_t work, done;
    bool locks, stop;
    struct tools tools[LZ_FRAMER_THREADS_MAX]; /* [0] is the caller's */
    pthread_t threads[LZ_FRAMER_THREADS_MAX];
    unsigned tool_count, started;
    struct worker {
        struct lz_framer *framer;
        struct tools *tools;
    } workers[LZ_FRAMER_THREADS_MAX];
};

/* ---- one job ---- */

static int hash_frames(struct job *job, struct lz_sha256_batch *hasher)
{
    struct lz_message messages[HASH_AT_ONCE];
    size_t gathered = 0;
    for (size_t i = 0; i < job->count; i++) {
        struct frame *frame = &job->frames[i];
        if (frame->with_digest)
            messages[gathered++] = (struct lz_message){job->bytes + frame->offset, frame->size, frame->digest};
        if (gathered == HASH_AT_ONCE || (gathered > 0 && i + 1 == job->count)) {
            int rc = lz_sha256_batch(hasher, messages, gathered);
            if (rc != 0)
                return rc;
            gathered = 0;
        }
    }
    return 0;
}

static int compress_frames(struct job *job, ZSTD_CCtx *zstd)
{
    size_t bound = 0;
    for (size_t i = 0; i < job->count; i++)
        bound += ZSTD_compressBound(job->frames[i].size);
    job->packed.size = 0;
    int rc = lz_buf_reserve(&job->packed, bound);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < job->count; i++) {
        struct frame *frame = &job->frames[i];
        size_t size = ZSTD_compress2(zstd, job->packed.data + job->packed.size, bound - job->packed.size,
                                     job->bytes + frame->offset, frame->size);
        if (ZSTD_isError(size))
            return ZSTD_getErrorCode(size) == ZSTD_error_memory_allocation ? -ENOMEM : -EIO;
        frame->packed_size = size;
        job->packed.size += size;
    }
    return 0;
}

/* Runs the oldest job that waits; the lock is held on both sides. False when none does. */
static bool run_one(struct lz_framer *self, struct tools *tools)
{
    struct job *job = NULL;
    for (size_t at = self->oldest; at != self->filling && job == NULL; at = (at + 1) % self->job_count)
        job = self->jobs[at].state == WAITING ? &self->jobs[at] : NULL;
    if (job == NULL)
        return false;
    job->state = RUNNING;
    (void)pthread_mutex_unlock(&self->lock);
    job->code = hash_frames(job, tools->hasher);
    if (job->code == 0)
        job->code = compress_frames(job, tools->zstd);
    (void)pthread_mutex_lock(&self->lock);
    job->state = DONE;
    (void)pthread_cond_signal(&self->done);
    return true;
}

static void *work(void *argument)
{
    const struct worker *worker = argument;
    struct lz_framer *self = worker->framer;
    (void)pthread_mutex_lock(&self->lock);
    while (!self->stop) {
        if (!run_one(self, worker->tools))
            (void)pthread_cond_wait(&self->work, &self->lock);
    }
    (void)pthread_mutex_unlock(&self->lock);
    return NULL;
}

/* ---- the caller's side ---- */

static int take_job(struct lz_framer *self, struct job *job)
{
    const uint8_t *packed = job->packed.data;
    int rc = job->code;
    for (size_t i = 0; i < job->count && rc == 0; i++) {
        const struct frame *frame = &job->frames[i];
        const struct lz_framed framed = {
            .note = frame->note_size > 0 ? job->notes.data + frame->note_offset : NULL,
            .note_size = frame->note_size,
            .packed = packed,
            .packed_size = frame->packed_size,
            .size = frame->size,
            .digest = frame->with_digest ? frame->digest : NULL,
        };
        rc = self->take(self->ctx, &framed);
        packed += frame->packed_size;
    }
    job->used = job->count = job->notes.size = 0;
    return rc;
}

/* Takes the oldest job; runs jobs itself until that one is done. */
static int take_oldest(struct lz_framer *self)
{
    struct job *job = &self->jobs[self->oldest];
    (void)pthread_mutex_lock(&self->lock);
    while (job->state != DONE) {
        if (!run_one(self, &self->tools[0]))
            (void)pthread_cond_wait(&self->done, &self->lock);
    }
    job->state = FREE;
    self->oldest = (self->oldest + 1) % self->job_count;
    (void)pthread_mutex_unlock(&self->lock);
    self->code = take_job(self, job);
    return self->code;
}

/* Hands the job that is being filled to the threads, and takes the oldest where no other is free to be filled. */
static int hand_on(struct lz_framer *self)
{
    size_t next = (self->filling + 1) % self->job_count;
    int rc = next == self->oldest ? take_oldest(self) : 0;
    if (rc != 0)
        return rc;
    (void)pthread_mutex_lock(&self->lock);
    self->jobs[self->filling].state = WAITING;
    self->filling = next;
    (void)pthread_cond_signal(&self->work);
    (void)pthread_mutex_unlock(&self->lock);
    return 0;
}

int lz_framer_room(struct lz_framer *self, size_t size, uint8_t **out)
{
    if (size == 0 || size > LZ_FRAME_MAX)
        return -EINVAL;
    if (self->code != 0)
        return self->code;
    int rc = self->jobs[self->filling].used >= JOB_FULL ? hand_on(self) : 0;
    struct job *job = &self->jobs[self->filling];
    if (rc == 0)
        *out = job->bytes + job->used;
    return rc;
}

int lz_framer_add(struct lz_framer *self, size_t size, bool with_digest, const void *note, size_t note_size)
{
    struct job *job = &self->jobs[self->filling];
    int rc = lz_grow((void **)&job->frames, &job->capacity, job->count + 1, sizeof *job->frames);
    if (rc == 0 && note_size > 0)
        rc = lz_buf_append(&job->notes, note, note_size);
    if (rc != 0)
        return rc;
    job->frames[job->count++] = (struct frame){.offset = job->used,
                                               .size = size,
                                               .note_offset = job->notes.size - note_size,
                                               .note_size = note_size,
                                               .with_digest = with_digest};
    job->used += size;
    return 0;
}

int lz_framer_finish(struct lz_framer *self)
{
    int rc = self->code;
    if (rc == 0 && self->jobs[self->filling].count > 0)
        rc = hand_on(self);
    while (rc == 0 && self->oldest != self->filling)
        rc = take_oldest(self);
    return rc;
}

/* ---- life ---- */

static int new_tools(struct tools *tools, int level)
{
    tools->zstd = ZSTD_createCCtx();
    if (tools->zstd == NULL)
        return -ENOMEM;
    if (ZSTD_isError(ZSTD_CCtx_setParameter(tools->zstd, ZSTD_c_compressionLevel, level != 0 ? level : DEFAULT_LEVEL)))
        return -EINVAL;
    return lz_sha256_batch_new(1, &tools->hasher);
}

static int new_jobs(struct lz_framer *self, unsigned threads)
{
    self->job_count = threads + 3;
    self->jobs = lz_zalloc_array(self->job_count, sizeof *self->jobs);
    if (self->jobs == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < self->job_count; i++) {
        self->jobs[i].bytes = malloc(JOB_SIZE);
        if (self->jobs[i].bytes == NULL)
            return -ENOMEM;
    }
    return 0;
}

static int start(struct lz_framer *self, unsigned threads, int level)
{
    int rc = new_jobs(self, threads);
    for (unsigned i = 0; i < threads && rc == 0; i++) {
        self->tool_count = i + 1;
        rc = new_tools(&self->tools[i], level);
    }
    if (rc != 0)
        return rc;
    if (pthread_mutex_init(&self->lock, NULL) != 0 || pthread_cond_init(&self->work, NULL) != 0 ||
        pthread_cond_init(&self->done, NULL) != 0)
        return -ENOMEM; /* on Linux they cannot fail */
    self->locks = true;
    for (unsigned i = 1; i < threads; i++) {
        self->workers[i] = (struct worker){self, &self->tools[i]};
        if (pthread_create(&self->threads[self->started], NULL, work, &self->workers[i]) != 0)
            break; /* the caller runs what nobody else does */
        self->started++;
    }
    return 0;
}

int lz_framer_new(unsigned threads, int level, lz_framed_take *take, void *ctx, struct lz_framer **out)
{
    if (threads == 0 || threads > LZ_FRAMER_THREADS_MAX || level < 0 || level > ZSTD_maxCLevel())
        return -EINVAL;
    struct lz_framer *self = calloc(1, sizeof *self);
    if (self == NULL)
        return -ENOMEM;
    self->take = take;
    self->ctx = ctx;
    int rc = start(self, threads, level);
    if (rc != 0) {
        lz_framer_free(self);
        return rc;
    }
    *out = self;
    return 0;
}

void lz_framer_free(struct lz_framer *self)
{
    if (self == NULL)
        return;
    if (self->locks) {
        (void)pthread_mutex_lock(&self->lock);
        self->stop = true;
        (void)pthread_cond_broadcast(&self->work);
        (void)pthread_mutex_unlock(&self->lock);
        while (self->started > 0)
            (void)pthread_join(self->threads[--self->started], NULL);
        (void)pthread_cond_destroy(&self->work);
        (void)pthread_cond_destroy(&self->done);
        (void)pthread_mutex_destroy(&self->lock);
    }
    for (unsigned i = 0; i < self->tool_count; i++) {
        ZSTD_freeCCtx(self->tools[i].zstd);
        lz_sha256_batch_free(self->tools[i].hasher);
    }
    for (size_t i = 0; self->jobs != NULL && i < self->job_count; i++) {
        free(self->jobs[i].bytes);
        free(self->jobs[i].frames);
        lz_buf_free(&self->jobs[i].notes);
        lz_buf_free(&self->jobs[i].packed);
    }
    free(self->jobs);
    free(self);
}
