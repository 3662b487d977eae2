#include "lz_digest.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

struct lz_sha256 {
    EVP_MD *algorithm; /* fetched once: EVP_sha256() would look it up again at every init (1 us, as much as hashing 2
                          KiB) */
    EVP_MD_CTX *evp;
};

int lz_sha256_new(struct lz_sha256 **out)
{
    struct lz_sha256 *context = calloc(1, sizeof *context);
    if (context == NULL)
        return -ENOMEM;
    context->algorithm = EVP_MD_fetch(NULL, "SHA2-256", NULL);
    context->evp = EVP_MD_CTX_new();
    if (context->algorithm == NULL || context->evp == NULL ||
        EVP_DigestInit_ex2(context->evp, context->algorithm, NULL) != 1) {
        lz_sha256_free(context);
        return -ENOMEM;
    }
    *out = context;
    return 0;
}

void lz_sha256_free(struct lz_sha256 *context)
{
    if (context == NULL)
        return;
    EVP_MD_CTX_free(context->evp);
    EVP_MD_free(context->algorithm);
    free(context);
}

int lz_sha256_update(struct lz_sha256 *context, const void *bytes, size_t size)
{
    return EVP_DigestUpdate(context->evp, bytes, size) == 1 ? 0 : -EIO;
}

int lz_sha256_final(struct lz_sha256 *context, uint8_t out[LZ_SHA256_SIZE])
{
    uint8_t digest[LZ_SHA256_SIZE];
    if (EVP_DigestFinal_ex(context->evp, digest, NULL) != 1)
        return -EIO;
    if (EVP_DigestInit_ex2(context->evp, NULL, NULL) != 1)
        return -EIO;
    for (size_t i = 0; i < sizeof digest; i++)
        out[i] = digest[i];
    explicit_bzero(digest, sizeof digest); /* it may have become a key's table (lz_chunk.c) */
    return 0;
}

int lz_sha256_digest(struct lz_sha256 *context, const void *bytes, size_t size, uint8_t out[LZ_SHA256_SIZE])
{
    if (EVP_DigestInit_ex2(context->evp, NULL, NULL) != 1)
        return -EIO;
    int rc = lz_sha256_update(context, bytes, size);
    return rc != 0 ? rc : lz_sha256_final(context, out);
}

void lz_hex(const uint8_t digest[LZ_SHA256_SIZE], char out[LZ_SHA256_HEX_SIZE + 1])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < LZ_SHA256_SIZE; i++) {
        out[2 * i] = digits[digest[i] >> 4];
        out[2 * i + 1] = digits[digest[i] & 15];
    }
    out[LZ_SHA256_HEX_SIZE] = 0;
}
