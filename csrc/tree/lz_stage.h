/* lz_stage.h - what the stages of one ingest share (internal to lz_ingest*.c).
 *
 * Fields of `result` belong to one stage each and are read after all threads are joined. The first failure wins:
 * lz_stage_fail() keeps it and aborts every pool and queue, so that all other stages end with LZ_E_CANCELLED, which
 * does not count as theirs.
 */
#ifndef LZ_STAGE_H
#define LZ_STAGE_H

#include <pthread.h>

#include "lz_ingest.h"
#include "lz_queue.h"

struct lz_stage {
    const struct lz_sys *sys;
    const struct lz_ingest_options *options;
    struct lz_ingest_limits limits; /* with the defaults filled in */
    struct lz_ingest_progress *progress;
    struct lz_ingest_result result;

    struct lz_pool *source_pool, *tar_pool;
    struct lz_queue *source_queue;  /* reader -> inflate */
    struct lz_queue *digest_queue;  /* inflate -> diff ID; unused when the source is the tar itself */
    struct lz_queue *deflate_queue; /* inflate -> compress; NULL unless asked for */
    struct lz_queue *tar_queue;     /* inflate -> tar */

    pthread_mutex_t lock; /* of the two below */
    int code;
    struct lz_detail detail;
};

/* Records `code` unless a failure is recorded already, then aborts everything. 0 is ignored. */
void lz_stage_fail(struct lz_stage *stage, int code, const struct lz_detail *detail);

/* LZ_E_CANCELLED when the caller asked to stop or another stage failed, else 0. */
int lz_stage_cancelled(struct lz_stage *stage, struct lz_detail *detail);

/* A new file of the layer, 0444: its fd (for reading and writing), or -errno. */
int lz_stage_create(struct lz_stage *stage, const char *name, struct lz_detail *detail);

/* Threads; each takes a struct lz_stage and reports through lz_stage_fail(). (lz_ingest_stages.c) */
void *lz_stage_read(void *stage);
void *lz_stage_inflate(void *stage);
void *lz_stage_digest(void *stage);
void *lz_stage_deflate(void *stage);

/* The tar stage, run by the caller; finish_tar() writes index and recipe once the diff ID is known.
 * (lz_ingest_tar.c) */
struct lz_tar_stage;
int lz_tar_stage_new(struct lz_stage *stage, struct lz_tar_stage **out, struct lz_detail *detail);
int lz_tar_stage_run(struct lz_tar_stage *self, struct lz_detail *detail);
int lz_tar_stage_finish(struct lz_tar_stage *self, struct lz_detail *detail);
void lz_tar_stage_free(struct lz_tar_stage *self);

#endif
