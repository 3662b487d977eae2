#include "lz_queue.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "../base/lz_mem.h"

struct lz_pool {
    pthread_mutex_t lock;
    pthread_cond_t given_back;
    struct lz_chunk *free;
    bool aborted;
    uint8_t *memory; /* one block; pages that no chunk has used yet cost nothing */
    struct lz_chunk *chunks;
};

struct lz_queue {
    pthread_mutex_t lock;
    pthread_cond_t arrived;
    size_t first, count, capacity;
    bool ended, aborted;
    struct lz_chunk **slots;
};

int lz_pool_new(size_t count, size_t capacity, struct lz_pool **out)
{
    struct lz_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL)
        return -ENOMEM;
    pool->memory = lz_alloc_array(count, capacity);
    pool->chunks = lz_zalloc_array(count, sizeof *pool->chunks);
    if (pool->memory == NULL || pool->chunks == NULL) {
        free(pool->memory);
        free(pool->chunks);
        free(pool);
        return -ENOMEM;
    }
    (void)pthread_mutex_init(&pool->lock, NULL); /* with default attributes neither can fail on Linux */
    (void)pthread_cond_init(&pool->given_back, NULL);
    for (size_t i = count; i-- > 0;) {
        struct lz_chunk *chunk = &pool->chunks[i];
        chunk->data = pool->memory + i * capacity;
        chunk->capacity = capacity;
        chunk->pool = pool;
        chunk->next = pool->free;
        pool->free = chunk;
    }
    *out = pool;
    return 0;
}

void lz_pool_free(struct lz_pool *pool)
{
    if (pool == NULL)
        return;
    (void)pthread_cond_destroy(&pool->given_back);
    (void)pthread_mutex_destroy(&pool->lock);
    free(pool->memory);
    free(pool->chunks);
    free(pool);
}

void lz_pool_abort(struct lz_pool *pool)
{
    (void)pthread_mutex_lock(&pool->lock);
    pool->aborted = true;
    (void)pthread_cond_broadcast(&pool->given_back);
    (void)pthread_mutex_unlock(&pool->lock);
}

int lz_pool_take(struct lz_pool *pool, struct lz_chunk **out)
{
    (void)pthread_mutex_lock(&pool->lock);
    while (pool->free == NULL && !pool->aborted)
        (void)pthread_cond_wait(&pool->given_back, &pool->lock);
    struct lz_chunk *chunk = pool->aborted ? NULL : pool->free;
    if (chunk != NULL)
        pool->free = chunk->next;
    (void)pthread_mutex_unlock(&pool->lock);
    if (chunk == NULL)
        return LZ_E_CANCELLED;
    chunk->size = 0;
    atomic_store_explicit(&chunk->references, 1, memory_order_relaxed);
    *out = chunk;
    return 0;
}

void lz_chunk_retain(struct lz_chunk *chunk)
{
    (void)atomic_fetch_add_explicit(&chunk->references, 1, memory_order_relaxed);
}

void lz_chunk_release(struct lz_chunk *chunk)
{
    if (chunk == NULL || atomic_fetch_sub_explicit(&chunk->references, 1, memory_order_acq_rel) != 1)
        return;
    struct lz_pool *pool = chunk->pool;
    (void)pthread_mutex_lock(&pool->lock);
    chunk->next = pool->free; /* last in, first out: the chunk that is still in the cache is used next */
    pool->free = chunk;
    (void)pthread_cond_signal(&pool->given_back);
    (void)pthread_mutex_unlock(&pool->lock);
}

int lz_queue_new(size_t capacity, struct lz_queue **out)
{
    struct lz_queue *queue = calloc(1, sizeof *queue);
    if (queue == NULL)
        return -ENOMEM;
    queue->slots = lz_zalloc_array(capacity, sizeof *queue->slots);
    if (queue->slots == NULL) {
        free(queue);
        return -ENOMEM;
    }
    queue->capacity = capacity;
    (void)pthread_mutex_init(&queue->lock, NULL);
    (void)pthread_cond_init(&queue->arrived, NULL);
    *out = queue;
    return 0;
}

void lz_queue_free(struct lz_queue *queue)
{
    if (queue == NULL)
        return;
    for (size_t i = 0; i < queue->count; i++)
        lz_chunk_release(queue->slots[(queue->first + i) % queue->capacity]);
    (void)pthread_cond_destroy(&queue->arrived);
    (void)pthread_mutex_destroy(&queue->lock);
    free(queue->slots);
    free(queue);
}

static void set_and_wake(struct lz_queue *queue, bool *flag)
{
    (void)pthread_mutex_lock(&queue->lock);
    *flag = true;
    (void)pthread_cond_broadcast(&queue->arrived);
    (void)pthread_mutex_unlock(&queue->lock);
}

void lz_queue_abort(struct lz_queue *queue)
{
    set_and_wake(queue, &queue->aborted);
}

void lz_queue_end(struct lz_queue *queue)
{
    set_and_wake(queue, &queue->ended);
}

int lz_queue_push(struct lz_queue *queue, struct lz_chunk *chunk)
{
    (void)pthread_mutex_lock(&queue->lock);
    bool refused = queue->aborted || queue->ended || queue->count == queue->capacity;
    if (!refused) {
        queue->slots[(queue->first + queue->count) % queue->capacity] = chunk;
        queue->count++;
        (void)pthread_cond_signal(&queue->arrived);
    }
    (void)pthread_mutex_unlock(&queue->lock);
    if (!refused)
        return 0;
    lz_chunk_release(chunk);
    return LZ_E_CANCELLED;
}

int lz_queue_pop(struct lz_queue *queue, struct lz_chunk **out)
{
    (void)pthread_mutex_lock(&queue->lock);
    while (queue->count == 0 && !queue->ended && !queue->aborted)
        (void)pthread_cond_wait(&queue->arrived, &queue->lock);
    int rc = queue->aborted ? LZ_E_CANCELLED : queue->count > 0;
    if (rc == 1) {
        *out = queue->slots[queue->first];
        queue->first = (queue->first + 1) % queue->capacity;
        queue->count--;
    }
    (void)pthread_mutex_unlock(&queue->lock);
    return rc;
}
