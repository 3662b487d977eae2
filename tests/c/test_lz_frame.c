/* Frames: there and back for pieces of every kind, what is said of damaged ones, and refusals. */
#include <errno.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <zstd.h>

#include "bytes/lz_frame.h"
#include "bytes/lz_sha256_batch.h"
#include "check.h"
#include "refuse.h"

/* ---- the n-th call for memory or a digest is refused (the linker's --wrap leads here) ---- */

static long refuse_calls, refuse_at; /* 0: never */

static bool refuse(void)
{
    return ++refuse_calls == refuse_at;
}

WRAP(void *, malloc, NULL, (size_t a), (a))
WRAP(void *, calloc, NULL, (size_t a, size_t b), (a, b))
WRAP(EVP_MD *, EVP_MD_fetch, NULL, (OSSL_LIB_CTX * a, const char *b, const char *c), (a, b, c))
WRAP(EVP_MD_CTX *, EVP_MD_CTX_new, NULL, (void), ())
WRAP(ZSTD_CCtx *, ZSTD_createCCtx, NULL, (void), ())
WRAP(ZSTD_DCtx *, ZSTD_createDCtx, NULL, (void), ())

/* ---- pieces: text, noise, zeros, one byte, overlapping ones ---- */

#define SIZE 70000
#define COUNT 150

struct pieces {
    uint8_t bytes[SIZE];
    uint64_t offsets[COUNT];
    uint32_t lengths[COUNT], stored[COUNT];
    uint8_t digests[COUNT * 32];
    size_t sum;
};

static struct pieces *pieces_new(void)
{
    struct pieces *self = calloc(1, sizeof *self);
    CHECK(self != NULL);
    uint64_t seed = 88172645463325252ull;
    for (size_t i = 0; i < SIZE; i++) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        self->bytes[i] = i < 20000 ? (uint8_t)("so it goes "[i % 11]) : i < 50000 ? (uint8_t)seed : 0;
    }
    for (size_t i = 0; i < COUNT; i++) {
        self->lengths[i] = (uint32_t)(i < 10 ? i + 1 : 1 + i * 97 % 4096);
        self->offsets[i] = i * 521 % (SIZE - 4096);
        CHECK_EQ(EVP_Digest(self->bytes + self->offsets[i], self->lengths[i], self->digests + 32 * i, NULL,
                            EVP_sha256(), NULL),
                 1);
        self->sum += self->lengths[i];
    }
    return self;
}

/* Where each piece lies among those that are stored. */
static void find_places(const struct pieces *self, uint64_t *places)
{
    uint64_t at = 0;
    for (size_t i = 0; i < COUNT; i++) {
        places[i] = at;
        at += self->stored[i];
    }
}

static void there_and_back(void)
{
    struct pieces *self = pieces_new();
    uint64_t places[COUNT];
    uint8_t *packed = malloc(self->sum), *back = malloc(self->sum);
    CHECK(packed != NULL && back != NULL);
    for (int level = 0; level < 6; level++) {
        int64_t used = lz_frames_compress(self->bytes, SIZE, self->offsets, self->lengths, COUNT, level, packed,
                                          self->sum, self->stored);
        CHECK(used > 0 && (size_t)used < self->sum);
        find_places(self, places);
        bool smaller = false, same = false;
        for (size_t i = 0; i < COUNT; i++) {
            CHECK(self->stored[i] > 0 && self->stored[i] <= self->lengths[i]);
            smaller = smaller || self->stored[i] < self->lengths[i];
            same = same || self->stored[i] == self->lengths[i];
        }
        CHECK(smaller && same);
        uint8_t *exact = malloc((size_t)used); /* the sanitizer sees any byte that is read beyond */
        CHECK(exact != NULL);
        memcpy(exact, packed, (size_t)used);
        size_t bad = 7;
        CHECK_EQ(lz_frames_expand(exact, (size_t)used, places, self->stored, self->lengths, self->digests, COUNT, back,
                                  self->sum, &bad),
                 self->sum);
        CHECK_EQ(bad, 7);
        size_t at = 0;
        for (size_t i = 0; i < COUNT; i++) {
            CHECK(memcmp(back + at, self->bytes + self->offsets[i], self->lengths[i]) == 0);
            at += self->lengths[i];
        }
        free(exact);
    }
    CHECK_EQ(lz_frames_compress(self->bytes, SIZE, NULL, NULL, 0, 1, packed, 0, NULL), 0);
    free(packed);
    free(back);
    free(self);
}

static void damage(void)
{
    struct pieces *self = pieces_new();
    uint64_t places[COUNT];
    uint8_t *packed = malloc(self->sum), *back = malloc(self->sum);
    CHECK(packed != NULL && back != NULL);
    int64_t used =
        lz_frames_compress(self->bytes, SIZE, self->offsets, self->lengths, COUNT, 1, packed, self->sum, self->stored);
    find_places(self, places);
    for (size_t i = 0; i < COUNT; i++) { /* a byte in the middle of each piece */
        size_t bad = COUNT, at = places[i] + self->stored[i] / 2;
        packed[at] ^= 0x10;
        int64_t rc = lz_frames_expand(packed, (size_t)used, places, self->stored, self->lengths, self->digests, COUNT,
                                      back, self->sum, &bad);
        if (rc == LZ_E_CORRUPT)
            CHECK_EQ(bad, i);
        else
            CHECK(rc == (int64_t)self->sum && self->stored[i] < self->lengths[i]); /* a bit that zstd ignores */
        packed[at] ^= 0x10;
    }
    size_t bad = COUNT;
    self->digests[32 * 99 + 5] ^= 1;
    CHECK_EQ(lz_frames_expand(packed, (size_t)used, places, self->stored, self->lengths, self->digests, COUNT, back,
                              self->sum, &bad),
             LZ_E_CORRUPT);
    CHECK_EQ(bad, 99);
    self->digests[32 * 99 + 5] ^= 1;
    for (size_t i = 100; i < 110; i++) { /* other lengths than the frames have */
        uint32_t length = self->lengths[i];
        for (int step = -1; step <= 1; step += 2) {
            self->lengths[i] = length + (uint32_t)step;
            CHECK_EQ(lz_frames_expand(packed, (size_t)used, places, self->stored, self->lengths, self->digests, i + 1,
                                      back, self->sum, &bad),
                     LZ_E_CORRUPT);
            CHECK_EQ(bad, i);
        }
        self->lengths[i] = length;
    }
    free(packed);
    free(back);
    free(self);
}

static void wrong_values(void)
{
    uint8_t bytes[100] = {0}, out[300], digests[64];
    size_t bad = 0;
    uint32_t stored[2];
    struct {
        uint64_t offset;
        uint32_t length;
    } outside[] = {{0, 101}, {100, 1}, {101, 0}, {UINT64_MAX, 1}, {UINT64_MAX, 0}, {99, UINT32_MAX}};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        uint64_t offsets[2] = {0, outside[i].offset};
        uint32_t lengths[2] = {10, outside[i].length}, wide[2] = {10, 100};
        CHECK_EQ(lz_frames_compress(bytes, 100, offsets, lengths, 2, 1, out, 300, stored), -EINVAL);
        CHECK_EQ(lz_frames_expand(bytes, 100, offsets, lengths, wide, digests, 2, out, 300, &bad), -EINVAL);
    }
    uint64_t offsets[2] = {0, 0};
    uint32_t lengths[2] = {100, 100}, huge[2] = {UINT32_MAX, UINT32_MAX};
    CHECK_EQ(lz_frames_compress(bytes, 100, offsets, lengths, 2, 1, out, 199, stored), -EOVERFLOW);
    CHECK_EQ(lz_frames_expand(bytes, 100, offsets, lengths, lengths, digests, 2, out, 199, &bad), -EOVERFLOW);
    CHECK_EQ(lz_frames_expand(bytes, 100, offsets, lengths, huge, digests, 2, out, 300, &bad), -EOVERFLOW);
    CHECK_EQ(lz_frames_compress(bytes, 100, offsets, lengths, 2, -1, out, 200, stored), -EINVAL);
    CHECK_EQ(lz_frames_compress(bytes, 100, offsets, lengths, 2, 1000, out, 200, stored), -EINVAL);
    CHECK(lz_frames_compress(bytes, 100, offsets, lengths, 2, 1, out, 200, stored) > 0);
}

/* Each call for memory refused in turn: an error, and nothing leaks. */
static void refusals(void)
{
    struct pieces *self = pieces_new();
    uint64_t places[COUNT];
    uint8_t *packed = malloc(self->sum), *back = malloc(self->sum);
    CHECK(packed != NULL && back != NULL);
    for (long n = 1, fired = 2; fired > 0; n++) {
        fired = 0;
        size_t bad = 7;
        refuse_calls = 0, refuse_at = n;
        int64_t used = lz_frames_compress(self->bytes, SIZE, self->offsets, self->lengths, COUNT, 1, packed, self->sum,
                                          self->stored);
        fired += refuse_calls >= refuse_at;
        CHECK(fired ? used == -ENOMEM : used > 0);
        refuse_at = 0;
        used = lz_frames_compress(self->bytes, SIZE, self->offsets, self->lengths, COUNT, 1, packed, self->sum,
                                  self->stored);
        find_places(self, places);
        refuse_calls = 0, refuse_at = n;
        int64_t got = lz_frames_expand(packed, (size_t)used, places, self->stored, self->lengths, self->digests, COUNT,
                                       back, self->sum, &bad);
        bool refused = refuse_calls >= refuse_at;
        refuse_at = 0;
        CHECK(refused ? got == -ENOMEM || got == -EIO : got == (int64_t)self->sum);
        CHECK_EQ(bad, 7);
        fired += refused;
    }
    free(packed);
    free(back);
    free(self);
}

int main(void)
{
    RUN(there_and_back);
    RUN(damage);
    RUN(wrong_values);
    RUN(refusals);
    return check_end();
}
