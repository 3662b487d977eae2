#include "lz_deflate.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

struct lz_deflate {
    enum lz_compression kind;
    bool ended;
    z_stream zlib;
    gz_header header;
    bool zlib_ready;
    ZSTD_CCtx *zstd;
};

static int start_gzip(struct lz_deflate *self, int level)
{
    if (level < 0 || level > 9)
        return -EINVAL;
    /* 15 + 16: a gzip wrapper with no name; mtime 0 */
    if (deflateInit2(&self->zlib, level != 0 ? level : 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return -ENOMEM;
    self->zlib_ready = true;
    self->header.os = 255; /* "unknown": zlib would write the host's */
    return deflateSetHeader(&self->zlib, &self->header) == Z_OK ? 0 : -EINVAL;
}

static int start_zstd(struct lz_deflate *self, int level)
{
    if (level < 0 || level > ZSTD_maxCLevel())
        return -EINVAL;
    self->zstd = ZSTD_createCCtx();
    if (self->zstd == NULL)
        return -ENOMEM;
    size_t rc = ZSTD_CCtx_setParameter(self->zstd, ZSTD_c_compressionLevel, level != 0 ? level : 3);
    if (!ZSTD_isError(rc))
        rc = ZSTD_CCtx_setParameter(self->zstd, ZSTD_c_checksumFlag, 1);
    return ZSTD_isError(rc) ? -EINVAL : 0;
}

int lz_deflate_new(enum lz_compression kind, int level, struct lz_deflate **out)
{
    if (kind != LZ_COMPRESSION_GZIP && kind != LZ_COMPRESSION_ZSTD)
        return -EINVAL;
    struct lz_deflate *self = calloc(1, sizeof *self);
    if (self == NULL)
        return -ENOMEM;
    self->kind = kind;
    int rc = kind == LZ_COMPRESSION_GZIP ? start_gzip(self, level) : start_zstd(self, level);
    if (rc != 0) {
        lz_deflate_free(self);
        return rc;
    }
    *out = self;
    return 0;
}

void lz_deflate_free(struct lz_deflate *self)
{
    if (self == NULL)
        return;
    if (self->zlib_ready)
        (void)deflateEnd(&self->zlib);
    ZSTD_freeCCtx(self->zstd);
    free(self);
}

static int step_gzip(struct lz_deflate *self, const uint8_t **in, size_t *in_size, bool finish, uint8_t *out,
                     size_t capacity, size_t *written)
{
    z_stream *stream = &self->zlib;
    uInt in_now = *in_size > UINT_MAX ? UINT_MAX : (uInt)*in_size;
    uInt out_now = capacity > UINT_MAX ? UINT_MAX : (uInt)capacity;
    bool all = finish && in_now == *in_size;
    stream->next_in = (Bytef *)(uintptr_t)*in;
    stream->avail_in = in_now;
    stream->next_out = out;
    stream->avail_out = out_now;
    int rc = self->ended ? Z_STREAM_END : deflate(stream, all ? Z_FINISH : Z_NO_FLUSH);
    if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR)
        return -EIO;
    *in += in_now - stream->avail_in;
    *in_size -= in_now - stream->avail_in;
    *written = out_now - stream->avail_out;
    self->ended = rc == Z_STREAM_END;
    return self->ended ? 1 : 0;
}

/* The end comes with no input of its own: given both at once, libzstd writes another frame, and so the bytes would
 * depend on the pieces in which the same input came. */
static int step_zstd(struct lz_deflate *self, const uint8_t **in, size_t *in_size, bool finish, uint8_t *out,
                     size_t capacity, size_t *written)
{
    ZSTD_inBuffer input = {*in, *in_size, 0};
    ZSTD_outBuffer output = {out, capacity, 0};
    size_t rc = 0;
    if (input.size > 0 && !self->ended)
        rc = ZSTD_compressStream2(self->zstd, &output, &input, ZSTD_e_continue);
    bool all = finish && input.pos == input.size;
    if (!ZSTD_isError(rc) && all && !self->ended)
        rc = ZSTD_compressStream2(self->zstd, &output, &(ZSTD_inBuffer){NULL, 0, 0}, ZSTD_e_end);
    if (ZSTD_isError(rc))
        return -EIO;
    *in += input.pos;
    *in_size -= input.pos;
    *written = output.pos;
    self->ended = self->ended || (all && rc == 0);
    return self->ended ? 1 : 0;
}

int lz_deflate_step(struct lz_deflate *self, const uint8_t **in, size_t *in_size, bool finish, uint8_t *out,
                    size_t capacity, size_t *written)
{
    return self->kind == LZ_COMPRESSION_GZIP ? step_gzip(self, in, in_size, finish, out, capacity, written)
                                             : step_zstd(self, in, in_size, finish, out, capacity, written);
}
