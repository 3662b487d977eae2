/* Recipe: what was written comes back byte for byte; every damaged recipe, index or object is an error. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "bytes/lz_digest.h"
#include "fault.h"
#include "tree/lz_recipe.h"

#define TAR_SIZE_MAX (4u * 1024 * 1024)

static char root[64];
static int root_fd, objects_fd, index_fd;
static uint8_t *tar; /* what the recipe stands for */
static size_t tar_size;
static uint8_t diff_id[32];
static uint8_t object[300000], object_digest[32], other[70000], other_digest[32], inline_data[5000];

static uint8_t noise(size_t i)
{
    return (uint8_t)((i * 2654435761u) >> 13);
}

static void sha256(const void *bytes, size_t size, uint8_t out[32])
{
    struct lz_sha256 *context;
    CHECK_EQ(lz_sha256_new(&context), 0);
    CHECK_EQ(lz_sha256_digest(context, bytes, size, out), 0);
    lz_sha256_free(context);
}

static int create(int dir, const char *name)
{
    int fd = openat(dir, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    CHECK(fd >= 0);
    return fd;
}

static void object_path(const uint8_t digest[32], char path[70])
{
    char hex[65];
    lz_hex(digest, hex);
    (void)snprintf(path, 70, "%.2s/%s", hex, hex + 2);
}

static void write_object(const uint8_t *bytes, size_t size, const uint8_t digest[32])
{
    char path[70], dir[3];
    object_path(digest, path);
    (void)snprintf(dir, sizeof dir, "%.2s", path);
    (void)mkdirat(objects_fd, dir, 0755);
    int fd = create(objects_fd, path);
    CHECK_EQ(write(fd, bytes, size), size);
    CHECK_EQ(close(fd), 0);
}

static void set_up(void)
{
    (void)snprintf(root, sizeof root, "/tmp/lz-recipe-XXXXXX");
    CHECK(mkdtemp(root) != NULL);
    root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(root_fd >= 0);
    CHECK_EQ(mkdirat(root_fd, "objects", 0755), 0);
    objects_fd = openat(root_fd, "objects", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(objects_fd >= 0);
    index_fd = create(root_fd, "index");
    for (size_t i = 0; i < sizeof object; i++)
        object[i] = noise(i);
    for (size_t i = 0; i < sizeof other; i++)
        other[i] = noise(i + 1000000);
    for (size_t i = 0; i < sizeof inline_data; i++)
        inline_data[i] = noise(i + 77);
    sha256(object, sizeof object, object_digest);
    sha256(other, sizeof other, other_digest);
    write_object(object, sizeof object, object_digest);
    write_object(other, sizeof other, other_digest);
    CHECK_EQ(pwrite(index_fd, inline_data, sizeof inline_data, LZ_INDEX_INLINE_OFFSET), sizeof inline_data);
    tar = malloc(TAR_SIZE_MAX);
    CHECK(tar != NULL);
}

static void tear_down(void)
{
    char command[100];
    (void)close(index_fd);
    (void)close(objects_fd);
    (void)close(root_fd);
    (void)snprintf(command, sizeof command, "rm -rf %s", root);
    CHECK_EQ(system(command), 0);
    free(tar);
}

static void expect(const uint8_t *bytes, size_t size)
{
    CHECK(tar_size + size <= TAR_SIZE_MAX);
    memcpy(tar + tar_size, bytes, size);
    tar_size += size;
}

/* A layer of every operation. 0, or the first error. */
static int write_recipe(const struct lz_sys *sys, int fd)
{
    static uint8_t header[200000];
    struct lz_recipe_writer *writer;
    int rc = lz_recipe_writer_new(sys, fd, &writer);
    if (rc != 0)
        return rc;
    tar_size = 0;
    for (size_t i = 0; i < sizeof header; i++)
        header[i] = noise(i * 7);
    for (size_t i = 0; i < 40 && rc == 0; i++) {
        size_t headers = i == 7 ? sizeof header : 512 * (i % 3 + 1); /* one literal longer than the writer's buffer */
        rc = lz_recipe_literal(writer, header + i, headers - 40);
        expect(header + i, headers - 40);
        if (rc == 0)
            rc = lz_recipe_inline(writer, i * 100, 111);
        expect(inline_data + i * 100, 111);
        if (rc == 0)
            rc = lz_recipe_inline(writer, 0, 0);
        const uint8_t *bytes = i % 2 == 0 ? object : other;
        if (rc == 0)
            rc = lz_recipe_object(writer, i % 2 == 0 ? object_digest : other_digest, i * 1000, 30000);
        expect(bytes + i * 1000, 30000);
        if (rc == 0)
            rc = lz_recipe_literal(writer, header, 1);
        if (rc == 0)
            rc = lz_recipe_literal(writer, header + 1, 2);
        expect(header, 3);
    }
    sha256(tar, tar_size, diff_id);
    if (rc == 0)
        rc = lz_recipe_finish(writer, tar_size, diff_id);
    lz_recipe_writer_free(writer);
    return rc;
}

static int replay(const struct lz_sys *sys, int fd, struct lz_detail *detail)
{
    int out = create(root_fd, "tar");
    uint64_t size = 0;
    int rc = lz_recipe_replay(sys, fd, index_fd, objects_fd, out, &size, detail);
    if (rc == 0) {
        static uint8_t back[TAR_SIZE_MAX];
        CHECK_EQ(size, tar_size);
        CHECK_EQ(pread(out, back, sizeof back, 0), tar_size);
        CHECK(memcmp(back, tar, tar_size) == 0);
    }
    CHECK_EQ(close(out), 0);
    return rc;
}

static void round_trip(void)
{
    int fd = create(root_fd, "recipe");
    CHECK_EQ(write_recipe(lz_sys_linux(), fd), 0);
    CHECK_EQ(replay(lz_sys_linux(), fd, NULL), 0);
    CHECK_EQ(close(fd), 0);
}

static void empty(void)
{
    struct lz_recipe_writer *writer;
    int fd = create(root_fd, "recipe");
    CHECK_EQ(lz_recipe_writer_new(lz_sys_linux(), fd, &writer), 0);
    tar_size = 0;
    sha256("", 0, diff_id);
    CHECK_EQ(lz_recipe_finish(writer, 0, diff_id), 0);
    lz_recipe_writer_free(writer);
    CHECK_EQ(replay(lz_sys_linux(), fd, NULL), 0);
    CHECK_EQ(close(fd), 0);
}

static void many_objects(void)
{
    struct lz_recipe_writer *writer;
    int fd = create(root_fd, "recipe");
    uint8_t digest[32] = {0}, diff[32] = {0};
    CHECK_EQ(lz_recipe_writer_new(lz_sys_linux(), fd, &writer), 0);
    for (unsigned round = 0; round < 2; round++)
        for (unsigned i = 0; i < 3000; i++) { /* equal first bytes: all in one run of slots */
            digest[30] = (uint8_t)(i >> 8);
            digest[31] = (uint8_t)i;
            CHECK_EQ(lz_recipe_object(writer, digest, i, 1), 0);
        }
    CHECK_EQ(lz_recipe_finish(writer, 6000, diff), 0);
    lz_recipe_writer_free(writer);
    struct lz_detail detail;
    CHECK_EQ(replay(lz_sys_linux(), fd, &detail), -ENOENT);
    CHECK(strstr(detail.text, "object sha256:00000000") != NULL);
    CHECK_EQ(close(fd), 0);
}

static void damaged_recipe(void)
{
    static uint8_t recipe[1 << 20];
    int fd = create(root_fd, "recipe");
    CHECK_EQ(write_recipe(lz_sys_linux(), fd), 0);
    ssize_t size = pread(fd, recipe, sizeof recipe, 0);
    CHECK(size > 0 && size < (ssize_t)sizeof recipe);
    struct lz_detail detail;
    for (ssize_t at = 0; at < size; at += at < 200 || at > size - 50 ? 1 : 4999) {
        recipe[at] ^= 4;
        CHECK_EQ(pwrite(fd, recipe + at, 1, at), 1);
        int rc = replay(lz_sys_linux(), fd, &detail);
        if (at == 57) /* zstd's window size: a larger one decodes to the same */
            CHECK(rc == 0 || rc == LZ_E_CORRUPT);
        else
            CHECK(rc < -10000 && detail.text[0] != 0);
        recipe[at] ^= 4;
        CHECK_EQ(pwrite(fd, recipe + at, 1, at), 1);
    }
    CHECK_EQ(replay(lz_sys_linux(), fd, &detail), 0);
    CHECK_EQ(pwrite(fd, "x", 1, size), 1);
    CHECK_EQ(replay(lz_sys_linux(), fd, &detail), LZ_E_CORRUPT);
    for (ssize_t keep = size - 1; keep >= 0; keep -= keep < 200 || keep > size - 50 ? 1 : 4999) {
        CHECK_EQ(ftruncate(fd, keep), 0);
        CHECK_EQ(replay(lz_sys_linux(), fd, &detail), LZ_E_TRUNCATED);
    }
    CHECK_EQ(close(fd), 0);
}

static void damaged_content(void)
{
    struct lz_detail detail;
    char path[70];
    int fd = create(root_fd, "recipe");
    CHECK_EQ(write_recipe(lz_sys_linux(), fd), 0);
    object[20000] ^= 1;
    write_object(object, sizeof object, object_digest);
    CHECK_EQ(replay(lz_sys_linux(), fd, &detail), LZ_E_CORRUPT);
    CHECK(strstr(detail.text, "object sha256:") != NULL && strstr(detail.text, "another digest") != NULL);
    write_object(object, 1000, object_digest);
    CHECK_EQ(replay(lz_sys_linux(), fd, &detail), LZ_E_CORRUPT);
    CHECK(strstr(detail.text, "shorter") != NULL);
    object[20000] ^= 1;
    object_path(object_digest, path);
    CHECK_EQ(unlinkat(objects_fd, path, 0), 0);
    CHECK_EQ(replay(lz_sys_linux(), fd, &detail), -ENOENT);
    write_object(object, sizeof object, object_digest);

    uint8_t bad = (uint8_t)(inline_data[50] ^ 1);
    CHECK_EQ(pwrite(index_fd, &bad, 1, LZ_INDEX_INLINE_OFFSET + 50), 1);
    CHECK_EQ(replay(lz_sys_linux(), fd, &detail), LZ_E_CORRUPT);
    CHECK(strstr(detail.text, "layer sha256:") != NULL);
    CHECK_EQ(ftruncate(index_fd, LZ_INDEX_INLINE_OFFSET + 1000), 0);
    CHECK_EQ(replay(lz_sys_linux(), fd, &detail), LZ_E_TRUNCATED);
    CHECK_EQ(pwrite(index_fd, inline_data, sizeof inline_data, LZ_INDEX_INLINE_OFFSET), sizeof inline_data);
    CHECK_EQ(replay(lz_sys_linux(), fd, &detail), 0);
    CHECK_EQ(close(fd), 0);
}

/* Every call fails in turn: the failure is passed on, nothing leaks (the sanitizer looks). */
static void faults(void)
{
    struct fault fault;
    int fd = create(root_fd, "recipe");
    long n = 1;
    for (;; n++) {
        fault_arm(&fault, n, -ENOSPC);
        int rc = write_recipe(fault_sys(&fault), fd);
        CHECK_EQ(rc, fault.fired ? -ENOSPC : 0);
        if (!fault.fired)
            break;
    }
    CHECK(n > 2);
    for (n = 1;; n++) {
        fault_arm(&fault, n, -EIO);
        int rc = replay(fault_sys(&fault), fd, NULL);
        if (!fault.fired) {
            CHECK_EQ(rc, 0);
            break;
        }
        CHECK(rc == -EIO || rc == 0); /* 0: closing an object that was only read */
    }
    CHECK(n > 80);
    CHECK_EQ(close(fd), 0);
}

int main(void)
{
    set_up();
    RUN(round_trip);
    RUN(empty);
    RUN(many_objects);
    RUN(damaged_recipe);
    RUN(damaged_content);
    RUN(faults);
    tear_down();
    return check_end();
}
