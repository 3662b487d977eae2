/* lz_recipe_format.h - the operations of a recipe (internal to lz_recipe_write.c and lz_recipe_replay.c).
 *
 *   0        magic           12  "LZRECIPE" 01 00 00 00
 *   12       size of the tar  8
 *   20       diff ID         32
 *   52       one zstd frame with a checksum, of operations up to and with END:
 *
 *   code  fields
 *   1     u32 size, that many bytes             literal
 *   2     u64 offset, u64 size                  inline: a range of the index's inline section
 *   3     u32 number, u64 offset, u64 size      object: a range of an object named before; numbers count from 0
 *   4     digest, u64 offset, u64 size          object named for the first time; takes the next number
 *   5     -                                     END
 *
 * All numbers little-endian.
 */
#ifndef LZ_RECIPE_FORMAT_H
#define LZ_RECIPE_FORMAT_H

#include <stdint.h>

#define LZ_RECIPE_MAGIC "LZRECIPE\x01\x00\x00\x00"
#define LZ_RECIPE_MAGIC_SIZE 12u
#define LZ_RECIPE_HEADER_SIZE 52u

enum lz_recipe_code {
    LZ_RECIPE_LITERAL = 1,
    LZ_RECIPE_INLINE = 2,
    LZ_RECIPE_OBJECT = 3,
    LZ_RECIPE_NEW_OBJECT = 4,
    LZ_RECIPE_END = 5,
};

static inline void lz_recipe_put(uint8_t *out, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        out[i] = (uint8_t)(value >> (8 * i));
}

static inline uint64_t lz_recipe_get(const uint8_t *in, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)in[i] << (8 * i);
    return value;
}

#endif
