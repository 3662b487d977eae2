/* Chunking: the rules of a cut, written down a second time; kernels, threads, windows and digests that give the same. */
#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdbool.h>
#include <xxhash.h>

#include "bytes/lz_chunk.h"
#include "bytes/lz_sha256_batch.h"
#include "check.h"
#include "refuse.h"

#define BOTH (LZ_CHUNK_SHA256 | LZ_CHUNK_XXH3)

/* ---- the n-th call for memory, a thread or a digest is refused (the linker's --wrap leads here) ---- */

static atomic_long refuse_calls, refuse_at; /* 0: never */

static bool refuse(void)
{
    return atomic_fetch_add(&refuse_calls, 1) + 1 == atomic_load(&refuse_at);
}

static bool refuse_begin(long n)
{
    atomic_store(&refuse_calls, 0);
    atomic_store(&refuse_at, n);
    return true;
}

/* Whether there was an n-th call. */
static bool refuse_end(void)
{
    return atomic_exchange(&refuse_at, 0) <= atomic_load(&refuse_calls);
}

WRAP(void *, malloc, NULL, (size_t a), (a))
WRAP(void *, calloc, NULL, (size_t a, size_t b), (a, b))
WRAP(void *, realloc, NULL, (void *a, size_t b), (a, b))

static atomic_bool no_thread; /* what was refused was one */

static int refused_thread(void)
{
    atomic_store(&no_thread, true);
    return EAGAIN;
}
WRAP(int, pthread_create, refused_thread(), (pthread_t * a, const pthread_attr_t *b, void *(*c)(void *), void *d),
     (a, b, c, d))
WRAP(EVP_MD *, EVP_MD_fetch, NULL, (OSSL_LIB_CTX * a, const char *b, const char *c), (a, b, c))
WRAP(EVP_MD_CTX *, EVP_MD_CTX_new, NULL, (void), ())
WRAP(int, EVP_DigestInit_ex2, 0, (EVP_MD_CTX * a, const EVP_MD *b, const OSSL_PARAM c[]), (a, b, c))
WRAP(int, EVP_DigestUpdate, 0, (EVP_MD_CTX * a, const void *b, size_t c), (a, b, c))
WRAP(int, EVP_DigestFinal_ex, 0, (EVP_MD_CTX * a, unsigned char *b, unsigned *c), (a, b, c))

/* ---- bytes ---- */

static uint8_t *noise(size_t size, uint64_t seed)
{
    uint8_t *bytes = malloc(size + 8);
    CHECK(bytes != NULL);
    for (size_t i = 0; i < size; i += 8) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        uint64_t word = seed * 0x2545f4914f6cdd1dull;
        memcpy(bytes + i, &word, 8);
    }
    return bytes;
}

static struct lz_chunker *chunker(size_t min, size_t average, size_t max, const char *key)
{
    struct lz_chunker *made;
    CHECK_EQ(lz_chunker_new(min, average, max, (const uint8_t *)key, &made), 0);
    return made;
}

/* ---- kernels ---- */

static void same_hits(const struct lz_chunker *self, const uint8_t *bytes, size_t size, uint64_t limit)
{
    for (size_t from = LZ_CHUNK_WINDOW - 1; from <= size;) {
        size_t plain = lz_gear_scan_plain(self->table, bytes, from, size, limit);
        CHECK_EQ(lz_gear_scan_fast(self->table, bytes, from, size, limit), plain);
        from = plain + 1;
    }
    for (size_t from = LZ_CHUNK_WINDOW - 1; from <= size && from < 150; from++) {
        for (size_t to = from; to <= size && to < from + 70; to++)
            CHECK_EQ(lz_gear_scan_fast(self->table, bytes, from, to, limit),
                     lz_gear_scan_plain(self->table, bytes, from, to, limit));
    }
}

static void kernels(void)
{
    struct lz_chunker *self = chunker(64, 256, 1024, NULL);
    uint8_t *random = noise(100000, 1), *equal = malloc(3000);
    CHECK(equal != NULL);
    for (unsigned bits = 0; bits < 64; bits += 7)
        same_hits(self, random, bits < 14 ? 100000 : 3000, ~0ull >> bits);
    same_hits(self, random, 3000, 0);
    for (int byte = 0; byte < 256; byte += 5) {
        memset(equal, byte, 3000);
        same_hits(self, equal, 3000, self->loose);
        same_hits(self, equal, 3000, ~0ull - self->table[byte] + 2); /* h is -table[byte]: all of them hit */
        same_hits(self, equal, 3000, ~0ull - self->table[byte] + 1); /* and none */
    }
    free(random);
    free(equal);
    lz_chunker_free(self);
}

/* ---- cuts ---- */

/* h of the 64 bytes up to `at`, as it is defined. */
static uint64_t hash_at(const struct lz_chunker *self, const uint8_t *bytes, size_t at)
{
    uint64_t h = 0;
    for (size_t back = 0; back < LZ_CHUNK_WINDOW; back++)
        h += self->table[bytes[at - back]] << back;
    return h;
}

static size_t expected_length(const struct lz_chunker *self, const uint8_t *bytes, size_t size)
{
    for (size_t length = self->min; self->min < self->max && length < size && length < self->max; length++) {
        if (hash_at(self, bytes, length - 1) < (length < self->average ? self->strict : self->loose))
            return length;
    }
    return size < self->max ? size : self->max;
}

static void check_rows(const struct lz_chunker *self, const uint8_t *bytes, size_t size, uint64_t base,
                       const struct lz_chunk_rows *rows, size_t first)
{
    size_t at = 0;
    for (size_t i = first; i < rows->count; i++) {
        const struct lz_chunk_row *row = &rows->rows[i];
        CHECK_EQ(row->offset, base + at);
        CHECK_EQ(row->length, expected_length(self, bytes + at, size - at));
        uint8_t digest[32];
        XXH128_canonical_t canonical;
        CHECK_EQ(EVP_Digest(bytes + at, row->length, digest, NULL, EVP_sha256(), NULL), 1);
        CHECK(memcmp(digest, row->sha256, 32) == 0);
        XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes + at, row->length));
        CHECK(memcmp(canonical.digest, row->xxh3, 16) == 0);
        at += row->length;
    }
    CHECK_EQ(at, size);
}

/* One thread against the rules; several, and calls with a part of the bytes each, against one thread. */
static void check_all(const struct lz_chunker *self, const uint8_t *bytes, size_t size)
{
    struct lz_chunk_rows alone = {0}, threads = {0}, windows = {0}, bare = {0};
    CHECK_EQ(lz_chunk_buffer(self, bytes, size, 7, true, BOTH, 1, &alone), size);
    check_rows(self, bytes, size, 7, &alone, 0);
    for (unsigned count = 2; count < 5; count++) {
        threads.count = 0;
        CHECK_EQ(lz_chunk_buffer(self, bytes, size, 7, true, BOTH, count, &threads), size);
        CHECK_EQ(threads.count, alone.count);
        CHECK(size == 0 || memcmp(threads.rows, alone.rows, alone.count * sizeof *alone.rows) == 0);
    }
    size_t step = self->max + size / 5 + 1;
    for (size_t at = 0, end = 0; at < size || end < size;) {
        end = size - at < step ? size : at + step;
        unsigned count = 1 + (unsigned)(windows.count % 3);
        int64_t done = lz_chunk_buffer(self, bytes + at, end - at, 7 + at, end == size, BOTH, count, &windows);
        CHECK(done > 0);
        at += (size_t)done;
    }
    CHECK_EQ(windows.count, alone.count);
    CHECK(size == 0 || memcmp(windows.rows, alone.rows, alone.count * sizeof *alone.rows) == 0);
    CHECK_EQ(lz_chunk_buffer(self, bytes, size, 7, true, 0, 2, &bare), size);
    for (size_t i = 0; i < bare.count; i++) {
        struct lz_chunk_row row = {.offset = alone.rows[i].offset, .length = alone.rows[i].length};
        CHECK(memcmp(&row, &bare.rows[i], sizeof row) == 0);
    }
    free(alone.rows);
    free(threads.rows);
    free(windows.rows);
    free(bare.rows);
}

static void cuts(void)
{
    static const size_t sizes[][3] = {{64, 256, 1024},  {64, 256, 256},    {255, 256, 257},
                                      {256, 256, 1000}, {100, 1024, 9000}, {1024, 4096, 16384},
                                      {512, 512, 512},  {333, 333, 333},   {70, 65536, 70000}};
    uint8_t *random = noise(2500000, 3), *zeros = calloc(1, 300000);
    CHECK(zeros != NULL);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t min = sizes[i][0], average = sizes[i][1], max = sizes[i][2];
        struct lz_chunker *self = chunker(min, average, max, NULL);
        const size_t lengths[] = {0,           1,           63,      64,  65,      min - 1, min,       min + 1, average,
                                  average - 1, average + 1, max - 1, max, max + 1, 5000,    max + min, 2 * max, 60000};
        for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
            check_all(self, random + k, lengths[k]);
            check_all(self, zeros, lengths[k]);
        }
        lz_chunker_free(self);
    }
    struct lz_chunker *self = chunker(1024, 4096, 16384, NULL);
    check_all(self, random, 2500000); /* three segments */
    check_all(self, random, 1 << 20);
    check_all(self, random, (1 << 20) + 1);
    lz_chunker_free(self);
    free(random);
    free(zeros);
}

/* Bytes for which every position hits: more hits than a segment has room for. */
static void crowded(void)
{
    struct lz_chunker *self = chunker(64, 256, 1024, NULL);
    size_t size = 2200000;
    uint8_t *bytes = noise(size, 5);
    memset(bytes + 500000, 'x', 900000);
    check_all(self, bytes, size); /* chunks of the largest size, which those of a segment never meet */
    memset(bytes, 'x', 500000);   /* and from the beginning, where they do */
    check_all(self, bytes, size);
    self->table['x'] = (uint64_t)-5; /* h is 5 after 64 of them */
    check_all(self, bytes, size);
    self->table['x'] = 0 - self->strict - 5; /* and only a loose one */
    check_all(self, bytes, size);
    lz_chunker_free(self);
    free(bytes);
}

static void shift(void)
{
    struct lz_chunker *self = chunker(256, 1024, 4096, NULL);
    uint8_t *bytes = noise(400000, 11);
    struct lz_chunk_rows before = {0}, after = {0};
    CHECK_EQ(lz_chunk_buffer(self, bytes + 1, 399999, 1, true, 0, 1, &before), 399999);
    CHECK_EQ(lz_chunk_buffer(self, bytes, 400000, 0, true, 0, 1, &after), 400000);
    size_t same = 0;
    for (size_t i = 0, k = 0; i < before.count && k < after.count;) {
        uint64_t a = before.rows[i].offset, b = after.rows[k].offset;
        same += a == b;
        i += a <= b;
        k += b <= a;
    }
    CHECK(same + 20 > before.count);
    free(before.rows);
    free(after.rows);
    free(bytes);
    lz_chunker_free(self);
}

static void keys(void)
{
    static const char first[] = "0123456789abcdef0123456789abcdef", zeros[LZ_CHUNK_KEY_SIZE];
    struct lz_chunker *none = chunker(64, 256, 1024, NULL), *one = chunker(64, 256, 1024, first),
                      *again = chunker(64, 256, 1024, first), *zero = chunker(64, 256, 1024, zeros);
    CHECK(memcmp(one->table, again->table, sizeof one->table) == 0);
    CHECK(memcmp(one->table, none->table, sizeof one->table) != 0);
    CHECK(memcmp(zero->table, none->table, sizeof one->table) != 0);
    /* cuts are kept in stores: the table is the same on every machine and in every version */
    XXH64_hash_t tables[2] = {0};
    for (size_t i = 0; i < 256; i++) {
        uint64_t words[2] = {__builtin_bswap64(none->table[i]), __builtin_bswap64(one->table[i])};
        tables[0] = XXH3_64bits_withSeed(&words[0], 8, tables[0]);
        tables[1] = XXH3_64bits_withSeed(&words[1], 8, tables[1]);
    }
    CHECK_EQ(tables[0], 7300204783625087878);
    CHECK_EQ(tables[1], -323629991962087030);
    lz_chunker_free(none);
    lz_chunker_free(one);
    lz_chunker_free(again);
    lz_chunker_free(zero);
    lz_chunker_free(NULL);
}

/* Pieces of a buffer, overlapping and empty ones too: each as a buffer of its own. */
static void pieces(void)
{
    struct lz_chunker *self = chunker(64, 256, 1024, NULL);
    uint8_t *bytes = noise(70000, 17);
    struct lz_chunk_piece parts[50];
    struct lz_chunk_rows one = {0}, all = {0};
    for (size_t i = 0; i < 50; i++)
        parts[i] = (struct lz_chunk_piece){.offset = i * i * 7, .size = i * 997 % 5000};
    parts[49] = (struct lz_chunk_piece){.offset = 70000 - 3, .size = 3};
    CHECK_EQ(lz_chunk_pieces(self, bytes, 70000, parts, 50, BOTH, &all), 0);
    for (size_t i = 0; i < 50; i++) {
        const struct lz_chunk_piece *part = &parts[i];
        CHECK_EQ(lz_chunk_buffer(self, bytes + part->offset, part->size, part->offset, true, BOTH, 2, &one),
                 part->size);
    }
    CHECK_EQ(all.count, one.count);
    CHECK(memcmp(all.rows, one.rows, one.count * sizeof *one.rows) == 0);
    static const struct lz_chunk_piece outside[][2] = {
        {{0, 9}, {69999, 2}}, {{0, 9}, {70001, 0}}, {{0, 9}, {UINT64_MAX, 2}}};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        CHECK_EQ(lz_chunk_pieces(self, bytes, 70000, outside[i], 2, 0, &all), -EINVAL);
        CHECK_EQ(all.count, one.count);
    }
    CHECK_EQ(lz_chunk_pieces(self, bytes, 70000, outside[0], 1, 4, &all), -EINVAL); /* no such digest */
    CHECK_EQ(lz_chunk_pieces(self, NULL, 0, NULL, 0, 0, &all), 0);
    CHECK_EQ(all.count, one.count);
    free(one.rows);
    free(all.rows);
    free(bytes);
    lz_chunker_free(self);
}

/* ---- digests ---- */

static void check_batch(const uint8_t *bytes, const size_t *sizes, size_t count)
{
    for (int pairs = 0; pairs < 2; pairs++) {
        struct lz_sha256_batch *batch;
        struct lz_message *messages = calloc(count + 1, sizeof *messages);
        uint8_t *digests = calloc(count + 1, 32);
        CHECK(messages != NULL && digests != NULL);
        CHECK_EQ(lz_sha256_batch_new(pairs, &batch), 0);
        for (size_t i = 0; i < count; i++)
            messages[i] = (struct lz_message){bytes + i, sizes[i], digests + 32 * i};
        CHECK_EQ(lz_sha256_batch(batch, messages, count), 0);
        for (size_t i = 0; i < count; i++) {
            uint8_t digest[32];
            CHECK_EQ(EVP_Digest(bytes + i, sizes[i], digest, NULL, EVP_sha256(), NULL), 1);
            CHECK(memcmp(digest, digests + 32 * i, 32) == 0);
        }
        lz_sha256_batch_free(batch);
        free(messages);
        free(digests);
    }
    lz_sha256_batch_free(NULL);
}

static void batches(void)
{
    uint8_t *bytes = noise(20000, 21);
    size_t sizes[300];
    for (size_t i = 0; i < 300; i++)
        sizes[i] = i;
    check_batch(bytes, sizes, 300);
    for (size_t i = 0; i < 300; i++)
        sizes[i] = i * i * 7919 % 9001;
    for (size_t count = 0; count < 8; count++)
        check_batch(bytes, sizes + 11 * count, count);
    check_batch(bytes, sizes, 300);
    free(bytes);
}

/* ---- what is refused ---- */

static void wrong_values(void)
{
    static const size_t wrong[][3] = {
        {0, 0, 0},          {63, 256, 1024}, {64, 128, 1024}, {64, 257, 1024}, {512, 256, 1024},
        {64, 2048, 1024},   {64, 0, 1024},   {0, 256, 1024},  {64, 1024, 512}, {1u << 31, 1u << 31, 1u << 31},
        {64, 256, SIZE_MAX}};
    struct lz_chunker *untouched = NULL;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK_EQ(lz_chunker_new(wrong[i][0], wrong[i][1], wrong[i][2], NULL, &untouched), -EINVAL);
    CHECK(untouched == NULL);
    struct lz_chunker *self = chunker(64, 256, 1024, NULL);
    struct lz_chunk_rows rows = {0};
    uint8_t bytes[100] = {0};
    CHECK_EQ(lz_chunk_buffer(self, bytes, 100, 0, true, BOTH, 0, &rows), -EINVAL);
    CHECK_EQ(lz_chunk_buffer(self, bytes, 100, 0, true, BOTH, LZ_CHUNK_THREADS_MAX + 1, &rows), -EINVAL);
    CHECK_EQ(lz_chunk_buffer(self, bytes, 100, INT64_MAX - 99, true, BOTH, 1, &rows), -EOVERFLOW);
    CHECK_EQ(lz_chunk_buffer(self, bytes, 100, UINT64_MAX - 9, true, BOTH, 2, &rows), -EOVERFLOW);
    CHECK_EQ(rows.count, 0);
    CHECK_EQ(lz_chunk_buffer(self, bytes, 100, INT64_MAX - 100, true, BOTH, 2, &rows), 100);
    CHECK_EQ(lz_chunk_buffer(self, bytes, 100, 0, false, BOTH, 2, &rows), 0);
    CHECK_EQ(rows.count, 1);
    CHECK_EQ(lz_chunker_next(self, bytes, 0), 0);
    free(rows.rows);
    lz_chunker_free(self);
}

/* Every call for memory or a digest refused in turn: an error, nothing leaks, rows as they were. A thread: the others do
 * its work. */
static void refusals(void)
{
    size_t size = 2100000;
    uint8_t *bytes = noise(size, 31);
    for (unsigned threads = 0; threads < 4; threads++) { /* 0: in pieces */
        for (long n = 1;; n++) {
            struct lz_chunker *self = NULL;
            struct lz_chunk_rows rows = {0};
            struct lz_chunk_row *row = calloc(1, sizeof *row);
            CHECK(row != NULL);
            row->length = 99;
            rows = (struct lz_chunk_rows){row, 1, 1};
            atomic_store(&no_thread, false);
            (void)refuse_begin(n);
            int64_t rc = lz_chunker_new(2048, 8192, 32768, NULL, &self);
            static const struct lz_chunk_piece parts[] = {{0, 1000}, {1000, 2099000}};
            if (rc == 0)
                rc = threads > 0 ? lz_chunk_buffer(self, bytes, size, 0, true, BOTH, threads, &rows)
                                 : lz_chunk_pieces(self, bytes, size, parts, 2, BOTH, &rows);
            bool fired = refuse_end();
            CHECK_EQ(rows.rows[0].length, 99);
            if (fired && !atomic_load(&no_thread)) {
                CHECK(rc == -ENOMEM || rc == -EIO);
                CHECK_EQ(rows.count, 1);
            } else {
                CHECK_EQ(rc, threads > 0 ? size : 0);
                if (threads > 0)
                    check_rows(self, bytes, size, 0, &rows, 1);
                CHECK_EQ(rows.rows[rows.count - 1].offset + rows.rows[rows.count - 1].length, size);
            }
            lz_chunker_free(self);
            free(rows.rows);
            if (!fired)
                break;
        }
    }
    free(bytes);
}

int main(void)
{
    RUN(kernels);
    RUN(cuts);
    RUN(crowded);
    RUN(shift);
    RUN(pieces);
    RUN(keys);
    RUN(batches);
    RUN(wrong_values);
    RUN(refusals);
    return check_end();
}
