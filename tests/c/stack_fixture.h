/* stack_fixture.h - a layer with inline contents, its merged index and its EROFS image, for tests of the image and of
 * mounts. */
#ifndef STACK_FIXTURE_H
#define STACK_FIXTURE_H

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/lz_mem.h"
#include "bytes/lz_digest.h"
#include "check.h"
#include "tree/lz_erofs.h"
#include "tree/lz_tree.h"

#define MAX_LAYERS 4

/* A layer that is being gathered. */
struct layer {
    struct lz_tree *tree;
    struct lz_buf data;
};

/* Finished layers, and what they merge to. */
struct stack {
    int layer_fds[MAX_LAYERS];
    uint32_t layer_count;
    struct lz_tree *tree;
    uint8_t *merged_bytes;
    struct lz_index merged;
};

static inline void layer_begin(struct layer *layer)
{
    *layer = (struct layer){0};
    CHECK_EQ(lz_tree_new(NULL, &layer->tree), 0);
}

/* `node` says everything but the content. */
static inline void layer_file(struct layer *layer, const char *path, struct lz_tree_node node, const void *bytes,
                              size_t size)
{
    struct lz_sha256 *sha256;
    CHECK_EQ(lz_sha256_new(&sha256), 0);
    CHECK_EQ(lz_sha256_digest(sha256, bytes, size, node.digest), 0);
    lz_sha256_free(sha256);
    node.kind = LZ_KIND_FILE;
    node.size = size;
    node.data_offset = layer->data.size;
    node.flags = size > 0 ? LZ_FLAG_INLINE : 0;
    CHECK_EQ(lz_buf_append(&layer->data, bytes, size), 0);
    CHECK_EQ(lz_tree_add(layer->tree, path, strlen(path), &node, NULL), 0);
}

static inline void layer_add(struct layer *layer, const char *path, struct lz_tree_node node)
{
    struct lz_detail detail = {{0}};
    int rc = lz_tree_add(layer->tree, path, strlen(path), &node, &detail);
    if (rc != 0)
        fprintf(stderr, "%s\n", detail.text);
    CHECK_EQ(rc, 0);
}

static inline uint8_t *map_index(int fd, struct lz_index *out)
{
    off_t size = lseek(fd, 0, SEEK_END);
    uint8_t *bytes = malloc((size_t)size);
    CHECK(bytes != NULL);
    CHECK_EQ(pread(fd, bytes, (size_t)size, 0), size);
    struct lz_detail detail = {{0}};
    int rc = lz_index_open(bytes, (uint64_t)size, out, &detail);
    if (rc != 0)
        fprintf(stderr, "%s\n", detail.text);
    CHECK_EQ(rc, 0);
    return bytes;
}

/* Lays the layer on top of the stack; `merge` remakes the merged index. */
static inline void stack_push(struct stack *stack, struct layer *layer)
{
    int fd = memfd_create("layer", MFD_CLOEXEC);
    CHECK(fd >= 0);
    CHECK_EQ(lz_pwrite_all(lz_sys_linux(), fd, layer->data.data, layer->data.size, LZ_INDEX_INLINE_OFFSET), 0);
    CHECK_EQ(lz_tree_write(lz_sys_linux(), layer->tree, fd, layer->data.size, NULL, NULL), 0);
    lz_tree_free(layer->tree);
    lz_buf_free(&layer->data);
    if (stack->tree == NULL)
        CHECK_EQ(lz_tree_new(NULL, &stack->tree), 0);
    struct lz_index index;
    uint8_t *bytes = map_index(fd, &index);
    uint8_t diff_id[32] = {(uint8_t)(stack->layer_count + 1)};
    CHECK_EQ(lz_tree_apply(stack->tree, &index, diff_id, NULL), 0);
    free(bytes);
    CHECK(stack->layer_count < MAX_LAYERS);
    stack->layer_fds[stack->layer_count++] = fd;
}

static inline void stack_merge(struct stack *stack)
{
    int fd = memfd_create("merged", MFD_CLOEXEC);
    CHECK(fd >= 0);
    CHECK_EQ(lz_tree_write(lz_sys_linux(), stack->tree, fd, 0, NULL, NULL), 0);
    stack->merged_bytes = map_index(fd, &stack->merged);
    CHECK_EQ(close(fd), 0);
}

static inline void stack_free(struct stack *stack)
{
    for (uint32_t i = 0; i < stack->layer_count; i++)
        CHECK_EQ(close(stack->layer_fds[i]), 0);
    lz_tree_free(stack->tree);
    free(stack->merged_bytes);
    *stack = (struct stack){0};
}

/* Writes the image to a new file. */
static inline uint64_t stack_image(const struct stack *stack, const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    uint64_t size = 0;
    struct lz_detail detail = {{0}};
    int rc = lz_erofs_write(lz_sys_linux(), &stack->merged, stack->layer_fds, fd, &size, &detail);
    if (rc != 0)
        fprintf(stderr, "%s\n", detail.text);
    CHECK_EQ(rc, 0);
    CHECK_EQ(lseek(fd, 0, SEEK_END), (off_t)size);
    CHECK_EQ(close(fd), 0);
    return size;
}

#endif
