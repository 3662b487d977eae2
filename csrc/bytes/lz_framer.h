/* lz_framer.h - a stream of bytes as zstd frames that the caller cuts, compressed on several threads, given back in order.
 *
 * Frames are gathered into jobs of about 1 MiB; threads compress jobs, and the calling thread, which also takes what is
 * ready out of the oldest, compresses too where it would wait otherwise. Which bytes are in which frame is the caller's
 * alone, so the output is the same whatever the number of threads (and of the same version of libzstd).
 *
 * Memory: 4 MiB a job, and threads + 3 jobs. Frames carry no checksum of their own.
 */
#ifndef LZ_FRAMER_H
#define LZ_FRAMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LZ_FRAME_MAX ((size_t)1 << 20) /* bytes that one frame holds */
#define LZ_FRAMER_THREADS_MAX 16

/* A frame that is done. `note` is what the caller gave with it; pointers are good during the call. */
struct lz_framed {
    const uint8_t *note;
    size_t note_size;
    const uint8_t *packed;
    size_t packed_size, size;
    const uint8_t *digest; /* SHA-256 of the bytes, where it was asked for; else NULL */
};

/* Called from add() and finish(), once for each frame, in their order. Not 0: passed on, and the framer is dead. */
typedef int lz_framed_take(void *ctx, const struct lz_framed *frame);

struct lz_framer;

/* `threads` 1 to LZ_FRAMER_THREADS_MAX, the caller among them, or as many as can be had; `level` 0 is zstd's default. 0,
 * -EINVAL or -ENOMEM. Give back with lz_framer_free() (NULL is allowed), which waits for the threads. */
int lz_framer_new(unsigned threads, int level, lz_framed_take *take, void *ctx, struct lz_framer **out);
void lz_framer_free(struct lz_framer *self);

/* Where the next frame's bytes go: `size` of them, 1 to LZ_FRAME_MAX, the caller's to fill until add(). 0, or what
 * take() or a thread failed with. */
int lz_framer_room(struct lz_framer *self, size_t size, uint8_t **out);

/* Makes a frame of the first `size` bytes there. 0 or -ENOMEM. */
int lz_framer_add(struct lz_framer *self, size_t size, bool with_digest, const void *note, size_t note_size);

/* Everything that was added is taken. 0, or what take() or a thread failed with: -ENOMEM, -EIO. */
int lz_framer_finish(struct lz_framer *self);

#endif
