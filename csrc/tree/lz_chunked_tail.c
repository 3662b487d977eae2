#include "lz_chunked_tail.h"

#include <errno.h>
#include <string.h>

#include "../bytes/lz_digest.h"
#include "../bytes/lz_json.h"

#define LEVEL 9 /* a pull that fetches parts always fetches this */
#define OUT_STEP (64u * 1024)
#define SKIPPABLE_MAGIC 0x184d2a50u
#define SKIPPABLE_HEADER 8u
#define TOC_TYPE 1u /* the only one there is */

static int stream_step(struct lz_tail_stream *stream, const uint8_t *bytes, size_t size, bool finish)
{
    int rc = 0;
    size_t written;
    stream->plain_size += size;
    do {
        rc = lz_buf_reserve(&stream->packed, OUT_STEP);
        if (rc != 0)
            return rc;
        rc = lz_deflate_step(stream->deflate, &bytes, &size, finish, stream->packed.data + stream->packed.size,
                             OUT_STEP, &written);
        if (rc < 0)
            return rc;
        stream->packed.size += written;
    } while (finish ? rc != 1 : size > 0 || written == OUT_STEP);
    return 0;
}

int lz_tail_open(struct lz_tail *tail)
{
    *tail = (struct lz_tail){.position = 0};
    static const char start[] = "{\"version\":1,\"entries\":[";
    int rc = lz_deflate_new(LZ_COMPRESSION_ZSTD, LEVEL, &tail->toc.deflate);
    if (rc == 0)
        rc = lz_deflate_new(LZ_COMPRESSION_ZSTD, LEVEL, &tail->tar_split.deflate);
    return rc != 0 ? rc : lz_tail_toc(tail, start, sizeof start - 1);
}

void lz_tail_free(struct lz_tail *tail)
{
    lz_deflate_free(tail->toc.deflate);
    lz_deflate_free(tail->tar_split.deflate);
    lz_buf_free(&tail->toc.packed);
    lz_buf_free(&tail->tar_split.packed);
    lz_buf_free(&tail->line);
}

int lz_tail_toc(struct lz_tail *tail, const void *text, size_t size)
{
    return stream_step(&tail->toc, text, size, false);
}

static int end_line(struct lz_tail *tail)
{
    int rc = lz_json_put(&tail->line, ",\"position\":%llu}\n", (unsigned long long)tail->position++);
    return rc != 0 ? rc : stream_step(&tail->tar_split, tail->line.data, tail->line.size, false);
}

int lz_tail_segment(struct lz_tail *tail, const uint8_t *bytes, size_t size)
{
    tail->line.size = 0;
    int rc = lz_json_put(&tail->line, "{\"type\":2,\"payload\":");
    if (rc == 0)
        rc = lz_json_put_base64(&tail->line, bytes, size);
    return rc != 0 ? rc : end_line(tail);
}

int lz_tail_file(struct lz_tail *tail, const char *name, size_t name_size, uint64_t size, const uint64_t *crc64)
{
    tail->line.size = 0;
    int rc = lz_json_put(&tail->line, "{\"type\":1,\"name\":");
    if (rc == 0)
        rc = lz_json_put_text(&tail->line, name, name_size);
    if (rc == 0 && size > 0)
        rc = lz_json_put(&tail->line, ",\"size\":%llu", (unsigned long long)size);
    if (rc == 0)
        rc = lz_json_put(&tail->line, ",\"payload\":%s", crc64 == NULL ? "null" : "");
    if (rc == 0 && crc64 != NULL) {
        uint8_t bytes[8];
        for (int i = 0; i < 8; i++)
            bytes[i] = (uint8_t)(*crc64 >> (56 - 8 * i));
        rc = lz_json_put_base64(&tail->line, bytes, sizeof bytes);
    }
    return rc != 0 ? rc : end_line(tail);
}

/* ---- the end ---- */

static void put_number(uint8_t *out, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        out[i] = (uint8_t)(value >> (8 * i));
}

static int put_skippable(struct lz_buf *out, const uint8_t *bytes, size_t size)
{
    uint8_t header[SKIPPABLE_HEADER];
    if (size > UINT32_MAX)
        return LZ_E_LIMIT;
    put_number(header, SKIPPABLE_MAGIC, 4);
    put_number(header + 4, size, 4);
    int rc = lz_buf_append(out, header, sizeof header);
    return rc != 0 ? rc : lz_buf_append(out, bytes, size);
}

static int digest_of(const struct lz_buf *bytes, uint8_t digest[LZ_SHA256_SIZE])
{
    struct lz_sha256 *sha256;
    int rc = lz_sha256_new(&sha256);
    if (rc != 0)
        return rc;
    rc = lz_sha256_digest(sha256, bytes->data, bytes->size, digest);
    lz_sha256_free(sha256);
    return rc;
}

static int end_toc(struct lz_tail *tail)
{
    uint8_t digest[LZ_SHA256_SIZE];
    char hex[LZ_SHA256_HEX_SIZE + 1];
    int rc = stream_step(&tail->tar_split, NULL, 0, true);
    if (rc == 0)
        rc = digest_of(&tail->tar_split.packed, digest);
    if (rc != 0)
        return rc;
    lz_hex(digest, hex);
    tail->line.size = 0;
    rc = lz_json_put(&tail->line, "],\"tarSplitDigest\":\"sha256:%s\"}\n", hex);
    return rc != 0 ? rc : stream_step(&tail->toc, tail->line.data, tail->line.size, true);
}

static int put_footer(struct lz_buf *out, const struct lz_chunked_result *result)
{
    static const uint8_t magic[8] = {'G', 'N', 'U', 'l', 'I', 'n', 'U', 'x'};
    const uint64_t numbers[] = {result->toc.offset,       result->toc.size,       result->toc.plain_size,      TOC_TYPE,
                                result->tar_split.offset, result->tar_split.size, result->tar_split.plain_size};
    uint8_t footer[sizeof numbers + sizeof magic];
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        put_number(footer + 8 * i, numbers[i], 8);
    memcpy(footer + sizeof numbers, magic, sizeof magic);
    return put_skippable(out, footer, sizeof footer);
}

int lz_tail_finish(struct lz_tail *tail, uint64_t offset, struct lz_buf *out, struct lz_chunked_result *result)
{
    int rc = end_toc(tail);
    if (rc == 0)
        rc = digest_of(&tail->toc.packed, result->toc_digest);
    if (rc == 0)
        rc = put_skippable(out, tail->toc.packed.data, tail->toc.packed.size);
    if (rc == 0)
        rc = put_skippable(out, tail->tar_split.packed.data, tail->tar_split.packed.size);
    if (rc != 0)
        return rc;
    result->toc = (struct lz_chunked_part){offset + SKIPPABLE_HEADER, tail->toc.packed.size, tail->toc.plain_size};
    result->tar_split = (struct lz_chunked_part){result->toc.offset + result->toc.size + SKIPPABLE_HEADER,
                                                 tail->tar_split.packed.size, tail->tar_split.plain_size};
    result->has_toc = true;
    return put_footer(out, result);
}
