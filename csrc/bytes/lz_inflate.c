#include "lz_inflate.h"

#include <errno.h>
#include <isa-l/igzip_lib.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

/* Where a gzip stream stands between calls. zlib reads the header of a member (so that every header is judged exactly
 * as zlib judges it: ISA-L 2.30 miscounts a header CRC that arrives in pieces), ISA-L inflates and checks the rest. */
enum gzip_state {
    GZIP_MAGIC,  /* before a member: 0 to 2 bytes of the magic seen, in `magic_seen` */
    GZIP_HEADER, /* after the magic */
    GZIP_MEMBER, /* in the deflate data or the trailer */
    GZIP_IGNORE, /* after the last: what follows is not a member */
};

struct lz_inflate {
    enum lz_compression kind;
    enum gzip_state gzip;
    unsigned magic_seen;
    bool any; /* a whole member or frame has been seen */
    bool inside_frame;
    uint8_t frame_magic[4]; /* before a frame: 0 to 4 bytes of it, in `magic_seen` */
    uint64_t taken;         /* input bytes so far, for messages */
    z_stream zlib;
    bool zlib_ready;
    gz_header header;
    struct inflate_state *isal;
    ZSTD_DStream *zstd;
};

static const uint8_t gzip_magic[2] = {0x1f, 0x8b};
static const uint8_t zstd_magic[4] = {0x28, 0xb5, 0x2f, 0xfd};
static const uint8_t skippable_magic[4] = {0x50, 0x2a, 0x4d, 0x18}; /* and 51 to 5f for the first */

/* Whether a frame may begin with these bytes, 4 or fewer. */
static bool begins_frame(const uint8_t *head, size_t size)
{
    return memcmp(head, zstd_magic, size) == 0 ||
           ((head[0] & 0xf0) == skippable_magic[0] && memcmp(head + 1, skippable_magic + 1, size - 1) == 0);
}

enum lz_compression lz_compression_detect(const uint8_t *head, size_t size)
{
    if (size >= 2 && memcmp(head, gzip_magic, 2) == 0)
        return LZ_COMPRESSION_GZIP;
    if (size >= 4 && begins_frame(head, 4)) /* a skippable frame may come first (zstd:chunked writers, pzstd) */
        return LZ_COMPRESSION_ZSTD;
    return LZ_COMPRESSION_NONE;
}

int lz_inflate_new(enum lz_compression kind, unsigned window_log_max, struct lz_inflate **out)
{
    if (kind != LZ_COMPRESSION_NONE && kind != LZ_COMPRESSION_GZIP && kind != LZ_COMPRESSION_ZSTD)
        return -EINVAL;
    struct lz_inflate *self = calloc(1, sizeof *self);
    if (self == NULL)
        return -ENOMEM;
    self->kind = kind;
    if (kind == LZ_COMPRESSION_GZIP) {
        self->isal = malloc(sizeof *self->isal);
        if (self->isal == NULL) {
            lz_inflate_free(self);
            return -ENOMEM;
        }
        isal_inflate_init(self->isal);
        if (inflateInit2(&self->zlib, 15 + 16) != Z_OK) {
            lz_inflate_free(self);
            return -ENOMEM;
        }
        self->zlib_ready = true;
    } else if (kind == LZ_COMPRESSION_ZSTD) {
        self->zstd = ZSTD_createDStream();
        if (self->zstd == NULL) {
            lz_inflate_free(self);
            return -ENOMEM;
        }
        size_t rc =
            ZSTD_DCtx_setParameter(self->zstd, ZSTD_d_windowLogMax, window_log_max != 0 ? (int)window_log_max : 27);
        if (ZSTD_isError(rc)) {
            lz_inflate_free(self);
            return -EINVAL;
        }
    }
    *out = self;
    return 0;
}

void lz_inflate_free(struct lz_inflate *self)
{
    if (self == NULL)
        return;
    if (self->zlib_ready)
        (void)inflateEnd(&self->zlib);
    free(self->isal);
    ZSTD_freeDStream(self->zstd);
    free(self);
}

static int gzip_error(const struct lz_inflate *self, int code, struct lz_detail *detail)
{
    unsigned long long at = self->taken;
    switch (code) {
    case ISAL_INCORRECT_CHECKSUM:
        return lz_fail(detail, LZ_E_CORRUPT, "gzip: CRC-32 or length of a member does not match (near byte %llu)", at);
    case ISAL_UNSUPPORTED_METHOD:
        return lz_fail(detail, LZ_E_FORMAT, "gzip: unknown compression method (near byte %llu)", at);
    case ISAL_INVALID_WRAPPER:
        return lz_fail(detail, LZ_E_FORMAT, "gzip: malformed member header (near byte %llu)", at);
    default:
        return lz_fail(detail, LZ_E_FORMAT, "gzip: malformed deflate data (near byte %llu)", at);
    }
}

/* One run of ISA-L inside a member. */
static int inflate_member(struct lz_inflate *self, const uint8_t **in, size_t *in_size, uint8_t *out, size_t capacity,
                          size_t *written, struct lz_detail *detail)
{
    struct inflate_state *state = self->isal;
    uint32_t in_now = *in_size > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t)*in_size;
    uint32_t out_now = capacity > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t)capacity;
    state->next_in = (uint8_t *)(uintptr_t)*in;
    state->avail_in = in_now;
    state->next_out = out;
    state->avail_out = out_now;
    int rc = isal_inflate(state);
    size_t took = in_now - state->avail_in;
    *in += took;
    *in_size -= took;
    self->taken += took;
    *written = out_now - state->avail_out;
    if (rc < 0)
        return gzip_error(self, rc, detail);
    if (state->block_state == ISAL_BLOCK_FINISH) {
        self->gzip = GZIP_MAGIC;
        self->any = true;
    }
    return 0;
}

/* Gives zlib header bytes one at a time until it has the whole header; it never gets as far as the deflate data. */
static int read_header(struct lz_inflate *self, const uint8_t **in, size_t *in_size, struct lz_detail *detail)
{
    uint8_t nothing[1];
    while (*in_size > 0 && self->header.done == 0) {
        self->zlib.next_in = (Bytef *)(uintptr_t)*in;
        self->zlib.avail_in = 1;
        self->zlib.next_out = nothing;
        self->zlib.avail_out = 0;
        int rc = inflate(&self->zlib, Z_BLOCK);
        if (rc != Z_OK && rc != Z_BUF_ERROR)
            return lz_fail(detail, LZ_E_FORMAT, "gzip: malformed member header (near byte %llu)",
                           (unsigned long long)self->taken);
        (*in)++;
        (*in_size)--;
        self->taken++;
    }
    if (self->header.done == 1) {
        isal_inflate_reset(self->isal);
        self->isal->crc_flag = ISAL_GZIP_NO_HDR_VER;
        self->gzip = GZIP_MEMBER;
    }
    return 0;
}

/* The magic was held back until it was complete; zlib gets it now. */
static int start_header(struct lz_inflate *self, struct lz_detail *detail)
{
    const uint8_t *magic = gzip_magic;
    size_t magic_size = sizeof gzip_magic;
    self->header = (gz_header){0};
    if (inflateReset(&self->zlib) != Z_OK || inflateGetHeader(&self->zlib, &self->header) != Z_OK)
        return -ENOMEM;
    self->gzip = GZIP_HEADER;
    self->magic_seen = 0;
    self->taken -= magic_size; /* counted when it came, and again by read_header() */
    return read_header(self, &magic, &magic_size, detail);
}

static int step_gzip(struct lz_inflate *self, const uint8_t **in, size_t *in_size, uint8_t *out, size_t capacity,
                     size_t *written, struct lz_detail *detail)
{
    size_t done = 0;
    for (;;) {
        if (self->gzip == GZIP_IGNORE) {
            self->taken += *in_size;
            *in += *in_size;
            *in_size = 0;
        } else if (self->gzip == GZIP_MAGIC) {
            while (*in_size > 0 && self->magic_seen < 2 && **in == gzip_magic[self->magic_seen]) {
                self->magic_seen++;
                self->taken++;
                (*in)++;
                (*in_size)--;
            }
            if (self->magic_seen == 2) {
                int rc = start_header(self, detail);
                if (rc != 0)
                    return rc;
                continue;
            }
            if (*in_size > 0) {
                if (!self->any)
                    return lz_fail(detail, LZ_E_FORMAT, "gzip: no magic 1f 8b at the start");
                self->gzip = GZIP_IGNORE;
                continue;
            }
        } else if (self->gzip == GZIP_HEADER) {
            int rc = read_header(self, in, in_size, detail);
            if (rc != 0)
                return rc;
            if (*in_size > 0)
                continue;
        } else {
            size_t now = 0;
            size_t before = *in_size;
            int rc = inflate_member(self, in, in_size, out + done, capacity - done, &now, detail);
            if (rc != 0)
                return rc;
            done += now;
            bool progress = now > 0 || *in_size != before || self->gzip == GZIP_MAGIC;
            if (progress && done < capacity && (*in_size > 0 || self->gzip == GZIP_MAGIC))
                continue;
            if (!progress && *in_size > 0 && done < capacity)
                return lz_fail(detail, LZ_E_FORMAT, "gzip: no progress (near byte %llu)",
                               (unsigned long long)self->taken);
        }
        *written = done;
        return 0;
    }
}

static int zstd_error(size_t code, uint64_t taken, struct lz_detail *detail)
{
    unsigned long long at = taken;
    const char *name = ZSTD_getErrorName(code);
    if (strstr(name, "too much memory") != NULL)
        return lz_fail(detail, LZ_E_LIMIT, "zstd: frame needs a larger window than allowed (near byte %llu)", at);
    if (strstr(name, "checksum") != NULL)
        return lz_fail(detail, LZ_E_CORRUPT, "zstd: %s (near byte %llu)", name, at);
    return lz_fail(detail, LZ_E_FORMAT, "zstd: %s (near byte %llu)", name, at);
}

/* Before a frame: holds its magic back until it is complete. libzstd must not see another: where it is built with the
 * formats from before 1.0, it would read them, and differently so when they come in pieces. */
static int start_frame(struct lz_inflate *self, ZSTD_inBuffer *input, ZSTD_outBuffer *output, struct lz_detail *detail)
{
    const uint8_t *in = input->src;
    while (self->magic_seen < sizeof self->frame_magic && input->pos < input->size) {
        self->frame_magic[self->magic_seen++] = in[input->pos++];
        if (!begins_frame(self->frame_magic, self->magic_seen))
            return lz_fail(detail, LZ_E_FORMAT, "zstd: no frame begins so (near byte %llu)",
                           (unsigned long long)(self->taken + input->pos));
    }
    if (self->magic_seen < sizeof self->frame_magic)
        return 0;
    ZSTD_inBuffer magic = {self->frame_magic, sizeof self->frame_magic, 0};
    size_t rc = ZSTD_decompressStream(self->zstd, output, &magic);
    if (ZSTD_isError(rc) || magic.pos != magic.size)
        return zstd_error(rc, self->taken + input->pos, detail);
    self->magic_seen = 0;
    self->inside_frame = true;
    return 0;
}

static int step_zstd(struct lz_inflate *self, const uint8_t **in, size_t *in_size, uint8_t *out, size_t capacity,
                     size_t *written, struct lz_detail *detail)
{
    ZSTD_inBuffer input = {*in, *in_size, 0};
    ZSTD_outBuffer output = {out, capacity, 0};
    while (output.pos < output.size) {
        if (!self->inside_frame) {
            int failed = start_frame(self, &input, &output, detail);
            if (failed != 0)
                return failed;
            if (!self->inside_frame)
                break;
        }
        size_t in_before = input.pos;
        size_t out_before = output.pos;
        size_t rc = ZSTD_decompressStream(self->zstd, &output, &input);
        if (ZSTD_isError(rc))
            return zstd_error(rc, self->taken + input.pos, detail);
        bool moved = input.pos != in_before || output.pos != out_before;
        if (moved) {
            self->inside_frame = rc != 0;
            self->any = self->any || rc == 0;
        }
        if (!moved || (rc == 0 && input.pos == input.size))
            break;
    }
    *in += input.pos;
    *in_size -= input.pos;
    self->taken += input.pos;
    *written = output.pos;
    return 0;
}

int lz_inflate_step(struct lz_inflate *self, const uint8_t **in, size_t *in_size, uint8_t *out, size_t capacity,
                    size_t *written, struct lz_detail *detail)
{
    if (self->kind == LZ_COMPRESSION_GZIP)
        return step_gzip(self, in, in_size, out, capacity, written, detail);
    if (self->kind == LZ_COMPRESSION_ZSTD)
        return step_zstd(self, in, in_size, out, capacity, written, detail);
    size_t size = *in_size < capacity ? *in_size : capacity;
    if (size > 0)
        memcpy(out, *in, size);
    *in += size;
    *in_size -= size;
    self->taken += size;
    *written = size;
    return 0;
}

int lz_inflate_finish(struct lz_inflate *self, struct lz_detail *detail)
{
    unsigned long long at = self->taken;
    if (self->kind == LZ_COMPRESSION_GZIP && (self->gzip == GZIP_HEADER || self->gzip == GZIP_MEMBER || !self->any))
        return lz_fail(detail, LZ_E_TRUNCATED, "gzip: the stream ends inside a member, after %llu bytes", at);
    if (self->kind == LZ_COMPRESSION_ZSTD && (self->inside_frame || self->magic_seen > 0 || !self->any))
        return lz_fail(detail, LZ_E_TRUNCATED, "zstd: the stream ends inside a frame, after %llu bytes", at);
    return 0;
}
