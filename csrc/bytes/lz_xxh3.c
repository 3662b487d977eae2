#include "lz_xxh3.h"

#include <string.h>
#include <xxhash.h>

static uint64_t library_64(const void *bytes, size_t size)
{
    return XXH3_64bits(bytes, size);
}

static void library_128(const void *bytes, size_t size, uint8_t out[LZ_XXH3_128_SIZE])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, size));
    memcpy(out, canonical.digest, LZ_XXH3_128_SIZE);
}

/* The header brings the source, too: all of it once more, under names of its own, for a CPU with AVX2. (clang takes no
 * target for the rest of a file.) */
#if defined(__x86_64__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC target("avx2")
#define XXH_INLINE_ALL
#define XXH_VECTOR XXH_AVX2
#include <xxhash.h>

static uint64_t avx2_64(const void *bytes, size_t size)
{
    return XXH3_64bits(bytes, size);
}

static void avx2_128(const void *bytes, size_t size, uint8_t out[LZ_XXH3_128_SIZE])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, size));
    memcpy(out, canonical.digest, LZ_XXH3_128_SIZE);
}
#pragma GCC pop_options

static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2");
}
#else
static int has_avx2(void)
{
    return 0;
}

#define avx2_64 library_64
#define avx2_128 library_128
#endif

uint64_t lz_xxh3_64(const void *bytes, size_t size)
{
    return has_avx2() ? avx2_64(bytes, size) : library_64(bytes, size);
}

void lz_xxh3_128(const void *bytes, size_t size, uint8_t out[LZ_XXH3_128_SIZE])
{
    if (has_avx2())
        avx2_128(bytes, size, out);
    else
        library_128(bytes, size, out);
}
