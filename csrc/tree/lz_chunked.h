/* lz_chunked.h - a layer as zstd:chunked: a zstd stream that every reader inflates to the tar, and of which parts can be
 * fetched.
 *
 *     headers | file | headers | file | ... | headers | table of contents | tar-split | footer
 *     `-------------- zstd frames ------------------' `------- skippable frames ----------'
 *
 * Each file's content has frames of its own: one up to LZ_FRAME_MAX bytes, else several, cut where its bytes say
 * (lz_chunk.h, no key: the cuts are the same everywhere). The table says of each entry what it is, and of each file its
 * SHA-256 and where its frames begin and end; tar-split (vbatts/tar-split) gives the headers back, so that with the files
 * it makes the tar again; the footer says where the two are, and so do annotations of the layer's descriptor in the
 * manifest, with the table's digest: that is how a reader knows that the table is the right one. Format:
 * containers/storage, pkg/chunked.
 *
 * A layer that the table cannot describe (lz_toc_write.h; also one that has a path twice, or bytes that are not zero
 * after its end) gets no table: frames alone, an ordinary zstd blob.
 */
#ifndef LZ_CHUNKED_H
#define LZ_CHUNKED_H

#include <stdbool.h>
#include <stdint.h>

#include "../base/lz_err.h"
#include "../base/lz_sys.h"

struct lz_chunked_options {
    int recipe_fd, index_fd, objects_fd; /* the layer, as lz_recipe_replay() takes it */
    int out_fd;                          /* a file, pipe or socket */
    int level;                           /* of zstd; 0: its default */
    unsigned threads;                    /* 1 to LZ_FRAMER_THREADS_MAX: the output is the same */
};

/* Where something lies in the blob, behind the 8 bytes that make it a skippable frame, and its size before compression. */
struct lz_chunked_part {
    uint64_t offset, size, plain_size;
};

struct lz_chunked_result {
    uint8_t digest[32]; /* of the blob */
    uint64_t size, tar_size;
    uint8_t diff_id[32];
    bool has_toc; /* else what follows is zeros */
    struct lz_chunked_part toc, tar_split;
    uint8_t toc_digest[32]; /* of its compressed bytes */
};

/* Streams the blob out, in about 4 MiB for each thread, 16 MiB, and what table and tar-split come to (some 60 bytes for
 * each entry). The tar is hashed on the way: LZ_E_CORRUPT, naming the object or the layer, when the bytes are not those
 * that came in; -ENOENT with the name of an object that is missing. The output is worthless after an error. The same layer
 * gives the same bytes with the same version of libzstd. */
int lz_chunked_write(const struct lz_sys *sys, const struct lz_chunked_options *options,
                     struct lz_chunked_result *result, struct lz_detail *detail);

#endif
