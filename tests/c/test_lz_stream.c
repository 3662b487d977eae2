/* lz_digest, lz_inflate and lz_deflate against OpenSSL's published vector and against zlib and libzstd as oracles. */
#include "bytes/lz_deflate.h"
#include "bytes/lz_digest.h"
#include "bytes/lz_inflate.h"

#include <errno.h>
#include <zlib.h>
#include <zstd.h>

#include "base/lz_mem.h"
#include "check.h"

static bool same(const struct lz_buf *a, const struct lz_buf *b)
{
    return a->size == b->size && (a->size == 0 || memcmp(a->data, b->data, a->size) == 0);
}

/* Bytes with runs and noise, always the same. */
static struct lz_buf sample(size_t size)
{
    struct lz_buf buf = {0};
    CHECK_EQ(lz_buf_append_zeros(&buf, size), 0);
    uint32_t state = 12345;
    for (size_t i = 0; i < size; i++) {
        state = state * 1103515245u + 12345u;
        buf.data[i] = (state >> 28) < 9 ? (uint8_t)(i / 64) : (uint8_t)(state >> 16);
    }
    return buf;
}

static struct lz_buf deflate_all(enum lz_compression kind, int level, const uint8_t *in, size_t in_size, size_t piece)
{
    struct lz_deflate *self = NULL;
    struct lz_buf out = {0};
    uint8_t chunk[997];
    CHECK_EQ(lz_deflate_new(kind, level, &self), 0);
    size_t at = 0;
    for (int rc = 0; rc == 0;) {
        size_t now = in_size - at < piece ? in_size - at : piece;
        const uint8_t *next = in + at;
        size_t left = now, written = 0;
        rc = lz_deflate_step(self, &next, &left, at + now == in_size, chunk, sizeof chunk, &written);
        CHECK(rc >= 0);
        at += now - left;
        CHECK_EQ(lz_buf_append(&out, chunk, written), 0);
    }
    lz_deflate_free(self);
    return out;
}

/* Inflates with the given piece sizes; returns the code and what came out. */
static int inflate_all(enum lz_compression kind, const uint8_t *in, size_t in_size, size_t in_piece, size_t out_piece,
                       struct lz_buf *out, struct lz_detail *detail)
{
    struct lz_inflate *inflate = NULL;
    uint8_t *chunk = lz_alloc_array(out_piece, 1);
    CHECK(chunk != NULL);
    CHECK_EQ(lz_inflate_new(kind, 0, &inflate), 0);
    size_t at = 0;
    int rc = 0;
    while (rc == 0 && at < in_size) {
        /* a heap copy of exactly the piece, so that reading past it is seen by the sanitizer */
        size_t now = in_size - at < in_piece ? in_size - at : in_piece;
        uint8_t *piece = lz_alloc_array(now, 1);
        CHECK(piece != NULL);
        memcpy(piece, in + at, now);
        const uint8_t *next = piece;
        size_t left = now, written = 0;
        do {
            rc = lz_inflate_step(inflate, &next, &left, chunk, out_piece, &written, detail);
            if (rc == 0)
                CHECK_EQ(lz_buf_append(out, chunk, written), 0);
        } while (rc == 0 && (left > 0 || written == out_piece));
        free(piece);
        at += now;
    }
    if (rc == 0)
        rc = lz_inflate_finish(inflate, detail);
    lz_inflate_free(inflate);
    free(chunk);
    return rc;
}

static void digest_vectors(void)
{
    struct lz_sha256 *context = NULL;
    uint8_t raw[LZ_SHA256_SIZE];
    char hex[LZ_SHA256_HEX_SIZE + 1];
    CHECK_EQ(lz_sha256_new(&context), 0);
    CHECK_EQ(lz_sha256_update(context, "dropped", 7), 0);
    CHECK_EQ(lz_sha256_digest(context, "abc", 3, raw), 0); /* FIPS 180-2, appendix B.1 */
    lz_hex(raw, hex);
    CHECK_STR(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    for (int again = 0; again < 2; again++) {
        CHECK_EQ(lz_sha256_update(context, "a", 1), 0);
        CHECK_EQ(lz_sha256_update(context, "bc", 2), 0);
        CHECK_EQ(lz_sha256_final(context, raw), 0);
        lz_hex(raw, hex);
        CHECK_STR(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
    lz_sha256_free(context);
    lz_sha256_free(NULL);
}

static void detect(void)
{
    CHECK_EQ(lz_compression_detect((const uint8_t *)"\x1f\x8b\x08\x00", 4), LZ_COMPRESSION_GZIP);
    CHECK_EQ(lz_compression_detect((const uint8_t *)"\x28\xb5\x2f\xfd", 4), LZ_COMPRESSION_ZSTD);
    CHECK_EQ(lz_compression_detect((const uint8_t *)"\x5a\x2a\x4d\x18", 4), LZ_COMPRESSION_ZSTD);
    CHECK_EQ(lz_compression_detect((const uint8_t *)"etc/", 4), LZ_COMPRESSION_NONE);
    CHECK_EQ(lz_compression_detect((const uint8_t *)"\x1f", 1), LZ_COMPRESSION_NONE);
    CHECK_EQ(lz_compression_detect(NULL, 0), LZ_COMPRESSION_NONE);
}

static void round_trips(void)
{
    static const size_t sizes[] = {0, 1, 100, 65536, 300000};
    static const size_t pieces[] = {1, 2, 17, 4096, 1 << 20};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        struct lz_buf plain = sample(sizes[s]);
        for (int kind = LZ_COMPRESSION_GZIP; kind <= LZ_COMPRESSION_ZSTD; kind++) {
            struct lz_buf packed = deflate_all(kind, 0, plain.data, plain.size, 1 << 20);
            struct lz_buf again = deflate_all(kind, 0, plain.data, plain.size, 1 << 20);
            CHECK(same(&packed, &again));
            for (size_t p = 2; p < sizeof pieces / sizeof *pieces; p++) { /* in whatever pieces it comes */
                struct lz_buf piecewise = deflate_all(kind, 0, plain.data, plain.size, pieces[p]);
                CHECK(same(&packed, &piecewise));
                lz_buf_free(&piecewise);
            }
            CHECK_EQ(lz_compression_detect(packed.data, packed.size), kind);
            for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) {
                if (pieces[p] == 1 && sizes[s] > 70000)
                    continue; /* an hour of one-byte steps shows nothing new */
                struct lz_buf out = {0};
                struct lz_detail detail = {{0}};
                CHECK_EQ(inflate_all(kind, packed.data, packed.size, pieces[p], 8191, &out, &detail), 0);
                CHECK(same(&out, &plain));
                lz_buf_free(&out);
            }
            lz_buf_free(&packed);
            lz_buf_free(&again);
        }
        lz_buf_free(&plain);
    }
}

/* What zlib's own gzread-like loop makes of the bytes: members one after the other, the rest ignored. */
static int zlib_oracle(const uint8_t *in, size_t size, struct lz_buf *out)
{
    uint8_t chunk[4096];
    bool any = false;
    while (size > 0) {
        if (any && !(size >= 2 && in[0] == 0x1f && in[1] == 0x8b))
            return 0;
        z_stream stream = {.next_in = (Bytef *)(uintptr_t)in, .avail_in = (uInt)size};
        CHECK_EQ(inflateInit2(&stream, 15 + 16), Z_OK);
        int rc = Z_OK;
        while (rc == Z_OK) {
            stream.next_out = chunk;
            stream.avail_out = sizeof chunk;
            rc = inflate(&stream, Z_NO_FLUSH);
            CHECK_EQ(lz_buf_append(out, chunk, sizeof chunk - stream.avail_out), 0);
        }
        in += size - stream.avail_in;
        size = stream.avail_in;
        CHECK_EQ(inflateEnd(&stream), Z_OK);
        if (rc != Z_STREAM_END)
            return -1;
        any = true;
    }
    return any ? 0 : -1;
}

static void agree_with_zlib(const struct lz_buf *bytes)
{
    static const size_t pieces[] = {1, 3, 1000, 1 << 20};
    struct lz_buf expected = {0};
    int oracle = zlib_oracle(bytes->data, bytes->size, &expected);
    for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) {
        struct lz_buf out = {0};
        struct lz_detail detail = {{0}};
        int rc = inflate_all(LZ_COMPRESSION_GZIP, bytes->data, bytes->size, pieces[p], 1021, &out, &detail);
        CHECK_EQ(rc == 0, oracle == 0);
        if (rc == 0)
            CHECK(same(&out, &expected));
        else
            CHECK(detail.text[0] != 0);
        lz_buf_free(&out);
    }
    lz_buf_free(&expected);
}

static void concatenated_members(void)
{
    static const char *const tails[] = {"", "\x1f", "\x1f\x8c", "junk", "\0\0\0\0", "\x1f\x8bjunk", "\x1f\x8b"};
    static const size_t tail_sizes[] = {0, 1, 2, 4, 4, 6, 2};
    for (size_t t = 0; t < sizeof tails / sizeof *tails; t++) {
        for (int members = 0; members <= 3; members++) {
            struct lz_buf all = {0};
            for (int m = 0; m < members; m++) {
                struct lz_buf plain = sample((size_t)m * 777); /* the first member is empty */
                struct lz_buf packed = deflate_all(LZ_COMPRESSION_GZIP, 0, plain.data, plain.size, 4096);
                CHECK_EQ(lz_buf_append(&all, packed.data, packed.size), 0);
                lz_buf_free(&plain);
                lz_buf_free(&packed);
            }
            CHECK_EQ(lz_buf_append(&all, tails[t], tail_sizes[t]), 0);
            agree_with_zlib(&all);
            lz_buf_free(&all);
        }
    }
}

static void gzip_with_every_header_field(void)
{
    struct lz_buf plain = sample(5000);
    gz_header header = {.text = 1,
                        .time = 99,
                        .os = 3,
                        .extra = (Bytef *)(uintptr_t) "ABxx",
                        .extra_len = 4,
                        .name = (Bytef *)(uintptr_t) "layer.tar",
                        .comment = (Bytef *)(uintptr_t) "comment",
                        .hcrc = 1};
    uint8_t packed[8192];
    z_stream stream = {
        .next_in = plain.data, .avail_in = (uInt)plain.size, .next_out = packed, .avail_out = sizeof packed};
    CHECK_EQ(deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    CHECK_EQ(deflateSetHeader(&stream, &header), Z_OK);
    CHECK_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
    struct lz_buf bytes = {.data = packed, .size = sizeof packed - stream.avail_out};
    CHECK_EQ(deflateEnd(&stream), Z_OK);
    agree_with_zlib(&bytes);
    lz_buf_free(&plain);
}

static void every_truncation_and_flip(void)
{
    struct lz_buf plain = sample(600);
    for (int kind = LZ_COMPRESSION_GZIP; kind <= LZ_COMPRESSION_ZSTD; kind++) {
        struct lz_buf packed = deflate_all(kind, 0, plain.data, plain.size, 4096);
        for (size_t cut = 0; cut < packed.size; cut++) {
            struct lz_buf out = {0};
            struct lz_detail detail = {{0}};
            int rc = inflate_all(kind, packed.data, cut, 64, 100, &out, &detail);
            CHECK(rc == LZ_E_TRUNCATED && detail.text[0] != 0);
            lz_buf_free(&out);
        }
        for (size_t bit = 0; bit < packed.size * 8; bit++) {
            packed.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
            if (kind == LZ_COMPRESSION_GZIP && bit / 8 >= 4) {
                agree_with_zlib(
                    &packed); /* flips in the gzip header's time and OS bytes are harmless, and zlib says so too */
            } else {
                struct lz_buf out = {0};
                struct lz_detail detail = {{0}};
                int rc = inflate_all(kind, packed.data, packed.size, 64, 100, &out, &detail);
                CHECK(rc != 0 || (same(&out, &plain)));
                lz_buf_free(&out);
            }
            packed.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        }
        lz_buf_free(&packed);
    }
    lz_buf_free(&plain);
}

static void zstd_frames_and_window(void)
{
    struct lz_buf plain = sample(3000);
    struct lz_buf one = deflate_all(LZ_COMPRESSION_ZSTD, 19, plain.data, plain.size, 500);
    struct lz_buf all = {0}, out = {0};
    struct lz_detail detail = {{0}};
    static const uint8_t skippable[] = {0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'};
    CHECK_EQ(lz_buf_append(&all, skippable, sizeof skippable), 0);
    CHECK_EQ(lz_buf_append(&all, one.data, one.size), 0);
    CHECK_EQ(lz_buf_append(&all, one.data, one.size), 0);
    CHECK_EQ(lz_buf_append(&all, skippable, sizeof skippable), 0);
    CHECK_EQ(inflate_all(LZ_COMPRESSION_ZSTD, all.data, all.size, 5, 700, &out, &detail), 0);
    CHECK_EQ(out.size, 6000);
    CHECK(memcmp(out.data, plain.data, 3000) == 0 && memcmp(out.data + 3000, plain.data, 3000) == 0);
    CHECK_EQ(lz_buf_append(&all, "junk", 4), 0);
    CHECK_EQ(inflate_all(LZ_COMPRESSION_ZSTD, all.data, all.size, 5, 700, &out, &detail), LZ_E_FORMAT);
    all.size = sizeof skippable; /* and a first byte or three of another frame */
    for (size_t i = 1; i < 4; i++) {
        CHECK_EQ(lz_buf_append(&all, one.data + i - 1, 1), 0);
        CHECK_EQ(inflate_all(LZ_COMPRESSION_ZSTD, all.data, all.size, 5, 700, &out, &detail), LZ_E_TRUNCATED);
    }
    lz_buf_free(&out);
    lz_buf_free(&all);
    lz_buf_free(&one);
    lz_buf_free(&plain);

    /* formats from before 1.0: refused in any pieces, alone and after a frame; libzstd may have been built with them */
    static const uint8_t old[] = {0x25, 0xb5, 0x2f, 0xfd, 0x08, 0xe4, 0xa8, 0x00};
    for (size_t piece = 1; piece <= sizeof old; piece++) {
        struct lz_buf both = {0};
        CHECK_EQ(inflate_all(LZ_COMPRESSION_ZSTD, old, sizeof old, piece, 100, &out, &detail), LZ_E_FORMAT);
        CHECK_EQ(lz_buf_append(&both, skippable, sizeof skippable), 0);
        CHECK_EQ(lz_buf_append(&both, old, sizeof old), 0);
        CHECK_EQ(inflate_all(LZ_COMPRESSION_ZSTD, both.data, both.size, piece, 100, &out, &detail), LZ_E_FORMAT);
        lz_buf_free(&both);
    }

    /* a frame that asks for a 2 GiB window is refused before anything of that size is allocated */
    static const uint8_t huge[] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00};
    CHECK_EQ(inflate_all(LZ_COMPRESSION_ZSTD, huge, sizeof huge, 9, 100, &out, &detail), LZ_E_LIMIT);
    lz_buf_free(&out);
}

static void refused_arguments(void)
{
    struct lz_deflate *deflate_out = NULL;
    struct lz_inflate *inflate_out = NULL;
    CHECK_EQ(lz_deflate_new(LZ_COMPRESSION_NONE, 0, &deflate_out), -EINVAL);
    CHECK_EQ(lz_deflate_new(LZ_COMPRESSION_GZIP, 10, &deflate_out), -EINVAL);
    CHECK_EQ(lz_deflate_new(LZ_COMPRESSION_ZSTD, 99, &deflate_out), -EINVAL);
    CHECK_EQ(lz_inflate_new((enum lz_compression)7, 0, &inflate_out), -EINVAL);
    CHECK(deflate_out == NULL && inflate_out == NULL);
}

int main(void)
{
    RUN(digest_vectors);
    RUN(detect);
    RUN(round_trips);
    RUN(concatenated_members);
    RUN(gzip_with_every_header_field);
    RUN(every_truncation_and_flip);
    RUN(zstd_frames_and_window);
    RUN(refused_arguments);
    return check_end();
}
