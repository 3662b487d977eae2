/* A layer written as zstd:chunked: inflates to its tar, the same on any threads, and every system call failing in turn. */
#include "bytes/lz_framer.h"
#include "bytes/lz_inflate.h"
#include "chunked_fixture.h"
#include "fault.h"
#include "layer.h"

/* Our own reader: frames one after the other, and frames to skip. */
static void check_inflates(int fd, const struct lz_buf *tar)
{
    struct lz_inflate *inflate;
    CHECK_EQ(lz_inflate_new(LZ_COMPRESSION_ZSTD, 0, &inflate), 0);
    struct stat status;
    CHECK_EQ(fstat(fd, &status), 0);
    size_t size = (size_t)status.st_size, done = 0, written;
    uint8_t *packed = malloc(size), *back = malloc(tar->size + 1);
    CHECK(packed != NULL && back != NULL);
    CHECK_EQ(pread(fd, packed, size, 0), size);
    const uint8_t *in = packed;
    do {
        CHECK_EQ(lz_inflate_step(inflate, &in, &size, back + done, tar->size + 1 - done, &written, NULL), 0);
        done += written;
    } while (size > 0 || written > 0);
    CHECK_EQ(lz_inflate_finish(inflate, NULL), 0);
    CHECK_EQ(done, tar->size);
    CHECK(memcmp(back, tar->data, done) == 0);
    lz_inflate_free(inflate);
    free(packed);
    free(back);
}

static void there_and_back(void)
{
    struct lz_buf tar = sample(3, SIZE_MAX);
    struct layer layer = open_layer(&tar);
    struct lz_chunked_result first, result;
    struct lz_detail detail;
    CHECK_EQ(write_blob(lz_sys_linux(), &layer, 1, &first, &detail), 0);
    CHECK(first.has_toc);
    check_inflates(layer.out, &tar);
    for (unsigned threads = 2; threads <= LZ_FRAMER_THREADS_MAX; threads += 7) {
        CHECK_EQ(write_blob(lz_sys_linux(), &layer, threads, &result, NULL), 0);
        CHECK(memcmp(&result, &first, sizeof first) == 0);
    }
    close_layer(&layer);
    lz_buf_free(&tar);
}

static void an_empty_tar(void)
{
    struct lz_buf tar = {0};
    CHECK_EQ(lz_buf_reserve(&tar, 1), 0);
    struct layer layer = open_layer(&tar);
    struct lz_chunked_result result;
    CHECK_EQ(write_blob(lz_sys_linux(), &layer, 2, &result, NULL), 0);
    check_inflates(layer.out, &tar);
    close_layer(&layer);
    lz_buf_free(&tar);
}

static void faults(void)
{
    struct lz_buf tar = sample(4, 1048577);
    struct layer layer = open_layer(&tar);
    struct lz_chunked_result result;
    struct fault fault;
    long n = 1;
    for (;; n += n < 40 ? 1 : 7) {
        struct lz_detail detail = {.text = ""};
        fault_arm(&fault, n, -EIO);
        int rc = write_blob(fault_sys(&fault), &layer, 2, &result, &detail);
        if (!fault.fired)
            break;
        CHECK(rc == -EIO || rc == 0); /* 0: a close() of what was only read */
        CHECK(rc == 0 || detail.text[0] != 0);
    }
    CHECK(n > 40);
    check_inflates(layer.out, &tar);
    close_layer(&layer);
    lz_buf_free(&tar);
}

int main(void)
{
    open_root();
    RUN(there_and_back);
    RUN(an_empty_tar);
    RUN(faults);
    close_root();
    return check_end();
}
