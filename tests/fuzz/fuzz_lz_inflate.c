/* Any bytes into the decompressors: the first byte picks the kind and the sizes of the pieces. Gzip must say what zlib
 * says, read as gzread() reads: members one after the other, and after the last whatever does not begin another. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/lz_mem.h"
#include "bytes/lz_inflate.h"
#include "replay.h"

#define MAX_OUTPUT ((size_t)1 << 20)

enum answer { GOOD, BAD, TOO_MUCH };

static enum answer ours(enum lz_compression kind, const uint8_t *bytes, size_t size, size_t in_piece, size_t capacity,
                        struct lz_buf *all)
{
    struct lz_inflate *inflate = NULL;
    struct lz_detail detail = {{0}};
    uint8_t *out = malloc(capacity);
    int rc = out == NULL ? -1 : lz_inflate_new(kind, 20, &inflate);
    while (rc == 0 && size > 0 && all->size < MAX_OUTPUT) {
        size_t now = size < in_piece ? size : in_piece, left = now, written;
        uint8_t *piece = malloc(now); /* so that the sanitizer sees what is read beside it */
        const uint8_t *at = piece;
        if (piece == NULL)
            break;
        memcpy(piece, bytes, now);
        do {
            written = 0;
            rc = lz_inflate_step(inflate, &at, &left, out, capacity, &written, &detail);
            if (rc == 0 && (written > capacity || left > now || at != piece + (now - left) ||
                            (written == 0 && left > 0) || lz_buf_append(all, out, written) != 0))
                abort();
        } while (rc == 0 && (left > 0 || written == capacity) && all->size < MAX_OUTPUT);
        free(piece);
        bytes += now;
        size -= now;
    }
    bool over = all->size >= MAX_OUTPUT;
    if (rc == 0 && !over)
        rc = lz_inflate_finish(inflate, &detail);
    if (rc < 0 && detail.text[0] == 0)
        abort();
    lz_inflate_free(inflate);
    free(out);
    return over ? TOO_MUCH : rc == 0 ? GOOD : BAD;
}

static enum answer zlibs(const uint8_t *in, size_t size, struct lz_buf *all)
{
    uint8_t chunk[4096];
    for (bool any = false; size > 0; any = true) {
        if (any && !(size >= 2 && in[0] == 0x1f && in[1] == 0x8b))
            return GOOD;
        z_stream stream = {.next_in = (Bytef *)(uintptr_t)in, .avail_in = (uInt)size};
        int rc = inflateInit2(&stream, 15 + 16);
        while (rc == Z_OK && all->size < MAX_OUTPUT) {
            stream.next_out = chunk;
            stream.avail_out = sizeof chunk;
            rc = inflate(&stream, Z_NO_FLUSH);
            if (lz_buf_append(all, chunk, sizeof chunk - stream.avail_out) != 0)
                abort();
        }
        in += size - stream.avail_in;
        size = stream.avail_in;
        (void)inflateEnd(&stream);
        if (all->size >= MAX_OUTPUT)
            return TOO_MUCH;
        if (rc != Z_STREAM_END)
            return BAD;
        if (size == 0)
            return GOOD;
    }
    return BAD;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size < 1)
        return 0;
    enum lz_compression kind = (enum lz_compression)(bytes[0] % 3);
    size_t capacity = (size_t)(bytes[0] / 3) * 50 + 1;
    struct lz_buf whole = {0}, pieces = {0}, oracle = {0};
    enum answer answer = ours(kind, bytes + 1, size - 1, size, capacity, &whole);
    enum answer again = ours(kind, bytes + 1, size - 1, 1 + size % 9, 1 + size % 77, &pieces);
    if (answer != TOO_MUCH && again != TOO_MUCH &&
        (answer != again || (answer == GOOD && (whole.size != pieces.size ||
                                                (whole.size > 0 && memcmp(whole.data, pieces.data, whole.size) != 0)))))
        abort();
    enum answer expected = kind == LZ_COMPRESSION_GZIP ? zlibs(bytes + 1, size - 1, &oracle) : TOO_MUCH;
    if (answer != TOO_MUCH && expected != TOO_MUCH &&
        (answer != expected ||
         (answer == GOOD &&
          (whole.size != oracle.size || (whole.size > 0 && memcmp(whole.data, oracle.data, whole.size) != 0)))))
        abort();
    lz_buf_free(&whole);
    lz_buf_free(&pieces);
    lz_buf_free(&oracle);
    return 0;
}
