/* XXH3 gives what libxxhash gives, for each size around which AVX2 works otherwise, and wherever the bytes lie. */
#include <stdlib.h>
#include <xxhash.h>

#include "bytes/lz_xxh3.h"
#include "check.h"

static void same(const uint8_t *bytes, size_t size)
{
    uint8_t found[LZ_XXH3_128_SIZE];
    XXH128_canonical_t expected;
    lz_xxh3_128(bytes, size, found);
    XXH128_canonicalFromHash(&expected, XXH3_128bits(bytes, size));
    CHECK(memcmp(found, expected.digest, sizeof found) == 0);
    CHECK(lz_xxh3_64(bytes, size) == XXH3_64bits(bytes, size));
}

/* In memory of just that size, so that a byte too many is seen. */
static void sizes(void)
{
    static const size_t large[] = {4095, 4096, 65535, 65536, 65537, 1000003};
    for (size_t size = 0; size < 2200 + sizeof large / sizeof *large; size++) {
        size_t count = size < 2200 ? size : large[size - 2200];
        uint8_t *bytes = malloc(count + 1);
        CHECK(bytes != NULL);
        for (size_t i = 0; i < count; i++)
            bytes[1 + i] = (uint8_t)(i * i * 167 + i / 251);
        same(bytes + 1, count);
        free(bytes);
    }
}

static void places(void)
{
    uint8_t bytes[3000];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 31 + i / 7);
    for (size_t at = 0; at < 70; at++) {
        same(bytes + at, 1024);
        same(bytes + at, 2500 + at);
    }
    CHECK(lz_xxh3_64(NULL, 0) == XXH3_64bits(NULL, 0));
}

int main(void)
{
    RUN(sizes);
    RUN(places);
    return check_end();
}
