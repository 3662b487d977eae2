/* lz_mem.h - checked allocation and the growable byte buffer.
 *
 * Sizes are multiplied and added with overflow checks here and nowhere else.
 */
#ifndef LZ_MEM_H
#define LZ_MEM_H

#include <stddef.h>
#include <stdint.h>

/* Array allocation: NULL when count * size overflows or memory is out. Give back with free(). */
void *lz_alloc_array(size_t count, size_t size);
void *lz_zalloc_array(size_t count, size_t size);

/* Grows *array (capacity *capacity elements of `size` bytes) so that it holds at least `needed` elements;
 * doubling, so appending is O(1) amortised. Returns 0, or -ENOMEM with *array and *capacity untouched. */
int lz_grow(void **array, size_t *capacity, size_t needed, size_t size);

/* *sum = a + b, *product = a * b; 0, or -EOVERFLOW with the output untouched. */
int lz_add_size(uint64_t a, uint64_t b, uint64_t *sum);
int lz_mul_size(uint64_t a, uint64_t b, uint64_t *product);

/* Growable bytes. `{0}` is a valid empty buffer. `data` moves when the buffer grows. */
struct lz_buf {
    uint8_t *data;
    size_t size;
    size_t capacity;
};

int lz_buf_reserve(struct lz_buf *buf, size_t extra); /* room for `extra` more bytes; 0 or -ENOMEM */
int lz_buf_append(struct lz_buf *buf, const void *bytes, size_t size);
int lz_buf_append_zeros(struct lz_buf *buf, size_t size);
void lz_buf_free(struct lz_buf *buf); /* frees and zeroes; a second call is harmless */

#endif
