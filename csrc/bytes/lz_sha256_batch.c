#include "lz_sha256_batch.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct lz_sha256_batch {
    struct lz_sha256 *single;
    bool pairs;
};

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#define SHA_NI __attribute__((target("sha,sse4.1,ssse3")))
#define BLOCK 64

static const uint32_t round_constants[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

/* A message on its way. The eight words of the state lie as SHA-NI wants them: {f,e,b,a} and {h,g,d,c}, low to high. */
struct lane {
    __m128i abef, cdgh;
    const uint8_t *next;
    size_t blocks;                    /* from `next` on, before it has to be looked at again */
    const struct lz_message *message; /* NULL: none */
    bool padded;                      /* `next` is in `tail` */
    uint8_t tail[2 * BLOCK];          /* the last bytes, the padding and the length */
};

/* The compiler's library has asked the CPU when the program started: in a virtual machine the instruction itself traps,
 * and two of them for each batch were 10 us, more than the digests of a small file. */
static bool has_sha_ni(void)
{
#ifdef __clang__ /* whose older versions do not know the name */
    return false;
#else
    return __builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("sha");
#endif
}

/* `count` blocks of each of `lanes` messages. `lanes` is a constant where this is inlined: all loops over it unroll. */
SHA_NI static inline __attribute__((always_inline)) void compress(struct lane *const *lane, int lanes, size_t count)
{
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bll, 0x0405060700010203ll);
    __m128i abef[2], cdgh[2];
    const uint8_t *next[2];
    for (int l = 0; l < lanes; l++) {
        abef[l] = lane[l]->abef;
        cdgh[l] = lane[l]->cdgh;
        next[l] = lane[l]->next;
    }
    for (size_t block = 0; block < count; block++) {
        __m128i words[2][4], abef_before[2], cdgh_before[2];
        for (int l = 0; l < lanes; l++) {
            abef_before[l] = abef[l];
            cdgh_before[l] = cdgh[l];
        }
#pragma GCC unroll 16
        for (int four = 0; four < 16; four++) { /* four rounds each */
            const __m128i constants = _mm_load_si128((const __m128i *)round_constants + four);
#pragma GCC unroll 2
            for (int l = 0; l < lanes; l++) {
                __m128i *w = words[l], word;
                if (four < 4) {
                    word = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)next[l] + four), swap);
                } else {
                    word = _mm_sha256msg1_epu32(w[four & 3], w[(four + 1) & 3]);
                    word = _mm_add_epi32(word, _mm_alignr_epi8(w[(four + 3) & 3], w[(four + 2) & 3], 4));
                    word = _mm_sha256msg2_epu32(word, w[(four + 3) & 3]);
                }
                w[four & 3] = word;
                word = _mm_add_epi32(word, constants);
                cdgh[l] = _mm_sha256rnds2_epu32(cdgh[l], abef[l], word);
                abef[l] = _mm_sha256rnds2_epu32(abef[l], cdgh[l], _mm_shuffle_epi32(word, 0x0e));
            }
        }
        for (int l = 0; l < lanes; l++) {
            abef[l] = _mm_add_epi32(abef[l], abef_before[l]);
            cdgh[l] = _mm_add_epi32(cdgh[l], cdgh_before[l]);
            next[l] += BLOCK;
        }
    }
    for (int l = 0; l < lanes; l++) {
        lane[l]->abef = abef[l];
        lane[l]->cdgh = cdgh[l];
        lane[l]->next = next[l];
        lane[l]->blocks -= count;
    }
}

SHA_NI static void compress_pair(struct lane *const *lane, size_t count)
{
    compress(lane, 2, count);
}

SHA_NI static void compress_single(struct lane *const *lane, size_t count)
{
    compress(lane, 1, count);
}

static void begin(struct lane *lane, const struct lz_message *message)
{
    lane->abef = _mm_set_epi32(0x6a09e667, (int)0xbb67ae85, 0x510e527f, (int)0x9b05688c);
    lane->cdgh = _mm_set_epi32(0x3c6ef372, (int)0xa54ff53a, 0x1f83d9ab, 0x5be0cd19);
    lane->message = message;
    lane->next = message->bytes;
    lane->blocks = message->size / BLOCK;
    lane->padded = false;
}

/* What is left of the message, 0x80, zeros, and its length in bits: one block or two. */
static void pad(struct lane *lane)
{
    size_t size = lane->message->size, rest = size % BLOCK, end = rest + 9 <= BLOCK ? BLOCK : 2 * BLOCK;
    uint64_t bits = __builtin_bswap64((uint64_t)size << 3);
    memset(lane->tail, 0, sizeof lane->tail);
    if (rest > 0)
        memcpy(lane->tail, lane->next, rest);
    lane->tail[rest] = 0x80;
    memcpy(lane->tail + end - sizeof bits, &bits, sizeof bits);
    lane->next = lane->tail;
    lane->blocks = end / BLOCK;
    lane->padded = true;
}

static void write_digest(const struct lane *lane)
{
    uint32_t feba[4], hgdc[4];
    _mm_storeu_si128((__m128i *)(void *)feba, lane->abef);
    _mm_storeu_si128((__m128i *)(void *)hgdc, lane->cdgh);
    const uint32_t words[8] = {feba[3], feba[2], hgdc[3], hgdc[2], feba[1], feba[0], hgdc[1], hgdc[0]};
    for (size_t i = 0; i < 8; i++) {
        uint32_t word = __builtin_bswap32(words[i]);
        memcpy(lane->message->digest + 4 * i, &word, sizeof word);
    }
}

/* Brings a lane to where it has blocks to compress, with the next message if need be. False: nothing is left for it. */
static bool ready(struct lane *lane, const struct lz_message **from, const struct lz_message *end)
{
    while (lane->message == NULL || lane->blocks == 0) {
        if (lane->message != NULL && !lane->padded) {
            pad(lane);
            continue;
        }
        if (lane->message != NULL)
            write_digest(lane);
        lane->message = NULL;
        if (*from == end)
            return false;
        begin(lane, (*from)++);
    }
    return true;
}

static void hash_pairs(const struct lz_message *messages, size_t count)
{
    const struct lz_message *next = messages, *end = messages + count;
    struct lane first = {.message = NULL}, second = {.message = NULL};
    struct lane *const both[2] = {&first, &second}, *const other[1] = {&second};
    for (;;) {
        bool one = ready(&first, &next, end), two = ready(&second, &next, end);
        if (one && two)
            compress_pair(both, first.blocks < second.blocks ? first.blocks : second.blocks);
        else if (one || two)
            compress_single(one ? both : other, one ? first.blocks : second.blocks);
        else
            return;
    }
}
#else
static bool has_sha_ni(void)
{
    return false;
}

static void hash_pairs(const struct lz_message *messages, size_t count)
{
    (void)messages;
    (void)count;
}
#endif

int lz_sha256_batch_new(int pairs, struct lz_sha256_batch **out)
{
    struct lz_sha256_batch *self = calloc(1, sizeof *self);
    if (self == NULL)
        return -ENOMEM;
    self->pairs = pairs != 0 && has_sha_ni();
    int rc = self->pairs ? 0 : lz_sha256_new(&self->single);
    if (rc != 0) {
        free(self);
        return rc;
    }
    *out = self;
    return 0;
}

void lz_sha256_batch_free(struct lz_sha256_batch *self)
{
    if (self == NULL)
        return;
    lz_sha256_free(self->single);
    free(self);
}

int lz_sha256_batch(struct lz_sha256_batch *self, const struct lz_message *messages, size_t count)
{
    if (self->pairs) {
        hash_pairs(messages, count);
        return 0;
    }
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = lz_sha256_digest(self->single, messages[i].bytes, messages[i].size, messages[i].digest);
    return rc;
}
