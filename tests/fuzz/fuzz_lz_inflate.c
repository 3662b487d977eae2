/* Any bytes into the decompressors: the first byte picks the kind and the piece size. */
#include <stdlib.h>

#include "bytes/lz_inflate.h"
#include "replay.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size < 1)
        return 0;
    enum lz_compression kind = (enum lz_compression)(bytes[0] % 3);
    size_t capacity = (size_t)(bytes[0] / 3) * 50 + 1;
    struct lz_inflate *inflate = NULL;
    struct lz_detail detail;
    uint8_t *out = malloc(capacity);
    const uint8_t *at = bytes + 1;
    size_t left = size - 1, written = 1, total = 0;
    if (out != NULL && lz_inflate_new(kind, 20, &inflate) == 0) {
        while ((left > 0 || written == capacity) && total < (1u << 22)) {
            if (lz_inflate_step(inflate, &at, &left, out, capacity, &written, &detail) != 0)
                break;
            if (written > capacity)
                abort();
            total += written;
        }
        (void)lz_inflate_finish(inflate, &detail);
    }
    lz_inflate_free(inflate);
    free(out);
    return 0;
}
