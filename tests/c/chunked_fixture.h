/* chunked_fixture.h - a layer, ingested and published, and its blob as zstd:chunked. */
#ifndef CHUNKED_FIXTURE_H
#define CHUNKED_FIXTURE_H

#include "layer.h"
#include "tree/lz_chunked.h"

struct layer {
    struct room room;
    int recipe, index, out;
};

static inline struct layer open_layer(const struct lz_buf *tar)
{
    struct layer layer = {.room = open_room(tar)};
    struct lz_ingest_options options = options_of(&layer.room);
    struct lz_ingest_result result;
    CHECK_EQ(ingest(&options, &result), 0);
    publish(&layer.room);
    layer.recipe = openat(layer.room.staging, "recipe", O_RDONLY | O_CLOEXEC);
    layer.index = openat(layer.room.staging, "index", O_RDONLY | O_CLOEXEC);
    layer.out = openat(layer.room.dir, "blob", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(layer.recipe >= 0 && layer.index >= 0 && layer.out >= 0);
    return layer;
}

static inline void close_layer(struct layer *layer)
{
    (void)close(layer->recipe);
    (void)close(layer->index);
    (void)close(layer->out);
    close_room(&layer->room);
}

static inline int write_blob(const struct lz_sys *sys, struct layer *layer, unsigned threads,
                             struct lz_chunked_result *result, struct lz_detail *detail)
{
    struct lz_chunked_options options = {.recipe_fd = layer->recipe,
                                         .index_fd = layer->index,
                                         .objects_fd = layer->room.objects,
                                         .out_fd = layer->out,
                                         .level = 1,
                                         .threads = threads};
    CHECK_EQ(ftruncate(layer->out, 0), 0);
    CHECK_EQ(lseek(layer->out, 0, SEEK_SET), 0);
    return lz_chunked_write(sys, &options, result, detail);
}

#endif
