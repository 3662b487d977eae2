/* Verification: files of all sizes around a page, a window and a batch; every kind of damage, and nothing else, is named;
 * with O_DIRECT and without; whatever call fails, nothing leaks and nothing is called wrong that is not. */
#include "tree/lz_verify.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include "bytes/lz_digest.h"
#include "check.h"
#include "fault.h"
#include "tree/lz_remove.h"

#define PAGE 4096u
#define WINDOW LZ_VERIFY_WINDOW

static char base[] = "/var/tmp/lz-verify-XXXXXX"; /* /tmp may be a tmpfs, which has no disk to be read past the cache */
static int dir;
static uint8_t *noise;
#define NOISE ((size_t)3 * WINDOW + 3 * PAGE)

static void set_up(void)
{
    strcpy(base, "/var/tmp/lz-verify-XXXXXX");
    CHECK(mkdtemp(base) != NULL);
    dir = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(dir >= 0);
}

static void tear_down(void)
{
    close(dir);
    CHECK(lz_remove_tree(lz_sys_linux(), AT_FDCWD, base, NULL) > 0);
}

static void path_of(const uint8_t digest[32], bool fan, char path[67])
{
    char hex[65];
    lz_hex(digest, hex);
    snprintf(path, 67, fan ? "%.2s/%s" : "%.2s%s", hex, hex + 2);
    if (fan) {
        hex[2] = 0;
        CHECK(mkdirat(dir, hex, 0700) == 0 || errno == EEXIST);
    }
}

/* Makes a file of `size` bytes from noise + `from`, under its digest. */
static void make(size_t from, size_t size, bool fan, uint8_t digest[32])
{
    char path[67];
    CHECK_EQ(EVP_Digest(noise + from, size, digest, NULL, EVP_sha256(), NULL), 1);
    path_of(digest, fan, path);
    int fd = openat(dir, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, noise + from, size), (ssize_t)size);
    close(fd);
}

struct told {
    uint64_t files, bytes, calls;
    uint64_t end_at; /* 0: never */
};

static int step(void *ctx, uint64_t files, uint64_t bytes)
{
    struct told *told = ctx;
    told->files += files;
    told->bytes += bytes;
    return ++told->calls == told->end_at ? LZ_E_CANCELLED : 0;
}

static const size_t sizes[] = {0,          1,          PAGE - 1, PAGE,         PAGE + 1,   100000,
                               WINDOW - 1, WINDOW / 2, WINDOW,   WINDOW + 777, 2 * WINDOW, 3 * WINDOW + 5};
#define SIZES (sizeof sizes / sizeof *sizes)

static int without_direct(void *ctx, int at, const char *path, int flags, mode_t mode)
{
    (void)ctx;
    return (flags & O_DIRECT) != 0 ? -EINVAL : lz_sys_linux()->openat(NULL, at, path, flags, mode);
}

/* A file system that opens with O_DIRECT and then does not read so. */
static ssize_t only_cached(void *ctx, int fd, void *out, size_t size, off_t offset)
{
    (void)ctx;
    return (fcntl(fd, F_GETFL) & O_DIRECT) != 0 ? -EINVAL : lz_sys_linux()->pread(NULL, fd, out, size, offset);
}

static void all_sizes(void)
{
    struct lz_sys other[3] = {*lz_sys_linux(), *lz_sys_linux(), *lz_sys_linux()};
    other[1].openat = without_direct;
    other[2].pread = only_cached;
    for (int fan = 0; fan < 2; fan++) {
        uint8_t digests[SIZES][32];
        uint64_t bytes = 0;
        set_up();
        for (size_t i = 0; i < SIZES; i++) {
            make(i, sizes[i], fan, digests[i]);
            bytes += sizes[i];
        }
        for (size_t way = 0; way < 3; way++) {
            struct told told = {0};
            struct lz_buf wrong = {0};
            struct lz_verify_files files = {dir, fan, digests[0], SIZES, step, &told};
            CHECK_EQ(lz_verify_files(&other[way], &files, &wrong, NULL), 0);
            CHECK_EQ(wrong.size, 0);
            CHECK_EQ(told.files, SIZES);
            CHECK_EQ(told.bytes, bytes);
        }
        /* one byte of each, at its end and in its middle; a byte more; a byte less */
        for (size_t i = fan != 0 ? SIZES : 1; i < SIZES; i++) { /* once: the names make no difference */
            for (unsigned how = 0; how < 4; how++) {
                struct lz_buf wrong = {0};
                struct lz_verify_files files = {dir, fan, digests[0], SIZES, NULL, NULL};
                off_t end = (off_t)sizes[i], at = how == 0 ? end - 1 : end / 2;
                char path[67];
                path_of(digests[i], fan, path);
                int fd = openat(dir, path, O_WRONLY | O_CLOEXEC);
                CHECK(fd >= 0);
                if (how < 2) {
                    uint8_t other_byte = noise[i + (size_t)at] ^ 1;
                    CHECK_EQ(pwrite(fd, &other_byte, 1, at), 1);
                } else {
                    CHECK_EQ(ftruncate(fd, how == 2 ? end + 1 : end - 1), 0);
                }
                CHECK_EQ(lz_verify_files(lz_sys_linux(), &files, &wrong, NULL), 0);
                CHECK_EQ(wrong.size, 32);
                CHECK(memcmp(wrong.data, digests[i], 32) == 0);
                CHECK_EQ(ftruncate(fd, end), 0);
                CHECK_EQ(pwrite(fd, noise + i + (how < 2 ? at : end - 1), 1, how < 2 ? at : end - 1), 1);
                close(fd);
                lz_buf_free(&wrong);
            }
        }
        tear_down();
    }
}

static void many_small_ones(void)
{
    enum { COUNT = 700 };
    static uint8_t digests[COUNT][32];
    struct told told = {0};
    struct lz_buf wrong = {0};
    struct lz_verify_files files = {0, true, digests[0], COUNT, step, &told};
    set_up();
    files.dir = dir;
    for (size_t i = 0; i < COUNT; i++) {
        make(i, i % 97, true, digests[i]);
        if (i % 100 == 7) { /* what is in it is another one's */
            char path[67];
            digests[i][0] ^= 1;
            path_of(digests[i], true, path);
            int fd = openat(dir, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
            CHECK(fd >= 0);
            close(fd);
        }
    }
    CHECK_EQ(lz_verify_files(lz_sys_linux(), &files, &wrong, NULL), 0);
    CHECK_EQ(wrong.size, 7 * 32);
    for (size_t i = 0; i < 7; i++)
        CHECK(memcmp(wrong.data + 32 * i, digests[100 * i + 7], 32) == 0);
    CHECK_EQ(told.files, COUNT);
    CHECK(told.calls >= 3);
    lz_buf_free(&wrong);

    struct told ends = {.end_at = 2};
    files.ctx = &ends;
    CHECK_EQ(lz_verify_files(lz_sys_linux(), &files, &wrong, NULL), LZ_E_CANCELLED);
    CHECK_EQ(ends.calls, 2);
    lz_buf_free(&wrong);
    tear_down();
}

/* What is no file is wrong and does not stop the rest; what is not there is nothing. */
static void other_things(void)
{
    uint8_t digests[5][32];
    char path[67];
    struct lz_buf wrong = {0};
    set_up();
    for (size_t i = 0; i < 5; i++)
        make(i, 1000, true, digests[i]);
    for (size_t i = 0; i < 4; i++) {
        path_of(digests[i], true, path);
        CHECK_EQ(unlinkat(dir, path, 0), 0);
        if (i == 0)
            CHECK_EQ(mkdirat(dir, path, 0700), 0);
        if (i == 1)
            CHECK_EQ(symlinkat("/etc/passwd", dir, path), 0);
        if (i == 2)
            CHECK_EQ(mknodat(dir, path, S_IFIFO | 0600, 0), 0); /* opening one must not wait for a writer */
    }
    struct lz_verify_files files = {dir, true, digests[0], 5, NULL, NULL};
    CHECK_EQ(lz_verify_files(lz_sys_linux(), &files, &wrong, NULL), 0);
    CHECK_EQ(wrong.size, 3 * 32);
    CHECK(memcmp(wrong.data, digests[0], 3 * 32) == 0);
    files.count = 0;
    CHECK_EQ(lz_verify_files(lz_sys_linux(), &files, &wrong, NULL), 0);
    CHECK_EQ(wrong.size, 3 * 32);
    lz_buf_free(&wrong);
    tear_down();
}

/* What is lost on the disk is a file that is wrong, and the others are looked at; any other failure ends the call, and
 * names it. */
static void every_failing_call(void)
{
    static const int codes[] = {-EIO, -EBADMSG, -EUCLEAN, -ENODATA, -EACCES, -EINVAL, -ENOMEM};
    enum { LOST = 4 }; /* of them */
    uint8_t digests[3][32];
    set_up();
    make(0, 1000, false, digests[0]);
    make(1, WINDOW + 9, false, digests[1]);
    make(2, 5000, false, digests[2]);
    for (size_t c = 0; c < sizeof codes / sizeof *codes; c++) {
        size_t found = 0;
        for (long n = 1;; n++) {
            struct fault fault;
            struct lz_buf wrong = {0};
            struct lz_detail detail = {0};
            struct lz_verify_files files = {dir, false, digests[0], 3, NULL, NULL};
            fault_arm(&fault, n, codes[c]);
            int rc = lz_verify_files(fault_sys(&fault), &files, &wrong, &detail);
            CHECK(rc == 0 || (c >= LOST && rc == codes[c] && strlen(detail.text) > 64));
            CHECK(wrong.size == 0 || (c < LOST && wrong.size == 32));
            found += wrong.size / 32;
            lz_buf_free(&wrong);
            if (!atomic_load(&fault.fired)) {
                CHECK_EQ(rc, 0);
                break;
            }
            CHECK(n < 1000);
        }
        CHECK(c < LOST ? found >= 9 : found == 0); /* opening, asking and reading, of three files */
    }
    tear_down();
}

int main(void)
{
    noise = malloc(NOISE);
    CHECK(noise != NULL);
    uint64_t seed = 1;
    for (size_t i = 0; i < NOISE; i++) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        noise[i] = (uint8_t)(seed >> 32);
    }
    RUN(all_sizes);
    RUN(many_small_ones);
    RUN(other_things);
    RUN(every_failing_call);
    free(noise);
    return check_end();
}
