/* lz_queue.h - chunks of memory that several threads read, and the queues that carry them (internal to ingest).
 *
 * A pool owns a fixed number of equal chunks, so it is what bounds memory: a producer that finds it empty waits until
 * some consumer gives a chunk back. A queue can hold every chunk of its pools, so pushing never waits. Each chunk
 * counts its references; the last lz_chunk_release() puts it back. abort() makes every call, waiting or later, return
 * LZ_E_CANCELLED, so that threads end in any order without a deadlock.
 */
#ifndef LZ_QUEUE_H
#define LZ_QUEUE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/lz_err.h"

struct lz_pool;
struct lz_queue;

struct lz_chunk {
    uint8_t *data;   /* `capacity` bytes */
    size_t size;     /* how many of them are filled; written before the chunk is pushed, constant after */
    size_t capacity; /* the pool's */
    _Atomic unsigned references;
    struct lz_pool *pool;
    struct lz_chunk *next; /* in the pool's list of free chunks */
};

/* `count` chunks of `capacity` bytes. 0 or -ENOMEM. free() wants every chunk back first (NULL is allowed). */
int lz_pool_new(size_t count, size_t capacity, struct lz_pool **out);
void lz_pool_free(struct lz_pool *pool);
void lz_pool_abort(struct lz_pool *pool);

/* An empty chunk with one reference, waiting for one if needed. 0, or LZ_E_CANCELLED after abort(). */
int lz_pool_take(struct lz_pool *pool, struct lz_chunk **out);

void lz_chunk_retain(struct lz_chunk *chunk);
void lz_chunk_release(struct lz_chunk *chunk); /* NULL is allowed */

/* `capacity`: at least the number of chunks that can be on their way. 0 or -ENOMEM. free() releases what is left. */
int lz_queue_new(size_t capacity, struct lz_queue **out);
void lz_queue_free(struct lz_queue *queue);
void lz_queue_abort(struct lz_queue *queue);

/* Takes over one reference of `chunk`, also on failure. 0, or LZ_E_CANCELLED. */
int lz_queue_push(struct lz_queue *queue, struct lz_chunk *chunk);

/* No more will be pushed: pop() returns 0 once the queue is empty. */
void lz_queue_end(struct lz_queue *queue);

/* 1 and *out (the caller owns the reference), 0 at the end, or LZ_E_CANCELLED. */
int lz_queue_pop(struct lz_queue *queue, struct lz_chunk **out);

#endif
