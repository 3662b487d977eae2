#include "lz_recode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../base/lz_step.h"
#include "../bytes/lz_deflate.h"

#define BUFFER_SIZE (256u * 1024)

static int fail(struct lz_detail *detail, int code, const char *what)
{
    return lz_fail(detail, code, "%s: %s", what, lz_error_text(code));
}

struct buffers {
    uint8_t *in, *out; /* BUFFER_SIZE each */
    struct lz_sha256 *sha256;
};

static int open_buffers(struct buffers *self)
{
    *self = (struct buffers){.in = malloc(BUFFER_SIZE), .out = malloc(BUFFER_SIZE)};
    return self->in != NULL && self->out != NULL ? lz_sha256_new(&self->sha256) : -ENOMEM;
}

static void close_buffers(struct buffers *self)
{
    free(self->in);
    free(self->out);
    lz_sha256_free(self->sha256);
}

static int digest_file(const struct lz_sys *sys, int fd, struct buffers *buffers, uint8_t *digest, uint64_t *size,
                       struct lz_detail *detail)
{
    uint64_t done = 0;
    ssize_t got;
    while ((got = sys->pread(sys->ctx, fd, buffers->in, BUFFER_SIZE, (off_t)done)) > 0) {
        int rc = lz_sha256_update(buffers->sha256, buffers->in, (size_t)got);
        if (rc != 0)
            return rc;
        done += (uint64_t)got;
    }
    if (got < 0)
        return fail(detail, (int)got, "reading");
    if (size != NULL)
        *size = done;
    return lz_sha256_final(buffers->sha256, digest);
}

int lz_digest_file(const struct lz_sys *sys, int fd, uint8_t digest[LZ_SHA256_SIZE], uint64_t *size,
                   struct lz_detail *detail)
{
    struct buffers buffers;
    int rc = open_buffers(&buffers);
    if (rc == 0)
        rc = digest_file(sys, fd, &buffers, digest, size, detail);
    close_buffers(&buffers);
    return rc;
}

/* One buffer of input through the codec. */
static int inflate_some(const struct lz_sys *sys, int out_fd, struct lz_inflate *codec, struct buffers *buffers,
                        size_t in_size, uint64_t max_size, uint64_t *done, struct lz_detail *detail)
{
    const uint8_t *at = buffers->in;
    size_t written;
    do {
        int rc = lz_inflate_step(codec, &at, &in_size, buffers->out, BUFFER_SIZE, &written, detail);
        if (rc != 0)
            return rc;
        *done += written;
        if (*done > max_size)
            return lz_fail(detail, LZ_E_LIMIT, "at least %llu bytes uncompressed, allowed are %llu",
                           (unsigned long long)*done, (unsigned long long)max_size);
        rc = lz_write_all(sys, out_fd, buffers->out, written);
        if (rc != 0)
            return fail(detail, rc, "writing");
    } while (in_size > 0 || written == BUFFER_SIZE);
    return 0;
}

/* A whole buffer, less at the end. */
static ssize_t fill_buffer(const struct lz_sys *sys, int in_fd, int out_fd, uint8_t *buffer)
{
    size_t size = 0;
    while (size < BUFFER_SIZE) {
        int rc = lz_step_wait(sys, NULL, in_fd, out_fd);
        ssize_t got = rc == 0 ? sys->read(sys->ctx, in_fd, buffer + size, BUFFER_SIZE - size) : rc;
        if (got <= 0)
            return got < 0 ? got : (ssize_t)size;
        size += (size_t)got;
    }
    return (ssize_t)size;
}

static int decompress(const struct lz_sys *sys, int in_fd, int out_fd, uint64_t max_size, struct buffers *buffers,
                      struct lz_inflate **codec, uint64_t *done, struct lz_detail *detail)
{
    for (;;) {
        ssize_t got = fill_buffer(sys, in_fd, out_fd, buffers->in);
        if (got < 0)
            return fail(detail, (int)got, got == -EPIPE ? "writing" : "reading");
        int rc = 0;
        if (*codec == NULL)
            rc = lz_inflate_new(lz_compression_detect(buffers->in, (size_t)got), 0, codec);
        if (rc == 0 && got > 0)
            rc = inflate_some(sys, out_fd, *codec, buffers, (size_t)got, max_size, done, detail);
        if (rc != 0)
            return rc;
        if (got == 0)
            return lz_inflate_finish(*codec, detail);
    }
}

int lz_decompress_file(const struct lz_sys *sys, int in_fd, int out_fd, uint64_t max_size, uint64_t *size,
                       struct lz_detail *detail)
{
    struct buffers buffers;
    struct lz_inflate *codec = NULL;
    uint64_t done = 0;
    int rc = open_buffers(&buffers);
    if (rc == 0)
        rc = decompress(sys, in_fd, out_fd, max_size != 0 ? max_size : (uint64_t)1 << 40, &buffers, &codec, &done,
                        detail);
    lz_inflate_free(codec);
    close_buffers(&buffers);
    if (rc == 0)
        *size = done;
    return rc;
}

/* Bytes that go out: hashed, written, counted. */
static int put(const struct lz_sys *sys, int out_fd, struct buffers *buffers, const uint8_t *bytes, size_t size,
               uint64_t *done, struct lz_detail *detail)
{
    int rc = lz_sha256_update(buffers->sha256, bytes, size);
    if (rc != 0)
        return rc;
    *done += size;
    rc = lz_write_all(sys, out_fd, bytes, size);
    return rc != 0 ? fail(detail, rc, "writing") : 0;
}

static int compress(const struct lz_sys *sys, int in_fd, int out_fd, struct lz_deflate *codec, struct buffers *buffers,
                    uint64_t *done, struct lz_detail *detail)
{
    for (;;) {
        ssize_t got = lz_read_full(sys, in_fd, buffers->in, BUFFER_SIZE);
        if (got < 0)
            return fail(detail, (int)got, "reading");
        const uint8_t *at = buffers->in;
        size_t left = (size_t)got, written = 0;
        int over = 0;
        do {
            int rc;
            if (codec == NULL) {
                rc = put(sys, out_fd, buffers, at, left, done, detail);
                left = 0;
                over = got == 0;
            } else {
                over = lz_deflate_step(codec, &at, &left, got == 0, buffers->out, BUFFER_SIZE, &written);
                rc = over < 0 ? over : put(sys, out_fd, buffers, buffers->out, written, done, detail);
            }
            if (rc != 0)
                return rc;
        } while (!over && (got == 0 || left > 0 || written == BUFFER_SIZE));
        if (over)
            return 0;
    }
}

int lz_compress_file(const struct lz_sys *sys, int in_fd, int out_fd, enum lz_compression kind, int level,
                     uint8_t digest[LZ_SHA256_SIZE], uint64_t *size, struct lz_detail *detail)
{
    struct buffers buffers;
    struct lz_deflate *codec = NULL;
    uint64_t done = 0;
    int rc = open_buffers(&buffers);
    if (rc == 0 && kind != LZ_COMPRESSION_NONE) {
        rc = lz_deflate_new(kind, level, &codec);
        if (rc == -EINVAL)
            (void)lz_fail(detail, rc, "compression level %d is out of range", level);
    }
    if (rc == 0)
        rc = compress(sys, in_fd, out_fd, codec, &buffers, &done, detail);
    if (rc == 0)
        rc = lz_sha256_final(buffers.sha256, digest);
    lz_deflate_free(codec);
    close_buffers(&buffers);
    if (rc == 0)
        *size = done;
    return rc;
}
