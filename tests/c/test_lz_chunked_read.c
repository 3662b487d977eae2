/* The tar from parts of a zstd:chunked blob: whatever the store has of it, with headers from the tar-split or from
 * between the files; every byte that comes changed or cut; every system call failing in turn. */
#include "chunked_fixture.h"
#include "fault.h"
#include "layer.h"
#include "tree/lz_chunked_read.h"

struct parts {
    struct layer layer;
    struct lz_chunked_result blob;
    uint8_t *toc, *tar_split;
    struct lz_index index;
    void *map;
    size_t map_size;
};

static uint8_t *read_part(int fd, const struct lz_chunked_part *part)
{
    uint8_t *bytes = malloc(part->size);
    CHECK(bytes != NULL);
    CHECK_EQ(pread(fd, bytes, part->size, (off_t)part->offset), part->size);
    return bytes;
}

static struct parts open_parts(const struct lz_buf *tar)
{
    struct parts parts = {.layer = open_layer(tar)};
    CHECK_EQ(write_blob(lz_sys_linux(), &parts.layer, 2, &parts.blob, NULL), 0);
    CHECK(parts.blob.has_toc);
    parts.toc = read_part(parts.layer.out, &parts.blob.toc);
    parts.tar_split = read_part(parts.layer.out, &parts.blob.tar_split);
    struct stat status;
    CHECK_EQ(fstat(parts.layer.index, &status), 0);
    parts.map_size = (size_t)status.st_size;
    parts.map = mmap(NULL, parts.map_size, PROT_READ, MAP_SHARED, parts.layer.index, 0);
    CHECK(parts.map != MAP_FAILED);
    CHECK_EQ(lz_index_open(parts.map, parts.map_size, &parts.index, NULL), 0);
    return parts;
}

static void close_parts(struct parts *parts)
{
    free(parts->toc);
    free(parts->tar_split);
    CHECK_EQ(munmap(parts->map, parts->map_size), 0);
    close_layer(&parts->layer);
}

static struct lz_chunked_tail_bytes tail_of(const struct parts *parts, bool with_tar_split)
{
    return (struct lz_chunked_tail_bytes){.toc = parts->toc,
                                          .toc_size = parts->blob.toc.size,
                                          .toc_plain_size = parts->blob.toc.plain_size,
                                          .toc_digest = parts->blob.toc_digest,
                                          .tar_split = with_tar_split ? parts->tar_split : NULL,
                                          .tar_split_size = with_tar_split ? parts->blob.tar_split.size : 0,
                                          .end = parts->blob.toc.offset - 8};
}

/* The bytes of all ranges in a file, as they would come. */
static struct lz_buf wire_of(const struct parts *parts, const struct lz_chunked_plan *plan)
{
    struct lz_buf wire = {0};
    size_t count;
    const struct lz_chunked_range *ranges = lz_chunked_ranges(plan, &count);
    uint64_t at = 0;
    for (size_t i = 0; i < count; i++) {
        CHECK(ranges[i].offset >= at && ranges[i].size > 0);
        at = ranges[i].offset + ranges[i].size;
        CHECK_EQ(lz_buf_reserve(&wire, ranges[i].size), 0);
        CHECK_EQ(pread(parts->layer.out, wire.data + wire.size, ranges[i].size, (off_t)ranges[i].offset),
                 ranges[i].size);
        wire.size += ranges[i].size;
    }
    CHECK_EQ(wire.size, lz_chunked_need(plan).wire);
    return wire;
}

static int file_of(int dir, const char *name, const struct lz_buf *bytes)
{
    int fd = openat(dir, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    CHECK_EQ(pwrite(fd, bytes->data, bytes->size, 0), bytes->size);
    return fd;
}

static int rebuild(struct parts *parts, struct lz_chunked_plan *plan, const struct lz_buf *wire, uint64_t most,
                   struct lz_buf *out, struct lz_detail *detail)
{
    int wire_fd = file_of(parts->layer.room.dir, "wire", wire),
        fd = file_of(parts->layer.room.dir, "out", &(struct lz_buf){0});
    int rc = lz_chunked_rebuild(plan, wire_fd, fd, most, detail);
    struct stat status;
    CHECK_EQ(fstat(fd, &status), 0);
    out->size = 0;
    CHECK_EQ(lz_buf_reserve(out, (size_t)status.st_size + 1), 0);
    out->size = (size_t)status.st_size;
    CHECK_EQ(pread(fd, out->data, out->size, 0), out->size);
    (void)close(wire_fd);
    (void)close(fd);
    return rc;
}

/* An objects directory that has nothing. */
static int no_objects(struct parts *parts)
{
    (void)mkdirat(parts->layer.room.dir, "nothing", 0700);
    int fd = openat(parts->layer.room.dir, "nothing", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static void whatever_is_here(void)
{
    struct lz_buf tar = sample(3, SIZE_MAX), out = {0};
    struct parts parts = open_parts(&tar);
    const struct lz_index *layers[] = {&parts.index};
    int nothing = no_objects(&parts);
    for (unsigned which = 0; which < 8; which++) {
        struct lz_chunked_tail_bytes tail = tail_of(&parts, which & 1);
        struct lz_chunked_plan *plan;
        struct lz_detail detail;
        CHECK_EQ(lz_chunked_plan_new(lz_sys_linux(), &tail, which & 2 ? parts.layer.room.objects : nothing, layers,
                                     which & 4 ? 1 : 0, which * 100, &plan, &detail),
                 0);
        struct lz_chunked_need need = lz_chunked_need(plan);
        struct lz_buf wire = wire_of(&parts, plan);
        if (which == 7)                                  /* everything */
            CHECK(need.missing <= 2 && wire.size < 700); /* marks with a content, which no index has */
        if (which <= 1)                                  /* nothing */
            CHECK_EQ(need.missing, need.files);
        CHECK_EQ(rebuild(&parts, plan, &wire, tar.size, &out, &detail), 0);
        CHECK_EQ(out.size, tar.size);
        CHECK(memcmp(out.data, tar.data, tar.size) == 0);
        lz_chunked_plan_free(plan);
        CHECK_EQ(lz_chunked_plan_new(lz_sys_linux(), &tail, which & 2 ? parts.layer.room.objects : nothing, layers,
                                     which & 4 ? 1 : 0, which * 100, &plan, &detail),
                 0);
        CHECK_EQ(rebuild(&parts, plan, &wire, tar.size - 1, &out, &detail), LZ_E_LIMIT);
        lz_chunked_plan_free(plan);
        lz_buf_free(&wire);
    }
    (void)close(nothing);
    close_parts(&parts);
    lz_buf_free(&out);
    lz_buf_free(&tar);
}

/* Bytes that are not the blob's: an error, or (what passes for a frame between files) another tar. */
static void damaged_parts(void)
{
    struct lz_buf tar = sample(5, 70000), out = {0};
    struct parts parts = open_parts(&tar);
    int nothing = no_objects(&parts);
    size_t step = 0;
    for (unsigned which = 0; which < 2; which++) {
        struct lz_chunked_tail_bytes tail = tail_of(&parts, which == 1);
        struct lz_chunked_plan *plan;
        struct lz_detail detail;
        CHECK_EQ(lz_chunked_plan_new(lz_sys_linux(), &tail, nothing, NULL, 0, 0, &plan, &detail), 0);
        struct lz_buf wire = wire_of(&parts, plan);
        lz_chunked_plan_free(plan);
        for (size_t at = 0; at < wire.size; at += 1 + step++ % 997) {
            wire.data[at] ^= 0x10;
            CHECK_EQ(lz_chunked_plan_new(lz_sys_linux(), &tail, nothing, NULL, 0, 0, &plan, &detail), 0);
            int rc = rebuild(&parts, plan, &wire, 4 * tar.size, &out, &detail);
            CHECK(rc == LZ_E_CORRUPT || rc == LZ_E_LIMIT ||
                  (rc == 0 && which == 0 && (out.size != tar.size || memcmp(out.data, tar.data, tar.size) != 0)) ||
                  (rc == 0 && out.size == tar.size && memcmp(out.data, tar.data, tar.size) == 0)); /* unused bits */
            CHECK(rc == 0 || detail.text[0] != 0);
            lz_chunked_plan_free(plan);
            wire.data[at] ^= 0x10;
        }
        for (size_t size = 0; size < wire.size; size += 20000) {
            struct lz_buf cut = {.data = wire.data, .size = size};
            CHECK_EQ(lz_chunked_plan_new(lz_sys_linux(), &tail, nothing, NULL, 0, 0, &plan, &detail), 0);
            CHECK_EQ(rebuild(&parts, plan, &cut, 4 * tar.size, &out, &detail), LZ_E_TRUNCATED);
            lz_chunked_plan_free(plan);
        }
        lz_buf_free(&wire);
    }
    (void)close(nothing);
    close_parts(&parts);
    lz_buf_free(&out);
    lz_buf_free(&tar);
}

static void tails_that_are_none(void)
{
    struct lz_buf tar = sample(6, 70000);
    struct parts parts = open_parts(&tar);
    const struct lz_chunked_tail_bytes good = tail_of(&parts, true);
    struct lz_chunked_tail_bytes tail = good;
    struct lz_chunked_plan *plan;
    uint8_t other[32] = {0};
    tail.toc_digest = other;
    CHECK_EQ(lz_chunked_plan_new(lz_sys_linux(), &tail, parts.layer.room.objects, NULL, 0, 0, &plan, NULL),
             LZ_E_CORRUPT);
    tail = good;
    tail.toc_plain_size = LZ_CHUNKED_TOC_MAX + 1;
    CHECK_EQ(lz_chunked_plan_new(lz_sys_linux(), &tail, parts.layer.room.objects, NULL, 0, 0, &plan, NULL), LZ_E_LIMIT);
    tail = good;
    tail.toc_plain_size++;
    CHECK_EQ(lz_chunked_plan_new(lz_sys_linux(), &tail, parts.layer.room.objects, NULL, 0, 0, &plan, NULL),
             LZ_E_FORMAT);
    tail.toc_plain_size -= 2;
    CHECK_EQ(lz_chunked_plan_new(lz_sys_linux(), &tail, parts.layer.room.objects, NULL, 0, 0, &plan, NULL),
             LZ_E_FORMAT);
    tail = good;
    tail.tar_split_size--;
    CHECK_EQ(lz_chunked_plan_new(lz_sys_linux(), &tail, parts.layer.room.objects, NULL, 0, 0, &plan, NULL),
             LZ_E_CORRUPT);
    tail = good;
    tail.end = 100;
    CHECK_EQ(lz_chunked_plan_new(lz_sys_linux(), &tail, parts.layer.room.objects, NULL, 0, 0, &plan, NULL),
             LZ_E_FORMAT);
    lz_chunked_plan_free(NULL);
    close_parts(&parts);
    lz_buf_free(&tar);
}

static int plan_and_rebuild(const struct lz_sys *sys, struct parts *parts, const struct lz_chunked_tail_bytes *tail,
                            const struct lz_buf *wire, struct lz_buf *out, struct lz_detail *detail)
{
    const struct lz_index *layers[] = {&parts->index};
    struct lz_chunked_plan *plan;
    int rc = lz_chunked_plan_new(sys, tail, parts->layer.room.objects, layers, 1, 0, &plan, detail);
    if (rc != 0)
        return rc;
    rc = rebuild(parts, plan, wire, UINT64_MAX, out, detail);
    lz_chunked_plan_free(plan);
    return rc;
}

static void faults(void)
{
    struct lz_buf tar = sample(7, 70000), out = {0};
    struct parts parts = open_parts(&tar);
    struct lz_chunked_tail_bytes tail = tail_of(&parts, false);
    const struct lz_index *layers[] = {&parts.index};
    struct lz_chunked_plan *plan;
    CHECK_EQ(lz_chunked_plan_new(lz_sys_linux(), &tail, parts.layer.room.objects, layers, 1, 0, &plan, NULL), 0);
    struct lz_buf wire = wire_of(&parts, plan);
    lz_chunked_plan_free(plan);
    long n = 1;
    for (;; n++) {
        struct fault fault;
        struct lz_detail detail = {.text = ""};
        fault_arm(&fault, n, -EIO);
        int rc = plan_and_rebuild(fault_sys(&fault), &parts, &tail, &wire, &out, &detail);
        if (!fault.fired)
            break;
        CHECK(rc == -EIO || rc == 0); /* 0: a close() of what was only read */
        CHECK(rc == 0 || detail.text[0] != 0);
    }
    CHECK(n > 20);
    CHECK_EQ(out.size, tar.size);
    CHECK(memcmp(out.data, tar.data, tar.size) == 0);
    lz_buf_free(&wire);
    close_parts(&parts);
    lz_buf_free(&out);
    lz_buf_free(&tar);
}

int main(void)
{
    open_root();
    RUN(whatever_is_here);
    RUN(damaged_parts);
    RUN(tails_that_are_none);
    RUN(faults);
    close_root();
    return check_end();
}
