/* Frames made on threads: in their order, the same whatever the threads, and every refusal on the way out clean. */
#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <zstd.h>

#include "base/lz_mem.h"
#include "bytes/lz_digest.h"
#include "bytes/lz_framer.h"
#include "check.h"
#include "refuse.h"

static long refuse_calls, refuse_at; /* 0: never; counted in the thread that set it alone */
static pthread_t refuse_thread;

static bool refuse(void)
{
    return refuse_at != 0 && pthread_equal(pthread_self(), refuse_thread) && ++refuse_calls == refuse_at;
}

WRAP(void *, malloc, NULL, (size_t a), (a))
WRAP(void *, calloc, NULL, (size_t a, size_t b), (a, b))
WRAP(void *, realloc, NULL, (void *a, size_t b), (a, b))

static unsigned threads_left = 99; /* that can be had */

static bool thread_refused(void)
{
    if (threads_left == 0)
        return true;
    threads_left--;
    return refuse();
}
#define refuse thread_refused
WRAP(int, pthread_create, EAGAIN, (pthread_t * a, const pthread_attr_t *b, void *(*c)(void *), void *d), (a, b, c, d))
#undef refuse
WRAP(ZSTD_CCtx *, ZSTD_createCCtx, NULL, (void), ())

#define TOTAL ((size_t)9 << 20)

struct taker {
    struct lz_buf packed;
    const uint8_t *bytes;
    size_t at, count;
    int code; /* returned at the frame of this number, if not 0 */
    size_t code_at;
};

static int take(void *ctx, const struct lz_framed *frame)
{
    struct taker *taker = ctx;
    if (taker->code != 0 && taker->count == taker->code_at)
        return taker->code;
    size_t number = 0;
    uint8_t digest[32];
    CHECK_EQ(frame->note_size, taker->count % 3 == 0 ? 0 : sizeof number);
    if (frame->note_size > 0) {
        memcpy(&number, frame->note, sizeof number);
        CHECK_EQ(number, taker->count);
    }
    uint8_t *back = malloc(frame->size);
    if (back == NULL)
        return -ENOMEM;
    CHECK_EQ(ZSTD_decompress(back, frame->size, frame->packed, frame->packed_size), frame->size);
    CHECK(memcmp(back, taker->bytes + taker->at, frame->size) == 0);
    free(back);
    CHECK((frame->digest != NULL) == (taker->count % 2 == 1));
    if (frame->digest != NULL) {
        CHECK_EQ(EVP_Digest(taker->bytes + taker->at, frame->size, digest, NULL, EVP_sha256(), NULL), 1);
        CHECK(memcmp(digest, frame->digest, 32) == 0);
    }
    taker->at += frame->size;
    taker->count++;
    return lz_buf_append(&taker->packed, frame->packed, frame->packed_size);
}

/* Frames of all sizes from `bytes`: 0, or the first error. */
static int run(unsigned threads, const uint8_t *bytes, size_t total, struct taker *taker)
{
    static const size_t sizes[] = {1, 100, 5000, LZ_FRAME_MAX, 70000, 300, LZ_FRAME_MAX - 1, 40000};
    struct lz_framer *framer;
    int rc = lz_framer_new(threads, 1, take, taker, &framer);
    if (rc != 0)
        return rc;
    for (size_t at = 0, number = 0; at < total && rc == 0; number++) {
        size_t size = sizes[number % (sizeof sizes / sizeof *sizes)];
        size = size < total - at ? size : total - at;
        uint8_t *room;
        rc = lz_framer_room(framer, size, &room);
        if (rc != 0)
            break;
        memcpy(room, bytes + at, size);
        rc = lz_framer_add(framer, size, number % 2 == 1, &number, number % 3 == 0 ? 0 : sizeof number);
        at += size;
    }
    if (rc == 0)
        rc = lz_framer_finish(framer);
    lz_framer_free(framer);
    return rc;
}

static uint8_t *some_bytes(void)
{
    uint8_t *bytes = malloc(TOTAL);
    CHECK(bytes != NULL);
    uint32_t seed = 1;
    for (size_t i = 0; i < TOTAL; i++) {
        seed = seed * 1664525u + 1013904223u;
        bytes[i] = i % (1 << 20) < 500000 ? (uint8_t)(seed >> 24) : (uint8_t)("so it goes "[i % 11]);
    }
    return bytes;
}

static void the_same_on_any_threads(void)
{
    uint8_t *bytes = some_bytes();
    struct taker first = {.bytes = bytes};
    CHECK_EQ(run(1, bytes, TOTAL, &first), 0);
    CHECK_EQ(first.at, TOTAL);
    for (unsigned threads = 2; threads <= LZ_FRAMER_THREADS_MAX; threads += 3) {
        struct taker taker = {.bytes = bytes};
        CHECK_EQ(run(threads, bytes, TOTAL, &taker), 0);
        CHECK_EQ(taker.packed.size, first.packed.size);
        CHECK(memcmp(taker.packed.data, first.packed.data, first.packed.size) == 0);
        lz_buf_free(&taker.packed);
    }
    lz_buf_free(&first.packed);
    free(bytes);
}

static void the_caller_does_what_no_thread_does(void)
{
    uint8_t *bytes = some_bytes();
    struct taker first = {.bytes = bytes};
    CHECK_EQ(run(1, bytes, TOTAL, &first), 0);
    for (unsigned left = 0; left < 3; left++) {
        struct taker taker = {.bytes = bytes};
        threads_left = left;
        CHECK_EQ(run(4, bytes, TOTAL, &taker), 0);
        threads_left = 99;
        CHECK_EQ(taker.packed.size, first.packed.size);
        CHECK(memcmp(taker.packed.data, first.packed.data, first.packed.size) == 0);
        lz_buf_free(&taker.packed);
    }
    lz_buf_free(&first.packed);
    free(bytes);
}

static void nothing(void)
{
    struct taker taker = {.count = 0};
    CHECK_EQ(run(2, NULL, 0, &taker), 0);
    CHECK_EQ(taker.count, 0);
}

static void refusals(void)
{
    struct lz_framer *framer;
    uint8_t *room;
    CHECK_EQ(lz_framer_new(0, 0, take, NULL, &framer), -EINVAL);
    CHECK_EQ(lz_framer_new(LZ_FRAMER_THREADS_MAX + 1, 0, take, NULL, &framer), -EINVAL);
    CHECK_EQ(lz_framer_new(1, 99, take, NULL, &framer), -EINVAL);
    CHECK_EQ(lz_framer_new(1, -1, take, NULL, &framer), -EINVAL);
    CHECK_EQ(lz_framer_new(1, 0, take, NULL, &framer), 0);
    CHECK_EQ(lz_framer_room(framer, 0, &room), -EINVAL);
    CHECK_EQ(lz_framer_room(framer, LZ_FRAME_MAX + 1, &room), -EINVAL);
    lz_framer_free(framer);
    lz_framer_free(NULL);
}

static void what_the_taker_says_ends_it(void)
{
    uint8_t *bytes = some_bytes();
    for (unsigned threads = 1; threads <= 3; threads++) {
        for (size_t at = 0; at < 30; at += 13) {
            struct taker taker = {.bytes = bytes, .code = -EPIPE, .code_at = at};
            CHECK_EQ(run(threads, bytes, TOTAL, &taker), -EPIPE);
            CHECK_EQ(taker.count, at);
            lz_buf_free(&taker.packed);
        }
    }
    free(bytes);
}

static void no_memory_and_no_threads(void)
{
    uint8_t *bytes = some_bytes();
    refuse_thread = pthread_self();
    for (long n = 1;; n++) {
        struct taker taker = {.bytes = bytes};
        refuse_calls = 0;
        refuse_at = n;
        int rc = run(2, bytes, (size_t)2 << 20, &taker);
        bool fired = refuse_calls >= n;
        refuse_at = 0;
        lz_buf_free(&taker.packed);
        CHECK(fired ? rc == -ENOMEM || rc == 0 : rc == 0); /* 0: OpenSSL went on without, or the caller alone */
        if (!fired)
            break;
    }
    free(bytes);
}

int main(void)
{
    RUN(the_same_on_any_threads);
    RUN(the_caller_does_what_no_thread_does);
    RUN(nothing);
    RUN(refusals);
    RUN(what_the_taker_says_ends_it);
    RUN(no_memory_and_no_threads);
    return check_end();
}
