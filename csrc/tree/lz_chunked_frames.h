/* lz_chunked_frames.h - the writer of zstd:chunked: what it holds, and its frames on the way to the blob, each with the
 * lines of the table that can be finished when it is known where the frame lies (internal to lz_chunked_*.c).
 */
#ifndef LZ_CHUNKED_FRAMES_H
#define LZ_CHUNKED_FRAMES_H

#include "../base/lz_mem.h"
#include "../bytes/lz_chunk.h"
#include "../bytes/lz_digest.h"
#include "../bytes/lz_framer.h"
#include "../bytes/lz_tar.h"
#include "lz_chunked.h"
#include "lz_chunked_tail.h"
#include "lz_recipe_stream.h"

/* What the first byte of a frame's note says of it. The rest is text of the table. */
enum lz_chunked_note {
    NOTE_HEADERS, /* whole lines, or nothing */
    NOTE_FILE,    /* lines, and the beginning of the one of the file that this frame is */
    NOTE_FIRST,   /* the same, of the file that this chunk is the first of */
    NOTE_CHUNK,   /* the beginning of a chunk's line */
    NOTE_LAST,    /* the digest of the whole file (hex), then as CHUNK */
};

struct lz_chunked_writer {
    const struct lz_sys *sys;
    const struct lz_chunked_options *options;
    struct lz_chunked_result *result;
    struct lz_detail *detail;

    /* the tar */
    struct lz_recipe_stream *stream;
    struct lz_recipe_piece piece;
    uint8_t *source; /* SOURCE_SIZE */
    struct lz_tar_reader *reader;
    struct lz_sha256 *tar_sha256, *file_sha256;
    uint64_t tar_size;

    /* frames */
    struct lz_framer *framer;
    struct lz_chunker *chunker;
    uint8_t *window;    /* two times LZ_FRAME_MAX: of a large file, not cut yet */
    struct lz_buf gap;  /* bytes between contents that are in no frame yet */
    struct lz_buf note; /* its first byte, then lines of the table that are in no note yet */

    /* what the table and tar-split need */
    bool can_say;
    struct lz_buf literals; /* since the last entry */
    size_t padding;         /* of the content before, at their head */
    uint64_t *names;        /* hashes */
    size_t name_count, name_capacity;
    struct lz_tail tail;
    struct lz_buf first, chunks; /* lines of the large file whose last frame has not come yet */

    /* the blob */
    struct lz_sha256 *sha256;
    uint64_t size;
};

/* Bytes of the blob, hashed and written. */
int lz_chunked_put(struct lz_chunked_writer *self, const uint8_t *bytes, size_t size);

/* lz_framer.h's take(); `self` is a writer. */
int lz_chunked_take_frame(void *self, const struct lz_framed *frame);

/* The `size` bytes in the framer's room become a frame; the writer's note goes with it, and is empty then. */
int lz_chunked_frame(struct lz_chunked_writer *self, size_t size, bool with_digest, enum lz_chunked_note kind);

/* The gap becomes a frame; with the note, if that is nothing but whole lines. */
int lz_chunked_frame_gap(struct lz_chunked_writer *self, bool with_lines);

#endif
