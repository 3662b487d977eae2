/* lz_chunk.h - content-defined chunking: where a buffer is cut follows its bytes, so that an insert moves few cuts.
 *
 * FastCDC (Xia et al., USENIX ATC 2016; IEEE TPDS 2020) with normalised chunking of level 2. A gear hash runs over the
 * bytes, h = 2 h + table[byte], 64 bits: a byte is shifted out after 64 steps, so h at a position is a function of the 64
 * bytes that end there and of nothing else. A chunk ends after the first byte, from its `min`th on, where h is below a
 * limit: 2^64 / (4 average) below `average` bytes, 4 * 2^64 / average from there on; at `max` it ends in any case.
 *
 *     |<------ min ------>|<-- h < strict -->|<------ h < loose ------>|
 *     |     not looked at |               average                     max
 *
 * Where it differs from the papers: the first hash of a chunk already covers 64 bytes (they begin with an empty window
 * at `min`), and a mask is the top bits of h, so that it is one comparison and a strict hit is a loose one too. Both make
 * a hit a property of the position alone: that is what lets several threads look for hits at once.
 *
 * The table is 64 times SHA-256(label | key | number). With no key it is the same everywhere, and so are the cuts.
 * What a key protects from: who sees only the sizes of chunks (a remote that holds them encrypted, the wire) cannot
 * compute, without the key, which sizes a file that he has would give, and cannot write a file that is cut badly
 * on purpose; but for bytes that repeat: a period of p bytes has p windows, and often none that is a hit, whatever the
 * key. What it does not protect from either: an observer who can have chunked what he chooses and sees the sizes can
 * work out the table in time; digests are not keyed: who sees them knows equal chunks, and chunks that he has himself.
 */
#ifndef LZ_CHUNK_H
#define LZ_CHUNK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LZ_CHUNK_WINDOW 64
#define LZ_CHUNK_AVERAGE_MIN 256
#define LZ_CHUNK_SIZE_MAX ((size_t)1 << 30)
#define LZ_CHUNK_KEY_SIZE 32
#define LZ_CHUNK_THREADS_MAX 256

enum lz_chunk_digest { LZ_CHUNK_SHA256 = 1, LZ_CHUNK_XXH3 = 2 };

/* One chunk; 64 bytes, numpy reads them. A digest that was not asked for is zeros. */
struct lz_chunk_row {
    uint64_t offset, length;
    uint8_t sha256[32];
    uint8_t xxh3[16]; /* XXH3, 128 bits, in its canonical (big-endian) form */
};

/* Rows, grown as they come. `{0}` is valid and empty; give `rows` back with free(). */
struct lz_chunk_rows {
    struct lz_chunk_row *rows;
    size_t count, capacity;
};

struct lz_chunker;

/* Sizes in bytes: LZ_CHUNK_WINDOW <= min <= average <= max <= LZ_CHUNK_SIZE_MAX, min < max, `average` a power of two
 * from LZ_CHUNK_AVERAGE_MIN on. Or min == average == max, 1 to LZ_CHUNK_SIZE_MAX: blocks of that size, no hash.
 * `key`: LZ_CHUNK_KEY_SIZE secret bytes, or NULL. 0, -EINVAL (sizes), -ENOMEM or -EIO (OpenSSL). 15 us. Constant from
 * then on: any number of threads may use it at once. Give back with lz_chunker_free() (NULL is allowed). */
int lz_chunker_new(size_t min, size_t average, size_t max, const uint8_t *key, struct lz_chunker **out);
void lz_chunker_free(struct lz_chunker *self);

/* The length of the first chunk of `bytes`; 0 only for size 0. Fewer than `max` bytes are the end of the data. */
size_t lz_chunker_next(const struct lz_chunker *self, const uint8_t *bytes, size_t size);

/* Cuts `bytes`, appends a row for each chunk (offsets count from `base`), and fills in the digests that `digests`
 * (enum lz_chunk_digest, or-ed) asks for, on `threads` threads (1 to LZ_CHUNK_THREADS_MAX, this one among them) or as many
 * as can be had: rows do not depend on their number. `last` false: more bytes follow, so a chunk that they could change is
 * left for the next call; that is fewer than `max` bytes at the end. Returns how many bytes the new rows cover, or -EINVAL
 * (threads, digests), -EOVERFLOW (offsets would pass INT64_MAX), -ENOMEM, -EIO (OpenSSL), with `out->count` as it was. */
int64_t lz_chunk_buffer(const struct lz_chunker *self, const uint8_t *bytes, size_t size, uint64_t base, bool last,
                        unsigned digests, unsigned threads, struct lz_chunk_rows *out);

/* A part of a buffer. */
struct lz_chunk_piece {
    uint64_t offset, size;
};

/* The same of `count` pieces of `bytes`, each by itself and whole, one after the other, on this thread: many small files
 * in one call. Offsets count from `bytes`. 0, or -EINVAL (a piece that is not in `bytes`, digests), -ENOMEM, -EIO, with
 * `out->count` as it was. */
int lz_chunk_pieces(const struct lz_chunker *self, const uint8_t *bytes, size_t size,
                    const struct lz_chunk_piece *pieces, size_t count, unsigned digests, struct lz_chunk_rows *out);

/* ---- inside: for lz_chunk*.c and their test ---- */

struct lz_chunker {
    uint64_t table[256];
    uint64_t strict, loose; /* limits of h */
    size_t min, average, max;
};

/* A kernel: the first position from `from` to `to` (which is not looked at) whose h is below `limit`, or `to`. `from` is
 * at least LZ_CHUNK_WINDOW - 1, and the bytes before it are there to be read. */
typedef size_t lz_gear_scan(const uint64_t table[256], const uint8_t *bytes, size_t from, size_t to, uint64_t limit);
lz_gear_scan lz_gear_scan_plain; /* kernel 0: what is meant, one byte a step */
lz_gear_scan lz_gear_scan_fast;  /* what is used; finds the same */

/* Positions at which a chunk that begins at `start` can end: `strict_from`, then `loose_from`, up to `end` (from
 * `strict_from` == `end` on there is nothing to look for: the chunk ends at `end`, which is one past its last byte). */
struct lz_chunk_range {
    size_t strict_from, loose_from, end;
};
struct lz_chunk_range lz_chunk_range(const struct lz_chunker *self, size_t start, size_t size);

/* Fills in the digests of rows [first, end), whose bytes are at `bytes` - `base` + offset. `hasher`: NULL when SHA-256 is
 * not asked for. 0 or -EIO. */
struct lz_sha256_batch;
int lz_chunk_hash(struct lz_sha256_batch *hasher, const uint8_t *bytes, uint64_t base, unsigned digests,
                  struct lz_chunk_row *rows, size_t count);

/* Cuts chunks for as long as they begin before `to`, the first at `from`, appends a row for each, and fills in digests while
 * the bytes are in the cache. The rest as in lz_chunk_buffer(). 0 or its failures, with rows that are worth nothing. */
int lz_chunk_run(const struct lz_chunker *self, const uint8_t *bytes, size_t size, size_t from, size_t to,
                 uint64_t base, bool last, unsigned digests, struct lz_sha256_batch *hasher, struct lz_chunk_rows *out);

/* Is the chunk of `length` bytes at `at` one that more bytes could change? */
bool lz_chunk_is_open(const struct lz_chunker *self, size_t size, size_t at, size_t length, bool last);

/* The whole of lz_chunk_buffer() for two threads and more. (lz_chunk_threads.c) */
int lz_chunk_buffer_threads(const struct lz_chunker *self, const uint8_t *bytes, size_t size, uint64_t base, bool last,
                            unsigned digests, unsigned threads, struct lz_chunk_rows *out);

#endif
