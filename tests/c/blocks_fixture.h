/* blocks_fixture.h - a block-level file on a scratch directory, and the plain bytes that it must read as. */
#ifndef BLOCKS_FIXTURE_H
#define BLOCKS_FIXTURE_H

#include "tree/lz_blocks.h"
#include "tree_fixture.h"

#define BLOCK 4096u

struct model { /* what the file must hold */
    uint8_t *bytes;
    size_t size;
};

#define MODEL_MAX ((size_t)2 << 20)

struct subject {
    struct scratch scratch;
    int maps_fd, lower_fd, file_fd;
    bool user_xattr;
    struct lz_blocks_lower lower;
    struct model model, lower_model;
    struct lz_blocks *blocks;
};

static const char *boot_file; /* stands in for the kernel's boot id; NULL: the kernel's own */

static int openat_booted(void *ctx, int dir, const char *path, int flags, mode_t mode)
{
    if (boot_file != NULL && strcmp(path, "/proc/sys/kernel/random/boot_id") == 0)
        path = boot_file;
    return lz_sys_linux()->openat(ctx, dir, path, flags, mode);
}

static struct lz_sys booted_table;

static inline const struct lz_sys *booted(void)
{
    if (booted_table.close == NULL) {
        booted_table = *lz_sys_linux();
        booted_table.openat = openat_booted;
    }
    return &booted_table;
}

/* The machine that opens files from now on has booted anew. */
static inline void reboot_into(const struct subject *subject, char mark)
{
    static char path[128];
    char text[38];
    memset(text, mark, sizeof text);
    make_file(&subject->scratch, "boot", text, 37);
    (void)snprintf(path, sizeof path, "%s/boot", subject->scratch.path);
    boot_file = path;
}

static inline uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static inline uint8_t lower_byte(size_t at)
{
    return (uint8_t)(1 + (at * 2654435761u >> 11) % 127); /* 1..127: never a hole, never a written byte */
}

/* A lower of `size` bytes at `offset` of its file; with a hole in its middle when there is room for one. */
static inline struct subject subject_new(size_t size, size_t offset, bool with_digest)
{
    struct subject subject = {.scratch = scratch_new(), .file_fd = -1, .user_xattr = geteuid() != 0};
    subject.model.bytes = calloc(1, MODEL_MAX);
    subject.lower_model.bytes = calloc(1, MODEL_MAX);
    CHECK(subject.model.bytes != NULL && subject.lower_model.bytes != NULL);
    make_directory(&subject.scratch, "maps");
    subject.maps_fd = openat(subject.scratch.fd, "maps", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    subject.lower_fd = openat(subject.scratch.fd, "lower", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(subject.maps_fd >= 0 && subject.lower_fd >= 0);
    CHECK_EQ(ftruncate(subject.lower_fd, (off_t)(offset + size)), 0);
    for (size_t at = 0; at < size; at += BLOCK) {
        size_t piece = size - at < BLOCK ? size - at : BLOCK;
        bool hole = size > 16 * BLOCK && at / (4 * BLOCK) % 3 == 1;
        for (size_t i = 0; i < piece && !hole; i++)
            subject.lower_model.bytes[at + i] = lower_byte(at + i);
        if (!hole)
            CHECK_EQ(pwrite(subject.lower_fd, subject.lower_model.bytes + at, piece, (off_t)(offset + at)), piece);
    }
    subject.model.size = subject.lower_model.size = size;
    memcpy(subject.model.bytes, subject.lower_model.bytes, size);
    struct stat info;
    CHECK_EQ(fstat(subject.lower_fd, &info), 0);
    subject.lower = (struct lz_blocks_lower){.at = {.fd = subject.lower_fd, .offset = offset, .size = size},
                                             .has_digest = with_digest,
                                             .device = info.st_dev,
                                             .number = info.st_ino,
                                             .mtime = info.st_mtim.tv_sec,
                                             .mtime_nsec = (uint32_t)info.st_mtim.tv_nsec};
    memset(subject.lower.digest, 0x5a, sizeof subject.lower.digest);
    return subject;
}

static inline void make_upper(struct subject *subject, uint32_t block_size)
{
    struct lz_detail detail = {{0}};
    subject->file_fd = openat(subject->scratch.fd, "upper", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    CHECK(subject->file_fd >= 0);
    int rc = lz_blocks_create(booted(), subject->file_fd, subject->maps_fd, subject->user_xattr, block_size,
                              &subject->lower, &detail);
    if (rc != 0)
        fprintf(stderr, "%s\n", detail.text);
    CHECK_EQ(rc, 0);
}

static inline int open_with(const struct lz_sys *sys, struct subject *subject, bool writable, struct lz_blocks **out,
                            struct lz_detail *detail)
{
    char name[LZ_BLOCKS_NAME_SIZE];
    int rc = lz_blocks_name(sys, subject->scratch.fd, "upper", subject->user_xattr, name);
    if (rc != 1)
        return rc < 0 ? rc : -ENODATA;
    return lz_blocks_open(sys, subject->file_fd, subject->maps_fd, name, writable, &subject->lower, out, detail);
}

static inline struct lz_blocks *open_again(struct subject *subject, bool writable)
{
    struct lz_blocks *blocks = NULL;
    struct lz_detail detail = {{0}};
    int rc = open_with(booted(), subject, writable, &blocks, &detail);
    if (rc != 0)
        fprintf(stderr, "%s\n", detail.text);
    CHECK_EQ(rc, 0);
    return blocks;
}

static inline struct subject subject_open(size_t size, size_t offset, bool with_digest, uint32_t block_size)
{
    struct subject subject = subject_new(size, offset, with_digest);
    make_upper(&subject, block_size);
    subject.blocks = open_again(&subject, true);
    return subject;
}

static inline void subject_free(struct subject *subject)
{
    lz_blocks_close(subject->blocks);
    CHECK_EQ(close(subject->maps_fd), 0);
    CHECK_EQ(close(subject->lower_fd), 0);
    if (subject->file_fd >= 0)
        CHECK_EQ(close(subject->file_fd), 0);
    free(subject->model.bytes);
    free(subject->lower_model.bytes);
    scratch_free(&subject->scratch);
    boot_file = NULL;
}

/* ---- the model's own operations ---- */

static inline void model_resize(struct model *model, size_t size)
{
    CHECK(size <= MODEL_MAX);
    if (size < model->size)
        memset(model->bytes + size, 0, model->size - size);
    model->size = size;
}

static inline void model_write(struct model *model, const uint8_t *bytes, size_t size, size_t offset)
{
    if (offset + size > model->size)
        model_resize(model, offset + size);
    memcpy(model->bytes + offset, bytes, size);
}

static inline void model_punch(struct model *model, size_t offset, size_t size)
{
    if (offset < model->size)
        memset(model->bytes + offset, 0, size < model->size - offset ? size : model->size - offset);
}

static inline void check_content(struct lz_blocks *blocks, const struct model *model)
{
    static uint8_t found[MODEL_MAX];
    CHECK_EQ(lz_blocks_size(blocks), model->size);
    CHECK_EQ(lz_blocks_read(blocks, found, sizeof found, 0), model->size);
    for (size_t i = 0; i < model->size; i++) {
        if (found[i] != model->bytes[i])
            fprintf(stderr, "byte %zu of %zu is %u, expected %u\n", i, model->size, found[i], model->bytes[i]);
        if (found[i] != model->bytes[i])
            CHECK(!"the content differs");
    }
    check_count++;
}

static inline void write_both(struct subject *subject, const void *bytes, size_t size, size_t offset)
{
    CHECK_EQ(lz_blocks_write(subject->blocks, bytes, size, offset), size);
    model_write(&subject->model, bytes, size, offset);
}

#endif
