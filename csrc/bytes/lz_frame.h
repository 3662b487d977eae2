/* lz_frame.h - many small pieces of bytes, each compressed by itself: a zstd frame, or the bytes as they are.
 *
 * What is stored for a piece never takes more room than the piece: a frame that would not be smaller is not made. So one
 * number tells the two apart, `stored` == `length` is the bytes themselves, and sum(length) is room enough for all.
 * Frames carry no checksum: whoever expands knows the SHA-256 of each piece, and it is compared here.
 */
#ifndef LZ_FRAME_H
#define LZ_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "../base/lz_err.h"

/* Compresses `count` pieces, `bytes` + offsets[i], lengths[i] bytes of it, one after the other into `out`, at zstd's
 * `level` (0: its default), and says in stored[i] what each one takes there. Returns how many bytes of `out` are used;
 * -EINVAL for a piece that does not lie within `size` bytes, or a level that is none, -EOVERFLOW when `capacity` is less
 * than the sum of the lengths, -ENOMEM, -EIO (libzstd). `out` and `stored` are worthless then. The same pieces give the
 * same bytes with the same version of libzstd. */
int64_t lz_frames_compress(const uint8_t *bytes, size_t size, const uint64_t *offsets, const uint32_t *lengths,
                           size_t count, int level, uint8_t *out, size_t capacity, uint32_t *stored);

/* Expands `count` pieces, `bytes` + offsets[i], stored[i] bytes of it, one after the other into `out`, and compares each
 * with its length and SHA-256 (digests + 32 i). Returns the sum of the lengths; LZ_E_CORRUPT for a piece that is not what
 * it should be (its number in *bad, which is not touched else); -EINVAL, -EOVERFLOW, -ENOMEM and -EIO as above. */
int64_t lz_frames_expand(const uint8_t *bytes, size_t size, const uint64_t *offsets, const uint32_t *stored,
                         const uint32_t *lengths, const uint8_t *digests, size_t count, uint8_t *out, size_t capacity,
                         size_t *bad);

#endif
