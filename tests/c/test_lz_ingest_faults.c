/* Ingest of what it must not take: limits, damage, cancelling, every system call failing in turn. */
#include "fault.h"
#include "layer.h"
#include "shell.h"

static void sparse_files(void)
{
    struct lz_buf tar = {0};
    static const struct lz_tar_extent large[] = {{4096, 5000}, {1000000, 1}, {3000000, 4096}};
    static const struct lz_tar_extent small[] = {{100, 5}, {3000, 10}};
    uint8_t *bytes = noise(10000, 5);
    struct lz_tar_entry entry = {.type = LZ_TAR_FILE,
                                 .path = "large",
                                 .path_size = 5,
                                 .size = 5000000,
                                 .stored_size = 9097,
                                 .extents = large,
                                 .extent_count = 3};
    CHECK_EQ(lz_tar_write_entry(&entry, &tar, NULL), 0);
    CHECK_EQ(lz_buf_append(&tar, bytes, 9097), 0);
    CHECK_EQ(lz_buf_append_zeros(&tar, lz_tar_pad(9097)), 0);
    entry.path = "small";
    entry.size = 4000;
    entry.stored_size = 15;
    entry.extents = small;
    entry.extent_count = 2;
    CHECK_EQ(lz_tar_write_entry(&entry, &tar, NULL), 0);
    CHECK_EQ(lz_buf_append(&tar, bytes, 15), 0);
    CHECK_EQ(lz_buf_append_zeros(&tar, lz_tar_pad(15)), 0);
    put_end(&tar);

    struct room room = open_room(&tar);
    struct lz_ingest_options options = options_of(&room);
    struct lz_ingest_result result;
    CHECK_EQ(ingest(&options, &result), 0);
    CHECK_EQ(result.new_object_count, 1);
    CHECK_EQ(result.new_object_bytes, 5000000);
    CHECK_EQ(result.inline_bytes, 4000);
    CHECK_EQ(check_objects(room.staged), 1);
    uint8_t *whole = calloc(1, 5000000);
    CHECK(whole != NULL);
    memcpy(whole + 4096, bytes, 5000);
    memcpy(whole + 1000000, bytes + 5000, 1);
    memcpy(whole + 3000000, bytes + 5001, 4096);
    uint8_t digest[32];
    char hex[65];
    struct stat status;
    sha256(whole, 5000000, digest);
    lz_hex(digest, hex);
    CHECK_EQ(fstatat(room.staged, hex, &status, 0), 0);
    CHECK_EQ(status.st_size, 5000000);
    CHECK(status.st_blocks * 512 < 100000);
    publish(&room);
    check_replay(&room, &tar);
    free(whole);

    options.staging_fd = make_dir(room.dir, "second");
    options.limits.max_tar_size = 4000000; /* the tar is small; with its holes it is not */
    CHECK_EQ(ingest(&options, &result), LZ_E_LIMIT);
    (void)close(options.staging_fd);
    close_room(&room);
    free(bytes);
    lz_buf_free(&tar);
}

static void limits(void)
{
    struct lz_buf tar = sample(6, SIZE_MAX), gzip = gzipped(&tar);
    struct lz_ingest_limits cases[] = {
        {.max_tar_size = tar.size - 1}, {.max_file_size = 2999999}, {.max_entries = 20}, {.max_tar_size = 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct room room = open_room(&gzip);
        struct lz_ingest_options options = options_of(&room);
        struct lz_ingest_result result;
        options.limits = cases[i];
        CHECK_EQ(ingest(&options, &result), LZ_E_LIMIT);
        close_room(&room);
    }
    struct lz_buf zeros = {0};
    CHECK_EQ(lz_buf_append_zeros(&zeros, 70u << 20), 0);
    struct lz_buf bomb = gzipped(&zeros);
    struct room room = open_room(&bomb);
    struct lz_ingest_options options = options_of(&room);
    struct lz_ingest_result result;
    options.limits.max_ratio = 100;
    CHECK_EQ(ingest(&options, &result), LZ_E_LIMIT);
    close_room(&room);
    lz_buf_free(&zeros);
    lz_buf_free(&bomb);
    lz_buf_free(&tar);
    lz_buf_free(&gzip);
}

static void wrong_sizes(void)
{
    struct lz_buf tar = sample(7, 300000);
    struct room room = open_room(&tar);
    struct lz_ingest_options options = options_of(&room);
    struct lz_ingest_result result;
    struct lz_detail detail;
    options.source_size = tar.size + 1;
    CHECK_EQ(lz_ingest(lz_sys_linux(), &options, NULL, &result, &detail), LZ_E_TRUNCATED);
    char text[100];
    (void)snprintf(text, sizeof text, "expected %zu bytes, found %zu", tar.size + 1, tar.size);
    CHECK_STR(detail.text, text);
    close_room(&room);
    lz_buf_free(&tar);
}

static void cancelled(void)
{
    struct lz_buf tar = sample(8, 300000);
    struct room room = open_room(&tar);
    struct lz_ingest_options options = options_of(&room);
    struct lz_ingest_result result;
    struct lz_ingest_progress progress = {.cancel = 1};
    CHECK_EQ(lz_ingest(lz_sys_linux(), &options, &progress, &result, NULL), LZ_E_CANCELLED);
    close_room(&room);
    lz_buf_free(&tar);
}

/* Every call fails in turn. Which stage makes the n-th call differs from run to run; what must hold does not. */
static void faults(void)
{
    struct lz_buf tar = sample(9, 300000), gzip = gzipped(&tar);
    struct fault fault;
    struct lz_ingest_result result;
    for (long n = 1;; n++) {
        struct room room = open_room(&gzip);
        struct lz_ingest_options options = options_of(&room);
        struct lz_detail detail;
        int files = count_descriptors();
        options.blob_mode = n % 8 == 0 ? LZ_BLOB_ZSTD : LZ_BLOB_KEEP;
        options.blob_level = 1;
        fault_arm(&fault, n, -ENOSPC);
        int rc = lz_ingest(fault_sys(&fault), &options, NULL, &result, &detail);
        CHECK_EQ(count_descriptors(), files);
        (void)check_objects(room.staged); /* complete ones only, and no temporary names */
        bool fired = atomic_load(&fault.fired);
        if (rc != 0) {
            CHECK(fired);
            CHECK_EQ(rc, -ENOSPC);
            CHECK(detail.text[0] != 0);
        } else {
            check_index(&room, &result); /* the call that failed was a hint */
        }
        close_room(&room);
        if (!fired) {
            CHECK(n > 40);
            break;
        }
    }
    lz_buf_free(&tar);
    lz_buf_free(&gzip);
}

/* The source ends, or has a wrong bit, anywhere: an error, and never a hang. */
static void damaged(void)
{
    struct lz_buf tar = {0};
    uint8_t *bytes = noise(20000, 10);
    put_entry(&tar, "a/b", 'f', NULL, bytes, 20000);
    put_entry(&tar, "a/c", 'f', NULL, bytes, 300);
    put_end(&tar);
    free(bytes);
    struct lz_buf gzip = gzipped(&tar);
    for (size_t at = 0; at < gzip.size; at += at < 64 || at > gzip.size - 64 ? 1 : 997) {
        for (int flip = 0; flip < 2; flip++) {
            struct lz_buf copy = {0};
            CHECK_EQ(lz_buf_append(&copy, gzip.data, gzip.size), 0);
            if (flip)
                copy.data[at] ^= 0x10;
            else
                copy.size = at;
            struct room room = open_room(&copy);
            struct lz_ingest_options options = options_of(&room);
            struct lz_ingest_result result;
            struct lz_detail detail;
            options.compression = LZ_COMPRESSION_GZIP;
            int rc = lz_ingest(lz_sys_linux(), &options, NULL, &result, &detail);
            if (rc == 0) { /* bits of gzip's own header that change nothing: time, extra flags, system */
                CHECK(flip && at >= 3 && at < 10);
                uint8_t digest[32];
                sha256(tar.data, tar.size, digest);
                CHECK(memcmp(digest, result.diff_id, 32) == 0);
            } else {
                CHECK(rc < -10000 && detail.text[0] != 0);
            }
            close_room(&room);
            lz_buf_free(&copy);
        }
    }
    lz_buf_free(&tar);
    lz_buf_free(&gzip);
}

int main(void)
{
    open_root();
    RUN(sparse_files);
    RUN(limits);
    RUN(wrong_sizes);
    RUN(cancelled);
    RUN(damaged);
    RUN(faults);
    close_root();
    return check_end();
}
