/* Every rung by name on every kind of file system that it can meet, and the ladder where rungs fail. */
#include "tree/lz_copyup.h"

#include "disks.h"
#include "fault.h"

#define KIB 1024u
#define SIZE (1024 * KIB + 1234) /* not a multiple of any block */

struct extent {
    uint32_t offset, size;
};

struct pattern { /* where data lies; ends in {0, 0} */
    const char *name;
    struct extent extents[4];
};

static const struct pattern patterns[] = {
    {"full", {{0, SIZE}}},
    {"hole at the start", {{512 * KIB, SIZE - 512 * KIB}}},
    {"hole in the middle", {{0, 256 * KIB}, {768 * KIB, SIZE - 768 * KIB}}},
    {"hole at the end", {{0, 256 * KIB}}},
    {"holes everywhere", {{128 * KIB, 64 * KIB}, {512 * KIB, 64 * KIB}}},
    {"only a hole", {{0, 0}}},
};
#define PATTERNS (sizeof patterns / sizeof *patterns)

static const struct lz_sys *linux_sys;
static uint8_t content[SIZE + 8192];

static int new_file(int dir_fd)
{
    int fd = openat(dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    return fd;
}

/* A source with the pattern's holes; `content` holds what it reads as. */
static int make_source(int dir_fd, const struct pattern *pattern)
{
    int fd = new_file(dir_fd);
    memset(content, 0, sizeof content);
    CHECK_EQ(ftruncate(fd, SIZE), 0);
    for (const struct extent *e = pattern->extents; e->size > 0; e++) {
        for (uint32_t i = 0; i < e->size; i++)
            content[e->offset + i] = (uint8_t)(((e->offset + i) * 2654435761u >> 13) | 1);
        CHECK_EQ(pwrite(fd, content + e->offset, e->size, e->offset), e->size);
    }
    CHECK_EQ(fsync(fd), 0); /* so that what is a hole is known */
    return fd;
}

static void check_copy(int fd, const uint8_t *expected, size_t size)
{
    static uint8_t found[sizeof content];
    struct stat info;
    CHECK_EQ(fstat(fd, &info), 0);
    CHECK_EQ(info.st_size, size);
    CHECK_EQ(pread(fd, found, sizeof found, 0), size);
    CHECK(memcmp(found, expected, size) == 0);
}

static void check_holes(int source, int copy)
{
    struct stat a, b;
    CHECK_EQ(fsync(copy), 0);
    CHECK_EQ(fstat(source, &a), 0);
    CHECK_EQ(fstat(copy, &b), 0);
    CHECK(b.st_blocks <= a.st_blocks + 16);
}

static uint64_t data_bytes(const struct pattern *pattern)
{
    uint64_t sum = 0;
    for (const struct extent *e = pattern->extents; e->size > 0; e++)
        sum += e->size;
    return sum;
}

static void forced(const struct disk *disk, bool clones)
{
    for (size_t i = 0; i < PATTERNS; i++) {
        int source = make_source(disk->fd, &patterns[i]);
        struct lz_bytes_at from = {.fd = source, .size = SIZE};
        for (enum lz_rung rung = LZ_RUNG_CLONE; rung < LZ_RUNG_COUNT; rung++) {
            struct lz_copyup_result result = {.copied = 77};
            struct lz_detail detail = {{0}};
            int copy = new_file(disk->fd);
            int rc = lz_copyup_data(linux_sys, &from, copy, rung, &result, &detail);
            if (rung == LZ_RUNG_CLONE && !clones) {
                CHECK_EQ(rc, -EOPNOTSUPP);
                CHECK(strstr(detail.text, "clone cannot serve here") != NULL);
                CHECK_EQ(result.copied, 77);
            } else {
                CHECK_EQ(rc, 0);
                uint64_t data = rung == LZ_RUNG_CLONE ? 0 : data_bytes(&patterns[i]);
                CHECK_EQ(result.rung, rung != LZ_RUNG_CLONE && data == 0 ? LZ_RUNG_AUTO : rung);
                CHECK(result.copied >= data && result.copied <= data + 3 * 64 * KIB); /* whole blocks of data */
                check_copy(copy, content, SIZE);
                check_holes(source, copy);
            }
            CHECK_EQ(close(copy), 0);
        }
        CHECK_EQ(close(source), 0);
    }
}

/* What nobody asked for by name. */
static void chosen(const struct disk *disk, enum lz_rung expected)
{
    for (size_t i = 0; i < PATTERNS; i++) {
        int source = make_source(disk->fd, &patterns[i]), copy = new_file(disk->fd);
        struct lz_bytes_at from = {.fd = source, .size = SIZE};
        struct lz_copyup_result result;
        CHECK_EQ(lz_copyup_data(linux_sys, &from, copy, LZ_RUNG_AUTO, &result, NULL), 0);
        if (data_bytes(&patterns[i]) > 0)
            CHECK_STR(lz_rung_name(result.rung), lz_rung_name(expected));
        check_copy(copy, content, SIZE);
        check_holes(source, copy);
        CHECK_EQ(close(copy), 0);
        CHECK_EQ(close(source), 0);
    }
}

/* Contents that lie somewhere inside a file, as the inline ones of an index do: at offsets that no clone takes. */
static void offsets(const struct disk *disk)
{
    static const struct lz_bytes_at cuts[] = {
        {0, 1, 1}, {0, 77, 4096}, {0, 4097, 100000}, {0, SIZE - 1, 1}, {0, 250 * KIB + 1, 600 * KIB}, {0, SIZE, 0}};
    for (size_t i = 0; i < PATTERNS; i++) {
        int source = make_source(disk->fd, &patterns[i]);
        for (size_t j = 0; j < sizeof cuts / sizeof *cuts; j++) {
            for (enum lz_rung rung = LZ_RUNG_AUTO; rung < LZ_RUNG_COUNT; rung++) {
                if (rung != LZ_RUNG_AUTO && rung < LZ_RUNG_RANGE)
                    continue;
                int copy = new_file(disk->fd);
                struct lz_bytes_at from = {.fd = source, .offset = cuts[j].offset, .size = cuts[j].size};
                struct lz_copyup_result result;
                CHECK_EQ(lz_copyup_data(linux_sys, &from, copy, rung, &result, NULL), 0);
                check_copy(copy, content + from.offset, from.size);
                CHECK_EQ(close(copy), 0);
            }
        }
        CHECK_EQ(close(source), 0);
    }
}

/* Into the middle of a file that is there already. */
static void ranges(const struct disk *disk)
{
    int source = make_source(disk->fd, &patterns[2]);
    uint8_t *expected = calloc(1, SIZE);
    CHECK(expected != NULL);
    for (enum lz_rung rung = LZ_RUNG_AUTO; rung < LZ_RUNG_COUNT; rung++) {
        if (rung == LZ_RUNG_METACOPY || rung == LZ_RUNG_BLOCKS || rung == LZ_RUNG_CLONE)
            continue;
        int copy = new_file(disk->fd);
        CHECK_EQ(ftruncate(copy, SIZE), 0);
        struct lz_bytes_at from = {.fd = source, .offset = 64 * KIB, .size = 900 * KIB};
        CHECK_EQ(lz_copyup_range(linux_sys, &from, copy, 8 * KIB, rung, NULL, NULL), 0);
        memcpy(expected + 8 * KIB, content + 64 * KIB, 900 * KIB);
        check_copy(copy, expected, SIZE);
        CHECK_EQ(close(copy), 0);
    }
    free(expected);
    CHECK_EQ(close(source), 0);
}

static void truncated(const struct disk *disk)
{
    int source = make_source(disk->fd, &patterns[0]);
    for (enum lz_rung rung = LZ_RUNG_AUTO; rung < LZ_RUNG_COUNT; rung++) {
        if (rung == LZ_RUNG_METACOPY || rung == LZ_RUNG_BLOCKS)
            continue;
        int copy = new_file(disk->fd);
        struct lz_detail detail;
        struct lz_bytes_at from = {.fd = source, .size = SIZE + 1};
        CHECK_EQ(lz_copyup_data(linux_sys, &from, copy, rung, NULL, &detail), LZ_E_TRUNCATED);
        char expected[128];
        (void)snprintf(expected, sizeof expected, "copy-up: the lower content ends after %u bytes, expected %u", SIZE,
                       SIZE + 1);
        CHECK_STR(detail.text, expected);
        from = (struct lz_bytes_at){.fd = source, .offset = UINT64_MAX - 5, .size = 10};
        CHECK_EQ(lz_copyup_data(linux_sys, &from, copy, rung, NULL, NULL), LZ_E_TRUNCATED);
        from = (struct lz_bytes_at){.fd = source, .offset = 10, .size = UINT64_MAX - 5};
        CHECK_EQ(lz_copyup_data(linux_sys, &from, copy, rung, NULL, NULL), LZ_E_TRUNCATED);
        CHECK_EQ(close(copy), 0);
    }
    CHECK_EQ(close(source), 0);
}

static void on_each(const char *type, unsigned size, bool clones)
{
    struct disk disk;
    if (!disk_mount(&disk, type, size))
        return;
    fprintf(stderr, "    %s\n", type);
    forced(&disk, clones);
    chosen(&disk, clones ? LZ_RUNG_CLONE : LZ_RUNG_RANGE);
    offsets(&disk);
    ranges(&disk);
    truncated(&disk);
    disk_unmount(&disk);
}

static void file_systems(void)
{
    on_each("ext4", 64, false);
    on_each("xfs", 320, true);
    on_each("btrfs", 128, true);
    on_each("tmpfs", 64, false);
}

/* From one file system to another: neither clone nor copy_file_range serves. */
static void across(void)
{
    struct disk disk;
    if (!disk_mount(&disk, "tmpfs", 16))
        return;
    int here = open("/var/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int source = make_source(here, &patterns[2]);
    struct lz_bytes_at from = {.fd = source, .size = SIZE};
    for (int i = 0; i < 2; i++) {
        enum lz_rung rungs[] = {LZ_RUNG_AUTO, LZ_RUNG_RANGE};
        struct lz_copyup_result result;
        struct lz_detail detail = {{0}};
        int copy = new_file(disk.fd);
        int rc = lz_copyup_data(linux_sys, &from, copy, rungs[i], &result, &detail);
        if (rungs[i] == LZ_RUNG_AUTO) {
            CHECK_EQ(rc, 0);
            CHECK_STR(lz_rung_name(result.rung), "sendfile");
            check_copy(copy, content, SIZE);
            check_holes(source, copy);
        } else {
            CHECK_EQ(rc, -EOPNOTSUPP);
            CHECK(strstr(detail.text, "copy_file_range cannot serve here") != NULL);
        }
        CHECK_EQ(close(copy), 0);
    }
    CHECK_EQ(close(source), 0);
    CHECK_EQ(close(here), 0);
    disk_unmount(&disk);
}

/* A full disk is an answer, not a reason to try another way. */
static void full(void)
{
    struct disk disk;
    if (!disk_mount(&disk, "tmpfs", 1))
        return;
    int here = open("/var/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int source = make_source(here, &patterns[0]);
    struct lz_bytes_at from = {.fd = source, .size = SIZE};
    static const enum lz_rung rungs[] = {LZ_RUNG_AUTO, LZ_RUNG_SENDFILE, LZ_RUNG_READ_WRITE};
    for (size_t i = 0; i < sizeof rungs / sizeof *rungs; i++) {
        int copy = new_file(disk.fd);
        struct lz_copyup_result result = {.copied = 77};
        CHECK_EQ(lz_copyup_data(linux_sys, &from, copy, rungs[i], &result, NULL), -ENOSPC);
        CHECK_EQ(result.copied, 77);
        CHECK_EQ(close(copy), 0);
    }
    CHECK_EQ(close(source), 0);
    CHECK_EQ(close(here), 0);
    disk_unmount(&disk);
}

/* Whatever call fails with whatever code: an error, or a copy that is right. */
static void faults(void)
{
    static const int codes[] = {-ENOSPC, -EDQUOT, -EIO, -EXDEV, -EOPNOTSUPP, -EINVAL, -ENOSYS, -ENOTTY, -EPERM};
    int here = open("/var/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int source = make_source(here, &patterns[2]);
    struct lz_bytes_at from = {.fd = source, .size = SIZE};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        for (enum lz_rung rung = LZ_RUNG_AUTO; rung < LZ_RUNG_COUNT; rung++) {
            for (long n = 1; rung == LZ_RUNG_AUTO || rung >= LZ_RUNG_RANGE; n++) {
                struct fault fault;
                struct lz_copyup_result result;
                int copy = new_file(here);
                fault_arm(&fault, n, codes[i]);
                int rc = lz_copyup_data(fault_sys(&fault), &from, copy, rung, &result, NULL);
                if (rc == 0)
                    check_copy(copy, content, SIZE);
                CHECK_EQ(close(copy), 0);
                CHECK(fault.fired || rc == 0);
                if (fault.fired && i < 3)
                    CHECK_EQ(rc, codes[i]);
                if (fault.fired && rc != 0)
                    CHECK(rc == codes[i] || rc == -EOPNOTSUPP);
                if (!fault.fired)
                    break;
            }
        }
    }
    CHECK_EQ(close(source), 0);
    CHECK_EQ(close(here), 0);
}

/* A file system whose rungs fail one after another, and some only after they have copied a part. */
static int calls_of_range;

static ssize_t range_says_nothing(void *ctx, int in, off_t *in_offset, int out, off_t *out_offset, size_t size)
{
    (void)ctx, (void)in, (void)in_offset, (void)out, (void)out_offset, (void)size;
    return 0;
}

static ssize_t range_then_not(void *ctx, int in, off_t *in_offset, int out, off_t *out_offset, size_t size)
{
    if (calls_of_range++ > 0)
        return -EINVAL;
    return linux_sys->copy_file_range(ctx, in, in_offset, out, out_offset, size < 5000 ? size : 5000);
}

static ssize_t no_sendfile(void *ctx, int out, int in, off_t *in_offset, size_t size)
{
    (void)ctx, (void)out, (void)in, (void)in_offset, (void)size;
    return -EINVAL;
}

static off_t no_seek(void *ctx, int fd, off_t offset, int whence)
{
    return whence == SEEK_DATA || whence == SEEK_HOLE ? -EINVAL : linux_sys->lseek(ctx, fd, offset, whence);
}

static void ladder(void)
{
    int here = open("/var/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int source = make_source(here, &patterns[2]);
    struct lz_bytes_at from = {.fd = source, .size = SIZE};
    struct lz_sys tables[3] = {*linux_sys, *linux_sys, *linux_sys};
    static const char *const served[] = {"sendfile", "read-write", "copy_file_range"};
    tables[0].copy_file_range = range_says_nothing;
    tables[1].copy_file_range = range_then_not;
    tables[1].sendfile = no_sendfile;
    tables[2].lseek = no_seek;
    for (size_t i = 0; i < 3; i++) {
        int copy = new_file(here);
        struct lz_copyup_result result;
        CHECK_EQ(lz_copyup_data(&tables[i], &from, copy, LZ_RUNG_AUTO, &result, NULL), 0);
        CHECK_STR(lz_rung_name(result.rung), served[i]);
        check_copy(copy, content, SIZE);
        CHECK_EQ(close(copy), 0);
    }
    int copy = new_file(here);
    CHECK_EQ(lz_copyup_data(&tables[0], &from, copy, LZ_RUNG_RANGE, NULL, NULL), LZ_E_TRUNCATED);
    CHECK_EQ(close(copy), 0);
    CHECK_EQ(close(source), 0);
    CHECK_EQ(close(here), 0);
}

static void names(void)
{
    int here = open("/var/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC), copy = new_file(here);
    struct lz_bytes_at nothing = {.fd = copy};
    struct lz_copyup_result result = {.rung = LZ_RUNG_CLONE};
    struct lz_detail detail;
    CHECK_EQ(lz_copyup_data(linux_sys, &nothing, copy, LZ_RUNG_AUTO, &result, NULL), 0);
    CHECK_EQ(result.rung, LZ_RUNG_AUTO);
    CHECK_EQ(lz_copyup_data(linux_sys, &nothing, copy, LZ_RUNG_METACOPY, NULL, &detail), -EOPNOTSUPP);
    CHECK_STR(detail.text, "copy-up: metacopy copies no data");
    CHECK_EQ(lz_copyup_data(linux_sys, &nothing, copy, LZ_RUNG_BLOCKS, NULL, &detail), -EOPNOTSUPP);
    CHECK_STR(lz_rung_name(LZ_RUNG_AUTO), "auto");
    CHECK_STR(lz_rung_name(LZ_RUNG_COUNT), "unknown");
    CHECK_EQ(close(copy), 0);
    CHECK_EQ(close(here), 0);
}

int main(void)
{
    linux_sys = lz_sys_linux();
    RUN(names);
    RUN(file_systems);
    RUN(across);
    RUN(full);
    RUN(faults);
    RUN(ladder);
    return check_end();
}
