#include "lz_mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void *lz_alloc_array(size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes))
        return NULL;
    return malloc(bytes != 0 ? bytes : 1);
}

void *lz_zalloc_array(size_t count, size_t size)
{
    return calloc(count != 0 ? count : 1, size != 0 ? size : 1);
}

int lz_grow(void **array, size_t *capacity, size_t needed, size_t size)
{
    if (needed <= *capacity)
        return 0;
    size_t target = *capacity != 0 ? *capacity : 16;
    while (target < needed) {
        if (__builtin_mul_overflow(target, 2, &target))
            return -ENOMEM;
    }
    size_t bytes;
    if (__builtin_mul_overflow(target, size, &bytes))
        return -ENOMEM;
    void *moved = realloc(*array, bytes);
    if (moved == NULL)
        return -ENOMEM;
    *array = moved;
    *capacity = target;
    return 0;
}

int lz_add_size(uint64_t a, uint64_t b, uint64_t *sum)
{
    uint64_t result;
    if (__builtin_add_overflow(a, b, &result))
        return -EOVERFLOW;
    *sum = result;
    return 0;
}

int lz_mul_size(uint64_t a, uint64_t b, uint64_t *product)
{
    uint64_t result;
    if (__builtin_mul_overflow(a, b, &result))
        return -EOVERFLOW;
    *product = result;
    return 0;
}

int lz_buf_reserve(struct lz_buf *buf, size_t extra)
{
    size_t needed;
    if (__builtin_add_overflow(buf->size, extra, &needed))
        return -ENOMEM;
    void *data = buf->data;
    int rc = lz_grow(&data, &buf->capacity, needed, 1);
    if (rc == 0)
        buf->data = data;
    return rc;
}

int lz_buf_append(struct lz_buf *buf, const void *bytes, size_t size)
{
    if (size == 0)
        return 0;
    int rc = lz_buf_reserve(buf, size);
    if (rc != 0)
        return rc;
    memcpy(buf->data + buf->size, bytes, size);
    buf->size += size;
    return 0;
}

int lz_buf_append_zeros(struct lz_buf *buf, size_t size)
{
    if (size == 0)
        return 0;
    int rc = lz_buf_reserve(buf, size);
    if (rc != 0)
        return rc;
    memset(buf->data + buf->size, 0, size);
    buf->size += size;
    return 0;
}

void lz_buf_free(struct lz_buf *buf)
{
    free(buf->data);
    *buf = (struct lz_buf){0};
}
