/* Ingest: what a layer becomes, and what is written once only. Under ThreadSanitizer too (`make threads`). */
#include "layer.h"
#include "refuse.h"

static int threads_left = -1; /* that can be had; -1: any number */

static bool refuse(void)
{
    return threads_left >= 0 && threads_left-- == 0;
}
WRAP(int, pthread_create, EAGAIN, (pthread_t * a, const pthread_attr_t *b, void *(*c)(void *), void *d), (a, b, c, d))

/* ---- cases ---- */

static void *wait_for_chunk(void *queue)
{
    struct lz_chunk *chunk = NULL;
    return lz_queue_pop(queue, &chunk) == LZ_E_CANCELLED ? queue : NULL;
}

static void *wait_for_memory(void *pool)
{
    struct lz_chunk *chunk = NULL;
    return lz_pool_take(pool, &chunk) == LZ_E_CANCELLED ? pool : NULL;
}

static void queue(void)
{
    struct lz_pool *pool;
    struct lz_queue *line;
    struct lz_chunk *chunks[3], *got;
    CHECK_EQ(lz_pool_new(3, 100, &pool), 0);
    CHECK_EQ(lz_queue_new(3, &line), 0);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(lz_pool_take(pool, &chunks[i]), 0);
        lz_chunk_retain(chunks[i]);
        CHECK_EQ(lz_queue_push(line, chunks[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(lz_queue_pop(line, &got), 1);
        CHECK(got == chunks[i]);
        lz_chunk_release(got);
    }
    pthread_t threads[2];
    CHECK_EQ(pthread_create(&threads[0], NULL, wait_for_chunk, line), 0);
    CHECK_EQ(pthread_create(&threads[1], NULL, wait_for_memory, pool), 0);
    (void)usleep(10000);
    lz_queue_abort(line);
    lz_pool_abort(pool);
    void *outcome;
    CHECK_EQ(pthread_join(threads[0], &outcome), 0);
    CHECK(outcome == line);
    CHECK_EQ(pthread_join(threads[1], &outcome), 0);
    CHECK(outcome == pool);
    CHECK_EQ(lz_queue_push(line, chunks[0]), LZ_E_CANCELLED);
    lz_chunk_release(chunks[1]);
    lz_chunk_release(chunks[2]);
    lz_queue_free(line);
    lz_pool_free(pool);
    CHECK_EQ(lz_queue_new(1, &line), 0);
    lz_queue_end(line);
    CHECK_EQ(lz_queue_pop(line, &got), 0);
    lz_queue_free(line);
}

static void whole_layer(void)
{
    struct lz_buf tar = sample(1, SIZE_MAX), gzip = gzipped(&tar);
    const struct lz_buf *const sources[2] = {&tar, &gzip};
    for (int i = 0; i < 2; i++) {
        struct room room = open_room(sources[i]);
        struct lz_ingest_options options = options_of(&room);
        struct lz_ingest_result result;
        uint8_t digest[32];
        options.blob_mode = LZ_BLOB_KEEP;
        options.source_size = sources[i]->size;
        CHECK_EQ(ingest(&options, &result), 0);
        CHECK_EQ(result.compression, i == 0 ? LZ_COMPRESSION_NONE : LZ_COMPRESSION_GZIP);
        CHECK_EQ(result.tar_size, tar.size);
        CHECK_EQ(result.source_size, sources[i]->size);
        CHECK_EQ(result.blob_size, sources[i]->size);
        sha256(tar.data, tar.size, digest);
        CHECK(memcmp(digest, result.diff_id, 32) == 0);
        sha256(sources[i]->data, sources[i]->size, digest);
        CHECK(memcmp(digest, result.source_digest, 32) == 0);
        CHECK(memcmp(digest, result.blob_digest, 32) == 0);
        size_t size;
        uint8_t *blob = read_file(room.staging, "blob", &size);
        CHECK_EQ(size, sources[i]->size);
        CHECK(memcmp(blob, sources[i]->data, size) == 0);
        free(blob);
        CHECK_EQ(result.object_count, 7);
        CHECK_EQ(result.new_object_count, 7);
        CHECK_EQ(result.inline_bytes, 2 * (1 + 511 + 4096));
        CHECK_EQ(check_objects(room.staged), 7);
        check_index(&room, &result);
        publish(&room);
        check_replay(&room, &tar);
        close_room(&room);
    }
    lz_buf_free(&tar);
    lz_buf_free(&gzip);
}

static void compressed_again(void)
{
    struct lz_buf tar = sample(2, SIZE_MAX), gzip = gzipped(&tar);
    for (int mode = LZ_BLOB_GZIP; mode <= LZ_BLOB_ZSTD; mode++) {
        struct room room = open_room(&gzip);
        struct lz_ingest_options options = options_of(&room);
        struct lz_ingest_result result, again;
        options.blob_mode = (enum lz_blob_mode)mode;
        options.blob_level = 1;
        CHECK_EQ(ingest(&options, &result), 0);
        size_t size;
        uint8_t digest[32];
        uint8_t *blob = read_file(room.staging, "blob", &size);
        CHECK_EQ(size, result.blob_size);
        sha256(blob, size, digest);
        CHECK(memcmp(digest, result.blob_digest, 32) == 0);
        struct room second = open_room(&(struct lz_buf){.data = blob, .size = size});
        options = options_of(&second);
        CHECK_EQ(ingest(&options, &again), 0);
        CHECK(memcmp(again.diff_id, result.diff_id, 32) == 0);
        CHECK_EQ(again.compression, mode == LZ_BLOB_GZIP ? LZ_COMPRESSION_GZIP : LZ_COMPRESSION_ZSTD);
        free(blob);
        close_room(&second);
        close_room(&room);
    }
    lz_buf_free(&tar);
    lz_buf_free(&gzip);
}

static void present_content_is_not_written(void)
{
    struct lz_buf tar = sample(3, SIZE_MAX);
    struct room room = open_room(&tar);
    struct lz_ingest_options options = options_of(&room);
    struct lz_ingest_result result;
    CHECK_EQ(ingest(&options, &result), 0);
    publish(&room);
    options.staging_fd = make_dir(room.dir, "second");
    CHECK_EQ(ingest(&options, &result), 0);
    CHECK_EQ(result.object_count, 7);
    CHECK_EQ(result.new_object_count, 0);
    CHECK_EQ(result.new_object_bytes, 0);
    CHECK_EQ(check_objects(room.staged), 7); /* linked, so that no collection can take them meanwhile */
    (void)close(options.staging_fd);
    options.staging_fd = make_dir(room.dir, "third");
    CHECK_EQ(ingest(&options, &result), 0);
    CHECK_EQ(result.new_object_count, 0);
    (void)close(options.staging_fd);
    close_room(&room);
    lz_buf_free(&tar);
}

struct race {
    struct lz_ingest_options options;
    struct lz_ingest_result result;
    int rc;
};

static void *run_race(void *argument)
{
    struct race *race = argument;
    race->rc = ingest(&race->options, &race->result);
    return NULL;
}

static void several_at_once(void)
{
    enum { COUNT = 4 };
    struct lz_buf tar = sample(4, SIZE_MAX), gzip = gzipped(&tar);
    struct room room = open_room(&gzip);
    struct race races[COUNT];
    pthread_t threads[COUNT];
    uint64_t written = 0;
    for (int i = 0; i < COUNT; i++) {
        char name[24];
        (void)snprintf(name, sizeof name, "layer%d", i);
        races[i].options = options_of(&room);
        races[i].options.staging_fd = make_dir(room.dir, name);
        CHECK_EQ(pthread_create(&threads[i], NULL, run_race, &races[i]), 0);
    }
    for (int i = 0; i < COUNT; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
        CHECK_EQ(races[i].rc, 0);
        CHECK(memcmp(races[i].result.diff_id, races[0].result.diff_id, 32) == 0);
        written += races[i].result.new_object_count;
        (void)close(races[i].options.staging_fd);
    }
    CHECK_EQ(written, 7);
    CHECK_EQ(check_objects(room.staged), 7);
    close_room(&room);
    lz_buf_free(&tar);
    lz_buf_free(&gzip);
}

static void no_threads(void)
{
    struct lz_buf tar = sample(5, SIZE_MAX);
    for (int left = 0; left < 5; left++) {
        struct room room = open_room(&tar);
        struct lz_ingest_options options = options_of(&room);
        struct lz_ingest_result result;
        struct lz_detail detail;
        options.blob_mode = LZ_BLOB_ZSTD;
        threads_left = left;
        int rc = lz_ingest(lz_sys_linux(), &options, NULL, &result, &detail);
        threads_left = -1;
        CHECK_EQ(rc, left < 4 ? -EAGAIN : 0);
        CHECK(left == 4 || strstr(detail.text, "starting 4 threads: ") == detail.text);
        close_room(&room);
    }
    lz_buf_free(&tar);
}

int main(void)
{
    open_root();
    RUN(queue);
    RUN(whole_layer);
    RUN(compressed_again);
    RUN(present_content_is_not_written);
    RUN(several_at_once);
    RUN(no_threads);
    close_root();
    return check_end();
}
