#include <errno.h>
#include <stdlib.h>

#include "../bytes/lz_digest.h"
#include "lz_recipe.h"
#include "lz_recipe_stream.h"

#define OUT_SIZE (1024u * 1024)

struct replay {
    const struct lz_sys *sys;
    struct lz_detail *detail;
    int out_fd;
    struct lz_recipe_stream *stream;
    struct lz_sha256 *sha256;
    uint8_t *out; /* OUT_SIZE */
    size_t used;
    uint64_t written;
};

static int flush(struct replay *replay)
{
    int rc = lz_sha256_update(replay->sha256, replay->out, replay->used);
    if (rc == 0)
        rc = lz_write_all(replay->sys, replay->out_fd, replay->out, replay->used);
    if (rc != 0)
        return lz_fail(replay->detail, rc, "writing the layer's tar: %s", lz_error_text(rc));
    replay->written += replay->used;
    replay->used = 0;
    return 0;
}

static int replay_piece(struct replay *replay)
{
    size_t got;
    do {
        int rc = replay->used == OUT_SIZE ? flush(replay) : 0;
        if (rc == 0)
            rc = lz_recipe_stream_read(replay->stream, replay->out + replay->used, OUT_SIZE - replay->used, &got);
        if (rc != 0)
            return rc;
        replay->used += got;
    } while (got > 0);
    return 0;
}

static int replay_all(struct replay *replay)
{
    struct lz_recipe_piece piece;
    int rc;
    while ((rc = lz_recipe_stream_next(replay->stream, &piece)) == 1) {
        rc = replay_piece(replay);
        if (rc != 0)
            return rc;
    }
    if (rc == 0 && replay->used > 0)
        rc = flush(replay);
    uint8_t digest[LZ_SHA256_SIZE];
    if (rc == 0)
        rc = lz_sha256_final(replay->sha256, digest);
    return rc != 0 ? rc : lz_recipe_stream_check(replay->stream, replay->written, digest);
}

int lz_recipe_replay(const struct lz_sys *sys, int recipe_fd, int index_fd, int objects_fd, int out_fd, uint64_t *size,
                     struct lz_detail *detail)
{
    struct lz_detail own = {.text = ""};
    struct replay replay = {
        .sys = sys,
        .detail = detail != NULL ? detail : &own,
        .out_fd = out_fd,
        .out = malloc(OUT_SIZE),
    };
    replay.detail->text[0] = 0;
    int rc = replay.out != NULL ? lz_sha256_new(&replay.sha256) : -ENOMEM;
    if (rc == 0)
        rc = lz_recipe_stream_new(sys, recipe_fd, index_fd, objects_fd, replay.detail, &replay.stream);
    if (rc == 0)
        rc = replay_all(&replay);
    lz_recipe_stream_free(replay.stream);
    lz_sha256_free(replay.sha256);
    free(replay.out);
    if (rc == 0 && size != NULL)
        *size = replay.written;
    return rc;
}
